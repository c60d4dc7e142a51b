"""What staging writes: lines that rerun a page, and an index of figures with escaped words."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import yaml
from places import ROOT

from mosaic.cli import build_parser
from mosaic.config.profiles import load_profile, profile_names
from mosaic.config.tasks import load_catalogue
from mosaic.publish.pages import figure_index, measured_tables, profile_table, rerun_box, task_table
from mosaic.publish.tables import readable
from mosaic.scores.intervals import bootstrap_interval, paired_difference
from mosaic.scores.names import pooling_name

CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

HOSTILE = "A <script>alert(1)</script> [link](http://example.org) `code` 0.5"


def lines_of(box: str) -> list[list[str]]:
    return [shlex.split(line) for line in box.split("```")[1].splitlines()[1:]]


def test_box_holds_the_parameters_of_the_run() -> None:
    given = {"profile": "small", "build_dir": "/tmp/x", "tasks": ["a", "b"]}
    run, papermill, *figures = lines_of(rerun_box("04_baselines", given, "me/it"))
    args = build_parser().parse_args(run[1:])
    assert (args.notebooks, args.profile) == (["04"], "small")
    assert args.parameters == [("tasks", ["a", "b"])]
    assert papermill[:2] == ["papermill", "notebooks/04_baselines.ipynb"]
    assert papermill[-2:] == ["-y", 'tasks: ["a", "b"]']
    assert "build_dir" not in str(papermill)
    assert [build_parser().parse_args(f[1:]).figure for f in figures] == [
        "fig-baselines",
        "fig-layerwise",
    ]


def test_box_links_the_chapter_in_colab() -> None:
    box = rerun_box("01_features", {}, "me/it")
    assert "colab.research.google.com/github/me/it/blob/main/notebooks/01_features.ipynb" in box
    assert "Colab" not in rerun_box("01_features", {}, "")


def test_index_escapes_words_and_leaves_out_what_was_not_drawn(tmp_path: Path) -> None:
    said = {"finding": HOSTILE, "marks": HOSTILE, "picture": HOSTILE}
    (tmp_path / "fig-scale.json").write_text(json.dumps(said))
    index = figure_index(tmp_path)
    assert index.count("## ") == index.count("## Figure 2.2\n") == 1
    assert "<script>" not in index
    assert "[link](" not in index
    assert "{ref}`In chapter 2 <fig-scale>`" in index


def test_table_of_profiles_has_every_cap() -> None:
    lines = [line for line in profile_table().splitlines() if line.startswith("| `")]
    assert [line.split("|")[1].strip(" `") for line in lines] == profile_names()
    mini = next(line for line in lines if "`mini`" in line)
    profile = load_profile("mini")
    for cap in (profile.max_docs, profile.n_train, profile.n_test):
        assert f"{{.source}} {cap:,} |" in mini
    paper = next(line for line in lines if "`paper`" in line)
    words = [cell.split("}")[-1].strip() for cell in paper.split("|")]
    assert words[2:6] == ["all", "4,000", "all", "20%"]


def test_languages_of_a_task_share_a_row() -> None:
    page, tasks = task_table("paper"), load_catalogue("paper")
    rows = [x for x in page.splitlines() if x.startswith("| ") and "---" not in x][1:]
    assert any(row.startswith("| toxicity, en, es, de, ru, zh (4.4) |") for row in rows)
    assert len(rows) < len(tasks)
    for task in tasks.values():
        [row] = [
            row
            for row in rows
            if row.startswith((f"| {task.name},", f"| {task.name} ("))
            and f"`{task.dataset}`" in row
        ]
        assert (task.language or task.label_model or "") in row.split("(")[0]
        assert task.licence in row
        assert task.note is None or task.note.rstrip(".") in page


def test_measured_tables_have_plain_names_and_no_more_columns_than_a_page_holds(
    tmp_path: Path,
) -> None:
    (tmp_path / "long.csv").write_text("peak_mb,texts\n7.5,10\n,20\n")
    names = ",".join(f"column_{i}" for i in range(9))
    (tmp_path / "wide.csv").write_text(f"{names}\n{'1,' * 8}2\n")
    tables = measured_tables(tmp_path)
    assert list(tables) == ["table_long", "table_wide"]
    head, _, *rows = tables["table_long"].splitlines()[3:-1]
    assert head == "| peak mb | texts |"
    assert rows == ["| 7.5 | [texts:]{.source} 10 |", "|  | [texts:]{.source} 20 |"]
    assert tables["table_wide"].splitlines()[3] == "| column 0 | 1 |", "it is turned"
    assert "| column 8 | [1:]{.source} 2 |" in tables["table_wide"]
    for table in measured_tables(ROOT / "book").values():
        head = table.splitlines()[3]
        assert 2 <= head.count("|") - 1 <= 9
        assert "_" not in head
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "book").glob("*.md"))
    shown = set(re.findall(r"_generated/(table_\w+)\.md", pages))
    assert shown == set(measured_tables(ROOT / "book")), "each is on a page"


def test_what_an_interval_means_is_what_the_code_does() -> None:
    said = (ROOT / "book/reproduce.md").read_text(encoding="utf-8")
    for function in (bootstrap_interval, paired_difference):
        default = inspect.signature(function).parameters
        assert f"{default['n_resamples'].default:,} resamples" in said
        assert f"{default['level'].default:.0%}" in said


def test_every_reference_is_cited() -> None:
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text(), re.M)
    sources = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    cited = set(re.findall(r"\{cite:p\}`([^`]+)`", "".join(p.read_text() for p in sources)))
    assert len(keys) > 5
    assert set(keys) == cited


READ = ["captions.yaml", "answers.yaml", "critique.yaml"]

BANNED = (
    "contributed run", "last hidden state", "argmax wanders", "everything that all seeds said",
    "nine standard deviations", "tell what binarization does", "The two recipes as offered",
    "rewards the side with more", "directions to project on", "where there is no sign",
    "best cell", "same cell", "SAE cell",
)  # fmt: skip
"""Two names for one thing, and what readers had to read twice."""


def prose() -> dict[str, str]:
    """What a reader reads, by file: pages, the text of notebooks, and sentences kept as data."""
    pages = {path.name: path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        said = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        pages[path.name] = "\n\n".join(said)
    pages |= {name: (ROOT / "mosaic/assets" / name).read_text("utf-8") for name in READ}
    claims = yaml.safe_load((ROOT / "mosaic/assets/claims.yaml").read_text("utf-8"))
    pages["claims"] = "\n".join(f"{c['says']} {c['measure']} {c.get('remark')}" for c in claims)
    return pages


def test_one_thing_has_one_name_and_hard_sentences_are_gone() -> None:
    found = {
        (name, words)
        for name, text in prose().items()
        for words in BANNED
        if words.lower() in " ".join(text.split()).lower()
    }
    assert not found
    code = re.compile(r"(last code|the|a|never in a|in) cells?\b|cell (with the|N|in an)", re.I)
    for chapter in CHAPTERS:
        named = re.findall(r".{0,14}\bcells?\b.{0,9}", prose()[f"{chapter}.ipynb"])
        assert all(code.search(words) for words in named), named


def test_chapters_are_numbered_in_the_order_of_the_sidebar() -> None:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"]
    listed = [page["file"] for part in parts for page in part["chapters"]]
    in_bar = [Path(file).name for file in listed if file.startswith("notebooks/")]
    assert in_bar == CHAPTERS
    for chapter in CHAPTERS:
        assert prose()[f"{chapter}.ipynb"].startswith(f"# {int(chapter[:2])}. "), chapter


def test_counts_are_whole_numbers_in_names() -> None:
    row = {"feature": "sae", "width": "4k", "pooling": "top_n", "top_n": 5.0, "threshold": 1.0}
    assert pooling_name(pd.Series(row)) == "top-5 > 1"
    assert pooling_name(pd.Series({**row, "top_n": 20, "threshold": None})) == "top-20"


def test_tables_call_a_run_as_figures_do() -> None:
    frame = pd.DataFrame({"profile": ["gemma-local", "mine"], "macro_f1": [0.5, 0.6]})
    shown, _ = readable(frame)
    assert list(shown["run"]) == ["Gemma run", "mine run"]
    assert readable(frame.assign(profile="encoder"))[1] == "MiniLM run"
