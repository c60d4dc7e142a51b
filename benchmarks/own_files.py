"""Tables that people could have, through the readers of `fit` and `predict`: what becomes of them.

`python benchmarks/own_files.py` makes 10,000 tables from a seed: separators, quotes, blanks,
nameless and double columns, scripts and line ends, as spreadsheets, corpora and programs write
them; one in four is then damaged. A reader may give exactly the rows, or one sentence. A traceback,
other rows, or a sentence of several lines ends the command with exit code 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from mosaic.config.profiles import load_profile
from mosaic.data.load import load_task
from mosaic.data.own_files import FILE_KINDS, read_texts
from mosaic.errors import MosaicError

PIECES = ["a", "word ", " ", '"', '""', ",", ";", "'", "\\", "NA", "ü", "字", "ع", "🙂", "\u2028"]
BREAKS = ["\t", "\n", "\r", "\r\n"]
LABELS = ["pos", "neg", "1", " 0 ", "nan", "ja", ""]
EXTRA = [[], [""], ["", ""], ["id"], ["id", "id"], ["text"], ["label"], ["", "id"]]

Rows = list[tuple[str, str]]


def make(rng: np.random.Generator, kind: str) -> tuple[bytes, Rows]:
    """A file of that kind, and the (text, label) rows that stand in it."""
    pick = rng.choice
    unquoted = kind in (".tsv", ".tab") and rng.random() < 0.5
    ends = str(pick(["\n", "\r\n"]))
    quoting = int(pick([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    # What no reader could tell: texts of a corpus written just as quoted ones are. A text of tabs
    # and line ends in a TSV may be rows of a corpus, and writers that end rows by a line feed leave
    # a carriage return without quotes.
    pieces = PIECES + ([] if kind in (".tsv", ".tab") or quoting == csv.QUOTE_MINIMAL else BREAKS)
    rows = [
        (
            "".join(map(str, pick(pieces, rng.integers(0, 8)))),
            str(pick(LABELS[: rng.integers(2, 8)])),
        )
        for _ in range(rng.integers(1, 12))
    ]
    if unquoted:
        rows = [(re.sub('"+', '"', text), label) for text, label in rows]
    extra = EXTRA[0] if rng.random() < 0.5 else EXTRA[int(rng.integers(len(EXTRA)))]
    cells = [["text", "label", *extra], *([*row, *("7" for _ in extra)] for row in rows)]
    if rng.random() < 0.3:
        cells = [row[::-1] for row in cells]
    if kind in (".jsonl", ".ndjson"):
        # Written by hand, since a mapping cannot hold a key twice.
        objects = (
            "{" + ", ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in zip(*at)) + "}"  # noqa: B905
            for at in ((cells[0], row) for row in cells[1:])
        )
        content = "".join(line + ends for line in objects)
    elif unquoted:
        content = "".join("\t".join(row) + ends for row in cells)
    else:
        file = io.StringIO(newline="")
        separator = "," if kind == ".csv" else "\t"
        csv.writer(file, delimiter=separator, lineterminator=ends, quoting=quoting).writerows(cells)
        content = file.getvalue()
    mark = "\ufeff" if rng.random() < 0.1 else ""
    return (mark + content).encode(), rows


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """The file with a piece cut, repeated, or replaced by random bytes or another separator."""
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    piece = content[start:stop]
    changed = (
        b"", piece * 2, rng.bytes(min(len(piece), 4)), piece.replace(b",", b";"),
        piece.replace(b"\n", b"\r"), piece.replace(b'"', b""), b"sep=;\n" + piece,
    )  # fmt: skip
    return content[:start] + changed[int(rng.integers(len(changed)))] + content[stop:]


def outcome(read: object, rows: Rows | list[str] | None) -> str:
    """What a reader made of a file whose rows are known, or not (None: it was damaged)."""
    try:
        found = read()  # type: ignore[operator]
    except MosaicError as error:
        return "one sentence" if "\n" not in str(error) else "several lines"
    except Exception as error:  # what this command looks for
        return f"traceback: {type(error).__name__}"
    if rows is None:
        return "read"
    return "exactly the rows" if found == rows else "other rows"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    counts: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        profiles = {}
        for kind in FILE_KINDS:
            task = {"name": "mine", "dataset": f"./mine{kind}"}
            task |= {"input_field": "text", "label_field": "label"}
            path = Path(folder) / f"{kind[1:]}.yaml"
            path.write_text(yaml.safe_dump({"base": "mini", "catalogue": [task]}))
            profiles[kind] = load_profile(str(path))
        for number in range(args.tables):
            rng = np.random.default_rng((args.seed, number))
            kind = FILE_KINDS[number % len(FILE_KINDS)]
            content, made = make(rng, kind)
            rows = None if rng.random() < 0.25 else made
            path = Path(folder) / f"mine{kind}"
            path.write_bytes(content if rows else damaged(rng, content))

            def fit(kind: str = kind) -> Rows:
                data = load_task("mine", profiles[kind])
                return [
                    (t, data.label_names[y]) for t, y in zip(data.inputs, data.labels, strict=True)
                ]

            trimmed = rows and [(text, label.strip()) for text, label in rows]
            state = "whole" if rows else "damaged"
            counts["fit", state, said := outcome(fit, trimmed)] += 1
            texts = rows and [text for text, _ in rows]
            also = outcome(partial(read_texts, str(path), "text"), texts)
            counts["predict", state, also] += 1
            for verb, what in (("fit", said), ("predict", also)):
                if what not in GOOD:
                    print(f"{verb}, table {number} ({kind}): {what}: {path.read_bytes()[:300]!r}")
    print("verb,tables,outcome,number")
    for (verb, state, what), number in sorted(counts.items()):
        print(f"{verb},{state},{what},{number}")
    return int(any(what not in GOOD for _, _, what in counts))


GOOD = {"exactly the rows", "one sentence", "read"}

if __name__ == "__main__":
    sys.exit(main())
