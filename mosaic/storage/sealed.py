"""JSON with a checksum of itself: what was changed since it was written is not read (ours).

Two rules for damage. What can be computed anew is set aside, named in a warning, and computed
(`read_sealed_or_set_aside`); what cannot is refused with one sentence (`read_sealed`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic.errors import MALFORMED, IntegrityError
from mosaic.storage.files import replace_file, set_aside

CHECKSUM = "sha256"


def seal(content: Mapping[str, Any], key: str = CHECKSUM, indent: int | None = None) -> bytes:
    """JSON of `content` with the sha256 of everything else in it under `key`."""
    sealed = {**content, key: _digest(content)}
    end = "" if indent is None else "\n"
    return (json.dumps(sealed, indent=indent, ensure_ascii=False) + end).encode()


def unseal(text: str, key: str = CHECKSUM, optional: bool = False) -> dict[str, Any]:
    """What was sealed. Raises one of MALFORMED where anything was changed.

    `optional` reads a file without checksum too, as earlier versions wrote some.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"it holds no object but {type(content).__name__}")
    stated = content.pop(key, None)
    if stated != _digest(content) and not (optional and stated is None):
        raise ValueError("its checksum does not fit")
    return content


def write_sealed(
    path: Path, content: Mapping[str, Any], key: str = CHECKSUM, indent: int | None = None
) -> None:
    """Write a sealed file whole or not at all, with its folder. Raises ResourceError."""
    replace_file(path, seal(content, key, indent))


def read_sealed(
    path: Path, remedy: str, key: str = CHECKSUM, optional: bool = False
) -> dict[str, Any]:
    """What was sealed at `path`. Raises IntegrityError, which ends with `remedy`."""
    try:
        return unseal(path.read_text(encoding="utf-8"), key, optional)
    except MALFORMED as error:
        raise IntegrityError(f"{path} is damaged ({error}). {remedy}") from error


def read_sealed_or_set_aside(path: Path) -> dict[str, Any] | None:
    """What was sealed at `path`, or None where it has to be computed: absent, or damaged.

    A damaged file is set aside.
    """
    try:
        return unseal(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except MALFORMED as error:
        set_aside(path, error)
        return None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
