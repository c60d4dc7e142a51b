"""From documents to batches: what a model is given, and which of its positions are pooled.

A reader turns the inputs of a shard into `Documents`; extraction asks nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mosaic.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mosaic.profiles import Profile


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
    collate: Callable[[np.ndarray], Batch]
    """Rows of the shard to one batch."""


class Reader(Protocol):
    """What extraction asks of the inputs of a task, texts or images."""

    @property
    def identity(self) -> dict[str, Any]: ...
    def read(self, inputs: list[Any]) -> Documents: ...


@dataclass(frozen=True, eq=False)
class TextReader:
    """Texts through a tokenizer, as they are: no prompt and no chat template (protocol §2)."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    bos: str

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the model and the texts."""
        return {"inputs": "text", "max_length": self.max_length, "bos": self.bos, "template": None}

    def read(self, inputs: list[Any]) -> Documents:
        """Tokenize; padding is on the right, where causal models cannot see it."""
        encoded = self.tokenizer(
            inputs, truncation=True, max_length=self.max_length, return_special_tokens_mask=True
        )
        ids = [np.asarray(row, dtype=np.int64) for row in encoded["input_ids"]]
        special = [np.asarray(row, dtype=bool) for row in encoded["special_tokens_mask"]]
        keep = [~row | (self.bos == "keep") for row in special]
        pad = self.tokenizer.pad_token_id or 0

        def collate(rows: np.ndarray) -> Batch:
            width = max(len(ids[row]) for row in rows)
            input_ids = np.full((len(rows), width), pad, dtype=np.int64)
            attention = np.zeros((len(rows), width), dtype=np.int64)
            kept = np.zeros((len(rows), width), dtype=bool)
            for i, row in enumerate(rows):
                size = len(ids[row])
                input_ids[i, :size], attention[i, :size] = ids[row], 1
                kept[i, :size] = keep[row]
            return Batch({"input_ids": input_ids, "attention_mask": attention}, kept)

        return Documents(
            lengths=np.asarray([len(row) for row in ids], dtype=np.int64),
            n_tokens=np.asarray([row.sum() for row in keep], dtype=np.int64),
            collate=collate,
        )


def text_reader(
    tokenizer: PreTrainedTokenizerBase, profile: Profile, max_positions: int | None
) -> TextReader:
    """The reader of a profile; a model that takes fewer positions than it sets the limit."""
    limit = min(profile.max_length, tokenizer.model_max_length, max_positions or profile.max_length)
    if limit <= tokenizer.num_special_tokens_to_add():
        raise ConfigError(
            f"max_length is {limit}, which leaves no room beside the tokenizer's special tokens; "
            f"raise `max_length` in the profile."
        )
    return TextReader(tokenizer, limit, profile.bos)


def cut(documents: Documents, rows: np.ndarray, budget: int) -> list[np.ndarray]:
    """Rows in batches of at most `budget` padded tokens, the longest documents first.

    Rows without a pooled token are left out: nothing of them would be kept. A document longer than
    the budget makes a batch of its own. The longest come first so that memory runs out early or
    not at all.
    """
    rows = rows[documents.n_tokens[rows] > 0]
    rows = rows[np.argsort(-documents.lengths[rows], kind="stable")]
    batches = []
    while len(rows):
        size = max(1, budget // int(documents.lengths[rows[0]]))
        batches.append(rows[:size])
        rows = rows[size:]
    return batches
