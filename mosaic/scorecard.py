"""The scorecard: what published scores, contributed runs and this run say of each claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mosaic import bundles, published, scores
from mosaic.claims import (
    BUILT_IN,
    BUILT_IN_PROFILE,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    Claim,
    Finding,
    judge,
    load_claims,
    real,
)
from mosaic.figures import CHAPTER_OF_FIGURE
from mosaic.workspace import Workspace

AUDIT = "08_audit"
PUBLISHED, CONTRIBUTED = "Published scores", "Real models"


def run_scores(workspace: Workspace) -> pd.DataFrame:
    """The score tables that the chapters before the audit have left in this profile's run."""
    found = sorted((workspace.run / "scores").glob("*.csv"))
    return scores.concat(scores.read(path) for path in found if path.stem != AUDIT)


def findings(workspace: Workspace, bundles_dir: Path) -> dict[str, list[Finding]]:
    """Column of the scorecard to what it says of every claim: published, bundles, this run.

    Bundles made with the mini models are left out; a run of them is called built in throughout.
    """
    claims = load_claims()
    profile = workspace.profile.name
    return {
        PUBLISHED: judge(claims, published.load()),
        CONTRIBUTED: judge(claims, real(bundles.read_bundles(bundles_dir))),
        f"This run: {profile}": (
            [Finding(claim, BUILT_IN) for claim in claims]
            if profile == BUILT_IN_PROFILE
            else judge(claims, run_scores(workspace))
        ),
    }


def page(columns: dict[str, list[Finding]], chapters: Sequence[str]) -> str:
    """The scorecard as Markdown for the landing page; `chapters` are those the book has."""
    lines = ["```{table}", ":class: mosaic-scorecard", ""]
    lines += ["| " + " | ".join(["The paper's claim", *columns]) + " |"]
    lines += ["|---" * (1 + len(columns)) + "|"]
    for row in zip(*columns.values(), strict=True):
        cells = [_link(row[0].claim, chapters), *map(cell, row)]
        lines.append("| " + " | ".join(cells) + " |")
    of_published = columns[PUBLISHED]
    tested = [f for f in of_published if f.verdict != NOT_TESTED]
    decided = [f for f in tested if f.verdict in (SUPPORTED, NOT_SUPPORTED)]
    lasting = [f for f in decided if f.p_holm is not None and f.p_holm < 0.05]
    audit = f"{{doc}}`chapter 08 <../notebooks/{AUDIT}>`" if AUDIT in chapters else "chapter 08"
    lines += [
        "```",
        "",
        f"A verdict is read off the 95% interval of the mean difference in macro-F1 over tasks (of "
        f"macro-F1 itself where there is no sign); in brackets, tasks on the claim's side. "
        f"Of {len(tested)} claims the published scores can test, {len(decided)} are decided; "
        f"{len(lasting)} of these still are when all {len(tested)} are corrected together. "
        f"*{BUILT_IN.capitalize()}* means tiny models made to show such effects: never evidence. "
        f"Intervals and method: {audit}.",
    ]
    return "\n".join(lines) + "\n"


def cell(finding: Finding) -> str:
    """A verdict with its effect and in how many tasks the claim's direction is seen."""
    word = f"[{finding.verdict}]{{.verdict-{finding.verdict.replace(' ', '-')}}}"
    if finding.effect is None:
        return word
    sign = "" if finding.claim.second is None else "+"
    return f"{word} {finding.effect:{sign}.3f} ({finding.n_above}/{finding.n_tasks})"


def _link(claim: Claim, chapters: Sequence[str]) -> str:
    if claim.figure in CHAPTER_OF_FIGURE and claim.chapter in chapters:
        return f"{{ref}}`{claim.says} <{claim.figure}>`"
    if claim.chapter in chapters:
        return f"{{doc}}`{claim.says} <../notebooks/{claim.chapter}>`"
    return claim.says


def table(found: Sequence[Finding]) -> pd.DataFrame:
    """What one source says of every claim, one row each, for the audit's page."""
    return pd.DataFrame(
        {
            "claim": f.claim.says,
            "compared": f.claim.measure,
            "holds above": f.claim.beyond,
            "effect": f.effect,
            "low": f.low,
            "high": f.high,
            "p (Holm)": f.p_holm,
            "tasks above": f"{f.n_above} of {f.n_tasks}" if f.n_tasks else None,
            "pairs": len(f.pairs) or None,
            "verdict": f.verdict,
        }
        for f in found
    )


def by_task(found: Sequence[Finding]) -> pd.DataFrame:
    """Mean difference per claim (column) and task (row) of one source; missing where untested."""
    columns = {f.claim.key: f.by_task for f in found if f.n_tasks}
    return pd.DataFrame(columns).rename_axis("task").reset_index()


def remarks(found: Sequence[Finding]) -> pd.DataFrame:
    """Where each claim is made, and what to keep in mind of its comparison."""
    return pd.DataFrame(
        {"claim": f.claim.says, "said in": f.claim.said_in, "remark": f.claim.remark or None}
        for f in found
    )
