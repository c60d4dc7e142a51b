"""Claims judged on synthetic tables whose verdict is known, and on the shipped scores."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from csv import DictReader
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from places import ROOT
from scipy.stats import norm

from mosaic.evidence.bundles import (
    read_bundle,
    read_bundles,
    scored_twice,
    shipped_runs,
)
from mosaic.evidence.claims import (
    CLAIMS,
    MIN_TASKS,
    Claim,
    Finding,
    Verdict,
    _several_p,
    judge_claims,
    load_claims,
    without_toys,
)
from mosaic.evidence.comparisons import one_per_dataset
from mosaic.evidence.contrasts import (
    effect_table,
    in_words,
    texts_once,
    verdicts_twice,
    without_one_pair,
    without_one_task,
)
from mosaic.evidence.noise import noise_spread, rerun_probes, run_variance
from mosaic.evidence.published import PUBLISHED_SCORES, published_scores
from mosaic.publish.scorecard import (
    PUBLISHED,
    claims_table,
    effects_by_task,
    scorecard_columns,
    scorecard_page,
    verdict_cell,
    without_one_table,
)
from mosaic.scores.intervals import holm
from mosaic.scores.sign_flips import sign_flip_p
from mosaic.scores.table import concat_scores, make_scores, validate_scores

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
ROW |= {"kind": "text", "toy": False}
ROW |= {"model": "m", "language": "en", "train_language": "en", "seed": 0}
TASKS = ("banking77", "election", "reject", "stance", "toxicity", "intent")


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
    return make_scores(rows)


def judged(gaps: dict[str, float], claim: Claim = CLAIM, **changes: object) -> Finding:
    return judge_claims([claim], cells(gaps, **changes))[0]


def gaps(*values: float) -> dict[str, float]:
    return dict(zip(TASKS, values, strict=False))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.04, 0.05, 0.06, 0.05, 0.04, 0.05), Verdict.SUPPORTED),
        ((-0.04, -0.05, -0.06, -0.05, -0.04, -0.05), Verdict.NOT_SUPPORTED),
        ((0.10, -0.08, 0.05, -0.06, 0.01), Verdict.INCONCLUSIVE),
        ((0.05,), Verdict.TOO_FEW),
        ((0.05, 0.05, 0.05, 0.05), Verdict.TOO_FEW),
        ((0.05, 0.05, 0.05, 0.05, 0.05), Verdict.INCONCLUSIVE),
        ((), Verdict.NOT_TESTED),
    ],
)
def test_verdict_is_known(values: tuple[float, ...], verdict: str) -> None:
    found = judged(gaps(*values))
    assert found.verdict == verdict
    assert found.n_tasks == len(values)
    if values:
        assert found.effect == pytest.approx(np.mean(values))
        assert found.n_above == sum(v > 0 for v in values)
    if len(values) < MIN_TASKS:
        assert (found.low, found.high, found.p_value) == (None, None, None)


def test_few_tasks_could_only_decide_by_agreeing() -> None:
    """The reason for the smallest number of tasks: how often the range of n holds their mean."""
    drawn = np.random.default_rng(0).normal(size=(MIN_TASKS, 20_000))
    for n, often in ((2, 0.5), (4, 0.88), (MIN_TASKS, 0.94)):
        held = (drawn[:n].min(axis=0) < 0) & (drawn[:n].max(axis=0) > 0)
        assert held.mean() == pytest.approx(often, abs=0.01)


def test_four_tasks_are_too_few_on_every_page() -> None:
    """One least number: scorecard, prose and tables leave the same out."""
    few, enough = judged(gaps(0.05, 0.04, 0.06, 0.05)), judged(gaps(0.05, 0.04, 0.06, 0.05, 0.05))
    assert (few.verdict, few.n_tasks) == (Verdict.TOO_FEW, MIN_TASKS - 1)
    assert (few.low, few.high, few.p_value, few.p_holm) == (None, None, None, None)
    assert verdict_cell(few).endswith("+0.050 (4/4)")
    assert in_words(few) == "+0.050 (4 tasks)"
    table = effect_table({"few": few, "enough": enough}, "run")
    assert list(table["low"].notna()) == [False, True]


def test_splits_of_one_dataset_are_one_task() -> None:
    def food(*names: str) -> Finding:
        claim = replace(CLAIM, kind="image")
        return judge_claims([claim], cells(dict.fromkeys(names, 0.05), kind="image"))[0]

    assert list(food("cifar100", "flowers", "food", "food-train").by_task.index) == [
        "cifar100",
        "flowers",
        "food",
    ]
    assert food("flowers", "food", "food-train").verdict == Verdict.TOO_FEW
    apart = pd.Series(["nqswap-original", "nqswap-closed", "intent", "scenario", "my own"])
    assert list(one_per_dataset(apart)) == list(apart), "other labels or contexts"


SEVERAL = replace(CLAIM, second=None, beyond=0.6, several=3)


def about_several(*values: float, sd: float = 0.02) -> Finding:
    """A claim that three tasks score above 0.6, where the cells' intervals say `sd`."""
    table = cells(gaps(*values))
    for name, sign in (("macro_f1_low", -1), ("macro_f1_high", 1)):
        table[name] = table["macro_f1"] + sign * 1.96 * sd
    return judge_claims([SEVERAL], table)[0]


def test_a_claim_about_several_tasks_is_tested_task_by_task() -> None:
    found = about_several(0.3, 0.3, 0.3, -0.5, -0.5)
    assert (found.verdict, found.beyond_noise, found.low) == (Verdict.SUPPORTED, (3, 2), None)
    assert found.effect == pytest.approx(0.58), "their mean decides nothing"
    assert about_several(0.3, 0.3, -0.1, -0.1, -0.1).verdict == Verdict.NOT_SUPPORTED
    assert about_several(0.3, 0.3, 0.3, 0.3).verdict == Verdict.TOO_FEW
    near = about_several(0.3, 0.3, 0.01, 0.01, 0.01)
    assert (near.verdict, near.n_above, near.beyond_noise[0]) == (Verdict.INCONCLUSIVE, 5, 2)
    assert about_several(0.3, 0.3, 0.045, -0.5, -0.5).verdict == Verdict.INCONCLUSIVE
    silent = judge_claims([SEVERAL], cells(gaps(0.3, 0.3, 0.3, 0.3, 0.3)))[0]
    assert (silent.verdict, silent.beyond_noise) == (Verdict.INCONCLUSIVE, (0, 0)), "no noise known"


def test_the_test_of_several_tasks_keeps_its_level() -> None:
    """At the edge: two tasks far above, all others on the bound itself."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        noise = rng.normal(0, 0.02, 6)
        p = pd.Series(norm.sf((noise + [1, 1, 0, 0, 0, 0]) / 0.02))
        wrong += _several_p(p, 3) < 0.05
    assert wrong / 300 <= 0.05


def test_noise_of_a_published_score_is_that_of_probes_run_again() -> None:
    table = published_scores()
    found = run_variance(table[table["task"] == "stance"], table) ** 0.5
    spread = noise_spread(rerun_probes(table)).set_index("task")
    assert set(found.round(12)) == {round(spread.loc["stance", "sd_run"], 12)}


def test_the_pair_that_decides_is_found() -> None:
    usual = cells(gaps(0.01, 0.012, 0.011, 0.009, 0.01, 0.01))
    table = concat_scores([usual, usual[usual["layer"] == 3].assign(layer=5).astype(usual.dtypes)])
    odd = (table["task"] == "stance") & (table["layer"] == 3) & (table["feature"] == "hidden")
    table.loc[odd, "macro_f1"] = 0.99
    found = judge_claims([CLAIM], table)[0]
    pair, rest = without_one_pair(found, [found])
    assert (pair["task"], pair["layer"]) == ("stance", "3")
    assert (found.verdict, rest.verdict) == (Verdict.INCONCLUSIVE, Verdict.SUPPORTED)
    assert rest.effect == pytest.approx(np.mean([0.01, 0.012, 0.011, 0.009, 0.01, 0.01]))
    # By trying all of them, and where a task leaves with its only pair.
    for few in (found, judge_claims([CLAIM], table[table["layer"] == 3])[0]):
        pair, rest = without_one_pair(few, [few])
        shifts = [
            abs(few.effect - few.pairs.drop(index=i).groupby("task")["value"].mean().mean())
            for i in few.pairs.index
        ]
        assert abs(rest.effect - few.effect) == pytest.approx(max(shifts))
    nothing = judge_claims([CLAIM], table.iloc[:0])
    assert without_one_pair(nothing[0], nothing) is None
    assert without_one_task(nothing[0], nothing) is None


def test_the_task_that_decides_is_found() -> None:
    found = judged(gaps(0.01, 0.012, 0.011, 0.009, 0.01, 0.3))
    task, rest = without_one_task(found, [found])
    assert task == "intent"
    assert rest.n_tasks == found.n_tasks - 1
    assert rest.effect == pytest.approx(np.mean([0.01, 0.012, 0.011, 0.009, 0.01]))
    assert (found.verdict, rest.verdict) == (Verdict.SUPPORTED, Verdict.INCONCLUSIVE), (
        "five tasks reach 0.06"
    )
    other = replace(CLAIM, key="other", beyond=0.009)
    both = judge_claims([CLAIM, other], cells(gaps(0.01, 0.012, 0.011, 0.01, 0.01, 0.3)))
    _, rest = without_one_task(both[0], both)
    assert rest.p_holm == pytest.approx(holm([rest.p_value, both[1].p_value])[0])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_sign_flips_are_counted_one_by_one(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 1, n)
    flips = [abs(np.dot(signs, values)) for signs in product((1, -1), repeat=n)]
    expected = np.mean([flip >= abs(values.sum()) - 1e-12 for flip in flips])
    assert sign_flip_p(values) == pytest.approx(expected)


def test_equal_and_empty_values_decide_what_they_can() -> None:
    assert sign_flip_p(np.full(9, 0.1)) == pytest.approx(2 / 2**9)
    assert sign_flip_p(np.zeros(9)) == 1
    assert sign_flip_p(np.full(30, 0.1)) == pytest.approx(2 / 2**30), "many tasks take no longer"


def test_what_holds_only_unadjusted_leans() -> None:
    values = cells(gaps(0.04, 0.05, 0.06, 0.05, 0.04, 0.05))
    claims = [replace(CLAIM, key=str(b), beyond=b) for b in (0.0, 0.2, 0.05)]
    found = judge_claims(claims, values)
    assert [f.verdict for f in found] == [
        Verdict.LEANS,
        Verdict.LEANS_AGAINST,
        Verdict.INCONCLUSIVE,
    ]
    assert [f.verdict for f in judge_claims(claims[:1], values)] == [Verdict.SUPPORTED]


def test_interval_is_over_tasks_not_cells() -> None:
    values = (0.04, 0.05, 0.06, 0.05, 0.02)
    found = judged(gaps(*values))
    assert (found.low, found.high) == pytest.approx((0.02, 0.06)), "the range of five"
    assert found.p_value == pytest.approx(2 / 2**5)
    assert len(found.pairs) == 10, "two layers make two pairs a task, and no more certainty"


def test_noise_of_a_difference_is_that_of_both_sides() -> None:
    """A gap of 0.1 is beyond the noise of one side (0.04), and not beyond that of both."""
    table = cells(gaps(*[0.1] * 6))
    spread = 1.96 * 0.04
    table["macro_f1_low"], table["macro_f1_high"] = table["macro_f1"] - spread, table["macro_f1"]
    table["macro_f1_high"] += spread
    assert judge_claims([CLAIM], table)[0].beyond_noise == (0, 0)
    assert judge_claims([CLAIM], table)[0].p_of_tasks.iloc[0] == pytest.approx(
        norm.sf(0.1 / (2 * 0.04**2) ** 0.5)
    )


def test_sides_that_are_equal_everywhere_are_no_open_question() -> None:
    same = judged(gaps(*[0.0] * 6))
    assert (same.verdict, same.effect, same.p_value) == (Verdict.NO_DIFFERENCE, 0, 1)
    assert judged(gaps(*[0.0] * 6), replace(CLAIM, beyond=-0.01)).verdict == Verdict.SUPPORTED


def test_tasks_on_the_same_texts_can_be_counted_once() -> None:
    """Intent and scenario label the same texts: six tasks lean, five cannot."""
    names = ("banking77", "election", "stance", "toxicity", "intent", "scenario")
    found = judge_claims([CLAIM] * 2, cells(dict.fromkeys(names, 0.05)))
    [once, _] = texts_once(found)
    assert (found[0].verdict, once.verdict, once.n_tasks) == (
        Verdict.LEANS,
        Verdict.INCONCLUSIVE,
        5,
    )
    assert verdicts_twice(found) == ["leans (texts once: inconclusive)"] * 2
    empty = judge_claims([CLAIM], cells({}).iloc[:0])
    assert verdicts_twice(empty) == [Verdict.NOT_TESTED]
    page = scorecard_page(scorecard_columns(ROOT / "no bundles"), [])
    [says] = (claim.says for claim in load_claims() if claim.key == "above-hidden")
    assert f"counted as one, the published verdict is another on: {says} (leans)" in page
    assert page.count("the published verdict is another on") == 1


def test_bound_of_a_claim_moves_its_verdict() -> None:
    values = gaps(-0.004, -0.006, -0.005, -0.004, -0.006, -0.005)
    assert judged(values).verdict == Verdict.NOT_SUPPORTED
    assert judged(values, replace(CLAIM, beyond=-0.01)).verdict == Verdict.SUPPORTED
    alone = replace(CLAIM, second=None, beyond=0.5)
    assert judged(values, alone).effect == pytest.approx(0.595)


def test_all_claims_are_corrected_together() -> None:
    bounds = [replace(CLAIM, key=str(b), beyond=b) for b in (0.0, 0.02, 0.045)]
    found = judge_claims(bounds, cells(gaps(0.04, 0.05, 0.06, 0.05, 0.04)))
    assert [f.p_holm for f in found] == pytest.approx(holm([f.p_value for f in found]))
    assert found[0].p_holm > found[0].p_value


def test_repeats_are_averaged_and_no_side_is_taken_at_its_best() -> None:
    table = cells(gaps(0.05, 0.05))
    lucky = table[table["feature"] == "hidden"].assign(macro_f1=0.9, repeat=2)
    both = validate_scores(pd.concat([table, lucky.astype(table.dtypes)]))
    assert judge_claims([CLAIM], both)[0].effect == pytest.approx(0.65 - 0.75)


def test_only_seeds_that_both_sides_have_count() -> None:
    table = cells(gaps(0.1))
    more = table[table["feature"] == "sae"].assign(seed=1, macro_f1=0.9)
    means = table[table["feature"] == "sae"].assign(seed=pd.NA, repeat=2, macro_f1=0.8)
    [finding] = judge_claims([CLAIM], concat_scores([table, more, means]))
    assert finding.effect == pytest.approx(0.1)


def test_cells_of_the_audit_and_other_protocols_do_not_count() -> None:
    usual = gaps(0.05, 0.04, 0.06, 0.05, 0.05, 0.05)
    for change in ({"bos": "keep"}, {"scaling": "none"}, {"protocol": "published"}):
        assert judged(usual, **change).verdict == Verdict.NOT_TESTED, change
    assert judged(usual, scaling="auto", bos="drop").verdict == Verdict.SUPPORTED
    assert judged(usual, probe="tree").verdict == Verdict.NOT_TESTED
    assert judged(usual, train_language="de").verdict == Verdict.NOT_TESTED
    assert judged(usual, label_model="gemma", kind="behaviour").verdict == Verdict.NOT_TESTED


def test_mini_is_a_toy_and_never_evidence() -> None:
    clear = gaps(0.04, 0.05, 0.06, 0.05, 0.04)
    assert judged(clear, toy=True, source="run").verdict == Verdict.TOY
    mixed = pd.concat([cells(clear, profile="mini", toy=True), cells(gaps(*[-0.1] * 6))])
    assert judge_claims([CLAIM], without_toys(mixed))[0].verdict == Verdict.NOT_SUPPORTED


def test_toys_are_known_by_model_and_task_not_by_the_name_of_a_profile() -> None:
    clear = gaps(0.04, 0.05, 0.06, 0.05, 0.04, 0.05)
    assert judged(clear, profile="renamed", toy=True, source="run").verdict == Verdict.TOY
    assert judged(clear, profile="mini", source="run").verdict == Verdict.SUPPORTED
    half = cells(clear)
    half.loc[half["feature"] == "sae", "toy"] = True
    assert judge_claims([CLAIM], half)[0].verdict == Verdict.TOY, "one side is enough"
    both = concat_scores([cells(clear, toy=True), cells(gaps(*[-0.1] * 6), model="real")])
    assert judge_claims([CLAIM], both)[0].effect == pytest.approx(-0.1), "toys stand aside"


def test_narrow_is_the_smallest_width_of_a_model() -> None:
    table = cells(gaps(0.05, 0.05))
    wide = table[table["feature"] == "sae"].assign(width="16k", macro_f1=0.9)
    both = validate_scores(pd.concat([table, wide.astype(table.dtypes)]))
    narrow = replace(CLAIM, first={"feature": "sae", "size": "narrow"})
    assert judge_claims([narrow], both)[0].effect == pytest.approx(0.05)


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
    rows += [{**row, "train_fraction": 0.1, "macro_f1": row["macro_f1"] ** 9} for row in rows]
    by_key = {f.claim.key: f for f in judge_claims(load_claims(), make_scores(rows))}
    assert by_key["native"].effect == pytest.approx(0.1)
    assert by_key["transfer-usable"].effect == pytest.approx(-0.1)


@pytest.fixture(scope="module")
def on_published() -> dict[str, Finding]:
    return {f.claim.key: f for f in judge_claims(load_claims(), published_scores())}


def test_a_claim_on_the_published_scores_by_hand(on_published: dict[str, Finding]) -> None:
    """SAE recipe minus the last token's hidden state on banking77, from the table alone."""
    table = published_scores()
    rows = table[(table["task"] == "banking77") & (table["probe"] == "linear")]
    sae = rows[(rows["pooling"] == "sum") & (rows["threshold"] == 1.0) & (rows["width"] == "16k")]
    hidden = rows[rows["feature"] == "hidden"]
    keys = ["model", "layer"]
    by_hand = sae.groupby(keys)["macro_f1"].mean() - hidden.groupby(keys)["macro_f1"].mean()
    assert len(by_hand) == 9
    found = on_published["above-hidden"].by_task["banking77"]
    assert found == pytest.approx(float(by_hand.mean()))


def test_verdicts_on_the_published_scores(on_published: dict[str, Finding]) -> None:
    """Of all the paper's claims, two stand the test over tasks among so many, two task by task."""
    words = {key: f.verdict for key, f in on_published.items() if f.p_holm is not None}
    assert {key for key, word in words.items() if word == Verdict.SUPPORTED} == {
        *("above-hidden", "binarized"),
        *("several-above-0.85", "small-predicts-large"),
    }
    assert {key for key, word in words.items() if word == Verdict.LEANS} == {
        *("above-tfidf", "middle-above-early", "middle-above-late", "narrow-enough")
    }
    assert Verdict.NOT_SUPPORTED not in words.values()


RUNS = {profile: ROOT / "book" / "runs" / profile for profile in ("gemma-local", "encoder")}


def test_the_gemma_run_has_a_verdict_on_twelve_claims() -> None:
    """Each over five tasks or more; the second part of the run judges the width."""
    runs = shipped_runs(ROOT / "book" / "runs")
    first, second = (read_bundle(RUNS["gemma-local"].with_name(f"gemma-{n}"))
                     for n in ("local", "widths"))  # fmt: skip
    twice = scored_twice(first, second).dropna(subset="there")
    hidden = twice[twice["feature"] == "hidden"]
    same = hidden["macro_f1"] == hidden["there"]
    assert same.sum() >= 32
    assert len(same) == 34, "the same documents and splits: hidden states score the same"
    found = judge_claims(load_claims(), *(without_toys(p.table) for p in runs["Gemma run"]))
    judged = [f for f in found if f.verdict not in (Verdict.NOT_TESTED, Verdict.TOO_FEW)]
    assert len(judged) == 12
    assert all(f.n_tasks >= MIN_TASKS for f in judged)
    assert "narrow-enough" in {f.claim.key for f in judged}


@pytest.mark.parametrize(("run", "measured"), [("", 12), ("gemma-local", 15), ("encoder", 12)])
def test_every_effect_and_verdict_again_from_the_csv(run: str, measured: int) -> None:
    """Another implementation, by loops over the rows of the file: equal to three digits."""
    table = without_toys(read_bundle(RUNS[run])) if run else published_scores()
    by_key = {f.claim.key: f for f in judge_claims(load_claims(), table)}
    file = RUNS[run] / "scores.csv" if run else PUBLISHED_SCORES
    with file.open(encoding="utf-8") as lines:
        rows = list(map(_facts, DictReader(lines)))
    narrowest = {}
    for row in (r for r in rows if r["feature"] == "sae"):
        width = float(row["width"].lower().replace("k", "e3"))
        narrowest[row["model"]] = min(width, narrowest.get(row["model"], width))
        row["number"] = width
    for row in rows:
        row["size"] = "narrow" if row.get("number") == narrowest.get(row["model"]) else "wider"
    p_values: dict[str, float] = {}
    for claim in yaml.safe_load(CLAIMS.read_text(encoding="utf-8")):
        sides = [_values_by_hand(rows, claim, claim["first"])]
        sides += [_values_by_hand(rows, claim, claim["second"])] if "second" in claim else []
        pairs = defaultdict(list)
        for key in set.intersection(*map(set, sides)):
            value = fmean(sides[0][key]) - (fmean(sides[1][key]) if len(sides) > 1 else 0)
            pairs[key[:-1]].append(value)  # the seed comes last
        tasks = defaultdict(list)
        for key, values in pairs.items():
            tasks[key[0].replace("food-train", "food")].append(fmean(values))
        found, key, beyond = by_key[claim["key"]], claim["key"], claim.get("beyond", 0)
        assert (found.n_tasks, len(found.pairs)) == (len(tasks), len(pairs)), key
        if not tasks:
            assert found.verdict == Verdict.NOT_TESTED
            continue
        by_hand = {name: fmean(values) for name, values in tasks.items()}
        assert found.effect == pytest.approx(fmean(by_hand.values()), abs=5e-4)
        assert found.by_task.to_dict() == pytest.approx(by_hand, abs=5e-4)
        assert found.n_above == sum(value > beyond for value in by_hand.values())
        if len(tasks) < 5:
            assert found.verdict == Verdict.TOO_FEW
            continue
        p_values[key] = found.p_value
        if not claim.get("several"):
            p_values[key] = _flips_by_hand([value - beyond for value in by_hand.values()])
            span = _interval_by_hand(list(by_hand.values()))
            assert (found.low, found.high) == pytest.approx(span, abs=5e-4)
    rest, least = len(p_values), 0.0
    for key, p in sorted(p_values.items(), key=lambda item: item[1]):
        least, rest, found = max(least, min(1, rest * p)), rest - 1, by_key[key]
        assert found.p_holm == pytest.approx(least, abs=5e-4), key
        up = found.n_above >= found.claim.several if found.claim.several else found.effect > 0
        if found.claim.beyond and not found.claim.several:
            up = found.effect > found.claim.beyond
        word = (
            (Verdict.LEANS if up else Verdict.LEANS_AGAINST) if p < 0.05 else Verdict.INCONCLUSIVE
        )
        word = Verdict.NO_DIFFERENCE if not any(found.by_task) else word
        assert found.verdict == (
            (Verdict.SUPPORTED if up else Verdict.NOT_SUPPORTED) if least < 0.05 else word
        )
    assert sum(f.n_tasks > 0 for f in by_key.values()) >= measured


def _facts(row: dict[str, str]) -> dict[str, Any]:
    """A row of a file with what claims may ask of it; older files name no kind."""
    images = ("cifar100", "flowers", "food", "food-train", "tiny-imagenet")
    kind = "behaviour" if row["label_model"] else "text"
    kind = "translated" if row["task"].endswith("-translated") else kind
    english = "from English" if row["train_language"] == "en" else "other"
    return {
        **row,
        "kind": "image" if row["task"] in images else kind,
        "training": "native" if row["train_language"] == row["language"] else english,
        "selection": row["selection"] or "all",
    }


def _values_by_hand(
    rows: list[dict[str, Any]], claim: dict[str, Any], wanted: dict[str, Any]
) -> dict[tuple[str, ...], list[float]]:
    """Macro-F1 of the wanted rows by what makes a pair and the seed; the task comes first."""
    found = defaultdict(list)
    for row in rows:
        counts = row["probe"] == "linear" and row["kind"] == claim["kind"]
        if row["source"] != "published":
            counts &= row["protocol"] == "nested" and row["seed"] != ""
            counts &= row["scaling"] in ("", "auto") and row["bos"] in ("", "drop")
        if claim.get("english"):
            counts &= row["language"] in ("", "en")
        if "training" not in claim["first"]:
            counts &= row["training"] == "native" and float(row["train_fraction"] or 1) == 1
        if "selection" not in claim["first"]:
            counts &= row["selection"] == "all"
        if counts and all(_fits(row[name], value) for name, value in wanted.items()):
            key = (*(row[name] for name in claim["same"]), row["seed"])
            found[key].append(float(row["macro_f1"]))
    return found


def _flips_by_hand(values: list[float]) -> float:
    signs = product((1, -1), repeat=len(values))
    sums = [abs(sum(s * v for s, v in zip(flip, values, strict=True))) for flip in signs]
    return fmean(total >= abs(sum(values)) - 1e-12 for total in sums)


def _interval_by_hand(values: list[float]) -> tuple[float, float]:
    """The least and largest mean of some of the values that flips do not reject at 0.05."""
    some = [fmean(part) for n in range(1, len(values) + 1) for part in combinations(values, n)]
    kept = [mean for mean in some if _flips_by_hand([v - mean for v in values]) > 0.05]
    return min(kept), max(kept)


def _fits(said: str, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(said, value) for value in wanted)
    if wanted is None:
        return not said
    return said != "" and (said == wanted if isinstance(wanted, str) else float(said) == wanted)


def test_what_the_public_scores_cannot_test_is_not_tested(on_published: dict[str, Finding]) -> None:
    silent = {key for key, f in on_published.items() if f.verdict == Verdict.NOT_TESTED}
    assert silent == {
        *("above-mean-hidden", "native", "transfer-usable"),
        *("binarized-for-selection", "threshold-matters"),
    }


def test_one_failed_cell_moves_the_effect_of_width_most(on_published: dict[str, Finding]) -> None:
    """What the claim's remark and chapter 08 say of it, from the table."""
    table = published_scores()
    rows = table[(table["task"] == "scenario") & (table["layer"] == 19) & table["threshold"].isna()]
    rows = rows[(rows["pooling"] == "sum") & (rows["probe"] == "linear")].set_index("width")
    assert set(rows["model"]) == {"gemma-2-2b"}
    assert list(rows.loc[["16k", "65k"], "macro_f1"]) == [0.8462, 0.227]
    assert rows.loc["65k", "cv_accuracy"] > 0.8, "the same features in cross-validation"
    every = list(on_published.values())
    pair, rest = without_one_pair(on_published["narrow-enough"], every)
    assert pair["value"] == pytest.approx(0.8462 - 0.227)
    assert (on_published["narrow-enough"].verdict, rest.verdict) == (Verdict.LEANS, Verdict.LEANS)
    wide = set(table.loc[(table["width"] == "65k"), "model"])
    assert wide == {"gemma-2-2b", "paligemma2-3b-pt-224"}, "as its remark says"


def test_best_cells_have_the_narrowest_width_as_often_as_is_said() -> None:
    table = published_scores()
    sae = table[(table["feature"] == "sae") & (table["probe"] == "linear")]
    best = sae.groupby(["task", "label_model", "width"], dropna=False)["macro_f1"].max()
    best = best.unstack("width").astype(float)
    narrow = best["16k"] >= best["65k"].fillna(0)
    images = narrow.index.isin(["cifar100", "flowers", "food", "food-train", "tiny-imagenet"], 0)
    listed = ~images & ~narrow.index.isin(["boolq", "piqa"], 0)  # not in the authors' table
    assert (int(narrow[listed].sum()), int(listed.sum())) == (15, 16)
    assert narrow[images].mean() < 0.5, "65k is mostly best on images"
    assert "15 of 16" in CLAIMS.read_text(encoding="utf-8")


def test_what_was_not_rerun_is_said_first() -> None:
    """The first paragraphs of README and landing page; a run of Gemma would change both."""
    authors, contributed = published_scores(), read_bundles(ROOT / "book" / "runs")
    assert not set(contributed["model"].dropna()) & set(authors["model"].dropna())
    keys = ["task", "language", "label_model"]
    ours = contributed[(contributed["protocol"] == "published") & contributed["model"].isna()]
    both = authors[authors["feature"] == "tfidf"].merge(ours, on=keys, suffixes=("", "_ours"))
    again = (both["macro_f1"] - both["macro_f1_ours"]).abs() < 1e-6
    assert (int(again.sum()), len(both)) == (4, 6), "those that were recomputed"
    assert (both["macro_f1"] - both["macro_f1_ours"]).abs().max() < 2 / 1000, "a document or two"
    for page in ("README.md", "book/index.md"):
        start = " ".join((ROOT / page).read_text(encoding="utf-8").split())[:1100]
        assert "Gemma 2 models have not been rerun here" in start
        assert "six published TF-IDF baselines were recomputed, four to the last digit" in start


def test_every_claim_names_a_chapter_and_its_figure() -> None:
    from mosaic.figures import CHAPTER_OF_FIGURE

    for claim in load_claims():
        assert CHAPTER_OF_FIGURE.get(claim.figure, claim.chapter) == claim.chapter, claim.key
        assert claim.chapter[:2].isdigit()


def test_scorecard_says_the_words_and_links_what_is_there(tmp_path: Path) -> None:
    columns = scorecard_columns(tmp_path / "no bundles")
    assert list(columns) == [PUBLISHED]
    page = scorecard_page(columns, ["04_baselines", "05_multilingual_transfer"])
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) == len(load_claims())
    above_last = "{ref}`SAE beats the last token's hidden state <fig-bas"
    beats = next(line for line in lines if above_last in line)
    for line, finding in zip(lines, columns[PUBLISHED], strict=True):
        assert line.split(" | ")[-1].split("]")[1] == f"{{.source}} [{finding.verdict}"
    found = columns[PUBLISHED][2]
    low, high = _interval_by_hand(list(found.by_task))
    assert f"[{low:+.3f} to {high:+.3f}]{{.interval}}" in beats
    assert "5 that all agree have p = 0.062" in page
    assert "fig-width" not in page, "a chapter the book lacks is not linked"
    native = next(line for line in lines if "Native beats" in line)
    assert "05_multilingual_transfer>`" in native or "<fig-multilingual>`" in native
    assert native.count("[not tested]") == 1


def test_scorecard_names_the_models_behind_each_column() -> None:
    columns = scorecard_columns(ROOT / "book" / "runs")
    assert "MiniLM run" in columns
    sources = scorecard_page(columns, []).splitlines()[0]
    assert "own, of gemma-2-2b, gemma-2-9b, gemma-2-9b-it and paligemma2" in sources
    assert (
        "all-MiniLM-L6-v2 on banking77 and sentiment, real text; no model of the paper" in sources
    )
    of_paper = replace(CLAIM, key="k", second=None)
    theirs = judge_claims(
        [of_paper] * len(columns[PUBLISHED]), cells(gaps(0.1), model="gemma-2-2b")
    )
    ours = scorecard_page({**columns, "Run another": theirs}, [])
    assert "with gemma-2-2b of the paper" in ours.splitlines()[0]
    rows = [line.split(" | ") for line in ours.splitlines() if "{.source}" in line]
    for row in rows:  # on a phone the head is gone
        assert [cell.split(":]")[0] for cell in row[1:]] == [
            f"[{x}" for x in (*columns, "Run another")
        ]


def test_tables_of_the_audit_name_claims_in_words(on_published: dict[str, Finding]) -> None:
    found = list(on_published.values())
    table = claims_table(found)
    assert list(table.columns) == [
        "claim", "verdict", "mean over tasks [95%]", "tasks above", "p (Holm)"
    ]  # fmt: skip
    for kind in ("text", "behaviour", "image"):
        words = effects_by_task(found, kind)
        assert set(words["claim"]) < {f.claim.says for f in found}
    without = without_one_table(found).set_index("claim")
    narrow = without.loc["The narrowest SAE is enough"]
    assert narrow["pair left out"].startswith("scenario, gemma-2-2b, layer 19, sum (+0.6")
    assert narrow["with all"].startswith("leans, +0.026")
    assert not re.search("16k|gemma-2|Gemma", " ".join(f.claim.measure for f in found))


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
    wanted = load_claims()
    assert [row[0].replace("’", "'") for row in rows] == [claim.says for claim in wanted]
    sources = list(scorecard_columns(ROOT / "book" / "runs"))
    assert "MiniLM run" in sources
    shipped = {
        name: [without_toys(part.table) for part in parts]
        for name, parts in shipped_runs(ROOT / "book/runs").items()
    }
    for column, source in enumerate(sources, start=1):
        tables = [published_scores()] if column == 1 else shipped[source]
        for row, words in zip(rows, _words(judge_claims(wanted, *tables)), strict=True):
            assert row[column] == f"{source}: {words}"
    few = {len(row) for row in rows}
    assert few == {1 + len(sources)}, "what the mini models do is not on the first page"


def _words(found: list[Finding]) -> Iterator[str]:
    for f in found:
        sign = "+" if f.claim.second else ""
        said = f"{f.verdict}"
        if f.n_tasks:
            said += f" {f.effect:{sign}.3f} ({f.n_above}/{f.n_tasks})"
        if f.n_tasks >= MIN_TASKS and f.claim.several is None:
            low, high = _interval_by_hand(list(f.by_task))
            said += f" {low:{sign}.3f} to {high:{sign}.3f}"
        yield said
