"""Where a model is, what it is and how it runs: its folder, identity, device and precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.errors import AccessError, ConfigError, IntegrityError
from mosaic.models.hub import NO_NEED, local_folder, reachable
from mosaic.storage.files import digest_files
from mosaic.storage.manifest import verify_folder

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from mosaic.config.profiles import ModelSpec


TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "chat_template*")


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
    """The configuration of a Hub id or folder, untruncated. Raises AccessError, ConfigError."""
    from transformers import AutoConfig

    try:
        with reachable(str(source)):
            return AutoConfig.from_pretrained(source, revision=revision)
    except (ValueError, KeyError) as error:  # what transformers raises of an unknown `model_type`
        raise ConfigError(
            f"The configuration of {str(source)!r} does not fit the installed transformers "
            f"({str(error).splitlines()[0]}); name a model of a type that it knows in the profile."
        ) from error


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or folder. Raises AccessError."""
    from transformers import AutoTokenizer

    with reachable(str(source)):
        return AutoTokenizer.from_pretrained(source, revision=revision)
