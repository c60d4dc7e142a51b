"""The languages of a task under one model: rows, fits and scored cells of a transfer (paper §4.4).

All that is learnt - which latents are kept, their scale, C, the vocabulary of TF-IDF - is learnt on
the training part of the training language. One fit is tested on every language that asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import delayed

from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData
from mosaic.data.splits import Split, make_split, thin, without_items
from mosaic.errors import ConfigError
from mosaic.extraction.engines import parallel
from mosaic.probes.baselines import tfidf_candidates
from mosaic.probes.evaluate import Outcome
from mosaic.probes.select import Candidate, fit_select
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell, read_scored, write_scored
from mosaic.sweep.run import to_scored
from mosaic.sweep.source import Source, extract_for


@dataclass(frozen=True)
class TransferCell(Cell):
    """A cell that is tested on `task` and trained on the training part of `train_task`."""

    train_task: str = ""
    train_fraction: float = 1.0
    kept_out: tuple[str, ...] = ()
    """Tasks whose test items are never trained on, so that no text meets its own translation."""


@dataclass(eq=False)
class Languages:
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

    def split_of(self, cell: TransferCell) -> Split:
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

    def path(self, cell: TransferCell, split: Split) -> Path:
        """Where the scored cell is kept: texts and features of both languages, rows and code."""
        if _native(cell):
            return self.sources[cell.task].path(_plain(cell))
        trained = self.sources[cell.train_task].path(cell).stem
        return self.sources[cell.task].path(cell, trained, split.fingerprint)

    def score(
        self, cells: Sequence[TransferCell], n_jobs: int
    ) -> Iterator[tuple[TransferCell, ScoredCell]]:
        """Cells and their results, in no particular order; every matrix is read once."""
        splits = {cell: self.split_of(cell) for cell in cells}
        paths, missing = {}, []
        for cell in cells:
            paths[cell] = self.path(cell, splits[cell])
            found = read_scored(paths[cell], cell)
            if found is not None:
                yield cell, self.sources[cell.task].named(found)
            else:
                missing.append(cell)
        keys = dict.fromkeys(key for c in missing for key in (c.train_task, c.task))
        extract_for([self.sources[key] for key in keys], missing)
        for design in dict.fromkeys(_design(cell) for cell in missing):
            members = [cell for cell in missing if _design(cell) == design]
            keys = dict.fromkeys(key for c in members for key in (c.task, c.train_task))
            inputs = {key: self.inputs(key, members[0]) for key in keys}
            fits: dict[tuple[Any, ...], list[TransferCell]] = {}
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
                    write_scored(paths[cell], result)
                    yield cell, result

    def inputs(self, key: str, cell: TransferCell) -> Candidate:
        """What the probe reads of one language, all documents: a matrix, or texts."""
        if cell.feature == "tfidf":
            return Candidate(self.data[key].inputs)
        return Candidate(self.sources[key].matrix(cell), scaling=cell.scaling)

    def parts(
        self,
        cells: list[TransferCell],
        inputs: dict[str, Candidate],
        splits: dict[TransferCell, Split],
    ) -> tuple[Candidate, np.ndarray, list[tuple[Any, np.ndarray, Split]]]:
        """Training documents and labels; features, labels and split of every test part."""
        key, train = cells[0].train_task, splits[cells[0]].train
        tests = []
        for cell in cells:
            test = splits[cell].test
            X = inputs[cell.task].take(test).X
            tests.append((X, self.data[cell.task].labels[test], splits[cell]))
        return inputs[key].take(train), self.data[key].labels[train], tests

    def result(self, cell: TransferCell, outcome: Outcome) -> ScoredCell:
        """A scored cell whose row says where its training documents come from."""
        result = to_scored(cell, self.sources[cell.task], outcome)
        result.row["train_language"] = self.data[cell.train_task].task.language
        result.row["train_fraction"] = cell.train_fraction
        return result


def _fit(
    cell: TransferCell, train: Candidate, y: np.ndarray, tests: list[tuple[Any, np.ndarray, Split]]
) -> list[Outcome]:
    """Train once, then say something about every test part."""
    start = time.perf_counter()
    cells = tfidf_candidates(train.X) if cell.feature == "tfidf" else replace(train, k=cell.k)
    groups = tests[0][2].train_groups
    probe = fit_select(cells, y, seed=cell.seed, groups=groups, probe=cell.probe, n_jobs=1)
    seconds = time.perf_counter() - start
    outcomes = []
    for X, y_true, split in tests:
        scores = probe.probabilities(X)
        y_pred = probe.classes[scores.argmax(axis=1)]
        outcomes.append(Outcome(split, probe, y_true, y_pred, scores, len(probe.columns), seconds))
    return outcomes


def _plain(cell: TransferCell) -> Cell:
    """The cell without what says where it was trained."""
    return Cell(**{f.name: getattr(cell, f.name) for f in fields(Cell)})


def trained_on(origin: str, fraction: float, kept_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields of `Transfer` that say where a probe is trained."""
    return {"train_task": origin, "train_fraction": fraction, "kept_out": kept_out}


def _native(cell: TransferCell) -> bool:
    """Whether the sweep scores this very cell: its own language, the whole training part."""
    return cell.task == cell.train_task and cell.train_fraction == 1


def _design(cell: TransferCell) -> TransferCell:
    """What cells share that read the same feature matrices."""
    return replace(cell, task="", k=None, seed=0, **trained_on("", 1.0, ()))
