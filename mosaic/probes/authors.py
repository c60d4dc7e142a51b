"""The two classifiers of the authors' code, kept apart so that nothing else depends on them.

The linear probe is a softmax layer trained with Adam, not a tuned logistic regression; its
restoring of the best epoch is a no-op in their code, so the last weights are used here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.model_selection import (
    GridSearchCV,
    PredefinedSplit,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.tree import DecisionTreeClassifier

from mosaic.data.splits import PUBLISHED_SEED
from mosaic.errors import ConfigError
from mosaic.probes.scaling import Matrix, narrow

VALIDATION_SHARE = 0.1 / 0.8
"""A tenth of all rows, counted in training rows."""

BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 1e-3, 1e-5

MAX_EPOCHS, PATIENCE, DECAY_EVERY, DECAY = 10_000, 20, 100, 0.1

TREE_SETTINGS = {
    "max_depth": [3, 5, 7, 9],
    "min_samples_split": [2, 5, 10],
    "min_samples_leaf": [1, 2, 4],
}


@dataclass(frozen=True, eq=False)
class Learned:
    """Result of either classifier; what does not apply is None."""

    coef: np.ndarray | None = None
    """`[1 or n_classes, n_features]`; two classes are written as one difference."""
    intercept: np.ndarray | None = None
    tree: DecisionTreeClassifier | None = None
    depth: int | None = None
    cv_accuracy: float | None = None


def fit_authors_linear(X: Matrix, y: np.ndarray, seed: int, cv: bool = False) -> Learned:
    """Softmax-linear probe on training rows `X [n_train, d]`, labels 0..n_classes-1.

    A stratified tenth of all rows stops the training; the seed sets initial weights and batch
    order (the authors set none). `cv=True` adds their accuracy over 5 folds, each of which stops
    on the fold it scores (authors' code).
    """
    fit_rows, val_rows = _validation_split(y)
    weight, bias = _train_softmax(X, y, fit_rows, val_rows, seed)
    accuracy = None
    if cv:
        folds = StratifiedKFold(5, shuffle=True, random_state=PUBLISHED_SEED).split(X, y)
        hits = []
        for fold_fit, fold_val in folds:
            fold_weight, fold_bias = _train_softmax(X, y, fold_fit, fold_val, seed)
            predicted = (X[fold_val] @ fold_weight.T + fold_bias).argmax(axis=1)
            hits.append(np.mean(predicted == y[fold_val]))
        accuracy = float(np.mean(hits))
    if len(bias) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    return Learned(coef=weight, intercept=bias, cv_accuracy=accuracy)


def fit_authors_tree(X: Matrix, y: np.ndarray, cv: bool = False) -> Learned:
    """Decision tree; settings chosen by accuracy on the same tenth of rows (authors' code).

    `cv=True` adds the accuracy of the chosen settings over 5 folds.
    """
    X = narrow(X)
    _, val_rows = _validation_split(y)
    in_validation = np.full(len(y), -1)
    in_validation[val_rows] = 0
    search = GridSearchCV(
        DecisionTreeClassifier(random_state=PUBLISHED_SEED, class_weight="balanced"),
        TREE_SETTINGS,
        scoring="accuracy",
        cv=PredefinedSplit(in_validation),
    ).fit(X, y)
    tree = search.best_estimator_
    folds = StratifiedKFold(5, shuffle=True, random_state=PUBLISHED_SEED)
    accuracy = float(cross_val_score(tree, X, y, cv=folds).mean()) if cv else None
    return Learned(tree=tree, depth=search.best_params_["max_depth"], cv_accuracy=accuracy)


def _validation_split(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        fit_rows, val_rows = train_test_split(
            np.arange(len(y)),
            test_size=VALIDATION_SHARE,
            random_state=PUBLISHED_SEED,
            stratify=y,
        )
    except ValueError as error:
        raise ConfigError(
            f"The published protocol stops on a tenth of the rows, stratified; {len(y)} training "
            f"rows with class sizes {np.bincount(y).tolist()} cannot give one: {error} "
            f"Take more rows, or use the nested protocol."
        ) from error
    return fit_rows, val_rows


def _train_softmax(
    X: Matrix, y: np.ndarray, fit_rows: np.ndarray, val_rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[n_classes, d]` and bias `[n_classes]` after the last epoch."""
    import torch

    n_classes = int(y.max()) + 1
    counts = np.bincount(y[fit_rows], minlength=n_classes)
    balanced = len(fit_rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(balanced, dtype=torch.float32))
    labels = torch.as_tensor(y, dtype=torch.long)
    X_val = _tensor(X[val_rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(X.shape[1], n_classes)
        adam = torch.optim.Adam(layer.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.StepLR(adam, DECAY_EVERY, gamma=DECAY)
        best, stale = np.inf, 0
        for _ in range(MAX_EPOCHS):
            for rows in torch.randperm(len(fit_rows)).split(BATCH):
                batch = fit_rows[rows.numpy()]
                adam.zero_grad()
                loss(_apply(layer, _tensor(X[batch])), labels[batch]).backward()
                adam.step()
            schedule.step()
            with torch.no_grad():
                current = loss(_apply(layer, X_val), labels[val_rows]).item()
            best, stale = (current, 0) if current < best else (best, stale + 1)
            if stale >= PATIENCE:
                break
    return (
        layer.weight.detach().double().numpy(),
        layer.bias.detach().double().numpy(),
    )


def _tensor(rows: Matrix) -> Any:
    """Float32 tensor of a few rows; sparse rows stay sparse."""
    import torch

    if not sparse.issparse(rows):
        return torch.as_tensor(np.asarray(rows, dtype=np.float32))
    entries = rows.tocoo()
    return torch.sparse_coo_tensor(
        torch.as_tensor(np.stack(entries.coords)),
        torch.as_tensor(entries.data.astype(np.float32)),
        entries.shape,
        check_invariants=False,
    )


def _apply(layer: Any, rows: Any) -> Any:
    """Logits `[n_rows, n_classes]`; the sparse product has the same gradient as the dense one."""
    import torch

    return torch.sparse.mm(rows, layer.weight.T) + layer.bias if rows.is_sparse else layer(rows)
