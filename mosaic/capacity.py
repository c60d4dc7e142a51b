"""What stands between this machine and each profile: the Hub, memory, disk and time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mosaic.errors import MosaicError
from mosaic.profiles import Profile

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


def can_run(profile: Profile, problems: int, access: dict[str, str], build_dir: Path) -> Finding:
    """Whether a profile can run here, and why (not), by the numbers of `plan.dry_run`."""
    from mosaic import plan
    from mosaic.tasks import find_task, missing_reason

    say = f"{profile.name:8}"
    if problems:
        return Finding("no", f"{say} first mend the problem{'s' * (problems > 1)} above")
    keys = plan.all_tasks(profile)
    tasks = [find_task(key, profile) for key in keys]
    absent = [task.key for task in tasks if missing_reason(task, profile) is not None]
    if absent and access[PUBLIC]:
        what = f"{len(absent)} of {len(tasks)} tasks are not at hand and the Hub is closed"
        if len(absent) == len(tasks):
            return Finding("no", f"{say} {what}", "set MOSAIC_DATA_DIR or go online")
    try:
        costs = plan.dry_run(profile, tasks=keys[:1])
    except MosaicError as error:
        return Finding("no", f"{say} {str(error).split(': ')[0]}", "go online once")
    closed = [m.source for m in profile.models if access.get(m.source)]
    if closed:
        return Finding("no", f"{say} {closed[0]}: {access[closed[0]]}", "see the notes above")
    room = device_memory()
    fits = [cost for cost in costs if cost.memory_bytes <= room]
    if costs and not fits:
        least = min(costs, key=lambda cost: cost.memory_bytes)
        what = f"{least.model} needs {gb(least.memory_bytes)} of memory, there is {gb(room)}"
        return Finding("no", f"{say} {what}", "use a larger device, or fewer widths in a profile")
    needed = sum(cost.download_bytes for cost in fits)
    free = shutil.disk_usage(next(p for p in (build_dir, *build_dir.parents) if p.exists())).free
    if needed > free:
        what = f"downloads {gb(needed)}, {gb(free)} are free"
        return Finding("no", f"{say} {what}", "free some disk, or fewer models in a profile")
    if not costs:
        what = f"baselines of {len(tasks)} tasks, no model"
    else:
        peak, minutes = max(c.memory_bytes for c in fits), sum(c.seconds for c in fits) / 60
        what = (
            f"{len(fits)} of {len(costs)} models, {gb(peak)} of memory, {gb(needed)} to download; "
            f"about {minutes:,.1f} min to extract {keys[0]} (tokens {fits[0].tokens_from})"
        )
    return Finding("yes", f"{say} {what}")


def device_memory() -> float:
    """Bytes that a model may take: of the GPU where there is one, else free memory."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(psutil.virtual_memory().available)


def gb(n_bytes: float) -> str:
    """Bytes as gigabytes."""
    return f"{n_bytes / 1e9:.1f} GB"
