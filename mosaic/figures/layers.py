"""fig-layers and fig-scale: macro-F1 by depth, and by model (paper §4.1)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mosaic.figures.style import (
    CYCLE,
    DEPTH_POSITION,
    SavedFigure,
    interval_bars,
    legend_below,
    new_figure,
    save_figure,
)
from mosaic.scores.names import source_label, task_label

MEANS = ["macro_f1", "macro_f1_low", "macro_f1_high"]


def fig_layers(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 of SAE cells by depth, one line per model, one column per task (paper §4.1).

    Each table holds the SAE cells of one source in one configuration; repeats are averaged.
    """
    return _lines(
        tables,
        folder,
        name="fig-layers",
        x="depth",
        order=lambda values: [d for d in DEPTH_POSITION if d in values],
        series="model",
    )


def fig_scale(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 of SAE cells by model, smallest first, one line per depth (paper §4.1)."""
    return _lines(
        tables,
        folder,
        name="fig-scale",
        x="model",
        order=lambda values: values,
        series="depth",
    )


def _lines(
    tables: list[pd.DataFrame],
    folder: Path,
    *,
    name: str,
    x: str,
    order: object,
    series: str,
) -> SavedFigure:
    means = [_means(table, [x, series]) for table in tables if len(table)]
    columns = max(table["label"].nunique() for table in means)
    figure = new_figure(len(means), columns, height=0.9 + 2.3 * len(means), sharey="row")
    for r, table in enumerate(means):
        labels = list(dict.fromkeys(table["label"]))
        row_of_axes = figure.axes[r * columns : (r + 1) * columns]
        ticks = order(list(dict.fromkeys(table[x])))  # type: ignore[operator]
        names = list(dict.fromkeys(table[series]))
        for axes, label in zip(row_of_axes, labels, strict=False):
            axes.set_title(label, fontsize=9)
            for i, value in enumerate(names):
                part = table[(table["label"] == label) & (table[series] == value)]
                part = part.set_index(x).reindex([t for t in ticks if t in set(part[x])])
                colour, marker, dash = CYCLE[i % len(CYCLE)]
                axes.errorbar(
                    [ticks.index(t) + 0.06 * (i - (len(names) - 1) / 2) for t in part.index],
                    part["macro_f1"].astype(float),
                    yerr=interval_bars(part),
                    color=colour,
                    marker=marker,
                    linestyle=dash,
                    markersize=5,
                    elinewidth=1.1,
                    label=value,
                )
            axes.set_xticks(range(len(ticks)), ticks, fontsize=7.5, rotation=20)
            axes.set_xlim(-0.4, len(ticks) - 0.6)
        for axes in row_of_axes[len(labels) :]:
            axes.set_visible(False)
        row_of_axes[0].set_ylabel(f"macro-F1\n{source_label(table)}", fontsize=8.5)
    legend_below(figure)
    words = " ".join(_in_words(table, x) for table in means)
    return save_figure(figure, name, pd.concat(means).drop(columns="label"), words, folder)


def _means(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean over everything but task, `keys` and source; intervals are averaged alike."""
    labelled = table.assign(label=table.apply(task_label, axis=1))
    grouped = labelled.groupby(["source", "profile", "label", *keys], dropna=False, sort=False)
    return grouped[MEANS].mean().reset_index()


def _in_words(table: pd.DataFrame, x: str) -> str:
    best = table.groupby(["label", x], sort=False)["macro_f1"].mean().unstack().idxmax(axis=1)
    said = ", ".join(f"{label}: {value}" for label, value in best.items())
    return f"{source_label(table)}: highest mean macro-F1 by {x} is at {said}."
