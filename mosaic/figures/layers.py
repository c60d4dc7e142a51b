"""fig-layers and fig-scale: paired differences between depths and between models (paper §4.1)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mosaic.evidence.contrasts import Findings, by_depth, by_model, compared, effect_table
from mosaic.figures.panels import arrows, differences, interval_bars, reach
from mosaic.figures.style import BAND, GREY, MEAN, SavedFigure, new_figure, save_figure
from mosaic.scores.names import in_source, source_label


def fig_layers(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """The middle layer minus the early and the late one, task by task (paper §4.1)."""
    return _by_task(tables, by_depth, folder, "fig-layers", "the ")


def fig_scale(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Each model minus the next smaller one, task by task (paper §4.1)."""
    return _by_task(tables, by_model, folder, "fig-scale")


def _by_task(
    tables: list[pd.DataFrame],
    contrasts: Callable[[pd.DataFrame], Findings],
    folder: Path,
    name: str,
    article: str = "",
) -> SavedFigure:
    """A row of panels per source that has pairs, a panel per contrast, a line per task."""
    found = [(table, rows) for table in tables if (rows := contrasts(table))]
    values = [pd.DataFrame({k: f.by_task for k, f in rows.items()}) for _, rows in found]
    values = [v.loc[v.mean(axis=1).sort_values(ascending=False).index] for v in values]
    heights = [len(v) + 3.2 for v in values]
    columns = max(len(rows) for _, rows in found)
    figure = new_figure(
        len(found), columns, 0.6 + 0.24 * sum(heights), height_ratios=heights, sharex=True
    )
    limits = reach([(t, v.to_numpy()) for (t, _), v in zip(found, values, strict=True)])
    drawn = []
    axes_of: list[Any] = figure.axes
    grid = [axes_of[i * columns : (i + 1) * columns] for i in range(len(found))]
    for row, (table, rows), by_task in zip(grid, found, values, strict=True):
        effects = effect_table(rows, source_label(table))
        labels = [f"mean of {len(by_task)} tasks", *by_task.index]
        for i, axes in enumerate(row):
            axes.set_visible(i < len(rows))
            if i >= len(rows):
                continue
            contrast, effect = list(rows)[i], effects.iloc[[i]]
            differences(axes, labels if i == 0 else [""] * len(labels), contrast, size=9)
            bars = interval_bars(effect, ("effect", "low", "high"))
            arrows(axes, effect["effect"], [0], MEAN, limits, xerr=bars, size=6.5, width=1.8)
            value, places = by_task[contrast].to_numpy(), np.arange(len(by_task)) + 1
            axes.hlines(places, 0, np.clip(value, *limits), color=BAND, linewidth=2.5)
            for side, fill in ((value >= 0, GREY), (value < 0, "white")):
                dot = (GREY, "o", "")
                arrows(axes, value[side], places[side], dot, limits, markerfacecolor=fill)
        row[0].set_ylabel(source_label(table).replace(", ", ",\n"), fontsize=8)
        tasks = by_task.melt(var_name="contrast", value_name="difference", ignore_index=False)
        drawn += [effects, tasks.reset_index(names="task").assign(source=source_label(table))]
    for axes in grid[-1]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("difference in macro-F1", fontsize=9)
    table, rows = found[0]
    said = [
        f"{article}{contrast.replace(' minus ', f' scores {compared(f)} than {article}')}"
        for contrast, f in rows.items()
    ]
    finding = f"{in_source(table)}, {' and '.join(said)}, on average over tasks."
    return save_figure(figure, name, pd.concat(drawn), finding, folder)
