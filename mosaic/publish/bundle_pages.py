"""Markdown of a bundle for the book: every number on its page is read from the bundle.

Texts of a bundle stand in code spans, which `evidence.bundle_rules` keeps them from leaving.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mosaic.evidence.bundle_rules import Manifest
from mosaic.evidence.bundles import (
    Bundle,
    bundle_folders,
    bundle_grid,
    bundle_origin,
    open_bundle,
    read_bundle,
    scored_twice,
    shipped_runs,
)
from mosaic.evidence.claims import Finding, judge_claims, load_claims, without_toys
from mosaic.evidence.comparisons import wins
from mosaic.evidence.contrasts import verdicts_twice
from mosaic.publish.scorecard import effect_words, verdicts_in_words
from mosaic.scores.choose import select_by_cv
from mosaic.scores.markdown import stacked_table
from mosaic.scores.names import COMPARED_WITH, pooling_name, series_of

SAE_METRICS = ("l0", "explained_variance", "dead_share")

TRAINING = {
    "n_states": "The figures above are measured on {n_states} tokens of texts kept back.",
    "texts": "The SAEs were trained on {texts} other texts.",
    "held_out": "There are {held_out} texts kept back.",
    "steps": "Training took {steps} steps.",
    "batch": "A step had {batch} residual vectors.",
    "active": "On a token {active} latents are active in training.",
}
"""What each recorded number says."""


def pages_of_bundles(root: Path) -> dict[str, str]:
    """What pages say of every bundle, by `<folder>_<what>`. Verdicts on a run that is shipped in
    parts stand with its first."""
    parts_of = {parts[0].folder: parts for parts in shipped_runs(root).values()}
    pages: dict[str, str] = {}
    for folder in bundle_folders(root):
        further = parts_of.get(folder, ())[1:]
        said = bundle_pages(open_bundle(folder), *(part.table for part in further))
        pages |= {f"{folder.name}_{name}": text for name, text in said.items()}
        for part in further:
            again = again_in_words(scored_twice(read_bundle(folder), part.table))
            pages[f"{part.folder.name}_again"] = again
    return pages


def again_in_words(table: pd.DataFrame) -> str:
    """How far the cells that a run has already came out equal, by what is read; `table` is of
    `scored_twice`. "" where there are none."""
    twice = table.dropna(subset="there")
    if twice.empty:
        return ""
    apart, said = twice["macro_f1"] - twice["there"], []
    for read, differ in apart.groupby(twice.apply(series_of, axis=1), sort=False):
        part = f"of {read} {int((differ == 0).sum())} of {len(differ)}"
        if differ.any():
            part += f" (others by up to {differ.abs().max():.3f}, on average {differ.mean():+.3f})"
        said.append(part)
    return (
        f"Cells scored in both parts that came out equal to the last digit: {'; '.join(said)}. "
        f"Each part is judged within itself.\n"
    )


def bundle_pages(bundle: Bundle, *further: pd.DataFrame) -> dict[str, str]:
    """The parts of a bundle's page by name; a part about SAEs only where it has SAE cells.

    `further` are tables of the run's later parts."""
    parts = {"provenance": origin_table(bundle.manifest)}
    if (grid := bundle_grid(bundle)) is not None:
        parts |= {
            "saes": sae_table(bundle.manifest),
            "languages": languages_table(bundle.manifest),
            "training": training_in_words(bundle.manifest),
            "verdicts": verdicts_in_words(_judged(bundle.table, *further)),
            "claims": verdicts_table(bundle.table, *further),
            "summary": wins_in_words(grid),
            "chosen": chosen_table(grid),
            "seeds": seeds_table(bundle.table),
        }
    return parts


def origin_table(manifest: Manifest) -> str:
    """Command, seeds, versions, machine, and where each model came from."""
    origin = bundle_origin(manifest)
    rows = [(what, text if what == "seeds" else _code(text)) for what, text in origin.items()]
    for model in manifest.models:
        rows.append(("model", f"{_code(model.name)} from {_code(model.source)}"))
        rows += [(f"sha256 of {_code(name)}", _code(sha)) for name, sha in model.sha256.items()]
    rows += [(f"sha256 of {_code(name)}", _code(sha)) for name, sha in manifest.files.items()]
    return stacked_table(("", ""), rows)


def sae_table(manifest: Manifest) -> str:
    """What was measured of each SAE that was trained for the run, on texts kept back."""
    rows = []
    for name, facts in _trained(manifest):
        l0, explained, dead = (facts[metric] for metric in SAE_METRICS)
        measured = (f"{l0:.1f}", f"{explained:.3f}", f"{dead:.1%}")
        rows.append((_code(name), f"{int(facts['latents']):,}", *measured))
    columns = ("SAE", "latents", "L0", "explained variance", "dead latents")
    return stacked_table(columns, rows, "mosaic-flow")


def languages_table(manifest: Manifest) -> str:
    """Explained variance of each SAE by language of the texts kept back, also without the
    dimensions that dominate; "" where no language is recorded."""
    rows, languages = [], []
    for name, facts in _trained(manifest):
        languages = [key.split()[1] for key in facts if key.startswith("explained_variance ")]
        found = [
            f"{facts[f'explained_variance {x}']:.2f} ({facts[f'explained_variance_rest {x}']:.2f})"
            for x in languages
        ]
        rows.append((_code(name), *found))
    columns = ("SAE", *map(_code, languages))
    return stacked_table(columns, rows, "mosaic-flow") if languages else ""


def _judged(*tables: pd.DataFrame) -> list[Finding]:
    return judge_claims(load_claims(), *map(without_toys, tables))


def verdicts_table(*tables: pd.DataFrame) -> str:
    """Effect, interval, data sets on the claim's side and verdict of each claim a bundle can test.

    Of the data sets also how many lie on either side beyond the noise of their own test documents:
    what few data sets cannot say of others, they may still say of themselves.
    """
    rows, found = [], _judged(*tables)
    for finding, verdict in zip(found, verdicts_twice(found), strict=True):
        if finding.effect is not None:
            bound, (above, below) = f"{finding.claim.beyond:g}", finding.beyond_noise
            noise = f"beyond noise {above} above, {below} below"
            tasks = f"{finding.n_above} of {finding.n_tasks}; {noise}"
            rows.append((finding.claim.says, effect_words(finding), bound, tasks, verdict))
    return stacked_table(("claim", "effect (95%)", "holds above", "data sets", "verdict"), rows)


def training_in_words(manifest: Manifest) -> str:
    """How the SAEs of a run were trained and measured, as sentences; "" without such.

    Only what the bundle records is said.
    """
    found: dict[str, set[int]] = {}
    for _, facts in _trained(manifest):
        for name, number in facts.items():
            found.setdefault(name, set()).add(int(number))
    said = {name: " or ".join(f"{n:,}" for n in sorted(ns)) for name, ns in found.items()}
    known = [text.format(**said) for name, text in TRAINING.items() if name in said]
    return " ".join(known) + "\n" if known else ""


def _trained(manifest: Manifest) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and numbers of each SAE that was measured; of several models with the model's name."""
    for model in manifest.models:
        of = f"{model.name} " if len(manifest.models) > 1 else ""
        for name, facts in model.saes.items():
            numbers = {what: n for what, n in facts.items() if not isinstance(n, str)}
            if {"latents", *SAE_METRICS} <= set(numbers):
                yield f"{of}{name}", numbers


def wins_in_words(grid: pd.DataFrame) -> str:
    """How the chosen SAE cell stands to each baseline, as a sentence."""
    chosen = select_by_cv(grid)
    counts = {name: wins(chosen, "SAE latents", series) for series, name in COMPARED_WITH.items()}
    said = [f"against {name} {won}" for name, won in counts.items() if won.of]
    return f"SAE latents by task and language: {'; '.join(said)}.\n" if said else ""


def chosen_table(grid: pd.DataFrame) -> str:
    """Per task and feature, the cell that inner cross-validation chose."""
    rows, several = [], grid["model"].nunique() > 1
    for _, row in select_by_cv(grid).iterrows():
        rows.append((*_task(row), _feature(row), _layer(row, several), _score(row)))
    head = ("task", "language", "texts", "what is read", "layer", "macro-F1 (95% interval)")
    return _folded("Chosen by inner cross-validation", head, rows)


def seeds_table(table: pd.DataFrame) -> str:
    """Cells averaged over seeds, as chapter 04 leaves them: the recipe and its baselines."""
    means = table[table["seed"].isna() & table["repeat"].notna()]
    several = means["model"].nunique() > 1
    rows = [
        (*_task(row), _feature(row), _layer(row, several), str(row["repeat"]), _score(row))
        for _, row in means.iterrows()
    ]
    head = ("task", "language", "texts", "what is read", "layer", "seeds", "macro-F1 (95%)")
    return _folded("The paper's recipe, mean over seeds", head, rows)


def _folded(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is too long to stand open; texts are those trained on / tested on."""
    table = stacked_table(head, rows, "mosaic-flow")
    return f":::{{dropdown}} {title} ({len(rows)} rows; texts: training / test)\n{table}:::\n"


def _code(text: str) -> str:
    return f"`{text}`"


def _task(row: pd.Series) -> tuple[str, str, str]:
    language = "" if pd.isna(row["language"]) else _code(row["language"])
    return _code(row["task"]), language, f"{row['n_train']:,} / {row['n_test']:,}"


def _feature(row: pd.Series) -> str:
    if row["feature"] == "sae":
        return f"SAE {_code(row['width'])}, {pooling_name(row)}".replace(">", "&gt;")
    return series_of(row)


def _layer(row: pd.Series, several: bool) -> str:
    if pd.isna(row["layer"]):
        return ""
    return f"{row['layer']} of {_code(row['model'])}" if several else str(row["layer"])


def _score(row: pd.Series) -> str:
    if pd.isna(row["macro_f1_low"]):
        return f"{row['macro_f1']:.3f}"
    return f"{row['macro_f1']:.3f} ({row['macro_f1_low']:.3f} to {row['macro_f1_high']:.3f})"
