"""What this machine can run: one line per finding, with its remedy.

A "problem" keeps `mini` from running and makes the exit code 1; a "note" says what else is missing.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import chain
from pathlib import Path

import psutil

from mosaic import ASSETS
from mosaic.config.choices import PRICED_PROFILES, READS
from mosaic.config.profiles import Profile, load_profile
from mosaic.config.tasks import load_catalogue
from mosaic.data.load import missing_reason
from mosaic.errors import MosaicError
from mosaic.models.hub import GATED
from mosaic.storage.manifest import MANIFEST, MINI, verify_folder

PACKAGE = "mosaic-companion"

LOCK = ASSETS.parents[1] / "requirements.lock"

MINI_DISK, MINI_MEMORY = 3e9, 1.5e9
"""Bytes: the features of every mini text (0.9 kB a token and model, measured), and a guess at what
a notebook with its workers takes."""

PUBLIC_MODEL = "EleutherAI/pythia-70m-deduped"

HUB_TIMEOUT = 3.0
"""Seconds to wait for one answer of the Hub."""


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report."""

    state: str
    """ok, note or problem; for a profile yes or no."""
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:9}{self.what}" + (f" -> {self.remedy}" if self.remedy else "")


def report(build_dir: str) -> int:
    """Print every finding as it comes, then what each shipped profile would need here.

    Returns 0 where `mini` can run, else 1.
    """
    place, problems = Path(build_dir).absolute(), 0
    access = dict.fromkeys([PUBLIC_MODEL, *GATED], "")
    machine = chain(package_checks(), device_checks(), memory_checks(), storage_checks(place))
    for finding in chain(machine, mini_files(), data_dir(), hub_access(access)):
        print(finding, flush=True)
        problems += finding.state == "problem"
    for name in PRICED_PROFILES:
        print(can_run(load_profile(name), problems, access, place), flush=True)
    return min(1, problems)


def package_checks() -> Iterator[Diagnosis]:
    """Python and every required package against the project's ranges, then against its pins."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        needed = [Requirement(text) for text in requires(PACKAGE) or ()]
        pythons = SpecifierSet(metadata(PACKAGE)["Requires-Python"] or "")
    except PackageNotFoundError:
        yield Diagnosis("note", f"{PACKAGE} is not installed", "run `pip install -e .` in a clone")
        return
    python = platform.python_version()
    if python not in pythons:
        yield Diagnosis("problem", f"Python {python}, needs {pythons}", "make .venv with that")
    good = []
    for need in needed:
        if need.marker and not need.marker.evaluate({"extra": "book"}):
            continue
        installed = _installed(need.name)
        if installed and need.specifier.contains(installed, prereleases=True):
            good.append(f"{need.name} {installed}")
            continue
        state = "problem" if need.marker is None else "note"
        found = f"{need.name} is {installed or 'not installed'}, needs {need.specifier}"
        yield Diagnosis(state, found, f'run `pip install "{need.name}{need.specifier}"`')
    yield Diagnosis("ok", f"Python {python}; {', '.join(good)}")
    lines = LOCK.read_text().splitlines() if LOCK.is_file() else []
    pins = dict(line.split("==") for line in lines if line and line[0] != "#")
    there = {name: (_installed(name) or pin).split("+")[0] for name, pin in pins.items()}
    if off := [
        f"{name} {there[name]} for {pin}" for name, pin in pins.items() if there[name] != pin
    ]:
        what = f"{len(off)} packages differ from requirements.lock ({', '.join(off[:3])})"
        yield Diagnosis("note", what, "run `pip install -r requirements.lock` for the same digits")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_checks() -> Iterator[Diagnosis]:
    """Where models run, and in which precision."""
    try:
        from mosaic.extraction.memory import device_memory
        from mosaic.models.resolve import choose_device, choose_dtype

        chosen = choose_device()
        dtype = str(choose_dtype("auto", chosen)).removeprefix("torch.")
    except (ImportError, OSError) as error:
        yield Diagnosis("problem", f"torch does not load ({error})", "install torch again")
        return
    if chosen.type == "cuda":
        name, size = device_memory(chosen)
        yield Diagnosis("ok", f"GPU {name}, {gb(size)}, runs in {dtype}")
    elif chosen.type == "mps":
        yield Diagnosis("ok", f"Apple GPU, shares the memory, runs in {dtype}")
    else:
        yield Diagnosis(
            "note",
            f"no GPU; CPU with {os.cpu_count()} cores, runs in {dtype}",
            "use a machine or Colab with a GPU for `paper`; `mini` needs none",
        )


def memory_checks() -> Iterator[Diagnosis]:
    """Free memory."""
    found = psutil.virtual_memory()
    what = f"memory: {gb(found.available)} free of {gb(found.total)}"
    little = f"close programs; `mini` needs {gb(MINI_MEMORY)}"
    scarce = found.available < MINI_MEMORY
    yield Diagnosis("problem", what, little) if scarce else Diagnosis("ok", what)


def storage_checks(build_dir: Path) -> Iterator[Diagnosis]:
    """Space and write access where results go, and the size of what is there."""
    from huggingface_hub import constants

    hub = Path(constants.HF_HUB_CACHE)  # only real models fill it
    for name, folder, bad, remedy in (
        ("build folder", build_dir, "problem", "name another by --build-dir"),
        ("Hub cache", hub, "note", "set HF_HOME to another folder"),
    ):
        base = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=base):
                free = float(shutil.disk_usage(base).free)
        except OSError as error:
            yield Diagnosis(bad, f"{name} {folder} cannot be written ({error.strerror})", remedy)
            continue
        # Links are not followed.
        files = (Path(root) / file for root, _, names in os.walk(folder) for file in names)
        size = gb(sum(path.lstat().st_size for path in files if path.exists()))
        what = f"{name} {folder} holds {size}, {gb(free)} free"
        if free < MINI_DISK:
            yield Diagnosis(bad, what, f"free {gb(MINI_DISK)}, or {remedy}")
        else:
            yield Diagnosis("ok", what)


def mini_files() -> Iterator[Diagnosis]:
    """The shipped models, SAEs and tasks against their manifest."""
    try:
        if not (MINI / MANIFEST).is_file():
            raise MosaicError(f"{MINI / MANIFEST} is missing")
        verify_folder(MINI)
        yield Diagnosis("ok", "mini models, SAEs and tasks are as shipped")
    except MosaicError as error:
        restore = "run `git checkout mosaic/assets/mini`, or install again"
        yield Diagnosis("problem", str(error).split(". ")[0], restore)


def data_dir() -> Iterator[Diagnosis]:
    """Which of the paper's datasets are at hand offline."""
    folder = os.environ.get("MOSAIC_DATA_DIR")
    if not folder:
        what = "MOSAIC_DATA_DIR is not set: real datasets come from the Hub"
        yield Diagnosis("note", what, "set it to a folder of <org>/<name> copies to work offline")
    elif not Path(folder).is_dir():
        yield Diagnosis("note", f"MOSAIC_DATA_DIR is no folder: {folder}", "correct or unset it")
    else:
        profile = load_profile("paper", data_dir=folder)
        tasks = load_catalogue("paper").values()
        there = sum(missing_reason(task, profile) is None for task in tasks)
        yield Diagnosis("ok", f"MOSAIC_DATA_DIR {folder} holds {there} of {len(tasks)} real tasks")


def hub_access(access: dict[str, str]) -> Iterator[Diagnosis]:
    """Whether the Hub answers, a token is set and gated models are open to it.

    Fills `access`, Hub id to why it is closed ("" where it is open).
    """
    from huggingface_hub import errors, get_token

    if reason := _ask(PUBLIC_MODEL):
        access.update(dict.fromkeys(access, "the Hub cannot be reached"))
        remedy = "go online for real models and data (unset HF_HUB_OFFLINE); `mini` needs none"
        yield Diagnosis("note", f"the Hub cannot be reached ({type(reason).__name__})", remedy)
        return
    yield Diagnosis("ok", "the Hub answers")
    if get_token() is None:
        yield Diagnosis("note", "no Hub token is set", "set HF_TOKEN to read gated models")
    else:
        yield Diagnosis("ok", "a Hub token is set")
    for source in access:
        if reason := _ask(source):
            gated = isinstance(reason, errors.GatedRepoError)
            access[source] = "gated" if gated else type(reason).__name__
    if closed := [source for source, why in access.items() if why]:
        remedy = "accept the licence on the model's page and set HF_TOKEN to that account's token"
        yield Diagnosis("note", f"not open to you: {', '.join(closed)}", remedy)
    else:
        yield Diagnosis("ok", "gated models are open to you")


def _ask(source: str) -> Exception | None:
    """What stands against reading a repository's files, by one request for a file's size."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=HUB_TIMEOUT)
    except Exception as error:  # whichever way the client fails, it is closed to us
        return error
    return None


def can_run(profile: Profile, problems: int, access: dict[str, str], build_dir: Path) -> Diagnosis:
    """Whether a profile can run here, and why (not), by the numbers of `extraction.cost`."""
    import torch

    from mosaic.extraction.cost import Cost, all_tasks, estimate
    from mosaic.extraction.memory import lack_of_memory
    from mosaic.models.resolve import choose_device
    from mosaic.sweep.cost import probe_seconds

    say = f"{profile.name:8}"
    if problems:
        return Diagnosis("no", f"{say} first mend the problem{'s' * (problems > 1)} above")
    tasks = [profile.task(key) for key in all_tasks(profile)]
    absent = [task.key for task in tasks if missing_reason(task, profile) is not None]
    if absent and access[PUBLIC_MODEL]:
        what = f"{len(absent)} of {len(tasks)} tasks are not at hand and the Hub is closed"
        if len(absent) == len(tasks):
            return Diagnosis("no", f"{say} {what}", "set MOSAIC_DATA_DIR or go online")
    try:
        first = [(m, [t for t in tasks[:1] if t.modality == READS[m.kind]]) for m in profile.models]
        costs = estimate(profile, work=first)
    except MosaicError as error:
        return Diagnosis("no", f"{say} {str(error).split(': ')[0]}", "go online once")
    closed = [m.source for m in profile.models if access.get(m.source)]
    if closed:
        return Diagnosis("no", f"{say} {closed[0]}: {access[closed[0]]}", "see the notes above")
    device = choose_device()

    def lack(cost: Cost) -> str | None:
        places = ((cost.memory_bytes, device), (cost.host_bytes, torch.device("cpu")))
        return next(filter(None, (lack_of_memory(*place) for place in places)), None)

    fits = [cost for cost in costs if lack(cost) is None]
    if costs and not fits:
        what = min((c.memory_bytes, f"{c.model} {lack(c)}") for c in costs)[1]
        return Diagnosis("no", f"{say} {what}", "use a larger device, or fewer widths in a profile")
    needed = sum(cost.download_bytes for cost in fits)
    free = shutil.disk_usage(next(p for p in (build_dir, *build_dir.parents) if p.exists())).free
    if needed > free:
        what = f"downloads {gb(needed)}, {gb(free)} are free"
        return Diagnosis("no", f"{say} {what}", "free some disk, or fewer models in a profile")
    if not costs:
        what = f"baselines of {len(tasks)} tasks, no model"
    else:
        hours = sum(probe_seconds(profile, m, tasks) for m in profile.models) / 3600
        peak, minutes = max(c.memory_bytes for c in fits), sum(c.seconds for c in fits) / 60
        what = (
            f"{len(fits)} of {len(costs)} models, {gb(peak)} of memory, {gb(needed)} to download; "
            f"about {minutes:,.1f} min to extract {tasks[0].key} (tokens {fits[0].tokens_from}), "
            f"{hours:,.1f} CPU hours for the probes of all tasks and models"
        )
    return Diagnosis("yes", f"{say} {what}")


def gb(n_bytes: float) -> str:
    """Bytes as gigabytes."""
    return f"{n_bytes / 1e9:.1f} GB"
