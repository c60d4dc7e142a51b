"""Shapes of models, also of those whose configuration is behind a licence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mosaic.errors import AccessError
from mosaic.hub import local_folder
from mosaic.models import load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from mosaic.profiles import ModelSpec

GATED = {
    "google/gemma-2-2b": (2304, 9216, 26, 8, 4, "float32"),
    "google/gemma-2-9b": (3584, 14336, 42, 16, 8, "float32"),
    "google/gemma-2-9b-it": (3584, 14336, 42, 16, 8, "bfloat16"),
    "google/paligemma2-3b-pt-224": (2304, 9216, 26, 8, 4, "bfloat16"),
}
"""d_model, d_ff, blocks, heads, key-value heads and stored dtype of gated models, so that a price
can be named before anyone asks for their licence. Nothing is ever loaded by these."""


def shape_of(model: ModelSpec) -> PretrainedConfig:
    """The model's configuration, or one of the same shape where the model is gated.

    Raises AccessError for any other model whose configuration is not at hand.
    """
    try:
        return load_config(local_folder(model.source) or model.source, model.revision)
    except AccessError:
        if model.source not in GATED:
            raise
    from transformers import Gemma2Config, PaliGemmaConfig

    d_model, d_ff, n_blocks, n_heads, n_kv, dtype = GATED[model.source]
    text = Gemma2Config(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_hidden_layers=n_blocks,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv,
        head_dim=256,
        vocab_size=256_000,
        dtype=dtype,
    )
    return PaliGemmaConfig(text_config=text.to_dict()) if model.kind == "vision" else text
