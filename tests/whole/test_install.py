"""`make` installs by uv where it can, looks where pip is told to look, and hides no failure."""

from __future__ import annotations

import importlib.util
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from places import ROOT


@pytest.fixture
def install() -> Any:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play(install: Any, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...]) -> list[str]:
    """What `main` runs where the named programs fail, each as one line."""
    ran: list[str] = []

    def run(command: list[str], **options: Any) -> Any:
        if "config" in command:
            said = "global.find-links='/wheels'\nglobal.no-index='true'\n"
            return SimpleNamespace(stdout=said)
        ran.append(" ".join(command[1:]))
        name = "uv" if command[0] == install.UV[0] else "pip"
        failed = name in broken or (command[-1] == "uv" and "no uv" in broken)
        if name == "uv":
            assert options["env"]["UV_FIND_LINKS"] == "/wheels"
            assert "--no-index" in command
        return SimpleNamespace(returncode=int(failed))

    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    install.main()
    return ran


def test_uv_looks_where_pip_is_told_to(install: Any) -> None:
    lines = [
        ":env:.extra-index-url='https://c.example/simple'",
        ":env:.cert='/etc/cert.pem'",
        ":env:.disable-pip-version-check='1'",
        "global.extra-index-url='https://a.example/simple'",
        "global.find-links='/one\\n/two'",
        "install.constraint='/etc/caps.txt'",
        "global.default-timeout='180'",
    ]
    assert install.uv_settings("\n".join(lines)) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INDEX": "https://c.example/simple",
        "UV_FIND_LINKS": "/one,/two",
        "UV_CONSTRAINT": "/etc/caps.txt",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/cert.pem",
    }


def test_torch_is_chosen_for_the_machine_unless_the_reader_names_an_index(install: Any) -> None:
    assert install.torch_builds({}) == [["--torch-backend", "auto"], []]
    assert install.torch_builds({"UV_INDEX": "https://a.example/simple"}) == [[]]


def test_uv_installs_torch_first_then_the_lock_then_the_project(
    install: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = play(install, monkeypatch, ())
    assert first.endswith(" uv")
    assert [line.split("--python")[0] for line in rest] == ["pip install "] * 3
    pinned = next(x for x in (ROOT / "requirements.lock").read_text().split() if "torch==" in x)
    ends = (pinned, "-r requirements.lock", "--no-deps --no-build-isolation -e .")
    assert all(line.endswith(f" {end}") for line, end in zip(rest, ends, strict=True))
    assert "GB" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["no uv", "uv"])
def test_pip_installs_what_uv_cannot(
    install: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
) -> None:
    ran = play(install, monkeypatch, (broken,))
    by_pip = [line for line in ran if line.startswith("-m pip install")]
    assert len(by_pip) == 4
    assert by_pip[-2].endswith("-r requirements.lock")
    assert capsys.readouterr().out.count("uv could not") == 3


def test_a_failure_of_pip_ends_the_installation(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as stopped:
        play(install, monkeypatch, ("uv", "pip"))
    assert stopped.value.code == 1
