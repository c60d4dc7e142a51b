"""What a bundle may hold. Anybody can send one, so it is read as hostile until all of this holds.

A bundle is a flat folder of `manifest.json`, `scores.csv`, PNG figures and at most a `latents.json`
with a few texts of a harmless set that may be passed on: no other data, no weights, nothing that
can carry code. Everything raises IntegrityError with one sentence.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from mosaic.errors import IntegrityError
from mosaic.scores.latent_view import LATENTS_FILE, LatentView
from mosaic.storage.files import sha256

SCHEMA_VERSION = 5
"""Tables of version 2 say neither a task's kind nor whether models and tasks are toys, those of
version 3 nothing of probabilities, those of version 4 not how many texts were read in part."""

BUNDLE_MANIFEST, SCORES = "manifest.json", "scores.csv"

MAX_BYTES = 4_000_000
"""Of all files together."""

MAX_TEXT, MAX_COMMAND = 600, 3000

FREE_LICENCES = ("cc0-1.0", "cc-by-4.0", "cc-by-3.0", "mit", "apache-2.0")
"""Licences, in lower case, whose texts a bundle may pass on with their source named."""

OFFENSIVE_ROLES = ("toxicity", "safety")
"""Roles of tasks whose texts no bundle holds."""

FILE_NAME = re.compile(r"scores\.csv|latents\.json|[a-z0-9][a-z0-9_-]*\.png")

# What opens HTML, or ends the code span or table cell that a text is shown in.
FORBIDDEN = re.compile(r"[<>`|{}\\\x00-\x1f\x7f-\x9f\u2028\u2029]")

AGAIN = "Write the bundle again with the command that makes it."


def plain_line(text: str, longest: int = MAX_TEXT) -> str:
    """The text itself where it may be shown to readers. Raises ValueError."""
    if len(text) > longest or FORBIDDEN.search(text):
        raise ValueError(
            f"the text {text[:60]!r} is longer than {longest} characters or holds markup or "
            f"control characters; a text in a bundle is one plain line"
        )
    return text


def _file_name(name: str) -> str:
    if not FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file of a bundle")
    return name


Line = Annotated[str, AfterValidator(plain_line)]
Command = Annotated[str, AfterValidator(lambda text: plain_line(text, MAX_COMMAND))]
FileName = Annotated[str, AfterValidator(_file_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BundleModel(_Strict):
    """A model of a bundle: where it came from, and what is known of the SAEs that were scored."""

    name: Line
    source: Line
    sha256: dict[Line, Line]
    saes: dict[Line, dict[Line, Line | int | float]]
    """SAE to checksums of its files, and for one trained by the run how it was trained and what
    was measured of it."""


class Manifest(_Strict):
    """The manifest of a bundle."""

    schema_version: Literal[2, 3, 4, 5]
    title: Line
    command: Command
    profile: Line
    seeds: list[int]
    versions: dict[Line, Line]
    machine: Line
    device: Line
    models: list[BundleModel]
    files: dict[FileName, Line]


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
                f"{path} is no file a bundle may hold; it holds {BUNDLE_MANIFEST}, {SCORES}, "
                f"{LATENTS_FILE} and figures named like fig-baselines.png. Remove it."
            )
        total += path.stat().st_size
    if total > MAX_BYTES:
        raise IntegrityError(
            f"{folder} has {total:,} bytes and a bundle has {MAX_BYTES:,} at most. Leave out "
            f"figures, or score fewer cells."
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, every field checked."""
    check_files(folder)
    path = folder / BUNDLE_MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IntegrityError(f"{path} is not a readable manifest ({error}). {AGAIN}") from error
    except ValidationError as error:
        raise IntegrityError(f"{path}: {_complaint(error)}") from error


def _complaint(error: ValidationError) -> str:
    """The first of pydantic's errors as one sentence; a wrong version explains all others."""
    found = error.errors(include_url=False)
    first = min(found, key=lambda one: one["loc"] != ("schema_version",))
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")[:60]
    match first["type"]:
        case "json_invalid":
            return f"it is not a readable manifest ({first['ctx']['error']}). {AGAIN}"
        case "extra_forbidden":
            return f"unknown field {place!r}; remove it."
        case "missing":
            return f"field {place!r} is missing. {AGAIN}"
        case "value_error":
            return f"{first['ctx']['error']}. Shorten or reword it, or remove it."
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"field {place!r} is {repr(first['input'])[:60]}, which does not fit ({said}). {AGAIN}"


def check_content(folder: Path, manifest: Manifest) -> None:
    """The files are the manifest's, byte for byte, and its figures are pictures."""
    there = {path.name for path in folder.iterdir()} - {BUNDLE_MANIFEST}
    if missing := sorted({SCORES, *manifest.files} - there):
        raise IntegrityError(f"{folder} has a manifest but no {missing[0]}. {AGAIN}")
    if extra := sorted(there - set(manifest.files)):
        raise IntegrityError(f"{folder / extra[0]} is not in the manifest. Remove it.")
    for name, digest in manifest.files.items():
        path = folder / name
        if sha256(path) != digest:
            raise IntegrityError(
                f"{path} was changed after it was written: its checksum differs from the manifest. "
                f"Restore it, or write the bundle again."
            )
        if path.suffix == ".png":
            try:
                with Image.open(path, formats=["PNG"]) as picture:
                    picture.verify()
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise IntegrityError(
                    f"{path} is not a PNG picture ({error}). Remove it."
                ) from error
    if LATENTS_FILE in manifest.files:
        read_latents(folder)


def read_latents(folder: Path) -> LatentView:
    """The latents of a bundle with their texts, every field checked; it is there."""
    path = folder / LATENTS_FILE
    try:
        view = LatentView.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path}: {_complaint(error)}") from error
    if not may_ship(view):
        raise IntegrityError(
            f"{path} holds texts of {view.task!r} (licence {view.licence!r}, {view.role}); a "
            f"bundle may hold texts under {FREE_LICENCES} and none of {OFFENSIVE_ROLES}. Remove it."
        )
    return view


def may_ship(view: LatentView) -> bool:
    """Whether texts of a view may be passed on, and are none that offend by what they are for."""
    return view.licence.lower() in FREE_LICENCES and view.role not in OFFENSIVE_ROLES


def check_table(table: pd.DataFrame, manifest: Manifest, where: str) -> None:
    """The rows belong to the manifest, and their names carry no markup."""
    if table.empty:
        raise IntegrityError(f"{where} has no row. {AGAIN}")
    for column in table.select_dtypes("string"):
        for text in table[column].dropna().unique():
            try:
                plain_line(str(text))
            except ValueError as error:
                raise IntegrityError(f"{where}, column {column!r}: {error}. Reword it.") from error
    for name, found, stated in (
        ("profiles", sorted(table["profile"].dropna().unique()), [manifest.profile]),
        ("seeds", sorted(int(s) for s in table["seed"].dropna().unique()), sorted(manifest.seeds)),
    ):
        if found != stated:
            raise IntegrityError(
                f"{where} has the {name} {found} where the manifest names {stated}. {AGAIN}"
            )
