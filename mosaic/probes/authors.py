"""The classifiers of the authors' code, kept apart so that nothing else depends on them.

The linear probe is a softmax layer trained with Adam, not a tuned logistic regression; its
restoring of the best epoch is a no-op in their code, so the last weights are used here as well,
unless `restore` asks for what was meant.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit, train_test_split
from sklearn.tree import DecisionTreeClassifier

from mosaic.data.splits import PUBLISHED_SEED
from mosaic.errors import ConfigError
from mosaic.probes.scaling import Matrix, narrow
from mosaic.probes.select import DENSE_FROM, Candidate, FittedProbe

VALIDATION_SHARE = 0.1 / 0.8
"""A tenth of all rows, counted in training rows."""

BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 1e-3, 1e-5

MAX_EPOCHS, PATIENCE, DECAY_EVERY, DECAY = 10_000, 20, 100, 0.1

TREE_SETTINGS = {
    "max_depth": [3, 5, 7, 9],
    "min_samples_split": [2, 5, 10],
    "min_samples_leaf": [1, 2, 4],
}


def fit_published(
    candidates: Mapping[str, Candidate], y: np.ndarray, seed: int, probe: str
) -> FittedProbe:
    """The authors' classifier of training rows: for texts, for features, or their decision tree.

    Raises ConfigError for several candidates: the protocol makes no choice between them.
    """
    if len(candidates) != 1:
        raise ConfigError(
            f"The published protocol makes no choice between cells, found {sorted(candidates)}; "
            f"pass one cell, or use the nested protocol."
        )
    ((name, candidate),) = candidates.items()
    if candidate.vectorizer is not None:
        fitted = fit_authors_words(candidate, y)
    elif probe == "tree":
        fitted = fit_authors_tree(candidate.X, y)
    else:
        fitted = fit_authors_linear(candidate.X, y, seed)
    return replace(fitted, candidate=name)


def fit_authors_words(texts: Candidate, y: np.ndarray) -> FittedProbe:
    """Logistic regression with C = 1 and balanced class weights on vectorized training texts."""
    vectorizer = clone(texts.vectorizer)
    X = vectorizer.fit_transform(texts.X)
    model = LogisticRegression(
        C=1.0, class_weight="balanced", max_iter=10_000, random_state=PUBLISHED_SEED
    ).fit(X, y)
    weights = (model.coef_, model.intercept_)
    return FittedProbe(
        model.classes_, np.arange(X.shape[1]), *weights, vectorizer=vectorizer, setting=1.0
    )


def fit_authors_linear(X: Matrix, y: np.ndarray, seed: int, restore: bool = False) -> FittedProbe:
    """Softmax-linear probe on training rows `X [n_train, d]`; two classes as one difference.

    A stratified tenth of all rows stops the training; the seed sets initial weights and batch
    order (the authors set none). `restore` takes the weights of the best epoch, not of the last.
    """
    classes, coded = np.unique(y, return_inverse=True)
    weight, bias = _train_softmax(X, coded, *_validation_split(coded), seed, restore)
    if len(bias) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    return FittedProbe(classes, np.arange(X.shape[1]), weight, bias)


def fit_authors_tree(X: Matrix, y: np.ndarray) -> FittedProbe:
    """Decision tree; settings chosen by accuracy on the same tenth of rows (authors' code)."""
    X = narrow(X)
    _, val_rows = _validation_split(np.unique(y, return_inverse=True)[1])
    in_validation = np.full(len(y), -1)
    in_validation[val_rows] = 0
    search = GridSearchCV(
        DecisionTreeClassifier(random_state=PUBLISHED_SEED, class_weight="balanced"),
        TREE_SETTINGS,
        scoring="accuracy",
        cv=PredefinedSplit(in_validation),
    ).fit(X, y)
    tree, depth = search.best_estimator_, search.best_params_["max_depth"]
    return FittedProbe(tree.classes_, np.arange(X.shape[1]), tree=tree, setting=depth)


def _validation_split(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    try:
        fit_rows, val_rows = train_test_split(
            np.arange(len(y)), test_size=VALIDATION_SHARE, random_state=PUBLISHED_SEED, stratify=y
        )
    except ValueError as error:
        raise ConfigError(
            f"The published protocol stops on a tenth of the rows, stratified; {len(y)} training "
            f"rows with class sizes {np.bincount(y).tolist()} cannot give one: {error} "
            f"Take more rows, or use the nested protocol."
        ) from error
    return fit_rows, val_rows


def _train_softmax(
    X: Matrix, y: np.ndarray, fit_rows: np.ndarray, val_rows: np.ndarray, seed: int, restore: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[n_classes, d]` and bias `[n_classes]` after the last epoch, or the best."""
    import torch

    if sparse.issparse(X) and X.nnz > DENSE_FROM * X.shape[0] * X.shape[1]:
        X = X.toarray()
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
            if restore and not stale:
                kept = copy.deepcopy(layer)
            if stale >= PATIENCE:
                break
    layer = kept if restore else layer
    return (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())


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
