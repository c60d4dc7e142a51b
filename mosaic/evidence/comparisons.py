"""Numbers that a chapter's figures and prose share: wins, gaps, counts (ours)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from mosaic.scores.choose import best_rows
from mosaic.scores.names import series_of, task_label


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        label=table.apply(task_label, axis=1), series=table.apply(series_of, axis=1)
    )


class Wins(NamedTuple):
    """In how many tasks one series is ahead of, level with and behind another."""

    ahead: int
    level: int
    behind: int

    @property
    def of(self) -> int:
        """Tasks that have both."""
        return sum(self)

    def __str__(self) -> str:
        rest = [("level", self.level), ("behind", self.behind)]
        said = ", ".join(f"{word} in {n}" for word, n in rest if n)
        return f"ahead in {self.ahead} of {self.of}" + (f" ({said})" if said else "")


def wins(table: pd.DataFrame, series: str, other: str) -> Wins:
    """How `series` stands to `other` in the tasks that have both; level means exactly equal."""
    table = table if "series" in table else _labelled(table)
    wide = table.pivot_table(index="label", columns="series", values="macro_f1", aggfunc="max")
    if series not in wide or other not in wide:
        return Wins(0, 0, 0)
    gap = (wide[series] - wide[other]).dropna().astype(float)
    return Wins(int((gap > 0).sum()), int((gap == 0).sum()), int((gap < 0).sum()))


HIDDEN_SERIES = ("hidden state, last token", "hidden state, mean")


def behaviour_gaps(table: pd.DataFrame) -> pd.Series:
    """SAE latents minus the best hidden state, one value per label set that has both."""
    table = table if "series" in table else _label_sets(table, {})
    wide = table.pivot_table(
        index="label", columns="series", values="macro_f1", aggfunc="max", sort=False
    )
    hidden = wide[[name for name in HIDDEN_SERIES if name in wide]].max(axis=1)
    return (wide["SAE latents"] - hidden).dropna()


def published_both_ways(
    best_on_test: pd.Series, pairs: pd.DataFrame, spread: pd.DataFrame
) -> pd.DataFrame:
    """Published SAE minus hidden state per label set, by the best test score and by means.

    `best_on_test` comes from `gaps`, `pairs` from the claim about behaviour (recipe minus hidden
    state of the same layer, repeats averaged), `spread` from `audit.noise`.
    Columns: task, label_model, best_on_test, mean, n_pairs, and needed: the least difference of two
    single runs that is more than noise.
    """
    key = ["task", "label_model"]
    means = pairs.groupby(key)["value"].agg(mean="mean", n_pairs="size").reset_index()
    found = means.merge(spread[[*key, "needed"]], on=key)
    labels = found.assign(language=None).apply(task_label, axis=1)
    found.insert(2, "best_on_test", labels.map(best_on_test))
    place = labels.map({label: i for i, label in enumerate(best_on_test.index)})
    return found.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def upward(table: pd.DataFrame, sizes: Mapping[str, int]) -> pd.Series:
    """Whether a row predicts a larger model's correctness from a smaller one's features."""
    features, labels = (table[name].map(sizes).astype(float) for name in ("model", "label_model"))
    return features < labels


def _label_sets(table: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """With the columns `label` and `series`; label sets by task, then by size of their model."""
    tasks = list(dict.fromkeys(table["task"]))
    rank = {name: i for i, name in enumerate(sizes)}
    place = [
        len(rank) * tasks.index(task) + rank.get(model, 0)
        for task, model in zip(table["task"], table["label_model"], strict=True)
    ]
    table = table.iloc[np.argsort(place, kind="stable")]
    return table.assign(
        label=table.apply(task_label, axis=1), series=table.apply(series_of, axis=1)
    )


def budget_numbers(sweep: pd.DataFrame, selection: pd.DataFrame) -> dict[str, str | float | int]:
    """What the lowest panel says, for the page's prose: mean macro-F1 over tasks.

    `same_thresholds` are those of `sweep` whose mean is that of 1 to three digits. `raw_all` are
    raw sums of all latents. `binarize_*` is what binarizing changes, with all latents and with the
    `k_low` of the smallest selection; `select` is what that selection changes of raw sums, and
    `instead` what all latents binarized have more than `k_low` raw ones.
    """
    k_low = int(selection["k"].min())
    raw, kept = selection["threshold"].isna(), selection["k"].fillna(0)
    mean = {
        (k, name): float(selection.loc[rows & (kept == k), "macro_f1"].mean())
        for k in (0, k_low)
        for name, rows in (("raw", raw), ("binarized", ~raw))
    }
    at = sweep.groupby("threshold")["macro_f1"].mean()
    same = [t for t, value in at.items() if round(value, 3) == round(mean[0, "binarized"], 3)]
    return {
        "same_thresholds": ", ".join(f"{threshold:g}" for threshold in same),
        "k_low": k_low,
        "raw_all": mean[0, "raw"],
        "binarize_all": mean[0, "binarized"] - mean[0, "raw"],
        "binarize_low": mean[k_low, "binarized"] - mean[k_low, "raw"],
        "select": mean[k_low, "raw"] - mean[0, "raw"],
        "instead": mean[0, "binarized"] - mean[k_low, "raw"],
    }


def _shared_counts(selected: pd.DataFrame, languages: list[str]) -> pd.DataFrame:
    found = selected[selected["selected"]].groupby("latent")["language"].nunique()
    share = selected[selected["selected"]].groupby("language").size() / selected["n_active"].iloc[0]
    numbers = np.arange(1, len(languages) + 1)
    chance = selected["n_active"].iloc[0] * binom.pmf(numbers, len(languages), share.mean())
    counts = found.value_counts().reindex(numbers, fill_value=0)
    return pd.DataFrame(
        {"n_languages": numbers, "latents": counts.to_numpy(), "expected_by_chance": chance}
    )


def shared_numbers(selected: pd.DataFrame) -> dict[str, Any]:
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


UNTRAINED = "SAE, untrained connector"


def image_series(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `series`; an untrained connector is a series of its own."""
    series = table.apply(series_of, axis=1)
    untrained = table["model"].fillna("").str.endswith("-untrained")
    kept = ~untrained | (table["feature"] == "sae")
    return table.assign(series=series.where(~untrained, UNTRAINED))[kept]


def image_gaps(table: pd.DataFrame) -> pd.Series:
    """SAE latents minus the last token's hidden state, each at its best depth, by task."""
    best = at_best_depth(table).pivot(index="task", columns="series", values="macro_f1")
    return (best["SAE latents"] - best["hidden state, last token"]).dropna()


def at_best_depth(table: pd.DataFrame) -> pd.DataFrame:
    """One row per task and series: the depth that inner cross-validation prefers.

    For published scores, where every depth already holds its best test score, the best of these:
    that is how the paper compares.
    """
    table = table if "series" in table else image_series(table)
    by_test = (table["source"] == "published").all()
    deciding = table["macro_f1"] if by_test else table["cv_accuracy"]
    return table.loc[best_rows(deciding, [table["task"], table["series"]])]
