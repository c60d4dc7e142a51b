"""An own table or list of texts: read strictly, so that what is wrong is named by its row."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mosaic.errors import MALFORMED, AccessError, IntegrityError
from mosaic.storage.files import refuse_pointers

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
ADVICE = {
    ",": "put a text that holds the separator between quotes",
    "\t": "take tabs and line ends out of the texts",
}
FILE_KINDS = (*SEPARATORS, *JSON_LINES)


def read_file(path: Path, wanted: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Columns of a CSV (comma), TSV (tab) or JSON lines file with a header or keys, in file order.

    With `wanted` only these columns; of others nothing is asked. CSV and TSV values are text; JSON
    values keep their type. Raises AccessError (no such file) and IntegrityError with the row: other
    kinds of file, not UTF-8, no rows, ragged rows, a wanted column that is missing or stands twice.
    """
    kind = path.suffix.lower()
    if kind not in FILE_KINDS:
        raise IntegrityError(
            f"{path} is of a kind that is not read here; save the rows as one of {FILE_KINDS}."
        )
    content = _content(path)
    if kind in JSON_LINES:
        found = list(_json_rows(path, content, wanted))
        names = list(dict.fromkeys(name for row in found for name in row))
        _check_names(path, names, wanted, bool(found))
        return {name: [row.get(name) for row in found] for name in wanted or names}
    names, cells = _table(path, content, SEPARATORS[kind], wanted)
    place = {name: number for number, name in enumerate(names)}
    return {name: [row[place[name]] for row in cells] for name in wanted or names if name or wanted}


def _check_names(
    path: Path, names: list[str], wanted: Sequence[str], rows: bool, ends: str = ""
) -> None:
    if not rows:
        raise IntegrityError(f"{path} holds no rows; it needs a header or keys and a row per text.")
    for name in wanted or names:
        if (n := names.count(name)) != 1 and (name or wanted):
            said = f"has {n} columns" if n else "has no column"
            raise IntegrityError(
                f"{path} {said} {name!r}; it has {names}{ends}. Correct the name, or the column."
            )


def read_texts(source: str, column: str) -> list[str]:
    """New texts: a column of a table or JSON lines file as `read_file` reads it; of a .txt file, a
    file without an ending, or "-" (standard input), the lines, each of them a text.

    Blank lines are blank texts, so that answers stand beside their lines; those at the end are
    none. Raises AccessError and IntegrityError.
    """
    path = Path(source)
    kinds = [ending.lower() for ending in path.suffixes]
    if kinds and (kinds[-1] != ".txt" or set(kinds) & {*FILE_KINDS, ".json"}):
        if kinds[-1] == ".txt":
            raise IntegrityError(f"{path} is named both table and text; let its name end in one.")
        texts = read_file(path, [column])[column]
        check_texts(texts, column, path)
        return texts
    if source == "-" and sys.stdin.isatty():
        print("one text a line, Ctrl-D at the end:", file=sys.stderr)
    texts = _lines(_content(path))
    if not texts:
        raise IntegrityError(f"{source} holds no text; write one text a line.")
    if all(_is_json(text) for text in texts):
        raise IntegrityError(
            f"{source} holds JSON lines where one text a line was expected; save them as a file "
            f"that ends in one of {JSON_LINES}, or take their texts."
        )
    header, *rest = (re.split("[,;\t|]", text) for text in texts)
    is_table = column in (cell.strip(' "') for cell in header)
    if is_table and rest and all(len(row) >= len(header) for row in rest):
        raise IntegrityError(
            f"{source} begins with {_short(texts[0])}, the header of a table, where one text a "
            f"line was expected; save it as a file that ends in one of {tuple(SEPARATORS)}, or "
            f"take the header out."
        )
    return texts


def check_texts(texts: Iterable[Any], name: str, where: object) -> None:
    """Refuse what is no readable text; IntegrityError names the first row (from 1) and why."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise IntegrityError(
                f"{where}, row {number}: {name!r} is {_short(text)} where a text was expected; "
                f"write every text as a string (tokens joined by blanks, a talk as one string), or "
                f"leave the row out."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise IntegrityError(
                f"{where}, row {number}: {name!r} is not valid Unicode (half of a surrogate pair "
                f"at character {error.start}); write the character whole, or leave it out."
            ) from error


def as_labels(labels: Iterable[Any], name: str, where: object) -> list[str]:
    """Labels as names of classes, blanks around them taken off; a fraction, a missing or an empty
    one is refused. IntegrityError names the first row (from 1) and why.
    """
    found = [label.strip() if isinstance(label, str) else label for label in labels]
    bad = [n for n, label in enumerate(found) if label == "" or not isinstance(label, (str, int))]
    # A missing one is named first: it makes fractions of the whole numbers beside it.
    for row in sorted(bad, key=lambda n: found[n] not in ("", None)):
        raise IntegrityError(
            f"{where}, row {row + 1}: the label {name!r} is {_short(found[row])}; write a word, "
            f"a whole number, true or false: labels must be integers, booleans or strings."
        )
    texts = [str(label) for label in found]
    check_texts(texts, name, where)
    return texts


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _content(path: Path) -> str:
    """All of a file, or of standard input for "-", its line ends as they are."""
    standard = str(path) == "-"
    if not standard and not path.exists():
        raise AccessError(f"There is no file {path}; correct the path.")
    refuse_pointers([] if standard else [path])
    try:
        content = sys.stdin.buffer.read() if standard else path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IntegrityError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise AccessError(
            f"{path} cannot be read ({error.strerror}); name a file that can."
        ) from error


def _lines(content: str) -> list[str]:
    """Lines without their ends and without blank ones at the end of the file. A carriage return
    ends a line where nothing else does."""
    lines = content.split("\n" if "\n" in content else "\r")
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1].strip(" \r"):  # a tab may be a row of blank cells
        lines.pop()
    return lines


def _table(
    path: Path, content: str, separator: str, wanted: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV or TSV, every row as long as the header."""
    rows, problem = _quoted(path, content, separator)
    if separator == "\t":
        plain = [line.split("\t") for line in _lines(content)]
        # Corpora are written without quoting, spreadsheets with: a file is quoted where writing its
        # rows anew gives the file, and where its lines would else be rows already it has no others.
        ragged = len({len(row) for row in plain}) > 1
        if problem or not _rewritten(rows, content) or not (ragged or len(rows) == len(plain)):
            rows, problem = plain, None
    if problem:
        raise problem
    header, *rows = rows or [[]]
    # Before the rows: a title above the header, or another separator, is no fault of theirs.
    _check_names(path, header, wanted, bool(rows), f", separated by {separator!r}")
    named = max((i for i, name in enumerate(header, start=1) if name), default=0)
    if len(header) > 1:
        numbered = [(n, row) for n, row in enumerate(rows, start=1) if row not in ([], [""])]
    else:
        last = max((n for n, row in enumerate(rows, start=1) if row), default=0)
        numbered = [(n, row or [""]) for n, row in enumerate(rows[:last], start=1)]
    for number, row in numbered:
        if len(row) < named or any(row[len(header) :]):
            raise IntegrityError(
                f"{path}, row {number} has not the {len(header)} columns of the header, separated "
                f"by {separator!r}; {ADVICE[separator]}."
            )
    return header, [row + [""] * (len(header) - len(row)) for _, row in numbered]


def _quoted(
    path: Path, content: str, separator: str
) -> tuple[list[list[str]], IntegrityError | None]:
    csv.field_size_limit(sys.maxsize)  # a text may be long
    # Where a line feed ends rows, a carriage return alone stands in a text, and needs quotes.
    file = io.StringIO(content, newline="\n" if "\n" in content else "")
    reader = csv.reader(file, delimiter=separator, strict=True)
    try:
        return list(reader), None
    except csv.Error as error:
        return [], IntegrityError(
            f"{path}, line {reader.line_num} is not readable ({error}); close every quote."
        )


def _rewritten(rows: list[list[str]], content: str) -> bool:
    """Whether a writer of quoted tables makes this file of these rows."""
    dialects = (csv.excel_tab, type("EveryField", (csv.excel_tab,), {"quoting": csv.QUOTE_ALL}))
    for dialect, ends in product(dialects, ("\n", "\r\n")):
        file = io.StringIO(newline="")
        csv.writer(file, dialect, lineterminator=ends).writerows(rows)
        if file.getvalue().rstrip("\r\n") == content.rstrip("\r\n"):
            return True
    return False


def _json_rows(path: Path, content: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(content), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_Pairs)
        except MALFORMED as error:
            raise IntegrityError(
                f"{path}, line {number} is not JSON ({error}); write one object a line."
            ) from error
        if not isinstance(row, _Pairs):
            raise IntegrityError(
                f"{path}, line {number} is {line.strip()[:40]!r}; write one object a line."
            )
        names = [name for name, _ in row.pairs]
        if twice := [name for name in wanted or names if names.count(name) > 1]:
            raise IntegrityError(
                f"{path}, line {number} has the key {twice[0]!r} more than once; keep one."
            )
        yield dict(row)


class _Pairs(dict[str, Any]):
    """A JSON object that remembers keys that stand twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), (dict, list))
    except MALFORMED:
        return False
