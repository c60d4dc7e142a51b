"""fig-width, fig-topn and fig-binarize: what the SAE's configuration changes (paper §4.2).

All three draw paired differences: the same task, model and layer with one choice changed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mosaic.evidence.claims import Finding
from mosaic.evidence.contrasts import (
    COUNTS_BINARIZED,
    SUMS_BINARIZED,
    Findings,
    by_binarization,
    by_pooling,
    by_width,
    compared,
    effect_table,
    failed_fits,
)
from mosaic.figures.panels import (
    arrows,
    differences,
    interval_bars,
    mark,
    reach,
    room_for_labels,
)
from mosaic.figures.style import CYCLE, MEAN, PALE, Look, SavedFigure, new_figure, save_figure
from mosaic.scores.names import in_source, source_label

ROW = 0.34
"""Inches a row of differences is high."""


class _Panel(NamedTuple):
    """The contrasts of one source, their means, and their tasks and failed pairs as `dots`."""

    table: pd.DataFrame
    rows: Findings
    effects: pd.DataFrame
    dots: pd.DataFrame


def fig_width(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Narrowest minus wider SAE, same task, model, layer and pooling (paper §4.2)."""
    words = "the narrowest SAE scores", "wider ones"
    return _differences(tables, by_width, words, folder, "fig-width")


def fig_topn(tables: list[pd.DataFrame], folder: Path) -> SavedFigure:
    """Sums above 1 minus each other pooling, same task, model, layer and width (paper §4.2)."""
    words = "sums above 1 score", "top-n counts that are not binarized"
    return _differences(tables, by_pooling, words, folder, "fig-topn")


def _differences(
    tables: list[pd.DataFrame],
    contrasts: Callable[[pd.DataFrame], Findings],
    words: tuple[str, str],
    folder: Path,
    name: str,
) -> SavedFigure:
    """Every task's difference as a dot and their mean, one panel a source, on one axis."""
    found = _panels(tables, contrasts)
    lines = [len(panel.rows) for panel in found]
    height = 1.0 + ROW * sum(lines) + 0.3 * len(lines)
    figure = new_figure(len(found), 1, height=height, height_ratios=lines, sharex=True)
    drawn = _draw_panels(figure, found)
    *_, overall = found[0].rows.values()
    last = found[0].effects.iloc[-1]
    without = f", {last['without_failed']:+.3f} without failed fits" if last["moved"] else ""
    first, second = words
    finding = f"{in_source(found[0].table)}, {first} {compared(overall)} than {second}{without}."
    return save_figure(figure, name, drawn, finding, folder)


def _panels(
    tables: list[pd.DataFrame], contrasts: Callable[[pd.DataFrame], Findings]
) -> list[_Panel]:
    """One per source that has a pair; one of a single width has none to compare widths."""
    found = []
    for table in tables:
        if not (rows := contrasts(table)):
            continue
        sound = contrasts(table.drop(index=failed_fits(table)))
        effects = effect_table(rows, source_label(table))
        effects["without_failed"] = [sound[k].effect if k in sound else np.nan for k in rows]
        effects["moved"] = effects["effect"] != effects["without_failed"]
        dots = [_dots(name, finding, sound.get(name)) for name, finding in rows.items()]
        found.append(_Panel(table, rows, effects, pd.concat(dots, ignore_index=True)))
    return found


def _dots(contrast: str, finding: Finding, sound: Finding | None) -> pd.DataFrame:
    """Tasks without failed fits, and the pairs that a failed fit is part of."""
    keys = list(finding.claim.same)
    kept = set() if sound is None else set(map(tuple, sound.pairs[keys].to_numpy()))
    lost = finding.pairs[[tuple(row) not in kept for row in finding.pairs[keys].to_numpy()]]
    tasks = {} if sound is None else dict(sound.by_task)
    rows = [("task", task, value) for task, value in tasks.items()]
    rows += [("failed fit", *row) for row in lost[["task", "value"]].itertuples(index=False)]
    return pd.DataFrame(rows, columns=["mark", "task", "difference"]).assign(contrast=contrast)


def _draw_panels(figure: Figure, found: list[_Panel]) -> pd.DataFrame:
    """Fill the figure's first axes, on one scale; returns every mark as a table."""
    ends = [(p.table, p.effects[["low", "effect", "high"]]) for p in found]
    tasks = [(p.table, p.dots.loc[p.dots["mark"] == "task", "difference"]) for p in found]
    limits, tables = reach([*ends, *tasks]), []
    for axes, panel in zip(figure.axes, found, strict=False):
        differences(axes, panel.rows, source_label(panel.table), size=10, tick_size=None)
        row_of = {name: y for y, name in enumerate(panel.rows)}
        for (said, name), part in panel.dots.groupby(["mark", "contrast"]):
            failed = said != "task"
            places = row_of[name] + (-0.32 if failed else np.linspace(-0.24, 0.24, len(part)))
            dot: Look = (PALE, "o", "")
            arrows(axes, part["difference"], places, dot, limits, said, size=3.5, zorder=1)
        effects = panel.effects
        moved = effects[effects["moved"]]
        hollow: dict[str, Any] = {"markerfacecolor": "white", "zorder": 4, "said": "hollow mean"}
        arrows(axes, moved["without_failed"], moved.index, MEAN, limits, size=6, **hollow)
        known = effects["low"].notna()
        for part, bars in (
            (effects[known], interval_bars(effects[known], ("effect", "low", "high"))),
            (effects[~known], None),
        ):
            style: dict[str, Any] = {"width": 2.0, "capsize": 3, "zorder": 3, "size": 5.5}
            style["said"] = "mean"
            arrows(axes, part["effect"], part.index, MEAN, limits, xerr=bars, **style)
        tables += [effects, panel.dots.assign(source=source_label(panel.table))]
    room_for_labels(figure, figure.axes[: len(found)], ROW)
    figure.axes[len(found) - 1].set_xlabel("difference in macro-F1")
    return pd.concat(tables, ignore_index=True)


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
    found = _panels(tables, by_binarization)
    lines = [len(panel.rows) for panel in found]
    figure = new_figure(len(found) + 1, 1, height=4.3 + ROW * sum(lines), height_ratios=[*lines, 6])
    summaries = _draw_panels(figure, found)
    drawn = _draw_budget(figure.axes[-1], sweep, selection)
    rows = found[0].rows
    said = [
        f"binarized {what} score {compared(rows[name])} than raw ones"
        for name, what in ((SUMS_BINARIZED, "sums"), (COUNTS_BINARIZED, "top-n counts"))
        if name in rows
    ]
    where = in_source(found[0].table)
    finding = f"{where}, {' and '.join(said)} on average over tasks."
    table = pd.concat([summaries, drawn])
    return save_figure(figure, "fig-binarize", table, finding, folder)


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
    ends = axes.get_xlim()
    ticks = [n for n in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if ends[0] < n < ends[1]]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
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
