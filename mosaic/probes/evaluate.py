"""Probes: train under the protocol of a split, then predict its test part once.

Under `nested` everything is chosen by `selection.fit_select`, which is handed the training rows
only; under `published` the authors' classifiers are trained on the same rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic.config.choices import PROBES
from mosaic.data.splits import Split
from mosaic.errors import ConfigError
from mosaic.probes.authors import fit_authors_linear, fit_authors_tree
from mosaic.probes.select import Candidate, Candidates, FittedProbe, fit_select, named_candidates
from mosaic.scores.intervals import macro_f1


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a probe said about the test documents of a split."""

    split: Split
    probe: FittedProbe | None
    """None where nothing was fitted to features (base rates)."""
    y_true: np.ndarray
    y_pred: np.ndarray
    probabilities: np.ndarray
    """`[n_test, n_classes]` probabilities in the order of `probe.classes`."""
    n_features: int
    seconds: float
    """Wall time of selection, training and prediction."""

    @property
    def ids(self) -> np.ndarray:
        return self.split.test_ids

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.y_true, self.y_pred)

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.y_true == self.y_pred))


def evaluate(
    cells: Candidates,
    y: np.ndarray,
    split: Split,
    *,
    probe: str = "linear",
    **options: Any,
) -> Outcome:
    """Train on the training part of a split under its protocol, then predict the test part once.

    `cells` and `y` cover all documents of the task. Under `nested`, options are those of
    `fit_select`; under `published` there is one cell, and `cv_accuracy=True` adds the authors'
    cross-validation.
    """
    start = time.perf_counter()
    named = named_candidates(cells, len(y))
    train = {name: cell.take(split.train) for name, cell in named.items()}
    if split.protocol == "nested":
        fitted = fit_select(
            train,
            y[split.train],
            seed=split.seed,
            groups=split.train_groups,
            probe=probe,
            **options,
        )
    else:
        fitted = _fit_published(train, y[split.train], split.seed, probe, **options)
    test = named[fitted.cell].take(split.test).X
    scores = fitted.probabilities(test)
    return Outcome(
        split=split,
        probe=fitted,
        y_true=y[split.test],
        y_pred=fitted.classes[scores.argmax(axis=1)],
        probabilities=scores,
        n_features=len(fitted.columns),
        seconds=time.perf_counter() - start,
    )


def _fit_published(
    train: dict[str, Candidate], y: np.ndarray, seed: int, probe: str, cv_accuracy: bool = False
) -> FittedProbe:
    if probe not in PROBES:
        raise ConfigError(f"Unknown probe {probe!r}; use one of {PROBES}.")
    if len(train) != 1:
        raise ConfigError(
            f"The published protocol makes no choice between cells, found {sorted(train)}; "
            f"pass one cell, or use the nested protocol."
        )
    ((name, cell),) = train.items()
    classes, coded = np.unique(y, return_inverse=True)
    if probe == "tree":
        learned = fit_authors_tree(cell.X, coded, cv_accuracy)
    else:
        learned = fit_authors_linear(cell.X, coded, seed, cv_accuracy)
    return FittedProbe(
        kind=probe,
        cell=name,
        setting=learned.depth,
        cv_score=learned.cv_accuracy,
        classes=classes,
        columns=np.arange(cell.X.shape[1]),
        coef=learned.coef,
        intercept=learned.intercept,
        tree=learned.tree,
    )
