"""Bundles: score tables computed elsewhere, with what is needed to make them again.

A bundle is a folder with `scores.csv` (the tidy schema), `manifest.json` (command, versions,
device, seeds, models, checksums) and a few figures; `latents.json` may show a few harmless texts.
It holds no other data and no weights; `bundle_rules` says what is refused.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mosaic.config.choices import HIDDEN_JOINED
from mosaic.config.tasks import kind_of, shipped_tasks
from mosaic.errors import ConfigError, IntegrityError
from mosaic.evidence.bundle_rules import (
    BUNDLE_MANIFEST,
    SCHEMA_VERSION,
    SCORES,
    Manifest,
    check_content,
    check_files,
    check_table,
    read_latents,
    read_manifest,
)
from mosaic.scores.latent_view import LATENTS_FILE, LatentView
from mosaic.scores.names import run_name
from mosaic.scores.table import ADDED, CELL, SCORE_COLUMNS, concat_scores, read_scores, write_scores
from mosaic.storage.files import sha256, storage_errors
from mosaic.storage.versions import made_with

REPLACED = ".replaced"
"""Ending of a bundle's name while a new one takes its place."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle that was found whole."""

    folder: Path
    manifest: Manifest
    table: pd.DataFrame
    """Its scores, with `source` set to `bundle`."""


def write_bundle(
    folder: Path,
    table: pd.DataFrame,
    title: str,
    command: str,
    device: str = "cpu",
    models: Iterable[Mapping[str, Any]] = (),
    figures: Iterable[Path] = (),
) -> Path:
    """Write a score table, figures and their manifest; returns the folder.

    What was written is read back before it takes the place of an older bundle: nothing is left that
    `open_bundle` would refuse, and at every moment the old or the new one is there whole. Raises
    ConfigError for a folder with other files, and IntegrityError.
    """
    folder, given = folder.resolve(), folder
    old = folder.with_name(folder.name + REPLACED)
    new = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    with storage_errors(folder):
        if old.is_dir() and not folder.exists():
            old.rename(folder)  # a crash came between the two renames below
        if folder.is_dir() and any(folder.iterdir()):
            try:
                check_files(folder)
                (folder / BUNDLE_MANIFEST).stat()
            except (IntegrityError, FileNotFoundError) as error:
                raise ConfigError(
                    f"{folder} is not empty and holds no bundle; name a new folder."
                ) from error
        new.mkdir(parents=True)
        try:
            files = [write_scores(table, new / SCORES)]
            files += [Path(shutil.copy(figure, new)) for figure in figures]
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "title": title,
                "command": command,
                "profile": str(table["profile"].iloc[0]),
                "seeds": sorted(int(s) for s in table["seed"].dropna().unique()),
                **made_with(),
                "device": device,
                "models": [dict(model) for model in models],
                "files": {path.name: sha256(path) for path in files},
            }
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            (new / BUNDLE_MANIFEST).write_text(text, encoding="utf-8")
            open_bundle(new)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return given


def open_bundle(folder: Path) -> Bundle:
    """A bundle, read once and checked.

    Raises IntegrityError when a file is missing, damaged, changed since it was written, or not what
    a bundle may hold.
    """
    manifest = read_manifest(folder)
    check_content(folder, manifest)
    old = manifest.schema_version == 2
    table = read_scores(folder / SCORES, complete=_from_version_2 if old else None)
    check_table(table, manifest, str(folder / SCORES))
    return Bundle(folder, manifest, table.assign(source="bundle").astype({"source": "string"}))


def read_bundle(folder: Path) -> pd.DataFrame:
    """The scores of a bundle; see `open_bundle`."""
    return open_bundle(folder).table


def bundle_folders(root: Path) -> list[Path]:
    """Every folder below `root`: each must be a bundle. An absent root has none.

    What a crash left of replacing a bundle is passed over.
    """
    found = {p.name for p in root.iterdir() if p.is_dir()} if root.is_dir() else set()
    kept = (n for n in found if n[0] != "." and n.removesuffix(REPLACED) not in found - {n})
    return [root / name for name in sorted(kept)]


def read_bundles(root: Path) -> pd.DataFrame:
    """All bundles below a folder as one table; an absent folder gives an empty table."""
    return concat_scores(read_bundle(folder) for folder in bundle_folders(root))


def shipped_runs(root: Path) -> dict[str, list[Bundle]]:
    """The parts of each run that has SAE cells, by what readers call it.

    Bundles of different profiles that `RUNS` gives one name are parts of one run: the first is the
    run, later ones say what it cannot, for each part trains its SAEs anew. A second bundle of a
    profile is another run, told apart by its folder (ours).
    """
    runs: dict[str, list[Bundle]] = {}
    for bundle in map(open_bundle, bundle_folders(root)):
        if not (bundle.table["feature"] == "sae").any():
            continue
        name, profile = run_name(bundle.manifest.profile), bundle.manifest.profile
        if profile in {part.manifest.profile for part in runs.get(name, ())}:
            name = f"{name} ({bundle.folder.name})"
        runs.setdefault(name, []).append(bundle)
    return runs


def scored_twice(run: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    """The rows of `part` with `there`, what `run` gives the same cell (missing where it has none):
    the same model, setting, split and seed, whatever the profile and the folder of the SAE."""
    shared = [name for name in CELL if name not in ("profile", "sae_release")]
    there = run.drop_duplicates(shared).assign(there=run["macro_f1"])
    return part.merge(there[[*shared, "there"]], "left", on=shared)


def bundles_with_latents(root: Path) -> list[pd.DataFrame]:
    """Every row of the first part of each run that has SAE cells; see `shipped_runs`."""
    return [parts[0].table for parts in shipped_runs(root).values()]


def further_parts(root: Path) -> list[pd.DataFrame]:
    """Every row of each later part of a run; see `shipped_runs`."""
    return [part.table for parts in shipped_runs(root).values() for part in parts[1:]]


def bundle_latents(root: Path) -> dict[str, LatentView]:
    """Title of each bundle that shows latents, and what it shows."""
    bundles = [open_bundle(folder) for folder in bundle_folders(root)]
    with_latents = [bundle for bundle in bundles if LATENTS_FILE in bundle.manifest.files]
    return {bundle.manifest.title: read_latents(bundle.folder) for bundle in with_latents}


def bundle_grids(
    root: Path, feature: str | None = None, language: str | None = None, kind: str = "text"
) -> list[pd.DataFrame]:
    """The grid of each run that has SAE cells, of its first part; see `bundle_grid`."""
    runs = shipped_runs(root).values()
    grids = (bundle_grid(parts[0], feature, language, kind) for parts in runs)
    return [grid for grid in grids if grid is not None]


def bundle_grid(
    bundle: Bundle, feature: str | None = None, language: str | None = None, kind: str = "text"
) -> pd.DataFrame | None:
    """The grid of a bundle, as `sweep.cells` spells it; None where it has no SAE cells.

    That is every nested cell of the first seed, without the sweeps of thresholds and of top-k
    selection, without what chapter 05 adds (shares of the training part, other training languages,
    latents of the last token), without the audit and without controls of the SAEs. Base rates and
    models that chapters derive from the bundle's are left out of texts. `feature` keeps cells of
    one feature, `language` tasks in that language and those that name none, `kind` tasks of one of
    `KINDS`.
    """
    table = bundle.table
    grid = _usual(table) & (table["kind"] == kind) & (table["seed"] == table["seed"].min())
    grid &= (table["selection"] != "topk").fillna(True)
    grid &= ~((table["feature"] == "sae") & table["pooling"].eq("last").fillna(False))
    grid &= table["feature"] != "control"
    grid &= ~((table["feature"] == "hidden") & table["pooling"].isin(["max", HIDDEN_JOINED]))
    grid &= table["threshold"].isna() | (table["threshold"] == 1)
    if kind == "text":
        models = [model.name for model in bundle.manifest.models]
        grid &= table["model"].isna() | table["model"].isin(models)
        grid &= table["cv_accuracy"].notna()
    grid &= table["train_language"].fillna("") == table["language"].fillna("")
    if language is not None:
        grid &= table["language"].fillna(language) == language
    if not (table.loc[grid, "feature"] == "sae").any():
        return None
    if feature is not None:
        grid &= table["feature"] == feature
    return table[grid].reset_index(drop=True)


def bundle_transfers(root: Path, *features: str, whole: bool = True) -> list[pd.DataFrame]:
    """Cells of `features` tested in other languages than the one learnt from, one table a bundle.

    All seeds, at the whole training part or every share, each with its native counterpart. A bundle
    without such cells gives no table.
    """
    settings = ["task", "feature", "model", "layer", "width", "pooling", "top_n", "threshold"]
    settings += ["selection", "k"]
    found = []
    for folder in bundle_folders(root):
        table = read_bundle(folder)
        usual = _usual(table, whole)
        table = table[usual & table["seed"].notna() & table["feature"].isin(features)]
        table = table[~table["train_language"].str.contains("+", regex=False).fillna(False)]
        away = table[(table["train_language"] != table["language"]).fillna(False)]
        if len(away):
            found.append(table.merge(away[settings].drop_duplicates(), on=settings))
    return found


def _usual(table: pd.DataFrame, whole: bool = True) -> pd.Series:
    """Nested cells, scaled and pooled as this book does by default; of the whole training part."""
    share = (table["train_fraction"].fillna(1) == 1) | (not whole)
    default = table["scaling"].fillna("auto").eq("auto") & table["bos"].fillna("drop").eq("drop")
    return (table["protocol"] == "nested") & share & default


def _from_version_2(table: pd.DataFrame) -> pd.DataFrame:
    """A table of version 2 with `kind` and `toy`, by what its other columns tell of them.

    An image task has the name of a shipped one, or the vision tower beside it; toys were known by
    the profile `mini`. A table that lacks columns is left for validation to refuse.
    """
    lacking = ("kind", "toy", *ADDED)
    if tuple(table.columns) != tuple(c for c in SCORE_COLUMNS if c not in lacking):
        return table
    images = {task.name for task in shipped_tasks() if task.kind == "image"}
    images |= set(table.loc[table["feature"] == "vision_tower", "task"].dropna())
    kinds = [
        kind_of(str(task), behaviour=pd.notna(label_model), image=task in images)
        for task, label_model in zip(table["task"], table["label_model"], strict=True)
    ]
    found = table.assign(kind=kinds, toy=table["profile"].eq("mini").fillna(False))
    return found.reindex(columns=list(SCORE_COLUMNS))


def bundle_origin(manifest: Manifest) -> dict[str, str]:
    """Where a bundle came from: title, command, seeds, versions and machine as texts."""
    return {
        "title": manifest.title,
        "command": manifest.command,
        "seeds": ", ".join(map(str, manifest.seeds)),
        "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "machine": f"{manifest.machine}, {manifest.device}",
    }


def bundle_origins(root: Path) -> list[str]:
    """One line per bundle: what `bundle_origin` says of it."""
    origins = (bundle_origin(read_manifest(folder)) for folder in bundle_folders(root))
    line = "{title}: `{command}`; seeds {seeds}; {versions}; {machine}."
    return [line.format(**origin) for origin in origins]
