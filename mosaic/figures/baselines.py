"""fig-baselines and fig-layerwise: SAE latents against hidden states and TF-IDF (paper §4.3)."""

from functools import partial
from pathlib import Path

import pandas as pd

from mosaic.evidence.comparisons import best_along, labelled, wins
from mosaic.figures.panels import dot_panels, dots, lines_by_task
from mosaic.figures.style import SavedFigure, drawn_rows, save_figure
from mosaic.scores.names import COMPARED_WITH, in_source


def fig_baselines(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """One panel per table, one line per task, one marker per feature type (paper §4.3).

    Each table holds one row per task and series: the cells already chosen by the caller.
    """
    tables = [labelled(table) for table in tables if len(table)]
    what = "macro-F1 on the test documents"
    draw = partial(dots, step=0.16)
    figure = dot_panels(tables, draw, line=0.27, rest=0.9, least=0.3, most=1.02, what=what)
    finding = _wins_in_words(tables[0])
    return save_figure(figure, "fig-baselines", drawn_rows(tables), finding, folder)


def fig_layerwise(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per task and one row of axes per source (paper §4.3)."""
    tables = [labelled(table) for table in tables if len(table)]
    figure = lines_by_task(tables, height=2.2, sharex=True)
    latents = tables[0][(tables[0]["series"] == "SAE latents") & tables[0]["depth"].notna()]
    best = best_along(latents.sort_values(["label", "depth"]), "depth")
    counts = ", ".join(f"{depth} in {n}" for depth, n in best.value_counts().items())
    source = in_source(tables[0])
    of = f"{len(best)} tasks and languages"
    finding = f"{source}, the best depth of SAE latents is {counts} of {of}."
    return save_figure(figure, "fig-layerwise", drawn_rows(tables), finding, folder)


def _wins_in_words(table: pd.DataFrame) -> str:
    won = {name: wins(table, "SAE latents", series) for series, name in COMPARED_WITH.items()}
    said = [f"than {name} in {w.ahead} of {w.of}" for name, w in won.items() if w.of]
    if said:
        listed = " and ".join(said)
        return f"{in_source(table)}, SAE latents score higher {listed} tasks and languages."
    best = table.sort_values("macro_f1", ascending=False).iloc[0]
    return (
        f"{in_source(table)}, macro-F1 is highest on {best['label']} ({best['series']}, "
        f"{best['macro_f1']:.2f})."
    )
