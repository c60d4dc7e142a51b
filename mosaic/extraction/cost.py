"""What an extraction will cost, told before any weight is fetched or loaded (ours).

FLOPs are counted from the shapes alone: two per weight of every block up to the deepest one, the
attention over the document, and two per weight of every SAE encoder.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mosaic.config.profiles import latents_named
from mosaic.config.tasks import Task
from mosaic.data.load import load_task, missing_reason
from mosaic.errors import AccessError, ConfigError, ResourceError
from mosaic.extraction.encode import ACTIVATION_BYTES
from mosaic.models.hub import NO_NEED, local_folder
from mosaic.models.language_model import find_blocks, skeleton, truncated
from mosaic.models.readers import text_reader
from mosaic.models.resolve import choose_device, choose_dtype, load_config, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from mosaic.config.profiles import ModelSpec, Profile, SAESpec


TOKENS_ASSUMED = 64
"""Tokens of a document where its text is not at hand."""

BYTES_PER_TOKEN = 600
"""Stored per token and SAE at 200 tokens a document (measured by benchmarks/extraction.py)."""

WORKING_VECTORS = 40
"""Vectors of the residual stream's size that a token takes in a block, attention included."""

SHARE_OF_PEAK = {"cpu": 0.6, "cuda": 0.45, "mps": 0.4}
"""What a pass reaches of the measured matrix product; on CUDA a guess until measured."""


@dataclass(frozen=True)
class Cost:
    """What one model over its tasks takes; bytes and seconds are estimates."""

    model: str
    documents: int
    tokens: int
    tokens_from: str
    """How the tokens were found: "counted", "characters / 4", "assumed", or a mixture."""
    flops: float
    download_bytes: int
    disk_bytes: int
    memory_bytes: int
    seconds: float


def estimate(
    profile: Profile, models: Iterable[str] | None = None, tasks: Iterable[str] | None = None
) -> tuple[Cost, ...]:
    """The cost of each model over the tasks it can read; loads texts at hand and no weights.

    Raises ConfigError (unknown name) and AccessError (a model whose configuration is not at hand).
    """
    chosen = [profile.model(name) for name in models] if models is not None else profile.models
    keys = tuple(tasks) if tasks is not None else all_tasks(profile)
    device = choose_device()
    dtype = choose_dtype(profile.dtype, device)
    peak = matmul_peak(device, dtype)
    costs = []
    for model in chosen:
        modality = "text" if model.kind == "text" else "image"
        mine = [t for t in (profile.task(key) for key in keys) if t.modality == modality]
        config = shape_of(model)
        bar = tqdm(mine, desc=f"reading tasks for {model.name}", unit="task", disable=None)
        sizes = [count_tokens(task, model, config, profile) for task in bar]
        costs.append(_cost(model, config, profile, sizes, dtype, device, peak))
    return tuple(costs)


def all_tasks(profile: Profile) -> tuple[str, ...]:
    """Keys of every task the profile's chapters use."""
    return tuple(
        dict.fromkeys([*profile.tasks, *(k for c in profile.chapters.values() for k in c)])
    )


def cost_table(costs: Iterable[Cost]) -> str:
    """The costs as text: a line per model, and how they were found."""
    costs = list(costs)
    head = ("model", "documents", "tokens", "PFLOP", "download", "disk", "memory", "time")
    rows = [
        (
            cost.model,
            f"{cost.documents:,}",
            f"{cost.tokens:,}",
            f"{cost.flops / 1e15:.3g}",
            f"{cost.download_bytes / 1e9:.2f} GB",
            f"{cost.disk_bytes / 1e9:.2f} GB",
            f"{cost.memory_bytes / 1e9:.2f} GB",
            f"{cost.seconds / 60:.1f} min",
        )
        for cost in costs
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]
    how = ", ".join(sorted({cost.tokens_from for cost in costs}))
    minutes = sum(cost.seconds for cost in costs) / 60
    last = f"Tokens: {how}. All else is estimated; together {minutes:.1f} min on this device."
    return "\n".join([*lines, last])


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of a few large matrix products on the device, in under a second."""
    import torch

    n = 8192 if device.type == "cuda" else 1536
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def count_tokens(
    task: Task, model: ModelSpec, config: PretrainedConfig, profile: Profile
) -> tuple[int, int, str]:
    """Documents and tokens of a task, and how they were found."""
    if task.modality == "image":
        per_image = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        return task.rows or 0, (task.rows or 0) * per_image, "counted"
    if missing_reason(task, profile) is not None:
        return task.rows or 0, (task.rows or 0) * TOKENS_ASSUMED, "assumed"
    texts = load_task(task.key, profile).inputs
    if (folder := local_folder(model.source)) is not None:
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        documents = text_reader(load_tokenizer(folder), profile, limit).read(texts)
        return len(texts), int(documents.n_tokens.sum()), "counted"
    tokens = sum(min(len(text) // 4 + 1, profile.max_length) for text in texts)
    return len(texts), tokens, "characters / 4"


def latents_of(sae: SAESpec) -> int:
    """Latents of an SAE: from its folder, else from the name of its width ("16k" is 16,384)."""
    if sae.train is not None:
        return sae.train
    if sae.folder is not None and (Path(sae.folder) / "cfg.json").is_file():
        return int(json.loads((Path(sae.folder) / "cfg.json").read_text())["d_sae"])
    if (number := latents_named(sae.width)) is None:
        raise ConfigError(
            f"Width {sae.width!r} is not a number such as '16k'; rename it in the profile."
        )
    return 2 ** round(math.log2(number))


def memory_bytes(
    model: ModelSpec,
    config: PretrainedConfig,
    saes: Iterable[SAESpec],
    profile: Profile,
    dtype: torch.dtype,
    kind: str,
) -> int:
    """What an extraction holds on a kind of device: weights, encoders, one batch (estimate)."""
    hidden = config.get_text_config().hidden_size
    cut = skeleton(truncated(config, max(model.layers.values()) + 1))
    batch = profile.token_budget * WORKING_VECTORS * hidden * dtype.itemsize
    encoders = 4 * hidden * sum(latents_of(sae) for sae in saes)
    return _weights(cut) * dtype.itemsize + encoders + ACTIVATION_BYTES[kind] + batch


def device_memory(device: torch.device) -> tuple[str, int]:
    """Name and total bytes of what a device computes in: a GPU's own memory, else the machine's."""
    import torch

    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return gpu.name, gpu.total_memory
    return "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(
    model: ModelSpec,
    saes: Iterable[SAESpec],
    profile: Profile,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse what the device cannot hold before its weights are downloaded.

    Raises AccessError (a gated model, no network) and ResourceError.
    """
    name, total = device_memory(device)
    config = load_config(model.source, model.revision)
    need = memory_bytes(model, config, saes, profile, dtype, device.type)
    if need > total:
        raise ResourceError(
            f"{model.name!r} with the SAEs asked for takes about {need / 1e9:.0f} GB and {name} "
            f"has {total / 1e9:.0f} GB; take fewer widths, a smaller model (profile `colab` has "
            f"Gemma 2 2B with 16k), or a device with more memory. {NO_NEED}"
        )


def pass_flops(model: ModelSpec, config: PretrainedConfig, documents: int, tokens: int) -> float:
    """FLOPs of one forward pass with all the model's SAEs, by the formula above."""
    text = config.get_text_config()
    n_blocks = max(model.layers.values()) + 1
    blocks = find_blocks(skeleton(truncated(config, n_blocks)))[1]
    weights = sum(p.numel() for p in blocks.parameters() if p.dim() > 1)
    heads = text.num_attention_heads
    d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    length = tokens / documents if documents else 0
    encoders = sum(latents_of(sae) for sae in model.saes) * text.hidden_size
    return tokens * (2 * weights + 4 * heads * d_head * length * n_blocks + 2 * encoders)


def _weights(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _cost(
    model: ModelSpec,
    config: PretrainedConfig,
    profile: Profile,
    sizes: list[tuple[int, int, str]],
    dtype: torch.dtype,
    device: torch.device,
    peak: float,
) -> Cost:
    documents = sum(size[0] for size in sizes)
    tokens = sum(size[1] for size in sizes)
    text = config.get_text_config()
    flops = pass_flops(model, config, documents, tokens)
    stored = getattr(config, "dtype", None) or getattr(text, "dtype", None)
    per_weight = 2 if "16" in str(stored) else 4
    download = 0 if local_folder(model.source) else _weights(skeleton(config)) * per_weight
    download += sum(8 * latents_of(s) * text.hidden_size for s in model.saes if s.folder is None)
    hidden = 12 * text.hidden_size * len(model.layers)  # three float32 vectors of each layer
    disk = tokens * len(model.saes) * BYTES_PER_TOKEN + documents * hidden
    memory = memory_bytes(model, config, model.saes, profile, dtype, device.type)
    seconds = flops / (peak * SHARE_OF_PEAK[device.type])
    how = " and ".join(sorted({size[2] for size in sizes})) or "none"
    return Cost(model.name, documents, tokens, how, flops, download, disk, memory, seconds)


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
