"""Ranking and calibration of probabilities against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from mosaic.scores.calibration import probability_scores


def test_two_classes_as_scikit_learn_has_them() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.random(200)
    found = probability_scores(y, np.array([0, 1]), np.stack([1 - p, p], axis=1))
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))


def test_several_classes_as_scikit_learn_has_them() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 4, 300), rng.dirichlet(np.ones(4), 300)
    found = probability_scores(y + 5, np.arange(5, 9), p)
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p, scale_by_half=True))


def test_calibration_error_by_hand() -> None:
    # Bin (0.5, 0.6]: confidence 0.6 and 0.6, one right; bin (0.8, 0.9]: 0.9 and 0.9, both right.
    p = np.array([0.6, 0.6, 0.9, 0.9])
    found = probability_scores(
        np.array([1, 0, 1, 1]), np.array([0, 1]), np.stack([1 - p, p], axis=1)
    )
    assert found["ece"] == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)
    sure = probability_scores(np.array([0, 1]), np.array([0, 1]), np.eye(2))
    assert sure == {"auroc": 1.0, "brier": 0.0, "ece": 0.0}


def test_a_class_that_training_never_saw_costs_what_it_must() -> None:
    found = probability_scores(np.array([0, 1, 2]), np.array([0, 1]), np.eye(3)[:, :2] + 0.0)
    assert found["brier"] == pytest.approx((0 + 0 + 0.5) / 3), "nothing was said of the third"
    only = probability_scores(np.array([1, 1]), np.array([0, 1]), np.array([[0.0, 1], [0, 1]]))
    assert only["auroc"] is None
