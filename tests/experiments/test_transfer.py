"""Transfer between languages: what is learnt where, what chapter 04 shares, what is drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from joblib import parallel_config
from places import RUNS
from scipy import sparse

from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.load import load_task
from mosaic.data.splits import inner_folds, make_split
from mosaic.data.training_part import joined, thin, without_items
from mosaic.errors import ConfigError
from mosaic.evidence.bundle_rules import read_manifest
from mosaic.evidence.bundles import bundle_grids, bundle_transfers, read_bundle
from mosaic.evidence.comparisons import shared_numbers
from mosaic.evidence.published import best_on_test, published_scores
from mosaic.evidence.transfer import (
    above_chance,
    labels_worth,
    native_and_away,
    per_language,
    scored_once,
    transfer_numbers,
    worth_in_words,
)
from mosaic.experiments.transfer import (
    choose_depth,
    compare_transfer,
    floor_pairs,
    languages_of,
    native_pairs,
    selected_latents,
    several_sources,
    source_pairs,
    transfer_cells,
    transfer_features,
)
from mosaic.extraction.features import Block
from mosaic.figures.transfer import fig_multilingual, fig_shared_latents, fig_transfer_matrix
from mosaic.probes.select import Candidate
from mosaic.scores.choose import select_by_cv
from mosaic.scores.table import make_scores, read_scores, write_scores
from mosaic.sweep.cells import Cell, recipe_cells
from mosaic.sweep.compare import mean_over_seeds
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells
from mosaic.sweep.source import Source, fit

LANGUAGES = ("en", "de", "zh")
KEYS = [f"mood-{language}" for language in LANGUAGES]
N_DOCS, WIDTH, LEAK = 120, 48, 47
SAES = tuple(SAESpec(layer, "48", folder="toy") for layer in (3, 5))
MODEL = ModelSpec("toy", "toy", layers={"middle": 3, "late": 5}, saes=SAES)
BLOCKS = {(layer, width): f"{layer} {width}" for layer in (3, 5) for width in (None, "48")}
WORDS = {"en": "bad good", "de": "schlimm gut", "zh": "坏 好"}


class Named:
    """Names blocks as an extraction does."""

    def block(self, layer: int, width: str | None) -> Block:
        return Block(layer, width, BLOCKS[layer, width])


class World:
    """Three languages: latents 0-3 tell the label in all of them, four more in one only."""

    def __init__(self, folder: Path) -> None:
        self.latents: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        entry = {
            "name": "mood",
            "role": "sentiment",
            "dataset": "toy/mood",
            "split": "train",
            "input_field": "text",
            "label_field": "label",
            "label_names": ["bad", "good"],
            "group_field": "item",
            "licence": "MIT",
            "section": "4.4",
            "languages": {language: {"config": language} for language in LANGUAGES},
        }
        (folder / "tasks.yaml").write_text(yaml.safe_dump([entry]))
        data = folder / "data" / "toy" / "mood"
        data.mkdir(parents=True)
        header = "---\nconfigs:\n"
        for i, language in enumerate(LANGUAGES):
            rng = np.random.default_rng(i)
            y = rng.integers(0, 2, N_DOCS)
            values = rng.gamma(1.0, size=(N_DOCS, WIDTH)) * (rng.random((N_DOCS, WIDTH)) < 0.3)
            values[:, :4] += rng.poisson(0.3 + 1.5 * y[:, None], (N_DOCS, 4))
            values[:, 8 + 8 * i : 12 + 8 * i] += rng.poisson(0.5 + y[:, None], (N_DOCS, 4))
            values[:, LEAK] = 0
            self.latents[f"mood-{language}"], self.labels[f"mood-{language}"] = values, y
            words = WORDS[language].split()
            table = {
                "id": [f"{language}-{n:03d}" for n in range(N_DOCS)],
                "text": [f"{words[label]} {language} {n}" for n, label in enumerate(y)],
                "label": y,
                "item": [n if n < 40 else 1000 * (i + 1) + n for n in range(N_DOCS)],
            }
            pd.DataFrame(table).to_parquet(data / f"{language}.parquet")
            header += f"- config_name: {language}\n  data_files:\n"
            header += f"  - split: train\n    path: {language}.parquet\n"
        (data / "README.md").write_text(header + "---\n")
        profile = Profile(
            name="toy",
            catalogue=str(folder / "tasks.yaml"),
            models=(MODEL,),
            tasks=tuple(KEYS),
            data_dir=str(folder / "data"),
        )
        self.workspace = Workspace(profile, folder / "build", "toy")

    def matrix(self, source: Source, cell: Cell) -> object:
        values = self.latents[source.data.task.key]
        if cell.layer == 5:  # knows the test part by heart, and nothing else
            y, values = source.data.labels, np.zeros_like(values) + 2
            test = make_split(source.data, cell.seed).test
            values[test] = 9 * y[test][:, None]
        if cell.feature == "hidden":
            return values[:, :12].astype(np.float32)
        return sparse.csr_array(values > 1 if cell.threshold else values, dtype=np.float32)

    def data(self, key: str) -> object:
        return load_task(key, self.workspace.profile)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    for module in ("run", "source"):
        monkeypatch.setattr(f"mosaic.sweep.{module}.extract_for", lambda sources, cells: None)
    monkeypatch.setattr(Source, "matrix", lambda self, cell: made.matrix(self, cell))
    monkeypatch.setattr(Source, "_job", Named())
    with parallel_config(backend="threading"):  # other processes would not see the replacements
        yield made


def all_pairs(world: World, tfidf: bool = False, **options: object) -> list[Cell]:
    cells = transfer_cells(world.workspace.profile, KEYS, MODEL, k=4, **options)
    return [cell for cell in cells if tfidf or cell.feature != "tfidf"]


def test_all_pairs_of_languages_and_feature_sets(world: World) -> None:
    table = to_scores(score_cells(all_pairs(world, tfidf=True), world.workspace))
    pairs = table.groupby(["train_language", "language"]).size()
    assert len(pairs) == 9
    assert set(pairs) == {6}  # all, top-k and last-token latents, hidden last and mean, TF-IDF
    assert set(table["selection"].dropna()) == {"all", "topk"}
    assert set(table[table["selection"] == "topk"]["n_features"]) == {4}


def test_diagonal_is_the_native_cell_of_the_baselines_chapter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = [c for key in KEYS for c in recipe_cells(world.workspace.profile, key, MODEL, 0)]
    expected = {r.cell: r for r in score_cells(native, world.workspace)}
    diagonal = [c for c in all_pairs(world) if c.task == c.train_task and c.k is None]
    diagonal = [c for c in diagonal if c.feature == "hidden" or c.threshold]  # the recipe's cells
    assert set(diagonal) == set(native)
    # From here on nothing may be fitted: the cells on disk are the same ones.
    monkeypatch.setattr("mosaic.sweep.run.fit", lambda *a: pytest.fail("fitted again"))
    for result in score_cells(diagonal, world.workspace):
        assert result.row == expected[result.cell].row
        assert list(result.y_pred) == list(expected[result.cell].y_pred)


def test_a_native_cell_says_the_same_alone_and_beside_exported_ones(world: World) -> None:
    cells = all_pairs(world)
    diagonal = [c for c in cells if c.task == c.train_task]
    together = {r.cell: r for r in score_cells(cells, world.workspace)}
    elsewhere = replace(world.workspace, root=world.workspace.root / "other")
    for alone in score_cells(diagonal, elsewhere):
        beside = together[alone.cell]
        assert {**beside.row, "seconds": 0} == {**alone.row, "seconds": 0}
        assert list(beside.y_pred) == list(alone.y_pred)


def test_other_test_items_that_are_kept_out_make_another_cell(world: World) -> None:
    cell = next(c for c in all_pairs(world) if c.train_task == KEYS[0] and c.task == KEYS[1])
    score_cells([cell], world.workspace)

    def load(key: str, profile: Profile) -> object:
        data = load_task(key, profile)
        if key == KEYS[2]:
            data.inputs[0] += "!"
        return data

    score_cells([cell], world.workspace, load=load)
    assert len(list((world.workspace.cache / "cells").rglob("*.json"))) == 2


def test_cells_come_back_from_disk_in_the_order_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = all_pairs(world, fractions=(0.5, 1.0))
    first = score_cells(cells, world.workspace)
    monkeypatch.setattr("mosaic.sweep.run.fit", lambda *a: pytest.fail("fitted again"))
    again = score_cells(cells[::-1], world.workspace)[::-1]
    assert [r.cell for r in first] == cells
    assert [r.row for r in again] == [r.row for r in first]


def test_one_fit_serves_every_language_it_is_tested_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    monkeypatch.setattr("mosaic.sweep.run.fit", lambda *a: fits.append(1) or fit(*a))
    cells = [c for c in all_pairs(world) if c.task != c.train_task and c.feature == "hidden"]
    score_cells(cells, world.workspace)
    assert len(cells) == 12
    assert len(fits) == 6  # three languages, last and mean


def planted(world: World, everywhere: bool) -> dict[str, np.ndarray]:
    """Latents with the label itself in latent LEAK: in all rows, or in all but those trained on."""
    leaking = {}
    for key, values in world.latents.items():
        values = values.copy()
        values[:, LEAK] = 9 * world.labels[key]
        if key == KEYS[0] and not everywhere:
            values[make_split(world.data(key), 0).train, LEAK] = 0
        leaking[key] = values
    return leaking


def test_selection_scale_and_c_never_see_the_test_language_or_a_test_part(world: World) -> None:
    cells = [
        c for c in all_pairs(world) if c.train_task == KEYS[0] != c.task and c.feature == "sae"
    ]
    clean = score_cells(cells, world.workspace)
    for everywhere in (False, True):
        world.latents = planted(world, everywhere)
        folder = world.workspace.root / f"leak-{everywhere}"
        found = score_cells(cells, replace(world.workspace, root=folder))
        said = [list(r.y_pred) for r in found]
        if everywhere:  # the leak is worth much to whoever may learn it
            gains = [
                r.row["macro_f1"] - c.row["macro_f1"] for r, c in zip(found, clean, strict=True)
            ]
            assert min(gains) > 0.02
        else:
            assert said == [list(r.y_pred) for r in clean]
            assert [r.setting for r in found] == [r.setting for r in clean]
            assert [r.row["n_features"] for r in found] == [r.row["n_features"] for r in clean]


def test_the_depth_is_chosen_on_training_parts_only(world: World) -> None:
    assert choose_depth(world.workspace, KEYS[0], MODEL) == "middle"
    late = transfer_features(world.workspace.profile, KEYS[0], MODEL, 4, depth="late")
    assert {cell.layer for cell in late if cell.model} == {5}


def test_the_picture_of_selected_latents_is_of_training_parts_only(world: World) -> None:
    clean = selected_latents(world.workspace, KEYS, MODEL, k=4)
    for key, values in world.latents.items():
        values[make_split(world.data(key), 0).test, LEAK] = (
            9 * world.labels[key][make_split(world.data(key), 0).test]
        )
    leaking = selected_latents(world.workspace, KEYS, MODEL, k=4)
    pd.testing.assert_frame_equal(clean, leaking)
    kept = clean[clean["selected"]]
    assert set(kept.groupby("language").size()) == {4}
    assert LEAK not in set(kept["latent"])
    everywhere = set(kept[kept["n_languages"] == 3]["latent"])
    assert everywhere
    assert everywhere <= {0, 1, 2, 3}


def test_no_item_is_trained_on_in_one_language_and_tested_in_another(world: World) -> None:
    english = world.data(KEYS[0])
    others = [(world.data(key), make_split(world.data(key), 0)) for key in KEYS[1:]]
    home = make_split(english, 0)
    apart = without_items(home, english, others)
    tested = {g for data, split in others for g in data.groups[split.test].tolist()}
    trained = set(english.groups[apart.train].tolist())
    assert set(english.groups[home.train].tolist()) & tested
    assert not trained & tested
    assert set(home.train_ids) - set(apart.train_ids) == {
        i for i, g in zip(home.train_ids, english.groups[home.train], strict=True) if g in tested
    }
    cell = next(c for c in all_pairs(world) if c.train_task == KEYS[0] != c.task)
    row = score_cells([cell], world.workspace)[0].row
    assert row["n_train"] == len(apart.train)


def test_one_probe_learns_from_several_languages(world: World) -> None:
    """The same as a probe fitted by hand on the rows of both, one under the other."""
    cells = several_sources(world.workspace.profile, KEYS, MODEL, KEYS[0])
    assert len(cells) == 2 * 2 * 2, "languages, features and shares"
    results = score_cells(cells, world.workspace)
    for result in results:
        cell, shares = result.cell, []
        german, chinese = (world.data(key) for key in cell.train_tasks)
        others = [(world.data(key), make_split(world.data(key), 0)) for key in KEYS]
        for data in (german, chinese):
            part = thin(make_split(data, 0), data.labels, cell.train_fraction)
            shares.append(without_items(part, data, others))
        assert result.row["n_train"] == sum(len(part.train) for part in shares)
        assert result.row["train_language"] == "+".join(key[5:] for key in cell.train_tasks)
        described, y = [], []
        for data, part in zip((german, chinese), shares, strict=True):
            values = world.latents[data.task.key][part.train]
            described.append(values[:, :12] if cell.feature == "hidden" else values > 1)
            y.append(data.labels[part.train])
        X = np.vstack(described).astype(np.float32)
        rows = joined(list(zip((german, chinese), shares, strict=True)))
        assert list(rows.train_ids) == [i for part in shares for i in part.train_ids]
        by_hand = fit(
            cell,
            {"": Candidate(X if cell.feature == "hidden" else sparse.csr_array(X))},
            np.concatenate(y),
            replace(rows, train=np.arange(len(X))),
            world.workspace.profile.folds,
        )
        tested = make_split(world.data(cell.task), 0).test
        values = world.latents[cell.task][tested]
        values = values[:, :12] if cell.feature == "hidden" else sparse.csr_array(values > 1.0)
        assert list(by_hand.predict(values.astype(np.float32))) == list(result.y_pred)
    half, whole = (result.row["n_train"] for result in results[:2])
    assert half == pytest.approx(whole / 2, abs=3)
    pairs = source_pairs(cells, KEYS[0])
    english = score_cells(list(dict.fromkeys(b for _, b in pairs)), world.workspace)
    table = compare_transfer(pairs, [*results, *english])
    assert len(table) == 2 * 2 * 2
    assert set(table["trained_on"]) == {"mood-en+mood-zh", "mood-en+mood-de"}


def test_what_several_languages_teach_is_never_tested(world: World) -> None:
    """Neither a text of a test part nor its translation, and none on both sides of a fold."""
    data = [world.data(key) for key in KEYS[:2]]
    splits = [make_split(d, 0) for d in data]
    home = joined(list(zip(data, splits, strict=True)))
    assert home.train_groups is not None
    items = np.concatenate([d.groups[s.train] for d, s in zip(data, splits, strict=True)])
    shared = [g for g in set(items) if (items == g).sum() > 1]
    assert shared, "some texts stand in both languages"
    labels = np.concatenate([d.labels for d in data])[home.train]
    for fitted, scored in inner_folds(labels, home.train_groups, 5, 0):
        assert not set(items[fitted]) & set(items[scored])
    assert joined([(data[0], splits[0])]) is splits[0]
    alike = [replace(d, groups=None) for d in data]
    alike[1].inputs[splits[1].train[0]] = alike[0].inputs[splits[0].train[2]]
    linked = joined(list(zip(alike, splits, strict=True))).train_groups
    assert linked[2] == linked[len(splits[0].train)], "an equal text is one item"
    assert len(set(linked)) == len(linked) - 1


def test_equal_texts_count_as_one_item_without_groups(world: World) -> None:
    data, other = (replace(world.data(key), groups=None) for key in KEYS[:2])
    split, test = make_split(data, 0), make_split(other, 0)
    assert len(without_items(split, data, [(other, test)]).train) == len(split.train)
    other.inputs[test.test[0]] = data.inputs[split.train[3]]
    left = without_items(split, data, [(other, test)])
    assert set(split.train) - set(left.train) == {split.train[3]}


def test_smaller_fractions_lie_inside_larger_and_keep_the_classes(world: World) -> None:
    data = world.data(KEYS[0])
    split = make_split(data, 1)
    parts = [thin(split, data.labels, f) for f in (0.25, 0.5, 1.0)]
    assert list(parts[-1].train) == list(split.train)
    assert set(parts[0].train) < set(parts[1].train) < set(parts[2].train)
    share = np.mean(data.labels[split.train])
    for fraction, part in zip((0.25, 0.5), parts, strict=False):
        assert len(part.train) == pytest.approx(fraction * len(split.train), abs=1)
        assert np.mean(data.labels[part.train]) == pytest.approx(share, abs=0.02)
        assert list(part.test) == list(split.test)
    assert list(thin(split, data.labels, 0.25).train) == list(parts[0].train)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_outside_of_its_range_is_refused(world: World, fraction: float) -> None:
    data = world.data(KEYS[0])
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        thin(make_split(data, 0), data.labels, fraction)


def test_languages_with_other_labels_are_refused(world: World) -> None:
    def renamed(key: str, profile: Profile) -> object:
        data = load_task(key, profile)
        return replace(data, label_names=("no", "yes")) if key == KEYS[1] else data

    cell = next(c for c in all_pairs(world) if c.train_task == KEYS[0] and c.task == KEYS[1])
    with pytest.raises(ConfigError, match="equal labels"):
        score_cells([cell], world.workspace, load=renamed)


def test_native_minus_transferred_and_the_floors_are_paired(world: World) -> None:
    cells = all_pairs(world, True, seeds=(0, 1), origins=KEYS[:1])
    results = score_cells(cells, world.workspace)
    moved = compare_transfer(native_pairs(cells, KEYS[0]), results)
    assert len(moved) == 2 * 5
    assert set(moved["task"]) == set(KEYS[1:])
    assert set(moved["n_seeds"]) == {2}
    floors = compare_transfer(floor_pairs(cells, KEYS[0]), results)
    assert set(floors["second"]) == {"tfidf"}
    assert (floors["low"] > 0).all()  # the languages share no word for the label
    chance = above_chance(mean_over_seeds(results), "en")
    above = (chance["low"] > 0).groupby(chance["features"]).all()
    assert above["all latents, sum > 1"]
    assert not above["TF-IDF"]
    said = transfer_numbers(moved, floors, chance, bound=0.1)
    assert said["targets"] == said["above_floors"] == 2
    latents = moved[moved["first"].str.startswith("sae 48 sum") & moved["k"].isna()]
    assert said["lost_latents"] == pytest.approx(latents["difference"].mean())
    assert said["worst_lost"] == latents["difference"].max()
    assert transfer_numbers(moved, floors, chance, bound=1.0)["targets_usable"] == 2
    assert transfer_numbers(moved, floors, chance, bound=-1.0)["targets_usable"] == 0


def drawn(world: World) -> pd.DataFrame:
    rates = all_pairs(world, origins=KEYS[:1], fractions=(0.5, 1.0))
    cells = list(dict.fromkeys([*rates, *all_pairs(world, True)]))
    return mean_over_seeds(score_cells(cells, world.workspace))


def test_figures_hold_what_was_measured(world: World, tmp_path: Path) -> None:
    table = drawn(world)
    lines = fig_multilingual([table], tmp_path, origin="en")
    values = pd.read_csv(lines.csv)
    assert set(values["language"].dropna()) == {"de", "zh"}, "means name none"
    assert {"native", "trained on en"} == set(values["trained"])
    matrix = fig_transfer_matrix([table], tmp_path)
    assert len(pd.read_csv(matrix.csv)) == 9 * 6
    selected = selected_latents(world.workspace, KEYS, MODEL, k=4)
    picture = fig_shared_latents(selected, tmp_path)
    assert (
        f"{shared_numbers(selected)['shared_latents']} are shared by all 3 languages"
        in picture.caption.finding
    )
    for saved in (lines, matrix, picture):
        assert saved.png.stat().st_size > 10_000
        assert any(character.isdigit() for character in saved.caption.finding)


def test_rows_of_a_bundle_stand_beside_the_published_and_this_run(
    world: World, tmp_path: Path
) -> None:
    tiny.mixed_bundle(tmp_path / "runs")
    run = drawn(world).assign(task="sentiment").astype({"task": "string"})
    [moved] = bundle_transfers(tmp_path / "runs", "sae", "hidden")
    values = pd.read_csv(fig_transfer_matrix([moved, run], tmp_path).csv)
    theirs = values[values["source"] == "bundle"]
    assert set(theirs["task"]) == {"sentiment"}
    assert set(theirs["set"]) == {
        "all latents, sum > 1", "top-k latents, sum > 1", "all latents, last token",
        "hidden state, last token",
    }  # fmt: skip
    assert len(theirs) == 4 * 4
    assert set(theirs["macro_f1"]) == {0.6, 0.62, 0.65}, "no part of the training part, no audit"
    assert set(values["source"]) == {"bundle", "run"}

    elsewhere = [select_by_cv(t) for t in bundle_grids(tmp_path / "runs")]
    wide = per_language([best_on_test(published_scores()), *elsewhere], run)
    english = wide[wide["task"] == "sentiment"].set_index("source and feature")["en"]
    assert english["mine run: SAE latents"] == 0.6
    assert english["published scores: SAE latents"] > 0
    assert english["this run, profile toy: all latents, sum > 1"] > 0
    assert len(per_language([best_on_test(published_scores())], run)) < len(wide)


def test_every_floor_between_languages_is_drawn_whatever_its_folder_is_called(
    tmp_path: Path,
) -> None:
    runs, shipped = tmp_path / "runs", RUNS
    assert bundle_transfers(runs, "tfidf") == []
    tiny.mixed_bundle(runs)
    shutil.copytree(shipped / "tfidf-transfer-real-text", runs / "another-name")
    shutil.copytree(shipped / "tfidf-nested", runs / "native-only")
    shutil.copytree(shipped / "tfidf-transfer-real-text", runs / "zz-the-same-again")
    every = bundle_transfers(runs, "tfidf")
    part = every[0].query("seed == 0").assign(profile="shorter", model=pd.NA)
    found = scored_once([part, *every])
    assert [len(table) for table in found] == [len(every[0]), len(every[1])]
    assert scored_once([]) == []
    floor = fig_transfer_matrix(found, tmp_path, "fig-transfer-floor")
    values = pd.read_csv(floor.csv)
    assert set(values["profile"]) == {"encoder", "mine"}
    assert set(values["set"]) == {"TF-IDF"}
    table = native_and_away(found)
    assert list(table["pairs"]) == [64, 4]
    assert table["native"].iloc[0] > table["elsewhere"].iloc[0]
    assert " run" in floor.caption.finding


def test_scores_name_both_languages(world: World, tmp_path: Path) -> None:
    cells = all_pairs(world, fractions=(0.5,), origins=KEYS[:1])
    table = to_scores(score_cells(cells, world.workspace))
    again = read_scores(write_scores(table, tmp_path / "scores.csv"))
    assert set(again["train_fraction"]) == {0.5}
    assert set(again[again["language"] == "de"]["train_language"]) == {"en", "de"}


CURVE = {"source": "run", "protocol": "nested", "profile": "mine", "task": "toxicity"}
CURVE |= {"kind": "text", "toy": False, "probe": "linear", "feature": "sae", "model": "m"}
CURVE |= {"layer": 3, "width": "1k", "pooling": "sum", "selection": "all", "threshold": 1.0}


def curve(language: str, away: float, *native: float) -> list[dict[str, Any]]:
    """Native scores at 25, 50 and 100 texts of two seeds, .02 apart, and those trained on en."""
    rows = []
    for seed, by in ((0, -0.01), (1, 0.01)):
        cell = {**CURVE, "language": language, "seed": seed}
        for share, score in zip((0.25, 0.5, 1.0), native, strict=True):
            here = {"train_language": language, "train_fraction": share, "n_train": 100 * share}
            rows.append({**cell, **here, "macro_f1": score + by})
        rows.append({**cell, "train_language": "en", "n_train": 200, "macro_f1": away + by})
        rows[-1]["train_fraction"] = 1.0
    return rows


@pytest.mark.parametrize(
    ("away", "native", "said"),
    [
        (0.55, (0.5, 0.6, 0.7), "about 35"),  # half way from 25 to 50, by their logarithms
        (0.6, (0.5, 0.6, 0.7), "about 50"),
        (0.45, (0.5, 0.6, 0.7), "at most 25"),
        (0.5, (0.5, 0.6, 0.7), "at most 25"),
        (0.8, (0.5, 0.6, 0.7), "more than 100"),
        (0.65, (0.6, 0.7, 0.5), "about 35"),  # the first time, though it falls again
    ],
)
def test_what_english_training_is_worth_in_native_labels(
    away: float, native: tuple[float, ...], said: str
) -> None:
    early = {**curve("de", 0.1, *native)[0], "train_fraction": 0.1, "n_train": 10, "macro_f1": 0.99}
    rows = curve("de", away, *native) + curve("en", 0.5, 0.5, 0.5, 0.5)
    [row] = labels_worth([make_scores([*rows, early])], "en").to_dict("records")
    assert row["labels"] == said, "a share that not all seeds have is no point of the curve"
    assert (row["key"], row["n_train"]) == ("toxicity-de", 200)
    assert row["macro_f1"] == pytest.approx(away)


def test_what_english_training_is_worth_in_words() -> None:
    rows = curve("de", 0.4, 0.5, 0.6, 0.7) + curve("fr", 0.65, 0.5, 0.6, 0.7)
    table = labels_worth([make_scores(rows)], "en")
    assert worth_in_words(table) == "in 1 of 2 languages (this run, profile mine)"
    one = make_scores([{**row, "feature": "hidden", "selection": None} for row in rows])
    nothing = "in no language, for there is no curve"
    assert worth_in_words(labels_worth([one], "en")) == nothing
    whole = make_scores([r for r in rows if r["train_fraction"] == 1])
    assert worth_in_words(labels_worth([whole], "en")) == nothing, "one share is no curve"
    assert list(labels_worth([], "en").drop(columns="most")), "a page shows its columns"


def test_the_shipped_gemma_says_what_english_training_is_worth() -> None:
    """Its shares of the training part were run, and no page showed what they are worth."""
    shipped = bundle_transfers(RUNS, "sae", "hidden", whole=False)
    table = labels_worth(shipped, "en")
    latents = table[table["features"] == "all latents, sum > 1"]
    assert list(latents["key"]) == [f"toxicity-{x}" for x in ("es", "de", "ru", "zh")]
    assert (latents["most"] < 100).all()


def test_the_shipped_floor_has_every_pair_of_eight_languages() -> None:
    folder = RUNS / "tfidf-transfer-real-text"
    table = read_bundle(folder)
    assert set(table["feature"]) == {"tfidf"}
    pairs = table.groupby(["train_language", "language"]).size()
    assert len(pairs) == 64
    assert set(pairs) == {len(read_manifest(folder).seeds)}
    assert read_manifest(folder).command.startswith("mosaic transfer --profile encoder")
    native = table["train_language"] == table["language"]
    assert table[native]["macro_f1"].mean() > table[~native]["macro_f1"].mean() > 0.2


@pytest.mark.book
@pytest.mark.slow
def test_english_latents_beat_words_and_chance_in_three_other_languages(build_dir: Path) -> None:
    table = read_scores(build_dir / "runs" / "mini" / "scores" / "05_multilingual_transfer.csv")
    workspace = open_workspace("mini", str(build_dir))
    keys = languages_of("toxicity", workspace.profile)
    sae = table[(table["feature"] == "sae") & (table["task"] == "toxicity")]
    spec = workspace.profile.model(sae["model"].iloc[0])
    seeds = sorted(map(int, sae["seed"].unique()))
    cells = transfer_cells(workspace.profile, keys, spec, seeds=seeds, origins=["toxicity-en"])
    results = score_cells(cells, workspace)  # all of them are on disk
    moved = compare_transfer(native_pairs(cells, "toxicity-en"), results)
    floors = compare_transfer(floor_pairs(cells, "toxicity-en"), results)
    chance = above_chance(mean_over_seeds(results), "en")
    assert transfer_numbers(moved, floors, chance, bound=0.1)["above_floors"] >= 3
