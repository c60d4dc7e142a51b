"""Three ways to the same features: ours, the field's usual one, and the authors' (protocol §3-§5).

Each returns the authors' six poolings of every SAE: sum, top-20 and top-50, raw and above 1. All
three leave out padding and BOS, so that their outputs can be compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.data.load import TaskData
from mosaic.extraction.extract import extract

Outputs = dict[tuple[int, str, int, bool], csr_array]
"""(layer, width, top_n or 0 for the sum, whether above 1) to `[n_docs, d_sae]`."""

POOLINGS = (0, 20, 50)


def ours(spec: ModelSpec, data: TaskData, profile: Profile, store: Path) -> Outputs:
    """(a) one pass for all layers and widths, then the poolings from the store."""
    features = extract(spec, data, profile, store=store)
    found: Outputs = {}
    for sae in spec.saes:
        for n in POOLINGS:
            pooling = {"pooling": "top_n", "top_n": n} if n else {"pooling": "sum"}
            for above in (False, True):
                matrix = features.matrix(
                    sae.layer, sae.width, threshold=1.0 if above else None, **pooling
                )
                found[sae.layer, sae.width, n, above] = matrix
    return found


def usual(spec: ModelSpec, data: TaskData, batch_size: int = 32) -> Outputs:
    """(b) a run per SAE up to its layer, batches in task order, poolings of dense activations."""
    from sae_lens import SAE
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = SAETransformerBridge.boot_transformers(spec.source)
    tokenizer = model.tokenizer
    tokenizer.padding_side = "right"
    found: Outputs = {}
    for place in spec.saes:
        sae = SAE.load_from_disk(place.folder)
        hook = f"blocks.{place.layer}.hook_out"
        parts: dict[tuple[int, bool], list[csr_array]] = {
            (n, above): [] for n in POOLINGS for above in (False, True)
        }
        for start in range(0, len(data), batch_size):
            encoded = tokenizer(
                data.inputs[start : start + batch_size],
                padding=True,
                return_tensors="pt",
                return_special_tokens_mask=True,
            )
            with torch.inference_mode():
                _, cache = model.run_with_cache(
                    encoded.input_ids,
                    attention_mask=encoded.attention_mask,
                    stop_at_layer=place.layer + 1,
                    names_filter=hook,
                )
                activations = sae.encode(cache[hook])
                activations *= (encoded.special_tokens_mask == 0)[:, :, None]
                for n in POOLINGS:
                    pooled = _dense_pooling(activations, n)
                    parts[n, False].append(csr_array(pooled.numpy()))
                    parts[n, True].append(csr_array((pooled > 1).float().numpy()))
        for (n, above), matrices in parts.items():
            found[place.layer, place.width, n, above] = csr_array(vstack(matrices))
    return found


def _dense_pooling(activations: torch.Tensor, n: int) -> torch.Tensor:
    """Sum over tokens, or for how many of them a latent is among the n strongest."""
    if n == 0:
        return activations.sum(dim=1)
    strongest = activations.topk(n, dim=2)
    n_docs, _, d_sae = activations.shape
    counts = torch.zeros(n_docs, d_sae)
    active = (strongest.values > 0).float().reshape(n_docs, -1)
    return counts.scatter_add_(1, strongest.indices.reshape(n_docs, -1), active)


def token_states(
    spec: ModelSpec, layer: int, documents: list[str], folder: Path, batch_size: int = 8
) -> None:
    """First step of (c): the whole model once per layer and width, a file of float16 per text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(spec.source).eval()
    tokenizer = AutoTokenizer.from_pretrained(spec.source, padding_side="right")
    folder.mkdir(parents=True)
    for start in range(0, len(documents), batch_size):
        encoded = tokenizer(
            documents[start : start + batch_size], padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**encoded, output_hidden_states=True).hidden_states[layer + 1]
        for i, (row, mask) in enumerate(zip(states, encoded.attention_mask, strict=True)):
            kept = row[mask.bool()][1:].half().numpy()
            np.savez_compressed(folder / f"{start + i:07d}.npz", hidden_states=kept)


def authors(spec: ModelSpec, data: TaskData, folder: Path) -> Outputs:
    """(c) token states on disk per layer and width, the SAE loaded and run again per top-n."""
    from sae_lens import SAE

    found: Outputs = {}
    for place in spec.saes:
        states = folder / f"{place.layer}-{place.width}"
        token_states(spec, place.layer, data.inputs, states)
        for n in POOLINGS:
            sae = SAE.load_from_disk(place.folder)
            rows = []
            for file in sorted(states.iterdir()):
                with np.load(file) as stored:
                    x = torch.from_numpy(stored["hidden_states"]).float()
                with torch.inference_mode():
                    activations = sae.encode(x).half().numpy()
                rows.append(csr_array(_authors_pooling(activations, n)[None]))
            raw = csr_array(vstack(rows))
            found[place.layer, place.width, n, False] = raw
            found[place.layer, place.width, n, True] = (raw > 1).astype(np.float32)
    return found


def _authors_pooling(activations: np.ndarray, n: int) -> np.ndarray:
    if n == 0:
        return activations.sum(axis=0).astype(np.float32)
    counts = np.zeros(activations.shape[1], np.float32)
    for row in activations:
        strongest = np.argpartition(-row, n)[:n]
        counts[strongest[row[strongest] > 0]] += 1
    return counts
