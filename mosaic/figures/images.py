"""fig-vision: image tokens through text SAEs, by depth (paper §4.6)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mosaic.evidence.comparisons import at_best_depth, image_series
from mosaic.figures.panels import lines_by_task
from mosaic.figures.style import SavedFigure, drawn_rows, legend_below, save_figure
from mosaic.scores.names import source_label


def fig_vision(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per image set and one row of axes per source (paper §4.6).

    Each table holds one row per task, depth and series. What has no depth (vision tower, base rate)
    is drawn as a level.
    """
    tables = [image_series(table) for table in tables if len(table)]
    figure = lines_by_task(tables, task="task", fill=True, step=0.04, level_width=1.8)
    legend_below(figure)
    words = " ".join(map(_in_words, tables))
    drawn = drawn_rows(tables, without=["language", "label_model"])
    return save_figure(figure, "fig-vision", drawn, words, folder)


def _in_words(table: pd.DataFrame) -> str:
    said = []
    for task, part in at_best_depth(table).groupby("task", sort=False):
        values = zip(part["series"], part["macro_f1"].astype(float), strict=True)
        said.append(f"{task}: " + ", ".join(f"{name} {value:.2f}" for name, value in values))
    published = (table["source"] == "published").all()
    how = "by test score, as published" if published else "chosen by inner cross-validation"
    return f"{source_label(table)}, macro-F1 at the best depth ({how}): {'; '.join(said)}."
