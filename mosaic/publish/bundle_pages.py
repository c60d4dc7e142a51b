"""Markdown of a bundle for the book: every number on its page is read from the bundle.

Texts of a bundle stand in code spans, which `evidence.bundle_rules` keeps them from leaving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mosaic.evidence.bundle_rules import read_manifest
from mosaic.evidence.bundles import bundle_grids, read_bundle
from mosaic.evidence.comparisons import wins
from mosaic.publish.pages import markdown_table
from mosaic.scores.choose import select_by_cv
from mosaic.scores.names import pooling_name

COMPARED_WITH = {
    "hidden state, mean": "the mean hidden state",
    "hidden state, last token": "the last token's hidden state",
    "TF-IDF": "TF-IDF",
}

SAE_METRICS = ("l0", "explained_variance", "dead_share")


def bundle_pages(folder: Path) -> dict[str, str]:
    """The parts of a bundle's page by name; a part about SAEs only where it has SAE cells."""
    table, manifest = read_bundle(folder), read_manifest(folder)
    parts = {"provenance": origin_table(manifest)}
    for grid in bundle_grids(folder.parent, only=folder.name):
        parts |= {
            "saes": sae_table(manifest["models"]),
            "training": training_in_words(manifest["models"]),
            "summary": wins_in_words(grid),
            "chosen": chosen_table(grid),
            "grid": grid_table(grid),
            "seeds": seeds_table(table),
        }
    return parts


def origin_table(manifest: dict[str, Any]) -> str:
    """Command, seeds, versions, machine, and where each model came from."""
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    rows = [
        ("title", _code(manifest["title"])),
        ("command", _code(manifest["command"])),
        ("seeds", ", ".join(str(seed) for seed in manifest["seeds"])),
        ("versions", _code(versions)),
        ("machine", _code(f"{manifest['machine']}, {manifest['device']}")),
    ]
    for model in manifest["models"]:
        rows.append(("model", f"{_code(model['name'])} from {_code(model['source'])}"))
        for name, digest in model["sha256"].items():
            rows.append((f"sha256 of {_code(name)}", _code(str(digest))))
    rows += [(f"sha256 of {_code(n)}", _code(str(d))) for n, d in manifest["files"].items()]
    return markdown_table(("", ""), rows)


def sae_table(models: list[dict[str, Any]]) -> str:
    """What was measured of each SAE that was trained for the run, on texts kept back."""
    rows = []
    for model in models:
        for name, facts in model["saes"].items():
            if not all(isinstance(facts.get(metric), float) for metric in SAE_METRICS):
                continue
            l0, explained, dead = (facts[metric] for metric in SAE_METRICS)
            latents = f"{int(facts['latents']):,}"
            rows.append((_code(name), latents, f"{l0:.1f}", f"{explained:.3f}", f"{dead:.1%}"))
    return markdown_table(("SAE", "latents", "L0", "explained variance", "dead latents"), rows)


def training_in_words(models: list[dict[str, Any]]) -> str:
    """On how much the SAEs of a run were trained and measured, as its manifest says; "" without."""
    facts = [f for m in models for f in m["saes"].values() if "n_states" in f]
    said = []
    if facts:
        tokens = " or ".join(f"{n:,}" for n in sorted({int(f["n_states"]) for f in facts}))
        said.append(f"The figures above are measured on {tokens} tokens that were kept back.")
    shown = [(f["texts"], f["steps"], f["batch"], f["active"]) for f in facts if "steps" in f]
    for texts, steps, batch, active in sorted({tuple(map(int, row)) for row in shown}):
        said.append(
            f"SAEs were trained on {texts:,} other texts, in {steps:,} steps of {batch:,} residual "
            f"vectors, with {active} latents active per token."
        )
    return " ".join(said) + "\n" if said else ""


def wins_in_words(grid: pd.DataFrame) -> str:
    """How the chosen SAE cell stands to each baseline, as a sentence."""
    chosen = select_by_cv(grid)
    counts = {name: wins(chosen, "SAE latents", series) for series, name in COMPARED_WITH.items()}
    said = [f"against {name} {won}" for name, won in counts.items() if won.of]
    return f"SAE latents by task: {'; '.join(said)}.\n" if said else ""


def chosen_table(grid: pd.DataFrame) -> str:
    """Per task and feature, the cell that inner cross-validation chose."""
    rows = []
    for _, row in select_by_cv(grid).iterrows():
        rows.append((*_task(row), _feature(row), _layer(row), _score(row)))
    head = ("task", "language", "n train / test", "feature", "layer", "macro-F1 (95% interval)")
    return markdown_table(head, rows)


def grid_table(grid: pd.DataFrame) -> str:
    """macro-F1 of every cell: a row per task and layer, a column per feature."""
    layered = grid[grid["layer"].notna()]
    several = layered["model"].nunique() > 1
    columns = list(dict.fromkeys(_feature(row) for _, row in layered.iterrows()))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for _, row in layered.iterrows():
        key = (*_task(row)[:2], *([_code(row["model"])] if several else []), str(row["layer"]))
        cells.setdefault(key, {})[_feature(row)] = f"{row['macro_f1']:.3f}"
    rows = [(*key, *(found.get(name, "") for name in columns)) for key, found in cells.items()]
    head = ("task", "language", *(["model"] if several else []), "layer", *columns)
    return markdown_table(head, rows)


def seeds_table(table: pd.DataFrame) -> str:
    """Cells averaged over seeds, as chapter 04 leaves them: the recipe and its baselines."""
    means = table[table["seed"].isna() & table["repeat"].notna()]
    rows = [
        (*_task(row), _feature(row), _layer(row), str(row["repeat"]), _score(row))
        for _, row in means.iterrows()
    ]
    head = ("task", "language", "n train / test", "feature", "layer", "seeds", "macro-F1 (95%)")
    return markdown_table(head, rows)


def _code(text: str) -> str:
    return f"`{text}`"


def _task(row: pd.Series) -> tuple[str, str, str]:
    language = "" if pd.isna(row["language"]) else _code(row["language"])
    return _code(row["task"]), language, f"{row['n_train']:,} / {row['n_test']:,}"


def _feature(row: pd.Series) -> str:
    if row["feature"] == "tfidf":
        return "TF-IDF"
    if row["feature"] == "hidden":
        return f"hidden, {row['pooling']}"
    if row["feature"] == "sae":
        return f"SAE {_code(row['width'])} {pooling_name(row)}".replace(">", "&gt;")
    return str(row["feature"])


def _layer(row: pd.Series) -> str:
    return "" if pd.isna(row["layer"]) else str(row["layer"])


def _score(row: pd.Series) -> str:
    if pd.isna(row["macro_f1_low"]):
        return f"{row['macro_f1']:.3f}"
    return f"{row['macro_f1']:.3f} ({row['macro_f1_low']:.3f} to {row['macro_f1_high']:.3f})"
