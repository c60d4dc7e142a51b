"""An own file, folder or set becomes a task by one YAML file, or a sentence says why not."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mosaic.config.profiles import Profile, load_profile
from mosaic.config.tasks import Task
from mosaic.config.workspace import open_workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.own_files import read_file, read_texts
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


def test_tables_of_a_folder_are_read_as_tables_alone(tmp_path: Path) -> None:
    """One reader: a corpus without quotes keeps its rows, "NA" is a text, two columns are two."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [f'"NA {n}\tyes' if n % 2 else f"00{n}\tno" for n in range(20)]
    (folder / "train.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    (folder / ".hidden.csv").write_text("x")
    data = load(tmp_path, dataset="./set")
    assert data.inputs == [row.split("\t")[0] for row in rows]
    (folder / "test.tsv").write_text("text\tlabel\nNA\tyes\n")
    parted = load(tmp_path, dataset="./set", test_split="test")
    assert parted.inputs[20:] == ["NA"]
    assert parted.in_test is not None
    for name in ("train.tsv", "test.tsv"):
        (folder / name).unlink()
    (folder / "all.csv").write_text("text,label,text\na,x,b\n")
    with pytest.raises(IntegrityError, match="all.csv has 2 columns 'text'"):
        load(tmp_path, dataset="./set")


def test_a_quoted_text_may_hold_other_line_ends_than_its_file(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_bytes(b'text\tlabel\t\n"a\r\nb"\tx\t7\n"c\r\n"\ty\t7\n')
    assert load(tmp_path, dataset="./m.tsv").inputs == ["a\r\nb", "c\r\n"]


@pytest.mark.parametrize(
    "content", ["# by me\ntext,label\na,x\nb,y\n", "text;label\na, b;x\nc;y\n"]
)
def test_the_header_is_looked_at_before_the_rows(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(IntegrityError, match="has no column 'text'; it has .* separated by ','"):
        load(tmp_path)


def test_a_missing_label_is_named_before_the_fractions_that_it_makes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "m.jsonl", [{"text": "a", "label": x} for x in (0.0, 1.0, None, 0.0)])
    with pytest.raises(IntegrityError, match="row 3: the label 'label' is None"):
        load(tmp_path, dataset="./m.jsonl")


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
        (["x"] * 20, "at least two classes, found one in 20"),
        (["x", "y", *["x"] * 18], r"in 2 classes of sizes \[19, 1\] cannot give a stratified"),
        ([f"2026-01-{n:02}" for n in range(1, 21)], r"sizes \[1, 1, .*\], \.\.\. cannot .*dates"),
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
    with pytest.raises(
        ConfigError, match="3 documents or groups .copies of a text are one. in 2 classes"
    ):
        fit_probe(open_workspace(str(tmp_path / "mine.yaml"), str(tmp_path / "build")))


def test_contrary_labels_are_said_before_they_refuse_a_split(tmp_path: Path) -> None:
    """Every text stands with both labels: no class is left, and why is said."""
    write_csv(tmp_path / "mine.csv", text=TEXTS * 2, label=["x"] * 20 + ["y"] * 20)
    own(tmp_path)
    said: list[str] = []
    workspace = open_workspace(str(tmp_path / "mine.yaml"), str(tmp_path / "build"))
    with pytest.raises(ConfigError, match="two classes with at least 2 training documents"):
        fit_probe(workspace, say=said.append)
    assert said[0] == "mine: 40 rows; classes: 'x' 20, 'y' 20"
    assert "warning: of 20 texts 20 stand with more than one label" in said


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
    assert read_texts(str(lines), "text") == ["eins", "", "zwei\u2028drei"]
    assert read_texts(str(table), "body") == ["a", "b"]
    with pytest.raises(IntegrityError, match="no column 'text'; it has"):
        read_texts(str(table), "text")
    lines.write_text(" \n")
    with pytest.raises(IntegrityError, match="holds no text"):
        read_texts(str(lines), "text")
    with pytest.raises(AccessError, match="There is no file"):
        read_texts(str(tmp_path / "gone.txt"), "text")


PAIRS = [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.csv", ",text,label\n0,a,x\n1,b,y\n"),  # as pandas writes an index
        ("mine.csv", "text,label,\na,x,\nb,y,\n"),
        ("mine.csv", "text,label\na,x,,\nb,y,,\n"),
        ("mine.csv", "text,id,label,id\na,1,x,2\nb,3,y,4\n"),  # nobody asks for `id`
        ("mine.csv", "text,label\ra,x\rb,y\r"),
        ("mine.tab", "text\tlabel\t\r\na\tx\t\r\nb\ty\t\r\n"),
        ("mine.ndjson", '{"text": "a", "label": "x"}\r{"text": "b", "label": "y"}\r'),
        ("mine.csv", "text,label\na, x\nb,y \n"),
    ],
)
def test_what_nobody_asks_for_does_not_matter(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    data = load(tmp_path, dataset=f"./{name}")
    assert [
        (t, data.label_names[y]) for t, y in zip(data.inputs, data.labels, strict=True)
    ] == PAIRS
    assert read_texts(str(tmp_path / name), "text") == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("mine.csv", "text,label,text\na,x,b\n", "has 2 columns 'text'"),
        ("mine.csv", "label,text,label\nx,a,y\n", "has 2 columns 'label'"),
        (
            "mine.jsonl",
            '{"text": "a", "label": 1, "text": "b"}\n',
            "line 1 has the key 'text' more",
        ),
        ("mine.csv", "text;label\na;x\n", "has no column 'text'.*separated by ','"),
        ("mine.csv", "sep=;\ntext;label\na;x\n", "has no column 'text'.*separated by ','"),
        ("mine.csv", "text;label\na, b;x\n", "has no column 'text'; it has .*separated by ','"),
        ("mine.tsv", "text\tlabel\na\tb\tx\n", "row 1 has not the 2 columns"),
        ("mine.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
        (
            "mine.jsonl",
            '{"text": "a", "label": "\\ud83d"}\n',
            "row 1: 'label' is not valid Unicode",
        ),
        ("mine.csv", "text,label\na,x\nb, \n", "row 2: the label 'label' is ''"),
    ],
)
def test_what_cannot_be_read_exactly_is_one_sentence(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(IntegrityError, match=says):
        load(tmp_path, dataset=f"./{name}")


def test_corpora_have_no_quoting_and_spreadsheets_have(tmp_path: Path) -> None:
    texts = ['"open', "plain", 'shut"', '"x" he said', '"whole"', "a\\b"]
    rows = "".join(f"{text}\tx\n" for text in texts)
    path = tmp_path / "mine.tsv"
    path.write_text(f"text\tlabel\n{rows}")
    assert read_texts(str(path), "text") == texts
    path.write_text("text\tlabel\n" + 'a\tx\n"b\tx\n' + 'c"\tx\n')  # the case that lost rows
    assert read_texts(str(path), "text") == ["a", '"b', 'c"']
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        quoted = ['say "no"', "two\nlines", "a\ttab", '"whole"']
        frame = pd.DataFrame({"text": quoted, "label": list("xyxy")})
        frame.to_csv(path, sep="\t", index=False, quoting=quoting)
        assert read_texts(str(path), "text") == quoted


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("new.json", '["a"]', "of a kind that is not read here"),
        ("new.csv.txt", "text\na\n", "both table and text"),
        ("new.txt", '{"text": "a"}\n{"text": "b"}\n', "JSON lines where one text a line"),
        ("new", '{"text": "a"}\n', "JSON lines where one text a line"),
        ("new.txt", '[{"text": "a"}]\n', "JSON lines where one text a line"),
        ("new.xlsx", "PK", "of a kind that is not read here"),
    ],
)
def test_other_kinds_of_new_texts_are_refused(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(IntegrityError, match=says):
        read_texts(str(tmp_path / name), "text")


@pytest.mark.parametrize("first", ["text,label", '"id";"text"', "text\tlabel", "text"])
def test_a_table_is_no_list_of_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    rows = first.replace("text", "The cook, 2;\tkind")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{first}\n{rows}".encode())))
    with pytest.raises(IntegrityError, match="begins with .* the header of a table"):
        read_texts("-", "text")
    (tmp_path / "new.txt").write_text("no text, label\nThe cook, kind\n")
    assert read_texts(str(tmp_path / "new.txt"), "text")[0] == "no text, label"
    (tmp_path / "new.txt").write_text("text, please\nThe cook\n")
    assert len(read_texts(str(tmp_path / "new.txt"), "text")) == 2


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 2457\n"


@pytest.mark.parametrize(
    "name", ["mine.csv", "mine.tsv", "mine.jsonl", "set/train.parquet", "set/train.csv"]
)
def test_a_pointer_of_git_lfs_is_told_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / name).write_text(POINTER)
    if name == "set/train.csv":  # read by `datasets`, as a set of the Hub is
        (tmp_path / "set" / "README.md").write_text("A set.")
    with pytest.raises(IntegrityError, match=f"{name} is a Git LFS pointer .* `git lfs pull`"):
        load(tmp_path, dataset=f"./{name}" if "/" not in name else "./set")
    if "/" not in name:
        with pytest.raises(IntegrityError, match="is a Git LFS pointer"):
            read_texts(str(tmp_path / name), "text")


def test_a_missing_table_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in ("data/none.csv", "none.jsonl"):
        with pytest.raises(AccessError, match=f"There is no file {tmp_path / name}; correct"):
            load(tmp_path, dataset=name)
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(AccessError, match="cannot be read .Is a directory.; name a file"):
        read_texts(str(tmp_path / "a.csv"), "text")


def test_answers_stand_beside_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.txt").write_bytes(b"one\r\rthree\r")
    assert read_texts(str(tmp_path / "new.txt"), "text") == ["one", "", "three"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\nthree\n\n")))
    assert read_texts("-", "text") == ["one", "", "three"]
    (tmp_path / "new.csv").write_text("text\none\n\nthree\n")
    assert read_texts(str(tmp_path / "new.csv"), "text") == ["one", "", "three"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [([{"role": "user", "content": "a"}], "role"), (["a", "b"], "a"), (17, "17"), (None, "None")],
)
def test_an_own_folder_must_hold_texts_too(tmp_path: Path, text: object, shown: str) -> None:
    (tmp_path / "set").mkdir()
    frame = pd.DataFrame({"text": [text] * 4, "label": [0, 1, 0, 1]})
    frame.to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(IntegrityError, match=f"row 1: 'text' is .*{shown}.* where a text was"):
        load(tmp_path, dataset="./set")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([31000001, 45000002] * 2, ("31000001", "45000002")),
        ([-1, 1] * 2, ("-1", "1")),
        ([0, 2] * 2, ("0", "2")),
        ([False, True] * 2, ("0", "1")),
        (["neg ", "pos", "neg", " pos"], ("neg", "pos")),
    ],
)
def test_codes_are_names_of_classes(tmp_path: Path, labels: list, names: tuple) -> None:
    (tmp_path / "set").mkdir()
    frame = pd.DataFrame({"text": list("abcd"), "label": labels})
    frame.to_parquet(tmp_path / "set" / "train.parquet")
    data = load(tmp_path, dataset="./set")
    assert data.label_names == names
    assert data.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("names", [None, ["no", "yes"]])
def test_rows_without_a_label_are_named(tmp_path: Path, names: list | None) -> None:
    (tmp_path / "set").mkdir()
    frame = pd.DataFrame({"text": list("abcd"), "label": [0, 1, -1, -1]})
    frame.to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(IntegrityError, match="2 rows have the label -1, which marks rows without"):
        load(tmp_path, dataset="./set", label_names=names)


CELLS = st.text(st.sampled_from("ab \"',;\t\n\r|é字ع🙂\u2028"), max_size=6)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    separator=st.sampled_from(",\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ends=st.sampled_from(["\n", "\r\n"]),
    more=st.sampled_from([(), ("",), ("id", "id"), ("text",), ("label", "")]),
    first=st.booleans(),
)
def test_rows_come_back_exactly_or_one_sentence_says_which_does_not(
    rows: list, separator: str, quoting: int, ends: str, more: tuple, first: bool
) -> None:
    if separator == "\t":  # a text of tab and line feed may look like rows of an unquoted corpus
        rows = [tuple(c.replace("\t", " ") if "\n" in c else c for c in row) for row in rows]
        if quoting == csv.QUOTE_MINIMAL and ends == "\n":  # leaves it without quotes, as a corpus
            rows = [tuple(c.rstrip("\r") for c in row) for row in rows]
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("mine.csv" if separator == "," else "mine.tsv")
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=ends)
            for row in [("text", "label"), *rows]:
                extra = more if row == ("text", "label") else ["7"] * len(more)
                table.writerow([*extra, *row] if first else [*row, *extra])
        found, said = {}, ""
        try:
            found = read_file(path, ["text", "label"])
        except IntegrityError as error:
            said = str(error)
    if not found:
        assert "\n" not in said
        assert re.search(r"row \d|line \d|(2 columns|no column) '(text|label)'", said)
        return
    read = list(zip(*found.values(), strict=True))
    if quoting == csv.QUOTE_MINIMAL and ends == "\n":
        # Such a writer leaves a carriage return at the end of a row without quotes.
        read, rows = ([tuple(c.removesuffix("\r") for c in r) for r in t] for t in (read, rows))
    assert read == rows
