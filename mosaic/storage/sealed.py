"""JSON with a checksum of itself: what was changed since it was written is not read (ours)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


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
