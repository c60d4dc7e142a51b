"""Noise and optimism against small computations of their own; equal treatment; the critique."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from places import ROOT, RUNS
from sklearn.metrics import f1_score

from mosaic.config.profiles import load_profile
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError, IntegrityError
from mosaic.evidence import equal_terms
from mosaic.evidence.bundles import read_bundles
from mosaic.evidence.claims import judge_claims, load_claims
from mosaic.evidence.contrasts import hidden_pairs
from mosaic.evidence.critique import critique_numbers, critique_table, load_critique
from mosaic.evidence.equal_terms import compare_conditions, conditions, with_base_saes
from mosaic.evidence.noise import (
    files_agree,
    noise_spread,
    rerun_differences,
    rerun_probes,
    within_noise,
)
from mosaic.evidence.optimism import expected_gain, tasks_above, two_choices
from mosaic.evidence.published import published_scores
from mosaic.scores.table import make_scores
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell


@pytest.fixture(scope="module")
def authors() -> pd.DataFrame:
    return published_scores()


@pytest.fixture(scope="module")
def spread(authors: pd.DataFrame) -> pd.DataFrame:
    return noise_spread(rerun_probes(authors))


def test_noise_of_a_set_by_hand(authors: pd.DataFrame, spread: pd.DataFrame) -> None:
    """Stance: pairs listed one by one from the table, without the code under test."""
    rows = authors[(authors["task"] == "stance") & (authors["feature"] == "hidden")]
    rows = rows[rows["probe"] == "linear"]
    within, between = [], []
    for _, cell in rows.groupby(["model", "layer", "width"]):
        files = {name: list(part["macro_f1"]) for name, part in cell.groupby("split")}
        files = {name: runs for name, runs in files.items() if len(runs) == 2}
        within += [(a - b) ** 2 for a, b in files.values()]
        for one, other in combinations(files.values(), 2):
            between += [(a - b) ** 2 for a in one for b in other]
    line = spread[spread["task"] == "stance"].iloc[0]
    assert line["sd_training"] == pytest.approx((np.mean(within) / 2) ** 0.5)
    assert line["sd_run"] == pytest.approx((np.mean(between) / 2) ** 0.5)
    assert line["needed"] == pytest.approx(1.96 * np.sqrt(np.mean(between)))
    assert line["n_test"] == 118
    assert line["sd_training"] < line["sd_run"]


def test_the_estimate_finds_a_known_noise() -> None:
    """Runs drawn with 0.02 of noise from training and 0.03 from the split."""
    rng = np.random.default_rng(0)
    rows = []
    for layer in range(400):
        for file in range(3):
            centre = 0.7 + 0.03 * rng.normal()
            for run in range(2):
                rows.append(
                    {
                        **{"task": "t", "language": None, "label_model": None, "model": "m"},
                        **{"layer": layer, "width": "16k", "split": f"file{file}"},
                        **{"n_test": 100, "accuracy": 0.7, "tree_f1": float(file), "repeat": run},
                        "macro_f1": centre + 0.02 * rng.normal(),
                    }
                )
    [line] = noise_spread(pd.DataFrame(rows)).to_dict("records")
    assert line["sd_training"] == pytest.approx(0.02, rel=0.05)
    assert line["sd_run"] == pytest.approx(np.hypot(0.02, 0.03), rel=0.05)
    assert line["sd_documents"] == pytest.approx((0.7 * 0.3 / 100) ** 0.5)


def test_trees_show_which_runs_share_a_split(authors: pd.DataFrame) -> None:
    same, of_same, other, of_other = files_agree(rerun_differences(rerun_probes(authors))).values()
    assert same == of_same > 900
    assert other / of_other < 0.02


def test_differences_inside_the_noise_are_counted() -> None:
    keys = {"task": "t", "language": "", "label_model": ""}
    spread = pd.DataFrame([{**keys, "needed": 0.05}])
    pairs = pd.DataFrame([{**keys, "value": v} for v in (0.04, -0.05, 0.06, -0.2)])
    unknown = pd.DataFrame([{**keys, "task": "u", "value": 0.0}])
    assert within_noise(spread, pd.concat([pairs, unknown])) == (2, 4)


@pytest.mark.parametrize(
    ("n_test", "n_cells", "accuracy", "shared"),
    [(53, 72, 0.98, 0.0), (118, 36, 0.7, 0.5), (1000, 6, 0.9, 0.0), (50, 1, 0.6, 0.0)],
)
def test_expected_gain_is_what_a_simulation_gives(
    n_test: int, n_cells: int, accuracy: float, shared: float
) -> None:
    rng = np.random.default_rng(0)
    common = round(shared * n_test)
    own = (
        (rng.random((3000, n_cells, n_test - common)) < accuracy).sum(axis=2).max(axis=1)
        if (n_test < 500)
        else rng.binomial(n_test, accuracy, (3000, n_cells)).max(axis=1)
    )
    best = own + rng.binomial(common, accuracy, 3000)
    simulated = (best / n_test - accuracy).mean()
    error = (best / n_test).std() / 3000**0.5
    found = expected_gain(n_test, n_cells, accuracy, shared)
    assert found == pytest.approx(simulated, abs=4 * error + 1e-9)


def test_nothing_is_gained_without_a_choice() -> None:
    assert expected_gain(100, 1, 0.8) == pytest.approx(0)
    assert expected_gain(100, 50, 0.8, shared=1.0) == pytest.approx(0)
    assert expected_gain(100, 50, 1.0) == pytest.approx(0)


def test_both_choices_from_the_same_cells() -> None:
    row = {"source": "run", "protocol": "nested", "task": "t", "language": "en", "probe": "linear"}
    row |= {"kind": "text", "toy": False, "feature": "sae", "n_test": 100, "accuracy": 0.7}
    rows = [
        {**row, "layer": 1, "macro_f1": 0.80, "cv_accuracy": 0.5},
        {**row, "layer": 2, "macro_f1": 0.70, "cv_accuracy": 0.9},
        {**row, "layer": 2, "macro_f1": 0.99, "cv_accuracy": 0.9, "feature": "hidden"},
        {**row, "layer": 2, "macro_f1": 0.99, "cv_accuracy": 0.9, "probe": "tree"},
    ]
    [line] = two_choices(make_scores(rows)).to_dict("records")
    assert (line["on_test"], line["by_cv"], line["n_cells"]) == (0.8, 0.7, 2)
    assert line["difference"] == pytest.approx(0.1)
    assert 0 < line["gain_low"] < line["gain_high"]


def test_choosing_on_test_never_loses_on_the_published_scores(authors: pd.DataFrame) -> None:
    choices = two_choices(authors)
    assert (choices["difference"] >= 0).all()
    stance = choices[choices["task"] == "stance"].iloc[0]
    rows = authors[(authors["task"] == "stance") & (authors["feature"] == "sae")]
    rows = rows[rows["probe"] == "linear"]
    best = rows.loc[rows["cv_accuracy"].astype(float).idxmax()]
    assert stance["by_cv"] == best["macro_f1"]
    assert stance["on_test"] == rows["macro_f1"].max()


def test_conditions_change_one_thing_at_a_time() -> None:
    model = load_profile("mini").text_models[0]
    found = conditions("toxicity-en", model)
    as_published = found[0]
    assert as_published.first.pooling == "sum"
    assert as_published.first.threshold == 1.0
    assert as_published.second.pooling == "last"
    assert {c.first.layer for c in found} == {model.layers["middle"]}
    by_name = {(c.claim, c.condition): c for c in found}
    sae = "SAE minus hidden state"
    unscaled = by_name[sae, "same, not scaled"]
    assert replace(unscaled.first, scaling="auto") == as_published.first
    kept = by_name[sae, "same, BOS kept"]
    assert (kept.first, kept.bos) == (as_published.first, "keep")
    raw = replace(as_published.first, threshold=None)
    assert by_name[sae, "same, not binarized: raw sum, last token"].first == raw
    both = by_name[sae, "both all tokens: raw sum, mean"]
    assert (both.first, both.second.pooling) == (raw, "mean")
    most = by_name[sae, "both maximum over tokens"]
    assert (most.first, most.second.pooling) == (replace(raw, pooling="max"), "max")


def test_binarizing_and_another_pooling_never_come_together() -> None:
    """A condition that equals the pooling leaves both sides as they are, and binarizing is judged
    on sums of the same cells."""
    found = conditions("toxicity-en", load_profile("mini").text_models[0])
    for c in found:
        equal = {c.first.pooling, c.second.pooling} in ({"sum", "mean"}, {"max"}, {"last"})
        if c.claim == "SAE minus hidden state" and equal:
            assert c.first.threshold is None, c.condition
        if c.claim == "binarized minus raw sums":
            assert replace(c.first, threshold=None) == c.second, c.condition
    above_mean = next(c for c in load_claims() if c.key == "above-mean-hidden")
    assert above_mean.first["threshold"] is None


def test_the_tuned_model_is_read_through_its_base_models_saes(tmp_path: Path) -> None:
    workspace = Workspace(load_profile("mini"), tmp_path, "mini")
    both, tuned, copy = with_base_saes(workspace)
    base = next(m for m in workspace.profile.text_models if m.saes == copy.saes)
    assert tuned.chat
    assert not base.chat
    assert (copy.source, copy.saes) == (tuned.source, base.saes)
    assert both.profile.model(copy.name) == copy
    alone = replace(workspace.profile, models=(base,))
    assert with_base_saes(replace(workspace, profile=alone)) is None


def test_each_condition_is_compared_under_its_own_pooling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers drawn anew for every cell, seed and treatment of BOS; differences by scikit-learn."""
    truth = np.arange(60) % 2
    said: dict[tuple[str, Cell], np.ndarray] = {}

    def score(cells: list[Cell], workspace: Workspace) -> list[ScoredCell]:
        for cell in cells:
            wrong = np.random.default_rng(len(said)).random(60) < 0.3
            said[workspace.profile.bos, cell] = np.where(wrong, 1 - truth, truth)
        given = {cell: said[workspace.profile.bos, cell] for cell in cells}
        ids = np.arange(60)
        return [ScoredCell(c, {}, ids, truth, y, np.empty((60, 0)), None) for c, y in given.items()]

    monkeypatch.setattr(equal_terms, "score_cells", score)
    workspace = Workspace(load_profile("mini"), tmp_path, "mini")
    table, scored = compare_conditions(workspace, ["toxicity-en", "safety-en"], [0, 1])
    assert len(scored) == len(said)
    asked = [
        c
        for task in ("toxicity-en", "safety-en")
        for c in conditions(task, workspace.profile.text_models[0])
    ]
    assert list(table["condition"][: len(asked)]) == [c.condition for c in asked]
    assert set(table["claim"][len(asked) :]) == {"SAE of tuned minus of base"}
    for found, condition in zip(table["difference"], asked, strict=False):
        first, second = (
            np.mean(
                [
                    f1_score(truth, said[condition.bos, replace(side, seed=s)], average="macro")
                    for s in (0, 1)
                ]
            )
            for side in (condition.first, condition.second)
        )
        assert found == pytest.approx(first - second)


def test_a_profile_without_models_says_so(tmp_path: Path) -> None:
    empty = replace(load_profile("mini"), models=())
    with pytest.raises(ConfigError, match="no text model to read"):
        compare_conditions(Workspace(empty, tmp_path, "mini"), ["safety-en"], [0])


def test_every_point_of_critique_ends_somewhere() -> None:
    points = load_critique()
    assert [point["id"] for point in points] == list(range(1, 26))
    measured = [p for p in points if p["ends"] != "not testable here"]
    untestable = [p["id"] for p in points if p["ends"] == "not testable here"]
    assert untestable == [19, 20, 22, 23, 24], "the others can be measured on stand-ins"
    for point in measured:
        assert point.get("see"), f"point {point['id']} does not say where it is shown"
        number = r"\{(?!profile)\w+"
        assert re.search(number, point["result"]), f"point {point['id']} gives no number"
    for point in points:
        named = r"\w\.(py|json|csv)\b|score table"
        assert re.search(named, point["point"]), f"point {point['id']} names no file or table"


def test_an_unknown_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "critique.yaml"
    path.write_text("- {id: 1, point: p, ends: somewhere, result: r}\n")
    with pytest.raises(IntegrityError, match="point 1 ends as 'somewhere'"):
        load_critique(path)


SLIPS = {"off_before": -0.01, "off_after": -0.02, "best_epoch": 0.003, "zeros": "4% at n = 20"}
SLIPS |= {"answers": "no model is asked"}


def test_critique_is_filled_with_numbers_of_the_tables(
    authors: pd.DataFrame, spread: pd.DataFrame
) -> None:
    findings = {f.claim.key: f for f in judge_claims(load_claims(), authors)}
    model = load_profile("mini").text_models[0]
    measured = pd.DataFrame(
        {"claim": c.claim, "condition": c.condition, "difference": 0.0123}
        for c in conditions("toxicity-en", model)
    )
    choices = two_choices(authors)
    contributed = read_bundles(RUNS)
    tower = {"source": "run", "protocol": "nested", "probe": "linear", "task": "digits"}
    tower |= {"kind": "image", "toy": True}
    run = make_scores([{**tower, "feature": "vision_tower", "macro_f1": 0.713}])
    known = (authors, findings, spread, choices, measured)
    numbers = critique_numbers(*known, contributed, run, "mini", SLIPS)
    table = critique_table(numbers).set_index("no.")
    assert not table["result"].str.contains("[{}]|nan|<NA>").any()
    assert "reaches 0.713 (chapter 7)" in table.loc[25, "result"]
    assert f"by {_nested_tfidf_by_hand(contributed):+.3f} (mean of 7" in table.loc[9, "result"]
    empty = make_scores([])
    alone = critique_table(critique_numbers(*known, empty, empty, "mini", SLIPS)).set_index("no.")
    assert "no shipped run here shows" in alone.loc[9, "result"]
    assert "no score, as that chapter has not run" in alone.loc[25, "result"]
    assert "+0.012" in table.loc[7, "result"]
    assert "0.380" in table.loc[9, "result"]
    assert "-0.010 where the SAE is read one block before" in table.loc[15, "result"]
    assert "On the mini profile no model is asked." in table.loc[21, "result"]
    assert "72 SAE configurations" in table.loc[1, "result"]
    assert "cannot show" in table.loc[13, "result"]


def _nested_tfidf_by_hand(contributed: pd.DataFrame) -> float:
    rows = contributed[(contributed["task"] == "sentiment") & (contributed["feature"] == "tfidf")]
    rows = rows[rows["train_fraction"].isna() | (rows["train_fraction"] == 1)]
    gaps = []
    for language in ("ar", "de", "es", "fr", "hi", "it", "pt"):
        native = rows[(rows["language"] == language) & (rows["train_language"] == language)]
        nested = native[native["protocol"] == "nested"]
        [authors_way] = native.loc[native["protocol"] == "published", "macro_f1"]
        gaps.append(nested["macro_f1"].mean() - authors_way)
    return float(np.mean(gaps))


def test_tasks_above_a_bound_are_counted_three_ways() -> None:
    choices = pd.DataFrame(
        {
            "task": ["a", "a", "b", "c"],
            "by_cv": [0.9, 0.6, 0.7, 0.99],
            "on_test": [1.0, 0.8, 0.81, 0.99],
        }
    )
    recipe = pd.Series({"a": 0.82, "b": 0.86})
    ways = ("fixed recipe", "chosen by cross-validation", "best on test")
    [low, high] = tasks_above(choices, recipe, [0.8, 0.85]).to_dict("records")
    assert low == {"above": 0.8, **dict(zip(ways, (2, 0, 2), strict=True)), "tasks": 2}
    assert high == {"above": 0.85, **dict(zip(ways, (1, 0, 1), strict=True)), "tasks": 2}


def test_pages_say_no_more_than_was_measured() -> None:
    """Words that a reader took for more than they meant, on pages, in data and in warnings."""
    pages = [ROOT / "README.md", *ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    pages += [*ROOT.glob("mosaic/assets/*.yaml"), *ROOT.glob("mosaic/**/*.py")]
    wrong = ("built in", "built-in", "safe choice", "result is the same", "last bits")
    wrong += ("is a matter of one GPU", "repeats what", "differences are no larger than what")
    for page in pages:
        text = re.sub(r"[\s\"\\]+", " ", page.read_text(encoding="utf-8")).lower()
        assert not [words for words in wrong if words.lower() in text], page


def test_what_noise_alone_would_give_stands_beside_the_count(
    authors: pd.DataFrame, spread: pd.DataFrame
) -> None:
    findings = {f.claim.key: f for f in judge_claims(load_claims(), authors)}
    inside, of = within_noise(spread, hidden_pairs(findings))
    assert (inside, of, round(0.95 * of)) == (137, 217, 206)
    [point] = [p for p in load_critique() if p["id"] == 3]
    assert "{within_expected}" in point["result"]
