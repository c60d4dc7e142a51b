"""Selection: the best probe for a training part, chosen without seeing any other row.

`fit_select` is the only way to choose anything under `nested` (C, depth of a tree, layer, width,
pooling), and it is never given a test row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.special import expit, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import ThreadpoolController

from mosaic.data.splits import inner_folds
from mosaic.errors import ConfigError
from mosaic.probes.scaling import Matrix, Scaler, narrow, row_space
from mosaic.scores.choose import level
from mosaic.scores.intervals import macro_f1

SETTINGS: dict[str, tuple[Any, ...]] = {
    "linear": (0.03, 0.3, 3.0, 30.0, 300.0, 3000.0),
    "tree": (2, 4, 6, 8, 12),
}
"""Inverse regularisation C at rows of unit mean square length (`Scaler`); tree depth."""

N_FOLDS = 5

SOLVER = "newton-cg"
"""As exact as lbfgs at this tolerance, as fast with two classes and three times as fast with more
(`benchmarks/solvers.py`)."""

TOLERANCE = 1e-5
"""Ten times stricter than scikit-learn's: gradients are small where rows have unit length."""

MANY_WEIGHTS = 1_000_000
"""A fit with more weights, and more features than documents, is done in the span of the documents:
the same fit, twice as fast from here on and four times with ten classes at a width of 1M
(`benchmarks/solvers.py`)."""

DENSE_FROM = 0.25
"""Share of non-zero entries above which a dense copy is faster, at twice the memory at most."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to describe documents: what selection may choose between."""

    X: Any
    """CSR or dense `[n_docs, n_features]`, or a list of texts if `vectorizer` is given."""
    scaling: str = "auto"
    """`auto` (max for sparse, std for dense), `none`, `max` or `std`; see `Scaler`."""
    k: int | None = None
    """Keep the k features whose class means differ most, chosen on each training part."""
    vectorizer: Any = None
    """Unfitted scikit-learn transformer that makes a matrix of texts."""

    def __len__(self) -> int:
        return len(self.X) if isinstance(self.X, list) else self.X.shape[0]

    def take(self, rows: np.ndarray) -> Candidate:
        X = [self.X[i] for i in rows] if isinstance(self.X, list) else self.X[rows]
        return replace(self, X=X)


def stacked(parts: Sequence[Mapping[str, Candidate]]) -> dict[str, Candidate]:
    """The candidates with the documents of all parts, in order; each part describes them alike."""
    return {name: _stack([part[name] for part in parts]) for name in parts[0]}


def _stack(parts: Sequence[Candidate]) -> Candidate:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0].X, list):
        return replace(parts[0], X=[text for part in parts for text in part.X])
    stack = sparse.vstack if sparse.issparse(parts[0].X) else np.vstack
    found = stack([part.X for part in parts])
    return replace(parts[0], X=found.tocsr() if sparse.issparse(found) else found)


Candidates = Candidate | Matrix | Mapping[str, Candidate | Matrix]
"""One candidate, a bare matrix, or a mapping of names to either."""


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A trained classifier with everything needed to apply it to new documents."""

    classes: np.ndarray
    """`[n_classes]` labels, in the order of the probabilities."""
    columns: np.ndarray
    """`[n_used]` features the probe reads."""
    coef: Any = None
    """`[1 or n_classes, n_used]` weights per original feature unit; None for a tree."""
    intercept: Any = None
    tree: DecisionTreeClassifier | None = None
    vectorizer: Any = None
    candidate: str = ""
    """Name of the chosen candidate."""
    setting: float | None = None
    """The chosen C or tree depth; None where there is no choice."""
    cv_score: float | None = None
    """Macro-F1 of the chosen candidate and setting, mean over inner folds."""

    @property
    def kind(self) -> str:
        """One of PROBES."""
        return "linear" if self.tree is None else "tree"

    def probabilities(self, X: Any) -> np.ndarray:
        """Probability per class, `[n_docs, n_classes]`, of documents described alike."""
        if self.vectorizer is not None:
            X = self.vectorizer.transform(X)
        if self.tree is not None:
            return self.tree.predict_proba(narrow(X[:, self.columns]))
        logits = X[:, self.columns] @ self.coef.T + self.intercept
        if logits.shape[1] == 1:
            positive = expit(logits)
            return np.hstack([1 - positive, positive])
        return softmax(logits, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable label of each document, `[n_docs]`."""
        return self.classes[self.probabilities(X).argmax(axis=1)]


def fit_select(
    candidates: Candidates,
    y: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    probe: str = "linear",
    grid: Sequence[float] | None = None,
    n_folds: int = N_FOLDS,
    n_jobs: int = -1,
) -> FittedProbe:
    """Choose candidate and setting by inner cross-validation on training rows, then fit on all.

    Parameters
    ----------
    candidates : a `Candidate` or matrix, or a mapping of names to them, each `[n_train, ...]`.
    y : `[n_train]` labels.
    groups : `[n_train]`, rows that share a value stay in one fold.
    grid : C values or tree depths, default `SETTINGS[probe]`.
    n_jobs : fits at a time; the backend follows `joblib.parallel_config`.

    The winner has the highest macro-F1, mean over folds. Of candidates that are level to rounding
    it is the first, and of its settings that are level the one of strongest regularization, so
    that all processors choose alike. Every fit uses one BLAS thread and balanced class weights. The
    result does not depend on `n_jobs` (ours).
    """
    named = named_candidates(candidates, len(y))
    # Strongest regularization first.
    grid = tuple(sorted(SETTINGS[probe] if grid is None else grid))
    folds = inner_folds(y, groups, n_folds, seed)
    jobs = [(name, fold) for name in named for fold in folds]
    with _lean():
        scores = Parallel(n_jobs=min(n_jobs, len(jobs)), prefer="threads")(
            delayed(_fold_scores)(named[name], y, *fold, probe, grid, seed) for name, fold in jobs
        )
        table = np.reshape(scores, (len(named), len(folds), len(grid))).mean(axis=1)
        best, at = np.unravel_index(level(table).argmax(), table.shape)
        name, setting = list(named)[best], grid[at]
        X, vectorizer = _as_matrix(named[name])
        fitted = next(_fit_each(X, named[name], y, probe, (setting,), seed))
    return replace(
        fitted,
        candidate=name,
        vectorizer=vectorizer,
        setting=float(setting),
        cv_score=float(table[best, at]),
    )


def named_candidates(candidates: Candidates, n_docs: int) -> dict[str, Candidate]:
    """Candidates by name (a single one is called ""), each checked to describe `n_docs` documents.

    Raises ConfigError.
    """
    candidates = candidates if isinstance(candidates, Mapping) else {"": candidates}
    if not candidates:
        raise ConfigError("No feature matrix to choose from; pass at least one candidate.")
    named = {n: c if isinstance(c, Candidate) else Candidate(c) for n, c in candidates.items()}
    for name, candidate in named.items():
        if len(candidate) != n_docs:
            raise ConfigError(
                f"Candidate {name!r} has {len(candidate)} documents but there are {n_docs} labels; "
                f"both must cover the same documents in the same order."
            )
    return named


def _fold_scores(
    candidate: Candidate,
    y: np.ndarray,
    fit_rows: np.ndarray,
    score_rows: np.ndarray,
    probe: str,
    grid: tuple[float, ...],
    seed: int,
) -> list[float]:
    X_fit, vectorizer = _as_matrix(candidate.take(fit_rows))
    X_score = candidate.take(score_rows).X
    if vectorizer is not None:
        X_score = sparse.csr_array(vectorizer.transform(X_score))
    with _lean():
        return [
            macro_f1(y[score_rows], fitted.predict(X_score))
            for fitted in _fit_each(X_fit, candidate, y[fit_rows], probe, grid, seed)
        ]


def _as_matrix(candidate: Candidate) -> tuple[Matrix, Any]:
    """Features of a training part, and the vectorizer learnt on it if it holds texts."""
    if candidate.vectorizer is None:
        return candidate.X, None
    vectorizer = clone(candidate.vectorizer)
    return sparse.csr_array(vectorizer.fit_transform(candidate.X)), vectorizer


def _fit_each(
    X: Matrix, candidate: Candidate, y: np.ndarray, probe: str, grid: tuple[float, ...], seed: int
) -> Iterator[FittedProbe]:
    """One probe per setting, all on the same training part.

    Trees read the chosen columns as they are, for no scale moves a split. Logistic regressions read
    scaled ones, and each C starts from the one before.
    """
    scaler = Scaler.fit(X, y, candidate.scaling, candidate.k)
    # What class_weight="balanced" would work out anew in every fit, in a fifth of a fit's time.
    balanced = compute_sample_weight("balanced", y)
    if probe == "tree":
        used = narrow(X[:, scaler.columns])
        for depth in grid:
            tree = DecisionTreeClassifier(max_depth=int(depth), random_state=seed)
            tree.fit(used, y, sample_weight=balanced)
            yield FittedProbe(tree.classes_, scaler.columns, tree=tree, setting=depth)
        return
    scaled = scaler.transform(X)
    read, back = scaled, None
    n_docs, n_features = scaled.shape
    n_classes = len(np.unique(y))
    n_weights = n_features * (n_classes if n_classes > 2 else 1)
    if n_docs < n_features and n_weights > MANY_WEIGHTS:
        read, back = row_space(scaled)
    elif sparse.issparse(scaled) and scaled.nnz > DENSE_FROM * n_docs * n_features:
        read = scaled.toarray()
    model = LogisticRegression(solver=SOLVER, max_iter=2000, tol=TOLERANCE, warm_start=True)
    for C in grid:
        model.set_params(C=C).fit(read, y, sample_weight=balanced)
        weights = model.coef_ if back is None else (model.coef_ @ back) @ scaled
        coef, intercept = scaler.unscale(weights, model.intercept_)
        yield FittedProbe(model.classes_, scaler.columns, coef, intercept, setting=C)


@contextmanager
def _lean() -> Iterator[None]:
    """One BLAS thread a fit, and no repeated checks of values that `Scaler.fit` has checked.

    With default threads many small fits wait for each other.
    """
    trusting = config_context(assume_finite=True, skip_parameter_validation=True)
    with _blas().limit(limits=1), trusting:
        yield


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process; to find them takes as long as a small fit."""
    return ThreadpoolController()
