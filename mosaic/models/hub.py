"""What stands between us and model weights: access, identity, and a change nobody announced.

Every weight file used is named by content. A local folder is hashed; what comes from the Hub is
known by its commit and by the sha256 of its files, both recorded in `pins.json` the first time and
compared ever after.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mosaic.errors import AccessError, ConfigError, IntegrityError, MosaicError
from mosaic.storage.files import storage_errors
from mosaic.storage.sealed import read_sealed, write_sealed

if TYPE_CHECKING:
    from transformers import PretrainedConfig

RENEW = "It names what was first downloaded: delete it to pin what is in the local cache now."

NO_NEED = "The figures and notebooks of the `mini` profile need none of this."

GATED = {
    "google/gemma-2-2b": (2304, 9216, 26, 8, 4, "float32"),
    "google/gemma-2-9b": (3584, 14336, 42, 16, 8, "float32"),
    "google/gemma-2-9b-it": (3584, 14336, 42, 16, 8, "bfloat16"),
    "google/paligemma2-3b-pt-224": (2304, 9216, 26, 8, 4, "bfloat16"),
    "google/gemma-3-270m": (640, 2048, 18, 4, 1, "bfloat16"),
    "google/gemma-3-1b-pt": (1152, 6912, 26, 4, 1, "bfloat16"),
    "google/gemma-3-1b-it": (1152, 6912, 26, 4, 1, "bfloat16"),
    "google/gemma-3-4b-pt": (2560, 10240, 34, 8, 4, "bfloat16"),
}
"""d_model, d_ff, blocks, heads, key-value heads and stored dtype of gated models, so that a price
can be named before anyone asks for their licence. Nothing is ever loaded by these."""


@contextmanager
def reachable(source: str) -> Iterator[None]:
    """Turn the many ways in which `source` cannot be fetched into one AccessError sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        causes = list(_causes(error))

        def has(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in causes)

        if has(errors.GatedRepoError):
            raise AccessError(
                f"{source!r} is gated: accept its licence at https://huggingface.co/{source} while "
                f"logged in, then set HF_TOKEN to a token of that account. {NO_NEED}"
            ) from error
        if has(errors.RevisionNotFoundError):
            raise AccessError(
                f"{source!r} has no such revision on the Hub; correct `revision` in the profile."
            ) from error
        if has(errors.RepositoryNotFoundError):
            raise AccessError(
                f"{source!r} is not on the Hub, or only for accounts with access: check the name, "
                f"or set HF_TOKEN. {NO_NEED}"
            ) from error
        if has(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
            raise AccessError(
                f"{source!r} is not in the local cache and the Hub cannot be reached: go online "
                f"once (and unset HF_HUB_OFFLINE), or name a local folder instead. {NO_NEED}"
            ) from error
        if has(errors.HFValidationError):
            raise AccessError(
                f"{source!r} is neither a folder of this machine nor a name that the Hub allows; "
                f"correct `source` in the profile. {NO_NEED}"
            ) from error
        if isinstance(error, (OSError, errors.HfHubHTTPError)):
            raise AccessError(
                f"{source!r} cannot be loaded ({str(error).splitlines()[0]}). It must be a Hub id, "
                f"or a folder with config.json, tokenizer and *.safetensors. {NO_NEED}"
            ) from error
        raise


@contextmanager
def fitting(
    source: str | Path | None, part: str, config: PretrainedConfig | None = None
) -> Iterator[None]:
    """Turn what transformers raises of a model that it cannot make into one ConfigError sentence:
    an unknown type, code of the model's own, a package for quantized weights, a damaged file."""
    try:
        yield
    except MosaicError:
        raise
    except Exception as error:  # tokenizers and safetensors raise kinds of their own
        if isinstance(error, RuntimeError) and "memory" in str(error).lower():  # is told elsewhere
            raise
        first = " ".join(str(error).split())[:200] or type(error).__name__
        how = (getattr(config, "quantization_config", None) or {}).get("quant_method")
        quantized = f", whose weights are quantized by {how}," if how else ""
        raise ConfigError(
            f"The {part} of {str(source)!r}{quantized} does not fit the installed transformers "
            f"({first}); name a whole model of a type that it knows, with weights that are not "
            f"quantized and without code of its own, in the profile."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def local_folder(source: str) -> Path | None:
    """The folder of a model on this machine, or None where the Hub is asked.

    It is `source` itself where that is a path. A Hub id stands for the folder of its name below
    MOSAIC_MODEL_DIR where that is set, as datasets do below MOSAIC_DATA_DIR.
    """
    path = os.path.expanduser(source)
    if os.path.isabs(path) or os.path.isdir(path):
        return Path(path)
    root = os.environ.get("MOSAIC_MODEL_DIR")
    return Path(root).resolve() / source if root else None


def check_pin(pins: Path, name: str, commit: str, digests: dict[str, str]) -> None:
    """Record what was first downloaded as `name`, or refuse files that differ from it.

    A later commit with the same files (a new README, say) is no change. Raises IntegrityError.
    """
    known = _read(pins)
    if name not in known:
        with storage_errors(pins):
            pins.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{pins}.lock"):
                known = {name: {"commit": commit, "sha256": digests}, **_read(pins)}
                write_sealed(pins, dict(sorted(known.items())), indent=1)
    pinned = known[name]["sha256"]
    changed = sorted(f for f in {*pinned, *digests} if pinned.get(f) != digests.get(f))
    if changed:
        raise IntegrityError(
            f"{name!r} is not what was first downloaded (commit {known[name]['commit']}): "
            f"{', '.join(changed)} differ in commit {commit}. Go back to that commit (`revision` "
            f"in the profile), or, to accept the change, delete the entry from {pins}."
        )


def _read(pins: Path) -> dict[str, dict[str, Any]]:
    if not pins.is_file():
        return {}
    known = read_sealed(pins, RENEW, optional=True)  # pins of earlier versions are not sealed
    for name, pin in known.items():
        if not (isinstance(pin, dict) and isinstance(pin.get("sha256"), dict) and "commit" in pin):
            raise IntegrityError(f"{pins} is damaged (no commit and sha256 of {name!r}). {RENEW}")
    return known
