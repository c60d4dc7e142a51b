"""fig-vision: image tokens through text SAEs, by depth (paper §4.6)."""

from pathlib import Path

import pandas as pd

from mosaic.evidence.comparisons import image_gaps, image_series
from mosaic.figures.panels import lines_by_task
from mosaic.figures.style import SavedFigure, drawn_rows, save_figure
from mosaic.scores.names import in_source


def fig_vision(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per image set and one row of axes per source (paper §4.6).

    Each table holds one row per task, depth and series. What has no depth (vision tower, base rate)
    is drawn as a level; the base rate, far below all else, is only told.
    """
    tables = [image_series(table) for table in tables if len(table)]
    shown = [table[table["series"] != "base rate"] for table in tables]
    figure = lines_by_task(shown, task="task", level_width=1.8)
    least = min(float(table["macro_f1"].min()) for table in shown)
    for axes in figure.axes:
        axes.set_ylim(min(0.4, least - 0.03), 1.02)
    every = pd.concat(tables)
    rates = every.loc[every["series"] == "base rate", "macro_f1"].astype(float)
    said = "" if rates.empty else f" The base rate, not drawn, is {rates.max():.2f} at most."
    drawn = drawn_rows(tables, without=["language", "label_model"])
    return save_figure(figure, "fig-vision", drawn, _finding(tables[0]), folder, base_rate=said)


def _finding(table: pd.DataFrame) -> str:
    gaps = image_gaps(table)
    if gaps.empty:
        return f"{in_source(table)}, macro-F1 is {table['macro_f1'].max():.2f} at best."
    return (
        f"{in_source(table)}, SAE latents score higher than the last image token's hidden state "
        f"in {(gaps > 0).sum()} of {len(gaps)} image sets; at the best depth of each the "
        f"differences reach from {gaps.min():+.2f} to {gaps.max():+.2f}."
    )
