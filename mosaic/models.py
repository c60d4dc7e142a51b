"""Models and SAEs: found by exact name, loaded up to the deepest block wanted and not further."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.errors import AccessError, ConfigError, IntegrityError, ResourceError
from mosaic.hub import NO_NEED, digest_files, local_folder, reachable
from mosaic.integrity import verify_folder

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from mosaic.profiles import ModelSpec

TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "chat_template*")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model cut off after the deepest block wanted; for text models `text` is `whole`."""

    whole: PreTrainedModel
    text: PreTrainedModel
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
    """The profile's dtype; "auto" is bfloat16 (else float16) on CUDA and float32 elsewhere.

    A GPU older than Ampere, such as a T4, only imitates bfloat16, slowly, so it takes float16.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def float32_residual(model: PreTrainedModel) -> None:
    """Make a float16 model add up its residual stream in float32 (ours); others stay as they are.

    Gemma models overflow in float16 because the sum over blocks passes 65504, not because a single
    product does. Embeddings are made float32, so every sum after them is; autocast then takes the
    products of the linear layers in float16. A product that overflows all the same leaves values
    that are not finite, which extraction refuses.
    """
    import torch

    if model.dtype != torch.float16:
        return
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _module, _arguments, output: output.float())
    half = torch.autocast(model.device.type, dtype=torch.float16)
    for part in {model, find_blocks(model)[0]}:
        part.forward = half(part.forward)


def at_hand(spec: ModelSpec) -> bool:
    """Whether the model's weights are in a local folder, or were downloaded before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = local_folder(spec.source)
    if folder is None:
        try:
            folder = Path(
                snapshot_download(spec.source, revision=spec.revision, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            return False
    return any(folder.glob("*.safetensors"))


def fetch_model(spec: ModelSpec) -> Path:
    """The folder of the model's files: the profile's own, or a snapshot of the Hub's.

    Raises AccessError, and IntegrityError for a file that is not the shipped one or not the one
    that the profile's `sha256` names.
    """
    from huggingface_hub import snapshot_download

    folder = local_folder(spec.source)
    if folder is not None:
        verify_folder(folder)
    else:
        with reachable(spec.source):
            patterns = ["*.safetensors", "*.safetensors.index.json", "config.json"]
            patterns += [*TOKENIZER_FILES, "*processor_config.json"]
            folder = Path(
                snapshot_download(spec.source, revision=spec.revision, allow_patterns=patterns)
            )
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise AccessError(
            f"{spec.source!r} is not whole in {folder}: a model needs config.json, its tokenizer "
            f"and *.safetensors, as `save_pretrained` writes them. Fetch it again. {NO_NEED}"
        )
    found = digest_files(folder / name for name in spec.sha256 if (folder / name).is_file())
    for name, expected in spec.sha256.items():
        if found.get(name) != expected:
            raise IntegrityError(
                f"{folder / name} has sha256 {found.get(name)}, and the profile expects {expected} "
                f"of {spec.source}. Fetch that file again, or correct `sha256` in the profile."
            )
    return folder


def model_identity(folder: Path) -> dict[str, Any]:
    """What decides the model's and the tokenizer's numbers: sha256 of their files."""
    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    return {
        "weights": digest_files([*folder.glob("*.safetensors"), folder / "config.json"]),
        "tokenizer": digest_files(files),
    }


def load_config(source: str | Path, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a Hub id or folder, untruncated. Raises AccessError."""
    from transformers import AutoConfig

    with reachable(str(source)):
        return AutoConfig.from_pretrained(source, revision=revision)


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or folder. Raises AccessError."""
    from transformers import AutoTokenizer

    with reachable(str(source)):
        return AutoTokenizer.from_pretrained(source, revision=revision)


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
    folder: Path, n_blocks: int, device: torch.device, dtype: torch.dtype
) -> LanguageModel:
    """Load the first `n_blocks` blocks; later blocks and the LM head are never read from disk.

    Raises AccessError, ConfigError (fewer blocks), ResourceError (memory of the device).
    """
    import torch
    from transformers import AutoModel

    config = truncated(load_config(folder), n_blocks)
    try:
        with quiet_loading(), reachable(str(folder)):
            model = AutoModel.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True
            )
        whole = model.to(device).eval().requires_grad_(False)
        float32_residual(whole)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"The model in {folder} up to block {n_blocks - 1} does not fit on {device}; use a "
            f"smaller model, fewer layers, or a device with more memory."
        ) from error
    return LanguageModel(whole, *find_blocks(whole))


@contextmanager
def quiet_loading() -> Iterator[None]:
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
