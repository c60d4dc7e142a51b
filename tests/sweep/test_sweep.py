"""Scoring cells: once each, from disk afterwards, chosen without the test score."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from mosaic import ASSETS
from mosaic.config.profiles import Profile, load_profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import inner_folds
from mosaic.errors import ConfigError
from mosaic.evidence.bundles import bundle_origins, read_bundles, write_bundle
from mosaic.evidence.comparisons import wins
from mosaic.extraction import jobs
from mosaic.extraction.extract import models_with_tasks
from mosaic.publish.tables import readable
from mosaic.scores.choose import over_seeds, select_by_cv
from mosaic.scores.table import make_scores
from mosaic.sweep import run
from mosaic.sweep.cells import Cell, authors_cells, paper_grid
from mosaic.sweep.compare import at_the_edge, by_classifier, compare_cells, mean_over_seeds
from mosaic.sweep.results import ScoredCell, to_scores
from mosaic.sweep.run import score_cells


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A task whose words decide its label, and no model."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    filler = rng.choice(["stone", "river", "cloud", "table"], size=(80, 4))
    texts = [
        " ".join([*words, "left" if y else "good"]) for words, y in zip(filler, labels, strict=True)
    ]
    folder = tmp_path / "data" / "org" / "words"
    folder.mkdir(parents=True)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(folder / "train.parquet")
    entry = {"name": "words", "role": "intent", "dataset": "org/words", "split": "train"}
    entry |= {"input_field": "text", "label_field": "label", "licence": "MIT", "section": "none"}
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(yaml.safe_dump([entry]))
    data_dir = str(tmp_path / "data")
    profile = Profile("trial", str(catalogue), (), ("words",), data_dir=data_dir)
    return Workspace(profile, tmp_path / "build", "trial")


def cell_files(workspace: Workspace) -> list[Path]:
    return sorted((workspace.cache / "cells").rglob("*.json"))


CELLS = [Cell("words", "length"), Cell("words", "base_rate"), Cell("words", "length", seed=1)]


def test_cells_come_back_in_order_and_are_scored_once(workspace: Workspace) -> None:
    first = score_cells([*CELLS, CELLS[0]], workspace, n_jobs=1)
    assert [r.cell for r in first] == [*CELLS, CELLS[0]]
    files = cell_files(workspace)
    assert len(files) == len(CELLS)
    stamps = [f.stat().st_mtime_ns for f in files]
    again = score_cells(CELLS, workspace, n_jobs=1)
    assert [f.stat().st_mtime_ns for f in cell_files(workspace)] == stamps
    pd.testing.assert_frame_equal(to_scores(first[:3]), to_scores(again))


def test_other_caps_and_other_data_are_other_cells(workspace: Workspace) -> None:
    score_cells(CELLS[:1], workspace, n_jobs=1)
    smaller = replace(workspace, profile=replace(workspace.profile, n_train=32, n_test=16))
    [result] = score_cells(CELLS[:1], smaller, n_jobs=1)
    assert (result.row["n_train"], result.row["n_test"]) == (32, 16)
    assert len(cell_files(workspace)) == 2


def test_a_profile_says_in_how_many_folds_a_probe_is_chosen(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(labels: Any, groups: Any, n_folds: int, seed: int) -> Any:
        asked.append(n_folds)
        return inner_folds(labels, groups, n_folds, seed)

    monkeypatch.setattr("mosaic.probes.select.inner_folds", counted)
    for folds in (2, 4):
        changed = replace(workspace, profile=replace(workspace.profile, folds=folds))
        score_cells(CELLS[:1], changed, n_jobs=1)
    assert asked == [2, 4]
    assert len(cell_files(workspace)) == 2, "chosen in other folds it is another cell"


def test_other_groups_are_another_cell(workspace: Workspace) -> None:
    [before] = score_cells(CELLS[:1], workspace, n_jobs=1)

    def grouped(key: str, profile: Profile) -> TaskData:
        return replace(load_task(key, profile), groups=np.arange(80) // 8 * 2 + np.arange(80) % 2)

    [after] = score_cells(CELLS[:1], workspace, n_jobs=1, load=grouped)
    assert after.row["split"] != before.row["split"]
    assert len(cell_files(workspace)) == 2


def test_a_stored_cell_takes_the_names_of_the_profile_that_reads_it(workspace: Workspace) -> None:
    [first] = score_cells(CELLS[:1], workspace, n_jobs=1)
    other = replace(workspace, profile=replace(workspace.profile, name="other"))
    [again] = score_cells(CELLS[:1], other, n_jobs=1)
    assert again.row == {**first.row, "profile": "other"}
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert len(cell_files(workspace)) == 1


def test_every_row_says_what_the_task_asks_and_whether_it_is_a_toy(workspace: Workspace) -> None:
    def changed(**fields: Any) -> dict[str, Any]:
        def load(key: str, profile: Profile) -> TaskData:
            data = load_task(key, profile)
            return replace(data, task=replace(data.task, **fields))

        return score_cells(CELLS[1:2], workspace, n_jobs=1, load=load)[0].row

    assert (changed()["kind"], changed()["toy"]) == ("text", False)
    assert changed(modality="image")["kind"] == "image"
    assert changed(label_model="m")["kind"] == "behaviour"
    assert changed(toy=True)["toy"] is True


def test_a_row_says_how_many_test_documents_were_read_in_part(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = tiny.model_spec(tmp_path / "models")
    layer = next(iter(model.layers.values()))
    cell = Cell("words", "hidden", model.name, layer, pooling="mean")
    for max_length, cut in ((512, 0), (3, 17)):
        profile = replace(workspace.profile, models=(model,), max_length=max_length)
        [found, words] = score_cells(
            [cell, CELLS[0]], replace(workspace, profile=profile), n_jobs=1
        )
        assert (found.row["n_test"], found.row["n_cut"]) == (17, cut)
        assert words.row["n_cut"] is None, "no model reads it"
    assert "17 test documents read in part" in readable(to_scores([found, found]))[1]


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace("1", "2")])
def test_a_damaged_cell_is_named_set_aside_and_scored_anew(
    workspace: Workspace, caplog: pytest.LogCaptureFixture, damage: Callable[[str], str]
) -> None:
    [first] = score_cells(CELLS[:1], workspace, n_jobs=1)
    [path] = cell_files(workspace)
    damaged = damage(path.read_text())
    path.write_text(damaged)
    [again] = score_cells(CELLS[:1], workspace, n_jobs=1)
    assert f"{path.name} is damaged" in caplog.text
    assert {**again.row, "seconds": 0} == {**first.row, "seconds": 0}
    assert path.with_name(f"{path.name}.corrupt-1").read_text() == damaged
    assert cell_files(workspace) == [path]
    [kept] = score_cells(CELLS[:1], workspace, n_jobs=1)
    assert kept.row == again.row


@pytest.mark.parametrize(
    ("what", "as_if"),
    [
        ("versions_of", lambda *names: {name: "0.0" for name in names}),
        ("code_digest", lambda *places: "other code"),
    ],
)
def test_other_libraries_and_other_code_score_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, what: str, as_if: Callable[..., object]
) -> None:
    score_cells(CELLS[:1], workspace, n_jobs=1)
    monkeypatch.setattr(run, what, as_if)
    score_cells(CELLS[:1], workspace, n_jobs=1)
    assert len(cell_files(workspace)) == 2


NO_NUMBERS = ("config", "errors", "storage", "data/load", "scores/table", "extraction/engines")
"""What names, keeps, loads (the key holds the documents) and runs in parallel."""


def test_the_key_holds_every_module_that_makes_a_score() -> None:
    package = ASSETS.parent
    for room in ("probes", "sweep"):
        for file in (package / room).glob("*.py"):
            for node in ast.parse(file.read_text()).body:  # features have keys of their own
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mosaic."):
                    path = str(node.module).removeprefix("mosaic.").replace(".", "/")
                    held = [place.removesuffix(".py") for place in (*run.SCORE_CODE, *NO_NUMBERS)]
                    assert path.startswith(tuple(held)), f"{file}: {path} is not in the key"
    for place in run.SCORE_CODE:
        assert (package / place).exists(), place
    assert {"torch", "transformers", "sae-lens", "scikit-learn"} <= set(run.LIBRARIES)


def test_one_loading_of_a_model_serves_all_tasks_and_label_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny.model_spec(tmp_path)
    profile = tiny.profile(spec)
    texts = [f"{i} some {'kind' if i % 2 else 'rude'} words" for i in range(40)]
    first, second = tiny.task_data(texts), tiny.task_data([f"{text} more" for text in texts])
    right = replace(first.task, name="asked", label_model="m")
    data = {
        "one": first,
        "two": replace(second, task=replace(second.task, name="two")),
        "asked": replace(first, task=right),
        "again": replace(first, task=replace(right, label_model="n"), labels=1 - first.labels),
    }
    loads, shards = [], []
    real = jobs.load_workers

    def load_workers(work: Any) -> Any:
        loads.append(1)
        shards.extend((job.data.fingerprint, shard) for job, shards in work for shard in shards)
        return real(work)

    monkeypatch.setattr("mosaic.extraction.jobs.load_workers", load_workers)
    layer, width = spec.saes[0].layer, spec.saes[0].width
    cells = [Cell(key, "sae", spec.name, layer, width, "max") for key in data]
    cells += [Cell("two", "hidden", spec.name, layer, pooling="mean")]
    found = score_cells(
        cells,
        Workspace(profile, tmp_path / "build", "tiny"),
        n_jobs=1,
        load=lambda key, _: data[key],
    )
    assert [result.cell for result in found] == cells
    assert len(loads) == 1
    assert len(shards) == len(set(shards)), "label sets of one text share its extraction"


def test_a_cell_without_its_model_says_what_is_missing(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="must name a model, a layer and a pooling"):
        score_cells([Cell("words", "hidden")], workspace, n_jobs=1)
    with pytest.raises(ConfigError, match="has no model 'gemma'"):
        score_cells([Cell("words", "hidden", "gemma", 1, pooling="mean")], workspace, n_jobs=1)


ROW = {"source": "run", "protocol": "nested", "task": "t", "language": "en", "probe": "linear"}
ROW |= {"kind": "text", "toy": False}


def test_selection_looks_at_cross_validation_only() -> None:
    rows = [
        {**ROW, "feature": "sae", "layer": 1, "macro_f1": 0.99, "cv_accuracy": 0.6},
        {**ROW, "feature": "sae", "layer": 2, "macro_f1": 0.50, "cv_accuracy": 0.8},
        {**ROW, "feature": "hidden", "pooling": "last", "macro_f1": 0.7, "cv_accuracy": 0.7},
        {**ROW, "feature": "hidden", "pooling": "mean", "macro_f1": 0.6, "cv_accuracy": 0.9},
    ]
    chosen = select_by_cv(make_scores(rows))
    assert chosen[chosen["feature"] == "sae"]["layer"].tolist() == [2]
    assert chosen["pooling"].dropna().tolist() == ["last", "mean"], "two baselines, not a choice"
    changed = [{**row, "macro_f1": 1 - row["macro_f1"]} for row in rows]
    again = select_by_cv(make_scores(changed))
    assert again["layer"].dropna().tolist() == chosen["layer"].dropna().tolist()


def test_a_seed_counts_once_over_several_tables() -> None:
    row = {"source": "run", "protocol": "nested", "feature": "tfidf", "task": "a"}
    row |= {"kind": "text", "toy": False, "probe": "linear", "n_train": 8, "n_test": 2}
    one, two = {**row, "seed": 0, "macro_f1": 0.4}, {**row, "seed": 1, "macro_f1": 0.6}
    mean = {**row, "repeat": 2, "macro_f1": 0.5}
    [found] = over_seeds(make_scores([one, two, mean, one]), ["task", "protocol"]).to_dict(
        "records"
    )
    assert (found["seeds"], found["macro_f1"], found["n_test"]) == (2, 0.5, 2)
    assert (found["lowest"], found["highest"]) == (0.4, 0.6)


def test_wins_tell_level_from_behind() -> None:
    row = {"source": "run", "protocol": "nested", "probe": "linear", "kind": "text", "toy": False}
    rows = []
    for task, sae, tfidf in (("a", 0.9, 0.8), ("b", 1.0, 1.0), ("c", 0.5, 0.6), ("d", 0.5, None)):
        rows.append({**row, "task": task, "feature": "sae", "macro_f1": sae})
        if tfidf is not None:
            rows.append({**row, "task": task, "feature": "tfidf", "macro_f1": tfidf})
    found = wins(make_scores(rows), "SAE latents", "TF-IDF")
    assert (found.ahead, found.level, found.behind, found.of) == (1, 1, 1, 3)
    assert str(found) == "ahead in 1 of 3 (level in 1, behind in 1)"
    assert str(wins(make_scores(rows[:2]), "SAE latents", "TF-IDF")) == "ahead in 1 of 1"
    assert wins(make_scores(rows), "SAE latents", "prompt length").of == 0


def test_seeds_are_averaged_and_compared_in_pairs(workspace: Workspace) -> None:
    seeds = (0, 1, 2)
    words = [Cell("words", "tfidf", seed=s) for s in seeds]
    lengths = [Cell("words", "length", seed=s) for s in seeds]
    results = score_cells([*words, *lengths], workspace, n_jobs=1)
    means = mean_over_seeds(results)
    assert means["repeat"].tolist() == [3, 3]
    by_hand = np.mean([r.row["macro_f1"] for r in results if r.cell.feature == "length"])
    row = means[means["feature"] == "length"].iloc[0]
    assert row["macro_f1"] == pytest.approx(by_hand)
    assert row["macro_f1_low"] <= by_hand <= row["macro_f1_high"]
    [line] = compare_cells([(words[0], lengths[0])], results).to_dict("records")
    assert line["difference"] > 0.1
    assert line["low"] > 0
    assert line["p_holm"] < 0.05
    assert line["n_seeds"] == 3


def test_the_authors_classifiers_stand_beside_the_nested_probe() -> None:
    recipe = {**ROW, "feature": "sae", "depth": "middle", "pooling": "sum", "threshold": 1.0}
    recipe |= {"selection": "all", "model": "m", "width": "1k", "language": None}
    tree = {**recipe, "probe": "tree", "protocol": "published"}
    rows = [
        {**recipe, "seed": 0, "macro_f1": 0.8},
        {**recipe, "seed": 1, "macro_f1": 0.1},
        {**recipe, "seed": 0, "macro_f1": 0.2, "k": 8, "selection": "topk"},
        {**tree, "macro_f1": 0.6},
        {**tree, "macro_f1": 0.5, "source": "published"},
        {**tree, "macro_f1": 0.7, "source": "published"},
        {**recipe, "task": "no tree", "macro_f1": 0.9},
    ]
    found = by_classifier(make_scores(rows), "tree, published").set_index("source")
    assert list(found.columns[3:]) == ["tree, published", "linear, nested"]
    assert found.loc["run", ["tree, published", "linear, nested"]].tolist() == [0.6, 0.8]
    assert found.loc["published", "tree, published"] == 0.6
    assert len(found) == 2
    assert by_classifier(make_scores(rows[:3]), "tree, published").empty


def test_the_authors_cells_are_the_recipe_under_their_protocol(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path, widths=(96, 192))
    cells = authors_cells(tiny.profile(spec), ["a", "b"], "tree")
    assert [cell.task for cell in cells] == ["a", "b"]
    assert {(c.width, c.layer, c.pooling, c.threshold) for c in cells} == {("96", 2, "sum", 1.0)}
    assert {(cell.probe, cell.protocol) for cell in cells} == {("tree", "published")}


def test_a_sweep_survives_as_a_bundle(workspace: Workspace, tmp_path: Path) -> None:
    table = to_scores(score_cells(CELLS, workspace, n_jobs=1))
    write_bundle(tmp_path / "runs" / "words", table, "words", "mosaic sweep ...")
    read = read_bundles(tmp_path / "runs")
    assert set(read["source"]) == {"bundle"}
    assert read["macro_f1"].tolist() == table["macro_f1"].tolist()
    assert "mosaic sweep" in bundle_origins(tmp_path / "runs")[0]


def test_no_bundle_is_an_empty_table(tmp_path: Path) -> None:
    assert read_bundles(tmp_path / "nothing").empty


def test_a_model_is_given_texts_of_its_languages_only() -> None:
    profile = load_profile("gemma-local")
    gemma, english = profile.models
    grid = paper_grid(profile, profile.tasks)
    tasks = {m.name: {cell.task for cell in grid if cell.model == m.name} for m in profile.models}
    assert tasks[gemma.name] == set(profile.tasks)
    assert tasks[english.name] == {
        "jailbreak-stand-in",
        "banking77",
        "scenario",
        "intent",
        "toxicity-en",
        "sentiment-en",
    }
    work = {model.name: {task.key for task in found} for model, found in models_with_tasks(profile)}
    assert work == tasks


def test_choices_at_the_edge_of_the_strengths_on_offer_are_counted() -> None:
    nothing = np.zeros(0)

    def scored(setting: float | None, probe: str = "linear") -> ScoredCell:
        cell = Cell("t", "hidden", probe=probe)
        return ScoredCell(cell, {}, nothing, nothing, nothing, nothing, setting)

    chosen = [scored(c) for c in (0.03, 3000.0, 300.0, 3000.0, None)]
    assert at_the_edge([*chosen, scored(12, "tree")]) == (2, 4)
