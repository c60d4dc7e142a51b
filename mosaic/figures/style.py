"""The look of every figure, decided once: size, palette, markers, files and alt text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES = 7.2
"""Width of a figure: the text column of the book at desktop width."""

# Okabe-Ito hues chosen for distinct lightness, each with its own marker, so that neither colour
# blindness nor a greyscale print takes a series away.
FEATURE_STYLE: dict[str, tuple[str, str, str]] = {
    "sae": ("#0072B2", "o", "SAE latents"),
    "hidden": ("#E69F00", "s", "hidden state"),
    "tfidf": ("#4D4D4D", "^", "TF-IDF"),
    "length": ("#CC79A7", "v", "prompt length"),
    "base_rate": ("#9E9E9E", "x", "base rate"),
    "vision_tower": ("#009E73", "D", "vision tower"),
}
SERIES: tuple[tuple[str, str, str], ...] = (
    ("#0072B2", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#009E73", "D", "-."),
    ("#CC79A7", "v", ":"),
    ("#4D4D4D", "^", (0, (5, 1))),  # type: ignore[assignment]
    ("#56B4E9", "P", (0, (1, 1))),  # type: ignore[assignment]
)
SOURCE_LABEL = {"published": "published scores", "run": "this run", "bundle": "contributed run"}


@dataclass(frozen=True)
class SavedFigure:
    """The files of one figure and its alt text."""

    name: str
    alt: str
    svg: Path
    png: Path
    csv: Path


def new_figure(n_rows: int = 1, n_cols: int = 1, height: float = 3.2, **kwargs: object) -> Figure:
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
        **kwargs,  # type: ignore[arg-type]
    )
    return figure


def draw_points(
    axes: Axes,
    table: pd.DataFrame,
    positions: list[float],
    feature: str,
    label: str | None = None,
) -> None:
    """Points of `macro_f1` with their intervals, one feature's colour and marker, sideways."""
    colour, marker, name = FEATURE_STYLE[feature]
    values = table["macro_f1"].astype(float).to_numpy()
    low = table["macro_f1_low"].astype(float).fillna(table["macro_f1"].astype(float)).to_numpy()
    high = table["macro_f1_high"].astype(float).fillna(table["macro_f1"].astype(float)).to_numpy()
    axes.errorbar(
        values,
        positions,
        xerr=[values - low, high - values],
        fmt=marker,
        color=colour,
        markersize=5.5,
        elinewidth=1.2,
        capsize=2,
        label=name if label is None else label,
    )


def legend_below(figure: Figure) -> None:
    """One legend for all axes, below them, in the order of first appearance."""
    handles: dict[str, object] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),  # type: ignore[arg-type]
        list(handles),
        loc="outside lower center",
        ncols=min(len(handles), 4),
    )


def save(figure: Figure, name: str, table: pd.DataFrame, alt: str, folder: Path) -> SavedFigure:
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
