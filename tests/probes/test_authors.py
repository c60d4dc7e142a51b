"""The authors' classifiers: same result on sparse and dense rows, seeded, and stopped as theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from documents import latents, task_data
from probed import evaluate

from mosaic.data.splits import make_split
from mosaic.errors import ConfigError
from mosaic.probes import authors
from mosaic.probes.authors import TREE_SETTINGS, fit_authors_linear


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "MAX_EPOCHS", 5)


@pytest.mark.usefixtures("short")
def test_sparse_rows_train_as_dense_ones() -> None:
    X, y = latents(200, 300)
    sparse_fit = fit_authors_linear(X, y, seed=3)
    dense_fit = fit_authors_linear(X.toarray(), y, seed=3)
    assert np.allclose(sparse_fit.coef, dense_fit.coef, atol=1e-5)
    assert np.allclose(sparse_fit.intercept, dense_fit.intercept, atol=1e-5)


@pytest.mark.usefixtures("short")
def test_the_seed_decides_and_torch_is_left_alone() -> None:
    X, y = latents(200, 100)
    state = torch.get_rng_state()
    first, again, other = (fit_authors_linear(X, y, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.coef, again.coef)
    assert not np.array_equal(first.coef, other.coef)
    assert torch.equal(state, torch.get_rng_state())


def test_stops_after_twenty_epochs_without_a_lower_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels without a pattern: a longer patience gives other weights, the last ones are kept."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 50)).astype(np.float32), np.arange(100) % 2
    stopped = fit_authors_linear(X, y, seed=0)
    monkeypatch.setattr(authors, "MAX_EPOCHS", 21)
    shortest = fit_authors_linear(X, y, seed=0)
    monkeypatch.setattr(authors, "MAX_EPOCHS", 400)
    monkeypatch.setattr(authors, "PATIENCE", 10_000)
    longest = fit_authors_linear(X, y, seed=0)
    norms = [np.linalg.norm(fit.coef) for fit in (shortest, stopped, longest)]
    assert norms[0] <= norms[1] < norms[2]


def test_the_best_epoch_is_the_one_of_least_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch's weights by stopping there, and the loss of the rows that decide by hand."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 50)).astype(np.float32), np.arange(100) % 2
    monkeypatch.setattr(authors, "MAX_EPOCHS", 30)
    monkeypatch.setattr(authors, "LEARNING_RATE", 0.05)
    restored = fit_authors_linear(X, y, seed=0, restore=True)
    _, rows = authors._validation_split(y)
    losses = {}
    for last in range(1, 31):
        monkeypatch.setattr(authors, "MAX_EPOCHS", last)
        fitted = fit_authors_linear(X, y, seed=0)
        margin = (2 * y[rows] - 1) * (X[rows] @ fitted.coef[0] + fitted.intercept[0])
        losses[np.logaddexp(0, -margin).mean()] = fitted.coef
    assert np.array_equal(restored.coef, losses[min(losses)])
    assert not np.array_equal(restored.coef, fitted.coef)


@pytest.mark.parametrize("probe", ["linear", "tree"])
def test_learns_under_the_published_protocol(probe: str) -> None:
    X, y = latents(300, 60)
    outcome = evaluate(X, y, make_split(task_data(y), 0, "published"), probe=probe)
    assert outcome.macro_f1 > 0.65
    assert outcome.probe.kind == probe
    assert outcome.probe.cv_score is None, "there is no inner choice"
    assert (outcome.probe.setting in TREE_SETTINGS["max_depth"]) == (probe == "tree")


@pytest.mark.parametrize("probe", ["linear", "tree"])
def test_labels_need_not_count_from_zero(probe: str) -> None:
    X, y = latents(200, 40)
    split = make_split(task_data(y), 0, "published")
    shifted = evaluate(X, 3 + 4 * y, split, probe=probe)
    assert list(shifted.y_pred) == list(3 + 4 * evaluate(X, y, split, probe=probe).y_pred)


def test_three_classes_and_a_rare_one() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 200, 40])
    X = rng.normal(size=(440, 8)).astype(np.float32)
    X[np.arange(440), y] += 4
    outcome = evaluate(X, y, make_split(task_data(y), 0, "published"))
    assert outcome.probabilities.shape == (88, 3)
    assert np.mean(outcome.y_pred[outcome.y_true == 2] == 2) > 0.8


def test_too_few_rows_for_a_tenth() -> None:
    X, y = latents(15, 30)
    y[:] = np.arange(15) % 3
    with pytest.raises(ConfigError, match="stops on a tenth of the rows.*class sizes"):
        evaluate(X, y, make_split(task_data(y), 0, "published"))
