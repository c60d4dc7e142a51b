"""fig-multilingual and fig-transfer-matrix: trained here, tested there (paper §4.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mosaic.figures.style import (
    CYCLE,
    SOURCE_LABEL,
    SavedFigure,
    heatmap,
    interval_bars,
    legend_below,
    new_figure,
    save,
    series_of,
    source_label,
)

MEANS = ["macro_f1", "macro_f1_low", "macro_f1_high"]
ORDER = (
    "all latents, sum > 1",
    "top-k latents, sum > 1",
    "all latents, last token",
    "hidden state, last token",
    "hidden state, mean",
    "TF-IDF",
)


def feature_set(row: pd.Series) -> str:
    """What a probe reads, as one of `ORDER`."""
    if row["feature"] == "sae":
        kept = "all" if row["selection"] == "all" else "top-k"
        limit = "" if pd.isna(row["threshold"]) else f" > {row['threshold']:g}"
        return (
            f"{kept} latents, {'last token' if row['pooling'] == 'last' else row['pooling']}{limit}"
        )
    return series_of(row)


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
    sets = [s for s in ORDER[:-1] if s in set(thinned["set"])]
    targets = [lang for lang in dict.fromkeys(table["language"]) if lang != origin]
    figure = new_figure(
        len(sets), len(targets), height=0.8 + 1.5 * len(sets), sharex=True, sharey=True
    )
    drawn = []
    for (r, name), (c, language) in [(x, y) for x in enumerate(sets) for y in enumerate(targets)]:
        axes = figure.axes[r * len(targets) + c]
        here = table[table["language"] == language]
        for i, (label, trained_on) in enumerate(_sides(origin, language)):
            part = here[(here["set"] == name) & (here["train_language"] == trained_on)]
            drawn.append(_draw_rates(axes, part, label, i))
        _draw_levels(axes, here, origin, chance)
        if r == 0:
            axes.set_title(f"{table['task'].iloc[0]} ({language})", fontsize=9)
        if c == 0:
            axes.set_ylabel(name.replace(", ", ",\n") + "\nmacro-F1", fontsize=8)
        if r == len(sets) - 1:
            axes.set_xlabel("% of training part", fontsize=8)
    legend_below(figure)
    data = pd.concat(drawn)
    words = _rates_in_words(data, origin, source_label(table))
    return save(figure, "fig-multilingual", data, words, folder)


def _sides(origin: str, language: str) -> list[tuple[str, str]]:
    return [("native", language), (f"trained on {origin}", origin)]


def _draw_rates(axes: Axes, part: pd.DataFrame, label: str, i: int) -> pd.DataFrame:
    part = part.sort_values("train_fraction")
    colour, marker, dash = CYCLE[i]
    shares = 100 * part["train_fraction"].astype(float)
    axes.errorbar(
        np.arange(len(part)) + 0.08 * (2 * i - 1),
        part["macro_f1"].astype(float),
        yerr=interval_bars(part),
        color=colour,
        marker=marker,
        linestyle=dash,
        markersize=4,
        elinewidth=1.1,
        label=label,
    )
    axes.set_xticks(range(len(part)), [f"{share:.0f}" for share in shares], fontsize=7.5)
    axes.tick_params(axis="y", labelsize=7.5)
    kept = ["source", "profile", "task", "language", "train_language", "set", "k", "train_fraction"]
    return part[[*kept, *MEANS, "n_train"]].assign(trained=label)


def _draw_levels(axes: Axes, here: pd.DataFrame, origin: str, chance: float) -> None:
    """TF-IDF trained on the origin, and chance, as levels to compare with."""
    floor = here[(here["set"] == "TF-IDF") & (here["train_language"] == origin)]
    levels = [(chance, "labels drawn at random", (0, (1, 1.5)))]
    for value in floor["macro_f1"].astype(float):
        levels.append((value, f"TF-IDF trained on {origin} (100%)", (0, (4, 2))))
    for level, label, dash in levels:
        axes.axhline(level, color="#4D4D4D", linewidth=1.1, linestyle=dash, label=label)


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
    table: pd.DataFrame, folder: Path, name: str = "fig-transfer-matrix"
) -> SavedFigure:
    """Macro-F1 of every pair of languages, one heatmap per feature set and one row per task.

    The diagonal (native, same documents as elsewhere in the book) is framed. The table holds means
    over seeds.
    """
    table = table[table["train_fraction"] == 1]
    table = table.assign(set=table.apply(feature_set, axis=1))
    tasks = list(dict.fromkeys(table["task"]))
    sets = [s for s in ORDER if s in set(table["set"])]
    languages = list(dict.fromkeys(table["language"]))
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    side = 2.15 if len(sets) > 1 else 4.4
    figure = new_figure(rows * len(tasks), columns, height=0.3 + rows * len(tasks) * side)
    for t, task in enumerate(tasks):
        block = figure.axes[t * rows * columns : (t + 1) * rows * columns]
        for axes, wanted in zip(block, sets, strict=False):
            part = table[(table["task"] == task) & (table["set"] == wanted)]
            _draw_matrix(axes, part, languages, f"{task}\n{wanted}")
        for axes in block[len(sets) :]:
            axes.set_visible(False)
    kept = ["source", "profile", "task", "train_language", "language", "set", "k", *MEANS]
    data = table.loc[table["set"].isin(sets), [*kept, "n_train", "n_test", "repeat"]]
    return save(figure, name, data, _matrix_in_words(data), folder)


def _draw_matrix(axes: Axes, part: pd.DataFrame, languages: list[str], title: str) -> None:
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


def answer(moved: pd.DataFrame, floors: pd.DataFrame, chance: pd.DataFrame) -> dict[str, Any]:
    """Numbers of the page's answer: all latents, whole training part, mean over languages.

    `moved` holds native minus transferred and `floors` transferred minus TF-IDF, both as
    `transfer.paired` gives them; `chance` comes from `above_chance`.
    """
    chance = chance[chance["features"] == ORDER[0]]
    whole = moved[moved["train_fraction"] == 1]
    sums = whole["first"].str.startswith("sae") & whole["first"].str.contains(" sum")
    gaps = {
        "latents": whole[sums & whole["k"].isna()],
        "topk": whole[sums & whole["k"].notna()],
        "last_latents": whole[whole["first"].str.startswith("sae") & ~sums],
        "last": whole[whole["first"] == "hidden last"],
        "mean": whole[whole["first"] == "hidden mean"],
    }
    values: dict[str, Any] = {f"lost_{k}": v["difference"].mean() for k, v in gaps.items()}
    worst = gaps["latents"].sort_values("difference").iloc[-1]
    summed = floors["first"].str.startswith("sae") & floors["first"].str.contains(" sum")
    latents = floors[summed & floors["k"].isna()]
    over_chance = dict(zip(chance["key"], chance["low"] > 0, strict=True))
    both = [t for t, low in zip(latents["task"], latents["low"], strict=True) if low > 0]
    return values | {
        "targets": len(gaps["latents"]),
        "targets_lost": int((gaps["latents"]["low"] > 0).sum()),
        "worst_target": str(worst["task"]).split("-")[-1],
        "worst_lost": worst["difference"],
        "above_floors": sum(over_chance[key] for key in both),
        "above_tfidf": latents["difference"].mean(),
        "above_chance": chance["difference"].mean(),
        "fails": ", ".join(key.split("-")[-1] for key, above in over_chance.items() if not above)
        or "none",
    }


def above_chance(table: pd.DataFrame, origin: str, chance: float = 0.5) -> pd.DataFrame:
    """Scores of `origin`-trained probes minus the score of labels drawn at random, by language.

    The table holds means over seeds; the interval is that of the score.
    """
    kept = (table["train_language"] == origin) & (table["language"] != origin)
    part = table[kept & (table["train_fraction"] == 1)]
    return pd.DataFrame(
        {
            "key": part["task"] + "-" + part["language"],
            "features": part.apply(feature_set, axis=1),
            "macro_f1": part["macro_f1"],
            "difference": part["macro_f1"] - chance,
            "low": part["macro_f1_low"] - chance,
            "high": part["macro_f1_high"] - chance,
        }
    )


def per_language(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Native scores by task and language, one column per source and feature set."""
    native = pd.concat([t[t["language"] == t["train_language"]] for t in tables])
    native = native[native["train_fraction"].fillna(1) == 1]
    sets = native.apply(feature_set, axis=1)
    column = native["source"].map(SOURCE_LABEL) + ": " + sets
    wide = native.assign(column=column).pivot_table(
        index=["task", "language"], columns="column", values="macro_f1", sort=False
    )
    return wide.rename_axis(columns=None).reset_index()
