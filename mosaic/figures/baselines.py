"""fig-baselines and fig-layerwise: SAE latents against hidden states and TF-IDF (paper §4.3)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from mosaic.evidence.comparisons import _labelled, wins
from mosaic.figures.style import (
    DEPTH_POSITION,
    SERIES_STYLE,
    SavedFigure,
    dots_by_line,
    interval_bars,
    legend_below,
    new_figure,
    save_figure,
)
from mosaic.scores.names import source_label

KEEP = ["source", "profile", "task", "language", "label_model", "model", "depth", "series"]

KEEP += ["macro_f1", "macro_f1_low", "macro_f1_high", "n_test"]


def fig_baselines(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """One panel per table, one line per task, one marker per feature type (paper §4.3).

    Each table holds one row per task and series: the cells already chosen by the caller.
    """
    tables = [_labelled(table) for table in tables if len(table)]
    lines = [table["label"].nunique() for table in tables]
    figure = new_figure(
        len(tables), 1, height=0.9 + 0.27 * sum(lines) + 0.5 * len(tables), height_ratios=lines
    )
    for axes, table in zip(figure.axes, tables, strict=True):
        dots_by_line(axes, table, step=0.16)
    low = min(0.3, *(float(t["macro_f1"].min()) for t in tables)) - 0.03
    for axes in figure.axes:
        axes.set_xlim(low, 1.02)
    figure.axes[-1].set_xlabel("macro-F1 on the test documents")
    legend_below(figure)
    drawn = pd.concat(tables)[[c for c in KEEP if c in tables[0]]]
    return save_figure(
        figure, "fig-baselines", drawn, " ".join(map(_compare_in_words, tables)), folder
    )


def fig_layerwise(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """macro-F1 by depth, one column per task and one row of axes per source (paper §4.3)."""
    tables = [_labelled(table) for table in tables if len(table)]
    columns = max(table["label"].nunique() for table in tables)
    figure = new_figure(
        len(tables), columns, height=0.9 + 2.2 * len(tables), sharex=True, sharey="row"
    )
    for r, table in enumerate(tables):
        row_of_axes = figure.axes[r * columns : (r + 1) * columns]
        labels = list(dict.fromkeys(table["label"]))
        for axes, label in zip(row_of_axes, labels, strict=False):
            part = table[table["label"] == label]
            axes.set_title(label, fontsize=9)
            for series in [s for s in SERIES_STYLE if s in set(part["series"])]:
                _draw_by_depth(axes, part[part["series"] == series], series)
            axes.set_xticks(list(DEPTH_POSITION.values()), list(DEPTH_POSITION), fontsize=8)
            axes.set_xlim(-0.35, 2.35)
        for axes in row_of_axes[len(labels) :]:
            axes.set_visible(False)
        row_of_axes[0].set_ylabel(f"macro-F1\n{source_label(table)}")
    legend_below(figure)
    drawn = pd.concat(tables)[[c for c in KEEP if c in tables[0]]]
    words = " ".join(_best_depth_in_words(table) for table in tables)
    return save_figure(figure, "fig-layerwise", drawn, words, folder)


def _draw_by_depth(axes: Axes, part: pd.DataFrame, series: str) -> None:
    colour, marker = SERIES_STYLE[series]
    if part["depth"].isna().all():  # TF-IDF has no depth: a level to compare with
        axes.axhline(float(part["macro_f1"].mean()), color=colour, linestyle=":", label=series)
        return
    means = part.groupby("depth")[["macro_f1", "macro_f1_low", "macro_f1_high"]].mean()
    means = means.reindex([d for d in DEPTH_POSITION if d in means.index])
    axes.errorbar(
        [DEPTH_POSITION[d] for d in means.index],
        means["macro_f1"].astype(float),
        yerr=interval_bars(means),
        marker=marker,
        color=colour,
        markersize=5,
        elinewidth=1.1,
        label=series,
    )


def _compare_in_words(table: pd.DataFrame) -> str:
    parts = []
    for other in ("hidden state, last token", "hidden state, mean", "TF-IDF"):
        won = wins(table, "SAE latents", other)
        if won.of:
            parts.append(f"against {other} {won}")
    if parts:
        detail = f"SAE latents {'; '.join(parts)}"
    else:
        best = table.sort_values("macro_f1", ascending=False).iloc[0]
        detail = (
            f"macro-F1 from {table['macro_f1'].min():.2f} to {table['macro_f1'].max():.2f}, "
            f"highest on {best['label']} ({best['series']})"
        )
    return f"{source_label(table)}, {table['label'].nunique()} tasks: {detail}."


def _best_depth_in_words(table: pd.DataFrame) -> str:
    sae = table[(table["series"] == "SAE latents") & table["depth"].notna()]
    best = sae.groupby(["label", "depth"])["macro_f1"].mean().unstack().idxmax(axis=1)
    counts = ", ".join(f"{depth} in {n}" for depth, n in best.value_counts().items())
    return f"{source_label(table)}: SAE latents are best at depth {counts} of {len(best)} tasks."
