"""Where a model is, what it is and how it runs: its folder, identity, device and precision."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.errors import AccessError, ConfigError, IntegrityError
from mosaic.models.hub import NO_NEED, fitting, local_folder, reachable
from mosaic.storage.files import digest_files, refuse_pointers
from mosaic.storage.manifest import verify_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SAMPLE = "A sentence, read twice."

TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "chat_template*")


@dataclass(frozen=True, eq=False)
class ResolvedModel:
    """A model whose files are at hand, and how it runs here; no weight is loaded."""

    spec: ModelSpec
    folder: Path
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def config(self) -> PretrainedConfig:
        """Its configuration, untruncated. Raises AccessError."""
        return load_config(self.folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer. Raises AccessError, ConfigError."""
        files = {*self._tokenizer_files, self.folder / "config.json"}
        known = tuple(sorted(digest_files(p for p in files if p.is_file()).items()))
        return _load_tokenizer(self.folder, known, self.spec.name)

    @property
    def _tokenizer_files(self) -> set[Path]:
        return {path for pattern in TOKENIZER_FILES for path in self.folder.glob(pattern)}

    @cached_property
    def identity(self) -> dict[str, dict[str, str]]:
        """What decides its numbers: sha256 of the files of `weights` and `tokenizer`."""
        weights = [*self.folder.glob("*.safetensors"), self.folder / "config.json"]
        return {"weights": digest_files(weights), "tokenizer": digest_files(self._tokenizer_files)}

    @property
    def commit(self) -> str | None:
        """The commit on the Hub that it came from, None for a folder of this machine."""
        return self.folder.name if local_folder(self.spec.source) is None else None


@lru_cache(maxsize=2)
def _load_tokenizer(
    folder: Path, _files: tuple[tuple[str, str], ...], name: str
) -> PreTrainedTokenizerBase:
    """A tokenizer by the checksums of its files: one of 262,144 words takes seconds to load, and
    every task of a run asks for it."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    with fitting(folder, "tokenizer"), reachable(str(folder)):
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        int(found.model_max_length)  # transformers takes what stands there
        if (file := folder / "tokenizer.json").is_file():
            plain = Tokenizer.from_file(str(file))
            plain.no_padding()
            plain.no_truncation()
            if plain.encode(SAMPLE).ids != found(SAMPLE)["input_ids"]:
                log.warning(
                    "the tokenizer of %s reads a sentence otherwise than its tokenizer.json: "
                    "tokenizer_config.json is missing, or another model's", name
                )  # fmt: skip
    if 2 * len(found) < (known := load_config(folder).get_text_config().vocab_size):
        log.warning(
            "the tokenizer of %s has %d tokens and the model embeddings for %d: it may be "
            "another model's", name, len(found), known
        )  # fmt: skip
    return found


def resolve(spec: ModelSpec, profile: Profile) -> ResolvedModel:
    """Find a model, or fetch it; its device and precision. Raises AccessError, IntegrityError."""
    device = choose_device()
    return ResolvedModel(spec, fetch_model(spec), device, choose_dtype(profile.dtype, device))


def choose_device() -> torch.device:
    """CUDA where there is one, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The profile's dtype; "auto" is bfloat16 (else float16) on CUDA and float32 elsewhere.

    A GPU older than Ampere, such as a T4, only imitates bfloat16, slowly, so it takes float16.
    """
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
    if not folder.is_dir():
        raise AccessError(
            f"There is no folder {folder}, which is where {spec.source!r} is looked for; correct "
            f"`source` in the profile. {NO_NEED}"
        )
    unsaid = [*folder.glob("adapter_config.json"), *list(folder.glob("model.safetensors*"))[1:]]
    if unsaid:
        raise IntegrityError(
            f"{folder} holds an adapter (LoRA), or model.safetensors beside the index of shards: "
            f"which weights are meant is not said. Merge the adapter into its base "
            f"(`merge_and_unload` of peft) and save that, or remove what is not meant."
        )
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise AccessError(
            f"{spec.source!r} is not whole in {folder}: a model needs config.json, its tokenizer "
            f"and *.safetensors, as `save_pretrained` writes them. Fetch it again. {NO_NEED}"
        )
    used = ("*.safetensors", "config.json", *TOKENIZER_FILES)
    refuse_pointers(path for pattern in used for path in folder.glob(pattern))
    found = digest_files(folder / name for name in spec.sha256 if (folder / name).is_file())
    for name, expected in spec.sha256.items():
        if found.get(name) != expected:
            raise IntegrityError(
                f"{folder / name} has sha256 {found.get(name)}, and the profile expects {expected} "
                f"of {spec.source}. Fetch that file again, or correct `sha256` in the profile."
            )
    return folder


def load_config(source: str | Path, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a Hub id or folder, untruncated. Raises AccessError, ConfigError."""
    from transformers import AutoConfig

    with fitting(source, "configuration"), reachable(str(source)):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    if config.is_encoder_decoder:
        raise ConfigError(
            f"{str(source)!r} is of type {config.model_type!r}, an encoder with a decoder; only "
            f"models of one stack of blocks can be read. Name such a model in the profile."
        )
    return config
