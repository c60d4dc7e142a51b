"""SAEs of our own: trained as BatchTopK on residual vectors, saved by sae-lens as JumpReLU (ours).

Activations are in raw residual units with unit decoder norms, as Gemma Scope's are, so that a
threshold of 1 means the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mosaic.errors import ConfigError

if TYPE_CHECKING:
    from sae_lens import SAE

BATCH = 1024
ACTIVE = 24
"""Latents kept per token in training; the L0 after training is near it."""


def train_sae(states: torch.Tensor, width: int, n_states: int, seed: int, folder: Path) -> None:
    """Train one SAE on `states` `[n_tokens, d_model]`, drawn `n_states` times, and save it.

    Raises ConfigError for fewer states than one batch.
    """
    if len(states) < BATCH:
        raise ConfigError(
            f"An SAE is trained on batches of {BATCH} residual vectors and the texts gave only "
            f"{len(states)}; give more texts or name an SAE that exists."
        )
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(states), generator=generator)
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield states[order[start : start + BATCH]]

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
            train_batch_size_samples=BATCH,
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
def measure(sae: SAE, states: torch.Tensor) -> dict[str, float]:
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


def load(folder: Path) -> SAE:
    """The SAE as any user of sae-lens loads it."""
    from sae_lens import SAE

    return SAE.load_from_disk(str(folder))


def write_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Figures of an SAE beside its weights, rounded to four digits."""
    rounded = {name: round(float(np.float64(value)), 4) for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
