"""Documents of one task and, for one model, their features, extracted when first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic.config.choices import FEATURES
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData
from mosaic.data.splits import Split
from mosaic.errors import ConfigError
from mosaic.probes.baselines import base_rate, prompt_length, tfidf
from mosaic.probes.evaluate import Outcome, evaluate
from mosaic.probes.select import Candidate
from mosaic.storage.shards import Store
from mosaic.storage.versions import code_digest, versions_of
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell

if TYPE_CHECKING:
    from mosaic.extraction.features import Features


NUMBERS = ("probes", "sweep", "data/splits.py", "extraction/pooling.py", "scores/intervals.py",
           "scores/choose.py")  # fmt: skip
"""Rooms and modules that decide a scored cell: what other code scored is not read."""
LIBRARIES = ("torch", "transformers", "sae-lens", "scikit-learn", "scipy", "numpy")
_TEXT_BASELINES = {"tfidf": tfidf, "length": prompt_length}


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
        from mosaic.extraction.jobs import resolve_job  # text baselines need no torch

        job = resolve_job(self.model, self.documents, self.profile, None, None, self._store)
        return {(block.layer, block.width): block.key for block in job.blocks}

    @cached_property
    def _data(self) -> list[str]:
        """Documents, and the groups that no split may part (features do not depend on those)."""
        groups = self.data.groups
        tied = repr(None if groups is None else groups.tolist())
        return [self.data.fingerprint, hashlib.sha256(tied.encode()).hexdigest()]

    def path(self, spec: Cell, *more: str) -> Path:
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
            from mosaic.extraction.tower import tower_key

            block = tower_key(self.model, self.data, self.profile)
        caps = [self.profile.n_train, self.profile.n_test]
        inputs = [asdict(spec), self._data, block, caps, code_digest(*NUMBERS)]
        inputs += [versions_of(*LIBRARIES), *more]
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return self.workspace.cache / "cells" / key[:2] / f"{key}.json"

    def names(self, spec: Cell) -> dict[str, Any]:
        """What this profile says of a cell; another one may call the same numbers otherwise."""
        depth = release = None
        if self.model is not None and spec.layer is not None:
            depth = self.model.depth_of(spec.layer)
            if spec.width is not None:
                sae = self.model.sae(spec.layer, spec.width)
                release = sae.release or Path(str(sae.folder)).name
        task = self.data.task
        return {
            "profile": self.profile.name,
            "depth": depth,
            "sae_release": release,
            "kind": task.kind,
            "toy": task.toy or (self.model is not None and self.model.toy),
        }

    def named(self, result: ScoredCell) -> ScoredCell:
        """A scored cell from disk under the names of this profile."""
        return replace(result, row={**result.row, **self.names(result.spec)})

    def prepare(self, specs: Sequence[Cell]) -> None:
        """One extraction for all layers and widths that the cells of this task and model need."""
        if self.model is not None and any(spec.feature == "vision_tower" for spec in specs):
            from mosaic.extraction.tower import tower_states

            self._tower = tower_states(self.model, self.data, self.profile, self._store)
        extract_for([self], specs)

    def matrix(self, spec: Cell) -> Any:
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

    def outcome(self, spec: Cell, split: Split) -> Outcome:
        """Fit and apply the probe of one cell."""
        # Cells run side by side, so each keeps to one core.
        options: dict[str, Any] = {"n_jobs": 1} if spec.protocol == "nested" else {}
        if spec.feature in _TEXT_BASELINES:
            return _TEXT_BASELINES[spec.feature](self.data, split, **options)
        if spec.feature == "base_rate":
            return base_rate(self.data, split)
        cell = Candidate(self.matrix(spec), scaling=spec.scaling, k=spec.k)
        return evaluate(cell, self.data.labels, split, probe=spec.probe, **options)


def extract_for(sources: Sequence[Source], specs: Sequence[Cell]) -> None:
    """One extraction for the sources of one model: all layers and widths that the cells need."""
    lacking = [s for s in sources if s.model is not None and s._features is None]
    layers = sorted({spec.layer for spec in specs if spec.layer is not None})
    if not (lacking and layers):
        return
    from mosaic.extraction.extract import extract_all

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
