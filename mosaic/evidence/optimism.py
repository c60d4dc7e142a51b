"""What choosing the best of many cells by their test score adds to the score (paper §4.3).

Two ways to see it: cells that are all equally good, so that everything above their common accuracy
is luck; and the difference between the cell that is best on the test part and the
cell that cross-validation on the training part would have chosen.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binom

from mosaic.scores.choose import select_by_cv

CHOICE_SET = ["source", "profile", "task", "language", "label_model"]


def expected_gain(n_test: int, n_cells: int, accuracy: float, shared: float = 0.0) -> float:
    """Expected best score of `n_cells` equally good cells, minus their true accuracy (exact).

    Each cell answers `n_test` documents right with probability `accuracy`. A share `shared` of the
    documents is answered alike by all cells: 0 are cells with test parts of their own, 1 leaves
    nothing to choose. The authors' cells have other test documents in each feature file, and the
    same ones in the two settings of binarization, so the truth lies nearer to 0 than to 1.

    The best of K binomial counts is above x with probability 1 - F(x)^K; their sum over x is its
    mean.
    """
    own = n_test - round(shared * n_test)
    best = (1 - binom.cdf(np.arange(own), own, accuracy) ** n_cells).sum()
    return float((best - own * accuracy) / n_test)


def two_choices(table: pd.DataFrame) -> pd.DataFrame:
    """Per set of documents the SAE cell that is best on test, and the one cross-validation chose.

    Columns: `CHOICE_SET`, n_test, n_cells, on_test and by_cv (their test macro-F1), difference, and
    the expected gain of as many equally good cells at the accuracy of the second, with half of the
    documents shared (`gain_low`) and none (`gain_high`); missing where n_test is.
    """
    cells = table[(table["feature"] == "sae") & (table["probe"] == "linear")]
    cells = cells[cells["cv_accuracy"].notna()]
    rows = []
    for key, part in cells.groupby(CHOICE_SET, dropna=False, sort=False):
        chosen = select_by_cv(part, CHOICE_SET).iloc[0]
        row = dict(zip(CHOICE_SET, key, strict=True))
        row |= {"n_test": chosen["n_test"], "n_cells": len(part)}
        row |= {"on_test": float(part["macro_f1"].max()), "by_cv": float(chosen["macro_f1"])}
        row["difference"] = row["on_test"] - row["by_cv"]
        if pd.notna(row["n_test"]):
            known = (int(row["n_test"]), len(part), float(chosen["accuracy"]))
            row["gain_low"] = expected_gain(*known, shared=0.5)
            row["gain_high"] = expected_gain(*known)
        rows.append(row)
    return pd.DataFrame(rows)


def tasks_above(choices: pd.DataFrame, recipe: pd.Series, bounds: Sequence[float]) -> pd.DataFrame:
    """How many tasks lie above each bound, by the fixed recipe and by both choices of a cell.

    `choices` is what `two_choices` returns; `recipe` the recipe's macro-F1 by task, whose tasks are
    asked. A task's languages are averaged. Columns: above, fixed recipe, chosen by
    cross-validation, best on test, tasks.
    """
    means = pd.DataFrame({"fixed recipe": recipe})
    of_task = choices.groupby("task")[["by_cv", "on_test"]].mean()
    means[["chosen by cross-validation", "best on test"]] = of_task.reindex(recipe.index)
    counts = [{"above": b, **(means > b).sum(), "tasks": len(means)} for b in bounds]
    return pd.DataFrame(counts)
