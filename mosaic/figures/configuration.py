"""fig-width, fig-topn and fig-binarize: what the SAE's configuration changes (paper §4.2).

All three draw paired differences: the same task, model and layer with one choice changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mosaic.evidence.contrasts import (
    Findings,
    by_binarization,
    by_pooling,
    by_width,
    effect_table,
    in_words,
)
from mosaic.figures.panels import differences, interval_bars, mark
from mosaic.figures.style import (
    BLUE,
    CYCLE,
    PALE,
    SavedFigure,
    legend_below,
    new_figure,
    save_figure,
)
from mosaic.scores.names import source_label

DOTS = "difference in macro-F1 (dots: pairs; marker: mean over tasks)"

MEAN = (BLUE, "o", "")


def fig_width(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Narrowest minus wider SAE, same task, model, layer and pooling (paper §4.2)."""
    return _differences(tables, by_width, folder, "fig-width")


def fig_topn(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Sums above 1 minus each other pooling, same task, model, layer and width (paper §4.2)."""
    return _differences(tables, by_pooling, folder, "fig-topn")


def _differences(
    tables: list[pd.DataFrame],
    contrasts: Callable[[pd.DataFrame], Findings],
    folder: Path,
    name: str,
) -> SavedFigure:
    """Every paired difference as a dot and their mean, one panel a source.

    A source with nothing to pair, such as a profile of one width, has no panel.
    """
    found = [(source_label(table), contrasts(table)) for table in tables if len(table)]
    found = [(source, rows) for source, rows in found if rows]
    lines = [len(rows) for _, rows in found]
    figure = new_figure(len(found), 1, height=1.1 + 0.36 * sum(lines), height_ratios=lines)
    summaries, words = _draw_panels(figure, found)
    return save_figure(figure, name, summaries, words, folder)


def _draw_panels(figure: Figure, found: list[tuple[str, Findings]]) -> tuple[pd.DataFrame, str]:
    """Fill the figure's first axes; returns what was drawn as a table and in words."""
    tables = []
    for axes, (source, rows) in zip(figure.axes, found, strict=False):
        differences(axes, rows, source, size=10, tick_size=None)
        for y, finding in enumerate(rows.values()):
            values = finding.pairs["value"].to_numpy()
            jitter = np.linspace(-0.22, 0.22, len(values))
            axes.plot(values, y + jitter, ".", color=PALE, markersize=3, zorder=1)
        effects = effect_table(rows, source)
        known = effects["low"].notna()
        for part, bars in (
            (effects[known], interval_bars(effects[known], ("effect", "low", "high"))),
            (effects[~known], None),
        ):
            style: dict[str, Any] = {"width": 2.2, "capsize": 3, "zorder": 3}
            mark(axes, part["effect"], part.index, MEAN, 6, bars, **style)
        tables.append(effects)
    figure.axes[len(found) - 1].set_xlabel(DOTS)
    words = " ".join(_in_words(source, rows) for source, rows in found)
    return pd.concat(tables, ignore_index=True), words


def _in_words(source: str, rows: Findings) -> str:
    said = []
    for label, finding in rows.items():
        values = finding.pairs["value"]
        said.append(
            f"{label} {in_words(finding)}, higher in {(values > 0).sum()} of {len(values)} pairs"
        )
    return f"{source}: {'; '.join(said)}."


def fig_binarize(
    tables: list[pd.DataFrame], sweep: pd.DataFrame, selection: pd.DataFrame, folder: Path
) -> SavedFigure:
    """Binarized minus raw, a sweep of thresholds, and top-k selection beside it (paper §4.2).

    Parameters
    ----------
    tables : SAE cells of each source, raw and binarized.
    sweep : cells of the run with binarized sums at several thresholds, all latents.
    selection : cells of the run with the k latents of largest class mean difference, raw and above
        1, and with all latents.
    """
    found = [(source_label(table), by_binarization(table)) for table in tables]
    found = [(source, rows) for source, rows in found if rows]
    lines = [len(rows) for _, rows in found]
    figure = new_figure(
        len(found) + 1, 1, height=4.1 + 0.36 * sum(lines), height_ratios=[*lines, 6]
    )
    summaries, words = _draw_panels(figure, found)
    drawn = _draw_budget(figure.axes[-1], sweep, selection)
    legend_below(figure)
    best = sweep.groupby("threshold")["macro_f1"].mean()
    words += (
        f" Over thresholds, mean macro-F1 of binarized sums is highest at {best.idxmax():g} "
        f"({best.max():.3f}) and lowest at {best.idxmin():g} ({best.min():.3f})."
    )
    kept = drawn[drawn["choice"].str.startswith("top-k")]
    words += " Kept latents: " + ", ".join(
        f"{row['choice']} of {row['n_features']:.0f} {row['macro_f1']:.3f}"
        for _, row in kept.iterrows()
    )
    return save_figure(figure, "fig-binarize", pd.concat([summaries, drawn]), words + ".", folder)


def _draw_budget(axes: Axes, sweep: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """Mean macro-F1 over tasks against the number of latents the probe reads, on a log axis."""
    axes.set_title(f"{source_label(sweep)}: thresholds and top-k selection", fontsize=10)
    raw = selection["threshold"].isna()
    choices = {
        "all latents, sum > threshold": (sweep, "threshold"),
        "top-k latents, raw sum": (selection[raw], "k"),
        "top-k latents, sum > 1": (selection[~raw], "k"),
    }
    drawn = []
    for (name, (table, by)), (colour, marker, dash) in zip(choices.items(), CYCLE, strict=False):
        means = table.groupby(by, dropna=False)[["n_features", "macro_f1"]].mean().astype(float)
        look = (colour, marker, "" if by == "threshold" else dash)
        mark(axes, means["n_features"], means["macro_f1"], look, 6, label=name)
        drawn.append(means.reset_index().assign(choice=name, source="run"))
    _name_points(axes, drawn[0], "threshold", (7, -13))
    _name_points(axes, drawn[1], "k", (7, 7))
    axes.set_xscale("log")
    axes.set_xlabel("latents the probe reads (mean over tasks, log scale)")
    axes.set_ylabel("macro-F1, mean over tasks")
    axes.margins(x=0.08, y=0.25)
    return pd.concat(drawn)


def _name_points(axes: Axes, points: pd.DataFrame, by: str, offsets: tuple[int, int]) -> None:
    """Write the threshold or k beside the points; those that fall on each other share a label.

    `offsets` in points: of the first label, and of all others.
    """
    place = [np.log10(points["n_features"]).round(2), points["macro_f1"].round(2)]
    for i, (_, same) in enumerate(points.groupby(place, sort=False)):
        values = ", ".join("all" if pd.isna(v) else f"{v:g}" for v in same[by])
        axes.annotate(
            f"> {values}" if by == "threshold" else f"k = {values}",
            (same["n_features"].mean(), same["macro_f1"].mean()),
            xytext=(0, offsets[min(i, 1)]),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
