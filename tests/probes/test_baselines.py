"""TF-IDF as the authors made it, to the last digit; and baselines that are fair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documents import task_data
from probed import evaluate

from mosaic.config.profiles import Profile
from mosaic.data.load import TaskData, load_task, missing_reason
from mosaic.data.splits import Split, make_split
from mosaic.errors import ConfigError
from mosaic.probes.baselines import majority, text_lengths, tfidf_candidates
from mosaic.probes.evaluate import Outcome
from mosaic.probes.select import fit_select

GOLDEN = {
    "sentiment-en": (0.5193013, 0.5229885, 174),
    "toxicity-en": (0.8999324, 0.9, 1000),
    "toxicity-ru": (0.8297276, 0.83, 1000),
    "toxicity-zh": (0.3801161, 0.513, 1000),
}
"""Published macro-F1, accuracy and number of test documents of the authors' TF-IDF."""


def tfidf(data: TaskData, split: Split, **options: object) -> Outcome:
    """TF-IDF of a task's texts under the protocol of the split."""
    return evaluate(tfidf_candidates(data, split.protocol), data.labels, split, **options)


@pytest.mark.parametrize("task", GOLDEN)
def test_published_tfidf_is_the_published_number(task: str, real_data: Path) -> None:
    profile = Profile("paper", "paper", models=(), tasks=(task,), data_dir=str(real_data))
    if (missing := missing_reason(profile.task(task), profile)) is not None:
        pytest.skip(f"golden TF-IDF number: {missing}")
    data = load_task(task, profile)
    outcome = tfidf(data, make_split(data, 0, "published"))
    macro_f1, accuracy, n_test = GOLDEN[task]
    assert round(outcome.macro_f1, 7) == macro_f1
    assert round(outcome.accuracy, 7) == accuracy
    assert len(outcome.ids) == n_test


def corpus() -> tuple[list[str], np.ndarray]:
    """Made reviews: the third word tells, one time in five it lies."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    words = [["dull", "slow", "weak"], ["bright", "quick", "strong"]]
    telling = np.where(rng.random(200) < 0.2, 1 - labels, labels)
    nouns = rng.choice(["film", "song", "book", "play"], 200)
    texts = [
        f"the {noun} was {rng.choice(words[side])} number {rng.integers(40)}"
        for noun, side in zip(nouns, telling, strict=True)
    ]
    return texts, labels


def test_published_tfidf_on_a_made_corpus() -> None:
    texts, labels = corpus()
    data = task_data(labels, texts)
    outcome = tfidf(data, make_split(data, 0, "published"))
    assert round(outcome.macro_f1, 7) == 0.7474747
    assert outcome.probe is not None
    assert not {"the", "was"} & set(outcome.probe.vectorizer.vocabulary_)


def test_nested_tfidf_is_fair_to_chinese() -> None:
    """The label is the order of two characters, inside clauses without spaces."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    filler = list("天地人山水火木金土日月星云雨雪花草树鸟鱼")
    texts = []
    for label in labels:
        left, right = ("".join(rng.choice(filler, 6)) for _ in range(2))
        texts.append(f"{left}{'好坏' if label else '坏好'}{right}")
    data = task_data(labels, texts)
    fair = tfidf(data, make_split(data, 0), n_jobs=1)
    assert fair.macro_f1 > 0.9
    assert fair.probe is not None
    assert "char" in fair.probe.candidate
    assert tfidf(data, make_split(data, 0, "published")).macro_f1 < 0.7


def test_vocabulary_comes_from_the_training_part_only() -> None:
    texts, labels = corpus()
    data = task_data(labels, texts)
    split = make_split(data, 0)
    for row in split.test:
        texts[row] += " unseenword"
    outcome = tfidf(task_data(labels, texts), split, n_jobs=1)
    assert outcome.probe is not None
    names = outcome.probe.vectorizer.get_feature_names_out()
    assert not [name for name in names if "unseen" in name]
    assert len(outcome.probe.columns) <= len(names)


def test_candidates_are_words_characters_and_both() -> None:
    texts, labels = corpus()
    cells = tfidf_candidates(task_data(labels, texts))
    assert list(cells) == ["word", "char", "word+char"]
    fitted = fit_select(cells, labels, seed=0, n_jobs=1)
    assert fitted.candidate in cells
    assert fitted.cv_score is not None
    assert fitted.cv_score == pytest.approx(0.8, abs=0.1)


def test_length_tells_when_length_is_the_label() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    texts = ["word " * int(rng.integers(3, 9) + 4 * label) for label in labels]
    data = task_data(labels, texts)
    split = make_split(data, 0)
    assert evaluate(text_lengths(data), labels, split, n_jobs=1).macro_f1 > 0.7
    other = task_data(rng.permutation(labels), texts)
    outcome = evaluate(text_lengths(other), other.labels, make_split(other, 0), n_jobs=1)
    assert outcome.macro_f1 < 0.65


def test_the_base_rate_is_a_probe_of_nothing() -> None:
    data = task_data(np.repeat([0, 1, 2], [100, 300, 100]))
    split = make_split(data, 0)
    nothing = np.zeros((len(split.test), 0))
    said = Outcome.of(majority(data.labels[split.train]), nothing, data.labels[split.test], split)
    assert set(said.y_pred) == {1}
    assert said.accuracy == 0.6
    assert len(said.probe.columns) == 0
    assert said.probabilities.tolist() == [[0, 1, 0]] * 100


def test_images_have_no_words() -> None:
    data = task_data(np.arange(20) % 2, inputs=[object()] * 20, modality="image")
    with pytest.raises(ConfigError, match="'image'; this baseline reads texts"):
        tfidf(data, make_split(data, 0))
