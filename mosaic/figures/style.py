"""The look of every figure, decided once: size, palette, markers, files and alt text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mosaic.scores.names import UNTRAINED
from mosaic.scores.table import F1

WIDTH_INCHES = 7.2
"""Width of a figure: the text column of the book at desktop width."""

Look = tuple[str, str, Any]
"""Colour, marker and dash of a series."""

BLUE, ORANGE, GREY, PALE, BAND = "#0072B2", "#D55E00", "#4D4D4D", "#9E9E9E", "#C9C9C9"

# Okabe-Ito hues chosen for distinct lightness, each with its own marker, so that neither colour
# blindness nor a greyscale print takes a series away.
SERIES_STYLE: dict[str, Look] = {
    "SAE latents": (BLUE, "o", "-"),
    "hidden state, last token": ("#E69F00", "s", "-"),
    "hidden state, mean": (ORANGE, "D", "-"),
    "random dictionary": ("#CC79A7", "P", "--"),
    "TF-IDF": (GREY, "^", "-"),
    "prompt length": ("#CC79A7", "v", "-"),
    "base rate": (PALE, "X", "-"),
    "vision tower": ("#009E73", "P", "-"),
    UNTRAINED: ("#56B4E9", "o", "--"),
}

# For models, widths and other series without a fixed meaning: colour, marker and dash differ.
CYCLE: tuple[Look, ...] = (
    (BLUE, "o", "-"),
    ("#E69F00", "s", "--"),
    ("#009E73", "D", "-."),
    ("#CC79A7", "v", ":"),
    (GREY, "^", (0, (5, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
)

CSV_COLUMNS = ("source", "profile", "task", "language", "label_model", "model", "depth", "series")


@dataclass(frozen=True)
class SavedFigure:
    """The files of one figure and its alt text."""

    name: str
    alt: str
    svg: Path
    png: Path
    csv: Path


def new_figure(n_rows: int = 1, n_cols: int = 1, height: float = 3.2, **kwargs: Any) -> Figure:
    """A figure with `n_rows` x `n_cols` axes (`figure.axes`) in the house style."""
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.85)
    mpl.rcParams.update(
        {
            "svg.fonttype": "path",  # looks the same where the font is missing
            "svg.hashsalt": "mosaic",  # same data, same bytes
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )
    figure, _ = plt.subplots(
        n_rows,
        n_cols,
        figsize=(WIDTH_INCHES, height),
        layout="constrained",
        squeeze=False,
        **kwargs,
    )
    return figure


def legend_below(figure: Figure, ncols: int = 4) -> None:
    """One legend for all axes, below them, in the order of first appearance.

    It has `ncols` columns, or as many as the figure's width holds.
    """
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for columns in range(min(len(handles), ncols), 0, -1):
        legend = figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def drawn_rows(tables: Sequence[pd.DataFrame], without: Sequence[str] = ()) -> pd.DataFrame:
    """What a figure's CSV tells of the rows it draws; `without` names columns it does not need."""
    wanted = [name for name in (*CSV_COLUMNS, *F1, "n_test") if name not in without]
    return pd.concat(tables)[[name for name in wanted if name in tables[0]]]


def save_figure(
    figure: Figure, name: str, table: pd.DataFrame, alt: str, folder: Path
) -> SavedFigure:
    """Write `<name>.svg`, `.png` (2x), `.csv` (the data drawn) and `.json` (alt text); close it."""
    if not alt.strip():
        raise ValueError(f"{name}: a figure needs an alt text that says what it shows.")
    folder.mkdir(parents=True, exist_ok=True)
    saved = SavedFigure(name, alt, *(folder / f"{name}.{end}" for end in ("svg", "png", "csv")))
    # No date in the file: the same data give the same bytes.
    figure.savefig(saved.svg, metadata={"Date": None, "Title": name, "Description": alt})
    figure.savefig(saved.png, dpi=200, metadata={"Title": name, "Description": alt})
    table.dropna(axis="columns", how="all").to_csv(saved.csv, index=False, lineterminator="\n")
    text = json.dumps({"name": name, "alt": alt}, ensure_ascii=False, indent=1)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    plt.close(figure)
    return saved
