"""Settings files: YAML that is read safely, and dataclasses whose every field fits its type."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from mosaic.errors import FOREIGN, MALFORMED, ConfigError

T = TypeVar("T")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises ConfigError where it is not readable."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, *FOREIGN) as error:
        raise ConfigError(f"{path} is not readable YAML ({error}); correct it.") from error


def typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The dataclass of these values, lists as tuples, mappings as the dataclasses they stand for.

    Raises ConfigError, which begins with `where`, for a field that is unknown, missing or of
    another type than declared. Nothing is converted: "100" is no number.
    """
    try:
        # By way of JSON, where a list may be a tuple and all else is as strict as it gets.
        text = json.dumps(values, default=str)
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_complaint(kind, json.loads(text), error)}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: this cannot be read as settings ({error}).") from error


def _complaint(kind: Any, values: Any, error: ValidationError) -> str:
    """The first of pydantic's errors as a sentence: which field of what, its value, what fits."""
    first = error.errors(include_url=False)[0]
    *outer, name = [part for part in first["loc"] if part != "[key]"] or ["all of it"]
    place = ""
    for part in outer:
        values = values[part]
        if isinstance(part, int):
            called = values.get("name") if isinstance(values, dict) else None
            place += f" {called!r}" if called else f" {part + 1}"
            kind = get_args(kind)[0]
        else:
            place += f", {part}" if place else str(part)
            kind = get_type_hints(kind).get(part) if is_dataclass(kind) else kind
    place += ": " if place else ""
    known = [f.name for f in fields(kind)] if is_dataclass(kind) else []
    if first["type"] == "unexpected_keyword_argument":
        return f"{place}unknown field {name!r}; use one of {known}."
    if first["type"] == "missing":
        return f"{place}the field {name!r} is missing; the fields are {known}."
    name = f"entry {name + 1}" if isinstance(name, int) else name
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{place}{name} is {first['input']!r}, which does not fit ({said}); correct it."


def beside(base: Path, folder: Any) -> str:
    """A folder of a settings file as an absolute path; relative ones start at the file's folder,
    and "~" is the home of who runs it."""
    try:
        return str((base / os.path.expanduser(folder)).resolve())
    except (OSError, *MALFORMED) as error:
        raise ConfigError(f"{folder!r} is no path ({error}); correct the profile.") from error


def local_or_id(base: Path, source: str) -> str:
    """`owner/name` and `name` are Hub ids where nothing of that name is beside `base`; all else is
    a path beside it, as a Hub id has no more parts, begins with no dot and ends like no file."""
    path = beside(base, source)
    is_id = re.fullmatch(r"(?!.*\.(csv|tsv|tab|jsonl|ndjson)$)\w[\w.-]*(/\w[\w.-]*)?", source)
    return source if is_id and not os.path.exists(path) else path


def says_toy(source: str) -> bool:
    """Whether a model's folder says that it is a toy, as those of the mini world do."""
    path = Path(source) / "metrics.json"
    if not (os.path.isabs(source) and path.is_file()):
        return False
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a file of this name in a reader's model may hold anything
        return False
    return isinstance(said, dict) and said.get("toy") is True
