"""The best of several by a score: what is level to rounding is equal, and the first of equals wins.

The order in which a processor adds moves a score by about 1e-15; one document moves macro-F1 by
1e-6 or more. A choice must not rest on the former, or two machines choose differently (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

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
