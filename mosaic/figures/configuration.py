"""fig-width, fig-topn and fig-binarize: what the SAE's configuration changes (paper §4.2).

All three draw paired differences: the same task, model and layer with one choice changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mosaic.figures.style import (
    CYCLE,
    SavedFigure,
    legend_below,
    new_figure,
    save,
    source_label,
)

PAIRED_BY = ["source", "profile", "task", "language", "label_model", "model", "layer", "depth"]


def pooling_name(row: pd.Series) -> str:
    """`sum`, `top-20`, with `> 1` where binarized."""
    kind = f"top-{row['top_n']}" if pd.notna(row["top_n"]) else str(row["pooling"])
    return kind if pd.isna(row["threshold"]) else f"{kind} > {row['threshold']:g}"


def paired(table: pd.DataFrame, column: str, baseline: str, keys: Sequence[str]) -> pd.DataFrame:
    """Difference in macro-F1 of every value of `column` from `baseline`, cell by cell.

    Rows with equal `keys` are the same cell with another choice; repeats are averaged first.
    Returns the keys, `column` and `difference`; no row where the baseline was not scored.
    """
    if not (table[column] == baseline).any():
        return pd.DataFrame(columns=[*keys, column, "difference"])
    wide = table.pivot_table(
        index=list(keys), columns=column, values="macro_f1", aggfunc="mean", dropna=False
    ).dropna(subset=[baseline])
    differences = wide.drop(columns=baseline).sub(wide[baseline], axis=0)
    long = differences.reset_index().melt(
        id_vars=list(keys), var_name=column, value_name="difference"
    )
    return long.dropna(subset=["difference"])


def fig_width(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Wider minus narrowest SAE, same task, model, layer and pooling (paper §4.2)."""
    parts = [_wider(table) for table in tables]
    return _differences(parts, folder, "fig-width", group="depth")


def fig_topn(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Each pooling minus the raw sum, same task, model, layer and width (paper §4.2)."""
    parts = []
    for table in tables:
        named = table.assign(pool=table.apply(pooling_name, axis=1))
        part = paired(named, "pool", "sum", [*PAIRED_BY, "width"])
        parts.append(part.assign(choice=part["pool"]))
    return _differences(parts, folder, "fig-topn", group=None)


def _differences(
    parts: list[pd.DataFrame], folder: Path, name: str, group: str | None
) -> SavedFigure:
    """Every paired difference as a dot, and its mean with a 95% interval over tasks.

    A source with nothing to pair, such as a profile of one width, has no panel.
    """
    parts = [part for part in parts if len(part)]
    rows = [_choices(part, group) for part in parts]
    figure = new_figure(
        len(parts), 1, height=1.1 + 0.36 * sum(map(len, rows)), height_ratios=[len(r) for r in rows]
    )
    summary = []
    for axes, part, choices in zip(figure.axes, parts, rows, strict=True):
        axes.set_title(source_label(part), fontsize=10)
        axes.axvline(0, color="#4D4D4D", linewidth=1)
        for y, (label, members) in enumerate(choices.items()):
            summary.append(_draw_choice(axes, y, label, members))
        axes.set_yticks(range(len(choices)), list(choices))
        axes.set_ylim(len(choices) - 0.4, -0.6)
    figure.axes[-1].set_xlabel("difference in macro-F1 (dots: cells; bar: mean and 95% interval)")
    words = " ".join(_in_words(part, choices) for part, choices in zip(parts, rows, strict=True))
    return save(figure, name, pd.DataFrame(summary), words, folder)


def _choices(part: pd.DataFrame, group: str | None) -> dict[str, pd.DataFrame]:
    if group is None:
        return {str(k): v for k, v in part.groupby("choice", sort=False)}
    keyed = part.groupby(["choice", group], sort=False)
    order = ("early", "middle", "late")
    keys = sorted(keyed.groups, key=lambda k: (str(k[0]), order.index(k[1])))
    return {f"{choice}, {level}": keyed.get_group((choice, level)) for choice, level in keys}


def mean_interval(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Mean of `values [n]` and its 95% bootstrap interval, whole clusters drawn (ours).

    Cells of one task move together, so tasks are the sampling unit; a single one has no spread.
    """
    names, index = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    draws = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _draw_choice(axes: Axes, y: int, label: str, members: pd.DataFrame) -> dict[str, object]:
    values = members["difference"].astype(float).to_numpy()
    jitter = np.linspace(-0.22, 0.22, len(values))
    colour, marker, _ = CYCLE[0]
    axes.plot(values, y + jitter, ".", color="#9E9E9E", markersize=3, zorder=1)
    mean, low, high = mean_interval(values, clusters=members["task"].astype(str).to_numpy())
    axes.errorbar(
        [mean],
        [y],
        xerr=[[mean - low], [high - mean]],
        fmt=marker,
        color=colour,
        markersize=6,
        elinewidth=2.2,
        capsize=3,
        zorder=3,
    )
    return {
        "source": members["source"].iloc[0],
        "profile": members["profile"].iloc[0],
        "choice": label,
        "n_cells": len(values),
        "n_tasks": members["task"].nunique(),
        "mean_difference": mean,
        "low": low,
        "high": high,
        "share_higher": float((values > 0).mean()),
    }


def _in_words(part: pd.DataFrame, choices: dict[str, pd.DataFrame]) -> str:
    said = []
    for label, members in choices.items():
        values = members["difference"].astype(float)
        said.append(
            f"{label} {values.mean():+.3f} on average, higher in {(values > 0).sum()} of "
            f"{len(values)} cells"
        )
    return f"{source_label(part)}: {'; '.join(said)}."


def effects(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Mean paired differences of a source's SAE cells, named for the page's prose.

    `<prefix>_binarize_sum`, `_binarize_top_n` (binarized minus raw), their `_share` of cells that
    are higher, and `_width` (widest minus narrowest).
    """
    values = {}
    for name, part in (("sum", _binarized(table, "sum")), ("top_n", _binarized(table, "top_n"))):
        values[f"{prefix}_binarize_{name}"] = float(part["difference"].mean())
        values[f"{prefix}_binarize_{name}_share"] = float((part["difference"] > 0).mean())
    values[f"{prefix}_width"] = float(_wider(table)["difference"].mean())
    return values


def _wider(table: pd.DataFrame) -> pd.DataFrame:
    named = table.assign(pool=table.apply(pooling_name, axis=1))
    narrow = str(named["width"].iloc[0])
    part = paired(named, "width", narrow, [*PAIRED_BY, "pool"])
    return part.assign(choice=part["width"] + f" minus {narrow}")


def _binarized(table: pd.DataFrame, *poolings: str) -> pd.DataFrame:
    at_one = table["threshold"].isna() | (table["threshold"] == 1.0)
    kept = table[table["pooling"].isin(poolings) & at_one]
    kind = kept["pooling"].where(kept["top_n"].isna(), "top-" + kept["top_n"].astype("string"))
    state = np.where(kept["threshold"].isna(), "raw", "binarized")
    part = paired(
        kept.assign(pool=kind, state=state), "state", "raw", [*PAIRED_BY, "width", "pool"]
    )
    return part.assign(choice=part["pool"].astype(str) + " > 1 minus raw")


def fig_binarize(
    tables: list[pd.DataFrame], sweep: pd.DataFrame, selection: pd.DataFrame, folder: Path
) -> SavedFigure:
    """Binarized minus raw, a sweep of thresholds, and top-k selection beside it (paper §4.2).

    Parameters
    ----------
    tables : SAE cells of each source, raw and binarized.
    sweep : cells of the run with binarized sums at several thresholds, all latents.
    selection : cells of the run with the k latents of largest class mean difference, raw sums.
    """
    parts = [_binarized(table, "sum", "top_n") for table in tables]
    rows = [_choices(part, None) for part in parts]
    figure = new_figure(
        len(parts) + 1,
        1,
        height=3.6 + 0.36 * sum(map(len, rows)),
        height_ratios=[*(len(r) for r in rows), 6],
    )
    summary = []
    for axes, part, choices in zip(figure.axes, parts, rows, strict=False):
        axes.set_title(
            f"{source_label(part)}: difference in macro-F1 by binarization", fontsize=9.5
        )
        axes.axvline(0, color="#4D4D4D", linewidth=1)
        for y, (label, members) in enumerate(choices.items()):
            summary.append(_draw_choice(axes, y, label, members))
        axes.set_yticks(range(len(choices)), list(choices))
        axes.set_ylim(len(choices) - 0.4, -0.6)
    drawn = _draw_budget(figure.axes[-1], sweep, selection)
    legend_below(figure)
    words = " ".join(_in_words(p, c) for p, c in zip(parts, rows, strict=True))
    best = sweep.groupby("threshold")["macro_f1"].mean()
    words += (
        f" Over thresholds, mean macro-F1 of binarized sums is highest at {best.idxmax():g} "
        f"({best.max():.3f}) and lowest at {best.idxmin():g} ({best.min():.3f})."
    )
    return save(figure, "fig-binarize", pd.concat([pd.DataFrame(summary), drawn]), words, folder)


def _draw_budget(axes: Axes, sweep: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """Mean macro-F1 over tasks against the number of latents the probe reads, on a log axis."""
    axes.set_title(f"{source_label(sweep)}: thresholds and top-k selection", fontsize=9.5)
    drawn = []
    for i, (name, table, by) in enumerate(
        (
            ("all latents, sum > threshold", sweep, "threshold"),
            ("top-k latents, raw sum", selection, "k"),
        )
    ):
        colour, marker, dash = CYCLE[i]
        means = table.groupby(by)[["n_features", "macro_f1"]].mean().astype(float)
        axes.plot(
            means["n_features"],
            means["macro_f1"],
            color=colour,
            marker=marker,
            linestyle=dash,
            label=name,
        )
        # Points that fall on each other share a label.
        place = [np.log10(means["n_features"]).round(2), means["macro_f1"].round(2)]
        for _, same in means.groupby(place, sort=False):
            values = ", ".join(f"{value:g}" for value in same.index)
            text = f"> {values}" if by == "threshold" else f"k = {values}"
            axes.annotate(
                text,
                (same["n_features"].mean(), same["macro_f1"].mean()),
                xytext=(0, 7 if by == "threshold" else -13),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=colour,
            )
        drawn.append(means.reset_index().assign(choice=name, source="run"))
    axes.set_xscale("log")
    axes.set_xlabel("latents the probe reads (mean over tasks, log scale)")
    axes.set_ylabel("macro-F1, mean over tasks")
    axes.margins(y=0.25)
    return pd.concat(drawn)
