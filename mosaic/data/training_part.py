"""What is trained on: a share of a split, all but some items, or the parts of several tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mosaic.data.load import TaskData
from mosaic.data.splits import Split, linked_groups
from mosaic.errors import ConfigError


def thin(split: Split, labels: np.ndarray, fraction: float) -> Split:
    """The split with a stratified share of its training part; smaller shares lie inside larger.

    `labels` are those of all documents. Raises ConfigError for a share outside of (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"Training fraction {fraction!r}; use a number above 0 and at most 1.")
    order = np.random.default_rng(split.seed).permutation(len(split.train))
    y = labels[split.train][order]
    parts = [order[y == label] for label in np.unique(y)]
    return _keep(split, np.sort(np.concatenate([p[: round(fraction * len(p))] for p in parts])))


def without_items(split: Split, data: TaskData, others: Iterable[tuple[TaskData, Split]]) -> Split:
    """The split without the training documents whose item stands in a test part of `others`.

    An item is what rows of equal `groups` have in common across languages (a text and its
    translations), and any text that is equal to the letter.
    """
    groups, texts = set(), set()
    for other, tested in others:
        texts |= {other.inputs[row] for row in tested.test}
        if other.groups is not None:
            groups |= set(other.groups[tested.test].tolist())
    stays = np.asarray([data.inputs[row] not in texts for row in split.train])
    if data.groups is not None:
        stays &= [group not in groups for group in data.groups[split.train].tolist()]
    return _keep(split, np.flatnonzero(stays))


def joined(parts: Sequence[tuple[TaskData, Split]]) -> Split:
    """One split with the training parts of all, its rows counted through the tasks in order (ours).

    Test part, protocol and seed are the first's. Rows of equal texts or groups, such as a text and
    its translation, stay on one side of every inner fold.
    """
    first = parts[0][1]
    if len(parts) == 1:
        return first
    starts = np.cumsum([0, *(len(data) for data, _ in parts)])
    inputs = [data.inputs[row] for data, split in parts for row in split.train]
    groups: list[str] = []
    for at, (data, split) in enumerate(parts):
        own = [f"{at}, {row}" for row in split.train]  # a row without a group is one of its own
        known = None if data.groups is None else data.groups[split.train]
        groups += own if known is None else [f"group {name}" for name in known.tolist()]
    return replace(
        first,
        train=np.concatenate([s.train + at for at, (_, s) in zip(starts, parts, strict=False)]),
        train_ids=np.concatenate([split.train_ids for _, split in parts]),
        train_groups=linked_groups(inputs, np.asarray(groups)),
    )


def _keep(split: Split, rows: np.ndarray) -> Split:
    """The split with the training rows at these positions of its training part."""
    groups = None if split.train_groups is None else split.train_groups[rows]
    return replace(
        split, train=split.train[rows], train_ids=split.train_ids[rows], train_groups=groups
    )
