"""Less than the whole training part of a split: a share, or all but items tested elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mosaic.errors import ConfigError
from mosaic.splits import Split
from mosaic.tasks import TaskData


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


def _keep(split: Split, rows: np.ndarray) -> Split:
    """The split with the training rows at these positions of its training part."""
    groups = None if split.train_groups is None else split.train_groups[rows]
    return replace(
        split, train=split.train[rows], train_ids=split.train_ids[rows], train_groups=groups
    )
