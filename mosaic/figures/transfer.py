"""Trained here, tested there: fig-multilingual, fig-training-share, fig-transfer-matrix (§4.4), and
fig-shared-latents."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mosaic.evidence.comparisons import shared_counts, shared_first
from mosaic.figures.panels import differences, heatmap, mark
from mosaic.figures.style import BLUE, GREY, ORANGE, PALE, SavedFigure, new_figure, save_figure
from mosaic.scores.names import FEATURE_SETS, feature_set, in_source, source_label
from mosaic.scores.table import F1

NATIVE = "native"


def fig_multilingual(
    tables: list[pd.DataFrame], folder: Path, origin: str = "en", chance: float = 0.5
) -> SavedFigure:
    """Native and `origin`-trained macro-F1 as a dumbbell per feature set, mean over languages.

    One panel per table that has the task of the last one; of each the whole training part is
    drawn. `chance` is the score of labels drawn at random (paper §4.4).
    """
    task, away = tables[-1]["task"].iloc[0], f"trained on {origin}"
    sides = [_two_sides(table[table["task"] == task], origin) for table in tables]
    sides = [data.query("train_fraction == 1") for data in sides if len(data)]
    means = [_mean_by_side(data) for data in sides]
    height = 1.2 + sum(0.4 + 0.46 * len(mean) for mean in means)
    ratios = [len(mean) for mean in means]
    figure = new_figure(len(sides), 1, height=height, height_ratios=ratios, sharex=True)
    for axes, data, mean in zip(figure.axes, sides, means, strict=True):
        differences(axes, mean.index, f"{task}, {source_label(data)}", zero=False)
        _chance_line(axes.axvline, chance)
        for y, (name, row) in enumerate(mean.iterrows()):
            axes.plot([row[NATIVE], row[away]], [y, y], color="#BDBDBD", linewidth=4, zorder=1)
            gap = f"{row[away] - row[NATIVE]:+.2f}"
            axes.text(1.01, y, gap, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
            for side, rise in ((NATIVE, -0.22), (away, 0.22)):
                look = _look(str(name), side)
                of_set = data[(data["set"] == name) & (data["trained"] == side)]
                ticks: dict[str, Any] = {**look, "look": (look["look"][0], "|", "")}
                mark(axes, of_set["macro_f1"], np.full(len(of_set), y + rise), size=7, **ticks)
                mark(axes, [row[side]], [y], size=8, zorder=3, **look)
    for side, fill in ((NATIVE, GREY), (away, "white")):
        mark(axes, [], [], (GREY, "o", ""), 8, markerfacecolor=fill, label=f"{side}, mean")
    axes.set_xlabel("macro-F1 (right: the second minus the first)")
    lost = means[0][NATIVE] - means[0][away]
    n = sides[0]["language"].nunique()
    finding = (
        f"{in_source(sides[0])}, training on {origin} instead of the test language costs "
        f"{lost.max():.2f} macro-F1 on average over {n} languages with {lost.idxmax()} and "
        f"{lost.min():.2f} with {lost.idxmin()}."
    )
    kept = ["source", "profile", "task", "language", "train_language", "set", "k", "trained"]
    drawn = [data[[*kept, *F1, "n_train"]] for data in sides]
    for data, mean in zip(sides, means, strict=True):
        whole = mean.melt(var_name="trained", value_name="mean", ignore_index=False).reset_index()
        drawn.append(whole.assign(profile=data["profile"].iloc[0]))
    return save_figure(figure, "fig-multilingual", pd.concat(drawn), finding, folder, origin=origin)


def _mean_by_side(data: pd.DataFrame) -> pd.DataFrame:
    """Mean macro-F1 over languages: a row per feature set that both sides have, a column a side."""
    means = data.groupby(["set", "trained"], sort=False)["macro_f1"].mean().unstack()
    return means.reindex([name for name in FEATURE_SETS if name in means.index]).dropna()


def fig_training_share(
    table: pd.DataFrame, folder: Path, origin: str = "en", chance: float = 0.5
) -> SavedFigure:
    """Mean macro-F1 over languages by share of the training part (the paper's Figure 1).

    One panel per feature set that was run at every share; arguments as for `fig_multilingual`.
    """
    data = _two_sides(table, origin)
    least = data["train_fraction"].min()
    thinned = set(data.loc[data["train_fraction"] == least, "set"])
    sets = [name for name in FEATURE_SETS[:-1] if name in thinned]
    keys = ["source", "profile", "task", "set", "trained", "train_fraction"]
    means = (
        data[data["set"].isin(sets)].groupby(keys, dropna=False)["macro_f1"].mean().reset_index()
    )
    figure = new_figure(1, len(sets), height=2.9, sharey=True)
    for axes, name in zip(figure.axes, sets, strict=True):
        for side in (NATIVE, f"trained on {origin}"):
            part = means[(means["set"] == name) & (means["trained"] == side)]
            look = _look(name, side, "-" if side == NATIVE else "--")
            mark(axes, 100 * part["train_fraction"], part["macro_f1"], size=5, **look)
        _chance_line(axes.axhline, chance)
        axes.set_title(name.replace(", ", ",\n"), fontsize=8.5)
        axes.set_xlabel("% of training part", fontsize=8)
    figure.axes[0].set_ylabel("macro-F1, mean over languages", fontsize=8)
    first = means[means["set"] == sets[0]].pivot(
        index="train_fraction", columns="trained", values="macro_f1"
    )
    gap = first[NATIVE] - first[f"trained on {origin}"]
    said = [f"{gap.loc[share]:+.2f} with {share:.0%}" for share in (least, 1.0)]
    finding = (
        f"{in_source(table)}, native minus {origin}-trained macro-F1 of {sets[0]} is "
        f"{' and '.join(dict.fromkeys(said))} of the training part, mean over languages."
    )
    return save_figure(figure, "fig-training-share", means, finding, folder, origin=origin)


def _two_sides(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Native and `origin`-trained rows of every other language, with `set` and `trained`.

    A mean over seeds is drawn over those that both sides have.
    """
    here = table[(table["language"] != origin) & table["train_fraction"].notna()]
    native = here["train_language"] == here["language"]
    here = here.assign(
        set=here.apply(feature_set, axis=1),
        trained=np.where(native, NATIVE, f"trained on {origin}"),
        macro_f1=here["macro_f1"].astype(float),
    )
    both = here[native | (here["train_language"] == origin)]
    pair = ["set", "language", "train_fraction", "seed"]
    both = both[both.groupby(pair, dropna=False)["trained"].transform("nunique") == 2]
    keys = ["source", "profile", "task", "language", "train_language", "set", "k", "trained"]
    keys += ["train_fraction", "toy"]
    kept = both.groupby(keys, dropna=False, sort=False)
    return kept.agg({**dict.fromkeys(F1, "mean"), "n_train": "min"}).reset_index()


def _look(name: str, side: str, dash: str = "") -> dict[str, Any]:
    """Full where native, hollow where not, in the colour of what is read."""
    colour = BLUE if "latents" in name else ORANGE if "hidden" in name else GREY
    marker = "o" if "latents" in name else "D" if "hidden" in name else "^"
    fill = colour if side == NATIVE else "white"
    return {"look": (colour, marker, dash), "markerfacecolor": fill}


def _chance_line(line: Any, chance: float) -> None:
    line(chance, color=GREY, linewidth=1.1, linestyle=":", label="labels drawn at random")


def fig_transfer_matrix(
    tables: list[pd.DataFrame], folder: Path, name: str = "fig-transfer-matrix"
) -> SavedFigure:
    """Macro-F1 of every pair of languages, one heatmap per table, task and feature set.

    The diagonal (native, same documents as elsewhere in the book) is framed. Rows that differ in
    seed only are averaged.
    """
    tables = [table[table["train_fraction"].fillna(1) == 1] for table in tables if len(table)]
    tables = [table.assign(set=table.apply(feature_set, axis=1)) for table in tables]
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
    finding = _matrix_in_words(tables[0])
    return save_figure(figure, name, data, finding, folder)


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
    heatmap(axes, wide, wanted, square=True)
    for i in range(len(languages)):
        corner = (i - 0.5, i - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=1.6))
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("tested on", fontsize=8)
    axes.set_ylabel("trained on", fontsize=8)


def _matrix_in_words(data: pd.DataFrame) -> str:
    native = data["train_language"] == data["language"]
    score = data["macro_f1"].astype(float)
    name = data["task"] + ", " + data["set"]
    lost = score[native].groupby(name).mean() - score[~native].groupby(name).mean()
    most, least = lost.idxmax(), lost.idxmin()
    said = f"{lost[most]:.2f} macro-F1 on average ({most})"
    said += "" if most == least else f" at most and {lost[least]:.2f} at least ({least})"
    return f"{in_source(data)}, another training language costs {said}."


def fig_shared_latents(
    selected: pd.DataFrame, folder: Path, last_class: str = "the last class"
) -> SavedFigure:
    """Which latents top-k selection keeps in which language, and how many share them (ours).

    `selected` comes from `transfer.selected_latents`. An upward triangle is a latent that is more
    active in documents of the last class, a downward one is less active there.
    """
    languages = list(dict.fromkeys(selected["language"]))
    kept_by = shared_first(selected)
    place = {latent: x for x, latent in enumerate(kept_by.index)}
    figure = new_figure(2, 1, height=4.4, height_ratios=[1.25, 1])
    axes, bars = figure.axes
    for up, marker in ((True, "^"), (False, "v")):
        part = selected[selected["selected"] & ((selected["gap"] > 0) == up)]
        x = [place[latent] for latent in part["latent"]]
        y = [languages.index(language) for language in part["language"]]
        fill, said = BLUE if up else "white", "more" if up else "less"
        said = f"{said} active in {last_class}"
        mark(axes, x, y, (BLUE, marker, ""), 4.5, markerfacecolor=fill, label=said)
    axes.set_yticks(range(len(languages)), languages)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    for x in np.flatnonzero(np.diff(kept_by)) + 0.5:
        axes.axvline(x, color=PALE, linewidth=1, linestyle=":")
    axes.set_xlim(-1, len(place))
    axes.set_xlabel("latents kept by any language: by all, by all but one, ...", fontsize=8)
    axes.set_xticks([])
    data = shared_counts(selected)
    counts = data["n_languages"]
    bars.bar(counts, data["latents"], color=BLUE, width=0.6, label="found", zorder=2)
    look, said = ("black", "D", ""), "expected at random"
    mark(bars, counts, data["expected_by_chance"], look, clip_on=False, zorder=3, label=said)
    for n, latents in zip(counts, data["latents"], strict=True):
        bars.annotate(str(latents), (n + 0.33, latents), fontsize=8, va="center")
    bars.set_ylim(-0.04 * data["latents"].max(), None)
    bars.set_xticks(counts)
    bars.set_xlabel("number of languages that keep a latent", fontsize=8)
    bars.set_ylabel("latents", fontsize=8)
    last, first = data.iloc[-1], data.iloc[0]
    finding = (
        f"Of {data['latents'].sum():.0f} latents that selection keeps in any language, "
        f"{last['latents']:.0f} are shared by all {len(languages)} languages (expected at random: "
        f"{last['expected_by_chance']:.1f}) and {first['latents']:.0f} are kept by one only."
    )
    marks = selected.loc[selected["selected"], ["latent", "language", "gap"]]
    drawn = pd.concat([data, marks.assign(place=marks["latent"].map(place))])
    return save_figure(figure, "fig-shared-latents", drawn, finding, folder)
