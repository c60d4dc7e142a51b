"""The page of the method: formulas that docutils can draw, numbers that are the code's."""

from __future__ import annotations

import inspect
import re

import pytest
from docutils import nodes
from places import ROOT

from mosaic.data.splits import TEST_SHARE
from mosaic.evidence import claims
from mosaic.probes.select import N_FOLDS, SETTINGS
from mosaic.publish import mathml
from mosaic.scores.intervals import N_RESAMPLES, bootstrap_interval

PAGE = (ROOT / "book/method.md").read_text(encoding="utf-8")


class Sphinx:
    """What the extension needs of Sphinx and of the page it writes."""

    def __init__(self) -> None:
        self.body: list[str] = []

    def add_html_math_renderer(self, name: str, inline: tuple, block: tuple) -> None:
        self.inline, self.block = inline[0], block[0]


def test_every_formula_of_the_page_becomes_mathml() -> None:
    page = Sphinx()
    mathml.setup(page)
    for tex in re.findall(r"```\{math\}\n(.*?)```", PAGE, re.S):
        with pytest.raises(nodes.SkipNode):
            page.block(page, nodes.math_block(tex, tex))
    for tex in re.findall(r"\{math\}`([^`]+)`", PAGE):
        with pytest.raises(nodes.SkipNode):
            page.inline(page, nodes.math(tex, tex))
    assert len(page.body) == PAGE.count("{math}") > 20
    assert all("<math" in part and "</math>" in part for part in page.body)
    assert not re.search(r"[$\\]|cdn", "".join(page.body))
    assert "$" not in PAGE


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    level = inspect.signature(bootstrap_interval).parameters["level"].default
    prose = " ".join(PAGE.split())
    for said in (
        f"holds {TEST_SHARE:.0%} of the texts",
        f"in {', '.join(f'{c:g}' for c in SETTINGS['linear'])} and",
        f"{{k=1}}^{{{N_FOLDS}}}",
        f"{N_RESAMPLES:,} times within their classes",
        f"the {level:.0%} interval ends at {{math}}`\\alpha` = {(1 - level) / 2:g} and",
        f"below {1 - claims.LEVEL:.2g};",
        f"fewer than {claims.MIN_TASKS} tasks",
    ):
        assert said in prose, said


def test_the_table_of_verdicts_has_each_and_no_other() -> None:
    rows = PAGE[PAGE.index("| verdict |") :].split("\n\n")[0].splitlines()[2:]
    told = {word.strip() for row in rows for word in row.split("|")[1].split(",")}
    assert told == set(claims.Verdict)
    glossary = (ROOT / "book/glossary.md").read_text(encoding="utf-8")
    assert all(f"*{verdict}*" in glossary for verdict in told)


def test_modules_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`(mosaic[./][\w./]+)`", PAGE))
    assert len(named) > 8
    for name in named:
        path = name if "/" in name else name.replace(".", "/") + ".py"
        assert (ROOT / path).is_file(), name
