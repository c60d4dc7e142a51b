"""From packed residual vectors to (document, latent) statistics, holding only what is not zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic.models.saes import ELEMENTWISE

if TYPE_CHECKING:
    from sae_lens import SAE

ACTIVATION_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30, "mps": 256 * 2**20}
"""Most bytes that dense activations may hold at a time, by kind of device (ours)."""


@dataclass(frozen=True, eq=False)
class Triplets:
    """Non-zero activations of one SAE, `[n_active]`; a token's latents stand in rising order."""

    token: torch.Tensor
    latent: torch.Tensor
    value: torch.Tensor


def encode(sae: SAE[Any], x: torch.Tensor, limit: int | None = None) -> Triplets:
    """Activations of residual vectors `x` `[n_tokens, d_model]`, equal to `sae.encode(x)`.

    Dense activations never hold more than `limit` bytes (default: ACTIVATION_BYTES): latents are
    tiled where each depends on its own pre-activation only, tokens for all other architectures.
    """
    limit = ACTIVATION_BYTES[x.device.type] if limit is None else limit
    if sae.cfg.architecture() in ELEMENTWISE:
        parts = _encode_by_latents(sae, x, limit)
    else:
        parts = _encode_by_tokens(sae, x, limit)
    token, latent, value = (torch.cat(part) for part in zip(*parts, strict=True))
    return Triplets(token, latent, value)


def _encode_by_latents(sae: SAE[Any], x: torch.Tensor, limit: int) -> list[tuple[Any, ...]]:
    gated = sae.cfg.architecture() == "gated"
    sae_in = sae.process_sae_in(x)
    # A pre-activation, its mask and, for gated SAEs, its gate.
    width = max(1, min(sae.cfg.d_sae, limit // (max(1, len(x)) * (9 if gated else 5))))
    buffer = sae_in.new_empty(len(x) * width)
    parts = []
    for start in range(0, sae.cfg.d_sae, width):
        tile = slice(start, min(start + width, sae.cfg.d_sae))
        pre = buffer[: len(x) * (tile.stop - start)].view(len(x), tile.stop - start)
        torch.mm(sae_in, sae.W_enc[:, tile], out=pre)
        if gated:
            active = pre + sae.b_gate[tile] > 0
            pre.mul_(sae.r_mag[tile].exp()).add_(sae.b_mag[tile])
            active &= pre > 0
        else:
            pre.add_(sae.b_enc[tile])
            threshold = getattr(sae, "threshold", None)
            active = pre > (0 if threshold is None else threshold[tile].clamp(min=0))
        parts.append(_gather(pre, active, start))
    return parts


def _encode_by_tokens(sae: SAE[Any], x: torch.Tensor, limit: int) -> list[tuple[Any, ...]]:
    # sae-lens holds about four arrays of this size while it encodes.
    step = max(1, limit // (sae.cfg.d_sae * 16))
    parts = []
    for start in range(0, max(1, len(x)), step):
        dense = sae.encode(x[start : start + step])
        token, latent, value = _gather(dense, dense > 0, 0)
        parts.append((token + start, latent, value))
    return parts


def _gather(
    dense: torch.Tensor, active: torch.Tensor, first_latent: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if dense.device.type == "cpu":  # twice as fast as torch's
        flat = torch.from_numpy(np.flatnonzero(active.numpy()))
    else:
        flat = active.view(-1).nonzero().squeeze(1)
    token = flat // dense.shape[1]
    return token, flat - token * dense.shape[1] + first_latent, dense.view(-1)[flat]


def strongest_first(triplets: Triplets, n_tokens: int) -> torch.Tensor:
    """Rank of each activation within its token, 0 the strongest `[n_active]`.

    Of equal activations the lower latent comes first, so ranks do not depend on the device.
    """
    # A positive float32 and its bits rise together, so one integer key sorts token, then strength.
    bits = triplets.value.contiguous().view(torch.int32).long()
    order = torch.sort((triplets.token << 32) - bits, stable=True).indices
    per_token = torch.bincount(triplets.token, minlength=n_tokens)
    start = per_token.cumsum(0) - per_token
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - start[triplets.token[order]]
    return rank


def document_statistics(
    triplets: Triplets, lengths: torch.Tensor, d_sae: int, top_n: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Statistics of every (document, latent) pair that is active at all, in rising order.

    `lengths` `[n_docs]` says how many of the packed tokens belong to each document. Returns arrays
    `[n_pairs]`: `doc`, `latent`, `sum`, `max`, `count`, `last` (0 where the last token is not
    active) and `top_<n>`, the number of tokens where the latent is among the n strongest.
    Sums run in float32 over tokens in their order, so neighbours in a batch cannot change them.
    """
    if triplets.value.device.type == "mps":  # has no segment_reduce
        triplets = Triplets(triplets.token.cpu(), triplets.latent.cpu(), triplets.value.cpu())
        lengths = lengths.cpu()
    ranks = strongest_first(triplets, int(lengths.sum()))
    doc_of = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    pair, order = torch.sort(doc_of[triplets.token] * d_sae + triplets.latent, stable=True)
    pair, count = torch.unique_consecutive(pair, return_counts=True)
    value, ranks, token = triplets.value[order], ranks[order], triplets.token[order]
    doc, last = pair // d_sae, count.cumsum(0) - 1
    at_end = token[last] == lengths.cumsum(0)[doc] - 1

    def reduce(values: torch.Tensor, how: str) -> torch.Tensor:
        # segment_reduce refuses to reduce nothing: a batch where no latent is active.
        return torch.segment_reduce(values, how, lengths=count) if len(count) else values

    found = {
        "doc": doc.int(),
        "latent": (pair - doc * d_sae).int(),
        "sum": reduce(value, "sum"),
        "max": reduce(value, "max"),
        "count": count.int(),
        "last": torch.where(at_end, value[last], 0.0),
        **{f"top_{n}": reduce((ranks < n).float(), "sum").int() for n in top_n},
    }
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def compress(pairs: Mapping[str, np.ndarray], n_docs: int, d_sae: int) -> dict[str, np.ndarray]:
    """CSR arrays of `document_statistics` pairs sorted by document, in the least bytes.

    The largest arrays are packed: a latent that is active at one token has the same sum, maximum
    and (if that is the last token) last activation.
    """
    indptr = np.zeros(n_docs + 1, dtype=np.int64)
    np.cumsum(np.bincount(pairs["doc"], minlength=n_docs), out=indptr[1:])
    last_at = np.flatnonzero(pairs["last"])
    packed = {
        "indptr": indptr,
        "latent": pairs["latent"].astype(np.min_scalar_type(max(0, d_sae - 1))),
        "sum": pairs["sum"],
        "max": pairs["max"][pairs["count"] > 1],
        "last_at": last_at.astype(np.uint32),
        "last": pairs["last"][last_at],
    }
    for name, values in pairs.items():
        if name == "count" or name.startswith("top_"):
            packed[name] = values.astype(np.min_scalar_type(int(values.max(initial=0))))
    return packed


def hidden_statistics(x: torch.Tensor, lengths: torch.Tensor) -> dict[str, np.ndarray]:
    """Last, mean and max of packed residual vectors `x` per document, `[n_docs, d_model]` each."""
    found = {"last": x[lengths.cumsum(0) - 1]}
    for how in ("mean", "max"):
        source, sizes = (x.cpu(), lengths.cpu()) if x.device.type == "mps" else (x, lengths)
        found[how] = torch.segment_reduce(source, how, lengths=sizes, axis=0)
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}
