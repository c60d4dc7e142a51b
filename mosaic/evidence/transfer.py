"""Tables and numbers of the chapter on transfer between languages (paper §4.4)."""

from typing import Any

import numpy as np
import pandas as pd

from mosaic.scores.names import FEATURE_SETS, feature_set, series_of, source_label


def transfer_numbers(
    moved: pd.DataFrame, floors: pd.DataFrame, chance: pd.DataFrame, bound: float
) -> dict[str, Any]:
    """Numbers of the page's answer: all latents, whole training part, mean over languages.

    `moved` holds native minus transferred and `floors` transferred minus TF-IDF, both as
    `compare_transfer` gives them; `chance` comes from `above_chance`, and `bound` is the loss below
    which transfer is called usable.
    """
    chance = chance[chance["features"] == FEATURE_SETS[0]]
    whole = moved[moved["train_fraction"] == 1]
    sae = whole["first"].str.startswith("sae")
    sums = sae & whole["first"].str.contains(" sum")
    lost = whole[sums & whole["k"].isna()]
    worst = lost.sort_values("difference").iloc[-1]
    summed = floors["first"].str.startswith("sae") & floors["first"].str.contains(" sum")
    latents = floors[summed & floors["k"].isna()]
    over_chance = dict(zip(chance["key"], chance["low"] > 0, strict=True))
    both = [t for t, low in zip(latents["task"], latents["low"], strict=True) if low > 0]
    return {
        "lost_latents": lost["difference"].mean(),
        "lost_last_latents": whole.loc[sae & ~sums, "difference"].mean(),
        "lost_mean": whole.loc[whole["first"] == "hidden mean", "difference"].mean(),
        "targets": len(lost),
        "targets_lost": int((lost["low"] > 0).sum()),
        "targets_usable": int((lost["difference"] < bound).sum()),
        "worst_target": str(worst["task"]).split("-")[-1],
        "worst_lost": worst["difference"],
        "above_floors": sum(over_chance[key] for key in both),
    }


def floor_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Mean TF-IDF of `native_and_away`, on its own language and on others; none of no rows."""
    names = {"tfidf_native": "native", "tfidf_away": "elsewhere"}
    return {name: table[column].mean() for name, column in names.items() if len(table)}


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


WORTH_COLUMNS = ("source", "key", "features", "n_train", "macro_f1", "labels", "most")


def labels_worth(tables: list[pd.DataFrame], origin: str) -> pd.DataFrame:
    """How many native labels training on all of `origin`'s is worth, by language (ours).

    That is where the curve of native training over its shares of the training part first reaches
    the `origin`-trained score, linear in the logarithm of the number of texts; beyond the ends of
    the curve only a bound is given. Scores are means over seeds, at shares that have all seeds of
    the other side, and the point has no interval. Features without a curve have no row.
    """
    rows = []
    for table in tables:
        table = table[table["language"].notna() & (table["language"] != origin)]
        table = table.assign(
            features=table.apply(feature_set, axis=1) if len(table) else None,
            macro_f1=table["macro_f1"].astype(float),
            share=table["train_fraction"].fillna(1),
        )
        cell = ["task", "language", "features", "model", "layer", "width", "k"]
        for key, part in table.groupby(cell, dropna=False, sort=False):
            away = part[(part["train_language"] == origin) & (part["share"] == 1)]
            native = part[part["train_language"] == part["language"]]
            native = native[native["seed"].isin(away["seed"])]
            there = native.groupby("share")["seed"].transform("nunique")
            native = native[there == away["seed"].nunique()]
            curve = native.groupby("share").agg({"n_train": "mean", "macro_f1": "mean"})
            if len(curve) < 2 or away.empty:
                continue
            score = away["macro_f1"].mean()
            low, high = _crossing(curve["n_train"].astype(float), curve["macro_f1"], score)
            between = f"about {low:.0f}" if low == high else f"at most {high:.0f}"
            rows.append(
                {
                    "source": source_label(part),
                    "key": f"{key[0]}-{key[1]}",
                    "features": key[2],
                    "n_train": int(away["n_train"].mean()),
                    "macro_f1": score,
                    "labels": f"more than {low:.0f}" if np.isinf(high) else between,
                    "most": high,
                }
            )
    return pd.DataFrame(rows, columns=list(WORTH_COLUMNS))


def _crossing(sizes: pd.Series, scores: pd.Series, wanted: float) -> tuple[float, float]:
    """Bounds of the number of texts at which a curve first reaches a score."""
    reached = (scores >= wanted).to_numpy()
    if not reached.any():
        return float(sizes.iloc[-1]), np.inf
    at = int(reached.argmax())
    if at == 0:
        return 0.0, float(sizes.iloc[0])
    between = np.log(sizes.iloc[at - 1 : at + 1])
    point = float(np.exp(np.interp(wanted, scores.iloc[at - 1 : at + 1], between)))
    return point, point


def worth_in_words(table: pd.DataFrame) -> str:
    """In how many languages `labels_worth` is below a fifth, all latents, by source."""
    kept = table[table["features"] == FEATURE_SETS[0]]
    said = []
    for source, part in kept.groupby("source", sort=False):
        few = (part["most"] < part["n_train"] / 5).groupby(part["key"]).all()
        said.append(f"in {few.sum()} of {len(few)} languages ({source})")
    return " and ".join(said) or "in no language, for there is no curve"


def per_language(chosen: list[pd.DataFrame], run: pd.DataFrame) -> pd.DataFrame:
    """Native scores of the run's tasks, a row per source and what is read, a column per language.

    Tables of `chosen` hold the cell that somebody chose per task, language and feature; cells of
    `run` were fixed in advance and are named by all that makes them.
    """
    parts = []
    for table, name in [*((table, series_of) for table in chosen), (run, feature_set)]:
        native = (table["language"] == table["train_language"]).fillna(False)
        part = table[native & (table["train_fraction"].fillna(1) == 1)]
        part = part[part["task"].isin(run["task"])]
        if len(part):
            read = f"{source_label(part)}: " + part.apply(name, axis=1)
            parts.append(part.assign(read=read))
    wide = pd.concat(parts).pivot_table(
        index=["task", "read"], columns="language", values="macro_f1", sort=False
    )
    return (
        wide.rename_axis(columns=None).reset_index().rename(columns={"read": "source and feature"})
    )


def scored_once(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """TF-IDF of `bundle_transfers`, without what a longer table holds as well.

    It reads no model: of one task, split and seed it is the same in every run.
    """
    if not tables:
        return []
    every = pd.concat([t.assign(place=i, length=len(t)) for i, t in enumerate(tables)])
    every = every.sort_values("length", ascending=False, kind="stable")
    kept = every.drop_duplicates(["task", "language", "train_language", "split", "seed"])
    return [part.drop(columns=["place", "length"]) for _, part in kept.groupby("place")]


def native_and_away(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean macro-F1 on the training language and on others, one row per table and task."""
    rows = []
    for table in tables:
        for task, part in table.groupby("task", sort=False):
            native = part["language"] == part["train_language"]
            rows.append(
                {
                    "source": source_label(part),
                    "task": task,
                    "languages": part["language"].nunique(),
                    "pairs": len(part[["train_language", "language"]].drop_duplicates()),
                    "native": part.loc[native, "macro_f1"].mean(),
                    "elsewhere": part.loc[~native, "macro_f1"].mean(),
                }
            )
    return pd.DataFrame(rows)
