"""Extraction as slowly and plainly as it can be done: one document at a time, dense, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def sae_activations(sae: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations and distance of the nearest threshold, `[n_tokens, d_sae]` each, in float64."""
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in sae.named_parameters()}
    x = x.astype(np.float64)
    if sae.cfg.apply_b_dec_to_input:
        x = x - weights["b_dec"]
    kind = sae.cfg.architecture()
    if kind == "gated":
        gate = x @ weights["W_enc"] + weights["b_gate"]
        size = x @ (weights["W_enc"] * np.exp(weights["r_mag"])) + weights["b_mag"]
        return np.maximum(size, 0) * (gate > 0), np.minimum(np.abs(gate), np.abs(size))
    pre = x @ weights["W_enc"] + weights["b_enc"]
    if kind == "standard":
        return np.maximum(pre, 0), np.abs(pre)
    if kind == "jumprelu":
        threshold = np.maximum(weights["threshold"], 0)
        return pre * (pre > threshold), np.abs(pre - threshold)
    if kind == "topk":
        ranked = -np.sort(-pre, axis=1)
        weakest = ranked[:, [sae.cfg.k - 1]]
        margin = np.minimum(np.abs(pre - weakest) + (pre == weakest), np.abs(pre))
        return np.maximum(pre, 0) * (pre >= weakest), margin
    raise AssertionError(f"no reference for {kind}")


def statistics(activations: np.ndarray, top_n: Sequence[int]) -> dict[str, np.ndarray]:
    """All pooled statistics of one document from its activations `[n_tokens, d_sae]`."""
    n_tokens, d_sae = activations.shape
    found = {
        "sum": activations.sum(axis=0),
        "mean": activations.sum(axis=0) / max(1, n_tokens),
        "max": activations.max(axis=0, initial=0),
        "last": activations[-1] if n_tokens else np.zeros(d_sae),
        "count": (activations > 0).sum(axis=0),
    }
    for n in top_n:
        counts = np.zeros(d_sae)
        for row in activations:
            strongest = np.lexsort((np.arange(d_sae), -row))[:n]
            counts[strongest[row[strongest] > 0]] += 1
        found[f"top_{n}"] = counts
    return found


def undecided(sae: Any, x: np.ndarray, top_n: Sequence[int]) -> dict[str, np.ndarray]:
    """Latents of one document that float32 may count otherwise, bool `[d_sae]`: "count", "top_<n>".

    A latent is undecided where it lies at its threshold at some token: within 1e-6 of the product
    of the norms of the token and of the latent's encoder column, which is 1e-5 to 4e-5 for the
    models of `tiny`. A pre-activation is a sum of products, and float32 rounds it by a share of
    that product of norms, about 1e-7 each time, however small the sum itself is. Among the n
    strongest the threshold is the activation of the n-th, or any at all where a latent that may or
    may not be active can push another one out.
    """
    activations, margin = sae_activations(sae, x)
    columns = np.linalg.norm(sae.W_enc.detach().numpy(), axis=0)
    tolerance = 1e-6 * np.linalg.norm(x, axis=1)[:, None] * columns
    near = margin < tolerance
    low = np.where(near, 0, np.maximum(activations - tolerance, 0))
    high = np.where(near, np.inf, np.where(activations > 0, activations + tolerance, 0))
    rivals, stronger = np.zeros(low.shape, int), np.zeros(low.shape, int)
    for token in range(len(x)):  # how many may be as strong, itself among them; how many surely are
        rivals[token] = low.shape[1] - np.searchsorted(np.sort(high[token]), low[token])
        stronger[token] = low.shape[1] - np.searchsorted(np.sort(low[token]), high[token], "right")
    found = {"count": near.any(axis=0)}
    for n in top_n:
        decided = ((low > 0) & (rivals <= n)) | (high == 0) | (stronger >= n)
        found[f"top_{n}"] = ~decided.all(axis=0)
    return found


def run_model(
    folder: str, texts: Sequence[str], max_length: int, layers: Sequence[int]
) -> list[dict[int, np.ndarray]]:
    """Kept residual vectors per document and layer, from the untruncated model with its head."""
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(
        folder, dtype=torch.float32
    )
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: list[dict[int, np.ndarray]] = []
    for text in texts:
        encoded = tokenizer(
            text, truncation=True, max_length=max_length, return_special_tokens_mask=True
        )
        keep = ~np.asarray(encoded["special_tokens_mask"], dtype=bool)
        if not keep.any():
            width = config.get_text_config().hidden_size
            found.append({layer: np.zeros((0, width), np.float32) for layer in layers})
            continue
        ids = torch.tensor([encoded["input_ids"]])
        arguments = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            states = model(**arguments, output_hidden_states=True).hidden_states
        # One beyond the block: entry 0 is the embedding. Never the last entry: it is normed.
        found.append({layer: states[layer + 1][0].numpy()[keep] for layer in layers})
    return found
