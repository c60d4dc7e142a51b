"""Train on one language, test on another: transfer matrix and sampling rates (paper §4.4).

The settings of the paper's Figure 1 are not public; ours are parameters. `sweep.run` scores the
cells: all that is learnt is learnt on the training part of the training language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import load_catalogue
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.probes.scaling import Scaler
from mosaic.scores.choose import first_best
from mosaic.sweep.cells import Cell, recipe_cells
from mosaic.sweep.compare import compare_cells
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells
from mosaic.sweep.source import open_source


def languages_of(task: str, profile: Profile) -> list[str]:
    """Keys of the profile's tasks of that name, one per language; ConfigError below two."""
    catalogue = load_catalogue(profile.catalogue)
    found = [key for key in profile.tasks if catalogue[key].name == task]
    if len(found) < 2:
        raise ConfigError(
            f"Profile {profile.name!r} has the languages {found} of task {task!r}; transfer needs "
            f"two or more. Name another task, or add languages to the profile's tasks."
        )
    return found


def transfer_features(
    profile: Profile,
    task: str,
    model: ModelSpec | None,
    k: int,
    seed: int = 0,
    depth: str = "middle",
) -> list[Cell]:
    """Recipe with all and top-k latents, hidden states (last, mean), last-token latents, TF-IDF."""
    floor = Cell(task, "tfidf", seed=seed)
    if model is None:
        return [floor]
    latents, *hidden = recipe_cells(profile, task, model, seed, depth)
    last = replace(latents, pooling="last", threshold=None)
    return [latents, replace(latents, k=k), *hidden, last, floor]


def choose_depth(
    workspace: Workspace, task: str, model: ModelSpec, seeds: Iterable[int] = (0,)
) -> str:
    """The depth whose recipe is best by inner cross-validation on training parts of `task`."""
    means = {}
    for depth in model.layers:
        cells = [transfer_features(workspace.profile, task, model, 1, s, depth)[0] for s in seeds]
        means[depth] = np.mean([r.row["cv_accuracy"] for r in score_cells(cells, workspace)])
    return list(means)[first_best(means.values())]


def transfer_cells(
    profile: Profile,
    tasks: Sequence[str],
    model: ModelSpec | None = None,
    k: int = 32,
    seeds: Iterable[int] = (0,),
    fractions: Iterable[float] = (1.0,),
    origins: Sequence[str] | None = None,
    depth: str = "middle",
) -> list[Cell]:
    """The native cell of every language and the cells trained on each of `origins`.

    `tasks` are the keys of one task in its languages; `origins` defaults to all of them. Last-
    token latents and TF-IDF, there to compare with, have no cells at fractions below 1, and TF-IDF
    none of languages not among `origins`.
    """
    origins = tasks if origins is None else origins
    found = []
    for task, seed, fraction in product(tasks, seeds, fractions):
        for cell in transfer_features(profile, task, model, k, seed, depth):
            beside = cell.feature == "tfidf" or (cell.feature == "sae" and cell.pooling == "last")
            if beside and fraction < 1:
                continue
            for origin in dict.fromkeys([task, *origins]):
                if cell.feature == "tfidf" and origin not in origins:
                    continue
                others = tuple(key for key in tasks if key != origin) if origin != task else ()
                found.append(
                    replace(cell, train_task=origin, train_fraction=fraction, kept_out=others)
                )
    return found


def several_sources(
    profile: Profile,
    tasks: Sequence[str],
    model: ModelSpec,
    origin: str,
    seeds: Iterable[int] = (0,),
    depth: str = "middle",
) -> list[Cell]:
    """The recipe and the mean hidden state in each language but `origin`, learnt from all others
    together: with about as many texts as one of them has, and with all of them (ours)."""
    found = []
    for task, seed in product(tasks, seeds):
        first, *more = (key for key in tasks if key != task)
        if task == origin:
            continue
        latents, _, mean = recipe_cells(profile, task, model, seed, depth)
        for cell, share in product((latents, mean), dict.fromkeys((1 / (1 + len(more)), 1.0))):
            learnt = replace(cell, train_task=first, also_train=tuple(more), train_fraction=share)
            found.append(replace(learnt, kept_out=tuple(tasks)))
    return found


def source_pairs(cells: Iterable[Cell], origin: str) -> list[tuple[Cell, Cell]]:
    """(cell learnt from several languages, the same learnt from all of `origin`), for seed 0."""
    return [
        (cell, replace(cell, train_task=origin, also_train=(), train_fraction=1.0, kept_out=kept))
        for cell in cells
        if cell.seed == 0
        for kept in [tuple(key for key in cell.kept_out if key != origin)]
    ]


def compare_transfer(
    pairs: Sequence[tuple[Cell, Cell]], results: Sequence[ScoredCell]
) -> pd.DataFrame:
    """Differences in macro-F1, first minus second cell, on the same documents and seeds.

    Columns: trained_on, train_fraction, k (all of the first cell), beside those of `compare_cells`;
    p-values are adjusted for the number of pairs given.
    """
    table = compare_cells(pairs, results)
    table.insert(1, "trained_on", ["+".join(first.train_tasks) for first, _ in pairs])
    table.insert(2, "train_fraction", [first.train_fraction for first, _ in pairs])
    table.insert(3, "k", pd.array([first.k for first, _ in pairs], dtype="Int64"))
    return table


def native_pairs(cells: Iterable[Cell], origin: str) -> list[tuple[Cell, Cell]]:
    """(native cell, cell trained on `origin`) of every other language, for seed 0."""
    return [
        (replace(cell, train_task=cell.task, kept_out=()), cell)
        for cell in cells
        if _exported(cell, origin) and cell.feature != "tfidf"
    ]


def floor_pairs(cells: Iterable[Cell], origin: str) -> list[tuple[Cell, Cell]]:
    """(cell trained on all of `origin`, TF-IDF trained alike) of every other language, seed 0."""
    return [
        (cell, Cell(cell.task, "tfidf", train_task=origin, kept_out=cell.kept_out))
        for cell in cells
        if _exported(cell, origin) and cell.feature != "tfidf" and cell.train_fraction == 1
    ]


def selected_latents(
    workspace: Workspace,
    tasks: Sequence[str],
    model: ModelSpec,
    k: int,
    seed: int = 0,
    depth: str = "middle",
) -> pd.DataFrame:
    """Which latents top-k selection keeps in each language's training part.

    One row per language and latent that any language keeps: language, latent, selected, gap (mean
    among documents of the last class minus mean among the rest, in the probe's scaled units),
    n_active (latents to choose from) and n_languages (how many keep it).
    """
    parts = []
    for key in tasks:
        cell = transfer_features(workspace.profile, key, model, k, seed, depth)[1]
        source = open_source(workspace, cell)
        train = source.split(seed).train
        X, y = source.matrix(cell)[train], source.data.labels[train]
        scaler = Scaler.fit(X, y, cell.scaling)
        scaled, last = scaler.transform(X), y == y.max()
        gap = np.asarray(scaled[last].mean(axis=0) - scaled[~last].mean(axis=0)).ravel()
        kept = Scaler.fit(X, y, cell.scaling, k).columns
        parts.append(
            pd.DataFrame(
                {
                    "language": source.data.task.language,
                    "latent": scaler.columns,
                    "gap": gap,
                    "selected": np.isin(scaler.columns, kept),
                    "n_active": len(scaler.columns),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table["n_languages"] = table.groupby("latent")["selected"].transform("sum")
    return table[table["n_languages"] > 0].reset_index(drop=True)


def _exported(cell: Cell, origin: str) -> bool:
    return cell.train_task == origin != cell.task and cell.seed == 0
