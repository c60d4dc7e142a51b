"""Tables as a reader sees them: few columns with plain names; what never changes is in the caption.

Text is escaped; a long table is folded, a wide one scrolls in a box that keyboards reach.
"""

import html
from typing import Any

import pandas as pd

from mosaic.scores.names import pooling_name, run_name, task_label, what_is_read

LONG = 12
"""Rows above which a table is folded."""

NAMES = {
    "active_latents": "active latents a document",
    "best_adds": "best of the repeats adds",
    "best_on_test": "by best test score",
    "cv_accuracy": "CV score",
    "key": "task",
    "labels": "native labels that reach it",
    "macro_f1": "macro-F1",
    "mean": "by means",
    "needed": "needed to differ",
    "p_holm": "p (Holm)",
    "profile": "run",
    "sd_run": "SD of one run",
}

SPANS = (
    ("macro_f1", "macro_f1_low", "macro_f1_high", "95%"),
    ("macro_f1", "lowest", "highest", "range of seeds"),
    ("difference", "low", "high", "95%"),
    ("effect", "low", "high", "95%"),
    ("auc", "auc_low", "auc_high", "95%"),
)
"""A value, the ends of its interval, and what they are: one column on a page."""

BESIDE = (
    ("tasks_higher", "n_tasks", "tasks where it is higher", "{} of {}"),
    ("active_in_class", "active_elsewhere", "active in its class / elsewhere", "{:.0%} / {:.0%}"),
    ("closest_annotation", "agreement", "closest annotation (agreement)", "{} ({:.2f})"),
)
"""Two columns that say one thing."""

SIGNED = ("difference", "effect")

COUNTS = {
    "n_train": "training documents",
    "n_test": "test documents",
    "n_cut": "test documents read in part",
    "n_docs": "documents",
    "repeat": "seeds",
    "seeds": "seeds",
    "n_seeds": "seeds",
    "n_pairs": "pairs",
}
"""Counts go into the caption, as a range where rows differ."""

SHARED = ("profile", "source", "protocol", "model", "layer", "train_fraction", "k", "unfinished")
"""Columns that go into the caption where all rows have one value."""


def table_html(frame: pd.DataFrame, digits: int = 3, caption: str = "") -> str:
    """A data frame as an HTML table: `readable` columns, escaped, folded beyond `LONG` rows."""
    shown, shared = readable(frame, digits)
    caption = ". ".join(filter(None, (caption.rstrip("."), shared)))
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in shown)
    rows = (_row([_shown(value, digits) for value in row]) for row in shown.to_numpy(dtype=object))
    title = html.escape(caption or "Table", quote=True)
    look = "mosaic-table" + (" mosaic-matrix" if shown.shape[1] > 6 else "")
    box = (
        f'<div class="mosaic-scroll" role="region" tabindex="0" aria-label="{title}">'
        f'<table class="{look}"><caption>{title}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    if len(shown) <= LONG:
        return box
    summary = f"<summary>{title} ({len(shown)} rows)</summary>"
    return f'<details class="mosaic-fold">{summary}{box}</details>'


def readable(frame: pd.DataFrame, digits: int = 3) -> tuple[pd.DataFrame, str]:
    """The frame with few columns under plain names, and what all rows share, for the caption.

    What a probe reads, whose task it is and an interval take one column each. Empty columns are
    left out.
    """
    table = frame.dropna(axis="columns", how="all") if len(frame) else frame
    if "profile" in table:
        table = table.assign(profile=table["profile"].map(run_name, na_action="ignore"))
    table, said = _captioned(_named_task(table))
    if "feature" in table:
        parts = ("feature", "width", "pooling", "top_n", "threshold", "selection", "k")
        rows = frame.reindex(columns=[*parts, "n_train"])
        read = [what_is_read(row) for _, row in rows.iterrows()]
        table = _merged(table, parts, "what the probe reads", read)
    elif "pooling" in table:
        pooled = ("pooling", "top_n", "threshold")
        read = [pooling_name(row) for _, row in frame.reindex(columns=pooled).iterrows()]
        table = _merged(table, pooled, "pooling", read)
    if {"model", "layer"} <= set(table):
        place = [_joined(row) for row in table[["model", "layer"]].itertuples(index=False)]
        table = _merged(table, ("model", "layer"), "model, layer", place)
    for value, low, high, what in SPANS:
        if {value, low, high} <= set(table):
            ends = zip(table[value], table[low], table[high], strict=True)
            text = [_span(*row, digits, value in SIGNED) for row in ends]
            name = f"{NAMES.get(value, value)} [{what}]"
            table = _merged(table, (value, low, high), name, text)
    for first, second, name, form in BESIDE:
        if {first, second} <= set(table):
            both = zip(table[first], table[second], strict=True)
            text = [pd.NA if pd.isna(a) else form.format(a, b) for a, b in both]
            table = _merged(table, (first, second), name, text)
    for name in table.columns.intersection(SIGNED):
        table[name] = [_number(value, digits, True) for value in table[name]]
    for name in table.select_dtypes("float"):
        whole = table[name].dropna()
        if (whole % 1 == 0).all() and whole.abs().max() > 1:
            table[name] = table[name].astype("Int64")
    return table.rename(columns=lambda name: NAMES.get(name, str(name).replace("_", " "))), said


def _named_task(table: pd.DataFrame) -> pd.DataFrame:
    """Task, its language and the model it asks in one column, as everywhere in the book."""
    if "key" in table and "task" not in table:
        table = table.rename(columns={"key": "task"})
    if "task" not in table:
        return table
    parts = ("task", "language", "label_model")
    known = table.reindex(columns=parts).astype(object).replace("", None)
    split = known["task"].astype(str).str.extract(r"^(?P<task>.+)-(?P<language>[a-z]{2})$")
    keyed = split["task"].notna() & known["language"].isna()
    known.loc[keyed, ["task", "language"]] = split[keyed]
    return _merged(table, parts, "task", [task_label(row) for _, row in known.iterrows()])


def _captioned(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table without counts and without what all rows share, and these in words."""
    said = []
    for name in table.columns.intersection(SHARED):
        values = table[name].dropna().unique()
        if len(table) > 1 and len(values) == 1 and (name == "k" or table[name].notna().all()):
            value = values[0] if isinstance(values[0], str) else f"{values[0]:g}"
            word = "" if name == "profile" else f"{name.replace('_', ' ')} "
            said.append(f"{word}{value}")
            table = table.drop(columns=name)
    for name in table.columns.intersection(list(COUNTS)):
        values = table[name].dropna().astype(int)
        ends = dict.fromkeys((f"{values.min():,}", f"{values.max():,}"))
        word = COUNTS[name]
        said.append(f"{' to '.join(ends)} {word[:-1] if list(ends) == ['1'] else word}")
        table = table.drop(columns=name)
    return table, "; ".join(said)


def _merged(table: pd.DataFrame, names: Any, name: str, values: Any) -> pd.DataFrame:
    """The table with one column in the place of the first of `names`."""
    place = min(table.columns.get_loc(old) for old in names if old in table)
    rest = table.drop(columns=[old for old in names if old in table])
    rest.insert(place, name, list(values))
    return rest


def _row(cells: list[str]) -> str:
    first, *rest = cells
    return f'<tr><th scope="row">{html.escape(first)}</th>{"".join(map(_cell, rest))}</tr>'


def _cell(text: str) -> str:
    """A cell; one with a word too long for a column, such as a path, may break inside of it."""
    breaks = ' class="mosaic-long"' if max(map(len, text.split()), default=0) > 20 else ""
    return f"<td{breaks}>{html.escape(text)}</td>"


def _joined(values: Any) -> str:
    model, layer = values
    return "–" if pd.isna(model) else f"{model}, {layer}" if pd.notna(layer) else str(model)


def _span(value: Any, low: Any, high: Any, digits: int, signed: bool) -> str:
    text = _number(value, digits, signed)
    ends = (_number(low, digits, signed), _number(high, digits, signed))
    return text if pd.isna(low) or pd.isna(value) else f"{text} [{' to '.join(ends)}]"


def _number(value: Any, digits: int, signed: bool) -> str:
    return "–" if pd.isna(value) else f"{float(value):{'+' if signed else ''}.{digits}f}"


def _shown(value: Any, digits: int) -> str:
    """A value as text: one sign for every kind of missing, yes or no, no `5.0` for 5."""
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{int(value):,}"
