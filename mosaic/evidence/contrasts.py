"""What one choice of the SAE's configuration changes: the estimator of the claims on more pairs.

Each contrast is a claim of `evidence.claims` with other cells on its two sides. So a figure, a
page's prose and the scorecard weigh cells alike: the mean over text tasks of a task's mean pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from mosaic.config.choices import DEPTHS
from mosaic.evidence.claims import Claim, Finding, judge_claims, judge_pairs, load_claims
from mosaic.evidence.comparisons import SAME_TEXTS, one_per_dataset
from mosaic.scores.names import counted, pooling_name, source_label

LATENTS = {"feature": "sae"}

SUMS_BINARIZED = "sum > 1 minus raw"

COUNTS_BINARIZED = "top-n > 1 minus raw, all n"

SUMS_TO_COUNTS = "sum > 1 minus top-n, all n"

NARROW_TO_WIDER = "narrowest minus wider, all"

FAILED = 0.25
"""Accuracy lost from cross-validation to the test part, above which a fit counts as failed: of the
published cells of text the next largest loss is 0.17."""

POOLED = ("pooling", "top_n", "threshold")

Findings = dict[str, Finding]


def texts_once(found: Sequence[Finding]) -> list[Finding]:
    """The findings of one source again, where tasks on the same texts count as one task (ours)."""
    again = [f.pairs.replace({"task": SAME_TEXTS}) if len(f.pairs) else f.pairs for f in found]
    return judge_pairs([f.claim for f in found], again)


def verdicts_twice(found: Sequence[Finding]) -> list[str]:
    """The verdicts of one source, each with what it is where the same texts count once."""
    return [
        f.verdict if f.verdict == once.verdict else f"{f.verdict} (texts once: {once.verdict})"
        for f, once in zip(found, texts_once(found), strict=True)
    ]


def without_one_pair(
    finding: Finding, among: Sequence[Finding]
) -> tuple[pd.Series, Finding] | None:
    """The pair whose absence moves the effect most, and the finding without it (ours).

    `among` are the findings of the source, with which p-values are adjusted. None where there are
    not two pairs.
    """
    if finding.effect is None or len(finding.pairs) < 2:
        return None
    value = finding.pairs["value"]
    of_task = value.groupby(one_per_dataset(finding.pairs["task"]))
    size, mean = of_task.transform("size"), of_task.transform("mean")
    # Without one of its pairs a task's mean moves; a task of a single pair leaves with it.
    stays = (mean - value) / (size - 1).where(size > 1) / finding.n_tasks
    leaves = (finding.effect - value) / max(finding.n_tasks - 1, 1)
    moved = stays.where(size > 1, leaves).abs().idxmax()
    return finding.pairs.loc[moved], _without(finding, among, finding.pairs.index == moved)


def without_one_task(finding: Finding, among: Sequence[Finding]) -> tuple[str, Finding] | None:
    """The task whose absence moves the effect most, and the finding without it (ours).

    None where there are not two tasks.
    """
    if finding.effect is None or finding.n_tasks < 2:
        return None
    moved = str((finding.by_task - finding.effect).abs().idxmax())
    return moved, _without(finding, among, one_per_dataset(finding.pairs["task"]) == moved)


def _without(finding: Finding, among: Sequence[Finding], left_out: Any) -> Finding:
    others = [f for f in among if f.claim is not finding.claim]
    rest = finding.pairs[~np.asarray(left_out)]
    return judge_pairs([f.claim for f in (finding, *others)], [rest, *(f.pairs for f in others)])[0]


def by_width(table: pd.DataFrame) -> Findings:
    """Narrowest minus each wider SAE by depth, and the claim over all depths; empty for one width.

    Same task, model, layer and pooling.
    """
    return _judged(table, _widths(table))


def by_pooling(table: pd.DataFrame) -> Findings:
    """The paper's recipe minus every other pooling of the table, same layer and width.

    The last entry is the claim: minus the top-n counts of all n together, not binarized.
    """
    return _judged(table, _other_poolings(table))


def by_binarization(table: pd.DataFrame) -> Findings:
    """Above 1 minus raw, for sums and for the counts of each n, same layer and width.

    The last entry takes the counts of all n together.
    """
    return _judged(table, _binarizations(table))


def by_model(table: pd.DataFrame) -> Findings:
    """Each model of the table minus the one before it, same task, depth, width and pooling."""
    claim = replace(
        _claims()["middle-above-early"], same=("task", "language", "depth", "width", *POOLED)
    )
    wanted = {
        f"{larger} minus {smaller}": replace(
            claim, first={**LATENTS, "model": larger}, second={**LATENTS, "model": smaller}
        )
        for smaller, larger in pairwise(dict.fromkeys(table["model"]))
    }
    return _judged(table, wanted)


def by_depth(table: pd.DataFrame) -> Findings:
    """The middle layer minus the early and the late one, as the claims have it."""
    claims = _claims()
    wanted = {
        f"middle layer minus {depth} layer": f"middle-above-{depth}" for depth in ("early", "late")
    }
    return _judged(table, {name: claims[key] for name, key in wanted.items()})


def depth_and_model(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`effect_table` of `by_depth` and of `by_model`, for several sources."""
    parts = [effect_table({**by_depth(t), **by_model(t)}, source_label(t)) for t in tables]
    return pd.concat(parts, ignore_index=True)


def compared(finding: Finding) -> str:
    """`0.046 higher` or `0.046 lower`, mean over tasks, and in how many tasks it is so."""
    effect, by_task = finding.effect or 0.0, finding.by_task
    agree = int((by_task * effect > 0).sum())
    word = "higher" if effect > 0 else "lower"
    return f"{abs(effect):.3f} {word} ({agree} of {counted(finding.n_tasks, 'task')})"


def in_words(finding: Finding | None) -> str:
    """`+0.046 (95% interval +0.000 to +0.092, 9 tasks)`; below `MIN_TASKS` no interval."""
    if finding is None or finding.effect is None:
        return "(not measured)"
    tasks = counted(finding.n_tasks, "task")
    if finding.low is None:
        return f"{finding.effect:+.3f} ({tasks})"
    span = f"95% interval {finding.low:+.3f} to {finding.high:+.3f}"
    return f"{finding.effect:+.3f} ({span}, {tasks})"


def effect_table(found: Mapping[str, Finding], source: str) -> pd.DataFrame:
    """One row a contrast: source, contrast, effect, low, high, n_tasks, tasks_higher, n_pairs."""
    return pd.DataFrame(
        {
            "source": source,
            "contrast": name,
            "effect": finding.effect,
            "low": finding.low,
            "high": finding.high,
            "n_tasks": finding.n_tasks,
            "tasks_higher": int((finding.by_task > 0).sum()),
            "n_pairs": len(finding.pairs),
        }
        for name, finding in found.items()
    )


def overall_contrasts(table: pd.DataFrame) -> Findings:
    """The contrasts over all n and depths (the four named above) that have pairs."""
    every = {**_binarizations(table), **_other_poolings(table), **_widths(table)}
    return _judged(
        table,
        {
            name: every[name]
            for name in (SUMS_BINARIZED, COUNTS_BINARIZED, SUMS_TO_COUNTS, NARROW_TO_WIDER)
        },
    )


def configuration_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`effect_table` of `overall_contrasts` for several sources."""
    parts = [effect_table(overall_contrasts(table), source_label(table)) for table in tables]
    return pd.concat(parts, ignore_index=True)


def failed_fits(table: pd.DataFrame) -> pd.Index:
    """Rows whose test accuracy is far below that of their own cross-validation (ours)."""
    gap = (table["cv_accuracy"] - table["accuracy"]).astype(float)
    return table.index[gap > FAILED]


def failed_cell(table: pd.DataFrame) -> dict[str, Any]:
    """The cell whose test accuracy is farthest below that of its own cross-validation.

    `row` is its index in the table and `beside` the macro-F1 of the same cell at the narrowest
    width (None where there is none); the others are columns of its row.
    """
    row = (table["cv_accuracy"] - table["accuracy"]).astype(float).idxmax()
    cell = table.loc[row]
    # Missing values of the key are equal to each other here.
    keys = ["task", "language", "model", "layer", *POOLED]
    text = table[keys].astype("string").fillna("")
    same = (text == text.loc[row]).all(axis=1) & (table["width"] != cell["width"])
    names = ("task", "model", "layer", "width", "cv_accuracy", "accuracy", "macro_f1")
    return {
        "row": row,
        **{name: cell[name] for name in names},
        "pooling": pooling_name(cell),
        "beside": float(table.loc[same, "macro_f1"].iloc[0]) if same.any() else None,
    }


@cache
def _claims() -> dict[str, Claim]:
    return {claim.key: claim for claim in load_claims()}


def _widths(table: pd.DataFrame) -> dict[str, Claim]:
    claim = _claims()["narrow-enough"]
    narrow, wider = {**LATENTS, "size": "narrow"}, {**LATENTS, "size": "wider"}
    wanted = {
        f"narrowest minus {width}, {depth}": replace(
            claim,
            first={**narrow, "depth": depth},
            second={**wider, "width": width, "depth": depth},
        )
        for width in dict.fromkeys(table["width"].dropna())  # the narrowest has no pair
        for depth in DEPTHS
    }
    return {**wanted, NARROW_TO_WIDER: claim}


def _other_poolings(table: pd.DataFrame) -> dict[str, Claim]:
    claim = _claims()["sum-above-top-n"]
    wanted = {
        f"sum > 1 minus {pooling_name(row)}": replace(claim, second={**LATENTS, **_pooled(row)})
        for _, row in _poolings(table).iterrows()
        if pooling_name(row) != "sum > 1"
    }
    return {**wanted, SUMS_TO_COUNTS: claim}


def _binarizations(table: pd.DataFrame) -> dict[str, Claim]:
    claim = _claims()["binarized"]
    wanted = {SUMS_BINARIZED: claim}
    for _, row in _poolings(table).iterrows():
        if row["pooling"] == "top_n" and pd.notna(row["threshold"]):
            first = {**LATENTS, **_pooled(row)}
            second = {**first, "threshold": None}
            wanted[f"{pooling_name(row)} minus raw"] = replace(claim, first=first, second=second)
    counts = {**LATENTS, "pooling": "top_n"}
    wanted[COUNTS_BINARIZED] = replace(
        claim,
        first={**counts, "threshold": 1.0},
        second={**counts, "threshold": None},
        same=(*claim.same, "top_n"),
    )
    return wanted


def _judged(table: pd.DataFrame, wanted: Mapping[str, Claim]) -> Findings:
    found = judge_claims(list(wanted.values()), table)
    return {name: f for name, f in zip(wanted, found, strict=True) if len(f.pairs)}


def _poolings(table: pd.DataFrame) -> pd.DataFrame:
    """The poolings of a table's SAE cells, raw or above 1; counts last, by n."""
    cells = table[(table["feature"] == "sae") & (table["threshold"].fillna(1.0) == 1.0)]
    kinds = cells[list(POOLED)].drop_duplicates()
    return kinds.sort_values(["top_n", "threshold"], na_position="first", kind="stable")


def _pooled(row: pd.Series) -> dict[str, Any]:
    """What picks the cells of one pooling in a claim."""
    return {name: None if pd.isna(row[name]) else row[name] for name in POOLED}


def hidden_pairs(findings: dict[str, Finding]) -> pd.DataFrame:
    """SAE recipe minus hidden state, text and behaviour: task, language, label_model, value."""
    text = findings["above-hidden"].pairs.assign(label_model="")
    return pd.concat([text, findings["behaviour-above-hidden"].pairs.assign(language="")])
