"""Batches: little padding, every row once, long rows alone; smaller ones when memory runs out."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from mosaic.errors import ResourceError
from mosaic.models.batches import PADDING, BatchRunner, by_length
from mosaic.models.readers import TextReader, text_reader
from mosaic.models.resolve import ResolvedModel

CPU = torch.device("cpu")


def short_texts(n: int) -> np.ndarray:
    """Lengths such as banking77's: 5 to 80 tokens, most of them near 13."""
    return np.random.default_rng(0).gamma(3.0, 4.0, n).round().astype(np.int64).clip(5, 80)


def mixed_texts(n: int) -> np.ndarray:
    return np.random.default_rng(1).lognormal(4.0, 1.2, n).astype(np.int64).clip(3, 512)


def positions(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches)


@pytest.mark.parametrize("lengths", [short_texts(2048), mixed_texts(2048)], ids=["short", "mixed"])
@pytest.mark.parametrize("budget", [1024, 8192])
def test_padding_stays_below_a_tenth(lengths: np.ndarray, budget: int) -> None:
    batches = by_length(lengths, np.arange(len(lengths)), budget)
    assert positions(lengths, batches) <= (1 + PADDING) * lengths.sum()
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(rows) * lengths[rows].max() <= budget for rows in batches)
    # Hardly more batches than the budget asks for: a pass has a price of its own.
    assert len(batches) <= lengths.sum() / budget * 1.25 + 25


def test_long_rows_come_first_and_alone() -> None:
    lengths = np.array([5, 900, 5, 700, 5])
    batches = by_length(lengths, np.arange(5), 64)
    assert [rows.tolist() for rows in batches] == [[1], [3], [0, 2, 4]]
    assert by_length(lengths, np.array([], dtype=np.int64), 64) == []


@pytest.mark.parametrize(
    "message", ["CUDA out of memory.", "DefaultCPUAllocator: can't allocate memory: you tried"]
)
def test_batches_shrink_until_they_fit(message: str, caplog: Any) -> None:
    lengths, done = np.full(40, 10), []

    def compute(rows: np.ndarray) -> int:
        if len(rows) > 3:
            raise RuntimeError(message)
        return len(rows)

    runner = BatchRunner(CPU, 400, "document", "write less")
    with caplog.at_level(logging.WARNING):
        for rows, _ in runner.run(lengths, np.arange(40), compute):
            done += rows.tolist()
    assert sorted(done) == list(range(40))
    assert runner.budget < 40
    assert len(caplog.records) == 1


def test_a_row_that_never_fits_and_another_error_are_told_apart() -> None:
    def fails(error: Exception) -> Any:
        def compute(rows: np.ndarray) -> None:
            raise error

        return compute

    runner = BatchRunner(CPU, 100, "question", "ask less")
    with pytest.raises(ResourceError, match="One question of 7 tokens does not fit .* ask less"):
        list(runner.run(np.array([7]), np.arange(1), fails(RuntimeError("out of memory"))))
    with pytest.raises(RuntimeError, match="shape"):
        list(runner.run(np.array([7, 7]), np.arange(2), fails(RuntimeError("shape"))))


def reader(tmp_path: Any, family: str, cut: str) -> TextReader:
    spec = tiny.ModelSpec("m", str(tiny.write_model(tmp_path, family)), {"early": 0})
    model = ResolvedModel(spec, tmp_path, CPU, torch.float32)
    return text_reader(model, tiny.profile(spec, max_length=8), cut)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "bert"])
def test_prompts_lose_their_beginning_and_texts_their_end(tmp_path: Any, family: str) -> None:
    texts = ["abcdefghijklmnop", "abc", "", "abcdef"]
    for cut in ("right", "left"):
        read = reader(tmp_path, family, cut)
        documents = read.read(texts)
        room = int(documents.n_tokens[0])
        batch = documents.collate(np.array([0]))
        kept = read.tokenizer.decode(batch.arguments["input_ids"][0][batch.keep[0]])
        assert kept == (texts[0][:room] if cut == "right" else texts[0][-room:])
        assert documents.lengths.max() == 8
        assert documents.cut.tolist() == [True, False, False, False]
        assert documents.n_tokens.tolist() == [room, 3, 0, 6]


def test_the_side_of_the_cut_is_part_of_the_identity(tmp_path: Any) -> None:
    right, left = (reader(tmp_path, "gemma2", cut).identity for cut in ("right", "left"))
    assert "cut" not in right  # as saved probes state it
    assert left == {**right, "cut": "left"}
