"""Which documents train and which test: decided once per task and seed, shared by every cell."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.model_selection import StratifiedKFold, train_test_split

from mosaic.config.choices import PROTOCOLS, TEST_SHARE
from mosaic.data.load import TaskData
from mosaic.errors import ConfigError

PUBLISHED_SEED = 42

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions of the training and test part, and the ids they stand for."""

    protocol: str
    seed: int
    train: np.ndarray
    """int64 `[n_train]`, positions in the task's row order."""
    test: np.ndarray
    train_ids: np.ndarray
    test_ids: np.ndarray
    train_groups: np.ndarray | None = None
    """Training rows that share a value stay on one side of every inner fold."""

    @property
    def fingerprint(self) -> str:
        """sha256 over the ids of both parts: equal exactly when two cells are paired."""
        parts = ("\x1f".join(sorted(map(str, ids))) for ids in (self.train_ids, self.test_ids))
        return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()


def make_split(
    data: TaskData,
    seed: int,
    protocol: str = "nested",
    n_train: int | None = None,
    n_test: int | None = None,
) -> Split:
    """Cut a task into training and test documents, stratified by label.

    - `published`: 80/20 with seed 42 on the order of the dataset; `seed` is only passed on to the
      probe, the caps are ignored (authors' code).
    - `nested`: rows are sorted by id first, so the split does not depend on their order. Rows that
      share a group or an identical text stay together. The test share is 0.2, or
      `n_test / (n_train + n_test)` where both caps are given; each part is then cut down to its
      cap, still stratified (ours).

    A task that brings its own test part keeps it under both protocols; `nested` cuts its parts down
    to the caps. A class with a single document is trained on. Raises ConfigError for an unknown
    protocol, fewer than two classes that can stand on both sides, a class that the training part
    lacks, or a cap below the number of classes.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"Unknown protocol {protocol!r}; use one of {PROTOCOLS}.")
    if data.in_test is not None:
        groups = None if protocol == "published" else linked_groups(data.inputs, data.groups)
        train, test = np.flatnonzero(~data.in_test), np.flatnonzero(data.in_test)
        _refuse_unseen(data, train, test)
        if protocol == "nested":
            train = _cap(train, data.labels, n_train, seed)
            test = _cap(test, data.labels, n_test, seed)
    elif protocol == "published":
        groups = None
        train, test = _stratified_sample(data.labels, TEST_SHARE, PUBLISHED_SEED)
    else:
        order = np.argsort(data.ids, kind="stable")
        groups = linked_groups(data.inputs, data.groups)
        share = n_test / (n_train + n_test) if n_train and n_test else TEST_SHARE
        unit, unit_labels = _units(
            data.labels[order], None if groups is None else groups[order], "documents"
        )
        in_test = _drawn_units(unit, unit_labels, share, seed)[unit]
        train = _cap(order[~in_test], data.labels, n_train, seed)
        test = _cap(order[in_test], data.labels, n_test, seed)
        _refuse_unseen(data, train, test)
    return Split(
        protocol=protocol,
        seed=seed,
        train=train,
        test=test,
        train_ids=data.ids[train],
        test_ids=data.ids[test],
        train_groups=None if groups is None else groups[train],
    )


def _refuse_unseen(data: TaskData, train: np.ndarray, test: np.ndarray) -> None:
    """ConfigError for a class that the test part has and the training part lacks."""
    if unseen := sorted(set(data.labels[test]) - set(data.labels[train])):
        raise ConfigError(
            f"Task {data.task.key!r}: the class {data.label_names[unseen[0]]!r} is in its test "
            f"part and not in its training part; move rows of it, or leave it out."
        )


def inner_folds(
    labels: np.ndarray, groups: np.ndarray | None, n_folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stratified inner folds `(fit_rows, score_rows)` of a training part, groups kept together.

    A class with fewer members than folds is spread as far as it goes. The number of folds falls
    only where otherwise a fold would be left with a single class to learn from.
    """
    unit, unit_labels = _units(labels, groups, "training documents")
    second_largest = np.sort(np.bincount(unit_labels, minlength=2))[-2]
    if second_largest < 2:
        raise ConfigError(
            f"Inner cross-validation needs two classes with at least 2 training documents or "
            f"groups each, found class sizes {np.bincount(unit_labels).tolist()}; "
            f"raise n_train or merge classes."
        )
    folds = StratifiedKFold(min(n_folds, int(second_largest)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = [score for _, score in folds.split(unit_labels, unit_labels)]
    fold_of_unit = np.empty(len(unit_labels), dtype=int)
    for number, part in enumerate(parts):
        fold_of_unit[part] = number
    fold = fold_of_unit[unit]
    return [(np.flatnonzero(fold != n), np.flatnonzero(fold == n)) for n in range(len(parts))]


def _units(
    labels: np.ndarray, groups: np.ndarray | None, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """What is drawn as one: rows, or groups labelled by their majority.

    Returns the unit of each row `[n_rows]` and the label of each unit `[n_units]`.
    """
    classes, coded = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError(
            f"A probe needs at least two classes, found one in {len(labels)} {what}; check the "
            f"label field or take more rows."
        )
    if groups is None:
        return np.arange(len(labels)), coded
    unit = pd.factorize(groups)[0]
    votes = np.zeros((unit.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(votes, (unit, coded), 1)
    return unit, votes.argmax(axis=1)


def _drawn_units(unit: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which units are tested: bool `[n_units]`, drawn so that about `share` of the rows are.

    A unit of more rows than half a test part, such as the blank texts, would decide its size: it
    is training, as long as the other units can give the test part in two classes or more.
    """
    rows = np.bincount(unit)
    wanted = share * len(unit)
    small = np.flatnonzero(rows <= wanted / 2)
    enough = rows[small].sum() >= 2 * wanted
    enough &= (np.bincount(labels[small], minlength=1) > 1).sum() >= 2
    if len(small) < len(rows) and enough:
        share = float(wanted / rows[small].sum())
    else:
        small = np.arange(len(rows))
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[small[_stratified_sample(labels[small], share, seed)[1]]] = True
    return chosen


def _stratified_sample(
    labels: np.ndarray, size: int | float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rest and of a stratified sample: a share if `size` is a float.

    A class with a single member, as a cap on documents leaves of rare ones, stays in the rest.
    """
    alone = np.isin(labels, [label for label, n in Counter(labels.tolist()).items() if n == 1])
    if len(np.unique(labels[~alone])) < 2:  # nothing to tell apart without them
        alone[:] = False
    lone, rows = np.flatnonzero(alone), np.flatnonzero(~alone)
    if len(lone):
        log.warning(
            "%d classes have one document each; these are learnt from, not tested", len(lone)
        )
    try:
        rest, chosen = train_test_split(
            rows, test_size=size, random_state=seed, stratify=labels[rows]
        )
        rest = np.concatenate([rest, lone])
    except ValueError as error:
        sizes = np.unique(labels, return_counts=True)[1].tolist()
        shown = f"{sizes[:9]}, ..." if sizes[9:] else str(sizes)
        raise ConfigError(
            f"{len(labels)} documents or groups (copies of a text are one) in {len(sizes)} classes "
            f"of sizes {shown} cannot give a stratified sample of {size}: take more rows, merge "
            f"classes (dates and measurements are none), or change n_train and n_test."
        ) from error
    return rest, chosen


def _cap(rows: np.ndarray, labels: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """`size` of these rows, stratified; ConfigError where they cannot hold every class."""
    if size is None or size >= len(rows):
        return rows
    y = labels[rows]
    counts = np.unique(y, return_counts=True)[1]
    if size < len(counts):
        raise ConfigError(
            f"A part of {size} documents cannot hold one of each of the {len(counts)} classes; "
            f"raise n_train and n_test to {len(counts)} or more, or merge classes."
        )
    if len(rows) - size >= len(counts) and counts.min() > 1:
        return rows[np.sort(_stratified_sample(y, size, seed)[1])]
    return rows[np.sort(_proportional(y, size, seed))]


def _proportional(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Positions of a sample in proportion to the classes, one of each at least (ours).

    scikit-learn's wants a document of every class among those left over, too.
    """
    classes, counts = np.unique(labels, return_counts=True)
    kept = counts.copy()
    for _ in range(len(labels) - size):  # from where most is above its share
        kept[np.where(kept > 1, kept - counts * (size / len(labels)), -np.inf).argmax()] -= 1
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn = [order[labels[order] == c][:n] for c, n in zip(classes, kept, strict=True)]
    return np.concatenate(drawn)


def linked_groups(inputs: Sequence[Any], groups: np.ndarray | None) -> np.ndarray | None:
    """Group number per row, identical texts joined; None where every row stands alone.

    Copies of a text on both sides of a split would be answered from memory.
    """
    n_rows = len(inputs)
    keys = [] if groups is None else [pd.factorize(groups)[0]]
    if all(isinstance(text, str) for text in inputs):
        keys.append(pd.factorize(np.asarray(inputs, dtype=object))[0])
    if all(key.max() + 1 == n_rows for key in keys):
        return None
    rows, edges = np.arange(n_rows), []
    for key in keys:
        first = np.unique(key, return_index=True)[1]
        edges.append(first[key])
    start, end = np.tile(rows, len(edges)), np.concatenate(edges)
    graph = sparse.csr_array((np.ones(len(start)), (start, end)), shape=(n_rows, n_rows))
    return sparse.csgraph.connected_components(graph, directed=False)[1]
