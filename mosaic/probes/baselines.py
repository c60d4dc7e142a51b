"""What features of a language model must beat: TF-IDF, prompt length and base rates."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion

from mosaic.data.load import TaskData
from mosaic.errors import ConfigError
from mosaic.probes.select import Candidate, FittedProbe


def tfidf_candidates(data: TaskData, protocol: str = "nested") -> dict[str, Candidate]:
    """The candidate descriptions of a task's texts under a protocol.

    - `published`: words and word pairs, 20,000 at most, English stop words in every language; with
      C = 1 and balanced class weights (authors' code). Deterministic.
    - `nested`: words, characters or both, with C, chosen by inner cross-validation; the vocabulary
      is learnt on the training part of each fold, and no stop words are removed. Characters keep
      it fair to Chinese, where a word pattern takes a whole clause for one word (ours).

    Raises ConfigError for a task of images.
    """
    texts = _texts(data)
    if protocol == "published":
        words = TfidfVectorizer(ngram_range=(1, 2), max_features=20_000, stop_words="english")
        return {"tfidf": Candidate(texts, scaling="none", vectorizer=words)}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    chars = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    both = FeatureUnion([("word", words), ("char", chars)])
    return {
        name: Candidate(texts, scaling="none", vectorizer=vectorizer)
        for name, vectorizer in (("word", words), ("char", chars), ("word+char", both))
    }


def text_lengths(data: TaskData) -> np.ndarray:
    """Log characters and log words of every text, `[n_docs, 2]` (ours). Raises ConfigError."""
    counts = [[len(text), len(text.split())] for text in _texts(data)]
    return np.log1p(np.array(counts, dtype=float))


def majority(y: np.ndarray) -> FittedProbe:
    """The base rate: a probe of no feature at all, sure of the most frequent training label."""
    classes, counts = np.unique(y, return_counts=True)
    certain = np.where(np.arange(len(classes)) == counts.argmax(), 0.0, -np.inf)
    nothing = np.zeros(0, dtype=np.int64)
    return FittedProbe(classes, nothing, np.zeros((len(classes), 0)), certain)


def _texts(data: TaskData) -> list[str]:
    if data.task.modality != "text":
        raise ConfigError(
            f"Task {data.task.key!r} has inputs of kind {data.task.modality!r}; "
            f"this baseline reads texts."
        )
    return [str(text) for text in data.inputs]
