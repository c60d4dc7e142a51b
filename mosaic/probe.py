"""Probes: a classifier on the features of a training part, chosen without seeing any other row.

`fit_select` is the only way to choose anything under `nested` (C, depth of a tree, layer, width,
pooling), and it is never given a test row; `evaluate` hands it the training rows of a split and
applies the finished probe to the test rows once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from mosaic import published_probe
from mosaic.errors import ConfigError
from mosaic.scaling import Matrix, Scaler, narrow
from mosaic.splits import Split, inner_folds, make_split

__all__ = ["Cell", "FittedProbe", "Outcome", "Split", "evaluate", "fit_select", "make_split"]

PROBES = ("linear", "tree")
GRIDS: dict[str, tuple[Any, ...]] = {
    "linear": (0.1, 1.0, 10.0, 100.0, 1000.0),
    "tree": (2, 4, 6, 8, 12),
}
"""Inverse regularisation C at rows of unit mean square length (`Scaler`); tree depth."""
N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Cell:
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

    def take(self, rows: np.ndarray) -> Cell:
        X = [self.X[i] for i in rows] if isinstance(self.X, list) else self.X[rows]
        return replace(self, X=X)


Cells = Cell | Matrix | Mapping[str, Cell | Matrix]
"""One cell, a bare matrix, or a mapping of names to either."""


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A trained classifier with everything needed to apply it to new documents."""

    kind: str
    cell: str
    """Name of the chosen cell."""
    setting: float | None
    """The chosen C or tree depth; None for the published linear probe."""
    cv_score: float | None
    """Macro-F1 of the chosen cell and setting, mean over inner folds (published: accuracy)."""
    classes: np.ndarray
    """`[n_classes]` labels, in the order of the scores."""
    columns: np.ndarray
    """`[n_used]` features the probe reads."""
    coef: Any
    """`[1 or n_classes, n_used]` weights per original feature unit; None for a tree."""
    intercept: Any
    tree: DecisionTreeClassifier | None = None
    vectorizer: Any = None

    def scores(self, X: Any) -> np.ndarray:
        """Probability per class, `[n_docs, n_classes]`, of documents described like the cell."""
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
        return self.classes[self.scores(X).argmax(axis=1)]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a probe said about the test documents of a split."""

    split: Split
    probe: FittedProbe | None
    """None where nothing was fitted to features (base rates)."""
    y_true: np.ndarray
    y_pred: np.ndarray
    scores: np.ndarray
    """`[n_test, n_classes]` probabilities in the order of `probe.classes`."""
    n_features: int
    seconds: float
    """Wall time of selection, training and prediction."""

    @property
    def ids(self) -> np.ndarray:
        return self.split.test_ids

    @property
    def macro_f1(self) -> float:
        return float(f1_score(self.y_true, self.y_pred, average="macro", zero_division=0))

    @property
    def accuracy(self) -> float:
        return float(accuracy_score(self.y_true, self.y_pred))


def fit_select(
    cells: Cells,
    y: np.ndarray,
    *,
    seed: int,
    groups: np.ndarray | None = None,
    probe: str = "linear",
    grid: Sequence[float] | None = None,
    n_folds: int = N_FOLDS,
    n_jobs: int = -1,
) -> FittedProbe:
    """Choose cell and setting by inner cross-validation on training rows, then fit them on all.

    Parameters
    ----------
    cells : a `Cell` or matrix, or a mapping of names to them, each `[n_train, ...]`.
    y : `[n_train]` labels.
    groups : `[n_train]`, rows that share a value stay in one fold.
    grid : C values or tree depths, default `GRIDS[probe]`; ties go to the earlier one.
    n_jobs : fits at a time; the backend follows `joblib.parallel_config`.

    The winner has the highest macro-F1, mean over folds. Every fit uses one BLAS thread and
    balanced class weights. The result does not depend on `n_jobs` (ours).
    """
    if probe not in PROBES:
        raise ConfigError(f"Unknown probe {probe!r}; use one of {PROBES}.")
    named = _named(cells, len(y))
    grid = GRIDS[probe] if grid is None else tuple(grid)
    folds = inner_folds(y, groups, n_folds, seed)
    jobs = [(name, fold) for name in named for fold in folds]
    with threadpool_limits(1):
        scores = Parallel(n_jobs=min(n_jobs, len(jobs)), prefer="threads")(
            delayed(_fold_scores)(named[name], y, *fold, probe, grid, seed) for name, fold in jobs
        )
        table = np.reshape(scores, (len(named), len(folds), len(grid))).mean(axis=1)
        best_cell, best_setting = np.unravel_index(table.argmax(), table.shape)
        name, setting = list(named)[best_cell], grid[best_setting]
        fitted = next(_fit_each(named[name], y, probe, (setting,), seed))
    return replace(
        fitted, cell=name, setting=float(setting), cv_score=float(table[best_cell, best_setting])
    )


def evaluate(
    cells: Cells,
    y: np.ndarray,
    split: Split,
    *,
    probe: str = "linear",
    **options: Any,
) -> Outcome:
    """Train on the training part of a split under its protocol, then predict the test part once.

    `cells` and `y` cover all documents of the task. Under `nested`, options are those of
    `fit_select`; under `published` there is one cell, and `cv_accuracy=True` adds the authors'
    cross-validation.
    """
    start = time.perf_counter()
    named = _named(cells, len(y))
    train = {name: cell.take(split.train) for name, cell in named.items()}
    if split.protocol == "nested":
        fitted = fit_select(
            train,
            y[split.train],
            seed=split.seed,
            groups=split.train_groups,
            probe=probe,
            **options,
        )
    else:
        fitted = _fit_published(train, y[split.train], split.seed, probe, **options)
    test = named[fitted.cell].take(split.test).X
    scores = fitted.scores(test)
    return Outcome(
        split=split,
        probe=fitted,
        y_true=y[split.test],
        y_pred=fitted.classes[scores.argmax(axis=1)],
        scores=scores,
        n_features=len(fitted.columns),
        seconds=time.perf_counter() - start,
    )


def _named(cells: Cells, n_docs: int) -> dict[str, Cell]:
    cells = cells if isinstance(cells, Mapping) else {"": cells}
    if not cells:
        raise ConfigError("No feature matrix to choose from; pass at least one cell.")
    named = {n: c if isinstance(c, Cell) else Cell(c) for n, c in cells.items()}
    for name, cell in named.items():
        if len(cell) != n_docs:
            raise ConfigError(
                f"Cell {name!r} has {len(cell)} documents but there are {n_docs} labels; "
                f"both must cover the same documents in the same order."
            )
    return named


def _fold_scores(
    cell: Cell,
    y: np.ndarray,
    fit_rows: np.ndarray,
    score_rows: np.ndarray,
    probe: str,
    grid: tuple[float, ...],
    seed: int,
) -> list[float]:
    scored = cell.take(score_rows).X
    return [
        float(f1_score(y[score_rows], fitted.predict(scored), average="macro", zero_division=0))
        for fitted in _fit_each(cell.take(fit_rows), y[fit_rows], probe, grid, seed)
    ]


def _fit_each(
    cell: Cell, y: np.ndarray, probe: str, grid: tuple[float, ...], seed: int
) -> Iterator[FittedProbe]:
    """One probe per setting on the same training part; each C starts from the one before."""
    vectorizer = None if cell.vectorizer is None else clone(cell.vectorizer)
    X = cell.X if vectorizer is None else sparse.csr_array(vectorizer.fit_transform(cell.X))
    scaler = Scaler.fit(X, y, cell.scaling, cell.k)
    shared: dict[str, Any] = {
        "kind": probe,
        "cell": "",
        "cv_score": None,
        "columns": scaler.columns,
        "vectorizer": vectorizer,
    }
    if probe == "tree":
        used = narrow(X[:, scaler.columns])
        for depth in grid:
            tree = DecisionTreeClassifier(
                max_depth=int(depth), class_weight="balanced", random_state=seed
            ).fit(used, y)
            yield FittedProbe(
                **shared, setting=depth, classes=tree.classes_, coef=None, intercept=None, tree=tree
            )
        return
    scaled = scaler.transform(X)
    model = LogisticRegression(class_weight="balanced", max_iter=2000, warm_start=True)
    with threadpool_limits(1):
        for C in grid:
            model.set_params(C=C).fit(scaled, y)
            coef, intercept = scaler.unscale(model.coef_, model.intercept_)
            yield FittedProbe(
                **shared, setting=C, classes=model.classes_, coef=coef, intercept=intercept
            )


def _fit_published(
    train: dict[str, Cell], y: np.ndarray, seed: int, probe: str, cv_accuracy: bool = False
) -> FittedProbe:
    if probe not in PROBES:
        raise ConfigError(f"Unknown probe {probe!r}; use one of {PROBES}.")
    if len(train) != 1:
        raise ConfigError(
            f"The published protocol makes no choice between cells, found {sorted(train)}; "
            f"pass one cell, or use the nested protocol."
        )
    ((name, cell),) = train.items()
    classes, coded = np.unique(y, return_inverse=True)
    if probe == "tree":
        learned = published_probe.fit_tree(cell.X, coded, cv_accuracy)
    else:
        learned = published_probe.fit_linear(cell.X, coded, seed, cv_accuracy)
    return FittedProbe(
        kind=probe,
        cell=name,
        setting=learned.depth,
        cv_score=learned.cv_accuracy,
        classes=classes,
        columns=np.arange(cell.X.shape[1]),
        coef=learned.coef,
        intercept=learned.intercept,
        tree=learned.tree,
    )
