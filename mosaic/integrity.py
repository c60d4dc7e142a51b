"""Checksums of shipped files: write a manifest, and verify against it before use (ours)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic import ASSETS
from mosaic.errors import MALFORMED, IntegrityError

MANIFEST = "manifest.json"
MINI = ASSETS / "mini"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def write_manifest(folder: Path) -> None:
    """Record size and sha256 of every file below `folder` in its `manifest.json`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in files
    }
    text = json.dumps({"files": entries}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def verify_folder(folder: str | Path) -> None:
    """Check the files below `folder` against our nearest manifest, in it or above it.

    A `manifest.json` of another program is passed over. Does nothing where there is none of ours (a
    reader's own model, say), except for what ships with the package. Raises IntegrityError naming
    the first file that is missing or whose bytes are not the recorded ones.
    """
    folder = Path(folder).resolve()
    for root in (folder, *folder.parents):
        if (entries := _read_manifest(root / MANIFEST)) is not None:
            break
    else:
        if folder.is_relative_to(MINI):
            raise IntegrityError(f"The shipped {folder} has no {MANIFEST}. Restore it.")
        return
    for name, (size, digest) in entries.items():
        path = root / name
        if not path.is_relative_to(folder):
            continue
        if not os.path.isfile(path):  # False, too, for a name no system would take
            raise IntegrityError(f"{path} is missing. Restore the shipped file.")
        if path.stat().st_size != size or sha256(path) != digest:
            raise IntegrityError(
                f"{path} is not the shipped file: its checksum differs from the one in "
                f"{root / MANIFEST}. Restore it, or remove it from the manifest if you changed it "
                f"on purpose."
            )


def _read_manifest(path: Path) -> dict[str, tuple[int, str]] | None:
    """File name to size and sha256, or None where there is no manifest of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except MALFORMED as error:
        raise IntegrityError(
            f"{path} is not readable JSON ({error}). Restore it, or remove it if it is not ours."
        ) from error
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        return None
    ours = [isinstance(e, dict) and {"size", "sha256"} <= set(e) for e in files.values()]
    if not any(ours):
        return None
    if not all(ours):
        bad = list(files)[ours.index(False)]
        raise IntegrityError(f"{path} has no size and sha256 of {bad!r}. Restore the shipped one.")
    return {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
