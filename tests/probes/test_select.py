"""Scaling and selection: no test row is ever seen, and sparse stays sparse."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from documents import latents, task_data
from probed import evaluate
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from mosaic.data.splits import inner_folds, make_split
from mosaic.errors import ConfigError, IntegrityError
from mosaic.probes import select
from mosaic.probes.scaling import Scaler, row_space
from mosaic.probes.select import SETTINGS, Candidate, fit_select


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    X, y = latents(60, 100)
    y[:2] = 0, 1
    split = make_split(task_data(y), 0)
    with pytest.raises(ConfigError, match="'leaky'.*'published', 'nested'"):
        make_split(task_data(y), 0, "leaky")
    with pytest.raises(ConfigError, match="'forest'.*'linear', 'tree'"):
        evaluate(X, y, split, probe="forest")
    with pytest.raises(ConfigError, match="'z'.*'none', 'max', 'std'"):
        evaluate(Candidate(X, scaling="z"), y, split)
    with pytest.raises(ConfigError, match="59 documents but there are 60 labels"):
        evaluate(X[:59], y, split)
    with pytest.raises(ConfigError, match="published protocol makes no choice.*'a', 'b'"):
        evaluate({"a": X, "b": X}, y, make_split(task_data(y), 0, "published"))
    with pytest.raises(ConfigError, match="No feature is active in .* training documents"):
        evaluate(X * 0, y, make_split(task_data(y), 0))
    with pytest.raises(IntegrityError, match="NaN or infinite"):
        evaluate(X * np.inf, y, split)
    with pytest.raises(ConfigError, match="class sizes \\[19, 1\\]"):
        fit_select(X[:20], np.r_[1, np.zeros(19, int)], seed=0)


# ---------------------------------------------------------------- the test part is not touched


def test_shuffled_labels_score_at_chance() -> None:
    rng = np.random.default_rng(0)
    nested, picked_on_test = [], []
    for seed in range(6):
        y = rng.permutation(np.arange(200) % 2)
        cells = {str(n): latents(200, 100, seed=10 * seed + n)[0] for n in range(5)}
        split = make_split(task_data(y), seed)
        nested.append(evaluate(cells, y, split, grid=(0.3,)).macro_f1)
        tried = (evaluate(X, y, split, grid=(0.3,)).macro_f1 for X in cells.values())
        picked_on_test.append(max(tried))
    assert np.mean(nested) == pytest.approx(0.5, abs=0.07)
    assert np.mean(picked_on_test) > 0.55, "this test could not tell a leak"


def test_features_chosen_inside_the_fold_do_not_inflate_the_inner_score() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 4000)), np.arange(120) % 2
    inside = fit_select(Candidate(X, k=20), y, seed=0)
    outside = fit_select(X[:, inside.columns], y, seed=0)
    assert inside.cv_score is not None
    assert outside.cv_score is not None
    assert inside.cv_score < 0.65
    assert outside.cv_score > 0.75, "this test could not tell a leak"


@pytest.mark.parametrize("probe", ["linear", "tree"])
def test_nothing_chosen_depends_on_the_test_rows(probe: str) -> None:
    X, y = latents(300, 500)
    split = make_split(task_data(y), 0)
    before = evaluate({"all": X, "few": X[:, :15]}, y, split, probe=probe)
    X_other, y_other = X.toarray(), y.copy()
    X_other[split.test] = np.random.default_rng(5).normal(size=(len(split.test), 500))
    y_other[split.test] = 1 - y_other[split.test]
    X_other = sparse.csr_array(X_other)
    after = evaluate({"all": X_other, "few": X_other[:, :15]}, y_other, split, probe=probe)
    assert before.probe is not None
    assert after.probe is not None
    assert (after.probe.candidate, after.probe.setting) == (
        before.probe.candidate,
        before.probe.setting,
    )
    assert np.array_equal(after.probe.columns, before.probe.columns)
    assert np.array_equal(after.probe.predict(X), before.probe.predict(X))
    assert before.macro_f1 > 0.65


# ---------------------------------------------------------------- the probe itself


def test_agrees_with_grid_search() -> None:
    """Score by score: which of two near ones is ahead may differ between solvers and processors."""
    X, y = latents(400, 2000)
    train, test = np.arange(300), np.arange(300, 400)
    scaled = MaxAbsScaler().fit_transform(X[train])
    length = scaled.power(2).sum() / 300
    pipeline = make_pipeline(
        MaxAbsScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    search = GridSearchCV(
        pipeline,
        {"logisticregression__C": [C / length for C in SETTINGS["linear"]]},
        scoring="f1_macro",
        cv=inner_folds(y[train], None, 5, seed=0),
    ).fit(X[train].toarray(), y[train])
    for C, theirs in zip(SETTINGS["linear"], search.cv_results_["mean_test_score"], strict=True):
        assert fit_select(X[train], y[train], seed=0, grid=(C,)).cv_score == pytest.approx(
            theirs, abs=0.015
        )
    fitted = fit_select(X[train], y[train], seed=0)
    assert fitted.cv_score == pytest.approx(search.best_score_, abs=0.015)
    pipeline.set_params(logisticregression__C=fitted.setting / length)
    ours = fitted.predict(X[test])
    theirs = pipeline.fit(X[train].toarray(), y[train]).predict(X[test].toarray())
    assert np.mean(ours == theirs) >= 0.98
    assert f1_score(y[test], ours, average="macro") > 0.75


def test_settings_that_are_level_to_rounding_give_the_strongest_regularization(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = latents(200, 500)
    scores = {0.03: 0.7, 0.3: 0.8, 3.0: 0.8 + 4e-16, 30.0: 0.8 - 4e-16, 300.0: 0.8 + 2e-12}
    scores |= {3000.0: 0.6}

    def said(*arguments: object) -> list[float]:
        return [scores[C] for C in arguments[5]]  # type: ignore[attr-defined]

    monkeypatch.setattr(select, "_fold_scores", said)
    assert fit_select({"a": X, "b": X}, y, seed=0).setting == 0.3
    assert fit_select({"a": X, "b": X}, y, seed=0).candidate == "a"
    assert fit_select(X, y, seed=0, grid=(300.0, 3.0, 30.0)).setting == 3.0


def test_result_does_not_depend_on_the_number_of_jobs() -> None:
    X, y = latents(200, 1000)
    one, two = (fit_select({"x": X}, y, seed=0, n_jobs=n) for n in (1, 2))
    assert one.cv_score == two.cv_score
    assert np.array_equal(one.coef, two.coef)


def test_weights_are_in_original_units() -> None:
    X, y = latents(200, 100)
    fitted = fit_select(X, y, seed=0)
    louder = X * np.r_[1000.0, np.ones(99)]
    rescaled = fit_select(sparse.csr_array(louder), y, seed=0)
    assert fitted.coef[0, 0] == pytest.approx(1000 * rescaled.coef[0, 0], rel=1e-3)
    logit = X[:, fitted.columns] @ fitted.coef[0] + fitted.intercept[0]
    assert np.allclose(fitted.probabilities(X)[:, 1], 1 / (1 + np.exp(-logit)))


def test_dense_states_are_centred() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    X = 500 + rng.normal(size=(200, 30)).astype(np.float32)
    X[:, 0] += y
    fitted = fit_select(X, y, seed=0)
    assert fitted.coef.shape == (3, 30)
    assert fitted.cv_score is not None
    assert fitted.cv_score > 0.5
    scores = fitted.probabilities(X)
    assert np.allclose(scores.sum(axis=1), 1)
    assert np.array_equal(fitted.predict(X), scores.argmax(axis=1))


def test_top_k_finds_the_latents_that_tell() -> None:
    X, y = latents(600, 5000)
    fitted = fit_select(Candidate(X, k=20), y, seed=0)
    assert len(fitted.columns) == 20
    assert np.mean(fitted.columns < 20) >= 0.9


def test_selection_finds_the_better_cell() -> None:
    X, y = latents(300, 500)
    noise = latents(300, 500, seed=9)[0]
    assert fit_select({"noise": noise, "signal": X}, y, seed=0).candidate == "signal"


def test_a_tree_reads_wide_indices() -> None:
    X, y = latents(200, 300)
    wide = sparse.csr_array(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    outcome = evaluate(wide, y, make_split(task_data(y), 0), probe="tree")
    assert outcome.probe is not None
    assert outcome.probe.setting in SETTINGS["tree"]
    assert outcome.macro_f1 > 0.5


def test_a_million_latents_never_become_dense() -> None:
    X, y = latents(250, 1_000_000, per_doc=100)
    split = make_split(task_data(y), 0)
    tracemalloc.start()
    for cell in (Candidate(X), Candidate(X, scaling="std", k=50)):
        evaluate(cell, y, split, grid=(0.3, 3.0), n_jobs=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    dense_copy = 200 * 1_000_000 * 4
    assert peak < dense_copy / 4


def test_scaler_drops_what_never_fires_and_gives_unit_rows() -> None:
    X, y = latents(100, 400)
    for scaling in ("none", "max", "std"):
        scaler = Scaler.fit(X, y, scaling)
        scaled = scaler.transform(X)
        assert scaled.power(2).sum() / 100 == pytest.approx(1, rel=1e-4)
        assert len(scaler.columns) == np.count_nonzero(X.sum(axis=0))


def test_outcome_pairs_answers_with_ids() -> None:
    X, y = latents(200, 100)
    data = task_data(y)
    outcome = evaluate(X, y, make_split(data, 0, n_test=30))
    assert list(data.ids[outcome.split.test]) == list(outcome.ids)
    assert outcome.accuracy == np.mean(outcome.y_true == outcome.y_pred)
    worse = replace(outcome, y_pred=1 - outcome.y_pred)
    assert worse.accuracy == pytest.approx(1 - outcome.accuracy)


def test_many_weights_in_the_span_of_the_documents_are_the_same_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """77 intents are what this is for; the weights stay those of the features."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 4)
    X = sparse.random_array((80, 300), density=0.1, rng=rng, format="csr")
    X = sparse.csr_array(X + sparse.csr_array((np.ones(80), (np.arange(80), y)), shape=X.shape))
    unseen = sparse.random_array((30, 300), density=0.1, rng=rng, format="csr")
    spy = Mock(wraps=row_space)
    monkeypatch.setattr(select, "row_space", spy)
    fitted, calls = {}, {}
    for name, many in (("span", 5_000), ("features", 6_000)):
        monkeypatch.setattr(select, "MANY_WEIGHTS", many)
        fitted[name] = fit_select(X, y, seed=0, grid=(0.3, 30.0), n_folds=2, n_jobs=1)
        calls[name] = spy.call_count
    assert calls == {"span": 3, "features": 3}  # two folds and the whole, then no more
    assert fitted["span"].setting == fitted["features"].setting
    np.testing.assert_allclose(fitted["span"].coef, fitted["features"].coef, atol=1e-4)
    span, features = (fitted[name].probabilities(unseen) for name in ("span", "features"))
    np.testing.assert_allclose(span, features, atol=1e-4)
