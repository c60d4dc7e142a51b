"""The Answers of the chapters: they follow from the scores, and the book has them at the top."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml
from places import ROOT

from mosaic.errors import ConfigError
from mosaic.evidence.claims import Finding, judge_pairs, load_claims
from mosaic.publish.answers import (
    ANSWER_PLACE,
    ANSWERS,
    TAKE_AWAY,
    THIS_RUN,
    Answer,
    audit_points,
    chapter_answer,
    first_page,
    lift_answer,
)
from mosaic.publish.scorecard import PUBLISHED, counts_in_words

SAYS: dict[str, Any] = yaml.safe_load(ANSWERS.read_text(encoding="utf-8"))
CLAIMS = {claim.key: claim for claim in load_claims()}
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:[.,]\d+)*")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def finding(key: str, effect: float, n: int = 8, toy: bool = False) -> Finding:
    """A point whose n data sets all lie `effect` from the claim's bound."""
    claim = replace(CLAIMS.get(key, CLAIMS["above-hidden"]), key=key)
    tasks = [f"task {i}" for i in range(n)]
    values = [claim.beyond + effect + i / 1e4 for i in range(n)]
    pairs = pd.DataFrame({"task": tasks, "value": values, "variance": 1e-4, "toy": toy})
    return judge_pairs([claim], [pairs])[0]


def answer(chapter: str, toy: bool = True, number: int = 1, **columns: dict[str, Any]) -> Answer:
    """The chapter's Answer where a source has every point at an effect, and all numbers are one."""
    points = SAYS[chapter]["points"]
    keys = [point["of"] for point in points if "name" in point]
    effects = [how["effect"] for how in columns.values()]
    settled = {p["of"]: effects[:1] > [0] for p in points if "name" not in p}
    names = {"published": PUBLISHED, "bundle": "real run", "run": THIS_RUN}
    found = {
        names[name]: {key: finding(key, **how) for key in keys} for name, how in columns.items()
    }
    lines = SAYS[chapter].get("run", []) + SAYS[chapter].get("also", [])
    fields = {f for line in lines for _, f, _, _ in Formatter().parse(line) if f}
    return chapter_answer(chapter, found, toy, settled, **dict.fromkeys(fields, number))


@pytest.mark.parametrize("chapter", SAYS)
def test_an_answer_is_a_verdict_without_a_number_and_a_few_bullets(chapter: str) -> None:
    least = min(2, len(SAYS[chapter].get("also", [])))  # without the published scores
    for columns in (
        {"published": {"effect": 0.2}, "bundle": {"effect": -0.2, "n": 6}},
        {"bundle": {"effect": -0.2, "n": 2}, "run": {"effect": 0.1, "toy": True}},
        {"run": {"effect": -0.2}},
        {},
    ):
        for toy in (True, False):
            said = answer(chapter, toy, **columns)
            assert not re.search(r"\d", said.verdict), said.verdict
            assert said.verdict[0].isupper()
            assert said.verdict.endswith(".")
            assert (2 if "published" in columns else least) <= len(said.bullets) <= 4, said.bullets
            for line in (*said.bullets, *said.toy):
                assert len(NUMBER.findall(line)) <= 2, line
            assert "{" not in said.markdown()


@pytest.mark.parametrize("chapter", [name for name in SAYS if SAYS[name]["points"]])
def test_opposite_scores_give_opposite_sentences(chapter: str) -> None:
    up, down = (answer(chapter, published={"effect": e}).verdict for e in (0.2, -0.2))
    for point in (p for p in SAYS[chapter]["points"] if "up" in p):
        assert point["up"].lower() in up.lower()
        assert point["down"].lower() in down.lower()
        assert point["down"].lower() not in up.lower()
        assert point["up"].lower() not in down.lower()


def test_published_scores_come_before_runs_and_runs_before_nothing() -> None:
    chapter = "04_baselines"
    assert answer(chapter).verdict.startswith("Nothing here tests whether SAE latents beat")
    shipped = answer(chapter, bundle={"effect": -0.1, "n": 3})
    assert shipped.verdict.startswith(
        "In the real run, in too few data sets for a test, SAE latents lose to"
    )
    both = answer(chapter, published={"effect": 0.1}, bundle={"effect": -0.1, "n": 6})
    assert both.verdict.startswith("In the published scores SAE latents beat")
    assert "+0.100 macro-F1 over 8 data sets (published scores, supported)" in both.bullets[0]
    assert "-0.100 macro-F1 over 6 data sets (real run, " in both.bullets[-1]


def filled(chapter: str, numbers: dict[str, int]) -> list[str]:
    """Every line of a chapter that holds numbers, as a toy run folds and shows them."""
    said = chapter_answer(chapter, {}, True, settled={"most": True, "noise": True}, **numbers)
    return [*said.bullets, *said.toy]


def nothing(chapter: str) -> dict[str, None]:
    """The numbers of a chapter's lines, none of which exists."""
    says = yaml.safe_load(ANSWERS.read_text("utf-8"))[chapter]
    lines = [*says.get("also", []), *says.get("run", [])]
    names = {name for line in lines for _, name, _, _ in Formatter().parse(line) if name}
    return dict.fromkeys(names)


def test_what_holds_only_uncorrected_is_said_with_care() -> None:
    found = {PUBLISHED: {"images": replace(finding("images", 0.1), verdict="leans")}}
    said = chapter_answer("07_cross_modal", found, toy=True, **nothing("07_cross_modal")).verdict
    assert said.startswith("In the published scores, though not surely, SAE latents beat")
    found[PUBLISHED]["images"] = replace(finding("images", 0.1), verdict="inconclusive")
    said = chapter_answer("07_cross_modal", found, toy=True, **nothing("07_cross_modal")).verdict
    assert said.startswith("In the published scores it is open whether SAE latents beat")


def test_a_run_that_says_the_opposite_is_not_crowded_out() -> None:
    keys = ("above-hidden", "above-tfidf", "above-mean-hidden")
    up = {key: finding(key, 0.1) for key in keys}
    run = {**up, "above-tfidf": finding("above-tfidf", -0.2)}
    said = chapter_answer(
        "04_baselines", {PUBLISHED: up, "mine run": run}, True, **nothing("04_baselines")
    )
    assert len(said.bullets) == 4
    assert "TF-IDF: -0.200" in said.bullets[-1]


def test_a_toy_run_is_folded_and_a_real_one_counts() -> None:
    toy = answer("07_cross_modal", run={"effect": 0.3, "toy": True})
    assert "Nothing here tests" in toy.verdict
    assert not any("0.300" in line or "reach" in line for line in toy.bullets)
    assert "+0.300 macro-F1 over 8 data sets (this run, toy)" in toy.toy[0]
    assert "reach 1.00" in " ".join(toy.toy)
    assert toy.fold().count("<li>") == len(toy.toy) > 1
    real = answer("07_cross_modal", False, run={"effect": 0.3})
    assert real.verdict.startswith("In this run SAE latents beat")
    assert "reach 1.00" in " ".join(real.bullets)
    assert real.toy == ()


def test_a_line_whose_number_is_missing_is_left_out() -> None:
    numbers = {**nothing("07_cross_modal"), "run_sae": 0.5, "run_mean": float("nan")}
    said = chapter_answer("07_cross_modal", {}, True, **numbers)
    assert said.toy == ()
    assert len(said.bullets) == 1
    with pytest.raises(ConfigError, match="The Answer needs"):
        chapter_answer("07_cross_modal", {}, True)


def test_the_audit_counts() -> None:
    few = {"n_supported": 6, "n_tested": 12, "within": 137, "within_expected": 206}
    assert audit_points(few) == {"most": False, "noise": True}, "half is not most"
    assert audit_points({**few, "n_supported": 9, "within": 206}) == {"most": True, "noise": False}
    few = {**nothing("08_audit"), **few}
    said = chapter_answer("08_audit", {}, True, settled=audit_points(few), **few)
    assert "no more than half of the claims" in said.verdict
    assert "more of their single differences exceed noise than chance" in said.verdict
    assert "Of 12 claims" in said.bullets[0]
    assert "137 lie inside the noise of one run; without any effect 206 would" in said.bullets[1]


def test_names_from_outside_are_no_markup() -> None:
    hostile = "<script>`[x](y)"
    said = answer("01_features", True)
    bad = replace(said, bullets=(hostile,), toy=(hostile,))
    assert "\\<script\\>\\`\\[x\\](y)" in bad.markdown()
    assert "&lt;script&gt;" in bad.fold()


def executed(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    top = nbformat.v4.new_markdown_cell(f"# A page\n\n**Question.** Why?\n\n{ANSWER_PLACE}")
    return nbformat.v4.new_notebook(cells=[top, *cells])


def test_the_book_has_the_answer_below_the_question() -> None:
    said = {"text/markdown": "**Answer.** **So it is.**\n\n- One.\n- Two."}
    outputs = [nbformat.v4.new_output("display_data", said)]
    outputs += [nbformat.v4.new_output("display_data", {"text/html": "<details></details>"})]
    cell = nbformat.v4.new_code_cell(
        "show_answer()", outputs=outputs, metadata={"tags": ["answer"]}
    )
    box = nbformat.v4.new_markdown_cell(f"{TAKE_AWAY} Look\n> twice.")
    notebook = executed(cell, box)
    lift_answer(notebook, "09_trial")
    top = notebook.cells[0].source
    assert "Why?\n\n**Answer.** **So it is.**\n\n- One.\n- Two.\n\n*About 1 min to read.*" in top
    assert [list(output.data) for output in cell.outputs] == [["text/html"]]
    assert box.source == ":::{admonition} Take-away\n:class: tip\nLook\n twice.\n:::"
    with pytest.raises(ConfigError, match="Run `mosaic run 09_trial` again"):
        lift_answer(executed(), "09_trial")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_has_the_same_parts_in_the_same_order(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert re.fullmatch(
        r"# .+\n\n(\[!\[Open in Colab\].+\n\n)?\*\*Question\.\*\* .+\n\n" + re.escape(ANSWER_PLACE),
        cells[0].source,
    )
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert (headings[0], headings[-1]) == ("Method", "Reading it")
    reading, said, box = cells[-3:]
    assert "## Reading it" in reading.source
    assert said.metadata["tags"] == ["answer"]
    assert f'"{path.stem}"' in said.source
    assert box.source.startswith(TAKE_AWAY)
    assert "glue" not in box.source + said.source + cells[0].source


def test_every_chapter_has_an_answer() -> None:
    assert list(SAYS) == [path.stem for path in NOTEBOOKS]


def test_the_first_page_says_of_each_source_what_its_scores_say() -> None:
    def page(effect: float) -> list[str]:
        keys = ("above-hidden", "above-tfidf", "above-mean-hidden")
        run = [finding(key, effect) for key in keys]
        return first_page({PUBLISHED: run[:2], "real run": run}).splitlines()

    up, down = page(0.2), page(-0.2)
    assert len(up) == len(down) == 2
    assert up[0].startswith("- **In the published scores SAE latents beat the last token's hidden")
    assert "; nothing there tests whether they beat the mean hidden state" in up[0]
    assert "- **In the real run SAE latents lose to the last token's hidden state" in down[1]
    assert "lose" not in up[1]
    assert "Of 3 claims tested there, 3 are supported." in up[1]
    assert "Of 3 claims tested there, 3 are not supported." in down[1]
    [untested] = first_page({"real run": []}).splitlines()
    assert "**Nothing in the real run tests whether" in untested
    assert untested.endswith("No claim can be tested there.")


def test_the_verdict_says_which_runs_contradict_it() -> None:
    """One that leans at least; what is open, or has too few data sets, contradicts nothing."""

    def said(*verdicts: str, effect: float = 0.1, first: str = "supported") -> str:
        key = "middle-above-early"
        found = {PUBLISHED: {key: replace(finding(key, effect), verdict=first)}}
        for i, verdict in enumerate(verdicts):
            run = replace(finding(key, -effect), verdict=verdict)
            found[f"run {'ab'[i]}"] = {key: run}
        return chapter_answer("02_layers_and_scale", found, True).verdict

    assert "beat early ones (the run a leans the other way); nothing" in said("leans against")
    assert "beat early ones (the run a shows the opposite); nothing" in said("not supported")
    assert "(the run a and run b" not in said("leans against", "leans against")
    assert "(the run a and the run b lean the other way)" in said("leans against", "leans against")
    assert (
        "early layers beat middle ones (the run b shows the opposite, the run a leans the other way"
        in said("leans", "supported", effect=-0.1, first="leans against")
    )
    for quiet in ("inconclusive", "too few tasks", "no difference"):
        assert "(" not in said(quiet)
    assert "(" not in said("not supported", first="inconclusive")
    agrees = {name: {"larger": finding("larger", 0.1)} for name in (PUBLISHED, "run a")}
    assert "(" not in chapter_answer("02_layers_and_scale", agrees, True).verdict


@pytest.mark.parametrize("chapter", SAYS)
def test_every_count_of_an_answer_has_its_grammar(chapter: str) -> None:
    """Nothing that is said of one is said of two, and none is like several."""
    one, two, none = (answer(chapter, False, n, published={"effect": 0.2}) for n in (1, 2, 0))
    wrong = re.compile(r"\b1 (?:label )?(?!is\b|has\b|lies\b)(?:\w+s|are|have|lie)\b")
    lines = SAYS[chapter].get("run", []) + SAYS[chapter].get("also", [])
    fields = {f for line in lines for _, f, _, _ in Formatter().parse(line) if f}
    for n, plural in ((1, False), (2, True), (0, True)):
        for line in filled(chapter, dict.fromkeys(fields, n)):
            assert plural or not wrong.search(line), line
            assert not plural or not re.search(rf"(?<![\w.]){n} (?:is|has|lies)\b", line), line
    assert one.verdict == two.verdict == none.verdict


def test_counts_of_verdicts_are_sentences() -> None:
    def said(*verdicts: str) -> str:
        return counts_in_words([replace(finding("images", 0.1), verdict=v) for v in verdicts])

    assert said() == "No claim can be tested there."
    assert said("not tested") == "No claim can be tested there."
    assert said("leans") == "Of 1 claim tested there, 1 leans."
    assert said("leans", "leans", "leans against", "too few tasks") == (
        "Of 4 claims tested there, 2 lean, 1 leans against and 1 has too few tasks."
    )
    assert said("supported", "supported", "no difference") == (
        "Of 3 claims tested there, 2 are supported and 1 shows no difference."
    )
