"""What a model takes of a device's memory, and the one rule by which that is refused (ours)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from mosaic.config.choices import latents_named
from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.errors import ConfigError, ResourceError
from mosaic.extraction.encode import ACTIVATION_BYTES
from mosaic.models.hub import NO_NEED
from mosaic.models.language_model import skeleton, truncated
from mosaic.models.options import LOGITS
from mosaic.models.resolve import ResolvedModel, load_config
from mosaic.models.saes import read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WORKING_VECTORS = 40
"""Vectors of the residual stream's size that a token takes in a block, attention included."""


def latents_of(sae: SAESpec) -> int:
    """Latents of an SAE: from its folder, else from the name of its width ("16k" is 16,384)."""
    if sae.train is not None:
        return sae.train
    if sae.folder is not None and (Path(sae.folder) / "cfg.json").is_file():
        return read_config(sae)["d_sae"]
    if (number := latents_named(sae.width)) is None:
        raise ConfigError(
            f"Width {sae.width!r} is not a number such as '16k'; rename it in the profile."
        )
    return 2 ** round(math.log2(number))


def host_bytes(saes: Iterable[SAESpec], d_model: int) -> int:
    """Memory of the machine while the largest SAE loads, whatever it computes in (estimate).

    sae-lens reads encoder and decoder in float32 and holds one of them twice for a moment.
    """
    return 12 * d_model * max(map(latents_of, saes), default=0)


def n_weights(model: PreTrainedModel) -> int:
    """Numbers that a model consists of, whether or not they are loaded."""
    return sum(parameter.numel() for parameter in model.parameters())


def memory_bytes(
    model: ModelSpec,
    config: PretrainedConfig,
    saes: Iterable[SAESpec],
    profile: Profile,
    dtype: torch.dtype,
    kind: str,
    layers: Iterable[int] | None = None,
) -> int:
    """What an extraction holds on a kind of device: weights, encoders, one batch (estimate).

    `layers` are those that are read, by default all of the model's.
    """
    hidden = config.get_text_config().hidden_size
    deepest = max(model.layers.values() if layers is None else layers)
    cut = skeleton(truncated(config, deepest + 1))
    batch = profile.token_budget * WORKING_VECTORS * hidden * dtype.itemsize
    encoders = 4 * hidden * sum(latents_of(sae) for sae in saes)
    return n_weights(cut) * dtype.itemsize + encoders + ACTIVATION_BYTES[kind] + batch


def asking_bytes(model: ResolvedModel, token_budget: int) -> int:
    """What asking a model holds: all weights, keys and values, one batch, logits (estimate)."""
    text = model.config.get_text_config()
    heads = text.num_attention_heads
    d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    kept = 2 * text.num_hidden_layers * d_head * (getattr(text, "num_key_value_heads", 0) or heads)
    head = 0 if text.tie_word_embeddings else text.vocab_size * text.hidden_size
    numbers = n_weights(skeleton(model.config)) + head
    numbers += token_budget * (kept + WORKING_VECTORS * text.hidden_size)
    return numbers * model.dtype.itemsize + 2 * 4 * LOGITS


def device_memory(device: torch.device) -> tuple[str, int]:
    """Name and total bytes of what a device computes in: a GPU's own memory, else the machine's.

    All of it counts, not what is free just now: that changes from minute to minute, programs can be
    closed, and batches shrink where memory gets short. So the same question has the same answer.
    """
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return gpu.name, gpu.total_memory
    return "this machine", psutil.virtual_memory().total


def lack_of_memory(need: int, device: torch.device) -> str | None:
    """Why the device cannot hold so many bytes, or None where it can: the one rule for all."""
    name, total = device_memory(device)
    if need <= total:
        return None
    return f"takes about {need / 1e9:.0f} GB and {name} has {total / 1e9:.0f} GB"


def require_memory(
    model: ModelSpec,
    saes: Iterable[SAESpec],
    profile: Profile,
    dtype: torch.dtype,
    device: torch.device,
    config: PretrainedConfig | None = None,
    layers: Iterable[int] | None = None,
) -> None:
    """Refuse what device or machine cannot hold: before weights are downloaded, before they load.

    Raises AccessError (a gated model, no network) and ResourceError.
    """
    config = config or load_config(model.source, model.revision)
    saes = list(saes)
    need = memory_bytes(model, config, saes, profile, dtype, device.type, layers)
    loading = host_bytes(saes, config.get_text_config().hidden_size)
    lack = lack_of_memory(need, device) or lack_of_memory(loading, torch.device("cpu"))
    if lack:
        raise ResourceError(
            f"{model.name!r} with the SAEs asked for {lack}; take fewer widths, a smaller model "
            f"(profile `colab` has Gemma 2 2B with 16k), or a device with more memory. {NO_NEED}"
        )


def require_memory_to_ask(model: ResolvedModel, token_budget: int) -> None:
    """Refuse to ask a model that the device cannot hold. Raises ResourceError."""
    if lack := lack_of_memory(asking_bytes(model, token_budget), model.device):
        raise ResourceError(
            f"Asking {model.spec.name!r} {lack}; ask a smaller model, lower `token_budget` in the "
            f"profile, or use a device with more memory. {NO_NEED}"
        )
