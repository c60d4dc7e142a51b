"""One shard through the model and its SAEs, batch by batch, within the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic.config.choices import HIDDEN_POOLINGS
from mosaic.errors import IntegrityError, ResourceError
from mosaic.extraction.encode import (
    Triplets,
    compress,
    document_statistics,
    encode,
    hidden_statistics,
)
from mosaic.extraction.features import Block
from mosaic.models.batches import Batch, BatchRunner, Documents
from mosaic.models.hub import fitting
from mosaic.models.language_model import LanguageModel, residual_stream

if TYPE_CHECKING:
    from sae_lens import SAE

Statistics = dict[Block, dict[str, np.ndarray]]


@contextmanager
def _tensor_cores(model: LanguageModel) -> Iterator[None]:
    """TF32 products for SAEs that read a half-precision model on CUDA.

    TF32 keeps every bit of a bfloat16 or float16 vector and accumulates in float32, so all that is
    lost is what the SAE's weights hold beyond 11 bits.
    """
    before = torch.get_float32_matmul_precision()
    if model.device.type == "cuda" and model.text.dtype != torch.float32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(eq=False)
class Pass:
    """A loaded model with the SAEs that read it, and how large its batches may be."""

    model: LanguageModel
    saes: dict[Block, SAE[Any]]
    top_n: tuple[int, ...]
    token_budget: int
    listener: Callable[[Block, np.ndarray, Batch, Triplets], None] | None = None
    """Is told the activations of every batch: block, rows, batch, activations of its tokens."""
    n_tokens: int = 0
    """Pooled so far, for the progress bar."""

    def __post_init__(self) -> None:
        remedy = "lower `max_length` in the profile, take fewer widths at a time"
        self._runner = BatchRunner(self.model.device, self.token_budget, "document", remedy)

    def shard(self, documents: Documents, blocks: tuple[Block, ...], bar: Any) -> Statistics:
        """Stored arrays of each block for all documents, in their order. Raises ResourceError."""
        done: list[tuple[np.ndarray, Statistics]] = []
        pooled = np.flatnonzero(documents.n_tokens > 0)  # of the others nothing would be kept
        compute = partial(self.batch, documents, blocks=blocks)
        for rows, found in self._runner.run(documents.lengths, pooled, compute):
            done.append((rows, found))
            self.n_tokens += int(documents.n_tokens[rows].sum())
            bar.update(len(rows))
            if elapsed := bar.format_dict["elapsed"]:
                bar.set_postfix_str(f"{self.n_tokens / elapsed:.0f} tokens/s", refresh=False)
        bar.update(int((documents.n_tokens == 0).sum()))
        return {block: self._join(block, documents, done) for block in blocks}

    def batch(
        self, documents: Documents, rows: np.ndarray, blocks: tuple[Block, ...]
    ) -> Statistics:
        """Statistics of one batch; `doc` numbers its documents as in `rows`."""
        device = self.model.device
        batch = documents.collate(rows)
        arguments = {k: torch.from_numpy(v).to(device) for k, v in batch.arguments.items()}
        keep = torch.from_numpy(batch.keep).to(device)
        lengths = keep.sum(dim=1)
        runner = self.model.whole if batch.whole else self.model.text
        layers = sorted({block.layer for block in blocks})
        fits = fitting(self.model.text.config.name_or_path, "forward pass")
        with fits, residual_stream(self.model, layers) as outputs:
            runner(**arguments)
        found: Statistics = {}
        for layer in list(outputs):
            # Longformer pads further by itself.
            x = outputs.pop(layer)[:, : keep.shape[1]][keep].float()  # [n_tokens, d_model]
            if not torch.isfinite(x).all():
                if (dtype := self.model.text.dtype) != torch.float32:
                    remedy = f"overflows in {dtype}; set `dtype: float32` in the profile."
                    raise ResourceError(f"The residual stream of layer {layer} {remedy}")
                raise IntegrityError(
                    f"The residual stream of layer {layer} holds NaN or infinity: weights of "
                    f"{self.model.text.config.name_or_path!r} are damaged; fetch it again."
                )
            for block in blocks:
                if block.layer == layer and block.width is None:
                    found[block] = hidden_statistics(x, lengths)
                elif block.layer == layer:
                    sae = self.saes[block]
                    with _tensor_cores(self.model):
                        active = encode(sae, x)
                    if self.listener is not None:
                        self.listener(block, rows, batch, active)
                    found[block] = document_statistics(active, lengths, sae.cfg.d_sae, self.top_n)
        return found

    def _join(
        self, block: Block, documents: Documents, done: list[tuple[np.ndarray, Statistics]]
    ) -> dict[str, np.ndarray]:
        """Batches back in the order of the documents; those without a token get zeros."""
        n_docs = len(documents.lengths)
        about = {"n_tokens": documents.n_tokens.astype(np.int32), "cut": documents.cut}
        if block.width is None:
            d_model = self.model.text.config.hidden_size
            hidden = {how: np.zeros((n_docs, d_model), np.float32) for how in HIDDEN_POOLINGS}
            for rows, found in done:
                for how in HIDDEN_POOLINGS:
                    hidden[how][rows] = found[block][how]
            return {**hidden, **about}
        whole = ("latent", "count", *(f"top_{n}" for n in self.top_n))
        kinds: dict[str, type] = dict.fromkeys(whole, np.int32)
        kinds |= dict.fromkeys(("sum", "max", "last"), np.float32)

        def joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
            return np.concatenate([np.zeros(0, kind), *parts])  # there may be no document at all

        doc = joined([rows[found[block]["doc"]] for rows, found in done], np.int64)
        order = np.argsort(doc, kind="stable")
        pairs = {
            name: joined([found[block][name] for _, found in done], kind)[order]
            for name, kind in kinds.items()
        }
        pairs["doc"] = doc[order]
        return {**compress(pairs, n_docs, self.saes[block].cfg.d_sae), **about}
