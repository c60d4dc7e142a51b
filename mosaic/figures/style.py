"""The look of every figure, decided once: size, palette, markers, files and alt text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mosaic.config.choices import DEPTHS
from mosaic.scores.names import source_label

WIDTH_INCHES = 7.2
"""Width of a figure: the text column of the book at desktop width."""

# Okabe-Ito hues chosen for distinct lightness, each with its own marker, so that neither colour
# blindness nor a greyscale print takes a series away.
SERIES_STYLE: dict[str, tuple[str, str]] = {
    "SAE latents": ("#0072B2", "o"),
    "hidden state, last token": ("#E69F00", "s"),
    "hidden state, mean": ("#D55E00", "D"),
    "TF-IDF": ("#4D4D4D", "^"),
    "prompt length": ("#CC79A7", "v"),
    "base rate": ("#9E9E9E", "X"),
    "vision tower": ("#009E73", "P"),
}

# For models, widths and other series without a fixed meaning: colour, marker and dash differ.
CYCLE: tuple[tuple[str, str, Any], ...] = (
    ("#0072B2", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#009E73", "D", "-."),
    ("#CC79A7", "v", ":"),
    ("#4D4D4D", "^", (0, (5, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
)

DEPTH_POSITION = {depth: place for place, depth in enumerate(DEPTHS)}


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


def interval_bars(table: pd.DataFrame) -> np.ndarray:
    """Distances `[2, n]` from macro-F1 to the ends of its interval; 0 where there is none."""
    value, low, high = (
        table[name].astype(float).to_numpy()
        for name in ("macro_f1", "macro_f1_low", "macro_f1_high")
    )
    return np.nan_to_num(np.stack([value - low, high - value]))


def dots_by_line(axes: Axes, table: pd.DataFrame, step: float) -> None:
    """Macro-F1 with intervals: a line per `label`, a marker per `series`, first label on top.

    The series of a line stand `step` lines apart, so that equal values do not cover each other.
    """
    labels = list(dict.fromkeys(table["label"]))
    here = [name for name in SERIES_STYLE if name in set(table["series"])]
    for i, series in enumerate(here):
        colour, marker = SERIES_STYLE[series]
        part = table[table["series"] == series]
        offset = step * (i - (len(here) - 1) / 2)
        axes.errorbar(
            part["macro_f1"].astype(float),
            [labels.index(label) + offset for label in part["label"]],
            xerr=interval_bars(part),
            fmt=marker,
            color=colour,
            markersize=5,
            elinewidth=1.1,
            label=series,
        )
    axes.set_title(source_label(table), fontsize=10)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def heatmap(axes: Axes, values: pd.DataFrame, square: bool = False) -> None:
    """Scores of 0.3 to 1 as shades with their numbers; a missing one stays empty.

    seaborn's own draws the whole figure anew for each, to see whether its labels overlap.
    """
    grid = values.astype(float).to_numpy()
    axes.imshow(grid, cmap="Blues", vmin=0.3, vmax=1.0, aspect="equal" if square else "auto")
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value > 0.72 else "black"
            number = f"{value:.2f}".removeprefix("0")
            text = axes.text(j, i, number, ha="center", va="center", color=colour, fontsize=8.5)
            text.set_in_layout(False)  # it is inside the axes: measuring many takes seconds
    axes.set_xticks(range(values.shape[1]), values.columns, fontsize=8)
    axes.set_yticks(range(values.shape[0]), values.index, fontsize=8)
    axes.grid(False)


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
