"""Settings are of their types, in a file or as an override, and every refusal is one sentence."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from mosaic import ASSETS
from mosaic.config import choices
from mosaic.config.choices import latents_named
from mosaic.config.profiles import ModelSpec, SAESpec, load_profile, profile_names
from mosaic.config.tasks import Task, load_catalogue, shipped_tasks
from mosaic.config.workspace import open_workspace
from mosaic.errors import ConfigError
from mosaic.experiments.behaviour import behaviour_cells
from mosaic.experiments.transfer import transfer_features
from mosaic.sweep.cells import all_recipes, paper_grid, recipe_cells

MODEL = {"name": "own", "source": "org/own", "layers": {"middle": 2}}
SAE = {"layer": 2, "width": "1k", "folder": "sae"}


def written(folder: Path, name: str = "mine", **content: Any) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ({"n_train": "100"}, "n_train is '100', which does not fit .*valid integer"),
        ({"n_train": True}, "n_train is True, which does not fit"),
        ({"n_test": 0}, "n_test is 0, which does not fit .*greater than 0"),
        ({"n_train": 10.5}, "n_train is 10.5, which does not fit"),
        ({"seeds": ["0"]}, "seeds: entry 1 is '0', which does not fit"),
        ({"bos": "both"}, "bos is 'both', which does not fit .*'drop' or 'keep'"),
        ({"dtype": "int8"}, "dtype is 'int8', .*'float16'"),
        ({"poolings": ["median"]}, "'median', which does not fit .*'top_n'"),
        ({"n_trian": 100}, "unknown field 'n_trian'; use one of .*'n_train'"),
        ({"seeds": {1, 2}}, "seeds is '{1, 2}', .*valid array"),
    ],
)
def test_overrides_are_of_the_type_they_replace(override: dict, says: str) -> None:
    for opened in (load_profile, open_workspace):
        with pytest.raises(ConfigError, match=says) as caught:
            opened("mini", **override)
        assert "'mini' with" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_overrides_that_fit_are_taken_as_they_are() -> None:
    profile = load_profile("mini", n_train=60, seeds=(3, 4), max_docs=None, thresholds=[1, 2.5])
    assert (profile.n_train, profile.seeds, profile.max_docs) == (60, (3, 4), None)
    assert profile.thresholds == (1.0, 2.5)
    assert replace(load_profile("mini"), n_train=60, seeds=(3, 4)).models == profile.models


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({**MODEL, "layers": {"deep": 2}}, "models 'own', layers: deep is 'deep', .*'middle'"),
        ({**MODEL, "layers": {"middle": "2"}}, "models 'own', layers: middle is '2', .*integer"),
        ({**MODEL, "kind": "audio"}, "models 'own': kind is 'audio', .*'text' or 'vision'"),
        ({**MODEL, "chat": "yes"}, "models 'own': chat is 'yes', .*boolean"),
        (
            {**MODEL, "saes": [{**SAE, "width": 256}]},
            "models 'own', saes 1: width is 256, .*string",
        ),
        (
            {**MODEL, "saes": [{**SAE, "size": 1}]},
            "saes 1: unknown field 'size'; use one of.*'width'",
        ),
        ({"name": "own", "layers": {}}, "models 'own': the field 'source' is missing"),
        ({**MODEL, "saes": [{"layer": 2, "width": "1k"}]}, "give one of `folder`, `train`, or"),
        (3, "models: entry 1 is 3, which does not fit .*object"),
    ],
)
def test_a_file_is_refused_by_its_first_fault(tmp_path: Path, model: Any, says: str) -> None:
    path = written(tmp_path, catalogue="paper", tasks=["reject"], models=[model])
    with pytest.raises(ConfigError, match=says):
        load_profile(path)


def test_paths_are_beside_the_file_with_a_base_as_without(tmp_path: Path) -> None:
    based = load_profile(written(tmp_path, base="mini", data_dir="texts"))
    assert based.data_dir == str(tmp_path / "texts")
    plain = load_profile(
        written(tmp_path, catalogue="paper", tasks=[], models=[{**MODEL, "saes": [SAE]}])
    )
    assert plain.models[0].saes[0].folder == str(tmp_path / "sae")
    assert plain.models[0].source == "org/own"
    assert load_profile("mini").data_dir == str(ASSETS / "mini" / "data")


def test_toys_are_known_whatever_the_profile_is_called(tmp_path: Path) -> None:
    assert all(model.toy for model in load_profile("mini").models)
    renamed = load_profile(written(tmp_path, base="mini", name="evidence"))
    assert all(model.toy for model in renamed.models)
    folder = ASSETS / "mini" / "models" / "mini-small"
    mine = {"name": "big", "source": str(folder), "layers": {"middle": 2}, "toy": False}
    real = {"name": "real", "source": "org/real", "layers": {"middle": 2}}
    path = written(tmp_path, catalogue="paper", tasks=[], models=[mine, real])
    assert [model.toy for model in load_profile(path).models] == [True, False]
    others = (load_profile(name) for name in profile_names() if name != "mini")
    assert not any(model.toy for profile in others for model in profile.models)


@pytest.mark.parametrize("content", ["[1]", "{", '{"toy": "yes"}', "{}"])
def test_metrics_of_another_kind_make_no_toy(tmp_path: Path, content: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "metrics.json").write_text(content)
    model = {**MODEL, "source": "./model"}
    profile = load_profile(written(tmp_path, catalogue="paper", tasks=[], models=[model]))
    assert not profile.models[0].toy


def test_the_fact_is_in_the_folders_themselves() -> None:
    for folder in (ASSETS / "mini" / "models").iterdir():
        assert json.loads((folder / "metrics.json").read_text())["toy"] is True


def test_tasks_are_of_one_kind_each() -> None:
    kinds = {task.key: task.kind for task in load_catalogue("paper").values()}
    assert kinds["banking77"] == "text"
    assert kinds["flowers"] == "image"
    assert kinds["pubmedqa-gemma-2-9b"] == kinds["boolq-questions"] == "behaviour"
    assert {key for key, kind in kinds.items() if kind == "translated"} == {
        key for key in kinds if "-translated" in key
    }
    assert all(task.toy == task.dataset.startswith("mosaic-mini/") for task in shipped_tasks())
    own = Task("snaps", "me/snaps", "image", "label", modality="image")
    assert (own.kind, replace(own, modality="text").kind) == ("image", "text")
    assert set(kinds.values()) == set(choices.KINDS)


@pytest.mark.parametrize(
    ("width", "number"),
    [("256", 256), ("16k", 16e3), ("1M", 1e6), ("1.5k", 1500), ("16k-l0-82", 16e3)]
    + [(name, None) for name in ("wide", "k", "", "-5", "0", "nan", "inf", "1e3", "16kk")],
)
def test_widths_are_numbers_or_names(width: str, number: float | None) -> None:
    assert latents_named(width) == number


BARE = ModelSpec("bare", "org/bare", {"middle": 2})
SHALLOW = ModelSpec("shallow", "org/s", {"early": 1}, (SAESpec(1, "1k", folder="sae"),))


def test_a_recipe_says_what_the_model_lacks() -> None:
    profile = replace(load_profile("mini"), models=(BARE,))
    for ask in (
        lambda: recipe_cells(profile, "t", BARE, 0),
        lambda: all_recipes(profile, ["t"]),
        lambda: behaviour_cells(profile, ["t"]),
        lambda: transfer_features(profile, "t", BARE, 8),
    ):
        with pytest.raises(ConfigError, match="'bare' has no SAE at layer 2, and here one is"):
            ask()
    with pytest.raises(ConfigError, match="'shallow' has no 'middle' layer, only .*'early': 1"):
        recipe_cells(profile, "t", SHALLOW, 0)
    assert {c.layer for c in transfer_features(profile, "t", SHALLOW, 8, depth="early")} == {
        1,
        None,
    }
    assert {cell.feature for cell in paper_grid(profile, ["t"], [BARE])} == {"hidden"}


def test_each_vocabulary_is_typed_once() -> None:
    words = {
        frozenset(value): name
        for name, value in vars(choices).items()
        if name.isupper() and isinstance(value, tuple)
    }
    again = []
    for path in sorted((ROOT / "mosaic").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            listed = [getattr(item, "value", None) for item in getattr(node, "elts", ())]
            if path.name != "choices.py" and frozenset(listed) in words:
                again.append((path.name, node.lineno, words[frozenset(listed)]))
    assert not again


def test_a_file_may_start_from_another_and_not_from_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: mini\nmax_length: 7\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.yaml").write_text("base: ../a.yaml\nmodels: [mini-small]\n")
    profile = load_profile(str(tmp_path / "below" / "b.yaml"))
    assert (profile.name, profile.max_length, len(profile.models)) == ("b", 7, 1)
    (tmp_path / "a.yaml").write_text("base: below/b.yaml\n")
    with pytest.raises(ConfigError, match="recursion"):
        load_profile(str(tmp_path / "a.yaml"))
