"""What an extraction will cost, told before any weight is fetched or loaded (ours).

FLOPs are counted from the shapes alone: two per weight of every block up to the deepest one, the
attention over the document, and two per weight of every SAE encoder. SAEs are float32: on CUDA
their products run as TF32, at half the rate of bfloat16. Probes are priced in `mosaic.sweep.cost`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from tqdm import tqdm

from mosaic.config.choices import READS
from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import Task
from mosaic.data.load import load_task, missing_reason
from mosaic.errors import AccessError
from mosaic.extraction.memory import host_bytes, latents_of, memory_bytes, n_weights
from mosaic.models.hub import GATED, local_folder
from mosaic.models.language_model import find_blocks, skeleton, truncated
from mosaic.models.readers import image_layout, text_reader
from mosaic.models.resolve import choose_device, choose_dtype, load_config, resolve

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TOKENS_ASSUMED = 64
"""Tokens of a document where its text is not at hand."""

BYTES_PER_TOKEN = 600
"""Stored per token and SAE at 200 tokens a document (measured by benchmarks/extraction.py)."""

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
    """Of the model's blocks; those of the SAEs run in another precision."""
    sae_flops: float
    download_bytes: int
    disk_bytes: int
    memory_bytes: int
    host_bytes: int
    """Memory of the machine itself while the widest SAE loads."""
    seconds: float


def estimate(
    profile: Profile, work: Iterable[tuple[ModelSpec, Sequence[Task]]] | None = None
) -> tuple[Cost, ...]:
    """The cost of each model over its tasks; loads texts at hand and no weights.

    `work` (see `extract.models_with_tasks`) defaults to all tasks of all chapters.
    Raises ConfigError (unknown name) and AccessError (a model whose configuration is not at hand).
    """
    if work is None:
        tasks = [profile.task(key) for key in all_tasks(profile)]
        work = [
            (m, [t for t in tasks if t.modality == READS[m.kind] and m.speaks(t)])
            for m in profile.models
        ]
    device = choose_device()
    dtype = choose_dtype(profile.dtype, device)
    share, half = SHARE_OF_PEAK[device.type], dtype.itemsize == 2
    rate = matmul_peak(device, dtype) * share
    sae_rate = matmul_peak(device, torch.float32, tensor_cores=True) * share if half else rate
    costs = []
    for model, mine in work:
        config = shape_of(model)
        text = config.get_text_config()
        bar = tqdm(mine, desc=f"reading tasks for {model.name}", unit="task", disable=None)
        sizes = [count_tokens(task, model, config, profile) for task in bar]
        documents, tokens = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
        flops, sae_flops = pass_flops(model, config, documents, tokens)
        stored = getattr(config, "dtype", None) or getattr(text, "dtype", None)
        per_weight = 2 if "16" in str(stored) else 4
        download = 0 if local_folder(model.source) else n_weights(skeleton(config)) * per_weight
        elsewhere = [sae for sae in model.saes if sae.folder is None]
        download += sum(8 * latents_of(sae) * text.hidden_size for sae in elsewhere)
        hidden = 12 * text.hidden_size * len(model.layers)  # three float32 vectors of each layer
        cost = Cost(
            model=model.name,
            documents=documents,
            tokens=tokens,
            tokens_from=" and ".join(sorted({size[2] for size in sizes})) or "none",
            flops=flops,
            sae_flops=sae_flops,
            download_bytes=download,
            disk_bytes=tokens * len(model.saes) * BYTES_PER_TOKEN + documents * hidden,
            memory_bytes=memory_bytes(model, config, model.saes, profile, dtype, device.type),
            host_bytes=host_bytes(model.saes, text.hidden_size),
            seconds=flops / rate + sae_flops / sae_rate,
        )
        costs.append(cost)
    return tuple(costs)


def all_tasks(profile: Profile) -> tuple[str, ...]:
    """Keys of every task the profile's chapters use."""
    return tuple(
        dict.fromkeys([*profile.tasks, *(k for c in profile.chapters.values() for k in c)])
    )


def cost_table(costs: Iterable[Cost]) -> str:
    """The costs as text: a line per model, and how they were found."""
    costs = list(costs)
    rows = [
        {
            "model": cost.model,
            "documents": f"{cost.documents:,}",
            "tokens": f"{cost.tokens:,}",
            "PFLOP": f"{(cost.flops + cost.sae_flops) / 1e15:.3g}",
            "download": f"{cost.download_bytes / 1e9:.2f} GB",
            "disk": f"{cost.disk_bytes / 1e9:.2f} GB",
            "memory": f"{cost.memory_bytes / 1e9:.2f} GB",
            "host memory": f"{cost.host_bytes / 1e9:.2f} GB",
            "time": f"{cost.seconds / 60:.1f} min",
        }
        for cost in costs
    ]
    how = ", ".join(sorted({cost.tokens_from for cost in costs}))
    minutes = sum(cost.seconds for cost in costs) / 60
    last = f"Tokens: {how}. All else is estimated; together {minutes:.1f} min on this device."
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{last}"


def matmul_peak(device: torch.device, dtype: torch.dtype, tensor_cores: bool = False) -> float:
    """FLOP/s of the best of a few large matrix products on the device, in under a second.

    With `tensor_cores` float32 is multiplied as SAEs of a half-precision model are (TF32 on CUDA).
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tensor_cores and device.type == "cuda" else before)
    n = 8192 if device.type == "cuda" else 1536
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    torch.set_float32_matmul_precision(before)
    return 2 * n**3 / best


def count_tokens(
    task: Task, model: ModelSpec, config: PretrainedConfig, profile: Profile
) -> tuple[int, int, str]:
    """Documents and tokens of a task, and how they were found."""
    if task.modality == "image":
        per_image = image_layout(config).n_tokens
        return task.rows or 0, (task.rows or 0) * per_image, "counted"
    if missing_reason(task, profile) is not None:
        return task.rows or 0, (task.rows or 0) * TOKENS_ASSUMED, "assumed"
    texts = load_task(task.key, profile).inputs
    if local_folder(model.source) is not None:
        documents = text_reader(resolve(model, profile), profile).read(texts)
        return len(texts), int(documents.n_tokens.sum()), "counted"
    tokens = sum(min(len(text) // 4 + 1, profile.max_length) for text in texts)
    return len(texts), tokens, "characters / 4"


def pass_flops(
    model: ModelSpec, config: PretrainedConfig, documents: int, tokens: int
) -> tuple[float, float]:
    """FLOPs of one forward pass, and of all the model's SAEs, by the formula above."""
    text = config.get_text_config()
    n_blocks = max(model.layers.values()) + 1
    blocks = find_blocks(skeleton(truncated(config, n_blocks)))[1]
    weights = sum(p.numel() for p in blocks.parameters() if p.dim() > 1)
    heads = text.num_attention_heads
    d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    length = tokens / documents if documents else 0
    encoders = sum(latents_of(sae) for sae in model.saes) * text.hidden_size
    blocks_of = 2 * weights + 4 * heads * d_head * length * n_blocks
    return tokens * blocks_of, tokens * 2.0 * encoders


def shape_of(model: ModelSpec) -> PretrainedConfig:
    """The model's configuration, or one of the same shape where the model is gated.

    Raises AccessError for any other model whose configuration is not at hand.
    """
    try:
        return load_config(local_folder(model.source) or model.source, model.revision)
    except AccessError:
        if model.source not in GATED:
            raise
    from transformers import Gemma2Config, Gemma3Config, Gemma3TextConfig, PaliGemmaConfig

    third = "gemma-3-" in model.source
    d_model, d_ff, n_blocks, n_heads, n_kv, dtype = GATED[model.source]
    text = (Gemma3TextConfig if third else Gemma2Config)(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_hidden_layers=n_blocks,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv,
        head_dim=256,
        vocab_size=262_144 if third else 256_000,
        dtype=dtype,
    )
    if model.kind == "text":
        return text
    if not third:
        return PaliGemmaConfig(text_config=text.to_dict())
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    tower |= {"num_attention_heads": 16, "image_size": 896, "patch_size": 14}
    return Gemma3Config(text_config=text.to_dict(), vision_config=tower)
