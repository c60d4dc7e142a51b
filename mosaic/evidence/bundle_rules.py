"""What a bundle may hold. Anybody can send one, so it is read as hostile until all of this holds.

A bundle is a flat folder of `manifest.json`, `scores.csv` and PNG figures: no data, no weights,
nothing that can carry code. Everything raises IntegrityError with one sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mosaic.errors import IntegrityError
from mosaic.storage.files import sha256

SCHEMA_VERSION = 3

READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Tables of version 2 say neither a task's kind nor whether models and tasks are toys."""

BUNDLE_MANIFEST, SCORES = "manifest.json", "scores.csv"

MAX_BYTES = 4_000_000
"""Of all files together."""

MAX_TEXT = 600

MANIFEST_FIELDS: dict[str, type] = {
    "schema_version": int,
    "title": str,
    "command": str,
    "profile": str,
    "seeds": list,
    "versions": dict,
    "machine": str,
    "device": str,
    "models": list,
    "files": dict,
}

MODEL_FIELDS: dict[str, type] = {"name": str, "source": str, "sha256": dict, "saes": dict}

FILE_NAME = re.compile(r"scores\.csv|[a-z0-9][a-z0-9_-]*\.png")

# What opens HTML, or ends the code span or table cell that a text is shown in.
FORBIDDEN = re.compile(r"[<>`|{}\\\x00-\x1f\x7f-\x9f\u2028\u2029]")

AGAIN = "Write the bundle again with the command that makes it."


def check_files(folder: Path) -> None:
    """Only known kinds of plain files, small, and none of them a link or a folder."""
    total = 0
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(
                f"{path} is a link or a folder; a bundle is a flat folder of plain files. Remove "
                f"it, or put its content into a file of the bundle."
            )
        if path.name != BUNDLE_MANIFEST and not FILE_NAME.fullmatch(path.name):
            raise IntegrityError(
                f"{path} is no file a bundle may hold; it holds {BUNDLE_MANIFEST}, {SCORES} and "
                f"figures named like fig-baselines.png. Remove it."
            )
        total += path.stat().st_size
    if total > MAX_BYTES:
        raise IntegrityError(
            f"{folder} has {total:,} bytes and a bundle has {MAX_BYTES:,} at most. Leave out "
            f"figures, or score fewer cells."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, every field checked."""
    check_files(folder)
    path = folder / BUNDLE_MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a readable manifest ({error}). {AGAIN}") from error
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{path} must hold an object, found {type(manifest).__name__}.")
    version = manifest.get("schema_version")
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        raise IntegrityError(
            f"{path} has schema version {version}, this code reads {READABLE_VERSIONS}. {AGAIN}"
        )
    _check_fields(manifest, MANIFEST_FIELDS, str(path))
    for model in manifest["models"]:
        if not isinstance(model, dict):
            raise IntegrityError(f"{path}: a model is {model!r}, expected an object. {AGAIN}")
        _check_fields(model, MODEL_FIELDS, f"{path}, models")
    if bad := [seed for seed in manifest["seeds"] if type(seed) is not int]:
        raise IntegrityError(f"{path}: seed {bad[0]!r} is not a whole number. {AGAIN}")
    if bad := [name for name in manifest["files"] if not FILE_NAME.fullmatch(name)]:
        raise IntegrityError(f"{path} names {bad[0]!r}, which is no file of a bundle. {AGAIN}")
    for text in _texts(manifest):
        check_text(text, str(path))
    return manifest


def _check_fields(values: Mapping[str, Any], fields: Mapping[str, type], where: str) -> None:
    for name, kind in fields.items():
        if not isinstance(values.get(name), kind):
            raise IntegrityError(
                f"{where}: field {name!r} is {values.get(name)!r}, expected {kind.__name__}. "
                f"{AGAIN}"
            )
    if unknown := sorted(set(values) - set(fields)):
        raise IntegrityError(f"{where}: unknown field {unknown[0]!r}; remove it.")


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def check_text(text: str, where: str) -> None:
    """A text that is shown to readers: short, on one line, and no markup."""
    if len(text) > MAX_TEXT or FORBIDDEN.search(text):
        raise IntegrityError(
            f"{where}: the text {text[:60]!r} is longer than {MAX_TEXT} characters or holds markup "
            f"or control characters; a text in a bundle is one plain line. Shorten or reword it."
        )


def check_content(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The files are the manifest's, byte for byte, and its figures are pictures."""
    there = {path.name for path in folder.iterdir()} - {BUNDLE_MANIFEST}
    if missing := sorted({SCORES, *manifest["files"]} - there):
        raise IntegrityError(f"{folder} has a manifest but no {missing[0]}. {AGAIN}")
    if extra := sorted(there - set(manifest["files"])):
        raise IntegrityError(f"{folder / extra[0]} is not in the manifest. Remove it.")
    for name, digest in manifest["files"].items():
        path = folder / name
        if sha256(path) != digest:
            raise IntegrityError(
                f"{path} was changed after it was written: its checksum differs from the manifest. "
                f"Restore it, or write the bundle again."
            )
        if path.suffix == ".png":
            _check_picture(path)


def _check_picture(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"{path} is not a PNG picture ({error}). Remove it.") from error


def check_table(table: pd.DataFrame, manifest: Mapping[str, Any], where: str) -> None:
    """The rows belong to the manifest, and their names carry no markup."""
    if table.empty:
        raise IntegrityError(f"{where} has no row. {AGAIN}")
    for column in table.select_dtypes("string"):
        for text in table[column].dropna().unique():
            check_text(str(text), f"{where}, column {column!r}")
    profiles = sorted(table["profile"].dropna().unique())
    if profiles != [manifest["profile"]]:
        raise IntegrityError(
            f"{where} has rows of the profiles {profiles} where the manifest names "
            f"{manifest['profile']!r}. {AGAIN}"
        )
    seeds = sorted(int(seed) for seed in table["seed"].dropna().unique())
    if seeds != sorted(manifest["seeds"]):
        raise IntegrityError(
            f"{where} has the seeds {seeds} where the manifest names {manifest['seeds']}. {AGAIN}"
        )
