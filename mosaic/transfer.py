"""Train on one language, test on another: transfer matrix and sampling rates (paper §4.4).

The settings of the paper's Figure 1 are not public; ours are parameters. All that is learnt - which
latents are kept, their scale, C, the vocabulary of TF-IDF - is learnt on the training part of the
training language. One fit is tested on every language that asks for it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import delayed
from tqdm import tqdm

from mosaic import baselines, comparison, grids, sweep
from mosaic.engines import parallel
from mosaic.errors import ConfigError
from mosaic.grids import Spec
from mosaic.probe import Outcome
from mosaic.profiles import ModelSpec, Profile
from mosaic.results import Result, read_result, write_result
from mosaic.scaling import Scaler
from mosaic.selection import Cell, fit_select
from mosaic.splits import Split, make_split
from mosaic.sweep import Source
from mosaic.tasks import TaskData, load_catalogue, load_task
from mosaic.training_part import thin, without_items
from mosaic.workspace import Workspace

# A change of this module may change numbers, so cells made by other code are not reused.
_CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Transfer(Spec):
    """A cell that is tested on `task` and trained on the training part of `train_task`."""

    train_task: str = ""
    train_fraction: float = 1.0
    kept_out: tuple[str, ...] = ()
    """Tasks whose test items are never trained on, so that no text meets its own translation."""


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


def feature_sets(
    profile: Profile,
    task: str,
    model: ModelSpec | None,
    k: int,
    seed: int = 0,
    depth: str = "middle",
) -> list[Spec]:
    """Recipe with all and top-k latents, last-token latents, hidden states (last, mean), TF-IDF."""
    floor = Spec(task, "tfidf", seed=seed)
    if model is None:
        return [floor]
    layer = model.layers[depth]
    latents, *hidden = (replace(s, layer=layer) for s in grids.recipe(profile, task, model, seed))
    last = replace(latents, pooling="last", threshold=None)
    return [latents, replace(latents, k=k), last, *hidden, floor]


def choose_depth(
    workspace: Workspace, task: str, model: ModelSpec, seeds: Iterable[int] = (0,)
) -> str:
    """The depth whose recipe is best by inner cross-validation on training parts of `task`."""
    means = {}
    for depth in model.layers:
        specs = [feature_sets(workspace.profile, task, model, 1, s, depth)[0] for s in seeds]
        means[depth] = np.mean([r.row["cv_accuracy"] for r in sweep.score(specs, workspace)])
    return max(means, key=means.__getitem__)


def cells(
    profile: Profile,
    tasks: Sequence[str],
    model: ModelSpec | None = None,
    k: int = 32,
    seeds: Iterable[int] = (0,),
    fractions: Iterable[float] = (1.0,),
    trained_on: Sequence[str] | None = None,
    depth: str = "middle",
) -> list[Transfer]:
    """The native cell of every language and the cells trained on each of `trained_on`.

    `tasks` are the keys of one task in its languages; `trained_on` defaults to all of them. TF-IDF
    is a floor: it has no cells at fractions below 1, and none of languages not in `trained_on`.
    """
    origins = tasks if trained_on is None else trained_on
    found = []
    for task, seed, fraction in product(tasks, seeds, fractions):
        for spec in feature_sets(profile, task, model, k, seed, depth):
            shared = {f.name: getattr(spec, f.name) for f in fields(Spec)}
            for origin in dict.fromkeys([task, *origins]):
                if spec.feature == "tfidf" and (fraction < 1 or origin not in origins):
                    continue
                others = tuple(key for key in tasks if key != origin) if origin != task else ()
                found.append(Transfer(**shared, **_trained(origin, fraction, others)))
    return found


def score(cells: Sequence[Transfer], workspace: Workspace, n_jobs: int = -1) -> list[Result]:
    """Score every cell, in order; those scored before come from disk.

    A native cell at the whole training part is the sweep's own cell of the same name, file and all,
    so the chapters share it. Raises what loading, extraction and probes raise.
    """
    wanted = list(dict.fromkeys(cells))
    keys = dict.fromkeys(key for c in wanted for key in (c.task, c.train_task, *c.kept_out))
    data = {key: load_task(key, workspace.profile) for key in keys}
    results: dict[Transfer, Result] = {}
    with tqdm(total=len(wanted), desc="transfer", unit="cell", disable=None) as bar:
        for model in dict.fromkeys(cell.model for cell in wanted):
            members = [cell for cell in wanted if cell.model == model]
            for cell, result in _Languages(workspace, data, model).score(members, n_jobs):
                results[cell] = result
                bar.update()
    return [results[cell] for cell in cells]


def paired(pairs: Sequence[tuple[Transfer, Transfer]], results: Sequence[Result]) -> pd.DataFrame:
    """Differences in macro-F1, first minus second cell, on the same documents and seeds.

    Columns: task, trained_on, train_fraction, k (all of the first cell), then those of
    `comparison.compare`; p-values are adjusted for the number of pairs given.
    """
    table = comparison.compare(pairs, results)
    table.insert(1, "trained_on", [first.train_task for first, _ in pairs])
    table.insert(2, "train_fraction", [first.train_fraction for first, _ in pairs])
    table.insert(3, "k", pd.array([first.k for first, _ in pairs], dtype="Int64"))
    return table


def native_pairs(cells: Iterable[Transfer], origin: str) -> list[tuple[Transfer, Transfer]]:
    """(native cell, cell trained on `origin`) of every other language, for seed 0."""
    return [
        (replace(cell, train_task=cell.task, kept_out=()), cell)
        for cell in cells
        if _exported(cell, origin) and cell.feature != "tfidf"
    ]


def floor_pairs(cells: Iterable[Transfer], origin: str) -> list[tuple[Transfer, Transfer]]:
    """(cell trained on all of `origin`, TF-IDF trained alike) of every other language, seed 0."""
    return [
        (cell, Transfer(cell.task, "tfidf", **_trained(origin, 1.0, cell.kept_out)))
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
        spec = feature_sets(workspace.profile, key, model, k, seed, depth)[1]
        languages = _Languages(workspace, {key: load_task(key, workspace.profile)}, model.name)
        source, split = languages.sources[key], languages.split(key, seed)
        source.prepare([spec])
        X, y = source.matrix(spec)[split.train], source.data.labels[split.train]
        scaler = Scaler.fit(X, y, spec.scaling)
        scaled, last = scaler.transform(X), y == y.max()
        gap = np.asarray(scaled[last].mean(axis=0) - scaled[~last].mean(axis=0)).ravel()
        kept = Scaler.fit(X, y, spec.scaling, k).columns
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


@dataclass(eq=False)
class _Languages:
    """The languages of a task and, for one model, their features."""

    workspace: Workspace
    data: dict[str, TaskData]
    model: str | None
    sources: dict[str, Source] = field(init=False)
    _splits: dict[tuple[str, int], Split] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sources = {k: Source(self.workspace, d, self.model) for k, d in self.data.items()}

    def split(self, task: str, seed: int) -> Split:
        """The split of chapter 04: its test part is the one every cell of that language uses."""
        if (task, seed) not in self._splits:
            profile = self.workspace.profile
            self._splits[task, seed] = make_split(
                self.data[task], seed, "nested", profile.n_train, profile.n_test
            )
        return self._splits[task, seed]

    def split_of(self, cell: Transfer) -> Split:
        """Training rows of one language (positions there) and test rows of another."""
        if cell.protocol != "nested":
            raise ConfigError(f"{cell} asks for a protocol without transfer; use 'nested'.")
        trained, tested = self.data[cell.train_task], self.data[cell.task]
        if trained.label_names != tested.label_names:
            raise ConfigError(
                f"{cell.train_task!r} has the labels {trained.label_names} and {cell.task!r} has "
                f"{tested.label_names}; a probe can only move between equal labels."
            )
        home = thin(self.split(cell.train_task, cell.seed), trained.labels, cell.train_fraction)
        others = [(self.data[key], self.split(key, cell.seed)) for key in cell.kept_out]
        away = self.split(cell.task, cell.seed)
        return replace(without_items(home, trained, others), test=away.test, test_ids=away.test_ids)

    def path(self, cell: Transfer, split: Split) -> Path:
        """Where the scored cell is kept: texts and features of both languages, rows and code."""
        if _native(cell):
            return self.sources[cell.task].path(_plain(cell))
        trained = self.sources[cell.train_task].path(cell).stem
        return self.sources[cell.task].path(cell, trained, split.fingerprint, _CODE)

    def score(self, cells: Sequence[Transfer], n_jobs: int) -> Iterator[tuple[Transfer, Result]]:
        """Cells and their results, in no particular order; every matrix is read once."""
        splits = {cell: self.split_of(cell) for cell in cells}
        paths, missing = {}, []
        for cell in cells:
            paths[cell] = self.path(cell, splits[cell])
            found = read_result(paths[cell], cell)
            if found is not None:
                yield cell, found
            else:
                missing.append(cell)
        for key in dict.fromkeys(key for c in missing for key in (c.train_task, c.task)):
            self.sources[key].prepare(missing)
        for design in dict.fromkeys(_design(cell) for cell in missing):
            members = [cell for cell in missing if _design(cell) == design]
            keys = dict.fromkeys(key for c in members for key in (c.task, c.train_task))
            inputs = {key: self.inputs(key, members[0]) for key in keys}
            fits: dict[tuple[Any, ...], list[Transfer]] = {}
            for cell in members:
                # Native and exported cells share a fit where no item had to be left out.
                rows = splits[cell].train.tobytes()
                fits.setdefault((cell.train_task, cell.k, cell.seed, rows), []).append(cell)
            done = parallel(self.workspace.engine, n_jobs)(
                delayed(_fit)(tests[0], *self.parts(tests, inputs, splits))
                for tests in fits.values()
            )
            for tests, outcomes in zip(fits.values(), done, strict=True):
                for cell, outcome in zip(tests, outcomes, strict=True):
                    result = self.result(cell, outcome)
                    write_result(paths[cell], result)
                    yield cell, result

    def inputs(self, key: str, cell: Transfer) -> Cell:
        """What the probe reads of one language, all documents: a matrix, or texts."""
        if cell.feature == "tfidf":
            return Cell(self.data[key].inputs)
        return Cell(self.sources[key].matrix(cell), scaling=cell.scaling)

    def parts(
        self, cells: list[Transfer], inputs: dict[str, Cell], splits: dict[Transfer, Split]
    ) -> tuple[Cell, np.ndarray, list[tuple[Any, np.ndarray, Split]]]:
        """Training documents and labels; features, labels and split of every test part."""
        key, train = cells[0].train_task, splits[cells[0]].train
        tests = []
        for cell in cells:
            test = splits[cell].test
            X = inputs[cell.task].take(test).X
            tests.append((X, self.data[cell.task].labels[test], splits[cell]))
        return inputs[key].take(train), self.data[key].labels[train], tests

    def result(self, cell: Transfer, outcome: Outcome) -> Result:
        """A scored cell whose row says where its training documents come from."""
        result = sweep.to_result(cell, self.sources[cell.task], outcome)
        result.row["train_language"] = self.data[cell.train_task].task.language
        result.row["train_fraction"] = cell.train_fraction
        return result


def _fit(
    cell: Transfer, train: Cell, y: np.ndarray, tests: list[tuple[Any, np.ndarray, Split]]
) -> list[Outcome]:
    """Train once, then say something about every test part."""
    start = time.perf_counter()
    cells = baselines.tfidf_cells(train.X) if cell.feature == "tfidf" else replace(train, k=cell.k)
    groups = tests[0][2].train_groups
    probe = fit_select(cells, y, seed=cell.seed, groups=groups, probe=cell.probe, n_jobs=1)
    seconds = time.perf_counter() - start
    outcomes = []
    for X, y_true, split in tests:
        scores = probe.scores(X)
        y_pred = probe.classes[scores.argmax(axis=1)]
        outcomes.append(Outcome(split, probe, y_true, y_pred, scores, len(probe.columns), seconds))
    return outcomes


def _plain(cell: Transfer) -> Spec:
    """The cell without what says where it was trained."""
    return Spec(**{f.name: getattr(cell, f.name) for f in fields(Spec)})


def _trained(origin: str, fraction: float, kept_out: tuple[str, ...]) -> dict[str, Any]:
    return {"train_task": origin, "train_fraction": fraction, "kept_out": kept_out}


def _native(cell: Transfer) -> bool:
    """Whether the sweep scores this very cell: its own language, the whole training part."""
    return cell.task == cell.train_task and cell.train_fraction == 1


def _exported(cell: Transfer, origin: str) -> bool:
    return cell.train_task == origin != cell.task and cell.seed == 0


def _design(cell: Transfer) -> Transfer:
    """What cells share that read the same feature matrices."""
    return replace(cell, task="", k=None, seed=0, **_trained("", 1.0, ()))
