"""Splits: the authors' own, and ours, which part no group and keep every class."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from documents import task_data
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from mosaic.data.splits import inner_folds, make_split
from mosaic.errors import ConfigError


def test_published_split_is_the_authors_call() -> None:
    data = task_data(np.arange(870) % 3)
    split = make_split(data, seed=7, protocol="published", n_train=10, n_test=10)
    texts_train, texts_test = train_test_split(
        data.inputs, test_size=0.2, random_state=42, stratify=data.labels
    )
    assert [data.inputs[i] for i in split.train] == texts_train
    assert [data.inputs[i] for i in split.test] == texts_test
    assert len(split.test) == 174


def test_nested_split_follows_ids_not_rows() -> None:
    data = task_data(np.arange(200) % 4)
    shuffled = data.subset(np.random.default_rng(1).permutation(200))
    first, second = make_split(data, 3), make_split(shuffled, 3)
    assert first.fingerprint == second.fingerprint
    assert list(first.train_ids) == list(second.train_ids)
    assert first.fingerprint != make_split(data, 4).fingerprint
    assert set(first.train_ids).isdisjoint(first.test_ids)
    assert len(first.train) + len(first.test) == 200


@given(seed=st.integers(0, 1000), n_groups=st.integers(60, 150))
@settings(max_examples=25, deadline=None)
def test_groups_and_copies_never_stand_on_both_sides(seed: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, 300)
    texts = [f"text {i}" for i in rng.integers(0, 5000, 300)]
    data = task_data(rng.integers(0, 2, 300), texts, groups)
    split = make_split(data, seed)
    assert set(groups[split.train]).isdisjoint(groups[split.test])
    assert {texts[i] for i in split.train}.isdisjoint({texts[i] for i in split.test})
    for fit, score in inner_folds(data.labels[split.train], split.train_groups, 5, seed):
        assert set(groups[split.train[fit]]).isdisjoint(groups[split.train[score]])


def test_caps_are_met_and_stratified() -> None:
    data = task_data(np.repeat([0, 1], [750, 250]))
    split = make_split(data, 0, n_train=400, n_test=400)
    assert len(split.train) == 400
    assert len(split.test) == 400
    assert data.labels[split.train].mean() == pytest.approx(0.25, abs=0.003)
    assert data.labels[split.test].mean() == pytest.approx(0.25, abs=0.003)
    assert len(make_split(data, 0, n_train=100).test) == 200


def test_a_rare_class_is_spread_over_the_folds() -> None:
    y = np.array([0] * 40 + [1] * 40 + [2] * 2)
    folds = inner_folds(y, None, 5, seed=0)
    assert len(folds) == 5
    assert sorted(np.concatenate([score for _, score in folds])) == list(range(82))
    assert all(2 in y[fit] for fit, _ in folds)


def test_groups_that_all_lean_to_one_class_are_said() -> None:
    y = np.array([0, 0, 1] * 10)
    with pytest.raises(ConfigError, match="two classes with at least 2 training documents or"):
        inner_folds(y, np.repeat(np.arange(10), 3), 5, seed=0)


@pytest.mark.parametrize("protocol", ["nested", "published"])
def test_a_class_of_one_document_is_learnt_from_and_said(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.asarray([0] * 20 + [1] * 20 + [2])
    data = task_data(labels)
    split = make_split(data, 0, protocol)
    assert 2 in labels[split.train]
    assert set(labels[split.test]) == {0, 1}
    assert sorted([*split.train, *split.test]) == list(range(41))
    assert "1 classes have one document each" in caplog.text


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0] * 30, "at least two classes, found one in 30"),
        ([0] * 29 + [1], "classes of sizes \\[29, 1\\] cannot give a stratified sample"),
    ],
)
def test_too_few_classes_are_named(labels: list[int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_split(task_data(labels), 0)


def many_classes(n_docs: int, n_classes: int = 77) -> np.ndarray:
    """Labels in which every class has two documents at least, and some have many."""
    rng = np.random.default_rng(0)
    rest = rng.integers(0, n_classes, n_docs - 4 * n_classes) ** 2 // n_classes
    return rng.permutation(np.concatenate([np.repeat(np.arange(n_classes), 4), rest]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("caps", [(780, 180), (800, 190), (795, 195)])
def test_a_cap_near_the_size_needs_no_class_left_over(seed: int, caps: tuple[int, int]) -> None:
    y = many_classes(1000)
    split = make_split(task_data(y), seed, n_train=caps[0], n_test=caps[1])
    whole = make_split(task_data(y), seed, n_train=None, n_test=None)
    assert (len(split.train), len(split.test)) == caps
    assert set(split.train).isdisjoint(split.test)
    assert len(whole.train) - caps[0] < 77
    assert set(y[split.train]) == set(range(77))
    share = np.bincount(y[split.train]) / np.bincount(y) / (caps[0] / 1000)
    assert 0.7 < share.min() <= share.max() < 1.3
    again = make_split(task_data(y), seed, n_train=caps[0], n_test=caps[1])
    assert split.fingerprint == again.fingerprint
    other = make_split(task_data(y), seed + 1, n_train=caps[0], n_test=caps[1])
    assert split.fingerprint != other.fingerprint


def test_splits_that_could_be_drawn_before_are_what_they_were() -> None:
    """Fingerprints of the first release: scores of shipped runs are paired by them."""
    few = np.random.default_rng(1).integers(0, 3, 500)
    found = [
        make_split(task_data(y), seed, n_train=n_train, n_test=n_test).fingerprint
        for seed in range(5)
        for y, caps in (
            (many_classes(1000), [(400, None), (720, None), (None, None)]),
            (few, [(200, 100), (396, None), (390, 97)]),
        )
        for n_train, n_test in caps
    ]
    digest = hashlib.sha256("".join(found).encode()).hexdigest()
    assert digest == "7997367f7d5dd524819add69be878928bee20ddc9d2e1b7e662f0941f494eb81"


@pytest.mark.parametrize(("n_train", "n_test"), [(400, 50), (60, 100)])
def test_a_cap_below_the_number_of_classes_is_said(n_train: int, n_test: int) -> None:
    with pytest.raises(ConfigError, match="cannot hold one of each of the .. classes; rai"):
        make_split(task_data(many_classes(1000)), 0, n_train=n_train, n_test=n_test)


@pytest.mark.parametrize("often", [1, 12, 33])
def test_a_text_that_stands_often_does_not_decide_the_size_of_the_test_part(often: int) -> None:
    texts = [""] * often + [f"text {i}" for i in range(100 - often)]
    data = task_data(np.arange(100) % 2, texts)
    for seed in range(5):
        split = make_split(data, seed)
        assert len(split.test) == 20
        assert len(split.train) == 80


@pytest.mark.parametrize(("size", "tested"), [(15, 8), (30, 5), (34, 3)])
def test_one_large_group_is_trained_on(size: int, tested: int) -> None:
    """Of 40 rows; the test part is a fifth of them, or half of what the group leaves."""
    groups = np.maximum(np.arange(40), size - 1)[::-1].copy()
    for seed in range(5):
        split = make_split(task_data(np.arange(40) % 2, groups=groups), seed)
        assert (len(split.train), len(split.test)) == (40 - tested, tested)


def test_a_class_that_training_lacks_is_refused() -> None:
    labels = np.repeat([0, 0, 1, 1, 1, 2, 0, 1], [20, 20, 20, 20, 20, 1, 3, 3])
    groups = np.asarray([*range(100), *[200] * 7])
    said = 0
    for seed in range(10):
        try:
            split = make_split(task_data(labels, groups=groups), seed)
        except ConfigError as error:
            said += "the class" in str(error)
        else:
            assert set(labels[split.test]) <= set(labels[split.train])
    assert 0 < said < 10
