"""What probabilities are worth beside the answer: ranking and calibration."""

import numpy as np
from sklearn.metrics import roc_auc_score

N_BINS = 10


def probability_scores(
    y_true: np.ndarray, classes: np.ndarray, probabilities: np.ndarray
) -> dict[str, float | None]:
    """`auroc`, `brier` and `ece` of probabilities `[n_docs, n_classes]`, columns as in `classes`.

    - `auroc`: each class that occurs against the rest, mean of classes; None where only one occurs.
    - `brier`: half the squared distance to the truth, so that it lies in 0 to 1 and is the usual
      score for two classes.
    - `ece`: expected calibration error of the most probable class in `N_BINS` bins of equal width.
    """
    # A class of the test part that training never saw has no column: its probability is 0.
    known = np.union1d(classes, y_true)
    spread = np.zeros((len(y_true), len(known)))
    spread[:, np.searchsorted(known, classes)] = probabilities
    truth = y_true[:, None] == known
    occurs = truth.any(axis=0)
    several, right = occurs.sum() > 1, spread.argmax(axis=1) == truth.argmax(axis=1)
    return {
        "auroc": float(roc_auc_score(truth[:, occurs], spread[:, occurs])) if several else None,
        "brier": float(((spread - truth) ** 2).sum(axis=1).mean() / 2),
        "ece": _calibration_error(spread.max(axis=1), right),
    }


def _calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over bins, by their share of documents."""
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    surplus = np.bincount(bins, weights=confidence - right, minlength=N_BINS)
    return float(np.abs(surplus).sum() / len(right))
