"""From a GGUF file to a folder that everything here reads: weights dequantized to safetensors.

What is written is not the original model: quantized weights have lost digits that nothing brings
back. The card of the folder says so, and names the file it came from by its checksum.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mosaic.errors import FOREIGN, AccessError, ConfigError, IntegrityError
from mosaic.models.language_model import quiet_loading
from mosaic.storage.files import sha256, storage_errors
from mosaic.storage.versions import versions_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCRIPTS = {
    "Latin": "Señor Müller isn't here: 3,50 €.",
    "Cyrillic": "Очень добрый человек, спасибо!",
    "Arabic": "شكرا جزيلا لك يا صديقي",
    "Devanagari": "आपका बहुत बहुत धन्यवाद",
    "Chinese": "你真是个好人，谢谢",
    "emoji": "good 👍🏽 morning 🌞",
}
"""What a tokenizer must give back as it was; one that was converted wrongly does not."""


def convert_gguf(file: Path, out: Path, expected_sha256: str | None = None) -> Path:
    """Write the model and tokenizer of a GGUF file as a folder in safetensors, float32.

    Raises AccessError (no such file), ConfigError (package `gguf` missing, an architecture that
    transformers cannot read, a folder in use) and IntegrityError (checksum, damage, tokenizer).
    """
    if not file.is_file():
        raise AccessError(f"There is no file {file}; name a GGUF file.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is in use; name a folder that is empty or not there yet.")
    digest = sha256(file)
    if expected_sha256 is not None and digest != expected_sha256.lower():
        raise IntegrityError(
            f"{file} has sha256 {digest} where {expected_sha256} was expected; fetch it again, or "
            f"correct `--sha256`."
        )
    facts = _read_facts(file)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            part = Path(scratch) / "model"
            _write_model(file, part)
            check_tokenizer(part)
            (part / "README.md").write_text(_card(file, digest, facts), encoding="utf-8")
            if out.exists():
                out.rmdir()
            shutil.move(part, out)
    return out


def check_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises IntegrityError where a text does not come back as it was,
    in any of six scripts; a space that the tokenizer puts in front does not count."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for script, text in SCRIPTS.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        if back.strip() != text:
            raise IntegrityError(
                f"The tokenizer of {folder} turns {text!r} ({script}) into {back!r}: it was not "
                f"converted rightly; take the tokenizer from another file of this model."
            )
    return tokenizer


def _read_facts(file: Path) -> dict[str, Any]:
    """What the file says of itself; every tensor is checked to lie within the file."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError(
            "Reading GGUF takes the package `gguf`; install it with "
            "`pip install -e '.[gguf]'` in the clone."
        ) from error
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with file.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise IntegrityError(f"{file} is no GGUF file (it does not begin so); name another.")
    try:
        reader = GGUFReader(file)
        fields = {name: reader.fields[name].contents() for name in reader.fields if "." in name}
        kinds = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    except (OSError, *FOREIGN) as error:
        raise IntegrityError(
            f"{file} is truncated or damaged ({str(error) or type(error).__name__}); fetch it "
            f"again."
        ) from error
    architecture = fields.get("general.architecture")
    try:
        load_gguf_checkpoint(file)
    except FOREIGN as error:
        raise ConfigError(
            f"{file} holds a model of architecture {architecture!r}, which transformers cannot "
            f"read from GGUF ({error}); name a file of another model."
        ) from error
    return {
        "name": fields.get("general.name", "unknown"),
        "architecture": architecture,
        "licence": fields.get("general.license", "not stated in the file"),
        "quantization": ", ".join(f"{n} tensors {kind}" for kind, n in kinds.most_common()),
    }


def _write_model(file: Path, out: Path) -> None:
    """Dequantize into a fresh model of the same configuration: what was read from GGUF refuses to
    be saved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": file.name}
    with quiet_loading():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, **source, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
            read, info = loaded
        except Exception as error:  # `tokenizers` raises nothing more special
            raise IntegrityError(
                f"{file} cannot be made a model with a tokenizer ({error}); name another file."
            ) from error
        if lacking := sorted(info["missing_keys"]):
            raise IntegrityError(
                f"{file} lacks {len(lacking)} tensors of its model, {lacking[0]!r} among them; "
                f"fetch it again, or name another file."
            )
        config = copy.deepcopy(read.config)
        vars(config).pop("quantization_config", None)
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        fresh.load_state_dict(read.state_dict())
        fresh.generation_config = read.generation_config
        fresh.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _card(file: Path, digest: str, facts: dict[str, Any]) -> str:
    made = versions_of("gguf", "transformers", "torch")
    return f"""# {facts["name"]}, dequantized

Dequantized: not the original weights. They were rounded when the GGUF file was made, and are
written here in float32 as that file gives them.

- File: `{file.name}`, sha256 {digest}
- Architecture: {facts["architecture"]}
- Quantization: {facts["quantization"]}
- Licence: {facts["licence"]}; the terms of the model are those of its makers
- Made by `mosaic model from-gguf` with {", ".join(f"{name} {v}" for name, v in made.items())}
- The tokenizer gives text back unchanged in: {", ".join(SCRIPTS)}
"""
