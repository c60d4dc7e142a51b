"""Score many cells of the experiment grid: extract once per model and task, fit each probe once.

Every scored cell is kept on disk under a key of everything that changes its numbers, so chapters
share cells and a crash loses only the fits in flight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import delayed
from tqdm import tqdm

from mosaic import baselines, stats
from mosaic.engines import parallel
from mosaic.errors import ConfigError
from mosaic.grids import Spec
from mosaic.probe import Outcome, evaluate
from mosaic.profiles import Profile
from mosaic.results import Result, read_result, write_result
from mosaic.selection import Cell
from mosaic.splits import Split, make_split
from mosaic.store import Store
from mosaic.tasks import TaskData, load_task
from mosaic.workspace import Workspace

if TYPE_CHECKING:
    from mosaic.features import Features

# A change of these modules changes numbers, so scored cells made by other code are not reused.
_CODE = (
    "baselines.py",
    "pooling.py",
    "probe.py",
    "published_probe.py",
    "scaling.py",
    "selection.py",
    "splits.py",
    "stats.py",
)

_TEXT_BASELINES = {"tfidf": baselines.tfidf, "length": baselines.length}
FEATURES = ("sae", "hidden", "vision_tower", "base_rate", *_TEXT_BASELINES)


def score(
    specs: Sequence[Spec],
    workspace: Workspace,
    n_jobs: int = -1,
    load: Callable[[str, Profile], TaskData] = load_task,
) -> list[Result]:
    """Score every cell, in order; those scored before come from disk.

    `load` gives the documents of a task key; another one than the default brings labels made here.
    Raises what loading, extraction and probes raise; cells finished before stay on disk.
    """
    results: dict[Spec, Result] = {}
    groups: dict[tuple[str, str | None], list[Spec]] = {}
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
                found = read_result(source.path(spec), spec)
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


class Source:
    """Documents of one task and, for one model, their features; extracted when first needed."""

    def __init__(self, workspace: Workspace, data: TaskData, model: str | None) -> None:
        self.workspace = workspace
        self.profile = workspace.profile
        self.data = data
        # Whose correctness is asked changes no text, so all label models share one extraction.
        made = data.task.label_model is not None
        self.documents = replace(data, labels=np.zeros_like(data.labels)) if made else data
        self.model = None if model is None else self.profile.model(model)
        self._features: Features | None = None
        self._tower: np.ndarray | None = None
        self._store = Store(workspace.cache / "features")

    @cached_property
    def _block_keys(self) -> dict[tuple[int, str | None], str]:
        """Keys of the feature store's blocks: they change with weights, texts and settings."""
        if self.model is None:
            return {}
        from mosaic.extract import resolve_job  # text baselines need no torch

        job = resolve_job(self.model, self.documents, self.profile, None, None, self._store)
        return {(block.layer, block.width): block.key for block in job.blocks}

    @cached_property
    def _data(self) -> list[str]:
        """Documents, and the groups that no split may part (features do not depend on those)."""
        groups = self.data.groups
        tied = repr(None if groups is None else groups.tolist())
        return [self.data.fingerprint, hashlib.sha256(tied.encode()).hexdigest()]

    @cached_property
    def _code(self) -> str:
        digest = hashlib.sha256()
        for name in _CODE:
            digest.update((Path(__file__).parent / name).read_bytes())
        return digest.hexdigest()

    def path(self, spec: Spec, *more: str) -> Path:
        """Where the scored cell is kept; ConfigError for a layer or width that does not exist.

        `more` names what else decides its numbers, such as other training documents.
        """
        block = None
        if self.model is not None and spec.layer is not None:
            if spec.width is not None:
                self.model.sae(spec.layer, spec.width)
            self.model.depth_of(spec.layer)
            block = self._block_keys[spec.layer, spec.width]
        if self.model is not None and spec.feature == "vision_tower":
            from mosaic.vision import tower_key

            block = tower_key(self.model, self.data, self.profile)
        caps = [self.profile.n_train, self.profile.n_test]
        inputs = [asdict(spec), self._data, block, caps, self._code, *more]
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return self.workspace.cache / "cells" / key[:2] / f"{key}.json"

    def names(self, spec: Spec) -> dict[str, str | None]:
        """What this profile calls a cell; another one may call the same numbers otherwise."""
        depth = release = None
        if self.model is not None and spec.layer is not None:
            depth = self.model.depth_of(spec.layer)
            if spec.width is not None:
                sae = self.model.sae(spec.layer, spec.width)
                release = sae.release or Path(str(sae.folder)).name
        return {"profile": self.profile.name, "depth": depth, "sae_release": release}

    def named(self, result: Result) -> Result:
        """A scored cell from disk under the names of this profile."""
        return replace(result, row={**result.row, **self.names(result.spec)})

    def prepare(self, specs: Sequence[Spec]) -> None:
        """One extraction for all layers and widths that the cells of this task and model need."""
        if self.model is not None and any(spec.feature == "vision_tower" for spec in specs):
            from mosaic.vision import tower_states

            self._tower = tower_states(self.model, self.data, self.profile, self._store)
        extract_for([self], specs)

    def matrix(self, spec: Spec) -> Any:
        """What a probe of a model's features reads, all documents `[n_docs, n_features]`."""
        if spec.feature == "vision_tower" and self._tower is not None:
            return self._tower
        if self._features is None or spec.layer is None or spec.pooling is None:
            raise ConfigError(f"{spec} must name a model, a layer and a pooling.")
        if spec.feature == "hidden":
            return self._features.hidden(spec.layer, spec.pooling)
        if spec.feature == "sae" and spec.width is not None:
            return self._features.matrix(
                spec.layer, spec.width, spec.pooling, spec.top_n, spec.threshold
            )
        raise ConfigError(f"{spec} has no feature that can be scored; use one of {FEATURES}.")

    def outcome(self, spec: Spec, split: Split) -> Outcome:
        """Fit and apply the probe of one cell."""
        # Cells run side by side, so each keeps to one core.
        options: dict[str, Any] = {"n_jobs": 1} if spec.protocol == "nested" else {}
        if spec.feature in _TEXT_BASELINES:
            return _TEXT_BASELINES[spec.feature](self.data, split, **options)
        if spec.feature == "base_rate":
            return baselines.base_rate(self.data, split)
        cell = Cell(self.matrix(spec), scaling=spec.scaling, k=spec.k)
        return evaluate(cell, self.data.labels, split, probe=spec.probe, **options)


def extract_for(sources: Sequence[Source], specs: Sequence[Spec]) -> None:
    """One extraction for the sources of one model: all layers and widths that the cells need."""
    lacking = [s for s in sources if s.model is not None and s._features is None]
    layers = sorted({spec.layer for spec in specs if spec.layer is not None})
    if not (lacking and layers):
        return
    from mosaic.extract import extract_all

    first = lacking[0]
    assert first.model is not None
    found = extract_all(
        first.model,
        [source.documents for source in lacking],
        first.profile,
        layers=layers,
        widths=[w for w in first.model.widths if any(spec.width == w for spec in specs)],
        store=first._store,
        engine=first.workspace.engine,
    )
    for source, features in zip(lacking, found, strict=True):
        source._features = features


def _score_one(spec: Spec, source: Source) -> Result:
    profile, data = source.profile, source.data
    split = make_split(data, spec.seed, spec.protocol, profile.n_train, profile.n_test)
    result = to_result(spec, source, source.outcome(spec, split))
    write_result(source.path(spec), result)
    return result


def to_result(spec: Spec, source: Source, outcome: Outcome) -> Result:
    """An outcome on the documents of `source` as a scored cell, with its row and interval."""
    profile, data, model = source.profile, source.data, source.model
    split, interval = outcome.split, stats.interval(outcome)
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
    shown = outcome.scores if outcome.scores.shape[1] == 2 else outcome.scores[:, :0]
    return Result(
        spec=spec,
        row=row,
        ids=outcome.ids,
        y_true=outcome.y_true,
        y_pred=outcome.y_pred,
        scores=np.round(shown, 6),  # as they are kept: a rerun must not rank them otherwise
        setting=outcome.probe.setting if outcome.probe else None,
    )
