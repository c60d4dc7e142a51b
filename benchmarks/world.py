"""A Gemma-2-shaped model of random weights, SAEs with a realistic sparsity, and texts for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.config.tasks import Task
from mosaic.data.load import TaskData
from mosaic.models.resolve import choose_device

VOCABULARY = 8000


@dataclass(frozen=True)
class Size:
    """How large the benchmark is; `full` is what its figures are stated for."""

    d_model: int
    d_ff: int
    n_blocks: int
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    n_docs: int
    mean_l0: int = 100
    d_head: int | None = None
    """An eighth of `d_model` where it is not given."""
    heads: tuple[int, int] = (8, 4)
    """Of attention, and those of its keys and values."""
    dtype: torch.dtype = torch.float32


FULL = Size(768, 3072, 8, (1, 3, 5), (16384, 65536), 192, mean_l0=85)
QUICK = Size(64, 128, 4, (0, 1, 2), (512, 1024), 40, mean_l0=30)
MEMORY = Size(128, 256, 2, (0, 1), (4096,), 16384, mean_l0=50)
# Gemma 2 2B up to its layer 19; the six blocks above it are never loaded.
GEMMA_2_2B = Size(
    2304, 9216, 20, (5, 12, 19), (16384, 65536), 4096, d_head=256, dtype=torch.bfloat16
)

# Gemma 3 270M up to the layer that `gemma-local` reads last, with two widths at each.
GEMMA_3_270M = Size(
    640, 2048, 13, (5, 9, 12), (4096, 16384), 640, mean_l0=60, d_head=256, heads=(4, 1)
)


def texts(n_docs: int, seed: int, n_tokens: int | None = None) -> list[str]:
    """Documents of Zipf-distributed words; lengths are log-normal about 40 unless fixed."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, VOCABULARY + 1)
    lengths = np.clip(rng.lognormal(3.5, 0.6, n_docs), 4, 160).astype(int)
    if n_tokens is not None:
        lengths[:] = n_tokens
    words = rng.choice(VOCABULARY, size=lengths.sum(), p=frequency / frequency.sum())
    starts = np.cumsum(lengths) - lengths
    return [
        " ".join(f"w{word}" for word in words[start : start + length])
        for start, length in zip(starts, lengths, strict=True)
    ]


def task(documents: list[str]) -> TaskData:
    """The documents as a task."""
    about = Task(
        name="benchmark",
        role="emotion",
        dataset="nobody/benchmark",
        split="train",
        input_field="text",
        label_field="label",
        licence="MIT",
        section="benchmark",
    )
    ids = np.asarray([f"{i:07d}" for i in range(len(documents))])
    return TaskData(about, ids, documents, np.zeros(len(ids), np.int64), ("none",))


def profile(model: ModelSpec, **changes: int) -> Profile:
    """The authors' six poolings need the sums and the counts of the 20 and 50 strongest."""
    settings = {"max_length": 1024, "top_n": (20, 50), "token_budget": 4096, **changes}
    return Profile(name="benchmark", catalogue="mini", models=(model,), tasks=(), **settings)


def build(root: Path, size: Size) -> ModelSpec:
    """Write the model, its tokenizer and its SAEs below `root`, and say where they are."""
    _write_tokenizer(root / "model")
    _write_model(root / "model", size)
    saes = []
    for layer, states in _residuals(root / "model", size).items():
        for width in size.widths:
            folder = root / f"layer_{layer}" / f"width_{width}"
            _write_sae(folder, states, width, size.mean_l0, layer)
            saes.append(SAESpec(layer=layer, width=str(width), folder=str(folder)))
    layers = dict(zip(("early", "middle", "late"), size.layers, strict=False))
    return ModelSpec(name="gemma", source=str(root / "model"), layers=layers, saes=tuple(saes))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{i}" for i in range(VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    ).save_pretrained(folder)


def _write_model(folder: Path, size: Size) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY + 4,
        hidden_size=size.d_model,
        intermediate_size=size.d_ff,
        num_hidden_layers=size.n_blocks,
        num_attention_heads=size.heads[0],
        num_key_value_heads=size.heads[1],
        head_dim=size.d_head or size.d_model // 8,
        query_pre_attn_scalar=size.d_head or size.d_model // 8,
        max_position_embeddings=2048,
    )
    Gemma2ForCausalLM(config).to(size.dtype).save_pretrained(folder)


def _residuals(folder: Path, size: Size) -> dict[int, torch.Tensor]:
    """Residual vectors of a few documents, to set the thresholds by."""
    from transformers import AutoModel, AutoTokenizer

    device = choose_device()
    model = AutoModel.from_pretrained(folder, dtype=size.dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in size.layers}
    with torch.inference_mode():
        for text in texts(60, seed=1):
            ids = tokenizer(text, return_tensors="pt").input_ids.to(device)
            states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
            for layer in size.layers:
                found[layer].append(states[layer + 1][0, 1:].float())
    return {layer: torch.cat(states) for layer, states in found.items()}


def _write_sae(folder: Path, states: torch.Tensor, width: int, mean_l0: int, seed: int) -> None:
    """A JumpReLU SAE whose latents fire as unevenly as trained ones do, `mean_l0` at a time."""
    from sae_lens import SAE

    rng = torch.Generator().manual_seed(seed)
    d_model = states.shape[1]
    config = {"architecture": "jumprelu", "d_in": d_model, "d_sae": width, "dtype": "float32"}
    sae = SAE.from_dict({**config, "device": "cpu", "apply_b_dec_to_input": False, "metadata": {}})
    sae.W_enc.data = torch.randn(d_model, width, generator=rng) / d_model**0.5
    sae.b_dec.data.zero_()
    frequency = torch.exp(2 * torch.randn(width, generator=rng))
    for _ in range(20):  # the most frequent stay below one half
        frequency = (frequency * (mean_l0 / frequency.sum())).clamp(max=0.5)
    for start in range(0, width, 4096):
        tile = slice(start, start + 4096)
        weights = sae.W_enc.data[:, tile].to(states.device)
        pre = (states @ weights).sort(dim=0, descending=True).values.cpu()
        row = (frequency[tile] * len(states)).long()
        threshold = pre.gather(0, row[None])[0]
        # Rarer than the sample can show: as far above its largest as that is above its tenth.
        threshold += (row == 0) * (pre[0] - pre[9])
        sae.b_enc.data[tile] = (1 - threshold).clamp(min=0)  # so that every threshold is above 0
        sae.threshold.data[tile] = threshold + sae.b_enc.data[tile]
    folder.mkdir(parents=True)
    sae.save_model(folder)
