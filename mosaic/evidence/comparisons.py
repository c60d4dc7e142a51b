"""Numbers that a chapter's figures and prose share: wins, gaps, counts (ours)."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binom

from mosaic.config.tasks import shipped_tasks
from mosaic.scores.choose import best_rows
from mosaic.scores.names import HIDDEN_SERIES, UNTRAINED, series_of, task_label


def labelled(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns `label` (the task as a reader sees it) and `series`."""
    return table.assign(
        label=table.apply(task_label, axis=1), series=table.apply(series_of, axis=1)
    )


def native_tfidf(table: pd.DataFrame) -> pd.DataFrame:
    """TF-IDF trained on the whole training part of the language, if any, that it is tested on."""
    native = table["train_language"].fillna("") == table["language"].fillna("")
    return table[native & table["feature"].eq("tfidf") & table["train_fraction"].fillna(1).eq(1)]


def best_along(table: pd.DataFrame, column: str) -> pd.Series:
    """Per `label` the value of a column at which mean macro-F1 is highest."""
    means = table.groupby(["label", column], sort=False)["macro_f1"].mean()
    return means.unstack().idxmax(axis=1)


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
    table = table if "series" in table else labelled(table)
    wide = table.pivot_table(index="label", columns="series", values="macro_f1", aggfunc="max")
    if series not in wide or other not in wide:
        return Wins(0, 0, 0)
    gap = (wide[series] - wide[other]).dropna().astype(float)
    return Wins(int((gap > 0).sum()), int((gap == 0).sum()), int((gap < 0).sum()))


def behaviour_gaps(table: pd.DataFrame) -> pd.Series:
    """SAE latents minus the best hidden state, one value per label set that has both."""
    table = table if "series" in table else labelled(table)
    wide = table.pivot_table(
        index="label", columns="series", values="macro_f1", aggfunc="max", sort=False
    )
    hidden = wide[[name for name in HIDDEN_SERIES if name in wide]].max(axis=1)
    return (wide["SAE latents"] - hidden).dropna()


def published_both_ways(
    best_on_test: pd.Series, pairs: pd.DataFrame, spread: pd.DataFrame
) -> pd.DataFrame:
    """Published SAE minus hidden state per label set, by the best test score and by means.

    `best_on_test` comes from `behaviour_gaps`, `pairs` from the claim about behaviour (recipe minus
    hidden state of the same layer, repeats averaged), `spread` from `noise_spread`.
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


def label_sets_by_size(table: pd.DataFrame, sizes: Mapping[str, int]) -> pd.DataFrame:
    """`labelled`, by task and then by size of the model that was asked, as `sizes` lists them.

    Models it does not know come last.
    """
    tasks = list(dict.fromkeys(table["task"]))
    rank = {name: i for i, name in enumerate(sizes)}
    size = table["label_model"].map(rank).fillna(len(rank))
    return labelled(table.iloc[np.lexsort((size, table["task"].map(tasks.index)))])


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


def shared_counts(selected: pd.DataFrame) -> pd.DataFrame:
    """How many latents are kept by one language, by two, ..., and how many are expected at random.

    `selected` comes from `transfer.selected_latents`. Columns: n_languages, latents,
    expected_by_chance (each language keeps its mean share of the active latents, independently).
    """
    kept, n_active = selected[selected["selected"]], selected["n_active"].iloc[0]
    numbers = np.arange(1, selected["language"].nunique() + 1)
    share = (kept.groupby("language").size() / n_active).mean()
    found = kept.groupby("latent")["language"].nunique().value_counts()
    return pd.DataFrame(
        {
            "n_languages": numbers,
            "latents": found.reindex(numbers, fill_value=0).to_numpy(),
            "expected_by_chance": n_active * binom.pmf(numbers, len(numbers), share),
        }
    )


def shared_first(selected: pd.DataFrame) -> pd.Series:
    """Kept latent to number of languages: most first, then by who keeps it, then by direction."""
    kept = selected[selected["selected"]]
    languages = list(dict.fromkeys(selected["language"]))
    who = kept.groupby("latent")["language"].agg(lambda s: sorted(map(languages.index, s)))
    gap = kept.groupby("latent")["gap"].mean()
    order = sorted(who.index, key=lambda latent: (-len(who[latent]), who[latent], -gap[latent]))
    return who.map(len)[order]


def shared_numbers(selected: pd.DataFrame) -> dict[str, Any]:
    """How many latents all languages share, how many are one's own, and whether signs agree."""
    kept = selected[selected["selected"]]
    everywhere = kept[kept["n_languages"] == selected["language"].nunique()]
    signs = everywhere.assign(up=everywhere["gap"] > 0).groupby("latent")["up"].nunique()
    data = shared_counts(selected)
    return {
        "shared_latents": len(signs),
        "shared_same_sign": int((signs == 1).sum()),
        "shared_by_chance": float(data["expected_by_chance"].iloc[-1]),
        "own_latents": int((kept.groupby("latent")["language"].nunique() == 1).sum()),
        "kept_latents": kept["latent"].nunique(),
    }


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


def known_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Rows whose test size is known, smallest first, with `task_label`, and `label` with size."""
    known = table[table["n_test"].notna()]
    names = known.apply(task_label, axis=1)
    sizes = known["n_test"].astype(int).map("{:,}".format)
    named = known.assign(task_label=names, label=names + ", n = " + sizes)
    return named.sort_values(["n_test", "label"]).reset_index(drop=True)


def one_per_dataset(tasks: pd.Series) -> pd.Series:
    """Names of tasks, with one name for tasks that are splits of one dataset.

    Languages and label models share a task's name already. Other labels, inputs or contexts of the
    same documents are tasks of their own.
    """
    return tasks.map(lambda task: _first_of_dataset().get(task, task))


SAME_TEXTS = {
    "scenario": "intent",
    "scenarios": "intents",
    "nqswap-original": "nqswap-closed",
    "nqswap-substituted": "nqswap-closed",
}
"""Tasks that put other labels or contexts to the documents of another one."""


@cache
def _first_of_dataset() -> dict[str, str]:
    first: dict[tuple[Any, ...], str] = {}
    found: dict[str, str] = {}
    for task in shipped_tasks():
        same = (task.dataset, task.config, task.input_field, task.label_field, task.annotations)
        found.setdefault(task.name, first.setdefault(same, task.name))
    return found
