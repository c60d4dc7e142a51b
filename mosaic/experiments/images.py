"""Images through text SAEs: the image tokens of a vision-language model, read like text tokens.

The paper's cross-modal experiment (§4.6): an image becomes a run of tokens in front of an empty
prompt, and the residual stream at these tokens goes into the SAEs of the text model, unadapted.
Pooling, store and probes are those of texts; only the reader differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import load_catalogue
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.extraction.tower import vision_tower
from mosaic.models.language_model import find_blocks, load_weights, quiet_loading
from mosaic.models.readers import image_reader
from mosaic.models.resolve import ResolvedModel, resolve
from mosaic.storage.files import storage_errors
from mosaic.storage.shards import make_key
from mosaic.storage.versions import code_digest
from mosaic.sweep.cells import Cell, paper_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_untrained_connector(
    workspace: Workspace, spec: ModelSpec, seed: int = 0
) -> tuple[Workspace, ModelSpec]:
    """The workspace with a copy of a model whose connector was drawn anew, and the copy (ours).

    Tower and text model stay as trained: what the SAEs still find does not come from having learnt
    to speak to the text model. The connector is drawn as its configuration says, with `seed`.
    """
    model = resolve(spec, workspace.profile)
    code = code_digest("experiments/images.py")
    identity = {"untrained": seed, "model": model.identity, "code": code}
    target = workspace.cache / "models" / make_key(identity)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                _write_untrained(model, seed, target)
    copy = replace(spec, name=f"{spec.name}-untrained", source=str(target.resolve()), revision=None)
    profile = replace(workspace.profile, models=(*workspace.profile.models, copy))
    return replace(workspace, profile=profile), copy


def _write_untrained(model: ResolvedModel, seed: int, target: Path) -> None:
    from transformers import AutoModelForImageTextToText

    stored = model.config.dtype if isinstance(model.config.dtype, torch.dtype) else torch.float32
    plain = replace(model, device=torch.device("cpu"), dtype=stored)
    whole = load_weights(AutoModelForImageTextToText, plain, model.config)
    std = whole.config.get_text_config().initializer_range
    for name, parameter in _connector(whole).items():
        weight = torch.zeros(parameter.shape)
        if parameter.dim() > 1:
            weight.normal_(std=std, generator=_draw(seed, name))
        parameter.data = weight.to(parameter.dtype)
    # A folder of this name is whole: it takes its place when everything is written.
    with TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.part-") as folder:
        part = Path(folder) / "model"
        with quiet_loading():
            whole.save_pretrained(part)
        model.tokenizer.save_pretrained(part)
        image_reader(model).processor.save_pretrained(part)
        part.replace(target)


def _draw(seed: int, name: str) -> torch.Generator:
    """A stream of random numbers of one tensor's own, whatever other tensors are called."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4]))


def _connector(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Parameters that belong neither to the tower nor to the text model and its LM head."""
    text = find_blocks(model)[0]
    known = {id(p) for part in (text, vision_tower(model)) for p in part.parameters()}
    known |= {id(p) for p in model.get_output_embeddings().parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) not in known}


def vision_model(profile: Profile) -> ModelSpec:
    """The profile's first vision-language model; ConfigError where it has none."""
    for model in profile.models:
        if model.kind == "vision":
            return model
    raise ConfigError(f"Profile {profile.name!r} has no model of kind 'vision'; use one that has.")


def image_tasks(profile: Profile) -> list[str]:
    """Keys of the catalogue's image tasks."""
    tasks = load_catalogue(profile.catalogue)
    return [key for key, task in tasks.items() if task.modality == "image"]


def image_cells(
    profile: Profile,
    tasks: Iterable[str],
    model: ModelSpec,
    untrained: ModelSpec | None = None,
    seed: int = 0,
) -> list[Cell]:
    """All SAE and hidden-state cells of image tasks, with tower and base rate for each.

    Of the untrained copy only the narrow SAEs are read, to be compared with the same of the model.
    """
    found = []
    for task in tasks:
        found += paper_grid(profile, [task], [model], [seed])
        found.append(Cell(task, "vision_tower", model.name, pooling="mean", seed=seed))
        found.append(Cell(task, "base_rate", seed=seed))
        if untrained is not None:
            cells = paper_grid(profile, [task], [untrained], [seed])
            narrow = (c for c in cells if c.feature == "sae")
            found += [c for c in narrow if c.width == untrained.narrowest(int(c.layer or 0))]
    return found
