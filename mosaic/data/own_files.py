"""An own CSV, TSV or JSONL file: read strictly, so that what is wrong is named by its row."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mosaic.errors import AccessError, IntegrityError

FILE_KINDS = (".csv", ".tsv", ".jsonl")


def read_file(path: Path, wanted: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Columns of a CSV (comma), TSV (tab) or JSONL file with a header or keys, in file order.

    With `wanted` only these columns. CSV values are text; JSONL values keep their type. Raises
    AccessError (no such file) and IntegrityError with the row: other kinds of file, not UTF-8, no
    rows, ragged rows, a wanted column that is missing.
    """
    if not path.exists():
        raise AccessError(f"There is no file {path}; correct the path.")
    if path.suffix.lower() not in FILE_KINDS:
        raise IntegrityError(
            f"{path} is of a kind that is not read here; save the rows as one of {FILE_KINDS}."
        )
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
    try:
        found = list(rows(path))
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({error.strerror}); mend its access.") from error
    if not found:
        raise IntegrityError(f"{path} holds no rows; it needs a header or keys and a row per text.")
    names = list(dict.fromkeys(name for row in found for name in row))
    for name in wanted:
        if name not in names:
            raise IntegrityError(
                f"{path} has no column {name!r}; it has {names}. Correct the name, or the column."
            )
    return {name: [row.get(name) for row in found] for name in wanted or names}


def read_texts(source: str, column: str) -> list[str]:
    """New texts: a column of a CSV, TSV or JSONL file; of another file, or of "-" (standard input),
    the lines that are not blank. Raises AccessError and IntegrityError.
    """
    path = Path(source)
    if path.suffix.lower() in FILE_KINDS:
        texts = read_file(path, [column])[column]
        check_texts(texts, column, path)
        return texts
    if source == "-" and sys.stdin.isatty():
        print("one text a line, Ctrl-D at the end:", file=sys.stderr)
    try:
        content = sys.stdin.buffer.read() if source == "-" else path.read_bytes()
        lines = [line.rstrip("\r") for line in content.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{source} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise AccessError(f"{source} cannot be read ({error.strerror}); correct it.") from error
    if not (texts := [line for line in lines if line.strip()]):
        raise IntegrityError(f"{source} holds no text; write one text a line.")
    return texts


def check_texts(texts: Sequence[Any], name: str, path: Path) -> None:
    """Refuse what is no readable text; IntegrityError names the first row (from 1) and why."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise IntegrityError(
                f"{path}, row {number}: {name!r} is {text!r} where a text was expected; write "
                f"every text as a string, or leave the row out."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise IntegrityError(
                f"{path}, row {number}: {name!r} is not valid Unicode (half of a surrogate pair at "
                f"character {error.start}); write the character whole, or leave it out."
            ) from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a text may be long
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(file, delimiter=delimiter, strict=True, restkey="", restval=None)
        try:
            for number, row in enumerate(reader, start=1):
                if "" in row or None in row.values():
                    raise IntegrityError(
                        f"{path}, row {number} has not the {len(reader.fieldnames or ())} columns "
                        f"of the header; put a text that holds the separator between quotes."
                    )
                yield row
        except csv.Error as error:
            raise IntegrityError(
                f"{path}, line {reader.line_num} is not readable ({error}); close every quote."
            ) from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise IntegrityError(
                    f"{path}, line {number} is not JSON ({error}); write one object a line."
                ) from error
            if not isinstance(row, dict):
                raise IntegrityError(
                    f"{path}, line {number} is {line.strip()[:40]!r}; write one object a line."
                )
            yield row
