"""Intervals and paired comparisons of scores, by resampling test documents.

A document is one draw with everything said about it: where a cell was run with several seeds, all
its predictions for a document are drawn together. Documents are drawn within their class, as test
parts are: a resample never lacks a class. Documents on which all predictions agree in the same way
are counted, not listed, so 2,000 resamples cost a few milliseconds.

The intervals say how much a score would move with other test documents. They do not include the
variation from other training documents; seeds show part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import norm

from mosaic.errors import ConfigError

INTERVAL_METRICS = ("macro_f1", "auc")

MISSING = -1

N_RESAMPLES = 2000
"""Resamples of an interval and permutations of a p-value, which is 1 / 2001 at least."""


class Predicted(Protocol):
    """What is needed of an outcome: test documents, their labels and what was said of them."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def y_true(self) -> np.ndarray: ...
    @property
    def y_pred(self) -> np.ndarray: ...
    @property
    def probabilities(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Interval:
    """A score, mean over seeds, with its bootstrap interval."""

    value: float
    low: float
    high: float
    n_docs: int
    """Different test documents behind it."""


@dataclass(frozen=True)
class Comparison:
    """Score of a minus score of b on the same test documents."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, by swapping a and b per document."""
    n_docs: int


def macro_f1(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Unweighted mean of the F1 of the classes that occur: scikit-learn's value, without
    the 4 ms of checks that would outweigh a small fit."""
    return float(_macro_f1(y_true, y_pred, np.ones((1, len(y_true)), dtype=np.float32))[0])


def bootstrap_interval(
    outcomes: Predicted | Sequence[Predicted],
    metric: str = "macro_f1",
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Score of one cell, mean over its seeds, with a bootstrap interval over documents (ours).

    Documents are resampled within classes; `_bounds` says how the ends are found. `metric` is
    `macro_f1`, or `auc` of class 1 for two classes. Without a single error every resample is
    perfect too; the low end is then the exact binomial bound of the accuracy.
    """
    said = _collect([_listed(outcomes)], metric)
    rng = np.random.default_rng(seed)
    drawn = said.score(said.resamples(n_resamples, rng)).mean(axis=0)
    value = float(said.score(said.counts[None]).mean())
    low, high = (float(end) for end in np.clip(_bounds(drawn, value, level, said.per_class), 0, 1))
    if metric == "macro_f1" and value == 1:
        low = ((1 - level) / 2) ** (1 / said.n_docs)
    return Interval(value, low, high, said.n_docs)


def paired_difference(
    a: Predicted | Sequence[Predicted],
    b: Predicted | Sequence[Predicted],
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare macro-F1 of two cells, seed by seed, on the same test documents (ours).

    The interval is that of the resamples, and reaches as far as half a document more on which the
    cells differ would make it: cells that hardly err may agree on all documents by luck.

    Raises ConfigError if the cells differ in number of seeds or in their test documents.
    """
    first, second = _listed(a), _listed(b)
    for left, right in zip(first, second, strict=False):
        if len(left.ids) != len(right.ids) or set(left.ids) != set(right.ids):
            raise ConfigError(
                f"The cells were tested on different documents ({len(left.ids)} and "
                f"{len(right.ids)}, {len(set(left.ids) & set(right.ids))} in common); "
                f"evaluate both with the same split."
            )
    if len(first) != len(second):
        raise ConfigError(
            f"The cells have {len(first)} and {len(second)} seeds; compare equally many, in the "
            f"same order."
        )
    said = _collect([first, second], "macro_f1")
    rng = np.random.default_rng(seed)
    half = len(first)

    def gap(scores: np.ndarray) -> np.ndarray:
        return scores[:half].mean(axis=0) - scores[half:].mean(axis=0)

    difference = float(gap(said.score(said.counts[None]))[0])
    drawn = gap(said.score(said.resamples(n_resamples, rng)))
    low, high = _bounds(drawn, difference, level, said.per_class)
    reach = _least_reach(said, half, level)
    low, high = min(low, difference - reach), max(high, difference + reach)
    null = gap(said.swapped().score(said.swaps(n_resamples, rng)))
    p_value = (1 + np.sum(np.abs(null) >= abs(difference) - 1e-12)) / (n_resamples + 1)
    return Comparison(difference, low, high, float(p_value), said.n_docs)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values, in the order given: valid for any number of comparisons."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _bounds(drawn: np.ndarray, value: float, level: float, per_class: float) -> tuple[float, float]:
    """Percentiles of the resamples about `value`, widened for classes of few documents (ours).

    F1 is not linear: resamples of a few documents a class score lower than the sample they are
    drawn from, and the sample scores lower than a large one would, by about half of that
    (`benchmarks/coverage.py`). So the resamples are moved to `value` and half their bias beyond it.
    Drawing m documents with replacement shows (m - 1) / m of their variance, hence the factor.
    Averaging seeds shrinks the spread and not the bias, which percentiles alone do not see.
    """
    drawn = drawn[np.isfinite(drawn)]
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - drawn.mean()
    widened = ends * (per_class / max(per_class - 1, 0.5)) ** 0.5
    low, high = value + (value - drawn.mean()) / 2 + widened
    # The score itself lies inside, whatever the bias of a very small sample.
    return float(min(low, value)), float(max(high, value))


def _least_reach(said: _Said, n_seeds: int, level: float) -> float:
    """How far the difference in accuracy of two halves reaches with half a document more (after
    Agresti and Min 2005): where few tell the two apart, resamples see too little of others."""
    tested = said.truth != MISSING
    right = ((said.answer == said.truth) & tested).astype(float)
    apart = (right[:n_seeds].sum(axis=0) - right[n_seeds:].sum(axis=0)) / n_seeds
    n_docs = (tested * said.counts).sum(axis=1).mean()
    total = (said.counts * apart**2).sum() + 0.5 / n_seeds
    return float(norm.isf((1 - level) / 2) * total**0.5 / n_docs)


@dataclass(frozen=True, eq=False)
class _Said:
    """Kinds of documents: how many there are of each, and what each outcome said of them."""

    metric: str
    counts: np.ndarray
    """int64 `[n_kinds]`"""
    truth: np.ndarray
    """`[n_outcomes, n_kinds]` label, MISSING where the outcome did not test the document."""
    answer: np.ndarray
    """`[n_outcomes, n_kinds]` predicted label, or score of class 1."""

    @property
    def n_docs(self) -> int:
        return int(self.counts.sum())

    @property
    def per_class(self) -> float:
        """Test documents of a class, mean over classes and outcomes."""
        tested = self.truth != MISSING
        n_classes = len(np.unique(self.truth[tested]))
        return float((tested * self.counts).sum(axis=1).mean() / n_classes)

    def resamples(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Documents drawn with replacement within their class, `[n, n_kinds]` counts."""
        drawn = np.zeros((n, len(self.counts)), dtype=np.int64)
        labels = self.truth.max(axis=0)  # an outcome that did not test a document says MISSING
        for label in np.unique(labels):
            (at,) = np.nonzero(labels == label)
            n_docs = self.counts[at].sum()
            drawn[:, at] = rng.multinomial(n_docs, self.counts[at] / n_docs, size=n)
        return drawn

    def swaps(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Counts of documents left as they are and swapped, `[n, 2 * n_kinds]`."""
        swapped = rng.binomial(self.counts, 0.5, size=(n, len(self.counts)))
        return np.hstack([self.counts - swapped, swapped])

    def swapped(self) -> _Said:
        """Every kind twice: as it is, and with the first and second half of outcomes exchanged."""
        half = len(self.truth) // 2
        turn = np.r_[half : 2 * half, :half]
        return _Said(
            self.metric,
            np.tile(self.counts, 2),
            np.hstack([self.truth, self.truth[turn]]),
            np.hstack([self.answer, self.answer[turn]]),
        )

    def score(self, weights: np.ndarray) -> np.ndarray:
        """Score of each outcome `[n_outcomes, n]` under document counts `[n, n_kinds]`."""
        measure = _macro_f1 if self.metric == "macro_f1" else _auc
        weights = weights.astype(np.float32)  # counts are exact in it, and it is twice as fast
        rows = []
        for truth, answer in zip(self.truth, self.answer, strict=True):
            tested = truth != MISSING
            rows.append(measure(truth[tested], answer[tested], weights[:, tested]))
        return np.array(rows)


def _listed(outcomes: Predicted | Sequence[Predicted]) -> list[Predicted]:
    listed = list(outcomes) if isinstance(outcomes, Sequence) else [outcomes]
    if not listed:
        raise ConfigError("There is no outcome to score; pass one outcome per seed.")
    return listed


def _collect(cells: Sequence[Sequence[Predicted]], metric: str) -> _Said:
    if metric not in INTERVAL_METRICS:
        raise ConfigError(f"Unknown metric {metric!r}; use one of {INTERVAL_METRICS}.")
    outcomes = [outcome for cell in cells for outcome in cell]
    documents = pd.Index(np.unique(np.concatenate([outcome.ids for outcome in outcomes])))
    truth = np.full((len(outcomes), len(documents)), MISSING)
    answer = np.full((len(outcomes), len(documents)), float(MISSING))
    for row, outcome in enumerate(outcomes):
        at = documents.get_indexer(outcome.ids)
        truth[row, at] = outcome.y_true
        if metric == "macro_f1":
            answer[row, at] = outcome.y_pred
        elif outcome.probabilities.shape[1] == 2:
            answer[row, at] = outcome.probabilities[:, 1]
        else:
            raise ConfigError(
                f"AUC needs two classes, found {outcome.probabilities.shape[1]}; use the metric "
                f"'macro_f1'."
            )
    kinds, counts = np.unique(np.vstack([truth, answer]), axis=1, return_counts=True)
    return _Said(metric, counts, kinds[: len(outcomes)].astype(int), kinds[len(outcomes) :])


def _macro_f1(truth: np.ndarray, answer: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 `[n]` over the classes that occur, as scikit-learn counts them."""
    classes = np.union1d(truth, answer)
    is_true, is_answer = truth[:, None] == classes, answer[:, None] == classes
    hits = (weights @ (is_true & is_answer).astype(np.float32)).astype(np.float64)
    total = weights @ (is_true.astype(np.float32) + is_answer)
    occurs = total > 0
    f1 = 2 * hits / np.where(occurs, total, 1)
    return f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)


def _auc(truth: np.ndarray, answer: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve `[n]`, ties counted half; missing where a class was not drawn."""
    order = np.argsort(answer, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(answer[order]) > 0])
    sorted_weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(sorted_weights * (truth[order] == 1), starts, axis=1)
    negative = np.add.reduceat(sorted_weights * (truth[order] != 1), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    won = (positive * below).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
