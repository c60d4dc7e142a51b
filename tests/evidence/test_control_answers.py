"""What the scores of controls come to, and that nothing else counts them."""

from __future__ import annotations

from collections import defaultdict
from csv import DictReader
from typing import Any

import numpy as np
import pandas as pd
import pytest
from places import ROOT

from mosaic.config.choices import CONTROLS
from mosaic.evidence.bundles import read_bundle
from mosaic.evidence.claims import judge_claims, load_claims
from mosaic.evidence.equal_terms import (
    ALIKE,
    OFFERED,
    asked_contrasts,
    asked_in_words,
    chooser_contrasts,
    control_contrasts,
    effects_by_source,
    sparse_contrasts,
)
from mosaic.figures.controls import fig_controls, fig_small_data
from mosaic.scores.controls import control_rows, quality_table, small_data_curve, sparse_table
from mosaic.scores.table import make_scores

TASKS = [f"task{i}" for i in range(8)]

COMMON = {
    **{"source": "run", "protocol": "nested", "profile": "mine", "model": "m", "layer": 9},
    **{"depth": "middle", "kind": "text", "toy": False, "probe": "linear", "scaling": "auto"},
    **{"train_fraction": 1.0, "n_train": 600, "auroc": 0.9, "brier": 0.1, "ece": 0.05},
}

NOTHING = {"model": None, "layer": None, "depth": None, "scaling": None}


def scores(**means: float) -> pd.DataFrame:
    """Two seeds of eight tasks; `means` are the macro-F1 of sae, random, rotated, pca, mean, max,
    joined, last and tfidf, which tasks move up and down together. Latents kept by k and a run with
    64 texts are 0.1 lower."""
    f1 = dict.fromkeys(("rotated", "pca", "max", "joined", "last", "tfidf"), 0.5) | means
    rows: list[dict[str, Any]] = []

    def add(task: str, value: float, **cell: Any) -> None:
        move = 0.01 * TASKS.index(task)
        for seed in (0, 1):
            score = value + move + 0.002 * seed
            row = {**COMMON, "task": task, "seed": seed, "macro_f1": score, "cv_accuracy": score}
            rows.append(row | cell)

    for task in TASKS:
        for pooling, down in (("sum", 0.0), ("max", 0.02)):
            latents = {"pooling": pooling, "selection": "all"}
            add(task, f1["sae"] - down, feature="sae", width="4k", **latents)
            for kind in ("random", "rotated", "pca"):
                named = {"feature": "control", "width": f"4k {kind}", **latents}
                add(task, f1[kind] - down, **named)
        few = {"pooling": "sum", "selection": "topk", "k": 5}
        add(task, f1["sae"] - 0.1, feature="sae", width="4k", **few)
        add(task, f1["random"] - 0.2, feature="control", width="4k random", **few)
        for size in (64, 250):
            part = {"pooling": "sum", "selection": "all", "train_fraction": size / 600}
            part["n_train"] = size - 1
            add(task, f1["sae"] - 0.1 + size / 10_000, feature="sae", width="4k", **part)
            add(task, f1["random"] - 0.1, feature="control", width="4k random", **part)
        for name, pooling in (("mean",) * 2, ("max",) * 2, ("joined", "mean+max"), ("last",) * 2):
            add(task, f1[name], feature="hidden", pooling=pooling)
        add(task, f1["tfidf"], feature="tfidf", **NOTHING)
    return make_scores(rows)


def test_effects_by_hand() -> None:
    table = scores(sae=0.7, random=0.6, rotated=0.65, pca=0.71, mean=0.7, max=0.6, joined=0.72)
    found = control_contrasts(table)
    effects = {name: round(float(f.effect), 6) for name, f in found.items()}
    assert effects == {
        "random dictionary": 0.1,
        "SAE, rotated input": 0.05,
        "signed PCA": -0.01,
        ALIKE: pytest.approx((0 + 0.08) / 2),  # sum with mean, max with max
        "hidden state, mean+max": -0.03,  # mean of both poolings of the SAE
        "hidden state, last token": 0.19,
        "TF-IDF": 0.19,
    }
    assert {f.n_tasks for f in found.values()} == {8}
    assert found["random dictionary"].p_holm == pytest.approx(7 * 2 / 2**8)


def test_every_contrast_of_the_gemma_run_again_from_its_file() -> None:
    """Another implementation, by loops over the rows of the file: equal to three digits."""
    folder = ROOT / "book" / "runs" / "gemma-local"
    with (folder / "scores.csv").open(encoding="utf-8") as lines:
        rows = [
            row
            for row in DictReader(lines)
            if row["seed"] == "0" and row["layer"] in ("9", "") and row["kind"] == "text"
            if row["model"] in ("gemma-3-270m-q4", "") and row["train_language"] == row["language"]
            if row["protocol"] == "nested" and float(row["train_fraction"] or 1) == 1
        ]

    def scored(feature: str, pooling: str = "", width: str = "", k: str = "") -> dict[Any, float]:
        return {
            (row["task"], row["language"]): float(row["macro_f1"])
            for row in rows
            if (row["feature"], row["pooling"], row["width"]) == (feature, pooling, width)
            and not row["threshold"] and (row["k"] or "").removesuffix(".0") == k
        }  # fmt: skip

    sae = {pooling: scored("sae", pooling, "4k") for pooling in ("sum", "max")}
    others = {
        f"{name}, {pooling}": scored("control", pooling, f"4k {kind}")
        for kind, name in CONTROLS.items()
        for pooling in sae
    }
    others |= {f"{ALIKE}, {p}": scored("hidden", q) for p, q in (("sum", "mean"), ("max", "max"))}
    plain = {name: scored("hidden", name.split()[-1]) for name in ("hidden state, mean+max",)}
    plain |= {"hidden state, last token": scored("hidden", "last"), "TF-IDF": scored("tfidf")}
    others |= {f"{name}, {pooling}": its for name, its in plain.items() for pooling in sae}
    gaps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, its in others.items():
        contrast, pooling = name.rsplit(", ", 1)
        for key, value in its.items():
            gaps[contrast][key[0]].append(sae[pooling][key] - value)
    table = read_bundle(folder)
    found = control_contrasts(table)
    assert set(found) == set(gaps)
    for k in ("1", "5", "20"):
        trained, random = scored("sae", "sum", "4k", k), scored("control", "sum", "4k random", k)
        for key, value in random.items():
            gaps[f"random dictionary, {k} latents"][key[0]].append(trained[key] - value)
    found |= sparse_contrasts(table)
    for name, tasks in gaps.items():
        by_task = {task: float(np.mean(values)) for task, values in tasks.items()}
        assert found[name].by_task.to_dict() == pytest.approx(by_task, abs=5e-4), name
        assert found[name].effect == pytest.approx(np.mean(list(by_task.values())), abs=5e-4)


def test_a_difference_of_few_latents_by_hand() -> None:
    table = scores(sae=0.7, random=0.6, mean=0.6)
    alone = table[(table["k"] == 5) & (table["feature"] == "sae")].assign(k=32)
    found = sparse_contrasts(pd.concat([table, alone]).astype(table.dtypes))
    assert list(found) == ["random dictionary, 5 latents"]
    assert found["random dictionary, 5 latents"].effect == pytest.approx(0.2)


def with_asked(table: pd.DataFrame) -> pd.DataFrame:
    """The scores, and what the model says itself: 0.3 zero-shot, 0.4 after four texts."""
    rows = table[table["feature"] == "tfidf"]
    own = {"feature": "asked", "probe": "none", "model": "m", "cv_accuracy": None, "scaling": None}
    shown = [(0, 0.0, 0.3), (4, 4 / 600, 0.4)]
    parts = [rows.assign(**own, n_train=n, train_fraction=s, macro_f1=f1) for n, s, f1 in shown]
    return make_scores(pd.concat([table, *parts]).to_dict("records"))


def test_the_model_asked_by_hand() -> None:
    plain = scores(sae=0.6, random=0.5, mean=0.5)
    table = with_asked(plain)
    # Sums 0.60 and maxima 0.58, tasks 0.01 apart (0.035 on average), seeds 0.002.
    found = asked_contrasts(table)
    assert list(found) == ["model asked, zero-shot", "model asked, few-shot"]
    for finding, f1 in zip(found.values(), (0.3, 0.4), strict=True):
        assert finding.effect == pytest.approx(0.59 + 0.035 + 0.001 - f1)
        assert finding.n_tasks == len(TASKS)
    said = asked_in_words({"a run": found, "another": asked_contrasts(plain)})
    assert said == (
        "a run, 0.326 higher (8 of 8 tasks) than the model asked, zero-shot and "
        "0.226 higher (8 of 8 tasks) than the model asked, few-shot"
    )
    assert asked_in_words({"another": {}}) == "no source asked its model"
    assert effects_by_source({"another": {}}).empty
    quality = quality_table([table]).set_index("features")["macro_f1"]
    assert quality["model asked, zero-shot"] == pytest.approx(0.3)
    assert quality["model asked, few-shot"] == pytest.approx(0.4)
    for contrasts in (control_contrasts, chooser_contrasts, sparse_contrasts):
        without, beside = contrasts(plain), contrasts(table)
        assert [f.effect for f in without.values()] == [f.effect for f in beside.values()]
    curve = small_data_curve(table, (64, 250))
    assert not curve["series"].str.startswith("model").any()
    claims = load_claims()
    assert [f.effect for f in judge_claims(claims, table)] == [
        f.effect for f in judge_claims(claims, plain)
    ]


def test_the_chooser_gains_what_it_takes() -> None:
    table = scores(sae=0.8, random=0.7, mean=0.75, max=0.6)
    found = chooser_contrasts(table)
    assert found[OFFERED].effect == pytest.approx(0.05)
    assert found["chooser, with the random dictionary"].effect == pytest.approx(0)
    blind = table.assign(cv_accuracy=np.where(table["feature"] == "sae", 0.99, 0.5))
    worse = blind.assign(macro_f1=blind["macro_f1"].mask(blind["feature"] == "sae", 0.3))
    assert chooser_contrasts(worse)[OFFERED].effect < -0.4, "the test score takes no part"


def test_only_cells_beside_the_controls_count() -> None:
    table = scores(sae=0.7, random=0.6, mean=0.6)
    before = effects_by_source({"run": control_contrasts(table)})
    elsewhere = table[table["feature"].isin(["sae", "hidden"])].assign(macro_f1=0.99)
    more = [elsewhere.assign(layer=5), elsewhere.assign(model="other"), elsewhere.assign(seed=7)]
    wide = elsewhere[elsewhere["feature"] == "sae"]
    more += [wide.assign(width="16k"), wide.assign(threshold=1.0), wide.assign(pooling="last")]
    all_rows = pd.concat([table, table.iloc[:40], *more]).astype(table.dtypes)
    after = effects_by_source({"run": control_contrasts(all_rows)})
    pd.testing.assert_frame_equal(before, after)


def test_probes_of_other_languages_and_shares_are_no_baseline_of_the_controls() -> None:
    """Chapter 05 leaves hidden states and TF-IDF of the same layer, trained on another language or
    on shares of its own: they moved the tables, the curve and what the chooser was offered."""
    table = scores(sae=0.7, random=0.6, mean=0.65)
    plain = table[table["feature"].isin(["hidden", "tfidf"])].assign(macro_f1=0.01, cv_accuracy=1.0)
    away = plain.assign(language="de", train_language="en")
    share = plain.assign(train_fraction=0.25, n_train=150)
    more = pd.concat([table, away, share, share.assign(language="de")]).astype(table.dtypes)
    for said in (
        lambda t: quality_table([t]),
        lambda t: sparse_table([t]),
        lambda t: small_data_curve(t, [64, 250]),
        lambda t: effects_by_source({"run": chooser_contrasts(t)}),
    ):
        pd.testing.assert_frame_equal(said(more), said(table))


def test_languages_of_a_task_weigh_as_one_task_in_every_table() -> None:
    """Two sets of thirteen languages made TF-IDF look lower than it is beside the contrasts."""
    table = scores(sae=0.7, random=0.6, mean=0.6)
    first = table[table["task"] == TASKS[0]]
    others = [first.assign(language=x, train_language=x) for x in ("de", "es", "zh")]
    more = pd.concat([table, *others]).astype(table.dtypes)
    pd.testing.assert_frame_equal(quality_table([more]), quality_table([table]))
    pd.testing.assert_frame_equal(sparse_table([more]), sparse_table([table]))


def test_claims_of_the_paper_do_not_see_controls() -> None:
    table = scores(sae=0.7, random=0.6, mean=0.6)
    without = judge_claims(load_claims(), table[table["feature"] != "control"])
    assert judge_claims(load_claims(), table) == without


def test_tables_by_hand() -> None:
    table = scores(sae=0.7, random=0.6, mean=0.6)
    quality = quality_table([table]).set_index(["features", "pooling"])
    middle = 0.01 * 3.5 + 0.001
    assert quality.loc[("SAE latents", "sum"), "macro_f1"] == pytest.approx(0.7 + middle)
    assert quality.loc[("random dictionary", "max"), "macro_f1"] == pytest.approx(0.58 + middle)
    assert quality.loc[("SAE latents", "sum"), "n_tasks"] == 8
    sparse = sparse_table([table])
    assert list(sparse["k"]) == ["5", "all"]
    assert list(sparse["SAE latents"]) == pytest.approx([0.6 + middle, 0.7 + middle])
    curve = small_data_curve(table, [16, 64, 250])
    curve = curve[curve["series"] == "SAE latents"]
    assert list(curve["n_train"]) == [64, 250], "the nearest size"
    assert list(curve["macro_f1"]) == pytest.approx([0.6064 + middle, 0.625 + middle])
    assert len(control_rows(table.assign(feature="sae"))) == 0


def test_figures_say_what_they_show(tmp_path: Any) -> None:
    table = scores(sae=0.7, random=0.6, mean=0.6)
    shown = fig_controls({"this run, profile mine": control_contrasts(table)}, tmp_path)
    assert "+0.100 (random dictionary)" in shown.caption.finding
    curve = fig_small_data([small_data_curve(table, [64, 250])], tmp_path)
    assert "SAE latents (0.642) is highest with 64 training texts" in curve.caption.finding
