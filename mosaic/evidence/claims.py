"""The paper's claims as comparisons on the tidy score table, each with an effect and a verdict.

The claims are data (`assets/claims.yaml`). A claim names two groups of cells and what must be equal
for two cells to form a pair. Its effect is the mean over tasks of a task's mean pair: tasks are the
sampling unit, since cells of one task move together. The verdict comes from the exact sign-flip
test over tasks, adjusted by Holm's method for all claims tested on the source; what holds only
unadjusted leans. The printed interval is what that test leaves at 95%, unadjusted. A claim about
`several` tasks has none: each task is tested against the noise of one run, and so is that so many
of them lie beyond the bound (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import norm

from mosaic import ASSETS
from mosaic.config.choices import latents_named
from mosaic.evidence.comparisons import one_per_dataset
from mosaic.evidence.noise import run_variance
from mosaic.scores.choose import level
from mosaic.scores.intervals import holm
from mosaic.scores.sign_flips import sign_flip_interval, sign_flip_p

CLAIMS = ASSETS / "claims.yaml"

MIN_TASKS = 5
"""Below it there is no interval and no verdict, on any page (ours): the range of five tasks holds
their mean 94 times in 100, of four 88."""

LEVEL = 0.95

OF_A_RUN = ("source", "profile", "protocol")
"""What both cells of a pair share whatever the claim: each run is paired by itself."""

ALWAYS_READ = ("kind", "language", "selection", "toy", "train_fraction", "training", "value",
               "variance")  # fmt: skip


class Verdict(StrEnum):
    """What a source says of a claim, in the words of the pages and their order."""

    SUPPORTED = "supported"
    LEANS = "leans"
    NOT_SUPPORTED = "not supported"
    LEANS_AGAINST = "leans against"
    NO_DIFFERENCE = "no difference"
    """Both sides are equal in every pair: what the claim is about changed nothing here."""
    INCONCLUSIVE = "inconclusive"
    TOO_FEW = "too few tasks"
    NOT_TESTED = "not tested"
    TOY = "toy"
    """Of toy models and tasks: made so that such effects can appear; their scores never count."""


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
    several: int | None = None
    """The claim holds where at least so many tasks lie above `beyond`, whatever their mean."""
    english: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """What one source says of one claim."""

    claim: Claim
    verdict: Verdict
    effect: float | None = None
    """Mean over tasks, in macro-F1; None where there is no pair."""
    low: float | None = None
    """None with fewer than `MIN_TASKS` tasks, and for a claim about several tasks."""
    high: float | None = None
    p_value: float | None = None
    """Two-sided: exact sign-flip test over tasks against `beyond`, or `_several_p`."""
    p_holm: float | None = None
    """The same, adjusted for all claims tested on the source; the verdict rests on it."""
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False)
    """The claim's `same` columns, `value`, `variance` (of its noise) and `toy`, one row a pair."""

    @property
    def n_tasks(self) -> int:
        return len(self.by_task)

    @property
    def by_task(self) -> pd.Series:
        """Mean pair of each task; splits of one dataset are one task under the first's name."""
        return self._by_task("value")

    def _by_task(self, column: str) -> pd.Series:
        pairs = self.pairs if len(self.pairs) else pd.DataFrame({"task": [], column: []})
        return pairs.groupby(one_per_dataset(pairs["task"]))[column].mean()

    @property
    def n_above(self) -> int:
        """Tasks on the claim's side of its bound."""
        return int((self.by_task > self.claim.beyond).sum())

    @property
    def p_of_tasks(self) -> pd.Series:
        """One-sided, per task, by the noise of one run: a task's cells may share documents."""
        spread = self._by_task("variance") ** 0.5
        z = (self.by_task - self.claim.beyond) / spread.where(spread > 0)
        return pd.Series(norm.sf(z.astype(float)), z.index).fillna(0.5)

    @property
    def beyond_noise(self) -> tuple[int, int]:
        """Tasks above and below the bound by these, two-sided, adjusted by Holm's over tasks."""
        above = self.p_of_tasks.to_numpy()
        found = [int((holm(p) < (1 - LEVEL) / 2).sum()) for p in (above, 1 - above)]
        return found[0], found[1]

    @property
    def points_at_claim(self) -> bool:
        """Whether the effect lies on the claim's side of its bound, its uncertainty aside."""
        if self.claim.several is not None:
            return self.n_above >= self.claim.several
        return self.effect is not None and self.effect > self.claim.beyond


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Claim(**{**entry, "same": tuple(entry["same"])}) for entry in raw]


def judge_claims(claims: Sequence[Claim], *parts: pd.DataFrame) -> list[Finding]:
    """Verdict on every claim from the rows of one source; what toys show is called toy. Of runs and
    bundles only cells under `nested`, scaled and pooled by default, count: none of the audit's.
    Of `parts` of a run the first with pairs judges a claim: no pair is made of two trainings."""
    cells = [_prepare(part, claims) for part in parts]
    found = [[its for part in cells if len(its := _pairs(claim, part))] for claim in claims]
    return judge_pairs(claims, [its[0] if its else pd.DataFrame() for its in found])


def judge_pairs(claims: Sequence[Claim], pairs: Sequence[pd.DataFrame]) -> list[Finding]:
    """Verdict on each claim from its pairs (columns `task`, `value` and `toy`)."""
    return _decided([_finding(claim, its) for claim, its in zip(claims, pairs, strict=True)])


def _decided(found: Sequence[Finding]) -> list[Finding]:
    """The findings of one source with p-values adjusted together, and the verdicts they give."""
    adjusted = iter(holm([f.p_value for f in found if f.p_value is not None]))
    return [f if f.p_value is None else _with_verdict(f, float(next(adjusted))) for f in found]


def _with_verdict(finding: Finding, p_holm: float) -> Finding:
    finding = replace(finding, p_holm=p_holm)
    if finding.verdict == Verdict.TOY:
        return finding
    if p_holm < 1 - LEVEL:
        return replace(
            finding, verdict=Verdict.SUPPORTED if finding.points_at_claim else Verdict.NOT_SUPPORTED
        )
    if finding.p_value is not None and finding.p_value < 1 - LEVEL:
        return replace(
            finding, verdict=Verdict.LEANS if finding.points_at_claim else Verdict.LEANS_AGAINST
        )
    differ = level(finding.pairs["value"]).any()
    return replace(finding, verdict=Verdict.INCONCLUSIVE if differ else Verdict.NO_DIFFERENCE)


def without_toys(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be evidence: all but those of toy models and tasks."""
    return table[~table["toy"]]


def _prepare(table: pd.DataFrame, claims: Sequence[Claim]) -> pd.DataFrame:
    """Rows that count, with what the claims read of them: size and training are made here. A key
    of pairs is kept as its text, "=" before its name and "" where it is missing."""
    plain = (table["source"] == "published") | (
        (table["protocol"] == "nested")
        & table["scaling"].fillna("auto").eq("auto")
        & table["bos"].fillna("drop").eq("drop")
    )
    # The mean over seeds that some chapters add would count its seeds twice.
    plain &= (table["source"] == "published") | table["seed"].notna()
    kept = table[plain & (table["probe"] != "tree")].copy()
    native = kept["train_language"].fillna("") == kept["language"].fillna("")
    english = kept["train_language"].eq("en").fillna(False)
    kept["training"] = np.select([native, english], ["native", "from English"], "other")
    by_model = kept.groupby(["source", "profile", "model"], dropna=False, sort=False)["width"]
    narrow = kept["width"].eq(by_model.transform(_narrowest)).fillna(False)
    kept["toy"] = kept["toy"].astype(bool)
    kept["variance"] = run_variance(kept, table)
    kept["size"] = np.where(narrow, "narrow", "wider")
    kept["value"] = kept["macro_f1"].astype(float)
    keys = {*OF_A_RUN, "seed", *(key for claim in claims for key in claim.same)}
    asked = {name for claim in claims for name in {**claim.first, **(claim.second or {})}}
    # Once for all claims: it takes half the time of judging one.
    text = kept[sorted(keys)].astype("string").fillna("").astype(object)
    return kept[sorted({*ALWAYS_READ, *asked})].join(text.add_prefix("="))


def _narrowest(widths: pd.Series) -> str | None:
    """Which of a model's widths has fewest latents, by their names (256 < 1k < 16k < 1m); where a
    name is no number, the first in the table, which has a profile's order."""
    names = list(dict.fromkeys(widths.dropna()))
    sizes = [latents_named(name) for name in names]
    if not names or None in sizes:
        return names[0] if names else None
    return names[int(np.argmin(np.array(sizes)))]


def _pairs(claim: Claim, cells: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: the claim's `same` columns and `value`, the mean over the seeds, and with
    them the test documents, that both sides have. Pairs of toys only where there are no others."""
    usual = cells[cells["kind"] == claim.kind]
    if claim.english:
        usual = usual[usual["language"].fillna("en") == "en"]
    if "training" not in claim.first:
        usual = usual[(usual["training"] == "native") & usual["train_fraction"].fillna(1).eq(1)]
    if "selection" not in claim.first:
        usual = usual[usual["selection"].fillna("all") == "all"]
    keys = [*OF_A_RUN, *claim.same]
    found = _mean(usual, claim.first, [*keys, "seed"])
    if claim.second is not None:
        second = _mean(usual, claim.second, [*keys, "seed"])
        found, second = found.align(second, join="inner", axis=0)
        found = found.assign(
            value=found["value"] - second["value"],
            # Sides that share test documents differ by less: it is the most their noise can be.
            variance=found["variance"] + second["variance"],
            toy=found["toy"] | second["toy"],
        )
    how = {"value": "mean", "variance": "mean", "toy": "max"}
    found = found.groupby(level=keys).agg(how).reset_index()
    return found if found["toy"].all() else found[~found["toy"]]


def _mean(cells: pd.DataFrame, wanted: dict[str, Any], keys: list[str]) -> pd.DataFrame:
    """Per key `value`, `variance` and `toy` of the wanted cells; a missing key is a value too."""
    for column, values in wanted.items():
        values = values if isinstance(values, list) else [values]
        fits = cells[column].isin([v for v in values if v is not None])
        cells = cells[fits | cells[column].isna() if None in values else fits]
    groups = cells.groupby([f"={key}" for key in keys])
    found = groups.agg({"value": "mean", "variance": "mean", "toy": "any"})
    return found.rename_axis(index=keys)


def _finding(claim: Claim, pairs: pd.DataFrame) -> Finding:
    if not len(pairs):
        return Finding(claim, Verdict.NOT_TESTED)
    finding = Finding(claim, Verdict.TOO_FEW, pairs=pairs)
    by_task = finding.by_task.to_numpy()
    finding = replace(finding, effect=float(by_task.mean()))
    if len(by_task) >= MIN_TASKS and claim.several:
        finding = replace(finding, p_value=_several_p(finding.p_of_tasks, claim.several))
    elif len(by_task) >= MIN_TASKS:
        finding = _tested(finding, by_task)
    if pairs["toy"].all():
        finding = replace(finding, verdict=Verdict.TOY)
    return finding


def _several_p(above: pd.Series, several: int) -> float:
    """Two-sided p-value that at least so many tasks lie above: of n one-sided p-values the r-th
    least times n - r + 1 (Benjamini and Heller 2008, any dependence), and the same from below."""
    p = float(np.sort(above)[several - 1])
    return min(1.0, 2 * (len(above) - several + 1) * p, 2 * several * (1 - p))


def _tested(finding: Finding, by_task: np.ndarray) -> Finding:
    """The finding with the p-value of the sign-flip test over tasks and the interval it leaves."""
    low, high = sign_flip_interval(by_task, LEVEL)
    return replace(finding, low=low, high=high, p_value=sign_flip_p(by_task - finding.claim.beyond))
