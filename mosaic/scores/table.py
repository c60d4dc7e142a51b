"""Scores: one tidy table with one schema, from the published scores to every figure.

A row is one probe under one protocol. A value that does not apply is missing, never 0 or "".
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mosaic.config import choices
from mosaic.errors import MALFORMED, IntegrityError
from mosaic.storage.files import replace_file

# name -> (pandas dtype, meaning)
SCHEMA: dict[str, tuple[str, str]] = {
    "source": ("string", "published, run or bundle"),
    "protocol": ("string", "published or nested"),
    "profile": ("string", "profile of a run; missing for published scores"),
    "model": ("string", "model the features come from"),
    "layer": ("Int64", "0-based block index: layer L is the output of block L"),
    "depth": ("string", "early, middle or late"),
    "width": ("string", "name of the SAE's width, such as 16k"),
    "sae_release": ("string", "release or folder of the SAE"),
    "feature": ("string", "what the probe reads; one of FEATURES"),
    "pooling": ("string", "how token values become one value a document"),
    "top_n": ("Int64", "n of the token-level top-n pooling"),
    "threshold": ("Float64", "binarization: 1 where the pooled value is strictly above it"),
    "selection": ("string", "all latents, or topk by class mean difference"),
    "k": ("Int64", "number of latents kept by selection"),
    "scaling": ("string", "scaling of the features before the probe"),
    "bos": ("string", "drop or keep special tokens in pooling"),
    "task": ("string", "name of the task, without its language"),
    "language": ("string", "language of the test documents"),
    "train_language": ("string", "language of the training documents"),
    "train_fraction": ("Float64", "share of the training part used"),
    "label_model": ("string", "model whose correctness is the label"),
    "split": ("string", "identity of the train/test split: equal where it is the same"),
    "kind": ("string", "what the task asks; one of KINDS"),
    "toy": ("boolean", "whether model or task was made for this book, so that it is no evidence"),
    "probe": ("string", "linear or tree; none where the model itself is asked"),
    "seed": ("Int64", "seed of split and probe"),
    "repeat": ("Int64", "running number of repetitions of the same cell"),
    "n_train": ("Int64", "training documents; of a model that is asked, those it is shown"),
    "n_test": ("Int64", "test documents"),
    "n_cut": ("Int64", "test documents of which the model read only a part, or a shorter prompt"),
    "n_features": ("Int64", "columns the probe reads"),
    "macro_f1": ("Float64", "unweighted mean of the classes' F1 on the test documents"),
    "macro_f1_low": ("Float64", "lower end of its 95% interval"),
    "macro_f1_high": ("Float64", "upper end of its 95% interval"),
    "accuracy": ("Float64", "share of test documents that are right"),
    "auroc": ("Float64", "area under the ROC curve, each class against the rest, mean of classes"),
    "brier": ("Float64", "half the squared distance of probabilities to the truth, mean of texts"),
    "ece": ("Float64", "expected calibration error of the answer's probability"),
    "cv_accuracy": ("Float64", "mean score of the inner cross-validation (see protocol)"),
    "seconds": ("Float64", "wall-clock seconds of selection, fit and prediction"),
}

SCORE_COLUMNS = tuple(SCHEMA)

CELL = SCORE_COLUMNS[SCORE_COLUMNS.index("protocol") : SCORE_COLUMNS.index("n_train")]
"""What was scored; the columns after it are what was measured."""

VOCABULARY: dict[str, tuple[str, ...]] = {
    "source": choices.SOURCES,
    "protocol": choices.PROTOCOLS,
    "depth": choices.DEPTHS,
    "feature": choices.FEATURES,
    "pooling": (*choices.POOLINGS, choices.HIDDEN_JOINED),
    "selection": choices.SELECTIONS,
    "bos": choices.BOS,
    "kind": choices.KINDS,
    "probe": (*choices.PROBES, choices.NO_PROBE),
}

REQUIRED = ("source", "protocol", "feature", "task", "kind", "toy", "probe", "macro_f1")

PROBABILITY = ("auroc", "brier", "ece")

ADDED = (*PROBABILITY, "n_cut")
"""Columns that tables of older schemas lack: they are read as if these were missing."""

SHARES = ("macro_f1", "macro_f1_low", "macro_f1_high", "accuracy", "cv_accuracy", "train_fraction",
          *PROBABILITY)  # fmt: skip

NOT_NEGATIVE = ("seconds", *(name for name, (dtype, _) in SCHEMA.items() if dtype == "Int64"))

# What the pages show of a row.
SHOWN = ("task", "language", "feature", "model", "layer", "width", "pooling", "top_n", "threshold")

F1 = ("macro_f1", "macro_f1_low", "macro_f1_high")


def make_scores(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A validated score table; columns a row lacks are missing. Raises IntegrityError."""
    rows = list(rows)
    unknown = sorted({name for row in rows for name in row} - set(SCORE_COLUMNS))
    if unknown:
        raise IntegrityError(f"Unknown score column {unknown[0]!r}; the schema is {SCORE_COLUMNS}.")
    try:
        raw = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    except MALFORMED as error:
        raise IntegrityError(f"A score table value cannot be stored: {error}.") from error
    return validate_scores(raw)


def validate_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The table with the schema's column order and dtypes.

    Raises IntegrityError for a wrong column, type, vocabulary or range, with the first bad row.
    """
    if tuple(scores.columns) != SCORE_COLUMNS:
        odd = sorted(set(scores.columns) ^ set(SCORE_COLUMNS))
        raise IntegrityError(
            f"The score table's columns do not fit the schema (first difference: "
            f"{odd[0] if odd else 'their order'!r}). Write it with `write_scores`."
        )
    try:
        typed = scores.astype({name: dtype for name, (dtype, _) in SCHEMA.items()})
    except MALFORMED as error:
        raise IntegrityError(f"A score table value has the wrong type: {error}.") from error
    for name in REQUIRED:
        _refuse(typed, typed[name].isna(), name, "must not be missing")
    for name, allowed in VOCABULARY.items():
        bad = typed[name].notna() & ~typed[name].isin(allowed)
        _refuse(typed, bad, name, f"must be one of {allowed}")
    for name in SHARES:
        bad = (typed[name] < 0) | (typed[name] > 1)
        _refuse(typed, bad.fillna(False), name, "must lie between 0 and 1")
    for name in NOT_NEGATIVE:
        _refuse(typed, (typed[name] < 0).fillna(False), name, "must not be below 0")
    low, f1, high = (typed[c] for c in ("macro_f1_low", "macro_f1", "macro_f1_high"))
    bad = ((low > f1 + 1e-9) | (high < f1 - 1e-9)).fillna(False)
    _refuse(typed, bad, "macro_f1", "must lie inside its interval")
    return typed


def _refuse(scores: pd.DataFrame, bad: pd.Series, name: str, rule: str) -> None:
    if bad.any():
        row = int(bad.to_numpy().argmax())
        value = scores[name].iloc[row]
        value = value.item() if hasattr(value, "item") else value
        raise IntegrityError(f"Score table row {row}: {name} is {value!r} but {rule}.")


def read_scores(
    path: str | os.PathLike[str], complete: Callable[[pd.DataFrame], pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Read and validate a score table. Raises IntegrityError where it is not one.

    `complete` adds to a table of an older schema what that lacks, before it is validated.
    """
    path = Path(path)
    try:
        kinds = defaultdict(lambda: "string", toy="boolean")
        raw = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""])
    except (OSError, *MALFORMED) as error:
        raise IntegrityError(f"{path} is not a readable score table ({error}).") from error
    lacking = [c for c in ADDED if c not in raw]
    if tuple(raw.columns) == tuple(c for c in SCORE_COLUMNS if c not in lacking):
        raw = raw.reindex(columns=list(SCORE_COLUMNS))
    numeric = [name for name, (dtype, _) in SCHEMA.items() if dtype in ("Int64", "Float64")]
    try:
        raw = raw.assign(**{c: pd.to_numeric(raw[c]) for c in numeric if c in raw})
    except MALFORMED as error:
        raise IntegrityError(f"{path}: a number cannot be read ({error}).") from error
    return validate_scores(raw if complete is None else complete(raw))


def write_scores(scores: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Validate and write atomically (temporary file, then rename); returns the path."""
    path = Path(path)
    content = validate_scores(scores).to_csv(index=False, lineterminator="\n")
    replace_file(path, content.encode("utf-8"))
    return path


def concat_scores(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table of several; empty ones are fine."""
    kept = [t for t in tables if len(t)]
    return pd.concat(kept, ignore_index=True) if kept else make_scores([])
