"""Checksums of shipped files: write a manifest, and verify against it before use (ours)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mosaic.errors import IntegrityError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """Check the files below `folder` against the nearest `manifest.json` in it or above it.

    Does nothing where there is no manifest (a reader's own model, say). Raises IntegrityError
    naming the first file that is missing or whose bytes are not the recorded ones.
    """
    folder = Path(folder).resolve()
    root = next((p for p in (folder, *folder.parents) if (p / MANIFEST).is_file()), None)
    if root is None:
        return
    try:
        entries = json.loads((root / MANIFEST).read_text(encoding="utf-8"))["files"]
        recorded = {root / name: (e["size"], e["sha256"]) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{root / MANIFEST} is not a manifest of files ({error!r}). Restore the shipped one."
        ) from error
    for path, (size, digest) in recorded.items():
        if not path.is_relative_to(folder):
            continue
        if not path.is_file():
            raise IntegrityError(f"{path} is missing. Restore the shipped file.")
        if path.stat().st_size != size or sha256(path) != digest:
            raise IntegrityError(
                f"{path} is not the shipped file: its checksum differs from the one in "
                f"{root / MANIFEST}. Restore it, or remove it from the manifest if you changed it "
                f"on purpose."
            )
