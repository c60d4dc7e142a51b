"""fig-multilingual and fig-transfer-matrix: trained here, tested there (paper §4.4)."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mosaic.figures.panels import heatmap, lines
from mosaic.figures.style import CYCLE, GREY, SavedFigure, legend_below, new_figure, save_figure
from mosaic.scores.names import FEATURE_SETS, feature_set, source_label
from mosaic.scores.table import F1


def fig_multilingual(
    table: pd.DataFrame, folder: Path, origin: str = "en", chance: float = 0.5
) -> SavedFigure:
    """Native against `origin`-trained probes by share of the training part (paper Figure 1).

    One row of axes per feature set that was run at every share, one column per target language;
    bars are intervals. The table holds means over seeds of one task; `chance` is the score of
    labels drawn at random.
    """
    table = table.assign(set=table.apply(feature_set, axis=1))
    thinned = table[table["train_fraction"] == table["train_fraction"].min()]
    sets = [s for s in FEATURE_SETS[:-1] if s in set(thinned["set"])]
    targets = [lang for lang in dict.fromkeys(table["language"]) if lang != origin]
    figure = new_figure(
        len(sets), len(targets), height=0.8 + 1.5 * len(sets), sharex=True, sharey=True
    )
    sides = {"native": CYCLE[0], f"trained on {origin}": CYCLE[1]}
    drawn = []
    for axes, (name, language) in zip(figure.axes, product(sets, targets), strict=True):
        here = table[table["language"] == language]
        part = here[(here["set"] == name) & here["train_language"].isin([language, origin])]
        native = part["train_language"] == language
        part = part.assign(trained=np.where(native, *sides))
        drawn.append(part.sort_values(["trained", "train_fraction"]))
        shares = sorted(part["train_fraction"].unique())
        lines(axes, part, sides, "trained", "train_fraction", shares, step=0.16, size=4)
        axes.set_xticks(range(len(shares)), [f"{100 * s:.0f}" for s in shares], fontsize=7.5)
        axes.tick_params(axis="y", labelsize=7.5)
        _draw_levels(axes, here, origin, chance)
        if name == sets[0]:
            axes.set_title(f"{table['task'].iloc[0]} ({language})", fontsize=9)
        if language == targets[0]:
            axes.set_ylabel(name.replace(", ", ",\n") + "\nmacro-F1", fontsize=8)
        if name == sets[-1]:
            axes.set_xlabel("% of training part", fontsize=8)
    legend_below(figure)
    kept = ["source", "profile", "task", "language", "train_language", "set", "k", "train_fraction"]
    data = pd.concat(drawn)[[*kept, *F1, "n_train", "trained"]]
    words = _rates_in_words(data, origin, source_label(table))
    return save_figure(figure, "fig-multilingual", data, words, folder)


def _draw_levels(axes: Axes, here: pd.DataFrame, origin: str, chance: float) -> None:
    """TF-IDF trained on the origin, and chance, as levels to compare with."""
    floor = here[(here["set"] == "TF-IDF") & (here["train_language"] == origin)]
    levels = [(chance, "labels drawn at random", (0, (1, 1.5)))]
    for value in floor["macro_f1"].astype(float):
        levels.append((value, f"TF-IDF trained on {origin} (100%)", (0, (4, 2))))
    for level, label, dash in levels:
        axes.axhline(level, color=GREY, linewidth=1.1, linestyle=dash, label=label)


def _rates_in_words(data: pd.DataFrame, origin: str, source: str) -> str:
    said = []
    for name, part in data.groupby("set", sort=False):
        ends = []
        for share in (part["train_fraction"].min(), part["train_fraction"].max()):
            at = part[part["train_fraction"] == share].groupby("trained")["macro_f1"].mean()
            ends.append(
                f"{share:.0%} of the training part native {at['native']:.2f}, "
                f"{origin}-trained {at[f'trained on {origin}']:.2f}"
            )
        said.append(f"{name}: at {' and at '.join(dict.fromkeys(ends))}")
    languages = ", ".join(dict.fromkeys(data["language"]))
    return f"{source}, mean macro-F1 over {languages}. {'; '.join(said)}."


def fig_transfer_matrix(
    tables: list[pd.DataFrame], folder: Path, name: str = "fig-transfer-matrix"
) -> SavedFigure:
    """Macro-F1 of every pair of languages, one heatmap per table, task and feature set.

    The diagonal (native, same documents as elsewhere in the book) is framed. Rows that differ in
    seed only are averaged.
    """
    tables = [_whole(table) for table in tables if len(table)]
    blocks = [block for table in tables for _, block in table.groupby("task", sort=False)]
    widest = max(block["set"].nunique() for block in blocks)
    columns = min(3, widest if widest > 1 else len(blocks))
    panels: list[tuple[pd.DataFrame, str] | None] = []
    for block in blocks:
        if widest > 1:  # every task begins a row
            panels += [None] * (-len(panels) % columns)
        panels += [(block, wanted) for wanted in _in_order(block["set"])]
    rows = -(-len(panels) // columns)
    panels += [None] * (rows * columns - len(panels))
    side = {1: 4.4, 2: 3.3}.get(columns, 2.15) + (0.3 if len(tables) > 1 else 0)
    figure = new_figure(rows, columns, height=0.3 + rows * side)
    for axes, panel in zip(figure.axes, panels, strict=True):
        axes.set_visible(panel is not None)
        if panel is not None:
            _draw_matrix(axes, *panel, with_source=len(tables) > 1)
    kept = ["source", "profile", "task", "train_language", "language", "set", "k", *F1]
    data = pd.concat(tables)[[*kept, "n_train", "n_test", "repeat"]]
    return save_figure(figure, name, data, " ".join(map(_matrix_in_words, tables)), folder)


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """Cells of the whole training part, with what they read as the column `set`."""
    table = table[table["train_fraction"].fillna(1) == 1]
    return table.assign(set=table.apply(feature_set, axis=1))


def _in_order(sets: pd.Series) -> list[str]:
    """Each feature set once: those of `FEATURE_SETS` first, then others as they come."""
    return sorted(
        dict.fromkeys(sets),
        key=lambda name: FEATURE_SETS.index(name) if name in FEATURE_SETS else len(FEATURE_SETS),
    )


def _draw_matrix(axes: Axes, block: pd.DataFrame, wanted: str, with_source: bool) -> None:
    """One feature set of one task; languages are those of the task."""
    part, languages = block[block["set"] == wanted], list(dict.fromkeys(block["language"]))
    title = f"{block['task'].iloc[0]}\n{wanted}"
    if with_source:
        title = source_label(block).replace(", ", ",\n") + "\n" + title
    wide = part.pivot_table(index="train_language", columns="language", values="macro_f1")
    wide = wide.reindex(index=languages, columns=languages).astype(float)
    heatmap(axes, wide, square=True)
    for i in range(len(languages)):
        corner = (i - 0.5, i - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.6))
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("tested on", fontsize=8)
    axes.set_ylabel("trained on", fontsize=8)


def _matrix_in_words(data: pd.DataFrame) -> str:
    said = []
    for (task, name), part in data.groupby(["task", "set"], sort=False):
        native = part["train_language"] == part["language"]
        away = part[~native]["macro_f1"].astype(float)
        said.append(
            f"{task}, {name}: native {part[native]['macro_f1'].mean():.2f} on average, "
            f"other languages {away.mean():.2f} ({away.min():.2f} to {away.max():.2f})"
        )
    return f"{source_label(data)}, macro-F1 by training and test language. {'; '.join(said)}."
