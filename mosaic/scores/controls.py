"""What a source's scores say of an SAE's controls, as tables: ranking, sparse probes, few texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mosaic.scores.names import series_of, source_label
from mosaic.scores.table import PROBABILITY, SCORE_COLUMNS


def control_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of a source that answer what an SAE adds; empty where it scored no control.

    Raw sums and maxima of SAEs that have controls, those controls, hidden states of the same model
    and layer, what the model says itself, and TF-IDF, on the seeds, languages and shares of the
    training part that the controls have; none that was trained on another language.
    """
    # A model that is asked learns nothing: what it is shown is told by n_train.
    share = table["train_fraction"].mask(table["feature"] == "asked").fillna(1.0)
    table = table.assign(train_fraction=share)
    controls = table[(table["feature"] == "control") & table["seed"].notna()]
    controls = controls.assign(width=controls["width"].str.rsplit(" ", n=1).str[0])

    def placed(rows: pd.DataFrame, *columns: str) -> pd.Series:
        found = pd.MultiIndex.from_frame(controls[list(columns)])
        return pd.Series(pd.MultiIndex.from_frame(rows[list(columns)]).isin(found), rows.index)

    place = ("profile", "model", "layer")
    kept = table["feature"].isin(["control", "hidden"]) & placed(table, *place)
    pooled = table["pooling"].isin(["sum", "max"]) & table["threshold"].isna()
    kept |= (table["feature"] == "sae") & placed(table, *place, "width") & pooled
    kept |= table["feature"] == "tfidf"
    kept |= (table["feature"] == "asked") & placed(table, "profile", "model")
    kept &= placed(table, "profile", "task", "language", "seed", "train_fraction")
    kept &= table["train_language"].fillna("") == table["language"].fillna("")
    kept &= table["protocol"] == "nested"
    return table[kept & (table["probe"] != "tree")].drop_duplicates(
        [name for name in SCORE_COLUMNS if name != "seconds"], ignore_index=True
    )


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Of `control_rows` those of the whole training part and all latents."""
    whole = rows["train_fraction"] == 1
    return rows[whole & (rows["selection"].fillna("all") == "all")]


def quality_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Ranking and calibration beside macro-F1: mean over tasks of what was scored whole.

    Languages of one task are averaged first, as in every contrast.
    Columns: source, features, pooling, n_tasks, macro_f1. Then what `PROBABILITY` names.
    """
    keys, numbers = ["source", "features", "pooling"], ["macro_f1", *PROBABILITY]
    parts = []
    for table in tables:
        rows = headline(control_rows(table))
        named = rows.assign(features=rows.apply(series_of, axis=1), source=source_label(rows))
        tasks = named.groupby([*keys, "task"], dropna=False, sort=False)[numbers].mean()
        found = tasks.groupby(keys, dropna=False, sort=False)
        parts.append(pd.concat([found.size().rename("n_tasks"), found.mean()], axis=1))
    return pd.concat(parts).reset_index()


def sparse_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean macro-F1 over tasks of raw sums by the number of latents kept: source, k, and a column
    per dictionary that was scored with few. The last row of a source keeps all."""
    parts = []
    for table in tables:
        rows = control_rows(table)
        sums = rows["feature"].isin(["sae", "control"]) & (rows["pooling"] == "sum")
        rows = rows[sums & (rows["train_fraction"] == 1)]
        rows = rows.assign(latents=rows.apply(series_of, axis=1), source=source_label(table))
        rows = rows[rows["latents"].isin(rows.loc[rows["k"].notna(), "latents"])]
        rows = rows.assign(k=rows["k"].astype("string").fillna("all"))
        keys = ["source", "k", "latents"]
        tasks = rows.groupby([*keys, "task"], sort=False)["macro_f1"].mean()
        means = tasks.groupby(keys, sort=False).mean().unstack()
        parts.append(means.reset_index())
    found = pd.concat(parts, ignore_index=True).rename_axis(columns=None)
    order = found["k"].replace("all", str(10**9)).astype(int)
    return found.iloc[np.lexsort((order, pd.factorize(found["source"])[0]))]


def small_data_curve(table: pd.DataFrame, sizes: Sequence[int]) -> pd.DataFrame:
    """Mean macro-F1 by training texts, of the tasks and features that were scored at every size.

    Columns: source, series, n_train (the nearest of `sizes`), macro_f1, macro_f1_low,
    macro_f1_high (the tasks' own range), n_tasks, toy.
    """
    rows = control_rows(table)
    rows = rows[rows["train_fraction"].lt(1) & rows["selection"].fillna("all").eq("all")]
    near = [min(sizes, key=lambda size: abs(size - n)) for n in rows["n_train"]]
    rows = rows.assign(series=rows.apply(series_of, axis=1), n_train=near)
    every = rows.groupby("task")["n_train"].transform("nunique") == rows["n_train"].nunique()
    keys = ["profile", "series", "n_train"]
    by_task = rows[every].groupby([*keys, "task"], sort=False)["macro_f1"].mean().reset_index()
    found = by_task.groupby(keys, sort=False)["macro_f1"].agg(
        macro_f1="mean", macro_f1_low="min", macro_f1_high="max", n_tasks="size"
    )
    from_whom = {"source": table["source"].iloc[0], "toy": table["toy"].all()}
    return found.reset_index().assign(**from_whom).sort_values("n_train", kind="stable")
