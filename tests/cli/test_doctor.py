"""What the doctor says of a machine that lacks something: one line each, with the remedy."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest

from mosaic import ASSETS
from mosaic.cli import doctor, main
from mosaic.extraction.cost import Cost

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no price of a profile; both are simulated where a test asks for them."""
    monkeypatch.setattr(doctor, "_ask", lambda _: ConnectionError("no network"))
    monkeypatch.setattr("mosaic.extraction.cost.estimate", lambda profile, **_: costs(1e8, 3e12))
    monkeypatch.delenv("MOSAIC_DATA_DIR", raising=False)


def costs(*memory: float) -> tuple[Cost, ...]:
    known = (9, 9, "assumed", 1, 1, 0, 0)
    return tuple(Cost(f"m{i}", *known, int(m), 0, 60) for i, m in enumerate(memory))


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> list[str]:
    assert main(["doctor", *arguments]) == code
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out.splitlines()


def only(lines: list[str], pattern: str) -> str:
    found = [line for line in lines if re.search(pattern, line)]
    assert len(found) == 1, lines
    return found[0]


def test_a_sound_machine_without_network_or_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    lines = said(capsys, 0, "--build-dir", str(tmp_path / "build"))
    assert not only(lines, "^ok .*sae-lens").endswith("->")
    assert "`mini` needs none" in only(lines, "^note .*no GPU; CPU with .* runs in float32 ->")
    hub = only(lines, "^note .*the Hub cannot be reached .ConnectionError. -> go online")
    assert "`mini` needs none" in hub
    only(lines, "^ok .*mini models, SAEs and tasks are as shipped")
    only(lines, "^yes .*mini .*1 of 2 models, 0.1 GB of memory")
    only(lines, "^no .*encoder .* the Hub is closed -> set MOSAIC_DATA_DIR")
    only(lines, "^no .*paper ")
    assert not (tmp_path / "build").exists()


def test_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**6))
    lines = said(capsys, 1, "--build-dir", str(tmp_path))
    line = only(lines, "^problem .*build folder .* 0.0 GB free -> free 3.0 GB, or name another")
    assert str(tmp_path) in line
    only(lines, "^note .*Hub cache .* set HF_HOME to another folder")
    only(lines, "^no .*mini .*first mend the problem above")


def test_a_wrong_and_a_missing_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faked(name: str) -> str:
        if name == "seaborn":
            raise doctor.PackageNotFoundError(name)
        return "5.1.0" if name == "sae-lens" else version(name)

    monkeypatch.setattr(doctor, "version", faked)
    lines = said(capsys, 1, "--build-dir", str(tmp_path))
    line = only(lines, "^problem .*sae-lens is 5.1.0")
    assert re.search(r"-> run `pip install \"sae-lens(<7,>=6.40|>=6.40,<7)\"`$", line)
    only(lines, "^problem .*seaborn is not installed, needs .* -> run `pip install")
    only(lines, "^note .*differ from requirements.lock .*sae-lens 5.1.0 for 6")


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    lines = said(capsys, 1, "--build-dir", str(tmp_path / "file" / "build"))
    only(lines, "^problem .*build cannot be written .Not a directory. -> name another by --build-")


def test_a_damaged_mini_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "mini"
    shutil.copytree(ASSETS / "mini", copy)
    damaged = next((copy / "saes").rglob("sae_weights.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(doctor, "MINI", copy)
    lines = said(capsys, 1, "--build-dir", str(tmp_path))
    line = only(lines, "^problem .*sae_weights.safetensors is not the shipped file")
    assert line.endswith("-> run `git checkout mosaic/assets/mini`, or install again")


def test_too_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    little = namedtuple("little", "total available")(4 * 10**9, 2 * 10**8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: little)
    lines = said(capsys, 1, "--build-dir", str(tmp_path))
    only(lines, "^problem .*memory: 0.2 GB free of 4.0 GB -> close programs; `mini` needs")


def test_an_open_hub_with_gated_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import GatedRepoError

    gated = GatedRepoError.__new__(GatedRepoError)
    monkeypatch.setattr(doctor, "_ask", lambda s: gated if "gemma" in s else None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    lines = said(capsys, 0, "--build-dir", str(tmp_path))
    only(lines, "^ok .*the Hub answers")
    only(lines, "^note .*no Hub token is set -> set HF_TOKEN")
    only(lines, "^note .*not open to you: google/gemma-2-2b, .* -> accept the licence")
    only(lines, "^no .*paper .*google/gemma-2-2b: gated -> see the notes above")


def test_a_token_is_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda _: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    lines = said(capsys, 0, "--build-dir", str(tmp_path))
    only(lines, "^ok .*a Hub token is set")
    assert not any("secret" in line for line in lines)
    only(lines, "^yes .*paper .*1 of 2 models")


def test_what_does_not_fit_says_how_much_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ask", lambda _: None)
    monkeypatch.setattr("mosaic.extraction.cost.estimate", lambda profile, **_: costs(3e12, 2e12))
    lines = said(capsys, 0, "--build-dir", str(tmp_path))
    only(lines, "^no .*paper .*m1 takes about 2000 GB and .* has .* GB -> use a larger device")


def test_a_data_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOSAIC_DATA_DIR", str(tmp_path / "gone"))
    lines = said(capsys, 0, "--build-dir", str(tmp_path))
    only(lines, "^note .*MOSAIC_DATA_DIR is no folder: .*gone -> correct or unset it")
