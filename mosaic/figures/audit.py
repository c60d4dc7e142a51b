"""fig-optimism, fig-noise and fig-confounds: what the comparisons can bear (chapter 08, ours)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mosaic.evidence.noise import within_noise
from mosaic.evidence.optimism import expected_gain
from mosaic.figures.style import CYCLE, SavedFigure, legend_below, new_figure, save_figure
from mosaic.scores.names import source_label, task_label

TEST_SIZES = (53, 118, 174, 1000)
"""Test documents of the paper's smallest sets, of a language of sentiment and of toxicity."""

CELLS = (1, 2, 3, 6, 12, 18, 36, 72)
"""Numbers of cells to choose from; 72 is the largest published for one set."""

ACCURACY = 0.8

GREY, BAND = "#4D4D4D", "#C9C9C9"


def fig_optimism(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Expected gain of the best of equally good cells, and both ways of choosing, set by set.

    Tables are those of `audit.optimism.two_choices`, one per source.
    """
    parts = [_named(table) for table in tables]
    figure = new_figure(
        1 + len(parts),
        1,
        height=4.2 + 0.23 * sum(map(len, parts)),
        height_ratios=[11, *(len(p) + 1 for p in parts)],
    )
    curves = _draw_curves(figure.axes[0])
    furthest = max(float(p[["difference", "gain_high"]].max().max()) for p in parts)
    for axes, part in zip(figure.axes[1:], parts, strict=True):
        axes.set_title(source_label(part), fontsize=9.5)
        rows = np.arange(len(part))
        low, high = part["gain_low"].astype(float), part["gain_high"].astype(float)
        axes.barh(
            rows,
            high - low,
            left=low,
            height=0.55,
            color=BAND,
            edgecolor=GREY,
            linewidth=0.6,
            label="gain if all cells were equally good",
        )
        axes.plot(
            part["difference"].astype(float),
            rows,
            linestyle="",
            marker=CYCLE[0][1],
            color=CYCLE[0][0],
            markersize=6,
            label="best on test minus chosen by cross-validation",
        )
        _rows(axes, part["label"])
        axes.set_xlim(-0.04 * furthest, 1.06 * furthest)
    figure.axes[-1].set_xlabel("difference in macro-F1")
    legend_below(figure, ncols=1)
    words = (
        f"Among 72 equally good cells of true accuracy {ACCURACY}, the best is expected "
        f"{expected_gain(53, 72, ACCURACY):.3f} too high at 53 test documents and "
        f"{expected_gain(1000, 72, ACCURACY):.3f} at 1,000. "
    )
    words += " ".join(
        f"{source_label(p)}: the cell that is best on test is {p['difference'].mean():.3f} above "
        f"the one cross-validation chose, on average over {len(p)} sets; largest on "
        f"{p.loc[p['difference'].idxmax(), 'label']} ({p['difference'].max():.3f})."
        for p in parts
    )
    return save_figure(figure, "fig-optimism", pd.concat([curves, *parts]), words, folder)


def _draw_curves(axes: Axes) -> pd.DataFrame:
    axes.set_title(f"Expected gain by luck alone, true accuracy {ACCURACY}", fontsize=9.5)
    drawn = []
    for (colour, marker, dash), n_test in zip(CYCLE, TEST_SIZES, strict=False):
        gains = [expected_gain(n_test, n_cells, ACCURACY) for n_cells in CELLS]
        axes.plot(CELLS, gains, color=colour, marker=marker, linestyle=dash, markersize=4.5)
        axes.annotate(
            f"{n_test:,} documents",
            (CELLS[-1], gains[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        drawn.append(pd.DataFrame({"n_test": n_test, "n_cells": CELLS, "expected_gain": gains}))
    axes.set_xscale("log")
    axes.set_xticks(CELLS, [str(n) for n in CELLS])
    axes.minorticks_off()
    axes.set_xlim(0.9, 230)
    axes.set_xlabel("cells to choose from")
    axes.set_ylabel("gain in accuracy")
    return pd.concat(drawn)


def fig_noise(spread: pd.DataFrame, pairs: pd.DataFrame, folder: Path) -> SavedFigure:
    """Spread of repeated hidden-state probes, and the difference two runs need (ours).

    `spread` is `audit.noise.spread` of the published scores; `pairs` holds the published
    differences SAE minus hidden state with task, language, label_model and `value`.
    """
    known = _named(spread)
    values = pairs.replace({"": pd.NA})
    values = values.assign(label=values.apply(task_label, axis=1))
    values = values[values["label"].isin(known["task_label"])]
    shown = known[known["task_label"].isin(values["label"])]
    figure = new_figure(2, 1, height=4.8 + 0.23 * len(shown), height_ratios=[11, len(shown) + 1])
    above, below = figure.axes
    for (name, text), (colour, marker, _) in zip(
        {
            "sd_run": "another split and another training run",
            "sd_training": "another training run only",
            "sd_documents": "expected from drawing documents",
        }.items(),
        CYCLE,
        strict=False,
    ):
        above.plot(
            known["n_test"].astype(float),
            known[name].astype(float),
            linestyle="",
            marker=marker,
            color=colour,
            markerfacecolor="none" if name == "sd_documents" else colour,
            markersize=5.5,
            label=text,
        )
    above.set_xscale("log")
    ticks = [53, 118, 174, 248, 1000, 2000]
    above.set_xticks(ticks, [f"{n:,}" for n in ticks])
    above.minorticks_off()
    above.set_ylim(0)
    above.set_xlabel("test documents")
    above.set_ylabel("standard deviation\nof macro-F1")
    above.set_title("published scores: hidden-state probes run again", fontsize=9.5)
    rows = np.arange(len(shown))
    needed = shown["needed"].astype(float)
    below.barh(
        rows,
        2 * needed,
        left=-needed,
        height=0.6,
        color=BAND,
        edgecolor=GREY,
        linewidth=0.6,
        label="two runs of the same features may differ by this much",
    )
    at = values["label"].map(dict(zip(shown["task_label"], rows, strict=True)))
    below.plot(
        values["value"],
        at,
        linestyle="",
        marker="|",
        color=CYCLE[0][0],
        markersize=9,
        markeredgewidth=1.6,
        label="published: SAE recipe minus hidden state, each model and layer",
    )
    below.axvline(0, color=GREY, linewidth=1)
    below.set_title("published scores: differences against the noise", fontsize=9.5)
    _rows(below, shown["label"])
    below.set_xlabel("difference in macro-F1")
    legend_below(figure, ncols=1)
    inside, of = within_noise(spread, pairs)
    words = (
        f"Published scores: the standard deviation of a repeated hidden-state probe lies between "
        f"{known['sd_run'].min():.3f} and {known['sd_run'].max():.3f} over test sizes of "
        f"{known['n_test'].min()} to {known['n_test'].max():,} documents. Of {of} published "
        f"differences between SAE recipe and hidden state, {inside} are smaller than what two runs "
        f"of the same features may differ by."
    )
    drawn = pd.concat([known, values[["label", "value"]]])
    return save_figure(figure, "fig-noise", drawn, words, folder)


def fig_confounds(differences: pd.DataFrame, where: str, folder: Path) -> SavedFigure:
    """Paired differences under each condition: one panel per claim, one marker per task (ours).

    `differences` is the table of `audit.confounds.run`; `where` names source and profile.
    """
    claims = list(dict.fromkeys(differences["claim"]))
    tasks = list(dict.fromkeys(differences["task"]))
    sizes = [differences[differences["claim"] == c]["condition"].nunique() for c in claims]
    figure = new_figure(
        len(claims), 1, height=1.6 + 0.42 * sum(sizes), height_ratios=sizes, sharex=True
    )
    for axes, claim in zip(figure.axes, claims, strict=True):
        part = differences[differences["claim"] == claim]
        conditions = list(dict.fromkeys(part["condition"]))
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_title(f"{where}: {claim}", fontsize=9.5)
        for i, task in enumerate(tasks):
            colour, marker, _ = CYCLE[i % len(CYCLE)]
            of_task = part[part["task"] == task].set_index("condition").loc[conditions]
            offset = 0.2 * (i - (len(tasks) - 1) / 2)
            value = of_task["difference"]
            axes.errorbar(
                value,
                np.arange(len(conditions)) + offset,
                xerr=[value - of_task["low"], of_task["high"] - value],
                fmt=marker,
                color=colour,
                markersize=5,
                elinewidth=1.1,
                label=task,
            )
        _rows(axes, pd.Series(conditions))
    figure.axes[-1].set_xlabel("difference in macro-F1, 95% interval over test documents")
    legend_below(figure)
    means = differences.groupby(["claim", "condition"], sort=False)["difference"].mean()
    said = "; ".join(f"{claim}, {condition}: {v:+.3f}" for (claim, condition), v in means.items())
    words = f"{where}, mean over {len(tasks)} tasks. {said}."
    return save_figure(figure, "fig-confounds", differences, words, folder)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Sets whose test size is known, smallest first, with `task_label` and `label`."""
    known = table[table["n_test"].notna()]
    names = known.apply(task_label, axis=1)
    sizes = known["n_test"].astype(int).map("{:,}".format)
    named = known.assign(task_label=names, label=names + ", n = " + sizes)
    return named.sort_values(["n_test", "label"]).reset_index(drop=True)


def _rows(axes: Axes, labels: pd.Series) -> None:
    axes.set_yticks(range(len(labels)), list(labels), fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
