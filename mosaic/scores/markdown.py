"""Tables as Markdown, for cards and pages."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; cells are Markdown already, and shown as `str` does."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(columns), *lines[1:]]) + "\n"


def stacked_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], look: str = "") -> str:
    """A Markdown table of the book whose rows are blocks on a phone, without a head.

    So each cell but the first holds its column's name, which only a phone shows; an empty cell, and
    one of a column without a name, stays as it is. `look` is a further class.
    """
    before = [f"[{name}:]{{.source}} " if name else "" for name in columns[1:]]
    named = [
        [first, *(x and f"{name}{x}" for name, x in zip(before, rest, strict=True))]
        for first, *rest in rows
    ]
    look = f"mosaic-stacked {look}".strip()
    return f"```{{table}}\n:class: {look}\n\n{markdown_table(columns, named)}```\n"
