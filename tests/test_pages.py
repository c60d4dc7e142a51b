"""What staging writes: lines that rerun a page, and an index of figures with escaped words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from mosaic.cli import build_parser
from mosaic.pages import figure_index, rerun_box

ROOT = Path(__file__).parents[1]
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


def test_index_escapes_words_and_leaves_out_what_was_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "fig-scale.json").write_text(json.dumps({"name": "fig-scale", "alt": HOSTILE}))
    index = figure_index(tmp_path)
    assert index.count("## ") == 1
    assert "<script>" not in index
    assert "[link](" not in index
    assert "{ref}`In its chapter <fig-scale>`" in index
