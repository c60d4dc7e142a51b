"""JSON with a checksum of itself: what was changed since it was written is not read (ours)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic.storage.files import storage_errors

log = logging.getLogger(__name__)


def seal(content: Mapping[str, Any]) -> bytes:
    """JSON of `content` with the sha256 of everything else in it."""
    sealed = {**content, "sha256": _digest(content)}
    return json.dumps(sealed, sort_keys=True, ensure_ascii=False).encode()


def unseal(text: str) -> dict[str, Any]:
    """What was sealed. Raises ValueError (or another of MALFORMED) where anything was changed."""
    content = json.loads(text)
    if content.pop("sha256") != _digest(content):
        raise ValueError("its checksum does not fit")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_sealed_or_set_aside(path: Path) -> dict[str, Any] | None:
    """What was sealed in a file, or None where there is none that is whole.

    A damaged file is named in a warning and moved out of the way, so that it is made anew. Raises
    ResourceError.
    """
    if not path.is_file():
        return None
    try:
        return unseal(path.read_text(encoding="utf-8"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        n = 1
        while (aside := path.with_name(f"{path.name}.corrupt-{n}")).exists():
            n += 1
        with storage_errors(path):
            path.replace(aside)
        log.warning("%s is damaged (%s): kept as %s and made again", path, error, aside.name)
        return None
