"""What this machine can run: one line per finding, with its remedy.

A "problem" keeps `mini` from running and makes the exit code 1; a "note" says what else is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic.errors import MosaicError
from mosaic.profiles import Profile, load_profile

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "mosaic-companion"
ASSETS = Path(__file__).parent / "assets" / "mini"
LOCK = Path(__file__).parents[1] / "requirements.lock"
PROFILES = ("mini", "encoder", "small", "paper")
MINI_DISK, MINI_MEMORY = 2e9, 1.5e9
"""Bytes that every chapter on `mini` takes at most, features and kernel included (measured)."""
PUBLIC = "EleutherAI/pythia-70m-deduped"
TIMEOUT = 3.0
"""Seconds to wait for one answer of the Hub."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    state: str
    """ok, note or problem; for a profile yes or no."""
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:9}{self.what}" + (f" -> {self.remedy}" if self.remedy else "")


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
    access = dict.fromkeys([PUBLIC, *_gated()], "")
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
            f"{len(off)} packages differ from requirements.lock ({', '.join(off[:3])}): last digits "
            f"may too",
            "run `pip install -r requirements.lock`",
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
        name, size = torch.cuda.get_device_name(), _device_memory()
        yield Finding("ok", f"GPU {name}, {_gb(size)}, runs in {dtype}")
    elif chosen.type == "mps":
        yield Finding("ok", f"Apple GPU, shares the memory, runs in {dtype}")
    else:
        yield Finding(
            "note",
            f"no GPU; CPU with {os.cpu_count()} cores, runs in {dtype}",
            "use a machine or Colab with a GPU for `paper`; `mini` needs none",
        )


def _device_memory() -> float:
    """Bytes that a model may take: of the GPU where there is one, else free memory."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().available)


def memory() -> Iterator[Finding]:
    """Free memory."""
    import psutil

    found = psutil.virtual_memory()
    what = f"memory: {_gb(found.available)} free of {_gb(found.total)}"
    if found.available < MINI_MEMORY:
        yield Finding("problem", what, f"close programs; `mini` needs {_gb(MINI_MEMORY)}")
    else:
        yield Finding("ok", what)


def storage(build_dir: Path) -> Iterator[Finding]:
    """Space and write access where results go, and the size of what is there."""
    from huggingface_hub import constants

    caches = os.environ.get("MOSAIC_CACHE_DIR")
    places = [("build folder", build_dir, "name another by --build-dir")]
    places += [("MOSAIC_CACHE_DIR", Path(caches), "set it to another folder")] if caches else []
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
        what = f"{name} {folder} holds {_gb(_size(folder))}, {_gb(free)} free"
        if free < MINI_DISK:
            yield Finding(bad, what, f"free {_gb(MINI_DISK)}, or {remedy}")
        else:
            yield Finding("ok", what)


def mini_files() -> Iterator[Finding]:
    """The shipped models, SAEs and tasks against their manifest."""
    from mosaic.integrity import MANIFEST, verify_folder

    restore = "run `git checkout mosaic/assets/mini`, or install again"
    try:
        if not (ASSETS / MANIFEST).is_file():
            yield Finding("problem", f"{ASSETS / MANIFEST} is missing", restore)
            return
        verify_folder(ASSETS)
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


def hub(access: dict[str, str]) -> Iterator[Finding]:
    """Whether the Hub answers, a token is set and gated models are open to it.

    Fills `access`, Hub id to why it is closed ("" where it is open).
    """
    from huggingface_hub import errors, get_token

    if reason := _ask(PUBLIC):
        access.update(dict.fromkeys(access, "the Hub cannot be reached"))
        remedy = "go online for real models and data (unset HF_HUB_OFFLINE); `mini` needs none"
        yield Finding("note", f"the Hub cannot be reached ({type(reason).__name__})", remedy)
        return
    yield Finding("ok", "the Hub answers")
    if get_token() is None:
        yield Finding("note", "no Hub token is set", "set HF_TOKEN to read gated models")
    else:
        yield Finding("ok", "a Hub token is set")
    for source in access:
        if reason := _ask(source):
            gated = isinstance(reason, errors.GatedRepoError)
            access[source] = "gated" if gated else type(reason).__name__
    closed = [source for source, why in access.items() if why]
    if closed:
        remedy = "accept the licence on the model's page and set HF_TOKEN to that account's token"
        yield Finding("note", f"not open to you: {', '.join(closed)}", remedy)
    else:
        yield Finding("ok", "gated models are open to you")


def _ask(source: str) -> Exception | None:
    """What stands against reading a repository's files, by one request for a file's size."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=TIMEOUT)
    except Exception as error:  # whichever way the client fails, it is closed to us
        return error
    return None


def _gated() -> list[str]:
    from mosaic.shapes import GATED

    return list(GATED)


def can_run(profile: Profile, problems: int, access: dict[str, str], build_dir: Path) -> Finding:
    """Whether a profile can run here, and why (not), by the numbers of `plan.dry_run`."""
    from mosaic import plan
    from mosaic.tasks import find_task, missing_reason

    say = f"{profile.name:8}"
    if problems:
        return Finding("no", f"{say} first mend the problem{'s' * (problems > 1)} above")
    tasks = [find_task(key, profile) for key in plan.all_tasks(profile)]
    absent = [task.key for task in tasks if missing_reason(task, profile) is not None]
    if absent and access[PUBLIC]:
        what = f"{len(absent)} of {len(tasks)} tasks are not at hand and the Hub is closed"
        if len(absent) == len(tasks):
            return Finding("no", f"{say} {what}", "set MOSAIC_DATA_DIR or go online")
    try:
        costs = plan.dry_run(profile, read_texts=False)
    except MosaicError as error:
        return Finding("no", f"{say} {str(error).split(': ')[0]}", "go online once")
    closed = [m.source for m in profile.models if access.get(m.source)]
    if closed:
        return Finding("no", f"{say} {closed[0]}: {access[closed[0]]}", "see the notes above")
    room = _device_memory()
    fits = [cost for cost in costs if cost.memory_bytes <= room]
    if costs and not fits:
        least = min(costs, key=lambda cost: cost.memory_bytes)
        what = f"{least.model} needs {_gb(least.memory_bytes)} of memory, there is {_gb(room)}"
        return Finding("no", f"{say} {what}", "use a larger device, or fewer widths in a profile")
    needed = sum(cost.download_bytes for cost in fits)
    free = shutil.disk_usage(next(p for p in (build_dir, *build_dir.parents) if p.exists())).free
    if needed > free:
        what = f"downloads {_gb(needed)}, {_gb(free)} are free"
        return Finding("no", f"{say} {what}", "free some disk, or fewer models in a profile")
    if not costs:
        what = f"{len(tasks) - len(absent)} tasks, no model"
    else:
        peak, minutes = max(c.memory_bytes for c in fits), sum(c.seconds for c in fits) / 60
        what = (
            f"{len(fits)} of {len(costs)} models, {_gb(peak)} of memory, {_gb(needed)} to download; "
            f"extracting every task at 64 tokens a text about {minutes:,.0f} min"
        )
    return Finding("yes", f"{say} {what}")


def _size(folder: Path) -> float:
    """Bytes of the files below a folder; links are not followed."""
    names = (Path(root) / name for root, _, files in os.walk(folder) for name in files)
    return float(sum(path.lstat().st_size for path in names if path.exists()))


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
