"""Score many cells of the experiment grid: extract once per model, fit each probe once.

Every scored cell is kept on disk under a key of everything that changes its numbers, so chapters
share cells and a crash loses only the fits in flight. A cell may be trained on one task and tested
on another (paper §4.4): all that is learnt - which latents are kept, their scale, C, the vocabulary
of TF-IDF - is then learnt on the training part of the former, and one fit is tested on every task
that asks for it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from joblib import delayed
from tqdm import tqdm

from mosaic.config.profiles import Profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import Split
from mosaic.data.training_part import joined, thin, without_items
from mosaic.errors import ConfigError
from mosaic.extraction.engines import parallel
from mosaic.probes.evaluate import Outcome
from mosaic.probes.select import stacked
from mosaic.scores.calibration import probability_scores
from mosaic.scores.intervals import bootstrap_interval
from mosaic.storage.versions import code_digest, versions_of
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell, read_scored, write_scored
from mosaic.sweep.source import Source, extract_for, fit

SCORE_CODE = ("probes", "sweep", "data/splits.py", "data/training_part.py", "extraction/pooling.py",
               "scores/intervals.py", "scores/choose.py", "scores/calibration.py")  # fmt: skip
"""Rooms and modules that decide a scored cell: what other code scored is not read."""

LIBRARIES = ("torch", "transformers", "sae-lens", "scikit-learn", "scipy", "numpy")

Sources = Mapping[tuple[str, str | None], Source]
"""Sources by key of the task and name of the model."""


def score_cells(
    cells: Sequence[Cell],
    workspace: Workspace,
    n_jobs: int = -1,
    load: Callable[[str, Profile], TaskData] = load_task,
) -> list[ScoredCell]:
    """Score every cell, in order; those scored before come from disk.

    `load` gives the documents of a task key; another one than the default brings labels made here.
    Raises what loading, extraction and probes raise; cells finished before stay on disk.
    """
    wanted = list(dict.fromkeys(cells))
    asked = dict.fromkeys((key, cell.model) for cell in wanted for key in cell.tasks)
    data = {key: load(key, workspace.profile) for key in dict.fromkeys(key for key, _ in asked)}
    sources = {(key, model): Source(workspace, data[key], model) for key, model in asked}
    paths = {cell: _path(cell, sources) for cell in wanted}
    results: dict[Cell, ScoredCell] = {}
    with tqdm(total=len(wanted), desc="probes", unit="cell", disable=None) as bar:
        for cell in wanted:
            if (found := read_scored(paths[cell], cell)) is not None:
                results[cell] = replace(
                    found, row={**found.row, **sources[cell.task, cell.model].names(cell)}
                )
                bar.update()
        missing = [cell for cell in wanted if cell not in results]
        splits = _splits(missing, sources)
        for model in dict.fromkeys(cell.model for cell in missing):
            members = [cell for cell in missing if cell.model == model]
            extract_for({key: s for (key, name), s in sources.items() if name == model}, members)
            designs: dict[Cell, list[Cell]] = {}
            for cell in members:
                designs.setdefault(_design(cell), []).append(cell)
            # Processes: small fits spend their time in Python, where threads wait for each other.
            scored = parallel(workspace.engine, n_jobs)(
                delayed(_score_design)(
                    {cell: (splits[cell], paths[cell]) for cell in same},
                    {key: sources[key, model] for c in same for key in (c.task, *c.train_tasks)},
                )
                for same in designs.values()
            )
            for found_here in scored:
                results |= {result.cell: result for result in found_here}
                bar.update(len(found_here))
    return [results[cell] for cell in cells]


def _path(cell: Cell, sources: Sources) -> Path:
    """Where the scored cell is kept: under all that decides its numbers, code included."""
    first = sources[cell.task, cell.model]
    caps = [first.profile.n_train, first.profile.n_test, first.profile.folds]
    documents = [sources[key, cell.model].identity(cell) for key in cell.tasks]
    inputs = [asdict(cell), documents, caps, code_digest(*SCORE_CODE), versions_of(*LIBRARIES)]
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return first.workspace.cache / "cells" / key[:2] / f"{key}.json"


def _design(cell: Cell) -> Cell:
    """What cells share that read the same features of the same training task."""
    return replace(cell, task="", k=None, seed=0, train_fraction=1.0, kept_out=())


def _splits(cells: Sequence[Cell], sources: Sources) -> dict[Cell, Split]:
    """The split of every cell; tasks are split once per seed and protocol."""
    whole: dict[tuple[str, int, str], Split] = {}

    def split(key: str, cell: Cell) -> Split:
        place = (key, cell.seed, cell.protocol)
        if place not in whole:
            whole[place] = sources[key, cell.model].split(cell.seed, cell.protocol)
        return whole[place]

    found = {}
    for cell in cells:
        if cell.train_tasks != (cell.task,) and cell.protocol != "nested":
            raise ConfigError(f"{cell} asks for a protocol without transfer; use 'nested'.")
        here, parts = sources[cell.task, cell.model].data, []
        others = [(sources[key, cell.model].data, split(key, cell)) for key in cell.kept_out]
        for key in cell.train_tasks:
            there = sources[key, cell.model].data
            if there.label_names != here.label_names:
                raise ConfigError(
                    f"{key!r} has the labels {there.label_names} and {cell.task!r} has "
                    f"{here.label_names}; a probe can only move between equal labels."
                )
            part = thin(split(key, cell), there.labels, cell.train_fraction)
            parts.append((there, without_items(part, there, others) if others else part))
        tested, home = split(cell.task, cell), joined(parts)
        found[cell] = replace(home, test=tested.test, test_ids=tested.test_ids)
    return found


def _score_design(
    cells: Mapping[Cell, tuple[Split, Path]], sources: Mapping[str, Source]
) -> list[ScoredCell]:
    """Fit and test cells of one design, and keep them: every matrix is read once."""
    first = next(iter(cells))
    keys = dict.fromkeys((*first.train_tasks, *(cell.task for cell in cells)))
    described = {key: sources[key].candidates(first) for key in keys}
    learnt = stacked([described[key] for key in first.train_tasks])
    labels = np.concatenate([sources[key].data.labels for key in first.train_tasks])
    fits: dict[tuple[int | None, int, bytes], list[Cell]] = {}
    for cell, (split, _) in cells.items():
        # Cells tested at home and elsewhere share a fit where no item had to be left out.
        fits.setdefault((cell.k, cell.seed, split.train.tobytes()), []).append(cell)
    found = []
    for tests in fits.values():
        start = time.perf_counter()
        n_folds = sources[first.task].profile.folds
        probe = fit(tests[0], learnt, labels, cells[tests[0]][0], n_folds)
        seconds = time.perf_counter() - start
        for cell in tests:
            split, path = cells[cell]
            X = described[cell.task][probe.candidate].take(split.test).X
            y = sources[cell.task].data.labels[split.test]
            result = _scored(cell, sources, Outcome.of(probe, X, y, split, seconds))
            write_scored(path, result)
            found.append(result)
    return found


def _languages(sources: Iterable[Source]) -> str | None:
    """The language learnt from; of several, all of them: `en+es`."""
    found = dict.fromkeys(source.data.task.language for source in sources)
    return "+".join(filter(None, found)) or None


def _scored(cell: Cell, sources: Mapping[str, Source], outcome: Outcome) -> ScoredCell:
    """An outcome as a scored cell, with its row and interval."""
    source, split, interval = sources[cell.task], outcome.split, bootstrap_interval(outcome)
    latents = cell.feature in ("sae", "control")
    same = ("feature", "model", "layer", "width", "pooling", "top_n", "threshold", "k")
    row = {
        **source.names(cell),
        **{name: getattr(cell, name) for name in (*same, "probe", "protocol", "seed")},
        "source": "run",
        "task": source.data.task.name,
        "language": source.data.task.language,
        "train_language": _languages(sources[key] for key in cell.train_tasks),
        "train_fraction": cell.train_fraction,
        "label_model": source.data.task.label_model,
        "selection": ("all" if cell.k is None else "topk") if latents else None,
        "scaling": cell.scaling if latents or cell.feature == "hidden" else None,
        "bos": source.profile.bos if cell.model else None,
        "split": split.fingerprint[:16],
        "n_train": len(split.train),
        "n_test": len(split.test),
        "n_cut": None if source.cut is None else int(source.cut[split.test].sum()),
        "n_features": len(outcome.probe.columns),
        "macro_f1": outcome.macro_f1,
        "macro_f1_low": interval.low,
        "macro_f1_high": interval.high,
        "accuracy": outcome.accuracy,
        **probability_scores(outcome.y_true, outcome.probe.classes, outcome.probabilities),
        "cv_accuracy": outcome.probe.cv_score,
        "seconds": outcome.seconds,
    }
    two = outcome.probabilities.shape[1] == 2
    return ScoredCell(
        cell=cell,
        row=row,
        ids=outcome.ids,
        y_true=outcome.y_true,
        y_pred=outcome.y_pred,
        # As they are kept: a rerun must not rank them otherwise.
        probabilities=np.round(outcome.probabilities[:, : 2 * two], 6),
        setting=outcome.probe.setting,
    )
