"""Settings files: YAML that is read safely, and dataclasses whose every field fits its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from mosaic.errors import FOREIGN, MALFORMED, ConfigError

T = TypeVar("T")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises ConfigError where it is not readable."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, *FOREIGN) as error:
        raise ConfigError(f"{path} is not readable YAML ({error}); correct it.") from error


def typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The dataclass of these values, lists as tuples.

    Raises ConfigError, which begins with `where`, for a field that is unknown, missing or of
    another type than declared.
    """
    known = sorted(f.name for f in fields(kind))  # type: ignore[arg-type]
    values = {name: _frozen(value) for name, value in values.items()}
    if unknown := [name for name in values if name not in known]:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; use {known}.")
    hints = get_type_hints(kind)
    for name, value in values.items():
        try:
            every = CollectionCheckStrategy.ALL_ITEMS
            check_type(value, hints[name], collection_check_strategy=every)
        except TypeCheckError as error:
            raise ConfigError(
                f"{where}: {name} is {value!r}, which does not fit ({error}); correct it."
            ) from error
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}.") from error


def beside(base: Path, folder: Any) -> str:
    """A folder of a settings file as an absolute path; relative ones start at the file's folder."""
    try:
        return str((base / folder).resolve())
    except (OSError, *MALFORMED) as error:
        raise ConfigError(f"{folder!r} is no path ({error}); correct the profile.") from error


def local_or_id(base: Path, source: str) -> str:
    """A path beginning with "." or "/" is a file or folder beside `base`; all else is a Hub id."""
    return beside(base, source) if source.startswith((".", "/")) else source


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
