"""Bundles: score tables computed elsewhere, with what is needed to make them again.

A bundle is a folder with `scores.csv` (the tidy schema) and `manifest.json` (command, versions,
device, seeds, checksum). It holds no data and no weights.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from mosaic import scores
from mosaic.errors import IntegrityError

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "sae-lens", "scikit-learn", "scipy", "numpy", "datasets")
FIELDS = {
    "schema_version": int,
    "title": str,
    "command": str,
    "profile": str,
    "seeds": list,
    "versions": dict,
    "machine": str,
    "sha256": str,
}


def write_bundle(folder: Path, table: pd.DataFrame, title: str, command: str) -> Path:
    """Write a score table and its manifest; returns the folder. The manifest comes last."""
    path = scores.write(table, folder / "scores.csv")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "command": command,
        "profile": str(table["profile"].iloc[0]),
        "seeds": sorted(int(s) for s in table["seed"].dropna().unique()),
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return folder


def _version(package: str) -> str:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle, every field checked. Raises IntegrityError with a sentence."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is not a readable manifest ({error}).") from error
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{path} must hold an object, found {type(manifest).__name__}.")
    for name, kind in FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise IntegrityError(
                f"{path}: field {name!r} is {manifest.get(name)!r}, expected {kind.__name__}. "
                f"Write the bundle again with the command that makes it."
            )
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path} has schema version {manifest['schema_version']}, this code reads "
            f"{SCHEMA_VERSION}. Write the bundle again with this version."
        )
    return manifest


def read_bundle(folder: Path) -> pd.DataFrame:
    """The scores of a bundle with `source` set to `bundle`.

    Raises IntegrityError when a file is missing, damaged, changed since it was written, or not of
    the schema.
    """
    manifest = read_manifest(folder)
    path = folder / "scores.csv"
    if not path.is_file():
        raise IntegrityError(f"{folder} has a manifest but no scores.csv.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["sha256"]:
        raise IntegrityError(
            f"{path} was changed after it was written: its checksum differs from the manifest. "
            f"Restore it, or write the bundle again."
        )
    return scores.read(path).assign(source="bundle").astype({"source": "string"})


def read_bundles(folder: Path) -> pd.DataFrame:
    """All bundles below a folder as one table; an absent folder gives an empty table."""
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return scores.concat(read_bundle(bundle) for bundle in found)


def provenance(folder: Path) -> list[str]:
    """One line per bundle: title, command, seeds, versions and machine."""
    lines = []
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = read_manifest(path.parent)
        versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
        lines.append(
            f"{manifest['title']}: `{manifest['command']}`; seeds {manifest['seeds']}; {versions}; "
            f"{manifest['machine']}."
        )
    return lines
