"""What is said of texts and labels of one's own."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from documents import task_data

from mosaic.config.profiles import load_profile
from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.experiments.own_texts import doubtful_classes, parts_said, reading_said, rows_said
from mosaic.models.resolve import resolve

REAL = [
    "The film was long but the acting saved it, and I would see it again with my family.",
    "Delivery took three weeks and nobody answered my emails. Never again!",
] * 10


def test_rows_classes_and_parts_are_said() -> None:
    texts = ["", " ", "same", "same", *(f"text {i}" for i in range(46))]
    data = replace(task_data(np.arange(50) % 2, texts), label_names=("neg", "Neg "))
    lines = rows_said(data)
    assert lines[0].endswith("50 rows; classes: 'neg' 25, 'Neg ' 25")
    assert lines[1].startswith("warning: 2 texts are blank")
    assert lines[2].startswith("1 rows repeat the text of another")
    assert lines[3] == "warning: of 49 texts 1 stand with more than one label"
    assert lines[4] == "warning: ['neg', 'Neg '] look like one class spelt twice"
    parts = parts_said(data, make_split(data, 0, n_train=30, n_test=10))
    assert parts == "30 texts train and 10 test; 10 are left out by n_train, n_test"


def test_of_many_classes_the_largest_are_named() -> None:
    labels = np.r_[np.arange(1000), [700] * 5]
    data = replace(task_data(labels), label_names=tuple(f"c{i}" for i in range(1000)))
    said = rows_said(data)[0]
    assert "1005 rows; classes: 'c0' 1, " in said
    assert said.endswith("'c18' 1, 'c700' 6 and 980 more")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("1", "1.0", "2"), "['1', '1.0'] look like one"),
        (("nan", "pos"), "the class 'nan' looks like a missing label"),
        (("caf\u00e9", "cafe\u0301", "x"), "look like one class spelt twice"),
        (("neg", "neg\u200b"), "look like one class spelt twice"),
        (("-1", "0", "1"), "the class '-1' looks like a missing label"),
        (("-100", "0", "1"), "the class '-100' looks like a missing label"),
        (("?", "pos"), "the class '?' looks like a missing label"),
        (("non-toxic", "non toxic", "toxic"), "look like one class spelt twice"),
    ],
)
def test_classes_to_look_at_are_named(names: tuple[str, ...], says: str) -> None:
    assert [line for line in doubtful_classes(names) if says in line]
    assert doubtful_classes(("neg", "pos", "1", "2", "+", "-", "C#", "C++")) == []


def test_a_model_that_cannot_read_the_words_is_said() -> None:
    profile = load_profile("mini")
    model = resolve(profile.model("mini-small"), profile)
    said = reading_said(model, REAL, profile)
    assert len(said) == 1
    assert re.search(
        "warning: mini-small has no words .* 76% of theirs are read in scraps", said[0]
    )
    assert reading_said(model, ["The film was long but the acting saved it."], profile)
    for task in profile.tasks:
        data = load_task(task, profile)
        if data.task.modality == "text":
            assert reading_said(model, data.inputs[:200], profile) == []
    assert (
        "20 of 20 texts are cut after 4"
        in reading_said(model, REAL, replace(profile, max_length=4))[0]
    )
