"""What staging adds to the book: how to rerun each chapter, and the index of figures."""

import csv
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mosaic.config.choices import TEST_SHARE
from mosaic.config.profiles import load_profile, profile_names
from mosaic.config.tasks import load_catalogue
from mosaic.evidence.pack import NUMBERLESS, command_line, public
from mosaic.figures import CHAPTER_OF_FIGURE, figure_number
from mosaic.figures.style import load_figure
from mosaic.scores.markdown import stacked_table

HEADING = "## Rerun exactly this"

MOST_COLUMNS = 8
"""Of a table that a page holds."""


def repository(root: Path) -> str:
    """`<owner>/<name>` of the repository, from the book's `_config.yml`; "" where none is set."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")) or {}
    address = (config.get("repository") or {}).get("url") or ""
    return str(address).removeprefix("https://github.com/")


def colab_badge(chapter: str, slug: str) -> str:
    """Markdown for the button that opens a chapter's notebook in Colab."""
    link = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{chapter}.ipynb"
    return f"[![Open in Colab](../book/_static/colab.svg)]({link})"


def clone_lines(slug: str) -> str:
    """Markdown that says how to get the repository and make the book, and about Colab."""
    if not slug:
        return (
            "```\nmake reproduce    # in the folder of this repository\n```\n\nThis copy has "
            "no public address yet, so there is nothing to clone, and the buttons for Colab and "
            "issues are left out; `python tools/address.py OWNER/NAME` adds them.\n"
        )
    name = slug.split("/")[1]
    return (
        f"```\ngit clone https://github.com/{slug}\ncd {name}\nmake reproduce\n```\n\n"
        "In Colab: by the button on each chapter.\n"
    )


def book_config(root: Path) -> str:
    """The text of `_config.yml`, without the buttons that need an address where none is set."""
    text = (root / "_config.yml").read_text(encoding="utf-8")
    if repository(root):
        return text
    config = yaml.safe_load(text)
    config = {k: v for k, v in config.items() if k not in ("repository", "launch_buttons")}
    html = config.get("html") or {}
    config["html"] = {k: v for k, v in html.items() if not k.startswith("use_")}
    return yaml.safe_dump(config, sort_keys=False)


def rerun_box(chapter: str, parameters: Mapping[str, Any], slug: str) -> str:
    """Markdown for the end of a chapter: the lines that make this very page again.

    `parameters` are those papermill ran it with, but for those that change no number.
    """
    profile = public(parameters.get("profile", "mini"))
    given = {k: public(v) for k, v in parameters.items() if k not in ("profile", *NUMBERLESS)}
    run = command_line("run", [chapter.split("_")[0]], {"profile": profile}, given)
    mill = ["papermill", f"notebooks/{chapter}.ipynb", "out.ipynb", "-p", "profile", str(profile)]
    for name, value in given.items():
        mill += ["-y", f"{name}: {json.dumps(value)}"]
    figures = [figure for figure, where in CHAPTER_OF_FIGURE.items() if where == chapter]
    lines = [run, shlex.join(mill), *(f"mosaic figure {f} --profile {profile}" for f in figures)]
    badge = f"\nWithout a clone: {colab_badge(chapter, slug)}\n" if slug else ""
    return f"""{HEADING}

In a clone, with the environment of `make reproduce`; `-p name=value` changes a parameter:

```text
{chr(10).join(lines)}
```
{badge}"""


def figure_index(figures: Path) -> str:
    """Markdown for the page of all figures: a thumbnail, its caption and a link to its chapter.

    `figures` is the folder of a run; a figure that the run did not draw is left out.
    """
    parts = []
    for figure, chapter in CHAPTER_OF_FIGURE.items():
        if (saved := load_figure(figure, figures)) is None:
            continue
        number = f"Figure {figure_number(figure)}"
        parts.append(
            f"## {number}\n\n"
            f"```{{image}} ../figures/{figure}.png\n:alt: {number}, described below\n"
            f":class: mosaic-thumbnail\n```\n\n"
            f"{_escaped(saved.caption.finding)} {_escaped(saved.caption.marks)}\n\n"
            f"{{ref}}`In chapter {int(chapter[:2])} <{figure}>`. "
            f"[SVG](../figures/{figure}.svg), [PNG](../figures/{figure}.png), "
            f"[data](../figures/{figure}.csv). `mosaic figure {figure}`\n"
        )
    return "\n".join(parts)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!<>|$~" else c for c in " ".join(text.split()))


def task_table(catalogue: str) -> str:
    """One row per task of a catalogue, and below it replaced repositories and what is noted.

    Languages of one task share a row, and so do models that it asks; tasks that share a note share
    its line.
    """
    rows: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    noted: dict[str, list[str]] = {}
    for task in load_catalogue(catalogue).values():
        fields = f"`{task.input_field}`, `{task.label_field}`"
        count = "" if task.rows is None else f"{task.rows:,}"
        part = ", ".join(filter(None, (task.config, task.split)))
        alike = (task.name, task.section, task.dataset, fields, count, task.licence)
        rows.setdefault(alike, []).append((task.language or task.label_model or "", part))
        if task.replaces:
            revision = f", revision `{task.revision}`" if task.revision else ""
            replaced = f"the authors name {task.replaces}; loaded here from `{task.dataset}`"
            noted.setdefault(replaced + revision, []).append(task.key)
        if task.note:
            noted.setdefault(task.note.rstrip("."), []).append(task.key)
    shown = []
    for (name, section, dataset, fields, count, licence), of in rows.items():
        whose = ", ".join(filter(None, (one for one, _ in of)))
        named = f"{name}, {whose} ({section})" if whose else f"{name} ({section})"
        where = "; ".join(dict.fromkeys(filter(None, (part for _, part in of))))
        shown.append(
            (named, ", ".join(filter(None, (f"`{dataset}`", where))), fields, count, licence)
        )
    head = ("task (section)", "dataset, configuration, split", "text, label", "rows", "licence")
    remarks = [f"- {', '.join(keys)}: {note}." for note, keys in noted.items()]
    return "\n".join([stacked_table(head, shown), *remarks]) + "\n"


def measured_tables(folder: Path) -> dict[str, str]:
    """Markdown of each CSV of a folder, by `table_<name>`, with plain names of columns.

    One with more columns than a page holds, and fewer rows, is turned.
    """
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        if len(head) > max(MOST_COLUMNS, len(rows)):
            head, *rows = map(list, zip(head, *rows, strict=True))
        names = [name.replace("_", " ") for name in head]
        named = [[first.replace("_", " "), *rest] for first, *rest in rows]
        tables[f"table_{path.stem}"] = stacked_table(names, named, "mosaic-flow")
    return tables


def profile_table() -> str:
    """One row per shipped profile: how many documents of a task it reads, trains on and tests."""
    rows = []
    for name in profile_names():
        profile = load_profile(name)
        n_train, n_test = profile.n_train, profile.n_test
        caps = ["all" if n is None else f"{n:,}" for n in (profile.max_docs, n_train, n_test)]
        share = n_test / (n_train + n_test) if n_train and n_test else TEST_SHARE
        length = f"{profile.max_length:,}"
        counts = (length, str(profile.folds), str(len(profile.seeds)))
        rows.append((f"`{name}`", *caps, f"{share:.0%}", *counts))
    head = (
        "profile",
        "documents read",
        "training",
        "test",
        "test share",
        "tokens",
        "folds",
        "seeds",
    )
    return stacked_table(head, rows, "mosaic-flow")
