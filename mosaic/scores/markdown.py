"""Tables as Markdown, for cards and pages."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells are Markdown already, and shown as `str` does."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(columns), *lines[1:]]) + "\n"


def stacked_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], look: str = "") -> str:
    """A Markdown table of the book whose rows are blocks on a phone, without a head.

    So each cell but the first holds its column's name, which only a phone shows. `look` is a
    further class.
    """
    named = [
        [first, *(x and f"[{n}:]{{.source}} {x}" for n, x in zip(columns[1:], rest, strict=True))]
        for first, *rest in rows
    ]
    look = f"mosaic-stacked {look}".strip()
    return f"```{{table}}\n:class: {look}\n\n{markdown_table(columns, named)}```\n"
