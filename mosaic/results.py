"""Scored cells: what they hold, and how they are kept on disk whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mosaic import scores
from mosaic.errors import IntegrityError
from mosaic.grids import Spec


@dataclass(frozen=True, eq=False)
class Result:
    """A scored cell: its row of the score table and what the probe said of each test document."""

    spec: Spec
    row: dict[str, Any]
    ids: np.ndarray
    """`[n_test]` document ids; equal for all cells of one task, protocol and seed."""
    y_true: np.ndarray
    y_pred: np.ndarray
    scores: np.ndarray
    """`[n_test, 2]` probabilities for two classes; `[n_test, 0]` for more, to keep files small."""
    setting: float | None
    """C or depth that the inner cross-validation chose."""


def to_table(results: Iterable[Result]) -> pd.DataFrame:
    """The tidy score table of scored cells."""
    return scores.table(result.row for result in results)


def write_result(path: Path, result: Result) -> None:
    """Keep a scored cell on disk; the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "row": result.row,
        "ids": [str(i) for i in result.ids],
        "y_true": [int(y) for y in result.y_true],
        "y_pred": [int(y) for y in result.y_pred],
        "scores": np.round(result.scores, 6).tolist(),
        "setting": result.setting,
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content), encoding="utf-8")
    os.replace(part, path)


def read_result(path: Path, spec: Spec) -> Result | None:
    """The scored cell kept at `path`, or None. Raises IntegrityError where it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        arrays = {name: np.asarray(content[name]) for name in ("ids", "y_true", "y_pred", "scores")}
        return Result(spec=spec, row=content["row"], setting=content["setting"], **arrays)
    except (ValueError, KeyError) as error:
        raise IntegrityError(
            f"The scored cell {path} is damaged ({error}). Delete it and run again."
        ) from error
