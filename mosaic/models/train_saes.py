"""The SAEs that a profile asks to be trained: made once per build folder, before a run needs them.

`<cache>/saes/<profile>/<model>/layer_<l>/width_<w>/` holds an SAE in sae-lens' format, what was
measured of it, what decided the numbers (`training.json`) and checksums of it all, against which
every load is verified; a card stands beside. Training a whole profile may take hours: what is
finished stays, and a killed run goes on at its last checkpoint.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mosaic.config.profiles import Profile, SAESpec
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError, IntegrityError
from mosaic.models.batches import cut_batches
from mosaic.models.checkpoint import Checkpoint
from mosaic.models.hub import fitting
from mosaic.models.language_model import LanguageModel, load_model, residual_stream
from mosaic.models.readers import Reader, text_reader
from mosaic.models.resolve import ResolvedModel, resolve
from mosaic.models.sae_metrics import (
    SAE_BATCH,
    load_trained,
    measure_sae,
    read_metrics,
    sae_card,
    write_metrics,
)
from mosaic.models.sae_texts import SAE_SEED, Texts, training_texts
from mosaic.storage.files import storage_errors
from mosaic.storage.manifest import is_whole, write_manifest
from mosaic.storage.sealed import read_sealed_or_set_aside, seal
from mosaic.storage.shards import Store

SILENT = 60
"""Steps without firing after which the auxiliary loss takes a latent up."""

RECIPE = "BatchTopK on centred, scaled states 1"
"""Part of every record: rename it when the way of training changes."""


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
            found = resolve(model, profile)
            texts = training_texts(profile, found)
            records = {sae.name: _record(found, sae, profile, texts) for sae in wanted}
            missing = [sae for sae in wanted if not _is_trained(home / sae.name, records[sae.name])]
            if missing:
                _train(found, missing, profile, texts, records)
                (home / "README.md").write_text(
                    sae_card(model, wanted, home, profile), encoding="utf-8"
                )
        for sae in wanted:
            explained = read_metrics(home / sae.name)["explained_variance"]
            if explained < profile.sae_floor:
                raise IntegrityError(
                    f"The SAE {sae.name} of {model.name} explains {explained:.3f} of the variance "
                    f"and the profile's `sae_floor` is {profile.sae_floor}; train it on more "
                    f"(`sae_tokens`, `sae_steps`), or lower `sae_floor` to use it all the same."
                )


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
        fits = fitting(model.text.config.name_or_path, "forward pass")
        with fits, torch.no_grad(), residual_stream(model, layers) as outputs:
            model.text(**arguments)
            for layer in layers:
                kept[layer].append(outputs[layer][:, : keep.shape[1]][keep].float().cpu())
    return {layer: torch.cat(parts) for layer, parts in kept.items()}


def _record(model: ResolvedModel, sae: SAESpec, profile: Profile, texts: Texts) -> dict[str, Any]:
    """Everything that decides the weights of an SAE, but for versions and the device."""
    return {
        "recipe": RECIPE,
        "model": model.identity,
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


def _is_trained(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether an SAE of this record is in the folder; one that is damaged is set aside."""
    return is_whole(folder) and read_sealed_or_set_aside(folder / "training.json") == record


def _train(
    model: ResolvedModel,
    missing: Sequence[SAESpec],
    profile: Profile,
    texts: Texts,
    records: Mapping[str, Mapping[str, Any]],
) -> None:
    name = model.spec.name
    print(f"{name}: {len(missing)} SAEs, {len(texts.training)} texts ...", flush=True)
    layers = sorted({sae.layer for sae in missing})
    network = load_model(model, max(layers) + 1)
    reader = text_reader(model, profile)
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
        facts: dict[str, Any] = {"model_name": model.spec.source}
        facts |= {"hook_name": f"blocks.{sae.layer}.hook_resid_post"}
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
        held_out = sum(map(len, texts.held_out.values()))
        shown = {"texts": len(texts.training), "held_out": held_out, "steps": profile.sae_steps}
        shown |= {"batch": SAE_BATCH, "active": profile.sae_active}
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
            f"{name} {sae.name}: explained variance {metrics['explained_variance']:.3f}, "
            f"L0 {metrics['l0']:.1f}, {minutes:.1f} minutes",
            flush=True,
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
