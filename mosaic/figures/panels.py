"""Four kinds of panel: lines by depth, dots by task, rows of differences, and a heatmap.

Every score is drawn the same way: a marker at macro-F1 with the interval the table gives it.
"""

from collections.abc import Callable, Iterable, Sequence
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mosaic.config.choices import DEPTHS
from mosaic.evidence.claims import without_toys
from mosaic.figures.style import BAND, CYCLE, GREY, SERIES_STYLE, Look, new_figure
from mosaic.scores.names import source_label
from mosaic.scores.table import F1

LABEL_LINE = 0.145
"""Inches of one line of a label beside a row, with the space to the next."""


def lines(
    axes: Axes,
    table: pd.DataFrame,
    looks: dict[str, Look],
    x: str = "depth",
    ticks: Sequence[Any] = DEPTHS,
    level_width: float = 1.5,
) -> None:
    """Mean macro-F1 along `x` with intervals, a line per look that names a `series`.

    What has no `x` is a level to compare with.
    """
    for name, look in looks.items():
        part = table[table["series"] == name]
        if part.empty:
            continue
        if part[x].isna().all():
            level, colour = float(part["macro_f1"].mean()), look[0]
            axes.axhline(level, color=colour, linestyle=":", linewidth=level_width, label=name)
            continue
        means = part.groupby(x)[list(F1)].mean()
        means = means.reindex([tick for tick in ticks if tick in means.index])
        places = [ticks.index(tick) for tick in means.index]
        mark(axes, places, means["macro_f1"], look, yerr=interval_bars(means), label=name)


def lines_by_task(
    tables: Sequence[pd.DataFrame],
    *,
    task: str = "label",
    x: str = "depth",
    height: float = 2.3,
    label_size: float | None = 8.5,
    sharex: bool = False,
    **drawn: Any,
) -> Figure:
    """A row of axes per table and a column per task of its column `task`, with `lines` in each.

    Depths are ticks in their order, other values of `x` as they come. The rest of a row stays
    empty.
    """
    columns = max(table[task].nunique() for table in tables)
    height = 0.9 + height * len(tables)
    figure = new_figure(len(tables), columns, height=height, sharex=sharex, sharey="row")
    every = figure.axes
    for r, table in enumerate(tables):
        row, names = every[r * columns : (r + 1) * columns], list(dict.fromkeys(table[task]))
        ticks = DEPTHS if x == "depth" else list(dict.fromkeys(table[x]))
        for axes, name in zip(row, names, strict=False):
            axes.set_title(fill(str(name), 60 // columns), fontsize=9)
            here = table[table[task] == name]
            lines(axes, here, looks_of(table["series"]), x, ticks, **drawn)
            axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
            axes.set_xlim(-0.35, len(ticks) - 0.65)
        for axes in row[len(names) :]:
            axes.set_visible(False)
        row[0].set_ylabel(f"macro-F1\n{source_label(table)}", fontsize=label_size)
    return figure


def dots(axes: Axes, table: pd.DataFrame, step: float) -> None:
    """Macro-F1 with intervals: a line per `label`, a marker per `series`, first label on top.

    The series of a line stand `step` lines apart, so that equal values do not cover each other.
    """
    labels = list(dict.fromkeys(table["label"]))
    looks = looks_of(table["series"])
    for i, (series, (colour, marker, _)) in enumerate(looks.items()):
        part = table[table["series"] == series]
        offset = step * (i - (len(looks) - 1) / 2)
        places = [labels.index(label) + offset for label in part["label"]]
        look = (colour, marker, "")
        mark(axes, part["macro_f1"], places, look, xerr=interval_bars(part), label=series)
    axes.set_title(source_label(table), fontsize=10)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def dot_panels(
    tables: Sequence[pd.DataFrame],
    draw: Callable[[Axes, pd.DataFrame], None],
    *,
    line: float,
    rest: float,
    least: float,
    most: float,
    what: str,
) -> Figure:
    """A panel of `dots` per table, drawn by `draw`, with one scale that ends at `most`.

    It begins below the lowest score and `least`. A line is `line` inches high, and `rest` is what
    the figure needs besides; `what` is said below the scale.
    """
    counts = [table["label"].nunique() for table in tables]
    height = rest + line * sum(counts) + 0.5 * len(tables)
    figure = new_figure(len(tables), 1, height=height, height_ratios=counts)
    low = min(least, *(float(table["macro_f1"].min()) for table in tables)) - 0.03
    for axes, table in zip(figure.axes, tables, strict=True):
        draw(axes, table)
        axes.set_xlim(low, most)
    figure.axes[-1].set_xlabel(what)
    return figure


def differences(
    axes: Axes,
    labels: Iterable[str],
    title: str,
    size: float = 9.5,
    tick_size: float | None = 8,
    zero: bool = True,
) -> None:
    """A row per label for differences, first on top, with a line at `zero`."""
    labels = list(labels)
    if zero:
        axes.axvline(0, color=GREY, linewidth=1)
    axes.set_title(title, fontsize=size)
    axes.set_yticks(range(len(labels)), labels)
    if tick_size is not None:
        axes.tick_params(axis="y", labelsize=tick_size)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def reach(values: Sequence[tuple[pd.DataFrame, Any]]) -> tuple[float, float]:
    """Ends of an axis of differences, of score tables and what is drawn of each.

    It holds 0. Toys count only where there is nothing else.
    """
    real = [drawn for table, drawn in values if len(without_toys(table))]
    every = [np.ravel(drawn) for drawn in real or [drawn for _, drawn in values]]
    numbers = np.concatenate([*every, [0.0]]).astype(float)
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def arrows(
    axes: Axes,
    values: Any,
    rows: Any,
    look: Look,
    limits: tuple[float, float],
    said: str = "",
    xerr: np.ndarray | None = None,
    **more: Any,
) -> None:
    """`mark` of what lies inside the limits; the rest as arrowheads at the edge.

    Right of the frame, where nothing is drawn, each row says in one label how far its arrows reach,
    a line for every call and side; `said` is what one value is.
    """
    values, rows = np.asarray(values, dtype=float), np.broadcast_to(rows, len(values))
    axes.set_xlim(*limits)
    axes.locator_params(axis="x", nbins=6)
    inside = (values >= limits[0]) & (values <= limits[1])
    bars = None if xerr is None else xerr[:, inside]
    mark(axes, values[inside], rows[inside], look, xerr=bars, **more)
    for head, end, there in (
        ("<", limits[0], values < limits[0]),
        (">", limits[1], values > limits[1]),
    ):
        if not there.any():
            continue  # an empty line would stand in the figure's corner, and the layout make room
        style: dict[str, Any] = {"color": look[0], "linestyle": "", "clip_on": False}
        axes.plot(np.full(there.sum(), end), rows[there], head, markersize=5, gid="arrow", **style)
        line = np.rint(rows[there]).astype(int)
        for y, far in pd.Series(values[there]).groupby(line):
            furthest = far[far.abs().idxmax()]
            words = f"{said} " if len(far) == 1 and said else ""
            words = f"{len(far)} {said or 'value'}s to " if len(far) > 1 else words
            _add_label(axes, int(y), f"{'← ' if head == '<' else ''}{words}{furthest:+.2f}")


def _add_label(axes: Axes, row: int, words: str) -> None:
    """One more line of a row's label at the right of the frame."""
    for label in axes.texts:
        if label.get_gid() == f"row {row}":
            label.set_text(f"{label.get_text()}\n{words}")
            return
    style: dict[str, Any] = {"fontsize": 7.5, "linespacing": 1.05, "va": "center"}
    place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "gid": f"row {row}"}
    axes.annotate(words, (1, row), xycoords=("axes fraction", "data"), **place, **style)


def room_for_labels(figure: Figure, axes: Sequence[Axes], row: float) -> None:
    """Heighten panels of rows `row` inches high until the lines of their labels fit.

    They are the first of the figure's one column, and their height ratios count rows.
    """
    grid: Any = axes[0].get_gridspec()
    ratios = np.array(grid.get_height_ratios(), dtype=float)
    for i, panel in enumerate(axes):
        lines = max((label.get_text().count("\n") + 1 for label in panel.texts), default=1)
        more = ratios[i] * max(0.0, LABEL_LINE * lines / row - 1)
        ratios[i] += more
        figure.set_figheight(figure.get_figheight() + more * row)
    grid.set_height_ratios(ratios)


def bands(axes: Axes, low: pd.Series, high: pd.Series, label: str, height: float = 0.6) -> None:
    """A grey band from `low` to `high` in each row of `differences`."""
    style: dict[str, Any] = {"color": BAND, "edgecolor": GREY, "linewidth": 0.6, "label": label}
    axes.barh(np.arange(len(low)), high - low, left=low, height=height, **style)


def mark(
    axes: Axes,
    x: Any,
    y: Any,
    look: Look,
    size: float = 5,
    xerr: np.ndarray | None = None,
    yerr: np.ndarray | None = None,
    width: float = 1.1,
    capsize: float = 0,
    **more: Any,
) -> None:
    """Markers of one series, with bars where there are any, `[2, n]` distances to their ends."""
    colour, marker, dash = look
    more |= {"color": colour, "marker": marker, "linestyle": dash, "markersize": size}
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if xerr is None and yerr is None:
        axes.plot(x, y, **more)
    else:
        axes.errorbar(x, y, yerr, xerr, elinewidth=width, capsize=capsize, **more)


def interval_bars(table: pd.DataFrame, names: Sequence[str] = F1) -> np.ndarray:
    """Distances `[2, n]` from a value to the ends of its interval; 0 where there is none.

    `names` are the columns of value, low and high.
    """
    value, low, high = (table[name].astype(float).to_numpy() for name in names)
    return np.nan_to_num(np.stack([value - low, high - value]))


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Known series in the house's order and look; where none is known, looks of the cycle."""
    names = list(dict.fromkeys(names))
    known = {name: look for name, look in SERIES_STYLE.items() if name in names}
    return known or {name: CYCLE[i % len(CYCLE)] for i, name in enumerate(names)}


def heatmap(axes: Axes, values: pd.DataFrame, what: str = "", square: bool = False) -> None:
    """Scores of 0.3 to 1 as shades with their numbers; a missing one stays empty.

    The shades are blue for SAE latents, orange for hidden states, as `what` names them, else grey.

    seaborn's own draws the whole figure anew for each, to see whether its labels overlap.
    """
    grid = values.astype(float).to_numpy()
    shades = "Blues" if "latents" in what else "Oranges" if "hidden" in what else "Greys"
    aspect: Literal["equal", "auto"] = "equal" if square else "auto"
    image = axes.imshow(grid, cmap=shades, vmin=0.3, vmax=1.0, aspect=aspect)
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            dark = 0.21 * red**2.2 + 0.72 * green**2.2 + 0.07 * blue**2.2 < 0.18  # WCAG luminance
            colour = "white" if dark else "black"
            number = f"{value:.2f}".removeprefix("0")
            text = axes.text(j, i, number, ha="center", va="center", color=colour, fontsize=8.5)
            text.set_in_layout(False)  # it is inside the axes: measuring many takes seconds
    axes.set_xticks(range(values.shape[1]), values.columns, fontsize=8)
    axes.set_yticks(range(values.shape[0]), values.index, fontsize=8)
    axes.grid(False)
