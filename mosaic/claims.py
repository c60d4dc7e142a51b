"""The paper's claims as comparisons on the tidy score table, each with an effect and a verdict.

The claims are data (`assets/claims.yaml`). A claim names two groups of cells and what must be equal
for two cells to form a pair. Its effect is the mean over tasks of a task's mean pair. The interval
is Student's 95% over tasks: tasks are the sampling unit, since cells of one task move together.
The verdict is read off the interval; a p-value adjusted by Holm's method for all claims tested on
the source says whether it also stands among so many (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import t as student

from mosaic import stats
from mosaic.tasks import load_catalogue

SHIPPED = Path(__file__).parent / "assets" / "claims.yaml"
SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"
BUILT_IN = "built in"
BUILT_IN_PROFILE = "mini"
"""Its tasks were made to have these effects, so its scores never count."""
LEVEL = 0.95


@dataclass(frozen=True)
class Claim:
    """One claim of the paper as a comparison; see the head of `assets/claims.yaml`."""

    key: str
    says: str
    said_in: str
    measure: str
    kind: str
    """Cells of which kind of task: text, behaviour or image."""
    first: dict[str, Any]
    same: tuple[str, ...]
    chapter: str
    figure: str
    second: dict[str, Any] | None = None
    beyond: float = 0.0
    """The claim holds where the effect is above it."""
    english: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """What one source says of one claim."""

    claim: Claim
    verdict: str
    effect: float | None = None
    """Mean over tasks, in macro-F1; None where there is no pair."""
    low: float | None = None
    """None with fewer than two tasks, which have no spread."""
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    """Two-sided against `beyond`, adjusted for all claims tested on the source."""
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    """The claim's `same` columns and `value`, one row a pair."""

    @property
    def n_tasks(self) -> int:
        return len(self.by_task)

    @property
    def by_task(self) -> pd.Series:
        """Mean pair of each task."""
        return self.pairs.groupby("task")["value"].mean() if len(self.pairs) else pd.Series()

    @property
    def n_above(self) -> int:
        """Tasks on the claim's side of its bound."""
        return int((self.by_task > self.claim.beyond).sum())


def load_claims(path: Path = SHIPPED) -> list[Claim]:
    """The paper's claims in the order of its sections."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Claim(**{**entry, "same": tuple(entry["same"])}) for entry in raw]


def judge(claims: Sequence[Claim], table: pd.DataFrame) -> list[Finding]:
    """Verdict on every claim from the rows of one source; rows of `mini` are called built in.

    Of runs and bundles only cells under `nested` count that were scaled and pooled as this book
    does by default, so that cells of the audit do not mix in.
    """
    cells = _prepare(table)
    found = [_finding(claim, _pairs(claim, cells)) for claim in claims]
    tested = [finding.p_value for finding in found if finding.p_value is not None]
    adjusted = iter(stats.holm(tested))
    return [f if f.p_value is None else replace(f, p_holm=float(next(adjusted))) for f in found]


def real(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be evidence: all but those of the mini world."""
    return table[table["profile"].fillna("") != BUILT_IN_PROFILE]


def _prepare(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that count, with the columns kind, size and training."""
    plain = (table["source"] == "published") | (
        (table["protocol"] == "nested")
        & table["scaling"].fillna("auto").eq("auto")
        & table["bos"].fillna("drop").eq("drop")
    )
    kept = table[plain & (table["probe"] == "linear")].copy()
    native = kept["train_language"].fillna("") == kept["language"].fillna("")
    english = kept["train_language"].eq("en").fillna(False)
    kept["training"] = np.select([native, english], ["native", "from English"], "other")
    kinds = kept["task"].map({task: _kind(task) for task in kept["task"].unique()})
    kept["kind"] = kinds.where(kept["label_model"].isna(), "behaviour")
    latents = kept["width"].map(_latents, na_action="ignore").astype("Float64").astype(float)
    narrowest = latents.groupby([kept["source"], kept["profile"], kept["model"]], dropna=False)
    kept["size"] = np.where(latents == narrowest.transform("min"), "narrow", "wider")
    return kept


@cache
def _image_tasks() -> set[str]:
    both = (load_catalogue(name).values() for name in ("paper", "mini"))
    return {task.name for tasks in both for task in tasks if task.modality == "image"}


def _kind(task: str) -> str:
    if task in _image_tasks():
        return "image"
    return "translated" if task.endswith("-translated") else "text"


def _latents(width: str) -> float:
    """Order of widths by their names: 256 < 1k < 16k < 1m."""
    unit = {"k": 1e3, "m": 1e6}.get(width[-1].lower(), 1)
    return float(width.rstrip("kKmM")) * unit


def _pairs(claim: Claim, cells: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: the claim's `same` columns and `value`."""
    usual = cells[cells["kind"] == claim.kind]
    if claim.english:
        usual = usual[usual["language"].fillna("en") == "en"]
    if "training" not in claim.first:
        usual = usual[(usual["training"] == "native") & usual["train_fraction"].fillna(1).eq(1)]
    if "selection" not in claim.first:
        usual = usual[usual["selection"].fillna("all") == "all"]
    keys = ["source", "profile", "protocol", *claim.same]
    value = _mean(usual, claim.first, keys)
    if claim.second is not None:
        value = value - _mean(usual, claim.second, keys)
    return value.dropna().rename("value").reset_index()


def _mean(cells: pd.DataFrame, wanted: dict[str, Any], keys: list[str]) -> pd.Series:
    """Mean macro-F1 of the wanted cells per key; a missing key is a value of its own."""
    for column, values in wanted.items():
        values = values if isinstance(values, list) else [values]
        fits = cells[column].isin([v for v in values if v is not None])
        cells = cells[fits | cells[column].isna() if None in values else fits]
    filled = cells.assign(**{key: cells[key].astype("string").fillna("") for key in keys})
    return filled.groupby(keys)["macro_f1"].mean().astype(float)


def _finding(claim: Claim, pairs: pd.DataFrame) -> Finding:
    if not len(pairs):
        return Finding(claim, NOT_TESTED)
    finding = Finding(claim, INCONCLUSIVE, pairs=pairs)
    by_task, n_tasks = finding.by_task.to_numpy(), finding.n_tasks
    effect = float(by_task.mean())
    finding = replace(finding, effect=effect)
    if n_tasks > 1:
        # Equal values have no spread; a tiny one keeps the arithmetic and decides the same.
        error = max(float(by_task.std(ddof=1)), 1e-12) / n_tasks**0.5
        reach = float(student.isf((1 - LEVEL) / 2, n_tasks - 1)) * error
        p_value = float(2 * student.sf(abs(effect - claim.beyond) / error, n_tasks - 1))
        low, high = effect - reach, effect + reach
        verdict = INCONCLUSIVE
        if low > claim.beyond:
            verdict = SUPPORTED
        elif high < claim.beyond:
            verdict = NOT_SUPPORTED
        finding = replace(finding, verdict=verdict, low=low, high=high, p_value=p_value)
    if set(pairs["profile"]) == {BUILT_IN_PROFILE}:
        finding = replace(finding, verdict=BUILT_IN)
    return finding
