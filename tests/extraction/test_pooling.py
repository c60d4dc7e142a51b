"""Pooling of stored statistics: thresholds, empty rows, and what a user may get wrong."""

from __future__ import annotations

import numpy as np
import pytest

from mosaic.errors import ConfigError
from mosaic.extraction.encode import compress
from mosaic.extraction.pooling import arrays_for, pool

PAIRS = {
    "doc": np.array([0, 0, 2]),
    "latent": np.array([1, 4, 0]),
    "sum": np.array([1.0, 5.0, 0.25], np.float32),
    "max": np.array([1.0, 3.0, 0.25], np.float32),
    "count": np.array([1, 2, 1]),
    "last": np.array([0.0, 3.0, 0.25], np.float32),
    "top_2": np.array([0, 2, 1]),
}


def arrays() -> dict[str, np.ndarray]:
    return {**compress(PAIRS, 3, 6), "n_tokens": np.array([4, 0, 1])}


def test_poolings_of_a_document_by_hand() -> None:
    def dense(pooling: str, threshold: float | None = None) -> list[list[float]]:
        return pool(arrays(), pooling, 6, threshold).toarray()[:, [0, 1, 4]].tolist()

    assert dense("sum") == [[0, 1, 5], [0, 0, 0], [0.25, 0, 0]]
    assert dense("mean") == [[0, 0.25, 1.25], [0, 0, 0], [0.25, 0, 0]]
    assert dense("max") == [[0, 1, 3], [0, 0, 0], [0.25, 0, 0]]
    assert dense("last") == [[0, 0, 3], [0, 0, 0], [0.25, 0, 0]]
    assert dense("count") == [[0, 1, 2], [0, 0, 0], [1, 0, 0]]
    assert dense("top_n") == [[0, 0, 2], [0, 0, 0], [1, 0, 0]]
    assert dense("sum", threshold=1.0) == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]  # strictly above
    assert dense("sum", threshold=0.0) == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_zeros_are_not_stored_in_the_matrix() -> None:
    assert pool(arrays(), "top_n", 6, None).nnz == 2
    assert pool(arrays(), "sum", 6, 1.0).nnz == 1


def test_pooling_leaves_the_stored_arrays_alone() -> None:
    stored = arrays()
    before = {name: values.copy() for name, values in stored.items()}
    for pooling in ("sum", "mean", "max", "last", "count", "top_n"):
        pool(stored, pooling, 6, 0.5)
    for name, values in stored.items():
        np.testing.assert_array_equal(values, before[name])


def test_packed_arrays_use_the_fewest_bytes() -> None:
    packed = arrays()
    assert packed["latent"].dtype == np.uint8
    assert packed["count"].dtype == packed["top_2"].dtype == np.uint8
    assert len(packed["max"]) == 1  # only where it differs from the sum
    assert compress(PAIRS, 3, 65536)["latent"].dtype == np.uint16
    assert compress(PAIRS, 3, 2**20)["latent"].dtype == np.uint32


@pytest.mark.parametrize(
    ("pooling", "top_n", "message"),
    [
        ("median", None, r"Unknown pooling 'median'; use one of \('sum'"),
        ("top_n", None, "`top_n` goes with pooling 'top_n' only"),
        ("sum", 20, "`top_n` goes with pooling 'top_n' only"),
        ("top_n", 7, r"top_n=7 was not extracted; there is \(2, 5\)"),
    ],
)
def test_what_is_not_there_is_refused(pooling: str, top_n: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        arrays_for(pooling, top_n, (2, 5))


@pytest.mark.parametrize("threshold", [-0.5, float("nan")])
def test_a_threshold_below_zero_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="must not be negative"):
        pool(arrays(), "sum", 6, threshold)
