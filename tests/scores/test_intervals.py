"""Intervals that cover, comparisons that keep their level, Holm's steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from mosaic.errors import ConfigError
from mosaic.scores.intervals import (
    bootstrap_interval,
    holm,
    macro_f1,
    paired_difference,
)
from mosaic.scores.sign_flips import sign_flip_interval, sign_flip_p


@dataclass
class Said:
    ids: np.ndarray
    y_true: np.ndarray
    y_pred: np.ndarray
    probabilities: np.ndarray


def said(rng: np.random.Generator, y: np.ndarray, right: float, n_classes: int = 2) -> Said:
    """Answers that are known with probability `right` and guessed otherwise."""
    y_pred = np.where(rng.random(len(y)) < right, y, rng.integers(0, n_classes, len(y)))
    score = y * right * 3 + rng.normal(size=len(y))
    ids = np.array([f"d{i}" for i in range(len(y))])
    return Said(ids, y, y_pred, np.column_stack([-score, score]))


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(5, 80))
@settings(max_examples=60, deadline=None)
def test_macro_f1_is_scikit_learns(seed: int, n_classes: int, n_docs: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, n_classes, (2, n_docs))
    expected = f1_score(y, p, average="macro", zero_division=0)
    assert macro_f1(y, p) == pytest.approx(expected, abs=1e-12)


def test_auc_is_scikit_learns_with_ties() -> None:
    rng = np.random.default_rng(0)
    outcome = said(rng, rng.integers(0, 2, 300), 0.6)
    outcome.probabilities = np.round(outcome.probabilities)
    found = bootstrap_interval(outcome, "auc")
    assert found.value == pytest.approx(roc_auc_score(outcome.y_true, outcome.probabilities[:, 1]))
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("n_classes", "n_docs", "right"), [(2, 200, 0.7), (20, 200, 0.7), (77, 400, 0.8)]
)
def test_intervals_cover_the_true_score(n_classes: int, n_docs: int, right: float) -> None:
    rng = np.random.default_rng(1)
    population = said(rng, rng.integers(0, n_classes, 200_000), right, n_classes)
    truth = macro_f1(population.y_true, population.y_pred)
    hits = 0
    for repeat in range(120):
        sample = said(rng, np.arange(n_docs) % n_classes, right, n_classes)
        found = bootstrap_interval(sample, n_resamples=400, seed=repeat)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 120 <= 1.0


@pytest.mark.parametrize(("n_seeds", "right"), [(1, 0.75), (3, 0.75), (3, 0.45)])
def test_intervals_of_means_over_seeds_cover_with_many_classes(n_seeds: int, right: float) -> None:
    """77 classes of 6 or 7 test documents: averaging seeds shrinks the spread, not the bias."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 77, 10_000)
    populations = [said(rng, labels, right, 77) for _ in range(n_seeds)]
    truth = np.mean([macro_f1(p.y_true, p.y_pred) for p in populations])
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    hits = 0
    for repeat in range(60):
        tested = []
        for p in populations:
            rows = np.concatenate([rng.choice(of, rng.integers(6, 8), False) for of in by_class])
            at = p.ids[rows], p.y_true[rows], p.y_pred[rows], p.probabilities[rows]
            tested.append(Said(*at))
        found = bootstrap_interval(tested, n_resamples=300, seed=repeat)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 60 <= 1.0


def test_a_resample_never_lacks_a_class() -> None:
    """A class of one document, missed: drawn without it, the rest would score near 1."""
    y = np.r_[np.zeros(60, dtype=int), 1]
    found = bootstrap_interval(Said(np.arange(61), y, np.zeros(61, dtype=int), np.zeros((61, 2))))
    assert found.value < found.high + 1e-9 < 0.51


def test_a_perfect_score_has_an_interval_too() -> None:
    y = np.arange(53) % 2
    found = bootstrap_interval(said(np.random.default_rng(0), y, 1.0))
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 53))


def test_seeds_are_drawn_together() -> None:
    """Five copies of one outcome hold no more information than one."""
    rng = np.random.default_rng(0)
    outcome = said(rng, rng.integers(0, 2, 150), 0.6)
    one, five = bootstrap_interval(outcome), bootstrap_interval([outcome] * 5)
    assert five.value == pytest.approx(one.value)
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.1)
    independent = [said(rng, outcome.y_true, 0.6) for _ in range(5)]
    mean = bootstrap_interval(independent)
    assert mean.high - mean.low < one.high - one.low
    assert mean.value == pytest.approx(np.mean([macro_f1(o.y_true, o.y_pred) for o in independent]))


def test_seeds_may_test_different_documents() -> None:
    rng = np.random.default_rng(0)
    whole = said(rng, rng.integers(0, 2, 200), 0.6)
    parts = [
        Said(whole.ids[s], whole.y_true[s], whole.y_pred[s], whole.probabilities[s])
        for s in (slice(0, 120), slice(80, 200))
    ]
    found = bootstrap_interval(parts)
    assert found.n_docs == 200
    assert found.value == pytest.approx(np.mean([macro_f1(p.y_true, p.y_pred) for p in parts]))


def test_equal_cells_are_rarely_called_different() -> None:
    rng = np.random.default_rng(2)
    p_values = []
    for repeat in range(150):
        y = rng.integers(0, 2, 120)
        a, b = said(rng, y, 0.5), said(rng, y, 0.5)
        p_values.append(paired_difference(a, b, n_resamples=300, seed=repeat).p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.11
    assert 0.4 <= np.mean(p_values) <= 0.6


def test_a_difference_is_found_and_pairing_sharpens_it() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 400)
    a = said(rng, y, 0.7, 3)
    b = Said(a.ids, y, np.where(rng.random(400) < 0.08, (y + 1) % 3, a.y_pred), a.probabilities)
    found = paired_difference(a, b)
    assert found.difference == pytest.approx(macro_f1(y, a.y_pred) - macro_f1(y, b.y_pred))
    assert found.p_value < 0.01
    assert 0 < found.low < found.difference < found.high
    alone = bootstrap_interval(a)
    assert found.high - found.low < alone.high - alone.low
    shuffled = rng.permutation(400)
    other_order = Said(b.ids[shuffled], y[shuffled], b.y_pred[shuffled], b.probabilities[shuffled])
    assert paired_difference(a, other_order) == found
    assert paired_difference(a, a).p_value == 1


def test_cells_that_agree_everywhere_may_still_differ_elsewhere() -> None:
    """An interval of no width said that a control of 40 texts was exactly as good."""
    y = np.arange(40) % 2
    a = said(np.random.default_rng(0), y, 1.0)
    same = paired_difference(a, a)
    assert (same.difference, same.p_value) == (0, 1)
    assert (same.low, same.high) == pytest.approx(
        (-1.96 * 0.5**0.5 / 40, 1.96 * 0.5**0.5 / 40), 1e-3
    )
    one = Said(a.ids, y, np.where(a.ids == "d0", 1 - y, y), a.probabilities)
    found = paired_difference(a, one)
    assert found.low < 0 < found.difference < found.high, "a single document decides nothing"
    assert paired_difference([a] * 4, [one] * 4).high == pytest.approx(found.high, abs=0.01)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert len(holm([])) == 0


@pytest.mark.parametrize("n", [5, 6, 7, 9, 12])
def test_the_interval_over_tasks_is_what_the_exact_test_leaves(n: int) -> None:
    values = np.random.default_rng(n).gamma(2, size=n)
    low, high = sign_flip_interval(values)
    inside = [low + 1e-9, values.mean(), high - 1e-9]
    assert all(sign_flip_p(values - centre) > 0.05 for centre in inside)
    if n > 5:
        assert all(sign_flip_p(values - c) <= 0.05 for c in (low - 1e-9, high + 1e-9))
    else:
        assert (low, high) == (values.min(), values.max()), "five reject nothing at 0.05"


@pytest.mark.parametrize("n", [40, 62, 63, 300])
def test_an_interval_of_many_tasks_or_documents_is_drawn(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    low, high = sign_flip_interval(values)
    reach = 2.0 * values.std(ddof=1) / n**0.5
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.03)


def test_what_cannot_be_compared_is_said() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    a = said(rng, y, 0.5, 3)
    b = Said(a.ids[:20], y[:20], a.y_pred[:20], a.probabilities[:20])
    with pytest.raises(ConfigError, match="different documents \\(30 and 20, 20 in common\\)"):
        paired_difference(a, b)
    with pytest.raises(ConfigError, match="1 and 2 seeds"):
        paired_difference(a, [a, a])
    with pytest.raises(ConfigError, match="'accuracy'.*'macro_f1', 'auc'"):
        bootstrap_interval(a, "accuracy")
    with pytest.raises(ConfigError, match="AUC needs two classes, found 3"):
        bootstrap_interval(Said(a.ids, y, a.y_pred, np.zeros((30, 3))), "auc")
    with pytest.raises(ConfigError, match="no outcome"):
        bootstrap_interval([])
