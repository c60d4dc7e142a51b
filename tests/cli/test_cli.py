"""The command line as a user types it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time

import nbformat
import pytest
from places import ROOT

from mosaic.cli import build_parser, main
from mosaic.cli.examples import EXAMPLES


def test_help_answers_in_under_a_second() -> None:
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "mosaic", "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 1
    assert "examples:" in result.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["figure", "fig-nothing"], "No figure 'fig-nothing'; there are"),
        (["run", "99"], "No single notebook is meant by '99'"),
        (["run", "--profile", "huge"], "No profile 'huge'; use one of"),
    ],
)
def test_bad_names_give_one_sentence(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["run", "-p", "tasks"], "'tasks' is not of the form name=value"),
        (["run", "-p", "tasks=[a"], "'[a' is not a YAML value"),
        (["predict", "probe", "--explain", "-1"], "'-1' is not a whole number"),
        (["predict", "probe", "--explain", "two"], "'two' is not a whole number from 0 on"),
        (["fit"], "the following arguments are required: --out"),
    ],
)
def test_wrong_usage_is_said_with_code_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(EXAMPLES))
def test_help_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"] if verb == "mosaic" else [verb, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for command, what in EXAMPLES[verb]:
        assert re.search(f"^  {re.escape(command)} +{re.escape(what)}$", out, re.M)


def test_an_interrupted_run_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mosaic.cli._doctor", interrupt)
    assert main(["doctor"]) == 130
    assert "interrupted; what was computed is kept" in capsys.readouterr().err


def documents() -> dict[str, str]:
    """What readers are told to type: README, pages and the notebooks' prose, by file name."""
    root = ROOT
    pages = [root / "README.md", root / "CONTRIBUTING.md", *root.glob("book/*.md")]
    found = {page.name: page.read_text(encoding="utf-8") for page in pages}
    for path in root.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        found[path.name] = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    return found


@pytest.mark.parametrize(("name", "text"), documents().items(), ids=documents())
def test_commands_on_pages_parse(name: str, text: str) -> None:
    parser = build_parser()
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^ *(?:\S*bin/)?(mosaic [^#\n]+)", text, re.M)
    spans = re.findall(r"`(?:\S*bin/)?(mosaic [a-z][^`\n]*)`", text)
    for command in [*lines, *spans]:
        words = shlex.split(re.split(" [<>|]", command)[0])[1:]
        if command in spans and len(words) == 1:
            words.append("--help")  # a verb that is named, not a command to type
        try:
            parser.parse_args(words)
        except SystemExit as end:
            if end.code:
                pytest.fail(f"{name} tells to type a command that does not exist: {command}")
