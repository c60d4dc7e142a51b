"""What features of a language model must beat: TF-IDF, prompt length and base rates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion

from mosaic.data.load import TaskData
from mosaic.data.splits import PUBLISHED_SEED, Split
from mosaic.errors import ConfigError
from mosaic.probes.evaluate import Outcome, evaluate
from mosaic.probes.select import Candidate, FittedProbe

BASE_RATES = {"majority": "most_frequent", "stratified": "stratified"}


def tfidf(data: TaskData, split: Split, **options: Any) -> Outcome:
    """TF-IDF and logistic regression under the protocol of the split.

    - `published`: words and word pairs, 20,000 at most, English stop words in every language,
      C = 1, balanced class weights (authors' code). Deterministic.
    - `nested`: words, characters or both, with C, chosen by inner cross-validation; the vocabulary
      is learnt on the training part of each fold, and no stop words are removed. Characters keep
      it fair to Chinese, where a word pattern takes a whole clause for one word (ours). Options
      are those of `fit_select`.

    Raises ConfigError for a task of images.
    """
    texts = _texts(data)
    if split.protocol == "published":
        return _published_tfidf(texts, data.labels, split)
    return evaluate(tfidf_candidates(texts), data.labels, split, **options)


def tfidf_candidates(texts: Sequence[str]) -> dict[str, Candidate]:
    """The candidate descriptions of texts: `word`, `char` and `word+char` n-grams (ours)."""
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    chars = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    both = FeatureUnion([("word", words), ("char", chars)])
    return {
        name: Candidate(list(texts), scaling="none", vectorizer=vectorizer)
        for name, vectorizer in (("word", words), ("char", chars), ("word+char", both))
    }


def prompt_length(data: TaskData, split: Split, **options: Any) -> Outcome:
    """Probe on nothing but the length of a text: log characters and log words (ours)."""
    counts = np.array([[len(text), len(text.split())] for text in _texts(data)], dtype=float)
    return evaluate(np.log1p(counts), data.labels, split, **options)


def base_rate(data: TaskData, split: Split, strategy: str = "majority") -> Outcome:
    """Answers that ignore the input: the `majority` class, or a `stratified` draw (ours)."""
    if strategy not in BASE_RATES:
        raise ConfigError(f"Unknown base rate {strategy!r}; use one of {tuple(BASE_RATES)}.")
    start = time.perf_counter()
    y = data.labels
    model = DummyClassifier(strategy=BASE_RATES[strategy], random_state=split.seed)
    model.fit(split.train[:, None], y[split.train])
    scores = model.predict_proba(split.test[:, None]).astype(np.float64)
    return Outcome(
        split=split,
        probe=None,
        y_true=y[split.test],
        y_pred=model.classes_[scores.argmax(axis=1)],
        probabilities=scores,
        n_features=0,
        seconds=time.perf_counter() - start,
    )


def _texts(data: TaskData) -> list[str]:
    if data.task.modality != "text":
        raise ConfigError(
            f"Task {data.task.key!r} has inputs of kind {data.task.modality!r}; "
            f"this baseline reads texts."
        )
    return [str(text) for text in data.inputs]


def _published_tfidf(texts: list[str], y: np.ndarray, split: Split) -> Outcome:
    start = time.perf_counter()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), max_features=20_000, stop_words="english")
    X_train = vectorizer.fit_transform([texts[i] for i in split.train])
    model = LogisticRegression(
        C=1.0, class_weight="balanced", max_iter=10_000, random_state=PUBLISHED_SEED
    ).fit(X_train, y[split.train])
    probe = FittedProbe(
        kind="linear",
        cell="tfidf",
        setting=1.0,
        cv_score=None,
        classes=model.classes_,
        columns=np.arange(X_train.shape[1]),
        coef=model.coef_,
        intercept=model.intercept_,
        vectorizer=vectorizer,
    )
    scores = probe.probabilities([texts[i] for i in split.test])
    return Outcome(
        split=split,
        probe=probe,
        y_true=y[split.test],
        y_pred=model.classes_[scores.argmax(axis=1)],
        probabilities=scores,
        n_features=X_train.shape[1],
        seconds=time.perf_counter() - start,
    )
