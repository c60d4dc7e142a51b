"""Loading tasks from Hub-like folders, and the sentence for every way that can go wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mosaic.config.profiles import Profile, load_profile
from mosaic.config.tasks import load_catalogue
from mosaic.data.load import load_task, missing_reason
from mosaic.errors import AccessError, ConfigError, IntegrityError

ENTRY = {
    "name": "colour",
    "role": "sentiment",
    "dataset": "org/colour",
    "split": "train",
    "input_field": "text",
    "label_field": "label",
    "licence": "MIT",
    "section": "none",
}


def make(folder: Path, columns: dict[str, list], **entry: object) -> Profile:
    """A data folder with one Parquet dataset, and a profile whose catalogue describes it."""
    target = folder / "data" / "org" / "colour"
    target.mkdir(parents=True)
    pd.DataFrame(columns).to_parquet(target / "train.parquet")
    (target / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n---\n"
    )
    catalogue = folder / "catalogue.yaml"
    catalogue.write_text(yaml.safe_dump([{**ENTRY, **entry}]))
    return Profile(
        name="test",
        catalogue=str(catalogue),
        models=(),
        tasks=("colour",),
        data_dir=str(folder / "data"),
    )


COLUMNS = {"text": ["red", "green", "blue", "red"], "label": ["warm", "cold", "cold", "warm"]}


def test_rows_keep_their_order_and_labels_are_sorted_names(tmp_path: Path) -> None:
    data = load_task("colour", make(tmp_path, COLUMNS, rows=4, class_counts=[2, 2]))
    assert data.inputs == COLUMNS["text"]
    assert data.label_names == ("cold", "warm")
    assert data.labels.tolist() == [1, 0, 0, 1]
    assert data.labels.dtype == np.int64
    assert list(data.ids) == sorted(data.ids)
    assert len(set(data.ids)) == 4


def test_a_cap_on_documents_draws_a_fixed_sample_of_the_checked_set(tmp_path: Path) -> None:
    columns = {"text": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    profile = make(tmp_path, columns, rows=40)
    whole, some = load_task("colour", profile), load_task("colour", replace(profile, max_docs=10))
    assert len(some.inputs) == 10
    assert set(some.ids) < set(whole.ids)
    assert list(some.ids) == sorted(some.ids)
    assert list(some.ids) == list(load_task("colour", replace(profile, max_docs=10)).ids)
    assert some.inputs[3] == whole.inputs[list(whole.ids).index(some.ids[3])]
    assert load_task("colour", replace(profile, max_docs=40)).fingerprint == whole.fingerprint
    with pytest.raises(ConfigError, match="max_docs is 0, which does not fit .*greater than 0"):
        load_profile("mini", max_docs=0)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_are_left_as_they_were(tmp_path: Path, shown: bool) -> None:
    import datasets

    before = datasets.are_progress_bars_disabled()
    try:
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        load_task("colour", make(tmp_path, COLUMNS))
        assert datasets.are_progress_bars_disabled() is not shown
    finally:
        (datasets.disable_progress_bars if before else datasets.enable_progress_bars)()


def test_inputs_are_cast_as_the_authors_do(tmp_path: Path) -> None:
    columns = {"text": [["first", "second"], [], None, ["x"]], "label": [0, 1, 1, 0]}
    data = load_task("colour", make(tmp_path, columns))
    assert data.inputs == ["first", "", "", "x"]


def test_fingerprint_changes_with_any_content(tmp_path: Path) -> None:
    data = load_task("colour", make(tmp_path, COLUMNS))
    assert data.fingerprint == data.subset(np.arange(4)).fingerprint
    assert data.fingerprint != data.subset(np.array([1, 0, 2, 3])).fingerprint


def test_annotations_and_groups_come_along(tmp_path: Path) -> None:
    columns = {**COLUMNS, "hue": [1, 2, 3, 1], "question": ["a", "b", "b", "a"]}
    profile = make(tmp_path, columns, annotations=["hue"], group_field="question")
    data = load_task("colour", profile).subset(np.array([2, 0]))
    assert data.annotations["hue"].tolist() == [3, 1]
    assert data.groups is not None
    assert data.groups.tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("entry", "error", "says"),
    [
        ({"rows": 5}, IntegrityError, "has 4 rows where 5 were expected"),
        ({"input_field": "body"}, IntegrityError, "no field 'body'; it has"),
        ({"class_counts": [1, 3]}, IntegrityError, r"class counts \(2, 2\) where \(1, 3\)"),
        ({"label_names": ["cold"]}, IntegrityError, "unexpected label 'warm'"),
        (
            {"config": "other"},
            ConfigError,
            r"config 'other'.* does not exist: .*default.*\. Correct `config` or `split`",
        ),
        (
            {"split": "test"},
            ConfigError,
            r"split 'test' does not exist: .*train.*\. Correct `config` or `split` of the task",
        ),
        ({"dataset": "org/absent"}, AccessError, "needs a copy of that Hub dataset"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, entry: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        load_task("colour", make(tmp_path, COLUMNS, **entry))


@pytest.mark.parametrize("bad", [1.5, None])
def test_labels_of_the_wrong_type_are_refused(tmp_path: Path, bad: object) -> None:
    columns = {**COLUMNS, "label": [0, 1, bad, 1]}
    with pytest.raises(IntegrityError, match="labels must be integers, booleans or strings"):
        load_task("colour", make(tmp_path, columns))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    profile = make(tmp_path, COLUMNS)
    (tmp_path / "data/org/colour/train.parquet").unlink()
    with pytest.raises((AccessError, ConfigError), match="org/colour"):
        load_task("colour", profile)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    profile = make(tmp_path, COLUMNS)
    path = tmp_path / "data/org/colour/train.parquet"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_task("colour", profile)


def converted(folder: Path) -> Profile:
    """A set as the Hub converts a script-only one: a folder per configuration and no README."""
    for config in ("english", "spanish"):
        target = folder / "data" / "org" / "colour" / config / "test"
        target.mkdir(parents=True)
        columns = {"text": [f"{config} {i}" for i in range(4)], "label": [0, 1, 0, 1]}
        pd.DataFrame(columns).to_parquet(target / "0000.parquet")
    entry = {**ENTRY, "split": "test", "revision": "refs/convert/parquet"}
    entry["languages"] = {"en": {"config": "english"}, "es": {"config": "spanish"}}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump([entry]))
    catalogue, keys = str(folder / "catalogue.yaml"), ("colour-en", "colour-es")
    return Profile("test", catalogue, (), keys, data_dir=str(folder / "data"))


def test_a_converted_set_without_readme_has_a_folder_per_configuration(tmp_path: Path) -> None:
    profile = converted(tmp_path)
    for key, config in (("colour-en", "english"), ("colour-es", "spanish")):
        assert load_task(key, profile).inputs == [f"{config} {i}" for i in range(4)]


def test_the_hub_is_asked_for_the_folder_of_a_converted_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(source: str, **options: object) -> object:
        asked.append((source, options))
        raise FileNotFoundError("stop here")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for key, profile in (
        ("colour-en", replace(converted(tmp_path), data_dir=None)),
        ("sentiment-en", Profile("p", "paper", (), ("sentiment-en",))),
        ("piqa-questions", Profile("p", "paper", (), ("piqa-questions",))),
        ("toxicity-de", Profile("p", "paper", (), ("toxicity-de",))),
    ):
        with pytest.raises(AccessError):
            load_task(key, profile)
    folders = [(options.get("data_dir"), options.get("name")) for _, options in asked]
    assert folders[:3] == [("english", None), ("english", None), (None, "default")]
    assert folders[3][0] is None


def test_unknown_task_names_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No task 'shape'.*\['colour'\]"):
        load_task("shape", make(tmp_path, COLUMNS))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not readable YAML"),
        ("name: x", "must hold a list"),
        ("- 3", "must be a mapping"),
        ("- {name: x}", "missing"),
        (yaml.safe_dump([{**ENTRY, "colour": 1}]), "unknown field 'colour'"),
        (yaml.safe_dump([{**ENTRY, "role": "poetry"}]), "role is 'poetry'.*'safety'"),
        (yaml.safe_dump([{**ENTRY, "dataset": "no-org"}]), "<org>/<name>"),
        (yaml.safe_dump([ENTRY, ENTRY]), "twice"),
    ],
)
def test_bad_catalogues_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_catalogue(str(path))


def test_script_only_repositories_name_their_replacement() -> None:
    replaced = {t.name: t for t in load_catalogue("paper").values() if t.replaces}
    assert set(replaced) == {"sentiment", "pubmedqa-questions", "piqa-questions"}
    for task in replaced.values():
        assert task.revision == "refs/convert/parquet" or task.dataset not in str(task.replaces)


def test_missing_reason_says_what_to_set(tmp_path: Path) -> None:
    profile = make(tmp_path, COLUMNS, dataset="org/absent")
    task = load_catalogue(profile.catalogue)["colour"]
    assert "MOSAIC_DATA_DIR" in str(missing_reason(task, profile))


@pytest.mark.parametrize("name", ["mini", "paper"])
def test_what_a_catalogue_does_not_state_has_its_reason(name: str) -> None:
    for task in load_catalogue(name).values():
        missing = {
            "number of rows": task.rows is None,
            "label names": task.label_names is None,
            "licence": task.licence in ("", "unverified"),
        }
        for field, absent in missing.items():
            assert absent == (field in task.note), f"{task.key}: {field}, note {task.note!r}"
        assert re.fullmatch(r"4\.\d(-4\.\d)?", task.section), task.key


def test_both_catalogues_name_the_same_section_for_one_role() -> None:
    sections = {
        name: {t.role: t.section for t in load_catalogue(name).values()}
        for name in ("mini", "paper")
    }
    for role in ("behaviour", "vision"):
        assert sections["mini"][role] == sections["paper"][role]


def test_image_tasks_are_those_of_the_authors_configurations() -> None:
    images = {
        (t.dataset, t.split) for t in load_catalogue("paper").values() if t.modality == "image"
    }
    assert images == {
        ("renumics/cifar100-enriched", "test"),
        ("nelorth/oxford-flowers", "train"),
        ("nelorth/oxford-flowers", "test"),
        ("rajistics/indian_food_images", "test"),
        ("rajistics/indian_food_images", "train"),
        ("zh-plus/tiny-imagenet", "valid"),
        ("benjamin-paine/imagenet-1k-256x256", "validation"),
    }
