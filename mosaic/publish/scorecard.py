"""The scorecard: what published scores, shipped runs and this run say of each claim."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mosaic.config.workspace import Workspace
from mosaic.evidence.bundles import shipped_runs
from mosaic.evidence.claims import (
    MIN_TASKS,
    Claim,
    Finding,
    Verdict,
    judge_claims,
    load_claims,
    without_toys,
)
from mosaic.evidence.contrasts import (
    texts_once,
    verdicts_twice,
    without_one_pair,
    without_one_task,
)
from mosaic.evidence.equal_terms import CONTROL_CHAPTER
from mosaic.evidence.published import published_scores
from mosaic.figures import CHAPTER_OF_FIGURE
from mosaic.scores.markdown import stacked_table
from mosaic.scores.names import counted
from mosaic.scores.table import concat_scores, read_scores

AUDIT = "08_audit"

PUBLISHED = "Published scores"

OF_CLAIMS = {
    Verdict.SUPPORTED: ("is supported", "are supported"),
    Verdict.NOT_SUPPORTED: ("is not supported", "are not supported"),
    Verdict.LEANS: ("leans", "lean"),
    Verdict.LEANS_AGAINST: ("leans against", "lean against"),
    Verdict.INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    Verdict.NO_DIFFERENCE: ("shows no difference", "show no difference"),
    Verdict.TOO_FEW: ("has too few tasks", "have too few tasks"),
}
"""What one claim with a verdict does, and what several do."""


def run_scores(workspace: Workspace) -> pd.DataFrame:
    """The score tables that the chapters about the paper have left in this profile's run."""
    found = sorted((workspace.run / "scores").glob("*.csv"))
    return concat_scores(
        read_scores(path) for path in found if path.stem not in (AUDIT, CONTROL_CHAPTER)
    )


def scorecard_columns(bundles_dir: Path) -> dict[str, list[Finding]]:
    """Column of the scorecard to what it says of every claim: published scores, and each shipped
    run with SAE latents apart, for each reads other models; the run that tests most claims on
    enough data sets comes first. What toys show is left out."""
    claims = load_claims()
    runs = {
        name: judge_claims(claims, *(without_toys(part.table) for part in parts))
        for name, parts in shipped_runs(bundles_dir).items()
    }
    order = sorted(runs, key=lambda name: -sum(f.n_tasks >= MIN_TASKS for f in runs[name]))
    tested = {name: runs[name] for name in order if any(f.n_tasks for f in runs[name])}
    return {PUBLISHED: judge_claims(claims, published_scores()), **tested}


def scorecard_page(columns: dict[str, list[Finding]], chapters: Sequence[str]) -> str:
    """The scorecard as Markdown for the landing page; `chapters` are those the book has."""
    said = [[verdict_cell(finding) for finding in found] for found in columns.values()]
    links = [_link(finding.claim, chapters) for finding in columns[PUBLISHED]]
    rows = list(zip(links, *said, strict=True))
    table = stacked_table(("The paper's claim", *columns), rows, "mosaic-scorecard")
    audit = f"{{doc}}`chapter 8 <../notebooks/{AUDIT}>`" if AUDIT in chapters else "chapter 8"
    return f"{_sources(columns)}\n\n{table}\n{_legend(columns)} Intervals and method: {audit}.\n"


def verdicts_in_words(found: Sequence[Finding]) -> str:
    """Which claims hold, which do not and which cannot be told, a line a verdict."""
    said: dict[str, list[str]] = {}
    for finding in found:
        said.setdefault(finding.verdict, []).append(finding.claim.says)
    return "\n".join(
        f"- **{word.capitalize()}** ({len(said[word])} of {len(found)}): {'; '.join(said[word])}."
        for word in Verdict
        if word in said
    )


def _sources(columns: dict[str, list[Finding]]) -> str:
    """Which models stand behind each column, so that none is taken for another."""
    models = {name: _values(found, "model") for name, found in columns.items()}
    said = []
    for name in filter(models.get, columns):
        what = f"the authors' own, of {listed(models[name])}"
        if name != PUBLISHED:
            theirs = sorted(set(models[name]) & set(models[PUBLISHED]))
            among = f"with {listed(theirs)} of the paper" if theirs else "no model of the paper"
            tasks = listed(_values(columns[name], "task"))
            what = f"{listed(models[name])} on {tasks}, real text; {among}"
        said.append(f"*{name}*: {what}.")
    return " ".join(said)


def counts_in_words(found: Sequence[Finding]) -> str:
    """`Of 3 claims tested there, 2 lean and 1 is inconclusive.`"""
    counts = Counter(f.verdict for f in found if f.verdict != Verdict.NOT_TESTED)
    if not counts:
        return "No claim can be tested there."
    said = listed([counted(n, *OF_CLAIMS[verdict]) for verdict, n in counts.most_common()])
    return f"Of {counted(counts.total(), 'claim')} tested there, {said}."


def verdict_counts(found: Sequence[Finding]) -> dict[str, int]:
    """How many claims were tested, decided, supported, and lean."""
    verdicts = [f.verdict for f in found]
    return {
        "n_tested": len(found) - verdicts.count(Verdict.NOT_TESTED),
        "n_decided": sum(
            verdict in (Verdict.SUPPORTED, Verdict.NOT_SUPPORTED) for verdict in verdicts
        ),
        "n_supported": verdicts.count(Verdict.SUPPORTED),
        "n_leaning": sum(verdict in (Verdict.LEANS, Verdict.LEANS_AGAINST) for verdict in verdicts),
    }


def _legend(columns: dict[str, list[Finding]]) -> str:
    published = columns[PUBLISHED]
    n, both = verdict_counts(published), zip(published, texts_once(published), strict=True)
    changed = [f"{f.claim.says} ({g.verdict})" for f, g in both if f.verdict != g.verdict]
    return (
        f"After each verdict: the mean difference in macro-F1, or macro-F1 where the claim is "
        f"about it; in how many tasks the claim's direction is seen; the exact 95% interval. "
        f"*Supported* and *not supported* hold when all claims of the column are corrected "
        f"together, *leans* only before that. Fewer than {MIN_TASKS} tasks give no verdict, and "
        f"{MIN_TASKS} that all agree have p = {2 / 2**MIN_TASKS:.2g}, which decides nothing. "
        f"Languages of one set are one task. The published scores can test {n['n_tested']} of "
        f"{len(published)} claims: {counted(n['n_decided'], 'is', 'are')} decided and "
        f"{counted(n['n_leaning'], *OF_CLAIMS[Verdict.LEANS])}. Tasks "
        f"that label the same texts, such as intent and scenario, are tasks of their own; counted "
        f"as one, the published verdict is another on: {'; '.join(changed) or 'no claim'}."
    )


def _values(found: Sequence[Finding], column: str) -> list[str]:
    """Every value of a column in the pairs behind the findings."""
    return sorted({v for f in found if column in f.pairs for v in f.pairs[column] if v})


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def verdict_cell(finding: Finding) -> str:
    """A verdict with its effect, in how many tasks the claim's direction is seen, and interval."""
    word = f"[{finding.verdict}]{{.verdict-{finding.verdict.replace(' ', '-')}}}"
    if finding.effect is None:
        return word
    effect, *span = str(effect_words(finding)).split(" ", 1)
    text = f"{word} {effect} ({finding.n_above}/{finding.n_tasks})"
    return f"{text} {span[0]}{{.interval}}" if span else text


def _link(claim: Claim, chapters: Sequence[str]) -> str:
    if claim.figure in CHAPTER_OF_FIGURE and claim.chapter in chapters:
        return f"{{ref}}`{claim.says} <{claim.figure}>`"
    if claim.chapter in chapters:
        return f"{{doc}}`{claim.says} <../notebooks/{claim.chapter}>`"
    return claim.says


def claims_table(found: Sequence[Finding]) -> pd.DataFrame:
    """What one source says of every claim, one row each, for the audit's page."""
    return pd.DataFrame(
        {
            "claim": f.claim.says,
            "verdict": verdict,
            "mean over tasks [95%]": effect_words(f),
            "tasks above": _tasks_above(f) if f.n_tasks else None,
            "p (Holm)": f.p_holm,
        }
        for f, verdict in zip(found, verdicts_twice(found), strict=True)
    )


def effects_by_task(found: Sequence[Finding], kind: str) -> pd.DataFrame:
    """Mean pair per claim on tasks of a kind (row) and task (column)."""
    asked = [f for f in found if f.n_tasks and f.claim.kind == kind]
    return pd.DataFrame({"claim": f.claim.says, **f.by_task} for f in asked)


def without_one_table(found: Sequence[Finding]) -> pd.DataFrame:
    """Each claim without the one pair, and the one task, that moves its effect most."""
    rows = []
    for finding in found:
        if (without := without_one_pair(finding, found)) is None:
            continue
        pair, rest = without
        task, fewer = without_one_task(finding, found) or (None, finding)
        named = f"{_named(pair[list(finding.claim.same)])} ({pair['value']:+.3f})"
        rows.append(
            {
                "claim": finding.claim.says,
                "with all": _verdict(finding),
                "pair left out": named,
                "without the pair": _verdict(rest),
                "without the task": f"{task}: {_verdict(fewer)}" if task else None,
            }
        )
    return pd.DataFrame(rows)


def _verdict(finding: Finding) -> str:
    return f"{finding.verdict}, {effect_words(replace(finding, low=None))}"


def _tasks_above(finding: Finding) -> str:
    noise = f", {finding.beyond_noise[0]} beyond noise" if finding.claim.several else ""
    return f"{finding.n_above} of {finding.n_tasks}{noise}"


def effect_words(finding: Finding) -> str | None:
    """`+0.051 [+0.022 to +0.137]`: mean over tasks with its interval; a sign means a difference."""
    if finding.effect is None:
        return None
    sign = "" if finding.claim.second is None else "+"
    text = f"{finding.effect:{sign}.3f}"
    if finding.low is None:
        return text
    return f"{text} [{finding.low:{sign}.3f} to {finding.high:{sign}.3f}]"


def _named(keys: pd.Series) -> str:
    """What a pair shares, in words: `scenario, gemma-2-2b, layer 19, sum`."""
    words = {"layer": "layer {}", "top_n": "n = {}", "threshold": "above {}", "width": "{} SAE"}
    words |= {"label_model": "labels of {}"}
    return ", ".join(words.get(str(name), "{}").format(key) for name, key in keys.items() if key)


def claim_remarks(found: Sequence[Finding]) -> pd.DataFrame:
    """Where each claim is made, and what to keep in mind of its comparison."""
    return pd.DataFrame(
        {
            "claim": f.claim.says,
            "said in": f.claim.said_in,
            "compared": f"{f.claim.measure} ({len(f.pairs)} pairs)"
            if f.n_tasks
            else f.claim.measure,
            "holds above": f"{f.claim.beyond:g}",
            "remark": f.claim.remark or None,
        }
        for f in found
    )
