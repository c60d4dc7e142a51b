"""Models and SAEs: found by exact name, loaded up to the deepest block wanted and not further."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.errors import AccessError, ConfigError, ResourceError
from mosaic.hub import check_pin, digest_files, is_local, reachable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from mosaic.profiles import ModelSpec

TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "chat_template*")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model cut off after the deepest block wanted, ready to run."""

    whole: PreTrainedModel
    """The model as loaded: for a vision-language model, the one that takes images."""
    text: PreTrainedModel
    """The text model inside it; the same object for a text model."""
    blocks: torch.nn.ModuleList

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.device


def choose_device() -> torch.device:
    """CUDA where there is one, else Apple's GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The profile's dtype; "auto" is bfloat16 (else float16) on CUDA and float32 elsewhere."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_config(spec: ModelSpec) -> PretrainedConfig:
    """The model's configuration, untruncated. Raises AccessError."""
    from transformers import AutoConfig

    if is_local(spec.source) and not (Path(spec.source) / "config.json").is_file():
        raise AccessError(
            f"{spec.source!r} has no config.json: name a folder written by `save_pretrained`."
        )
    with reachable(spec.source):
        return AutoConfig.from_pretrained(spec.source, revision=spec.revision)


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The model's own tokenizer. Raises AccessError."""
    from transformers import AutoTokenizer

    with reachable(spec.source):
        return AutoTokenizer.from_pretrained(spec.source, revision=spec.revision)


def truncated(config: PretrainedConfig, n_blocks: int) -> PretrainedConfig:
    """A copy of `config` whose text model has only its first `n_blocks` blocks.

    Raises ConfigError when the model has fewer.
    """
    config = copy.deepcopy(config)
    text = config.get_text_config()
    if not 1 <= n_blocks <= text.num_hidden_layers:
        raise ConfigError(
            f"There is no layer {n_blocks - 1}: the model has {text.num_hidden_layers} blocks, "
            f"layers 0 to {text.num_hidden_layers - 1}. Correct `layers` in the profile."
        )
    text.num_hidden_layers = n_blocks
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:n_blocks]
    text.use_cache = False
    return config


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The model of that configuration without weights: its shapes, and the attention it picks."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        return AutoModel.from_config(copy.deepcopy(config))


def find_blocks(model: PreTrainedModel) -> tuple[PreTrainedModel, torch.nn.ModuleList]:
    """The text model and its list of blocks, found by structure and not by name.

    The text model is the outermost module with the text configuration; the blocks are its outermost
    ModuleList of `num_hidden_layers` entries. Raises ConfigError when there is none.
    """
    import torch
    from transformers import PreTrainedModel

    config = model.config.get_text_config()
    text = next(
        (m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config is config),
        model,
    )
    lists = [
        (name.count("."), module)
        for name, module in text.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not lists:
        raise ConfigError(
            f"{type(model).__name__} has no list of {config.num_hidden_layers} blocks; only models "
            f"built of one stack of transformer blocks can be read."
        )
    return text, min(lists, key=lambda entry: entry[0])[1]


def load_model(
    spec: ModelSpec, n_blocks: int, device: torch.device, dtype: torch.dtype, pins: Path
) -> LanguageModel:
    """Load the first `n_blocks` blocks; later blocks and the LM head are never read from disk.

    Raises AccessError, ConfigError, IntegrityError (weights changed), ResourceError (memory).
    """
    import torch
    from transformers import AutoModel

    config = truncated(load_config(spec), n_blocks)
    try:
        with _quiet_loading(), reachable(spec.source):
            model = AutoModel.from_pretrained(
                spec.source,
                revision=spec.revision,
                config=config,
                dtype=dtype,
                use_safetensors=True,
            )
        whole = model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{spec.source!r} up to block {n_blocks - 1} does not fit on {device}; use a smaller "
            f"model, fewer layers, or a device with more memory."
        ) from error
    if not is_local(spec.source):
        check_pin(pins, spec.source, model_identity(spec))
    text, blocks = find_blocks(whole)
    return LanguageModel(whole, text, blocks)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No list of the blocks left out, and no progress bar where nobody watches."""
    from transformers import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def model_identity(spec: ModelSpec) -> dict[str, Any]:
    """What decides the model's and the tokenizer's numbers: a Hub commit, or hashes of the files.

    Raises AccessError.
    """
    if not is_local(spec.source):
        return {"source": spec.source, "commit": load_config(spec)._commit_hash}
    folder = Path(spec.source)
    weights = digest_files([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    if len(weights) < 2:
        raise AccessError(
            f"{spec.source!r} has no *.safetensors beside its config.json: name a folder written "
            f"by `save_pretrained`."
        )
    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    return {"weights": weights, "tokenizer": digest_files(files)}
