"""fig-baselines and fig-layerwise: SAE latents against hidden states and TF-IDF (paper §4.3)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from mosaic.evidence.comparisons import best_along, labelled, wins
from mosaic.figures.panels import dot_panels, dots, lines_by_task
from mosaic.figures.style import SavedFigure, drawn_rows, legend_below, save_figure
from mosaic.scores.names import HIDDEN_SERIES, source_label


def fig_baselines(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """One panel per table, one line per task, one marker per feature type (paper §4.3).

    Each table holds one row per task and series: the cells already chosen by the caller.
    """
    tables = [labelled(table) for table in tables if len(table)]
    what = "macro-F1 on the test documents"
    draw = partial(dots, step=0.16)
    figure = dot_panels(tables, draw, line=0.27, rest=0.9, least=0.3, most=1.02, what=what)
    legend_below(figure)
    words = " ".join(map(_wins_in_words, tables))
    return save_figure(figure, "fig-baselines", drawn_rows(tables), words, folder)


def fig_layerwise(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per task and one row of axes per source (paper §4.3)."""
    tables = [labelled(table) for table in tables if len(table)]
    figure = lines_by_task(tables, height=2.2, label_size=None, sharex=True)
    legend_below(figure)
    words = " ".join(map(_best_depth_in_words, tables))
    return save_figure(figure, "fig-layerwise", drawn_rows(tables), words, folder)


def _wins_in_words(table: pd.DataFrame) -> str:
    won = {name: wins(table, "SAE latents", name) for name in (*HIDDEN_SERIES, "TF-IDF")}
    if any(found.of for found in won.values()):
        parts = [f"against {name} {found}" for name, found in won.items() if found.of]
        detail = f"SAE latents {'; '.join(parts)}"
    else:
        best = table.sort_values("macro_f1", ascending=False).iloc[0]
        detail = (
            f"macro-F1 from {table['macro_f1'].min():.2f} to {table['macro_f1'].max():.2f}, "
            f"highest on {best['label']} ({best['series']})"
        )
    return f"{source_label(table)}, {table['label'].nunique()} tasks: {detail}."


def _best_depth_in_words(table: pd.DataFrame) -> str:
    latents = table[(table["series"] == "SAE latents") & table["depth"].notna()]
    best = best_along(latents.sort_values(["label", "depth"]), "depth")
    counts = ", ".join(f"{depth} in {n}" for depth, n in best.value_counts().items())
    return f"{source_label(table)}: SAE latents are best at depth {counts} of {len(best)} tasks."
