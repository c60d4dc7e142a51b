"""The command line as a user types it."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from places import ROOT

from mosaic.cli import build_parser, main
from mosaic.evidence.bundle_rules import read_manifest


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


VERBS = (
    "run",
    "figure",
    "sweep",
    "transfer",
    "extract",
    "mini",
    "book",
    "fit",
    "predict",
    "doctor",
)


@pytest.mark.parametrize("verb", ["", *VERBS, "doctor"])
def test_help_teaches_by_examples_that_parse(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse_args([*filter(None, [verb]), "--help"])
    assert stop.value.code == 0
    _, shown = capsys.readouterr().out.split("examples:\n")
    examples = re.findall(r"^  (mosaic .+?)  +\S", shown, re.M)
    assert examples
    for command in examples:
        words = shlex.split(re.split(" [<|]", command)[0])[1:]
        assert parser.parse_args(words).verb == (verb or words[0])


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_no_option_may_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert not any(parser.allow_abbrev for parser in parsers(build_parser()))
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--build", "/secret", "--out", "out"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --build" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "figure", "book", "fit", "transfer", "sweep", "extract"])
def test_the_engine_can_be_chosen(verb: str) -> None:
    needed = {"figure": ["fig-layers"], "transfer": ["--task", "t"], "fit": [], "sweep": []}
    out = ["--out", "out"] if verb in ("fit", "transfer", "sweep") else []
    args = build_parser().parse_args([verb, *needed.get(verb, []), *out, "--engine", "ray"])
    assert args.engine == "ray"


@pytest.mark.parametrize("spelling", [["--build-dir={}"], ["--build-dir", "{}"]])
def test_no_private_path_reaches_a_bundle(tmp_path: Path, spelling: list[str]) -> None:
    build, out = tmp_path / "secret", tmp_path / "place" / "lengths"
    argv = ["sweep", *(word.format(build) for word in spelling), "--profile", "mini"]
    argv += ["--tasks", "safety-en", "--feature", "base_rate", "--out", str(out)]
    assert main(argv) == 0
    manifest = read_manifest(out)
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert "secret" not in (out / "manifest.json").read_text()
    assert manifest.command == (
        "mosaic sweep --profile mini --out lengths --tasks safety-en --feature base_rate "
        "--protocols nested --title 'text baselines'"
    )


def test_a_warning_is_said_once_and_as_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("mosaic.models.somewhere")

    def warn(_: object) -> None:
        """Its help."""
        for number in (1, 1, 2, 1):
            log.warning("the SAE %d reads another model", number)

    monkeypatch.setattr("mosaic.cli.verbs.do_doctor", warn)
    said = [f"warning: the SAE {number} reads another model" for number in (1, 2)]
    for _ in range(2):  # the next command says it again
        assert main(["doctor"]) == 0
        assert capsys.readouterr().err.splitlines() == said


def test_an_interrupted_run_says_what_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        """Ends at once."""
        raise KeyboardInterrupt

    monkeypatch.setattr("mosaic.cli.verbs.do_doctor", interrupt)
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
