"""fig-optimism, fig-noise and fig-confounds: what the comparisons can bear (chapter 08, ours)."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mosaic.evidence.comparisons import known_sizes
from mosaic.evidence.noise import within_noise
from mosaic.evidence.optimism import expected_gain
from mosaic.figures.panels import bands, differences, interval_bars, mark
from mosaic.figures.style import CYCLE, MEAN, PALE, SavedFigure, new_figure, save_figure
from mosaic.scores.names import in_source, source_label, task_label

TEST_SIZES = (53, 118, 174, 1000)
"""Test documents of the paper's smallest sets, of a language of sentiment and of toxicity."""

CELLS = (1, 2, 3, 6, 12, 18, 36, 72)
"""Numbers of cells to choose from; 72 is the largest published for one set."""

ACCURACY = 0.8

TICKS = (53, 118, 174, 248, 1000, 2000)

NOISE = {
    "sd_run": "another split and another training run",
    "sd_training": "another training run only",
    "sd_documents": "expected from drawing documents",
}


def fig_optimism(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Expected gain of the best of equally good cells, and both ways of choosing, set by set.

    Tables are those of `optimism.two_choices`, one per source.
    """
    parts = [known_sizes(table) for table in tables]
    figure = new_figure(
        1 + len(parts),
        1,
        height=4.2 + 0.23 * sum(map(len, parts)),
        height_ratios=[11, *(len(p) + 1 for p in parts)],
    )
    curves = _draw_curves(figure.axes[0])
    furthest = max(float(p[["difference", "gain_high"]].max().max()) for p in parts)
    for axes, part in zip(figure.axes[1:], parts, strict=True):
        differences(axes, part["label"], source_label(part), zero=False)
        low, high = part["gain_low"].astype(float), part["gain_high"].astype(float)
        bands(axes, low, high, "gain if all were equally good", height=0.55)
        said = "best on test minus chosen by cross-validation"
        mark(axes, part["difference"], range(len(part)), MEAN, 6, label=said)
        axes.set_xlim(-0.04 * furthest, 1.06 * furthest)
    figure.axes[-1].set_xlabel("difference in macro-F1")
    first = parts[0]
    lucky = (first["difference"] <= first["gain_high"]).sum()
    finding = (
        f"{in_source(first)}, the cell that is best on test is {first['difference'].mean():.3f} "
        f"above the one cross-validation chose on average over {len(first)} sets, and in {lucky} "
        f"of them by no more than luck among equally good ones would give."
    )
    drawn = pd.concat([curves, *parts])
    return save_figure(figure, "fig-optimism", drawn, finding, folder, ncols=1)


def _draw_curves(axes: Axes) -> pd.DataFrame:
    axes.set_title(f"Expected gain by luck alone, true accuracy {ACCURACY}", fontsize=9.5)
    drawn = []
    for (colour, marker, dash), n_test in zip(CYCLE, TEST_SIZES, strict=False):
        gains = [expected_gain(n_test, n_cells, ACCURACY) for n_cells in CELLS]
        mark(axes, CELLS, gains, (colour, marker, dash), 4.5)
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
    axes.set_xlabel("configurations to choose from")
    axes.set_ylabel("gain in accuracy")
    return pd.concat(drawn)


def fig_noise(spread: pd.DataFrame, pairs: pd.DataFrame, folder: Path) -> SavedFigure:
    """Spread of repeated hidden-state probes, and the difference two runs need (ours).

    `spread` is `noise.noise_spread` of the published scores; `pairs` holds the published
    differences SAE minus hidden state with task, language, label_model and `value`.
    """
    known = known_sizes(spread)
    values = pairs.replace({"": pd.NA})
    values = values.assign(label=values.apply(task_label, axis=1))
    values = values[values["label"].isin(known["task_label"])]
    shown = known[known["task_label"].isin(values["label"])]
    figure = new_figure(2, 1, height=4.8 + 0.23 * len(shown), height_ratios=[11, len(shown) + 1])
    above, below = figure.axes
    for (name, text), (colour, marker, _) in zip(NOISE.items(), CYCLE, strict=False):
        fill = "none" if name == "sd_documents" else colour
        look = (colour, marker, "")
        mark(above, known["n_test"], known[name], look, 5.5, markerfacecolor=fill, label=text)
    above.set_xscale("log")
    above.set_xticks(TICKS, [f"{n:,}" for n in TICKS])
    above.minorticks_off()
    above.set_ylim(0)
    above.set_xlabel("test documents")
    above.set_ylabel("standard deviation\nof macro-F1")
    above.set_title("published scores: hidden-state probes run again", fontsize=9.5)
    differences(below, shown["label"], "published scores: differences against the noise")
    needed = shown["needed"].astype(float)
    bands(below, -needed, needed, "two runs of the same features may differ by this much")
    at = values["label"].map({name: y for y, name in enumerate(shown["task_label"])})
    width = at.map(needed).astype(float)
    outside = values["value"].astype(float).abs() > width
    for part, colour, where in ((~outside, PALE, "inside"), (outside, "black", "outside")):
        said, look = f"SAE recipe minus hidden state, {where} the band", (colour, "|", "")
        mark(below, values["value"][part], at[part], look, 9, markeredgewidth=1.6, label=said)
    below.set_xlabel("difference in macro-F1")
    inside, of = within_noise(spread, pairs)
    finding = (
        f"Of {of} published differences between SAE recipe and hidden state, {of - inside} are "
        f"larger than what two runs of the same features differ by 19 times in 20; without any "
        f"effect {of - round(0.95 * of)} would be."
    )
    drawn = pd.concat([known, values[["label", "value"]]])
    return save_figure(figure, "fig-noise", drawn, finding, folder, ncols=1)


def fig_confounds(table: pd.DataFrame, where: str, folder: Path) -> SavedFigure:
    """Paired differences under each condition: one panel per claim, one marker per task (ours).

    `table` is that of `equal_terms.compare_conditions`; `where` names source and profile.
    """
    claims = list(dict.fromkeys(table["claim"]))
    tasks = list(dict.fromkeys(table["task"]))
    sizes = [table[table["claim"] == c]["condition"].nunique() for c in claims]
    figure = new_figure(
        len(claims), 1, height=1.6 + 0.42 * sum(sizes), height_ratios=sizes, sharex=True
    )
    for axes, claim in zip(figure.axes, claims, strict=True):
        part = table[table["claim"] == claim]
        conditions = list(dict.fromkeys(part["condition"]))
        differences(axes, conditions, f"{where}: {claim}")
        for i, task in enumerate(tasks):
            look = (*CYCLE[i % len(CYCLE)][:2], "")
            of_task = part[part["task"] == task].set_index("condition").loc[conditions]
            places = np.arange(len(conditions)) + 0.2 * (i - (len(tasks) - 1) / 2)
            bars = interval_bars(of_task, ("difference", "low", "high"))
            mark(axes, of_task["difference"], places, look, xerr=bars, label=task)
    figure.axes[-1].set_xlabel("difference in macro-F1, 95% interval over test documents")
    means = table.groupby(["claim", "condition"], sort=False)["difference"].mean()
    first = means[claims[0]]
    finding = (
        f"In {where}, {claims[0]} is {first.iloc[0]:+.3f} on average over tasks under "
        f'"{first.index[0]}" and {first.iloc[-1]:+.3f} under "{first.index[-1]}".'
    )
    return save_figure(figure, "fig-confounds", table, finding, folder)
