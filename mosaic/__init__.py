"""MOSAIC companion: SAE features for classification, reproduced, checked and extended.

The rooms in reading order; each imports only from those before it:

    errors       what goes wrong, each a sentence
    storage      files whole or not at all, checksums, shards
    config       profiles, tasks, the workspace, every vocabulary
    scores       the tidy score table, intervals, the best of several
    data         documents and labels of a task, train/test splits
    models       language models, SAEs, what to ask them
    extraction   texts to latents and hidden states, pooled, in a store
    probes       choosing, fitting, testing and saving a probe
    sweep        cells of the experiment grid, scored once and kept
    experiments  transfer, behaviour, images, single latents, own data
    evidence     published scores, bundles, claims and their verdicts
    figures      every figure
    publish      notebooks, pages, the book
    cli          the command line; `colab` prepares Google Colab

A notebook of your own needs little more than the names below, each imported when first asked for.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

ASSETS = Path(__file__).resolve().parent / "assets"
"""What ships with the package: profiles, catalogues, claims, published scores, the mini world."""

_HOME = {
    "open_workspace": "mosaic.config.workspace",
    "load_task": "mosaic.data.load",
    "extract": "mosaic.extraction.extract",
    "Cell": "mosaic.sweep.cells",
    "score_cells": "mosaic.sweep.run",
    "to_scores": "mosaic.sweep.results",
    "fit_probe": "mosaic.experiments.own_data",
    "predict": "mosaic.experiments.own_data",
}

__all__ = ["ASSETS", *_HOME]


def __getattr__(name: str) -> Any:
    """A name of the face, from its room (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'mosaic' has no attribute {name!r}; it offers {__all__}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
