"""Encoding and reduction against dense NumPy, for random SAEs, tokens, documents and tile sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic.config.profiles import SAESpec
from mosaic.extraction.encode import (
    Triplets,
    compress,
    document_statistics,
    encode,
    strongest_first,
)
from mosaic.extraction.pooling import ARRAYS, pool
from mosaic.models.saes import load_sae

ARCHITECTURES = ("standard", "jumprelu", "gated", "topk")


@pytest.fixture(scope="module")
def saes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Any]:
    root = tmp_path_factory.mktemp("saes")
    found = {}
    for kind in ARCHITECTURES:
        for subtract in (True, False):
            folder = root / f"{kind}-{subtract}"
            tiny.write_sae(folder, 40, kind, apply_b_dec_to_input=subtract)
            spec = SAESpec(layer=0, width="40", folder=str(folder))
            found[kind, subtract] = load_sae(spec, torch.device("cpu"), tiny.D_MODEL)
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    subtract=st.booleans(),
    limit=st.integers(1, 4000),
)
@settings(max_examples=40, deadline=None)
def test_every_statistic_equals_the_dense_reference(
    saes: dict, kind: str, lengths: list[int], seed: int, subtract: bool, limit: int
) -> None:
    sae = saes[kind, subtract]
    x = np.random.default_rng(seed).normal(size=(sum(lengths), tiny.D_MODEL)).astype(np.float32)
    with torch.inference_mode():
        triplets = encode(sae, torch.from_numpy(x), limit)
        pairs = document_statistics(triplets, torch.tensor(lengths), 40, (2, 5))
    arrays = {**compress(pairs, len(lengths), 40), "n_tokens": np.asarray(lengths)}

    activations, margin = reference.sae_activations(sae, x)
    ends = np.cumsum(lengths)
    for row, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        sure = (margin[start:end] > 1e-5).all(axis=0)
        expected = reference.statistics(activations[start:end], (2, 5))
        for pooling in ARRAYS:
            got = pool(arrays, pooling, 40, None)[[row]].toarray()[0]
            np.testing.assert_allclose(got[sure], expected[pooling][sure], rtol=1e-4, atol=1e-5)
        if sure.all():
            for n in (2, 5):
                only = {"indptr": arrays["indptr"], "latent": arrays["latent"]}
                only[f"top_{n}"] = arrays[f"top_{n}"]
                got = pool(only, "top_n", 40, None)[[row]].toarray()[0]
                np.testing.assert_array_equal(got, expected[f"top_{n}"])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_tiles_give_what_sae_lens_encode_gives(saes: dict, kind: str) -> None:
    sae = saes[kind, True]
    x = torch.randn(30, tiny.D_MODEL, generator=torch.Generator().manual_seed(1))
    dense = sae.encode(x)
    for limit in (1, 700, 10**9):
        found = encode(sae, x, limit)
        again = torch.zeros_like(dense)
        again[found.token, found.latent] = found.value
        torch.testing.assert_close(again, dense, rtol=1e-5, atol=1e-6)
        assert (found.value > 0).all()


def test_equal_activations_rank_by_the_lower_latent() -> None:
    token = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    latent = torch.tensor([2, 5, 7, 9, 0, 3, 4])
    value = torch.tensor([1.0, 3.0, 1.0, 3.0, 2.0, 2.0, 2.5])
    ranks = strongest_first(Triplets(token, latent, value), 2)
    assert ranks.tolist() == [2, 0, 3, 1, 1, 2, 0]


def test_top_n_never_picks_a_silent_latent() -> None:
    """The authors' argpartition fills up with zeros where fewer than n latents fire."""
    triplets = Triplets(torch.tensor([0, 1]), torch.tensor([3, 3]), torch.tensor([0.5, 0.7]))
    pairs = document_statistics(triplets, torch.tensor([2]), 8, (20,))
    assert pairs["latent"].tolist() == [3]
    assert pairs["top_20"].tolist() == [2]


def test_tokens_without_an_active_latent_give_no_pair() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    triplets = Triplets(nothing, nothing, torch.zeros(0))
    pairs = document_statistics(triplets, torch.tensor([3, 1]), 8, (2,))
    assert pool({**compress(pairs, 2, 8), "n_tokens": np.array([3, 1])}, "mean", 8, None).nnz == 0


def test_memory_does_not_grow_with_the_width(tmp_path: Any, monkeypatch: Any) -> None:
    """A wide SAE is encoded in more tiles, not in larger ones."""
    sizes: list[int] = []
    real = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(a.shape[0] * b.shape[1] * 5)
        return real(a, b, **options)

    monkeypatch.setattr(torch, "mm", watched)
    x = torch.randn(50, tiny.D_MODEL)
    for width in (64, 1024, 4096):
        folder = tiny.write_sae(tmp_path / str(width), width, "jumprelu")
        spec = SAESpec(layer=0, width=str(width), folder=str(folder))
        encode(load_sae(spec, torch.device("cpu"), tiny.D_MODEL), x, limit=100_000)
        assert max(sizes) <= 100_000
