"""The Answer of a chapter: a verdict and a few bullets that follow from the scores.

What can be said is data (`assets/answers.yaml`); the findings choose. Sources count in their order:
the published scores, the bundles, and this run where it is no toy. What a toy run says is folded.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from string import Formatter
from typing import Any

import pandas as pd
import yaml
from IPython.display import HTML, Markdown, display

from mosaic import ASSETS
from mosaic.errors import ConfigError
from mosaic.evidence.claims import Finding, Verdict, judge_claims, load_claims
from mosaic.publish.scorecard import PUBLISHED, counts_in_words, listed, scorecard_columns
from mosaic.scores.names import counted

ANSWERS = ASSETS / "answers.yaml"

ANSWER_PLACE = "**Answer.** *The last code cell makes it from the scores.*"
"""Stands in a chapter's first cell where the book has the Answer."""

MOST_BULLETS = 4

THIS_RUN = "this run"

FIRST_QUESTION = "04_baselines"
"""The chapter whose question stands on the first page."""

DECIDED, LEANING = (
    (Verdict.SUPPORTED, Verdict.NOT_SUPPORTED),
    (Verdict.LEANS, Verdict.LEANS_AGAINST),
)

HEDGE = {
    Verdict.LEANS: ", though not surely,",
    Verdict.LEANS_AGAINST: ", though not surely,",
    Verdict.TOO_FEW: ", in too few data sets for a test,",
}

TAKE_AWAY = "> **Take-away.**"

WORDS_A_MINUTE = 230

Said = Mapping[str, Mapping[str, Finding]]


@dataclass(frozen=True)
class Answer:
    """One sentence without a number, two to four bullets, and what a toy run says."""

    verdict: str
    bullets: tuple[str, ...]
    toy: tuple[str, ...]

    def markdown(self) -> str:
        lines = [f"**Answer.** **{_plain(self.verdict)}**\n", *map(_plain, self.bullets)]
        return "\n- ".join(lines)

    def fold(self) -> str:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in self.toy)
        return (
            f'<details class="mosaic-fold"><summary>Does the machinery work? What this run says'
            f"</summary><p>Its models and texts were made for this book, so it is no evidence "
            f"about others.</p><ul>{items}</ul></details>"
        )


def claim_findings(
    bundles_dir: str, run: pd.DataFrame | None = None
) -> dict[str, dict[str, Finding]]:
    """What each source says of the claims, by source and key; this run comes last."""
    columns = scorecard_columns(Path(bundles_dir))
    if run is not None:
        columns[THIS_RUN] = judge_claims(load_claims(), run)
    return {name: {f.claim.key: f for f in found} for name, found in columns.items()}


def audit_points(numbers: Mapping[str, Any]) -> dict[str, bool]:
    """What the audit's counts settle: `most` claims supported, `noise` exceeded beyond chance."""
    most = numbers["n_supported"] > numbers["n_tested"] / 2
    return {"most": most, "noise": numbers["within"] < numbers["within_expected"]}


def chapter_answer(
    chapter: str,
    found: Said,
    toy: bool,
    settled: Mapping[str, bool] | None = None,
    **numbers: Any,
) -> Answer:
    """What the findings say of a chapter's question; `numbers` fill the lines that name them.

    `settled` holds points that are no findings; `toy` says that this run is no evidence.
    """
    says = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))[chapter]
    clauses: dict[str, dict[str, list[str]]] = {}  # by place and how sure
    bullets: list[str] = []
    agree: list[str] = []
    differ: list[str] = []  # said first of what later sources say, for it corrects the sentence
    folded: list[str] = []
    for point in says["points"]:
        key = point["of"]
        its = {name: findings[key] for name, findings in found.items() if key in findings}
        folded += [_bullet(point, n, f) for n, f in its.items() if f.verdict == Verdict.TOY]
        told = [
            (n, f) for n, f in its.items() if f.verdict not in (Verdict.TOY, Verdict.NOT_TESTED)
        ]
        told.sort(
            key=lambda pair: -pair[1].n_tasks if pair[1].verdict == Verdict.TOO_FEW else -(10**6)
        )
        place, sure, clause = "nothing here tests", " whether", point.get("whether")
        if settled and key in settled:
            place, sure, clause = "", "", point["up" if settled[key] else "down"]
        elif told:
            place, sure, clause = _clause(point, *told[0])
            clause = f"{clause}{_against(told)}"
        if "up" in point:
            clauses.setdefault(place, {}).setdefault(sure, []).append(clause)
        bullets += [_bullet(point, *one) for one in told[:1]]
        for name, finding in told[1:]:
            same = finding.points_at_claim == told[0][1].points_at_claim
            (agree if same else differ).append(_bullet(point, name, finding))
    run = _filled(says.get("run", []), numbers)
    bullets += differ + ([] if toy else run) + _filled(says.get("also", []), numbers) + agree
    parts = [
        f"{'there' if again else place}{sure} {_joined(sure, said)}".strip()
        for place, by_sure in clauses.items()
        for again, (sure, said) in enumerate(by_sure.items())
    ]
    verdict = "; ".join([*filter(None, [says.get("first")]), *parts])
    verdict = f"{verdict[0].upper()}{verdict[1:]}."
    return Answer(verdict, tuple(bullets[:MOST_BULLETS]), tuple(folded + run if toy else ()))


def show_answer(chapter: str, found: Said, toy: bool, **numbers: Any) -> None:
    """Display a chapter's Answer as Markdown, and folded what a toy run says."""
    answer = chapter_answer(chapter, found, toy, **numbers)
    display(Markdown(answer.markdown()))
    if answer.toy:
        display(HTML(answer.fold()))


def first_page(columns: Mapping[str, Sequence[Finding]]) -> str:
    """What each source says of the first question, and how many claims got which verdict."""
    lines = []
    for name, found in columns.items():
        by_key = {f.claim.key: f for f in found}
        said = chapter_answer(FIRST_QUESTION, {name: by_key}, toy=False).verdict
        said = said.replace("; nothing here", "; nothing there")
        said = said.replace("Nothing here", f"Nothing in the {_in_text(name)}")
        lines.append(f"- **{said}** {counts_in_words(found)}\n")
    return "".join(lines)


def lift_answer(notebook: Any, chapter: str) -> None:
    """In an executed notebook, move the Answer below its question and make the take-away a box.

    Raises ConfigError for a notebook that has no Answer.
    """
    cells = notebook.cells
    tagged = [cell for cell in cells if "answer" in cell.metadata.get("tags", [])]
    said = [o for cell in tagged for o in cell.outputs if "text/markdown" in o.get("data", {})]
    if len(said) != 1 or ANSWER_PLACE not in cells[0].source:
        raise ConfigError(
            f"The executed notebook {chapter} has no single Answer to put below its question; it "
            f"was run by another version. Run `mosaic run {chapter}` again."
        )
    tagged[0].outputs.remove(said[0])
    for cell in cells:
        if cell.source.startswith(TAKE_AWAY):
            text = cell.source.removeprefix(TAKE_AWAY).replace("\n>", "\n").strip()
            cell.source = f":::{{admonition}} Take-away\n:class: tip\n{text}\n:::"
    words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
    time = f"*About {math.ceil(words / WORDS_A_MINUTE)} min to read.*"
    answer = f"{said[0].data['text/markdown']}\n\n{time}"
    cells[0].source = cells[0].source.replace(ANSWER_PLACE, answer)


def _clause(point: Mapping[str, str], source: str, finding: Finding) -> tuple[str, str, str | None]:
    """Where a point is seen, how surely, and its clause."""
    place = "in this run" if source.startswith(THIS_RUN) else f"in the {_in_text(source)}"
    split = finding.verdict == Verdict.TOO_FEW and 0 < finding.n_above < finding.n_tasks
    if finding.verdict == Verdict.NO_DIFFERENCE:
        return place, " both sides are equal, so nothing tells whether", point.get("whether")
    if split or finding.verdict == Verdict.INCONCLUSIVE:
        return place, " it is open whether", point.get("whether")
    clause = point.get("up" if finding.points_at_claim else "down")
    return place, HEDGE.get(finding.verdict, ""), clause


def _against(told: Sequence[tuple[str, Finding]]) -> str:
    """` (the Gemma run shows the opposite)`: which later sources contradict the first, if any.

    Only verdicts count, on both sides, and a leaning is one.
    """
    if told[0][1].verdict not in (*DECIDED, *LEANING):
        return ""
    said = []
    for verdicts, one, several in (
        (DECIDED, "shows the opposite", "show the opposite"),
        (LEANING, "leans the other way", "lean the other way"),
    ):
        names = [
            source if source == THIS_RUN else f"the {_in_text(source)}"
            for source, finding in told[1:]
            if finding.verdict in verdicts and finding.points_at_claim != told[0][1].points_at_claim
        ]
        said += [f"{listed(names)} {one if len(names) == 1 else several}"] if names else []
    return f" ({', '.join(said)})" if said else ""


def _joined(sure: str, clauses: Sequence[str]) -> str:
    return (", or whether " if sure.endswith("whether") else ", and ").join(clauses)


def _bullet(point: Mapping[str, str], source: str, finding: Finding) -> str:
    """`Middle minus early layer: +0.011 macro-F1 over 9 data sets (published scores, leans).`"""
    sign = "" if finding.claim.several else "+"
    sets = counted(finding.n_tasks, "data set")
    where = f"{_in_text(source)}, {finding.verdict}"
    return f"{point['name']}: {finding.effect:{sign}.3f} macro-F1 over {sets} ({where})."


def _in_text(source: str) -> str:
    return source.lower() if source == PUBLISHED else source


def _filled(lines: Sequence[str], numbers: Mapping[str, Any]) -> list[str]:
    """The lines with their numbers; one whose number does not exist in this run is left out.

    Raises ConfigError for a number that the chapter does not give at all.
    """
    found = []
    for line in lines:
        names = [name for _, name, _, _ in Formatter().parse(line) if name]
        if unknown := set(names) - set(numbers):
            raise ConfigError(f"The Answer needs {sorted(unknown)} for {line!r}; pass it, or None.")
        if all(pd.notna(numbers[name]) for name in names):
            counts = {k: _Count(n) for k, n in numbers.items() if isinstance(n, Integral)}
            found.append(line.format(**{**numbers, **counts}))
    return found


class _Count(int):
    """A count that a line may follow with the word it asks for: `{n} {n:claim|claims}`."""

    def __format__(self, form: str) -> str:
        one, bar, several = form.partition("|")
        return (one if self == 1 else several) if bar else super().__format__(form)


def _plain(text: str) -> str:
    """Text in which Markdown finds no markup."""
    return re.sub(r"([\\`*_{}\[\]<>$|~])", r"\\\1", text)
