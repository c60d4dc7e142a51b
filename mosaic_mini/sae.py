"""What the SAEs of the mini models are trained on: residual vectors of corpus documents (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mosaic_mini.language_model import Batch


@torch.no_grad()
def residuals(
    model: PreTrainedModel, batches: list[Batch], layers: list[int]
) -> dict[int, torch.Tensor]:
    """Output of each block at every token but `<bos>`: layer -> `[n_tokens, d_model]` float32."""
    kept: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    inside = torch.empty(0)

    def keep(layer: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        states = output[0] if isinstance(output, tuple) else output
        kept[layer].append(states[inside].float())

    handles = [
        model.model.layers[layer].register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
        for layer in layers
    ]
    try:
        for batch in batches:
            inside = torch.from_numpy(batch.weights > 0)
            model.model(input_ids=torch.from_numpy(batch.tokens), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: torch.cat(parts) for layer, parts in kept.items()}
