"""Markdown tables for the book's card pages, made from the same data the loaders use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mosaic.profiles import load_profile, profile_names
from mosaic.splits import TEST_SHARE
from mosaic.tasks import load_catalogue

COLUMNS = ("task", "dataset", "config", "split", "input", "label", "rows", "licence", "section")


def task_table(catalogue: str) -> str:
    """One row per task of a catalogue, and below it replaced repositories and what is noted.

    A note that several tasks share is written once.
    """
    tasks = list(load_catalogue(catalogue).values())
    rows = []
    noted: dict[str, list[str]] = {}
    for task in tasks:
        cells = (
            task.key,
            f"`{task.dataset}`",
            task.config or "",
            task.split,
            f"`{task.input_field}`",
            f"`{task.label_field}`",
            "" if task.rows is None else f"{task.rows:,}",
            task.licence,
            task.section,
        )
        rows.append(cells)
        if task.replaces:
            revision = f", revision `{task.revision}`" if task.revision else ""
            replaced = f"the authors name {task.replaces}; loaded here from `{task.dataset}`"
            noted.setdefault(replaced + revision, []).append(task.key)
        if task.note:
            noted.setdefault(task.note.rstrip("."), []).append(task.key)
    remarks = [f"- {', '.join(keys)}: {note}." for note, keys in noted.items()]
    return "\n".join([markdown_table(COLUMNS, rows), *remarks]) + "\n"


def profile_table() -> str:
    """One row per shipped profile: how many documents of a task it reads, trains on and tests."""
    rows = []
    for name in profile_names():
        profile = load_profile(name)
        caps = (profile.max_docs, profile.n_train, profile.n_test)
        if profile.n_train and profile.n_test:
            share = profile.n_test / (profile.n_train + profile.n_test)
        else:
            share = TEST_SHARE
        rows.append(
            (
                f"`{name}`",
                *("all" if cap is None else f"{cap:,}" for cap in caps),
                f"{share:.0%}",
                f"{profile.max_length:,}",
                str(len(profile.seeds)),
            )
        )
    head = ("profile", "documents read", "training", "test", "test share", "tokens", "seeds")
    return markdown_table(head, rows)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown already."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]]) + "\n"
