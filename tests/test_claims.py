"""Claims judged on synthetic tables whose verdict is known, and on the shipped scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from mosaic import bundles, claims, published, scorecard, scores, stats
from mosaic.claims import Claim, Finding
from mosaic.workspace import open_workspace

ROOT = Path(__file__).parents[1]
CLAIM = Claim(
    key="sae-above-hidden",
    says="SAE is better",
    said_in="a test",
    measure="SAE minus hidden state",
    kind="text",
    first={"feature": "sae"},
    second={"feature": "hidden"},
    same=("task", "model", "layer"),
    chapter="04_baselines",
    figure="fig-baselines",
)
ROW = {"source": "bundle", "protocol": "nested", "profile": "encoder", "probe": "linear"}
ROW |= {"model": "m", "language": "en", "train_language": "en"}
TASKS = ("banking77", "election", "reject", "stance", "toxicity")


def cells(gaps: dict[str, float], **changes: object) -> pd.DataFrame:
    """SAE and hidden-state cells of two layers, `gaps` apart in each task."""
    rows = []
    for task, gap in gaps.items():
        for layer in (1, 3):
            shared = {**ROW, "task": task, "layer": layer, **changes}
            rows.append({**shared, "feature": "hidden", "pooling": "last", "macro_f1": 0.6})
            rows.append(
                {**shared, "feature": "sae", "width": "1k", "pooling": "sum", "macro_f1": 0.6 + gap}
            )
    return scores.table(rows)


def judged(gaps: dict[str, float], claim: Claim = CLAIM, **changes: object) -> Finding:
    return claims.judge([claim], cells(gaps, **changes))[0]


def gaps(*values: float) -> dict[str, float]:
    return dict(zip(TASKS, values, strict=False))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.04, 0.05, 0.06, 0.05, 0.04), claims.SUPPORTED),
        ((-0.04, -0.05, -0.06, -0.05, -0.04), claims.NOT_SUPPORTED),
        ((0.10, -0.08, 0.05, -0.06, 0.01), claims.INCONCLUSIVE),
        ((0.05,), claims.INCONCLUSIVE),
        ((0.05, 0.05), claims.SUPPORTED),
        ((), claims.NOT_TESTED),
    ],
)
def test_verdict_is_known(values: tuple[float, ...], verdict: str) -> None:
    found = judged(gaps(*values))
    assert found.verdict == verdict
    assert found.n_tasks == len(values)
    if values:
        assert found.effect == pytest.approx(np.mean(values))
        assert found.n_above == sum(v > 0 for v in values)


def test_interval_is_students_over_tasks_not_cells() -> None:
    values = (0.04, 0.05, 0.06, 0.05, 0.02)
    found = judged(gaps(*values))
    expected = ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert len(found.pairs) == 10, "two layers make two pairs a task, and no more certainty"


def test_bound_of_a_claim_moves_its_verdict() -> None:
    values = gaps(-0.004, -0.006, -0.005, -0.004, -0.006)
    assert judged(values).verdict == claims.NOT_SUPPORTED
    assert judged(values, replace(CLAIM, beyond=-0.01)).verdict == claims.SUPPORTED
    alone = replace(CLAIM, second=None, beyond=0.5)
    assert judged(values, alone).effect == pytest.approx(0.595)


def test_all_claims_are_corrected_together() -> None:
    bounds = [replace(CLAIM, key=str(b), beyond=b) for b in (0.0, 0.02, 0.045)]
    found = claims.judge(bounds, cells(gaps(0.04, 0.05, 0.06, 0.05, 0.04)))
    assert [f.p_holm for f in found] == pytest.approx(stats.holm([f.p_value for f in found]))
    assert found[0].p_holm > found[0].p_value


def test_repeats_are_averaged_and_no_side_is_taken_at_its_best() -> None:
    table = cells(gaps(0.05, 0.05))
    lucky = table[table["feature"] == "hidden"].assign(macro_f1=0.9, repeat=2)
    both = scores.validate(pd.concat([table, lucky.astype(table.dtypes)]))
    assert claims.judge([CLAIM], both)[0].effect == pytest.approx(0.65 - 0.75)


def test_cells_of_the_audit_and_other_protocols_do_not_count() -> None:
    usual = gaps(0.05, 0.04, 0.06)
    for change in ({"bos": "keep"}, {"scaling": "none"}, {"protocol": "published"}):
        assert judged(usual, **change).verdict == claims.NOT_TESTED, change
    assert judged(usual, scaling="auto", bos="drop").verdict == claims.SUPPORTED
    assert judged(usual, probe="tree").verdict == claims.NOT_TESTED
    assert judged(usual, train_language="de").verdict == claims.NOT_TESTED
    assert judged(usual, label_model="gemma").verdict == claims.NOT_TESTED


def test_mini_is_built_in_and_never_evidence() -> None:
    clear = gaps(0.04, 0.05, 0.06, 0.05, 0.04)
    assert judged(clear, profile="mini", source="run").verdict == claims.BUILT_IN
    mixed = pd.concat([cells(clear, profile="mini"), cells(gaps(-0.1, -0.1, -0.1))])
    assert claims.judge([CLAIM], claims.real(mixed))[0].verdict == claims.NOT_SUPPORTED


def test_narrow_is_the_smallest_width_of_a_model() -> None:
    table = cells(gaps(0.05, 0.05))
    wide = table[table["feature"] == "sae"].assign(width="16k", macro_f1=0.9)
    both = scores.validate(pd.concat([table, wide.astype(table.dtypes)]))
    narrow = replace(CLAIM, first={"feature": "sae", "size": "narrow"})
    assert claims.judge([narrow], both)[0].effect == pytest.approx(0.05)


def test_native_and_english_training_are_told_apart() -> None:
    shared = {**ROW, "feature": "sae", "task": "toxicity", "layer": 3, "selection": "all"}
    shared |= {"width": "1k", "pooling": "sum", "threshold": 1.0, "train_fraction": 1.0}
    rows = [
        {**shared, "language": language, "train_language": trained, "macro_f1": f1}
        for language, trained, f1 in (
            ("de", "de", 0.9),
            ("de", "en", 0.8),
            ("de", "es", 0.1),
            ("en", "en", 0.95),
        )
    ]
    by_key = {f.claim.key: f for f in claims.judge(claims.load_claims(), scores.table(rows))}
    assert by_key["native"].effect == pytest.approx(0.1)
    assert by_key["transfer-usable"].effect == pytest.approx(-0.1)


@pytest.fixture(scope="module")
def on_published() -> dict[str, Finding]:
    return {f.claim.key: f for f in claims.judge(claims.load_claims(), published.load())}


def test_a_claim_on_the_published_scores_by_hand(on_published: dict[str, Finding]) -> None:
    """SAE recipe minus last hidden state on banking77, from the table alone."""
    table = published.load()
    rows = table[(table["task"] == "banking77") & (table["probe"] == "linear")]
    sae = rows[(rows["pooling"] == "sum") & (rows["threshold"] == 1.0) & (rows["width"] == "16k")]
    hidden = rows[rows["feature"] == "hidden"]
    keys = ["model", "layer"]
    by_hand = sae.groupby(keys)["macro_f1"].mean() - hidden.groupby(keys)["macro_f1"].mean()
    assert len(by_hand) == 9
    found = on_published["above-hidden"].by_task["banking77"]
    assert found == pytest.approx(float(by_hand.mean()))


def test_what_the_public_scores_cannot_test_is_not_tested(on_published: dict[str, Finding]) -> None:
    silent = {key for key, f in on_published.items() if f.verdict == claims.NOT_TESTED}
    assert silent == {"above-mean-hidden", "native", "transfer-usable"}


def test_every_claim_names_a_chapter_and_its_figure() -> None:
    from mosaic.figures import CHAPTER_OF_FIGURE

    for claim in claims.load_claims():
        assert CHAPTER_OF_FIGURE.get(claim.figure, claim.chapter) == claim.chapter, claim.key
        assert claim.chapter[:2].isdigit()


def test_scorecard_says_the_words_and_links_what_is_there(tmp_path: Path) -> None:
    columns = scorecard.findings(open_workspace("mini", str(tmp_path)), tmp_path / "no bundles")
    page = scorecard.page(columns, ["04_baselines", "05_multilingual_transfer"])
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(claims.load_claims())
    assert all(line.count("[built in]") == 1 for line in lines)
    assert "{ref}`They beat the last hidden state <fig-baselines>`" in page
    assert "fig-width" not in page, "a chapter the book lacks is not linked"
    native = next(line for line in lines if "Native beats" in line)
    assert "05_multilingual_transfer>`" in native or "<fig-multilingual>`" in native
    assert native.count("[not tested]") == 2


class Cells(HTMLParser):
    """Text of every cell of the scorecard, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.inside = "mosaic-scorecard" in (dict(attrs).get("class") or "")
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.mark.book
def test_page_and_tables_say_the_same(build_dir: Path) -> None:
    """Every verdict again from the tables, beside the words on the built landing page."""
    page = (build_dir / "html" / "book" / "index.html").read_text(encoding="utf-8")
    rows = [[" ".join(c.split()) for c in row] for row in Cells(page).rows if row]
    wanted = claims.load_claims()
    assert [row[0] for row in rows] == [claim.says for claim in wanted]
    contributed = claims.real(bundles.read_bundles(ROOT / "book" / "runs"))
    for table, column in ((published.load(), 1), (contributed, 2)):
        for row, words in zip(rows, _words(claims.judge(wanted, table)), strict=True):
            assert row[column] == words
    assert {row[3] for row in rows} == {claims.BUILT_IN}


def _words(found: list[Finding]) -> Iterator[str]:
    for f in found:
        sign = "+" if f.claim.second else ""
        effect = f" {f.effect:{sign}.3f} ({f.n_above}/{f.n_tasks})" if f.n_tasks else ""
        yield f"{f.verdict}{effect}"
