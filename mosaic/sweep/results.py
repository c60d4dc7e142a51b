"""Scored cells: what they hold, and how they are kept on disk whole or not at all."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mosaic.scores.table import make_scores
from mosaic.storage.sealed import read_sealed_or_set_aside, write_sealed
from mosaic.sweep.cells import Cell


@dataclass(frozen=True, eq=False)
class ScoredCell:
    """A scored cell: its row of the score table and what the probe said of each test document."""

    cell: Cell
    row: dict[str, Any]
    ids: np.ndarray
    """`[n_test]` document ids; equal for all cells of one task, protocol and seed."""
    y_true: np.ndarray
    y_pred: np.ndarray
    probabilities: np.ndarray
    """`[n_test, 2]` probabilities for two classes, to six digits; `[n_test, 0]` for more, to keep
    files small."""
    setting: float | None
    """C or depth that the inner cross-validation chose."""


def to_scores(results: Iterable[ScoredCell]) -> pd.DataFrame:
    """The tidy score table of scored cells."""
    return make_scores(result.row for result in results)


def write_scored(path: Path, result: ScoredCell) -> None:
    """Keep a scored cell on disk; the file is whole or absent. Raises ResourceError."""
    content = {
        "row": result.row,
        "ids": [str(i) for i in result.ids],
        "y_true": [int(y) for y in result.y_true],
        "y_pred": [int(y) for y in result.y_pred],
        "scores": result.probabilities.tolist(),
        "setting": result.setting,
    }
    write_sealed(path, content)


def read_scored(path: Path, cell: Cell) -> ScoredCell | None:
    """The scored cell kept at `path`, or None; a damaged one is set aside with a warning."""
    content = read_sealed_or_set_aside(path)
    if content is None:
        return None
    arrays = {name: np.asarray(content[name]) for name in ("ids", "y_true", "y_pred")}
    arrays["probabilities"] = np.asarray(content["scores"])
    return ScoredCell(cell=cell, row=content["row"], setting=content["setting"], **arrays)
