"""fig-behaviour and fig-oversight: who can tell whether whose answer was right (paper §4.5)."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mosaic.evidence.comparisons import behaviour_gaps, label_sets_by_size, upward
from mosaic.figures.panels import dot_panels, dots, heatmap
from mosaic.figures.style import SavedFigure, drawn_rows, new_figure, save_figure
from mosaic.scores.names import HIDDEN_SERIES, in_source, source_label

PUBLISHED_SIZES = {"gemma-2-2b": 2, "gemma-2-9b": 9, "gemma-2-9b-it": 9}
"""The authors' models, smallest first, with their billions of parameters."""

NOT_SHOWN = ["language", "depth"]

SIDES = {"sae": "SAE latents", "hidden": "hidden states"}


def fig_behaviour(
    tables: list[pd.DataFrame], sizes: Mapping[str, int], folder: Path
) -> SavedFigure:
    """One panel per table, one line per label set, SAE latents joined to the best hidden state.

    Each table holds one row per label set and series, chosen by the caller; `sizes` lists the
    models, smallest first; those it does not know come last. The number at the right is SAE latents
    minus the best hidden state (paper §4.5).
    """
    tables = [label_sets_by_size(table, sizes) for table in tables if len(table)]
    what = "macro-F1 of predicting whether the answer was right"
    figure = dot_panels(tables, _draw_sets, line=0.3, rest=1.0, least=1.0, most=1.08, what=what)
    gaps = behaviour_gaps(tables[0])
    finding = (
        f"{in_source(tables[0])}, SAE latents score higher than the best hidden state in "
        f"{(gaps > 0).sum()} of {len(gaps)} label sets; the differences reach from "
        f"{gaps.min():+.2f} to {gaps.max():+.2f}."
    )
    return save_figure(figure, "fig-behaviour", drawn_rows(tables, NOT_SHOWN), finding, folder)


def fig_oversight(
    tables: list[pd.DataFrame], sizes: Mapping[str, int], folder: Path
) -> SavedFigure:
    """Whose correctness (rows) from whose features (columns), SAE latents beside hidden states.

    Each table holds one row per label set, feature model and series, and may hold base rates, which
    become the first column. `sizes` lists the models, smallest first, with a number that is larger
    for larger ones; cells where a smaller model's features predict a larger model's correctness
    have a frame (paper §4.5). Models that `sizes` does not know come last and get no frame.
    """
    tables = [label_sets_by_size(table, sizes) for table in tables if len(table)]
    lines = [table["label"].nunique() for table in tables]
    figure = new_figure(
        len(tables), 2, height=0.7 + 0.33 * sum(lines) + 0.95 * len(tables), height_ratios=lines
    )
    for axes, (table, feature) in zip(figure.axes, product(tables, SIDES), strict=True):
        _draw_matrix(axes, table, feature, sizes)
        axes.set_title(SIDES[feature], fontsize=9)
        if feature == "sae":
            axes.set_ylabel(source_label(table), fontsize=8.5)
        else:
            axes.set_yticklabels([])
    figure.supxlabel("whose features (frame: a smaller model's, for a larger one)", fontsize=9)
    finding = _oversight_in_words(tables[0], sizes)
    return save_figure(figure, "fig-oversight", drawn_rows(tables, NOT_SHOWN), finding, folder)


def _draw_sets(axes: Axes, table: pd.DataFrame) -> None:
    labels = list(dict.fromkeys(table["label"]))
    compared = table[table["series"].isin(["SAE latents", *HIDDEN_SERIES])]
    ends = compared.groupby("label")["macro_f1"].agg(["min", "max"]).astype(float)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    for label, gap in behaviour_gaps(table).items():
        y = labels.index(str(label))
        axes.plot(ends.loc[label], [y, y], color="#BDBDBD", linewidth=5, zorder=1)
        axes.text(1.07, y, f"{gap:+.2f}", ha="right", va="center", fontsize=8.5, bbox=box)
    dots(axes, table, step=0.12)
    axes.tick_params(axis="y", labelsize=8)


def _draw_matrix(axes: Axes, table: pd.DataFrame, feature: str, sizes: Mapping[str, int]) -> None:
    labels = list(dict.fromkeys(table["label"]))
    part = table[table["feature"] == feature]
    values = part.pivot_table(index="label", columns="model", values="macro_f1", aggfunc="max")
    known = [model for model in sizes if model in values]
    values = values.reindex(index=labels, columns=[*known, *values.columns.difference(known)])
    rates = table[table["feature"] == "base_rate"].groupby("label")["macro_f1"].max()
    if len(rates):
        values.insert(0, "base rate", rates)
    rows = part[upward(part, sizes)]
    for label, model in dict.fromkeys(zip(rows["label"], rows["model"], strict=True)):
        corner = (list(values).index(model) - 0.46, labels.index(label) - 0.42)
        axes.add_patch(Rectangle(corner, 0.92, 0.84, fill=False, edgecolor="black", linewidth=2))
    short = {name: fill(name.removeprefix("gemma-2-"), 10) for name in values}
    heatmap(axes, values.rename(columns=short), SIDES[feature])


def _oversight_in_words(table: pd.DataFrame, sizes: Mapping[str, int]) -> str:
    """How a smaller model's latents do beside its hidden states, on a larger model's answers."""
    rows = table[upward(table, sizes)]
    wide = rows.pivot_table(
        index=["label", "model"], columns="feature", values="macro_f1", aggfunc="max"
    )
    if not set(SIDES) <= set(wide):
        return f"{in_source(table)}, no smaller model is read for a larger one's answers."
    gaps = (wide["sae"] - wide["hidden"]).dropna().astype(float)
    return (
        f"{in_source(table)}, a smaller model's SAE latents tell a larger model's right answers "
        f"better than its hidden states do in {(gaps > 0).sum()} of {len(gaps)} cases, by "
        f"{gaps.mean():+.2f} on average."
    )
