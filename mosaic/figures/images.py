"""fig-vision: image tokens through text SAEs, by depth (paper §4.6)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.gridspec import GridSpec

from mosaic.evidence.comparisons import UNTRAINED, at_best_depth, image_series
from mosaic.figures.style import (
    DEPTH_POSITION,
    SERIES_STYLE,
    SavedFigure,
    interval_bars,
    legend_below,
    new_figure,
    save_figure,
)
from mosaic.scores.names import source_label

KEEP = ["source", "profile", "task", "model", "depth", "series", "macro_f1", "macro_f1_low"]

KEEP += ["macro_f1_high", "n_test"]

STYLE = {**SERIES_STYLE, UNTRAINED: ("#56B4E9", "o")}


def fig_vision(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per image set and one row of axes per source (paper §4.6).

    Each table holds one row per task, depth and series. What has no depth (vision tower, base rate)
    is drawn as a level.
    """
    tables = [image_series(table) for table in tables if len(table)]
    columns = max(table["task"].nunique() for table in tables)
    figure = new_figure(len(tables), columns, height=0.9 + 2.3 * len(tables), sharey="row")
    all_axes = figure.axes
    for r, table in enumerate(tables):
        row_of_axes = all_axes[r * columns : (r + 1) * columns]
        tasks = list(dict.fromkeys(table["task"]))
        span = columns // len(tasks)  # a row of few image sets is as wide as the others
        for i, (axes, task) in enumerate(zip(row_of_axes, tasks, strict=False)):
            grid = cast(GridSpec, axes.get_gridspec())
            axes.set_subplotspec(grid[r, i * span : (i + 1) * span])
            axes.set_title(str(task), fontsize=9)
            _draw(axes, table[table["task"] == task])
        for axes in row_of_axes[len(tasks) :]:
            axes.remove()
        row_of_axes[0].set_ylabel(f"macro-F1\n{source_label(table)}", fontsize=8.5)
    legend_below(figure)
    words = " ".join(_in_words(table) for table in tables)
    drawn = pd.concat(tables)[[c for c in KEEP if c in tables[0]]]
    return save_figure(figure, "fig-vision", drawn, words, folder)


def _draw(axes: Axes, part: pd.DataFrame) -> None:
    here = [name for name in STYLE if name in set(part["series"])]
    for i, series in enumerate(here):
        colour, marker = STYLE[series]
        rows = part[part["series"] == series]
        if rows["depth"].isna().all():
            value = float(rows["macro_f1"].mean())
            axes.axhline(value, color=colour, linestyle=":", linewidth=1.8, label=series)
            continue
        means = rows.groupby("depth")[["macro_f1", "macro_f1_low", "macro_f1_high"]].mean()
        means = means.reindex([depth for depth in DEPTH_POSITION if depth in means.index])
        offset = 0.04 * (i - (len(here) - 1) / 2)
        axes.errorbar(
            [DEPTH_POSITION[depth] + offset for depth in means.index],
            means["macro_f1"].astype(float),
            yerr=interval_bars(means),
            marker=marker,
            color=colour,
            linestyle="--" if series == UNTRAINED else "-",
            markersize=5,
            elinewidth=1.1,
            label=series,
        )
    axes.set_xticks(list(DEPTH_POSITION.values()), list(DEPTH_POSITION), fontsize=8)
    axes.set_xlim(-0.35, 2.35)


def _in_words(table: pd.DataFrame) -> str:
    said = []
    best = at_best_depth(table)
    for task, part in best.groupby("task", sort=False):
        values = zip(part["series"], part["macro_f1"].astype(float), strict=True)
        said.append(f"{task}: " + ", ".join(f"{name} {value:.2f}" for name, value in values))
    published = (table["source"] == "published").all()
    how = "by test score, as published" if published else "chosen by inner cross-validation"
    return f"{source_label(table)}, macro-F1 at the best depth ({how}): {'; '.join(said)}."
