"""Probes: train under the protocol of a split, then predict its test part once.

Under `nested` everything is chosen by `select.fit_select`, which is handed the training rows only;
under `published` the authors' classifiers are trained on the same rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic.config.choices import PROBES
from mosaic.data.splits import Split
from mosaic.errors import ConfigError
from mosaic.probes.authors import fit_published
from mosaic.probes.select import Candidates, FittedProbe, fit_select, named_candidates
from mosaic.scores.intervals import macro_f1


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a probe said about the test documents of a split."""

    split: Split
    probe: FittedProbe
    y_true: np.ndarray
    y_pred: np.ndarray
    probabilities: np.ndarray
    """`[n_test, n_classes]` probabilities in the order of `probe.classes`."""
    seconds: float
    """Wall time of selection, training and prediction."""

    @classmethod
    def of(
        cls, probe: FittedProbe, X: Any, y: np.ndarray, split: Split, seconds: float = 0.0
    ) -> Outcome:
        """What `probe` says of test documents `X [n_test, n_features]` (or texts), labels `y`.

        `seconds` is what the training took; prediction is added.
        """
        start = time.perf_counter()
        probabilities = probe.probabilities(X)
        said = probe.classes[probabilities.argmax(axis=1)]
        return cls(split, probe, y, said, probabilities, seconds + time.perf_counter() - start)

    @property
    def ids(self) -> np.ndarray:
        """`[n_test]` ids of the test documents."""
        return self.split.test_ids

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1."""
        return macro_f1(self.y_true, self.y_pred)

    @property
    def accuracy(self) -> float:
        """Share of test documents that are right."""
        return float(np.mean(self.y_true == self.y_pred))


def train(
    candidates: Candidates, y: np.ndarray, split: Split, *, probe: str = "linear", **options: Any
) -> FittedProbe:
    """Train on the training part of a split under its protocol.

    `candidates` and `y` cover all documents that `split.train` counts. Under `nested`, options are
    those of `fit_select`; under `published` there is one candidate and no choice. Raises
    ConfigError, and what fitting raises.
    """
    if probe not in PROBES:
        raise ConfigError(f"Unknown probe {probe!r}; use one of {PROBES}.")
    named = named_candidates(candidates, len(y))
    part = {name: candidate.take(split.train) for name, candidate in named.items()}
    labels = y[split.train]
    if split.protocol == "published":
        return fit_published(part, labels, split.seed, probe)
    options |= {"seed": split.seed, "groups": split.train_groups, "probe": probe}
    return fit_select(part, labels, **options)
