"""Run-to-run noise in the published scores, from probes that were run again on the same features.

A hidden-state probe reads neither top-n nor binarization, so the authors' grid runs it six times a
cell. Two of these runs share a feature file, and with it the split (protocol of the authors' code);
their difference is the noise of training alone. Runs of different files differ in split as well.
"""

import numpy as np
import pandas as pd

from mosaic.scores.table import SCHEMA

DOCUMENT_SET = ["task", "language", "label_model"]

RERUN = [*DOCUMENT_SET, "model", "layer", "width"]


def rerun_probes(published: pd.DataFrame) -> pd.DataFrame:
    """The repeated hidden-state probes: `RERUN`, split, n_test, macro_f1, accuracy and tree_f1.

    Kept are feature files with exactly two probes; more mean that a file was written again, and
    its runs cannot be told apart. `tree_f1` is the decision tree's score in the same run.
    """
    hidden = published[published["feature"] == "hidden"]
    keys = [*RERUN, "split", "repeat"]
    linear = hidden[hidden["probe"] == "linear"][[*keys, "n_test", "macro_f1", "accuracy"]]
    tree = hidden[hidden["probe"] == "tree"][[*keys, "macro_f1"]]
    runs = linear.merge(tree.rename(columns={"macro_f1": "tree_f1"}), on=keys, how="left")
    size = runs.groupby([*RERUN, "split"], dropna=False)["macro_f1"].transform("size")
    return runs[size == 2].reset_index(drop=True)


def rerun_differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Every pair of runs of one cell: `RERUN`, same_file, difference, and same_tree.

    `same_tree` says whether the two decision trees score the same: a tree's training is
    deterministic, so on one split they must.
    """
    numbered = runs.reset_index(names="run")
    pairs = numbered.merge(numbered, on=RERUN, suffixes=("", "_other"))
    pairs = pairs[pairs["run"] < pairs["run_other"]].reset_index(drop=True)
    return pairs[RERUN].assign(
        same_file=pairs["split"] == pairs["split_other"],
        difference=(pairs["macro_f1"] - pairs["macro_f1_other"]).astype(float),
        same_tree=pairs["tree_f1"] == pairs["tree_f1_other"],
    )


def noise_spread(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per set of documents: how far two runs of the same features lie apart.

    Columns: `DOCUMENT_SET`, n_test, n_cells, macro_f1 (mean), sd_training, sd_run (deviation of one
    run, without and with another split: the root of half the mean squared difference of pairs),
    sd_documents (what drawing n_test documents alone gives at the mean accuracy p, the root of
    p(1-p)/n_test), needed (1.96 * sqrt(2) * sd_run: two runs must lie further apart to differ at
    the 5% level), best_adds (best of a cell's runs minus their mean).
    """
    pairs = rerun_differences(runs).assign(squared=lambda d: d["difference"] ** 2 / 2)
    same = pairs["same_file"]
    rows = []
    for key, part in runs.groupby(DOCUMENT_SET, dropna=False, sort=False):
        of_set = pairs.set_index(DOCUMENT_SET).index.isin([key])
        accuracy, n_test = float(part["accuracy"].mean()), part["n_test"].iloc[0]
        cells = part.groupby(RERUN, dropna=False)["macro_f1"]
        sd_run = float(pairs["squared"][of_set & ~same].mean() ** 0.5)
        rows.append(
            {
                **dict(zip(DOCUMENT_SET, key, strict=True)),
                "n_test": n_test,
                "n_cells": cells.ngroups,
                "macro_f1": float(part["macro_f1"].mean()),
                "sd_training": float(pairs["squared"][of_set & same].mean() ** 0.5),
                "sd_run": sd_run,
                "sd_documents": (
                    np.nan if pd.isna(n_test) else (accuracy * (1 - accuracy) / n_test) ** 0.5
                ),
                "needed": 1.96 * 2**0.5 * sd_run,
                "best_adds": float((cells.max() - cells.mean()).mean()),
            }
        )
    known = [*DOCUMENT_SET, "n_test"]
    found = pd.DataFrame(rows, columns=None if rows else [*known, "sd_run", "needed"])
    return found.astype({name: SCHEMA[name][0] for name in known})


def run_variance(rows: pd.DataFrame, among: pd.DataFrame) -> pd.Series:
    """Variance of macro-F1 of a single run, for each of `rows`; missing where nothing tells it.

    From the row's own 95% interval, else from the published probes `among` that were run again on
    the same set of documents.
    """
    sd = (rows["macro_f1_high"] - rows["macro_f1_low"]).astype(float) / (2 * 1.96)
    spread = noise_spread(rerun_probes(among[among["source"] == "published"]))
    again = rows[DOCUMENT_SET].merge(spread, how="left", on=DOCUMENT_SET)["sd_run"]
    return sd.fillna(again.astype(float).set_axis(rows.index)) ** 2


def noise_table(spread: pd.DataFrame) -> pd.DataFrame:
    """What a page shows of `noise_spread`, smallest test part first."""
    shown = [*DOCUMENT_SET, "n_test", "sd_run", "needed", "best_adds"]
    table = spread.sort_values("n_test")[shown]
    return table.rename(columns={"n_test": "test documents"})


def files_agree(pairs: pd.DataFrame) -> dict[str, int]:
    """How many pairs' trees score the same, of the same file and of others, and of how many."""
    found: dict[str, int] = {}
    for name, part in (("same", pairs[pairs["same_file"]]), ("other", pairs[~pairs["same_file"]])):
        found |= {f"trees_{name}": int(part["same_tree"].sum()), f"trees_{name}_of": len(part)}
    return found


def within_noise(spread: pd.DataFrame, pairs: pd.DataFrame) -> tuple[int, int]:
    """How many differences are no larger than `needed` of their set, and of how many."""
    left = pairs.assign(**{k: pairs[k].fillna("").astype(str) for k in DOCUMENT_SET})
    right = spread.assign(**{k: spread[k].fillna("").astype(str) for k in DOCUMENT_SET})
    both = left.merge(right[[*DOCUMENT_SET, "needed"]], on=DOCUMENT_SET)
    return int((both["value"].abs() <= both["needed"]).sum()), len(both)
