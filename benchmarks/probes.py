"""Time of one probe sweep: ours, GridSearchCV as a user would write it, and the authors' probe.

    python benchmarks/probes.py            # n = 1,500 and d = 1k, 16k, 65k, 1M; about 10 minutes
    python benchmarks/probes.py --quick    # n = 600 and d = 1k, 16k; about a minute

Documents are binary rows with 440-620 active latents drawn from a Zipf law that leans a little
towards either of two classes; 3% of labels are flipped. A sweep is 5 C x 5 folds and the final
fit. The user's version holds dense float32 features, scales each by its maximum as we do, and sees
the same folds and penalties (our C counts rows of unit mean square length). The authors' probe is
one fit without their cross-validation. Macro-F1 is on 2,000 further documents.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from mosaic.data.splits import inner_folds
from mosaic.probes.authors import fit_authors_linear
from mosaic.probes.select import N_FOLDS, SETTINGS, fit_select

N_TEST = 2000
DENSE_UP_TO = 65_536
HEADER = (
    "| d | GridSearchCV, dense (s) | ours (s) | faster | authors' probe, one fit (s) "
    "| macro-F1 GridSearchCV | ours | authors |"
)


def zipf_documents(n_docs: int, n_latents: int, seed: int) -> tuple[sparse.csr_array, np.ndarray]:
    """Binary rows `[n_docs, n_latents]` with Zipf-distributed latents, and two-class labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n_docs)
    name_of_rank = rng.permutation(n_latents)
    lean = 0.15 * rng.normal(size=n_latents)
    cumulative = []
    for sign in (-1, 1):
        rate = np.exp(sign * lean) / np.arange(1, n_latents + 1)
        cumulative.append(np.cumsum(rate) / rate.sum())
    rows = []
    for label, size in zip(y, rng.integers(440, 621, n_docs), strict=True):
        active = np.empty(0, dtype=int)
        while len(active) < size:
            more = np.searchsorted(cumulative[label], rng.random(size))
            active = np.unique(np.r_[active, np.minimum(more, n_latents - 1)])
        rows.append(np.sort(name_of_rank[rng.permutation(active)[:size]]))
    indptr = np.cumsum([0] + [len(row) for row in rows]).astype(np.int32)
    indices = np.concatenate(rows).astype(np.int32)
    data = np.ones(len(indices), dtype=np.float32)
    X = sparse.csr_array((data, indices, indptr), shape=(n_docs, n_latents))
    return X, np.where(rng.random(n_docs) < 0.03, 1 - y, y)


def grid_search(X: sparse.csr_array, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    """The sweep as a user would write it: dense features, default threads, one fit at a time."""
    mean_square_length = X.sum() / X.shape[0]
    search = GridSearchCV(
        make_pipeline(MaxAbsScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)),
        {"logisticregression__C": [C / mean_square_length for C in SETTINGS["linear"]]},
        scoring="f1_macro",
        cv=inner_folds(y, None, N_FOLDS, seed=0),
    ).fit(X.toarray(), y)
    return lambda X_test: search.predict(X_test.toarray())


def ours(X: sparse.csr_array, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    return fit_select(X, y, seed=0).predict


def authors(X: sparse.csr_array, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    learned = fit_authors_linear(X, y, seed=0)
    return lambda X_test: ((X_test @ learned.coef.T + learned.intercept)[:, 0] > 0).astype(int)


def measure(
    sweep: Callable[..., Callable[[Any], np.ndarray]],
    train: tuple[sparse.csr_array, np.ndarray],
    test: tuple[sparse.csr_array, np.ndarray],
) -> tuple[float, float]:
    """Wall seconds of a sweep and the macro-F1 of its probe."""
    start = time.perf_counter()
    predict = sweep(*train)
    seconds = time.perf_counter() - start
    return seconds, float(f1_score(test[1], predict(test[0]), average="macro"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="600 documents, up to 16k latents")
    quick = parser.parse_args().quick
    n_train = 600 if quick else 1500
    widths = (1024, 16_384) if quick else (1024, 16_384, 65_536, 1_048_576)
    print(f"n = {n_train}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run\n")
    print(HEADER)
    print("|" + "---|" * 8)
    warm_up = zipf_documents(60, 1024, seed=9)
    ours(*warm_up)
    authors(*warm_up)
    for n_latents in widths:
        X, y = zipf_documents(n_train + N_TEST, n_latents, seed=0)
        train, test = (X[:n_train], y[:n_train]), (X[n_train:], y[n_train:])
        our_time, our_f1 = measure(ours, train, test)
        their_time, their_f1 = measure(authors, train, test)
        user_time, user_f1, factor = "does not fit", "", ""
        if n_latents <= DENSE_UP_TO:
            seconds, f1 = measure(grid_search, train, test)
            user_time, user_f1, factor = f"{seconds:.1f}", f"{f1:.4f}", f"{seconds / our_time:.1f}x"
        print(
            f"| {n_latents:,} | {user_time} | {our_time:.1f} | {factor} | {their_time:.1f} "
            f"| {user_f1} | {our_f1:.4f} | {their_f1:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
