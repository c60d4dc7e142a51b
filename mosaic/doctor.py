"""What this machine can run: one line per finding, with its remedy.

A "problem" keeps `mini` from running and makes the exit code 1; a "note" says what else is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic import ASSETS
from mosaic.capacity import PUBLIC, Finding, can_run, device_memory, gb, hub
from mosaic.errors import MosaicError
from mosaic.profiles import load_profile
from mosaic.shapes import GATED

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "mosaic-companion"
LOCK = ASSETS.parents[1] / "requirements.lock"
PROFILES = ("mini", "encoder", "small", "paper")
MINI_DISK, MINI_MEMORY = 3e9, 1.5e9
"""Bytes: the features of every mini text (0.9 kB a token and model, measured), and a guess at what
a notebook with its workers takes."""


def report(build_dir: str) -> int:
    """Print every finding as it comes; 0 where `mini` can run, else 1."""
    problems = 0
    for finding in diagnose(Path(build_dir).absolute()):
        print(finding, flush=True)
        problems += finding.state == "problem"
    return min(1, problems)


def diagnose(build_dir: Path) -> Iterator[Finding]:
    """All findings, then what each shipped profile would need here."""
    problems = 0
    for check in (packages(), device(), memory(), storage(build_dir), mini_files(), data_dir()):
        for finding in check:
            problems += finding.state == "problem"
            yield finding
    access = dict.fromkeys([PUBLIC, *GATED], "")
    yield from hub(access)
    for name in PROFILES:
        yield can_run(load_profile(name), problems, access, build_dir)


def packages() -> Iterator[Finding]:
    """Python and every required package against the ranges of the project."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        needed = [Requirement(text) for text in requires(PACKAGE) or ()]
        pythons = SpecifierSet(metadata(PACKAGE)["Requires-Python"] or "")
    except PackageNotFoundError:
        yield Finding("note", f"{PACKAGE} is not installed", "run `pip install -e .` in the clone")
        return
    python = platform.python_version()
    if python not in pythons:
        yield Finding("problem", f"Python {python}, needs {pythons}", "make .venv with such a one")
    good = []
    for need in needed:
        if need.marker and not need.marker.evaluate({"extra": "book"}):
            continue
        state = "problem" if need.marker is None else "note"
        installed = _installed(need)
        if installed and need.specifier.contains(installed, prereleases=True):
            good.append(f"{need.name} {installed}")
            continue
        found = f"{need.name} is {installed}" if installed else f"{need.name} is not installed"
        wanted = f"{need.name}{need.specifier}"
        yield Finding(state, f"{found}, needs {need.specifier}", f'run `pip install "{wanted}"`')
    yield Finding("ok", f"Python {python}; {', '.join(good)}")
    yield from _pins()


def _pins() -> Iterator[Finding]:
    if not LOCK.is_file():
        return
    pinned = [line for line in LOCK.read_text().splitlines() if line and line[0] != "#"]
    off = []
    for line in pinned:
        name, pin = line.split("==")
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            continue
        if installed != pin:
            off.append(f"{name} {installed} for {pin}")
    if off:
        yield Finding(
            "note",
            f"{len(off)} packages differ from requirements.lock ({', '.join(off[:3])})",
            "run `pip install -r requirements.lock` for the same digits",
        )


def _installed(need: Requirement) -> str | None:
    try:
        return version(need.name)
    except PackageNotFoundError:
        return None


def device() -> Iterator[Finding]:
    """Where models run, and in which precision."""
    try:
        import torch

        from mosaic.models import choose_device, choose_dtype

        chosen = choose_device()
        dtype = str(choose_dtype("auto", chosen)).removeprefix("torch.")
    except (ImportError, OSError) as error:
        yield Finding("problem", f"torch does not load ({error})", "install torch again")
        return
    if chosen.type == "cuda":
        name, size = torch.cuda.get_device_name(), device_memory()
        yield Finding("ok", f"GPU {name}, {gb(size)}, runs in {dtype}")
    elif chosen.type == "mps":
        yield Finding("ok", f"Apple GPU, shares the memory, runs in {dtype}")
    else:
        yield Finding(
            "note",
            f"no GPU; CPU with {os.cpu_count()} cores, runs in {dtype}",
            "use a machine or Colab with a GPU for `paper`; `mini` needs none",
        )


def memory() -> Iterator[Finding]:
    """Free memory."""
    import psutil

    found = psutil.virtual_memory()
    what = f"memory: {gb(found.available)} free of {gb(found.total)}"
    if found.available < MINI_MEMORY:
        yield Finding("problem", what, f"close programs; `mini` needs {gb(MINI_MEMORY)}")
    else:
        yield Finding("ok", what)


def storage(build_dir: Path) -> Iterator[Finding]:
    """Space and write access where results go, and the size of what is there."""
    from huggingface_hub import constants

    places = [("build folder", build_dir, "name another by --build-dir")]
    places += [("Hub cache", Path(constants.HF_HUB_CACHE), "set HF_HOME to another folder")]
    for name, folder, remedy in places:
        # Only real models fill the Hub's cache.
        bad = "note" if name == "Hub cache" else "problem"
        base = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=base):
                free = float(shutil.disk_usage(base).free)
        except OSError as error:
            yield Finding(bad, f"{name} {folder} cannot be written ({error.strerror})", remedy)
            continue
        what = f"{name} {folder} holds {gb(_size(folder))}, {gb(free)} free"
        if free < MINI_DISK:
            yield Finding(bad, what, f"free {gb(MINI_DISK)}, or {remedy}")
        else:
            yield Finding("ok", what)


def mini_files() -> Iterator[Finding]:
    """The shipped models, SAEs and tasks against their manifest."""
    from mosaic.integrity import MANIFEST, MINI, verify_folder

    restore = "run `git checkout mosaic/assets/mini`, or install again"
    try:
        if not (MINI / MANIFEST).is_file():
            yield Finding("problem", f"{MINI / MANIFEST} is missing", restore)
            return
        verify_folder(MINI)
        yield Finding("ok", "mini models, SAEs and tasks are as shipped")
    except MosaicError as error:
        yield Finding("problem", str(error).split(". ")[0], restore)


def data_dir() -> Iterator[Finding]:
    """Which of the paper's datasets are at hand offline."""
    from mosaic.tasks import load_catalogue, missing_reason

    folder = os.environ.get("MOSAIC_DATA_DIR")
    if not folder:
        what = "MOSAIC_DATA_DIR is not set: real datasets come from the Hub"
        yield Finding("note", what, "set it to a folder of <org>/<name> copies to work offline")
    elif not Path(folder).is_dir():
        yield Finding("note", f"MOSAIC_DATA_DIR is no folder: {folder}", "correct or unset it")
    else:
        profile = load_profile("paper", data_dir=folder)
        tasks = load_catalogue("paper").values()
        there = sum(missing_reason(task, profile) is None for task in tasks)
        yield Finding("ok", f"MOSAIC_DATA_DIR {folder} holds {there} of {len(tasks)} real tasks")


def _size(folder: Path) -> float:
    """Bytes of the files below a folder; links are not followed."""
    names = (Path(root) / name for root, _, files in os.walk(folder) for name in files)
    return float(sum(path.lstat().st_size for path in names if path.exists()))
