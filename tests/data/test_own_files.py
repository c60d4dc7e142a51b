"""An own file, folder or set becomes a task by one YAML file, or a sentence says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from mosaic.config.profiles import Profile, load_profile
from mosaic.config.tasks import Task
from mosaic.config.workspace import open_workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.own_files import read_texts
from mosaic.data.sources import refuse_shared_texts
from mosaic.data.splits import make_split
from mosaic.errors import AccessError, ConfigError, IntegrityError, MosaicError
from mosaic.experiments.own_data import fit_probe

TEXTS = [f"the {colour} {thing}" for colour in ("red", "blue") for thing in range(10)]
LABELS = ["warm"] * 10 + ["cold"] * 10


def own(folder: Path, **entry: object) -> Profile:
    """The profile of one YAML file that holds its task, with data beside it."""
    task = {"name": "mine", "dataset": "./mine.csv", "input_field": "text", "label_field": "label"}
    content = {"base": "mini", "models": ["mini-small"], "catalogue": [{**task, **entry}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_profile(str(folder / "mine.yaml"))


def write_csv(path: Path, **columns: list) -> None:
    pd.DataFrame(columns or {"text": TEXTS, "label": LABELS}).to_csv(path, index=False)


def write_jsonl(path: Path, rows: list[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(folder: Path, **entry: object) -> TaskData:
    return load_task("mine", own(folder, **entry))


def test_a_csv_is_a_task(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv")
    profile = own(tmp_path)
    assert (profile.name, profile.tasks, profile.n_train) == ("mine", ("mine",), None)
    assert [model.name for model in profile.models] == ["mini-small"]
    data = load_task("mine", profile)
    assert data.inputs == TEXTS
    assert data.label_names == ("cold", "warm")
    assert data.in_test is None


def test_quotes_commas_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    text = '\ufefftext,label\n"a, b",x\n"say ""no""\nthen go",y\nNA,x\n'
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    assert load(tmp_path).inputs == ["a, b", 'say "no"\nthen go', "NA"]


def test_jsonl_with_other_names_and_a_part_per_row(tmp_path: Path) -> None:
    rows = [
        {"body": text, "kind": int(label == "warm"), "part": "test" if i % 5 == 0 else "train"}
        for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    names = {"input_field": "body", "label_field": "kind", "split_field": "part"}
    data = load(tmp_path, dataset="./rows.jsonl", **names)
    assert data.label_names == ("0", "1")
    for seed in (0, 1):
        split = make_split(data, seed)
        assert split.test.tolist() == [0, 5, 10, 15]
        assert len(split.train) == 16
    assert (
        data.fingerprint
        != load(tmp_path, dataset="./rows.jsonl", **{**names, "split_field": None}).fingerprint
    )


def test_rows_without_a_group_stand_alone(tmp_path: Path) -> None:
    talks = ["a", None, "", "a", None, *range(5, 20)]
    rows = zip(TEXTS, LABELS, map(lambda t: t if t is None else str(t), talks), strict=True)
    write_jsonl(tmp_path / "mine.jsonl", [{"text": t, "label": y, "talk": g} for t, y, g in rows])
    data = load(tmp_path, dataset="./mine.jsonl", group_field="talk")
    assert data.groups is not None
    assert data.groups[0] == data.groups[3]
    assert len(set(data.groups)) == 19
    make_split(data, seed=0)


def test_pictures_of_a_given_test_part_are_not_looked_up_as_texts() -> None:
    task = Task("seen", "own/seen", "image", "label", modality="image")
    pictures = [Image.new("L", (2, 2))] * 2
    refuse_shared_texts(pictures, np.array([False, True]), task)


def test_a_test_file_of_its_own(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv", text=TEXTS[::2], label=LABELS[::2])
    write_csv(tmp_path / "held.csv", text=TEXTS[1::2], label=LABELS[1::2])
    split = make_split(load(tmp_path, test_dataset="./held.csv"), 0)
    assert split.train.tolist() == list(range(10))
    assert split.test.tolist() == list(range(10, 20))


def test_a_folder_laid_out_like_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        frame = pd.DataFrame({"text": TEXTS[part], "label": LABELS[part]})
        frame.to_parquet(folder / f"{name}.parquet")
    data = load(tmp_path, dataset="./set", test_split="test")
    assert data.in_test is not None
    assert data.in_test.sum() == 10
    assert sorted(data.inputs) == sorted(TEXTS)


def test_an_own_model_stands_beside_a_shipped_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv")
    model = {
        "name": "own",
        "source": "./model",
        "layers": {"middle": 2},
        "saes": [{"layer": 2, "width": "96", "folder": "sae"}],
    }
    task = {"name": "mine", "dataset": "./mine.csv", "input_field": "text", "label_field": "label"}
    content = {"base": "mini", "models": ["mini-small", model], "catalogue": [task]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    profile = load_profile(str(tmp_path / "mine.yaml"))
    assert profile.model("own").source == str(tmp_path / "model")
    assert profile.model("own").sae(2, "96").folder == str(tmp_path / "sae")
    assert profile.model("mini-small").saes
    assert profile.top_n == load_profile("mini").top_n


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"base": "huge", "catalogue": []}, "`base` is 'huge'; use one of"),
        (
            {"base": "mini", "models": ["mini-huge"], "catalogue": []},
            "no model 'mini-huge' in its `base` .*mini-large",
        ),
        ({"models": ["mini-small"], "catalogue": []}, "or with `base` a name"),
        ({"catalogue": [{"name": "mine"}]}, "task 'mine': the field 'dataset' is missing"),
    ],
)
def test_a_wrong_file_of_settings_is_said(tmp_path: Path, content: dict, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=says):
        load_profile(str(tmp_path / "mine.yaml"))


def test_the_test_part_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names its test part twice"):
        own(tmp_path, split_field="part", test_split="test")


BAD_FILES: list[tuple[str, bytes, dict, type[MosaicError], str]] = [
    ("mine.csv", b"words,label\na,x\n", {}, IntegrityError, "no column 'text'; it has"),
    ("mine.csv", b"", {}, IntegrityError, "holds no rows"),
    ("mine.csv", b"text,label\n", {}, IntegrityError, "holds no rows"),
    ("mine.csv", b"text,label\na,x\nb\n", {}, IntegrityError, "row 2 has not the 2 columns"),
    ("mine.csv", b"text,label\na, b,x\n", {}, IntegrityError, "row 1 has not the 2 columns"),
    ("mine.csv", b'text,label\n"a,x\n', {}, IntegrityError, "close every quote"),
    ("mine.csv", b"text,label\na\xe9,x\n", {}, IntegrityError, "not UTF-8 .byte 12"),
    ("mine.csv", b"text,label\na,\n", {}, IntegrityError, "row 1: the label 'label' is ''"),
    ("other.csv", b"text,label\n", {}, AccessError, "There is no file .*mine.csv"),
    ("mine.xlsx", b"PK", {"dataset": "./mine.xlsx"}, IntegrityError, "save the rows as one of"),
    (
        "mine.jsonl",
        b'{"text": "a", "label": 1}\n{"text": 17, "label": 1}\n',
        {"dataset": "./mine.jsonl"},
        IntegrityError,
        "row 2: 'text' is 17 where a text was expected",
    ),
    (
        "mine.jsonl",
        b'{"text": "a", "label": 0.5}\n',
        {"dataset": "./mine.jsonl"},
        IntegrityError,
        "the label 'label' is 0.5; write a word",
    ),
    (
        "mine.jsonl",
        b'{"text": "\\ud83d", "label": 1}\n',
        {"dataset": "./mine.jsonl"},
        IntegrityError,
        "row 1: 'text' is not valid Unicode",
    ),
    ("mine.jsonl", b"[1]\n", {"dataset": "./mine.jsonl"}, IntegrityError, "one object a line"),
    ("mine.jsonl", b"{oops\n", {"dataset": "./mine.jsonl"}, IntegrityError, "line 1 is not JSON"),
    (
        "mine.csv",
        b"text,label,part\na,x,train\nb,x,dev\n",
        {"split_field": "part"},
        IntegrityError,
        "'part' holds 'dev'; each row must say one of",
    ),
    (
        "mine.csv",
        b"text,label,part\na,x,train\nb,x,train\n",
        {"split_field": "part"},
        IntegrityError,
        "its test part is empty",
    ),
    (
        "mine.csv",
        b"text,label,part\na,x,train\nb,y,train\nb,y,test\n",
        {"split_field": "part"},
        IntegrityError,
        "1 texts of its test part stand in its training part too .first: row 3",
    ),
]


@pytest.mark.parametrize(("name", "content", "entry", "error", "says"), BAD_FILES)
def test_a_bad_file_gives_one_sentence(
    tmp_path: Path, name: str, content: bytes, entry: dict, error: type[MosaicError], says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says) as caught:
        load(tmp_path, **entry)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["x"] * 20, "at least two classes, found only"),
        (["x", "y", *["x"] * 18], "The least populated class"),
    ],
)
def test_classes_that_cannot_be_learnt_are_said_before_extraction(
    tmp_path: Path, labels: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "mine.csv", text=TEXTS, label=labels)
    own(tmp_path)
    monkeypatch.setattr(
        "mosaic.experiments.own_data.score_cells", lambda *_: pytest.fail("extracted")
    )
    with pytest.raises(ConfigError, match=says):
        fit_probe(open_workspace(str(tmp_path / "mine.yaml"), str(tmp_path / "build")))


def test_fewer_rows_than_folds_are_said(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv", text=["a", "b", "c"], label=["x", "y", "x"])
    own(tmp_path)
    with pytest.raises(ConfigError, match="3 documents or groups with class sizes"):
        fit_probe(open_workspace(str(tmp_path / "mine.yaml"), str(tmp_path / "build")))


def test_a_class_only_in_the_test_part_is_said(tmp_path: Path) -> None:
    parts = ["train"] * 15 + ["test"] * 5
    labels = ["x", "y"] * 7 + ["x"] + ["z"] * 5
    write_csv(tmp_path / "mine.csv", text=TEXTS, label=labels, part=parts)
    with pytest.raises(ConfigError, match="the class 'z' is in its test part and not in"):
        make_split(load(tmp_path, split_field="part"), 0)


def test_given_parts_are_cut_down_to_the_caps(tmp_path: Path) -> None:
    parts = np.where(np.arange(20) % 2, "train", "test").tolist()
    write_csv(tmp_path / "mine.csv", text=TEXTS, label=LABELS, part=parts)
    split = make_split(load(tmp_path, split_field="part"), 0, n_train=6, n_test=4)
    assert (len(split.train), len(split.test)) == (6, 4)


def test_new_texts_come_from_lines_or_a_column(tmp_path: Path) -> None:
    lines, table = tmp_path / "new.txt", tmp_path / "new.csv"
    lines.write_bytes("eins\r\n\nzwei\u2028drei\n".encode())
    write_csv(table, body=["a", "b"], id=[1, 2])
    assert read_texts(str(lines), "text") == ["eins", "zwei\u2028drei"]
    assert read_texts(str(table), "body") == ["a", "b"]
    with pytest.raises(IntegrityError, match="no column 'text'; it has"):
        read_texts(str(table), "text")
    lines.write_text(" \n")
    with pytest.raises(IntegrityError, match="holds no text"):
        read_texts(str(lines), "text")
    with pytest.raises(AccessError, match="No such file"):
        read_texts(str(tmp_path / "gone.txt"), "text")
