"""Documents in batches of about equal length, and batches that shrink when memory runs out."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mosaic.errors import ResourceError

log = logging.getLogger(__name__)

PADDING = 0.1
"""Padded positions that a batch may hold for each real one (ours)."""

SMALL = 512
"""Positions below which a batch is filled whatever the padding: a pass of its own would cost more,
and products of few rows have other roundings with another number of threads (ours)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass: keyword arguments of the model, and the positions that are pooled."""

    arguments: dict[str, np.ndarray]
    keep: np.ndarray
    """bool `[n_docs, n_positions]`: neither padding nor, unless kept on purpose, special."""
    whole: bool = False
    """Whether the arguments are for the whole model (images) rather than its text model."""


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of one shard, ready to be cut into batches."""

    lengths: np.ndarray
    """Positions a document takes in a forward pass `[n_docs]`."""
    n_tokens: np.ndarray
    """Positions of it that are pooled `[n_docs]`; 0 for an empty document."""
    cut: np.ndarray
    """bool `[n_docs]`: documents longer than what is read of them."""
    collate: Callable[[np.ndarray], Batch]
    """Rows of the shard to one batch."""


def cut_batches(documents: Documents, rows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows in batches by `by_length`; those without a pooled token are left out."""
    return by_length(documents.lengths, rows[documents.n_tokens[rows] > 0], budget)


def by_length(lengths: np.ndarray, rows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows in batches of at most `budget` positions, the longest first, with little padding.

    A batch ends where the next row would pad it beyond PADDING, unless it holds fewer than SMALL
    positions. A row longer than the budget makes a batch of its own. What comes first is largest,
    so memory runs out early or not at all.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    batches: list[list[int]] = []
    width = real = 0
    for row in rows.tolist():
        size = int(lengths[row])
        before = width * len(batches[-1]) if batches else 0
        wasteful = before + width > (1 + PADDING) * (real + size) and before >= SMALL
        if not batches or wasteful or before + width > budget:
            batches.append([])
            width, real = size, 0
        batches[-1].append(row)
        real += size
    return [np.asarray(batch) for batch in batches]


@dataclass(eq=False)
class BatchRunner:
    """Runs batches on a device; the token budget halves when memory runs out, and stays so."""

    device: torch.device
    budget: int
    unit: str
    """What a row is called where it does not fit, such as "document"."""
    remedy: str
    _warned: bool = False

    def run(
        self, lengths: np.ndarray, rows: np.ndarray, compute: Callable[[np.ndarray], Any]
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Each batch of `by_length` with what `compute` makes of it. Raises ResourceError."""
        batches = by_length(lengths, rows, self.budget)
        while batches:
            rows, found = batches[0], None
            try:
                found = compute(rows)
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not any(s in str(error).lower() for s in ("out of memory", "allocate memory")):
                    raise
                if len(rows) == 1:
                    raise ResourceError(
                        f"One {self.unit} of {lengths[rows[0]]} tokens does not fit in the memory "
                        f"of {self.device}; {self.remedy}, or use a device with more memory."
                    ) from error
            if found is None:  # outside of `except`, which would keep the failed batch alive
                self._halve(len(rows) * int(lengths[rows].max()))
                batches = by_length(lengths, np.concatenate(batches), self.budget)
            else:
                yield batches.pop(0), found

    def _halve(self, n_positions: int) -> None:
        if not self._warned:
            log.warning(
                "out of memory in a batch of %d tokens: going on with smaller batches. No "
                "document is left out; on a GPU numbers may round otherwise. A smaller "
                "`token_budget` in the profile avoids this.",
                n_positions,
            )
            self._warned = True
        self.budget = max(1, min(self.budget, n_positions) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
