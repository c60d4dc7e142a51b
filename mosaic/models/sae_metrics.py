"""What a trained SAE is worth: its figures on texts that were kept back, and the card of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.models.sae_texts import HELD_OUT, SAE_SEED
from mosaic.scores.markdown import markdown_table

if TYPE_CHECKING:
    from sae_lens import SAE

SAE_BATCH = 1024
"""Residual vectors in a step of training."""

DOMINANT = 10.0
"""A dimension dominates whose standard deviation is so many times the median one: it alone would
decide the explained variance."""

LOW = 0.6
"""Explained variance below which the card calls an SAE poor."""


@torch.no_grad()
def measure_sae(sae: SAE, states: torch.Tensor) -> dict[str, float]:
    """L0, explained variance (also without dimensions that dominate) and dead share on held-out
    states `[n_tokens, d_model]`."""
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    active, error = 0.0, torch.zeros(states.shape[1], dtype=torch.float64)
    for batch in states.split(min(4096, max(1, 2**26 // sae.cfg.d_sae))):  # 256 MB of latents
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


def metrics_by_language(folder: Path) -> dict[str, dict[str, float]]:
    """The same by language of the texts kept back; none where their language is not known."""
    found = json.loads((folder / "languages.json").read_text(encoding="utf-8"))
    return {
        language: {name: round(value, 4) for name, value in measured.items()}
        for language, measured in found.items()
        if language
    }


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Figures of an SAE beside its weights, rounded to four digits."""
    rounded = {name: round(float(np.float64(value)), 4) for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def sae_card(model: ModelSpec, wanted: Sequence[SAESpec], home: Path, profile: Profile) -> str:
    """What was made and what was measured, as Markdown."""
    tasks = "the profile's tasks, none of them in a test part"
    poor = f", poor: below {LOW}"
    head = ("SAE", "texts", "L0", "explained variance", "without dominant", "dead")
    rows = []
    for sae in wanted:
        folder = home / sae.name
        measured = {"all": read_metrics(folder), **metrics_by_language(folder)}
        for name, m in measured.items():
            explained = m["explained_variance"]
            explains = f"{explained:.3f}{poor if explained < LOW else ''}"
            rest, dead = f"{m['explained_variance_rest']:.3f}", f"{m['dead_share']:.1%}"
            rows.append((sae.name, name, f"{m['l0']:.1f}", explains, rest, dead))
    return f"""# SAEs on the residual stream of {model.name}

BatchTopK with {profile.sae_active} latents per token, saved as JumpReLU; trained by this project
from seed {SAE_SEED} in {profile.sae_steps} steps of {SAE_BATCH:,} residual vectors, on texts of:
{", ".join(profile.sae_texts) or tasks}. One text in {HELD_OUT} was kept back for the
figures below. They are small and shortly trained; they are no substitute for a published release.
A dimension dominates whose standard deviation is over {DOMINANT:.0f} times the median one.

{markdown_table(head, rows)}"""
