"""`mosaic bundle`: what a run left in the build folder, packed as a bundle for `book/runs/`."""

import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.evidence.bundle_rules import may_ship
from mosaic.evidence.bundles import write_bundle
from mosaic.scores.latent_view import LATENTS_FILE, LatentView
from mosaic.scores.table import SCORE_COLUMNS, concat_scores, read_scores

log = logging.getLogger(__name__)

ANATOMY = "01_features"
"""The chapter that leaves latents, and no scores."""

PRIVATE = re.compile(r"[/~]|[A-Za-z]:[/\\]|\\\\|file:|(.*[/\\])?\.\.([/\\]|$)", re.S)
"""Begins a path that says where something lies on one machine."""

NUMBERLESS = ("build_dir", "engine")


def command_line(
    verb: str, words: Iterable[str], options: Mapping[str, Any], parameters: Mapping[str, Any]
) -> str:
    """A command as it may be published: of a private path only the last name is left.

    Where it builds and on which engine changes no number, and is left out.
    """
    line = ["mosaic", verb, *words]
    for name, value in options.items():
        if value is not None and name not in NUMBERLESS:
            line += [f"--{name}", *map(str, public(value if isinstance(value, list) else [value]))]
    for name, value in parameters.items():
        if name not in ("profile", *NUMBERLESS):
            text = json.dumps(public(value), ensure_ascii=False, default=str)
            line += ["-p", f"{name}={text}"]
    return shlex.join(line)


def public(value: Any) -> Any:
    """The value with every private path in it cut to its last name."""
    if isinstance(value, str) and PRIVATE.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    if isinstance(value, dict):
        return {public(name): public(entry) for name, entry in value.items()}
    return value


def pack_run(workspace: Workspace, title: str, folder: Path) -> Path:
    """Pack the scores, figures and latents of a run's chapters; returns the folder.

    Latents whose texts may not be passed on are left out, which a warning says. Raises ConfigError
    where the profile was not run, AccessError and IntegrityError where the files of its models are
    not at hand or not those expected.
    """
    paths = sorted((workspace.run / "scores").glob("*.csv"))
    if not paths:
        name = workspace.profile.name
        raise ConfigError(
            f"There are no scores in {workspace.run / 'scores'}: run the chapters first, for "
            f"instance `mosaic run 04 --profile {name}`."
        )
    table = concat_scores(read_scores(path) for path in paths)
    table = table.drop_duplicates([name for name in SCORE_COLUMNS if name != "seconds"])
    latents = _latents(workspace.figures / LATENTS_FILE)
    chapters = [*([ANATOMY] if latents else []), *(path.stem for path in paths)]
    # Chapters derive others from them, such as a vision model whose connector is untrained.
    models = [m for m in workspace.profile.models if (table["model"] == m.name).any()]
    return write_bundle(
        folder,
        table,
        title,
        _command(workspace, chapters),
        _device() if models else "cpu",
        [_identity(model, table, workspace) for model in models],
        [*sorted(workspace.figures.glob("*.png")), *latents],
    )


def _latents(path: Path) -> list[Path]:
    if not path.is_file():
        return []
    view = LatentView.model_validate_json(path.read_bytes())
    if not may_ship(view):
        log.warning("%s is left out: its texts (%s) may not be passed on", path, view.licence)
        return []
    return [path]


def _command(workspace: Workspace, chapters: list[str]) -> str:
    """The commands that make the run again; chapters that were given the same share one."""
    given: dict[str, Any] = {}
    for chapter in chapters:
        path = workspace.run / "notebooks" / f"{chapter}.ipynb"
        metadata = json.loads(path.read_text("utf-8"))["metadata"] if path.is_file() else {}
        given[chapter] = metadata.get("papermill", {}).get("parameters", {})
    alike: dict[str, list[str]] = {}
    for chapter, parameters in given.items():
        alike.setdefault(command_line("run", [], {}, parameters), []).append(chapter)
    profile = {"profile": workspace.loaded_from}
    return " && ".join(command_line("run", c, profile, given[c[0]]) for c in alike.values())


def _device() -> str:
    import torch

    from mosaic.models.resolve import choose_device

    device = choose_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _identity(model: ModelSpec, table: pd.DataFrame, workspace: Workspace) -> dict[str, Any]:
    """Where a model and those of its SAEs that were scored came from: commits and checksums."""
    from mosaic.models.resolve import resolve
    from mosaic.models.saes import sae_identity

    found = resolve(model, workspace.profile)
    source = public(model.source)
    if found.commit is not None:
        source += f" at {found.commit}"
    mine = table[table["model"] == model.name]
    used = set(zip(mine["layer"].astype(object), mine["width"].astype(object), strict=True))
    saes: dict[str, Any] = {}
    for sae in model.saes:
        if (sae.layer, sae.width) not in used:
            continue
        saes[sae.name] = dict(sae_identity(sae, workspace.store.pins)["sha256"])
        if sae.train is not None:
            from mosaic.models.sae_metrics import metrics_by_language, read_metrics

            home = Path(str(sae.folder))
            saes[sae.name] |= {"latents": sae.train, **read_metrics(home)}
            for language, measured in metrics_by_language(home).items():
                saes[sae.name] |= {f"{name} {language}": n for name, n in measured.items()}
    return {
        "name": model.name,
        "source": source,
        "sha256": found.identity["weights"] | found.identity["tokenizer"],
        "saes": saes,
    }
