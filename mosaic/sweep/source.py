"""Documents of one task and, for one model, their features, extracted when first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic.config.choices import FEATURES
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import Split, make_split
from mosaic.errors import ConfigError
from mosaic.probes.baselines import majority, text_lengths, tfidf_candidates
from mosaic.probes.evaluate import train
from mosaic.probes.select import Candidate, FittedProbe
from mosaic.sweep.cells import Cell

if TYPE_CHECKING:
    from mosaic.extraction.features import Features
    from mosaic.extraction.jobs import Job


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
        self._store = workspace.store

    @cached_property
    def _job(self) -> Job:
        """Names blocks of the feature store; SAEs that no cell asks for are not fetched."""
        from mosaic.extraction.jobs import resolve_job  # text baselines need no torch

        assert self.model is not None
        return resolve_job(self.model, self.documents, self.profile, (), (), self._store)

    @cached_property
    def _data(self) -> list[str]:
        """Documents, and the groups that no split may part (features do not depend on those)."""
        groups = self.data.groups
        tied = repr(None if groups is None else groups.tolist())
        return [self.data.fingerprint, hashlib.sha256(tied.encode()).hexdigest()]

    def identity(self, cell: Cell) -> list[str | None]:
        """What of these documents decides the numbers of a cell that reads them.

        Raises ConfigError for a layer or width that does not exist.
        """
        block = None
        if self.model is not None and cell.layer is not None:
            if cell.width is not None:
                self.model.sae(cell.layer, cell.width)
            self.model.depth_of(cell.layer)
            block = self._job.block(cell.layer, cell.width).key
        if self.model is not None and cell.feature == "vision_tower":
            from mosaic.extraction.tower import tower_key
            from mosaic.models.resolve import resolve

            block = tower_key(resolve(self.model, self.profile), self.data)
        return [*self._data, block]

    def block_identity(self, layer: int, width: str) -> dict[str, Any]:
        """What decides the numbers of one SAE's features, in the feature store's own terms."""
        return self._job.identities[self._job.block(layer, width).key]

    def names(self, cell: Cell) -> dict[str, Any]:
        """What this profile says of a cell; another one may call the same numbers otherwise."""
        depth = release = None
        if self.model is not None and cell.layer is not None:
            depth = self.model.depth_of(cell.layer)
            if cell.width is not None:
                sae = self.model.sae(cell.layer, cell.width)
                release = sae.release or Path(str(sae.folder)).name
        task = self.data.task
        return {
            "profile": self.profile.name,
            "depth": depth,
            "sae_release": release,
            "kind": task.kind,
            "toy": task.toy or (self.model is not None and self.model.toy),
        }

    def split(self, seed: int, protocol: str = "nested") -> Split:
        """The split of these documents that all cells of this seed and protocol share."""
        return make_split(self.data, seed, protocol, self.profile.n_train, self.profile.n_test)

    def matrix(self, cell: Cell) -> Any:
        """What a probe of a model's features reads, all documents `[n_docs, n_features]`."""
        if cell.feature == "vision_tower" and self._tower is not None:
            return self._tower
        if self._features is None or cell.layer is None or cell.pooling is None:
            raise ConfigError(f"{cell} must name a model, a layer and a pooling.")
        if cell.feature == "hidden":
            read = [self._features.hidden(cell.layer, how) for how in cell.pooling.split("+")]
            return np.hstack(read)
        if cell.feature in ("sae", "control") and cell.width is not None:
            return self._features.matrix(
                cell.layer, cell.width, cell.pooling, cell.top_n, cell.threshold
            )
        raise ConfigError(f"{cell} has no feature that can be scored; use one of {FEATURES}.")

    @property
    def n_tokens(self) -> np.ndarray:
        """Pooled tokens of each document `[n_docs]`. Raises ConfigError before any extraction."""
        if self._features is None:
            raise ConfigError("Nothing of these documents has been read; open a cell of a model.")
        return self._features.n_tokens

    @property
    def cut(self) -> np.ndarray | None:
        """bool `[n_docs]`: texts of which the model read a part; None where no model reads them."""
        return None if self._features is None else self._features.cut

    def candidates(self, cell: Cell) -> dict[str, Candidate]:
        """Descriptions of all documents that the cell's probe may choose between."""
        if cell.feature == "tfidf":
            return tfidf_candidates(self.data, cell.protocol)
        if cell.feature == "length":
            return {"": Candidate(text_lengths(self.data))}
        if cell.feature == "base_rate":
            return {"": Candidate(np.zeros((len(self.data), 0)))}
        return {"": Candidate(self.matrix(cell), scaling=cell.scaling, k=cell.k)}


def open_source(workspace: Workspace, cell: Cell) -> Source:
    """The documents and features of one cell. Raises what loading and extraction raise."""
    source = Source(workspace, load_task(cell.task, workspace.profile), cell.model)
    extract_for({cell.task: source}, [cell])
    return source


def extract_for(sources: Mapping[str, Source], cells: Sequence[Cell]) -> None:
    """What the cells read of sources of one model, by key of the task, from one loading of it.

    Label sets of the same documents share their features.
    """
    asked: dict[str, list[Source]] = {}
    for key, source in sources.items():
        own = [cell for cell in cells if key in (cell.task, *cell.train_tasks)]
        if source.model is not None and any(cell.feature == "vision_tower" for cell in own):
            from mosaic.extraction.tower import tower_states

            source._tower = tower_states(source.model, source.data, source.profile, source._store)
        if source.model is not None and any(cell.layer is not None for cell in own):
            asked.setdefault(source.documents.fingerprint, []).append(source)
    if not asked:
        return
    from mosaic.extraction.extract import extract_all

    first = next(iter(asked.values()))[0]
    assert first.model is not None
    found = extract_all(
        first.model,
        [same[0].documents for same in asked.values()],
        first.profile,
        layers=sorted({cell.layer for cell in cells if cell.layer is not None}),
        widths=[w for w in first.model.widths if any(cell.width == w for cell in cells)],
        store=first._store,
        engine=first.workspace.engine,
    )
    for same, features in zip(asked.values(), found, strict=True):
        for source in same:
            source._features = features


def fit(
    cell: Cell, candidates: dict[str, Candidate], y: np.ndarray, split: Split, n_folds: int
) -> FittedProbe:
    """The probe of one cell, trained on the training part of its split.

    `candidates` and `y` cover all documents of the cell's training task. Under `nested` so many
    inner folds of that part choose.
    """
    if cell.feature == "base_rate":
        return majority(y[split.train])
    kept = {name: replace(candidate, k=cell.k) for name, candidate in candidates.items()}
    # Cells run side by side, so each keeps to one core.
    options = {"n_jobs": 1, "n_folds": n_folds} if split.protocol == "nested" else {}
    return train(kept, y, split, probe=cell.probe, **options)
