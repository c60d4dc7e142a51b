"""fig-layers and fig-scale: macro-F1 by depth, and by model (paper §4.1)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mosaic.evidence.comparisons import best_along, mean_scores
from mosaic.figures.panels import lines_by_task
from mosaic.figures.style import SavedFigure, legend_below, save_figure
from mosaic.scores.names import source_label


def fig_layers(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 of SAE cells by depth, one line per model, one column per task (paper §4.1).

    Each table holds the SAE cells of one source in one configuration; repeats are averaged.
    """
    return _mean_lines(tables, folder, "fig-layers", x="depth", series="model")


def fig_scale(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 of SAE cells by model, smallest first, one line per depth (paper §4.1)."""
    return _mean_lines(tables, folder, "fig-scale", x="model", series="depth")


def _mean_lines(
    tables: list[pd.DataFrame], folder: Path, name: str, x: str, series: str
) -> SavedFigure:
    means = [mean_scores(table, [x, series]) for table in tables if len(table)]
    ticks = {"fontsize": 7.5, "rotation": 20}
    figure = lines_by_task(means, x=x, series=series, step=0.06, margin=0.4, tick_style=ticks)
    legend_below(figure)
    words = " ".join(_in_words(table, x) for table in means)
    return save_figure(figure, name, pd.concat(means).drop(columns="label"), words, folder)


def _in_words(table: pd.DataFrame, x: str) -> str:
    said = ", ".join(f"{label}: {value}" for label, value in best_along(table, x).items())
    return f"{source_label(table)}: highest mean macro-F1 by {x} is at {said}."
