"""The command line as a user types it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from mosaic.cli import main


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


def test_a_parameter_must_have_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "-p", "tasks"])
    assert stop.value.code == 2
    assert "name=value" in capsys.readouterr().err
