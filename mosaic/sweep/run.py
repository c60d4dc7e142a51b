"""Score many cells of the experiment grid: extract once per model and task, fit each probe once.

Every scored cell is kept on disk under a key of everything that changes its numbers, so chapters
share cells and a crash loses only the fits in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from joblib import delayed
from tqdm import tqdm

from mosaic.config.profiles import Profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import make_split
from mosaic.extraction.engines import parallel
from mosaic.probes.evaluate import Outcome
from mosaic.scores.intervals import bootstrap_interval
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell, read_scored, write_scored
from mosaic.sweep.source import Source


def score_cells(
    specs: Sequence[Cell],
    workspace: Workspace,
    n_jobs: int = -1,
    load: Callable[[str, Profile], TaskData] = load_task,
) -> list[ScoredCell]:
    """Score every cell, in order; those scored before come from disk.

    `load` gives the documents of a task key; another one than the default brings labels made here.
    Raises what loading, extraction and probes raise; cells finished before stay on disk.
    """
    results: dict[Cell, ScoredCell] = {}
    groups: dict[tuple[str, str | None], list[Cell]] = {}
    for spec in dict.fromkeys(specs):
        groups.setdefault((spec.task, spec.model), []).append(spec)
    bar = tqdm(total=len(set(specs)), desc="probes", unit="cell", disable=None)
    tasks: dict[str, TaskData] = {}
    with bar:
        for (task, model), members in groups.items():
            if task not in tasks:
                tasks[task] = load(task, workspace.profile)
            source = Source(workspace, tasks[task], model)
            missing = []
            for spec in members:
                found = read_scored(source.path(spec), spec)
                if found is None:
                    missing.append(spec)
                else:
                    results[spec] = source.named(found)
                    bar.update()
            if missing:
                source.prepare(missing)
            # Processes: small fits spend their time in Python, where threads wait for each other.
            fitted = parallel(workspace.engine, n_jobs)(
                delayed(_score_one)(spec, source) for spec in missing
            )
            for spec, result in zip(missing, fitted, strict=True):
                results[spec] = result
                bar.update()
    return [results[spec] for spec in specs]


def _score_one(spec: Cell, source: Source) -> ScoredCell:
    profile, data = source.profile, source.data
    split = make_split(data, spec.seed, spec.protocol, profile.n_train, profile.n_test)
    result = to_scored(spec, source, source.outcome(spec, split))
    write_scored(source.path(spec), result)
    return result


def to_scored(spec: Cell, source: Source, outcome: Outcome) -> ScoredCell:
    """An outcome on the documents of `source` as a scored cell, with its row and interval."""
    profile, data, model = source.profile, source.data, source.model
    split, interval = outcome.split, bootstrap_interval(outcome)
    row = {
        **source.names(spec),
        **{name: getattr(spec, name) for name in ("task", "feature", "model", "layer", "width")},
        **{name: getattr(spec, name) for name in ("pooling", "top_n", "threshold", "k")},
        **{name: getattr(spec, name) for name in ("probe", "protocol", "seed")},
        "source": "run",
        "task": data.task.name,
        "language": data.task.language,
        "train_language": data.task.language,
        "label_model": data.task.label_model,
        "selection": ("all" if spec.k is None else "topk") if spec.feature == "sae" else None,
        "scaling": spec.scaling if spec.feature in ("sae", "hidden") else None,
        "bos": profile.bos if model else None,
        "train_fraction": 1.0,
        "split": split.fingerprint[:16],
        "n_train": len(split.train),
        "n_test": len(split.test),
        "n_features": outcome.n_features,
        "macro_f1": outcome.macro_f1,
        "macro_f1_low": interval.low,
        "macro_f1_high": interval.high,
        "accuracy": outcome.accuracy,
        "cv_accuracy": outcome.probe.cv_score if outcome.probe else None,
        "seconds": outcome.seconds,
    }
    shown = (
        outcome.probabilities
        if outcome.probabilities.shape[1] == 2
        else outcome.probabilities[:, :0]
    )
    return ScoredCell(
        spec=spec,
        row=row,
        ids=outcome.ids,
        y_true=outcome.y_true,
        y_pred=outcome.y_pred,
        probabilities=np.round(shown, 6),  # as they are kept: a rerun must not rank them otherwise
        setting=outcome.probe.setting if outcome.probe else None,
    )
