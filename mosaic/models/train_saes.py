"""The SAEs that a profile asks to be trained: made once per build folder, before a run needs them.

`<cache>/saes/<profile>/<model>/layer_<l>/width_<w>/` holds an SAE in sae-lens' format, what was
measured of it, what decided the numbers (`training.json`) and checksums of it all, against which
every load is verified; a card stands beside. Training a whole profile may take hours: what is
finished stays, and a killed run goes on at its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.errors import MALFORMED, ConfigError, IntegrityError
from mosaic.models.checkpoint import Checkpoint, set_aside
from mosaic.models.language_model import LanguageModel, load_model, residual_stream
from mosaic.models.readers import Reader, cut_batches, text_reader
from mosaic.models.resolve import (
    choose_device,
    choose_dtype,
    fetch_model,
    load_config,
    load_tokenizer,
    model_identity,
)
from mosaic.storage.files import storage_errors
from mosaic.storage.manifest import MANIFEST, verify_folder, write_manifest
from mosaic.storage.sealed import seal, unseal
from mosaic.storage.shards import Store

if TYPE_CHECKING:
    from sae_lens import SAE

    from mosaic.config.profiles import ModelSpec, Profile, SAESpec
    from mosaic.config.workspace import Workspace

SAE_SEED = 0

MOST_TEXTS = 8000
"""Texts of the profile's tasks at most, drawn at random; general texts are counted by tokens."""

HELD_OUT = 10
"""Of so many texts, one is kept back to measure the SAEs."""

SAE_BATCH = 1024
"""Residual vectors in a step of training."""

SILENT = 60
"""Steps without firing after which the auxiliary loss takes a latent up."""

DOMINANT = 10.0
"""A dimension dominates whose standard deviation is so many times the median one: it alone would
decide the explained variance."""

LOW = 0.6
"""Explained variance below which the card calls an SAE poor."""

RECIPE = "BatchTopK on centred, scaled states 1"
"""Part of every record: rename it when the way of training changes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Texts:
    """Texts to train on, and texts kept back by the language that is measured apart."""

    training: list[str]
    held_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over all texts in their order."""
        parts = [self.training, *self.held_out.values()]
        return hashlib.sha256("\x1e".join("\x1f".join(p) for p in parts).encode()).hexdigest()


def train_missing(workspace: Workspace) -> None:
    """Train the SAEs of the profile's models that are not there, or were trained on other things.

    Two processes train once: the second waits. Raises AccessError (model or texts out of reach),
    IntegrityError for an SAE that explains less than the profile's `sae_floor`, and what loading
    models and texts raises.
    """
    profile = workspace.profile
    for model in profile.models:
        wanted = [sae for sae in model.saes if sae.train is not None]
        if not wanted:
            continue
        home = Path(str(wanted[0].folder)).parents[1]
        with Store(home.parent).lock([model.name]), storage_errors(home):
            texts = training_texts(profile, fetch_model(model))
            records = {sae.name: _record(model, sae, profile, texts) for sae in wanted}
            missing = [sae for sae in wanted if not _is_whole(home / sae.name, records[sae.name])]
            if missing:
                _train(model, missing, profile, texts, records)
                (home / "README.md").write_text(
                    _card(model, wanted, home, profile), encoding="utf-8"
                )
        for sae in wanted:
            explained = read_metrics(home / sae.name)["explained_variance"]
            if explained < profile.sae_floor:
                raise IntegrityError(
                    f"The SAE {sae.name} of {model.name} explains {explained:.3f} of the variance "
                    f"and the profile's `sae_floor` is {profile.sae_floor}; train it on more "
                    f"(`sae_tokens`, `sae_steps`), or lower `sae_floor` to use it all the same."
                )


def training_texts(profile: Profile, source: Path) -> Texts:
    """Texts of the profile's `sae_texts`, each set giving as many tokens; without such, texts of
    its tasks that are never tested."""
    if not profile.sae_texts:
        texts = untested_texts(profile)
        return Texts(texts[len(texts) // HELD_OUT :], {"": texts[: len(texts) // HELD_OUT]})
    if shared := sorted(set(profile.sae_texts) & set(profile.tasks)):
        raise ConfigError(
            f"{shared[0]!r} is a task and in `sae_texts`; SAEs must not be trained on what is "
            f"tested. Take it out of one."
        )
    tokenizer = load_tokenizer(source)
    share = profile.sae_tokens // len(profile.sae_texts)
    training: list[str] = []
    held_out: dict[str, list[str]] = {}
    sets = replace(profile, catalogue=profile.sae_catalogue or profile.catalogue, max_docs=None)
    whole = replace(profile, max_docs=None)
    tested = {text for key in profile.tasks for text in load_task(key, whole).inputs}
    for key in profile.sae_texts:
        data = load_task(key, sets)
        fresh = [text for text in dict.fromkeys(data.inputs) if text and text not in tested]
        order = np.random.default_rng(SAE_SEED).permutation(len(fresh))
        taken, n_tokens = [], 0
        for at in range(0, len(order), 64):
            some = [fresh[i] for i in order[at : at + 64]]
            rows = tokenizer(some, truncation=True, max_length=profile.max_length)["input_ids"]
            for text, ids in zip(some, rows, strict=True):
                if n_tokens < share:
                    taken.append(text)
                    n_tokens += len(ids)
            if n_tokens >= share:
                break
        kept = max(1, len(taken) // HELD_OUT)
        held_out.setdefault(data.task.language or "", []).extend(taken[:kept])
        training.extend(taken[kept:])
    order = np.random.default_rng(SAE_SEED).permutation(len(training))
    return Texts([training[i] for i in order], held_out)


def untested_texts(profile: Profile) -> list[str]:
    """Texts of the profile's tasks that no split tests under any of its seeds, at most MOST_TEXTS.

    What an SAE is trained on is thereby in no test part, whichever cell is scored later; equal
    texts count as one.
    """
    texts: dict[str, None] = {}
    tested = {""}
    for key in profile.tasks:
        data = load_task(key, profile)
        texts |= dict.fromkeys(data.inputs)
        for seed in profile.seeds:
            split = make_split(data, seed, n_train=profile.n_train, n_test=profile.n_test)
            tested |= {data.inputs[row] for row in split.test}
    kept = [text for text in texts if text not in tested]
    order = np.random.default_rng(SAE_SEED).permutation(len(kept))[:MOST_TEXTS]
    return [kept[i] for i in order]


def residual_vectors(
    model: LanguageModel, reader: Reader, texts: Sequence[str], layers: Sequence[int], budget: int
) -> dict[int, torch.Tensor]:
    """Outputs of the blocks at the tokens that are pooled: layer to `[n_tokens, d_model]` on the
    CPU, float32. `budget` is the number of padded tokens in one forward pass."""
    documents = reader.read(list(texts))
    kept: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for rows in cut_batches(documents, np.arange(len(documents.lengths)), budget):
        batch = documents.collate(rows)
        keep = torch.from_numpy(batch.keep).to(model.device)
        arguments = {k: torch.from_numpy(v).to(model.device) for k, v in batch.arguments.items()}
        with torch.no_grad(), residual_stream(model, layers) as outputs:
            model.text(**arguments)
            for layer in layers:
                kept[layer].append(outputs[layer][keep].float().cpu())
    return {layer: torch.cat(parts) for layer, parts in kept.items()}


def _record(model: ModelSpec, sae: SAESpec, profile: Profile, texts: Texts) -> dict[str, Any]:
    """Everything that decides the weights of an SAE, but for versions and the device."""
    return {
        "recipe": RECIPE,
        "model": model_identity(fetch_model(model)),
        "texts": len(texts.training),
        "texts_sha256": texts.fingerprint,
        "layer": sae.layer,
        "latents": sae.train,
        "seed": SAE_SEED,
        "steps": profile.sae_steps,
        "batch": SAE_BATCH,
        "active": profile.sae_active,
        "max_length": profile.max_length,
        "bos": profile.bos,
    }


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether an SAE of this record is in the folder; one that is damaged is set aside."""
    path = folder / "training.json"
    if not (folder / MANIFEST).is_file():
        return False
    try:
        verify_folder(folder)
        found = unseal(path.read_text(encoding="utf-8"))
    except (IntegrityError, OSError, *MALFORMED) as error:
        aside = set_aside(folder)
        log.warning("%s is damaged (%s): kept as %s and trained anew", folder, error, aside.name)
        return False
    return found == record


def _train(
    model: ModelSpec,
    missing: Sequence[SAESpec],
    profile: Profile,
    texts: Texts,
    records: Mapping[str, Mapping[str, Any]],
) -> None:
    print(f"{model.name}: {len(missing)} SAEs, {len(texts.training)} texts ...", flush=True)
    layers = sorted({sae.layer for sae in missing})
    source, device = fetch_model(model), choose_device()
    network = load_model(source, max(layers) + 1, device, choose_dtype(profile.dtype, device))
    limit = getattr(load_config(source).get_text_config(), "max_position_embeddings", None)
    reader = text_reader(load_tokenizer(source), profile, limit)
    budget = profile.token_budget
    states = residual_vectors(network, reader, texts.training, layers, budget)
    unseen = {
        language: residual_vectors(network, reader, some, layers, budget)
        for language, some in texts.held_out.items()
    }
    del network
    for sae in missing:
        start = time.perf_counter()
        target, record = Path(str(sae.folder)), records[sae.name]
        checkpoint = Checkpoint(target.with_name(f"{target.name}.checkpoint"), record)
        part = checkpoint.folder / "sae"
        shutil.rmtree(part, ignore_errors=True)
        facts = {"model_name": model.source, "hook_name": f"blocks.{sae.layer}.hook_resid_post"}
        facts |= {"context_size": profile.max_length, "texts": list(profile.sae_texts)}
        train_sae(
            states[sae.layer],
            int(sae.train or 0),
            profile.sae_steps * SAE_BATCH,
            SAE_SEED,
            part,
            active=profile.sae_active,
            facts=facts,
            checkpoint=checkpoint,
        )
        trained = load_trained(part)
        apart = {language: found[sae.layer] for language, found in unseen.items()}
        shown = {"texts": len(texts.training), "steps": profile.sae_steps, "batch": SAE_BATCH}
        shown |= {"active": profile.sae_active}
        write_metrics(part, shown | measure_sae(trained, torch.cat(list(apart.values()))))
        languages = {language: measure_sae(trained, found) for language, found in apart.items()}
        (part / "languages.json").write_text(json.dumps(languages, indent=1), encoding="utf-8")
        (part / "training.json").write_bytes(seal(record))
        write_manifest(part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)  # a folder of this name is whole
        checkpoint.remove()
        metrics, minutes = read_metrics(target), (time.perf_counter() - start) / 60
        print(
            f"{model.name} {sae.name}: explained variance {metrics['explained_variance']:.3f}, "
            f"L0 {metrics['l0']:.1f}, {minutes:.1f} minutes",
            flush=True,
        )


def _card(model: ModelSpec, wanted: Sequence[SAESpec], home: Path, profile: Profile) -> str:
    texts = (
        ", ".join(profile.sae_texts)
        if profile.sae_texts
        else ("the profile's tasks, none of them in a test part")
    )
    lines = [
        f"# SAEs on the residual stream of {model.name}",
        "",
        f"BatchTopK with {profile.sae_active} latents per token, saved as JumpReLU; trained by "
        f"this project from seed {SAE_SEED} on the residual vectors of texts of: {texts}. One text "
        f"in {HELD_OUT} is kept back for the figures below. {profile.sae_steps} steps of "
        f"{SAE_BATCH:,} vectors. They are small and shortly trained; they are no substitute for a "
        f'published release. "Rest" leaves out dimensions that dominate: those with more than '
        f"{DOMINANT:.0f} times the median standard deviation.",
        "",
        "| SAE | latents | L0 | explained variance | rest | dead | |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {sae.name: read_metrics(home / sae.name) for sae in wanted}
    for sae in wanted:
        m = rows[sae.name]
        poor = f"poor: below {LOW}" if m["explained_variance"] < LOW else ""
        lines.append(f"| {sae.name} | {sae.train:,} | {_figures(m)} | {poor} |")
    lines += ["", "By language of the texts kept back:", ""]
    lines += [
        "| SAE | language | L0 | explained variance | rest | dead |",
        "|---|---|---|---|---|---|",
    ]
    for sae in wanted:
        apart = json.loads((home / sae.name / "languages.json").read_text(encoding="utf-8"))
        lines += [f"| {sae.name} | {name} | {_figures(m)} |" for name, m in apart.items() if name]
    return "\n".join(lines) + "\n"


def _figures(m: Mapping[str, float]) -> str:
    return (
        f"{m['l0']:.1f} | {m['explained_variance']:.3f} | {m['explained_variance_rest']:.3f} "
        f"| {m['dead_share']:.1%}"
    )


def train_sae(
    states: torch.Tensor,
    width: int,
    n_states: int,
    seed: int,
    folder: Path,
    active: int = 24,
    facts: Mapping[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train one SAE on `states` `[n_tokens, d_model]`, drawn `n_states` times, and save it.

    A few dimensions of a residual stream dominate its length, and its mean is far from 0: states
    are centred and divided by their overall deviation, and the weights folded back, so that the SAE
    reads the stream as it is and its activations are in the stream's units. `active` latents fire
    per token on average. Raises ConfigError for fewer states than one batch.
    """
    if len(states) < SAE_BATCH:
        raise ConfigError(
            f"An SAE is trained on batches of {SAE_BATCH} residual vectors and the texts gave only "
            f"{len(states)}; give more texts or name an SAE that exists."
        )
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    mean = states.mean(0)
    deviation = float((states - mean).pow(2).mean().sqrt()) or 1.0
    torch.manual_seed(seed)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=states.shape[1],
            d_sae=width,
            k=active,
            apply_b_dec_to_input=False,
            aux_loss_coefficient=1.0,
            metadata=SAEMetadata(**(facts or {})),
        )
    )
    n_steps = -(-n_states // SAE_BATCH)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=n_states,
            train_batch_size_samples=SAE_BATCH,
            lr=2e-3,
            lr_end=2e-4,
            lr_scheduler_name="cosineannealing",
            lr_warm_up_steps=50,
            dead_feature_window=SILENT,
        ),
        sae=sae,
        data_provider=iter(()),  # steps are driven here, so that they can be resumed
    )
    per_epoch = len(states) // SAE_BATCH
    done = checkpoint.restore(trainer) if checkpoint else 0
    order, drawn = torch.empty(0), -1
    for step in range(done, n_steps):
        epoch, at = divmod(step, per_epoch)
        if epoch != drawn:
            draw = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order, drawn = torch.randperm(len(states), generator=draw), epoch
        batch = states[order[at * SAE_BATCH : (at + 1) * SAE_BATCH]]
        trainer.step((batch - mean) / deviation)
        trainer.n_training_steps += 1
        if checkpoint:
            checkpoint.keep(trainer)
    sae.fold_W_dec_norm()
    sae.save_inference_model(str(folder))
    _fold_back(folder, mean, deviation)


def _fold_back(folder: Path, mean: torch.Tensor, deviation: float) -> None:
    """Weights for states as they are: pre-activations times `deviation`, decoder rows of unit
    length. Matrices are kept in float16, which sae-lens copies into float32 parameters."""
    from safetensors.torch import load_file, save_file

    path = folder / "sae_weights.safetensors"
    weights = load_file(path)
    encoder = weights["W_enc"].half()
    save_file(
        {
            "W_enc": encoder,
            "W_dec": weights["W_dec"].half(),
            "b_enc": deviation * weights["b_enc"] - mean @ encoder.float(),
            "b_dec": deviation * weights["b_dec"] + mean,
            "threshold": deviation * weights["threshold"],
        },
        path,
    )


@torch.no_grad()
def measure_sae(sae: SAE, states: torch.Tensor) -> dict[str, float]:
    """L0, explained variance (also without dimensions that dominate) and dead share on held-out
    states `[n_tokens, d_model]`."""
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    active, error = 0.0, torch.zeros(states.shape[1], dtype=torch.float64)
    for batch in states.split(4096):
        latents = sae.encode(batch)
        fired |= (latents > 0).any(0)
        active += float((latents > 0).sum())
        error += (sae.decode(latents) - batch).double().pow(2).sum(0)
    variance = (states - states.mean(0)).double().pow(2).sum(0)
    plain = variance <= DOMINANT**2 * variance.median()
    return {
        "l0": active / len(states),
        "explained_variance": float(1 - error.sum() / variance.sum()),
        "explained_variance_rest": float(1 - error[plain].sum() / variance[plain].sum()),
        "n_dominant": float((~plain).sum()),
        "dead_share": float((~fired).float().mean()),
        "n_states": float(len(states)),
    }


def load_trained(folder: Path) -> SAE:
    """The SAE as any user of sae-lens loads it."""
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder))


def read_metrics(folder: Path) -> dict[str, float]:
    """What was measured of an SAE when it was trained."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Figures of an SAE beside its weights, rounded to four digits."""
    rounded = {name: round(float(np.float64(value)), 4) for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
