"""The SAEs that a profile asks to be trained: made once per build folder, before a run needs them.

`<cache>/saes/<profile>/<model>/` holds `layer_<l>/width_<w>/` in sae-lens' format, a card, what
decided the numbers (`training.json`) and checksums of it all, against which every load is verified.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.errors import ConfigError
from mosaic.models.batches import cut_batches
from mosaic.models.language_model import LanguageModel, load_model, residual_stream
from mosaic.models.readers import Reader, text_reader
from mosaic.models.resolve import resolve
from mosaic.storage.manifest import write_manifest

if TYPE_CHECKING:
    from sae_lens import SAE

    from mosaic.config.profiles import ModelSpec, Profile, SAESpec
    from mosaic.config.workspace import Workspace


SAE_SEED = 0

MOST_TEXTS = 8000
"""Texts at most, drawn at random."""

HELD_OUT = 10
"""Of so many texts, one is kept back to measure the SAEs."""

STATES = 200_000
"""Residual vectors each SAE is shown, each text's several times."""


def train_missing(workspace: Workspace) -> None:
    """Train the SAEs of the profile's models that are not there, or were trained on other things.

    Raises AccessError (model or texts out of reach) and what loading them raises.
    """
    for model in workspace.profile.models:
        wanted = [sae for sae in model.saes if sae.train is not None]
        if wanted:
            folder = Path(str(wanted[0].folder)).parents[1]
            texts = untested_texts(workspace.profile)
            record = _record(model, wanted, workspace.profile, texts)
            if _read_record(folder) != record:
                _train(model, wanted, workspace.profile, texts, folder, record)


def untested_texts(profile: Profile) -> list[str]:
    """Texts of the profile's tasks that no split tests under any of its seeds, at most TEXTS.

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
    import torch

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


def _record(
    model: ModelSpec, wanted: Sequence[SAESpec], profile: Profile, texts: Sequence[str]
) -> dict[str, Any]:
    """Everything that decides the weights of the SAEs, but for versions and the device."""
    from mosaic.models.train_saes import ACTIVE, SAE_BATCH

    return {
        "model": resolve(model, profile).identity,
        "texts": len(texts),
        "texts_sha256": hashlib.sha256("\x1f".join(texts).encode()).hexdigest(),
        "saes": {sae.name: sae.train for sae in wanted},
        "seed": SAE_SEED,
        "states": STATES,
        "batch": SAE_BATCH,
        "active": ACTIVE,
        "max_length": profile.max_length,
        "bos": profile.bos,
    }


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _train(
    model: ModelSpec,
    wanted: Sequence[SAESpec],
    profile: Profile,
    texts: Sequence[str],
    folder: Path,
    record: dict[str, Any],
) -> None:
    from mosaic.models.train_saes import load_trained, measure_sae, train_sae, write_metrics

    print(f"{model.name}: training {len(wanted)} SAEs on {len(texts)} texts ...", flush=True)
    start = time.perf_counter()
    layers = sorted({sae.layer for sae in wanted})
    found = resolve(model, profile)
    language_model = load_model(found, max(layers) + 1)
    reader = text_reader(found, profile)
    parts = texts[len(texts) // HELD_OUT :], texts[: len(texts) // HELD_OUT]
    states, unseen = (
        residual_vectors(language_model, reader, part, layers, profile.token_budget)
        for part in parts
    )
    del language_model
    # A folder of this name is whole: it takes its place when everything is written.
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shown = {"texts": len(parts[0]), "held_out": len(parts[1]), "steps": STATES // SAE_BATCH}
    shown |= {"batch": SAE_BATCH, "active": ACTIVE}
    for sae in wanted:
        target = part / sae.name
        train_sae(states[sae.layer], int(sae.train or 0), STATES, SAE_SEED, target)
        write_metrics(target, shown | measure_sae(load_trained(target), unseen[sae.layer]))
    (part / "README.md").write_text(_card(model, wanted, part, record), encoding="utf-8")
    (part / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_manifest(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    minutes = (time.perf_counter() - start) / 60
    print(f"{model.name}: SAEs trained in {minutes:.1f} minutes", flush=True)


def _card(model: ModelSpec, wanted: Sequence[SAESpec], folder: Path, record: dict[str, Any]) -> str:
    lines = [
        f"# SAEs on the residual stream of {model.name}",
        "",
        f"BatchTopK with {record['active']} latents per token, saved as JumpReLU; trained by this "
        f"project from seed {record['seed']} on the residual vectors of {record['texts']} texts "
        f"of the profile's tasks, none of which is in a test part, one text in ten kept back for "
        f"the figures below. {record['states']:,} vectors were shown to each SAE. They are small "
        f"and shortly trained; they are no substitute for a published release.",
        "",
        "| SAE | latents | L0 | explained variance | dead |",
        "|---|---|---|---|---|",
    ]
    for sae in wanted:
        m = read_metrics(folder / sae.name)
        lines.append(
            f"| {sae.name} | {sae.train:,} | {m['l0']:.1f} | {m['explained_variance']:.3f} "
            f"| {m['dead_share']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def read_metrics(folder: Path) -> dict[str, float]:
    """What was measured of an SAE when it was trained."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


SAE_BATCH = 1024

ACTIVE = 24
"""Latents kept per token in training; the L0 after training is near it."""


def train_sae(states: torch.Tensor, width: int, n_states: int, seed: int, folder: Path) -> None:
    """Train one SAE on `states` `[n_tokens, d_model]`, drawn `n_states` times, and save it.

    Raises ConfigError for fewer states than one batch.
    """
    if len(states) < SAE_BATCH:
        raise ConfigError(
            f"An SAE is trained on batches of {SAE_BATCH} residual vectors and the texts gave only "
            f"{len(states)}; give more texts or name an SAE that exists."
        )
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(states), generator=generator)
            for start in range(0, len(order) - SAE_BATCH + 1, SAE_BATCH):
                yield states[order[start : start + SAE_BATCH]]

    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=states.shape[1],
            d_sae=width,
            k=ACTIVE,
            apply_b_dec_to_input=False,
            normalize_activations="expected_average_only_in",
            aux_loss_coefficient=1.0,
        )
    )
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=n_states,
            train_batch_size_samples=SAE_BATCH,
            lr=2e-3,
            lr_end=2e-4,
            lr_scheduler_name="cosineannealing",
            lr_warm_up_steps=50,
            dead_feature_window=100,
            n_batches_for_norm_estimate=20,
        ),
        sae=sae,
        data_provider=batches(),
    )
    trained = trainer.fit()
    trained.fold_W_dec_norm()
    trained.save_inference_model(str(folder))
    _halve(folder)


def _halve(folder: Path) -> None:
    """Keep the weights in float16; sae-lens copies them into float32 parameters at load."""
    from safetensors.torch import load_file, save_file

    path = folder / "sae_weights.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)


@torch.no_grad()
def measure_sae(sae: SAE, states: torch.Tensor) -> dict[str, float]:
    """L0, explained variance and dead share on held-out states `[n_tokens, d_model]`."""
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    active, error = 0.0, 0.0
    for batch in states.split(4096):
        latents = sae.encode(batch)
        fired |= (latents > 0).any(0)
        active += float((latents > 0).sum())
        error += float((sae.decode(latents) - batch).pow(2).sum())
    variance = float((states - states.mean(0)).pow(2).sum())
    return {
        "l0": active / len(states),
        "explained_variance": 1.0 - error / variance,
        "dead_share": float((~fired).float().mean()),
        "n_states": float(len(states)),
    }


def load_trained(folder: Path) -> SAE:
    """The SAE as any user of sae-lens loads it."""
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder))


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Figures of an SAE and of its training beside its weights, rounded to four digits."""
    rounded = {name: round(float(np.float64(value)), 4) for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
