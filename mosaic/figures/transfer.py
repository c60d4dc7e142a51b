"""fig-multilingual, fig-transfer-matrix and fig-shared-latents: across languages (paper §4.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.stats import binom

from mosaic.figures.style import (
    CYCLE,
    SOURCE_LABEL,
    SavedFigure,
    interval_bars,
    legend_below,
    new_figure,
    save,
    series_of,
    source_label,
)

MEANS = ["macro_f1", "macro_f1_low", "macro_f1_high"]
ORDER = ("all latents", "top-k latents", "hidden state, last token", "hidden state, mean", "TF-IDF")


def feature_set(row: pd.Series) -> str:
    """What a probe reads, as one of `ORDER` or "base rate"."""
    if row["feature"] == "sae":
        return "all latents" if row["selection"] == "all" else "top-k latents"
    return series_of(row)


def fig_multilingual(table: pd.DataFrame, folder: Path, origin: str = "en") -> SavedFigure:
    """Native against `origin`-trained probes by share of the training part (paper Figure 1).

    One row of axes per feature set, one column per target language; bars are intervals. The table
    holds means over seeds of one task.
    """
    table = table.assign(set=table.apply(feature_set, axis=1))
    sets = [s for s in ORDER[:-1] if s in set(table["set"])]
    targets = [lang for lang in dict.fromkeys(table["language"]) if lang != origin]
    figure = new_figure(
        len(sets), len(targets), height=0.8 + 1.55 * len(sets), sharex=True, sharey=True
    )
    drawn = []
    for (r, name), (c, language) in [(x, y) for x in enumerate(sets) for y in enumerate(targets)]:
        axes = figure.axes[r * len(targets) + c]
        here = table[table["language"] == language]
        for i, (label, trained_on) in enumerate(_sides(origin, language)):
            part = here[(here["set"] == name) & (here["train_language"] == trained_on)]
            drawn.append(_draw_rates(axes, part, label, i))
        _draw_levels(axes, here, origin)
        if r == 0:
            axes.set_title(f"{table['task'].iloc[0]} ({language})", fontsize=9)
        if c == 0:
            axes.set_ylabel(f"{name}\nmacro-F1", fontsize=8)
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


def _draw_levels(axes: Axes, here: pd.DataFrame, origin: str) -> None:
    """TF-IDF trained on the origin, and chance, as levels to compare with."""
    floor = here[(here["set"] == "TF-IDF") & (here["train_language"] == origin)]
    for part, label, dash in (
        (floor, f"TF-IDF trained on {origin} (100%)", (0, (4, 2))),
        (here[here["set"] == "base rate"], "labels drawn at random", (0, (1, 1.5))),
    ):
        if len(part):
            level = float(part["macro_f1"].iloc[0])
            axes.axhline(level, color="#4D4D4D", linewidth=1, linestyle=dash, label=label)


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
    side = 7.2 / columns if len(sets) > 1 else 4.6
    figure = new_figure(rows * len(tasks), columns, height=0.3 + rows * len(tasks) * 0.93 * side)
    for t, task in enumerate(tasks):
        block = figure.axes[t * rows * columns : (t + 1) * rows * columns]
        for axes, wanted in zip(block, sets, strict=False):
            part = table[(table["task"] == task) & (table["set"] == wanted)]
            _draw_matrix(axes, part, languages, f"{task}: {wanted}")
        for axes in block[len(sets) :]:
            axes.set_visible(False)
    kept = ["source", "profile", "task", "train_language", "language", "set", "k", *MEANS]
    data = table.loc[table["set"].isin(sets), [*kept, "n_train", "n_test", "repeat"]]
    return save(figure, name, data, _matrix_in_words(data), folder)


def _draw_matrix(axes: Axes, part: pd.DataFrame, languages: list[str], title: str) -> None:
    wide = part.pivot_table(index="train_language", columns="language", values="macro_f1")
    wide = wide.reindex(index=languages, columns=languages).astype(float)
    labels = wide.map(lambda value: "" if np.isnan(value) else f"{value:.2f}".lstrip("0"))
    # One ramp of lightness: the darker the better, in grey as in colour.
    sns.heatmap(
        wide,
        vmin=0.3,
        vmax=1,
        cmap="Blues",
        annot=labels,
        fmt="",
        annot_kws={"fontsize": 8.5},
        cbar=False,
        square=True,
        linewidths=0.5,
        ax=axes,
    )
    for i in range(len(languages)):
        axes.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor="black", linewidth=1.6))
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("tested on", fontsize=8)
    axes.set_ylabel("trained on", fontsize=8)
    axes.tick_params(labelsize=8, rotation=0)


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


def fig_shared_latents(selected: pd.DataFrame, folder: Path) -> SavedFigure:
    """Which latents top-k selection keeps in which language, and how many share them (ours).

    `selected` comes from `transfer.selected_latents`. An upward triangle is a latent that is
    stronger in documents of the last class, a downward one is weaker there.
    """
    languages = list(dict.fromkeys(selected["language"]))
    order = _shared_first(selected)
    place = {latent: x for x, latent in enumerate(order)}
    figure = new_figure(2, 1, height=4.4, height_ratios=[1.25, 1])
    axes, bars = figure.axes
    for up, marker, filled in ((True, "^", True), (False, "v", False)):
        part = selected[selected["selected"] & ((selected["gap"] > 0) == up)]
        colour = CYCLE[0][0] if filled else CYCLE[1][0]
        axes.plot(
            [place[latent] for latent in part["latent"]],
            [languages.index(language) for language in part["language"]],
            marker,
            color=colour,
            markersize=4.5,
            markerfacecolor=colour if filled else "white",
            label=f"{'stronger' if up else 'weaker'} in documents of the last class",
        )
    axes.set_yticks(range(len(languages)), languages)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    axes.set_xlim(-1, len(order))
    axes.set_xlabel("latents kept by any language, those of most languages first", fontsize=8)
    axes.set_xticks([])
    data = _shared_counts(selected, languages)
    bars.bar(data["n_languages"], data["latents"], color=CYCLE[0][0], width=0.6, label="found")
    bars.plot(
        data["n_languages"],
        data["expected_by_chance"],
        "D",
        color="black",
        markersize=5,
        label="expected if languages chose at random",
    )
    bars.set_xticks(data["n_languages"])
    bars.set_xlabel("number of languages that keep a latent", fontsize=8)
    bars.set_ylabel("latents", fontsize=8)
    legend_below(figure)
    return save(
        figure, "fig-shared-latents", data, _shared_in_words(selected, data, languages), folder
    )


def _shared_first(selected: pd.DataFrame) -> list[int]:
    """Latents by number of languages, then by who keeps them, then by direction."""
    kept = selected[selected["selected"]]
    languages = list(dict.fromkeys(selected["language"]))
    who = kept.groupby("latent")["language"].agg(lambda s: sorted(map(languages.index, s)))
    gap = kept.groupby("latent")["gap"].mean()
    return sorted(who.index, key=lambda latent: (-len(who[latent]), who[latent], -gap[latent]))


def _shared_counts(selected: pd.DataFrame, languages: list[str]) -> pd.DataFrame:
    found = selected[selected["selected"]].groupby("latent")["language"].nunique()
    share = selected[selected["selected"]].groupby("language").size() / selected["n_active"].iloc[0]
    numbers = np.arange(1, len(languages) + 1)
    chance = selected["n_active"].iloc[0] * binom.pmf(numbers, len(languages), share.mean())
    counts = found.value_counts().reindex(numbers, fill_value=0)
    return pd.DataFrame(
        {"n_languages": numbers, "latents": counts.to_numpy(), "expected_by_chance": chance}
    )


def _shared_in_words(selected: pd.DataFrame, data: pd.DataFrame, languages: list[str]) -> str:
    last, first = data.iloc[-1], data.iloc[0]
    specific = selected[selected["selected"] & (selected["n_languages"] == 1)]
    by_language = specific.groupby("language").size().reindex(languages, fill_value=0)
    own = ", ".join(f"{language} {n}" for language, n in by_language.items())
    return (
        f"Of {data['latents'].sum():.0f} latents that top-k selection keeps in any language, "
        f"{last['latents']:.0f} are shared by all {len(languages)} languages (expected at random: "
        f"{last['expected_by_chance']:.1f}) and {first['latents']:.0f} are kept by one language "
        f"only ({own})."
    )


def shared(selected: pd.DataFrame) -> dict[str, Any]:
    """How many latents all languages share, how many are one's own, and whether signs agree."""
    kept = selected[selected["selected"]]
    everywhere = kept[kept["n_languages"] == selected["language"].nunique()]
    signs = everywhere.assign(up=everywhere["gap"] > 0).groupby("latent")["up"].nunique()
    data = _shared_counts(selected, list(dict.fromkeys(selected["language"])))
    return {
        "shared_latents": len(signs),
        "shared_same_sign": int((signs == 1).sum()),
        "shared_by_chance": float(data["expected_by_chance"].iloc[-1]),
        "own_latents": int((kept.groupby("latent")["language"].nunique() == 1).sum()),
        "kept_latents": kept["latent"].nunique(),
    }


def answer(moved: pd.DataFrame, floors: pd.DataFrame) -> dict[str, Any]:
    """Numbers of the page's answer: all latents, whole training part, mean over languages.

    `moved` holds native minus transferred, `floors` transferred minus TF-IDF and chance, both as
    `transfer.paired` gives them.
    """
    whole = moved[moved["train_fraction"] == 1]
    gaps = {
        "latents": whole[whole["first"].str.startswith("sae") & whole["k"].isna()],
        "topk": whole[whole["first"].str.startswith("sae") & whole["k"].notna()],
        "last": whole[whole["first"] == "hidden last"],
        "mean": whole[whole["first"] == "hidden mean"],
    }
    values: dict[str, Any] = {f"lost_{k}": v["difference"].mean() for k, v in gaps.items()}
    worst = gaps["latents"].sort_values("difference").iloc[-1]
    latents = floors[floors["first"].str.startswith("sae") & floors["k"].isna()]
    above = (latents["low"] > 0).groupby(latents["task"]).all()
    return values | {
        "targets": len(gaps["latents"]),
        "targets_lost": int((gaps["latents"]["low"] > 0).sum()),
        "worst_target": str(worst["task"]).split("-")[-1],
        "worst_lost": worst["difference"],
        "above_floors": int(above.sum()),
        "above_tfidf": latents[latents["second"] == "tfidf"]["difference"].mean(),
        "above_chance": latents[latents["second"] == "base_rate"]["difference"].mean(),
        "least_above_tfidf": latents[latents["second"] == "tfidf"]["difference"].min(),
    }


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
