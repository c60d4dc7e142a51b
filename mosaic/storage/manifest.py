"""Checksums of shipped files: write a manifest, and verify against it before use (ours)."""

import json
import os
from pathlib import Path

from mosaic import ASSETS
from mosaic.errors import MALFORMED, IntegrityError
from mosaic.storage.files import set_aside, sha256

MANIFEST = "manifest.json"

MINI = ASSETS / "mini"


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


def is_whole(folder: Path) -> bool:
    """Whether what was made in the folder is there as it was written; damaged, it is set aside."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        verify_folder(folder)
    except (IntegrityError, OSError) as error:
        set_aside(folder, error)
        return False
    return True


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
