"""The best of several by a score: what is level to rounding is equal, and the first of equals wins.

The order in which a processor adds moves a score by about 1e-15; one document moves macro-F1 by
1e-6 or more. A choice must not rest on the former, or two machines choose differently (ours).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mosaic.scores.table import validate_scores

DIGITS = 9


def level(values: Any) -> Any:
    """Scores (array or Series) in which those that are level to rounding are equal."""
    return np.round(values, DIGITS)


def best_rows(deciding: pd.Series, keys: Sequence[Any]) -> pd.Series:
    """Index label of the first row of each group whose score is level with the group's best.

    A missing score counts as 0: such rows have no choice behind them (base rates).
    """
    scores = level(deciding.fillna(0).astype(float))
    return scores.groupby(list(keys), dropna=False, sort=False).idxmax()


def first_best(scores: Iterable[float]) -> int:
    """Position of the first score that is level with the best."""
    return int(level(list(scores)).argmax())


def rows_best_by_cv(table: pd.DataFrame, by: Sequence[str], hidden_apart: bool = True) -> pd.Series:
    """Index label of the row best by inner cross-validation, per group `by` and feature (ours).

    The test score takes no part. Hidden states pooled differently are different baselines, not a
    choice, so they stay apart unless told. Ties go to the first row; cells without an inner choice
    (base rates) stay as they are.
    """
    side = table["pooling"].where((table["feature"] == "hidden") & hidden_apart, "")
    return best_rows(table["cv_accuracy"], [*(table[name] for name in (*by, "feature")), side])


def select_by_cv(
    table: pd.DataFrame, by: Sequence[str] = ("task", "language"), hidden_apart: bool = True
) -> pd.DataFrame:
    """The rows of a score table that `rows_best_by_cv` names, as a table."""
    best = rows_best_by_cv(table, by, hidden_apart)
    return validate_scores(table.loc[best].reset_index(drop=True))


def over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row per `by`: documents, number of seeds, and macro-F1's mean and range over the seeds.

    Rows of several tables may hold the same cell, and means over seeds beside it: each seed counts
    once.
    """
    single = table[table["seed"].notna()].drop_duplicates([*by, "seed"])
    found = single.groupby(list(by), dropna=False, sort=False).agg(
        n_train=("n_train", "first"),
        n_test=("n_test", "first"),
        seeds=("seed", "size"),
        macro_f1=("macro_f1", "mean"),
        lowest=("macro_f1", "min"),
        highest=("macro_f1", "max"),
    )
    return found.reset_index()
