"""Images through text SAEs: the image tokens of a vision-language model, read like text tokens.

The paper's cross-modal experiment (§4.6): an image becomes a run of tokens in front of an empty
prompt, and the residual stream at these tokens goes into the SAEs of the text model, unadapted.
Pooling, store and probes are those of texts; only the reader differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic.batches import Batch, Documents
from mosaic.errors import ConfigError
from mosaic.grids import Spec, grid
from mosaic.hub import reachable
from mosaic.images import to_rgb
from mosaic.models import (
    choose_device,
    choose_dtype,
    fetch_model,
    load_config,
    load_model,
    load_tokenizer,
    model_identity,
    quiet_loading,
)
from mosaic.store import Store, make_key
from mosaic.tasks import load_catalogue

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

    from mosaic.profiles import ModelSpec, Profile
    from mosaic.tasks import TaskData
    from mosaic.workspace import Workspace


@dataclass(frozen=True)
class ImageLayout:
    """How a model lays an image out as tokens, read off its configuration."""

    n_tokens: int
    """Image tokens; they stand in front of everything else."""
    token_id: int
    size: int
    """Pixels of a side."""


def image_layout(config: PretrainedConfig) -> ImageLayout:
    """One token per patch: 256 at 224 pixels and 1,024 at 448, with patches of 14 (protocol §11).

    Raises ConfigError for a model that is not laid out so.
    """
    vision = getattr(config, "vision_config", None)
    token_id = getattr(config, "image_token_id", None)
    size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if not (isinstance(size, int) and isinstance(patch, int) and isinstance(token_id, int)):
        raise ConfigError(
            f"A model of type {config.model_type!r} does not say how it lays out images (it needs "
            f"image_token_id, and image_size and patch_size of its vision_config, as PaliGemma "
            f"has); choose another model for image tasks."
        )
    return ImageLayout((size // patch) ** 2, token_id, size)


@dataclass(frozen=True, eq=False)
class ImageReader:
    """Images in front of an empty prompt; only the image tokens are pooled (protocol §11)."""

    layout: ImageLayout
    processor: BaseImageProcessor
    after: tuple[int, ...]
    """Tokens behind the image: BOS and the newline that ends PaliGemma's prompt."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the model and the images."""
        settings = json.dumps(self.processor.to_dict(), sort_keys=True, default=str)
        return {
            "inputs": "image",
            "n_image_tokens": self.layout.n_tokens,
            "after": list(self.after),
            "processor": hashlib.sha256(settings.encode()).hexdigest(),
        }

    def read(self, inputs: list[Any]) -> Documents:
        """Every image takes the same number of positions, so there is no padding."""
        n_image = self.layout.n_tokens
        ids = np.asarray([self.layout.token_id] * n_image + list(self.after), dtype=np.int64)

        def collate(rows: np.ndarray) -> Batch:
            input_ids = np.tile(ids, (len(rows), 1))
            arguments = {
                "input_ids": input_ids,
                "attention_mask": np.ones_like(input_ids),
                "token_type_ids": np.zeros_like(input_ids),  # 0: prefix, seen in both directions
                "pixel_values": self.pixels([inputs[row] for row in rows]),
            }
            return Batch(arguments, keep=input_ids == self.layout.token_id, whole=True)

        return Documents(
            lengths=np.full(len(inputs), len(ids), dtype=np.int64),
            n_tokens=np.full(len(inputs), n_image, dtype=np.int64),
            collate=collate,
        )

    def pixels(self, images: Sequence[Image]) -> np.ndarray:
        """`[n_images, 3, size, size]` float32. Raises IntegrityError for pixels without a scale."""
        side = {"height": self.layout.size, "width": self.layout.size}
        rgb = [np.asarray(to_rgb(image, f"Image {i}")) for i, image in enumerate(images)]
        # Without a stated format an image 1 or 3 pixels high passes for one with its colours first.
        found = self.processor(
            rgb, size=side, input_data_format="channels_last", return_tensors="np"
        )
        return np.asarray(found["pixel_values"], dtype=np.float32)


def image_reader(folder: Path) -> ImageReader:
    """The reader of a model folder. Raises AccessError, ConfigError (a model without images)."""
    from transformers import AutoImageProcessor

    layout = image_layout(load_config(folder))
    with reachable(str(folder)):
        # The same code, and so the same pixels, whether or not torchvision is installed.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = load_tokenizer(folder)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return ImageReader(layout, processor, (*bos, *newline))


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The vision tower inside a vision-language model, found by its configuration."""
    from transformers import PreTrainedModel

    wanted = model.config.vision_config
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config is wanted:
            return module
    raise ConfigError(f"{type(model).__name__} holds no vision tower with its vision_config.")


def tower_key(spec: ModelSpec, data: TaskData, profile: Profile) -> str:
    """Key of the tower's states in the feature store: everything that changes their numbers."""
    folder = fetch_model(spec)
    return make_key(
        {
            "block": "vision_tower",
            "model": model_identity(folder),
            "data": data.fingerprint,
            "dtype": str(choose_dtype(profile.dtype, choose_device())),
            **image_reader(folder).identity,
        }
    )


def tower_states(spec: ModelSpec, data: TaskData, profile: Profile, store: Store) -> np.ndarray:
    """Last states of the vision tower, mean over patches, `[n_docs, d_vision]` float32 (ours).

    What the image holds before connector and language model; computed once, then read.
    """
    import torch
    from tqdm import tqdm

    key = tower_key(spec, data, profile)
    with store.lock([key]):
        if store.missing(key, 1) or store.manifest(key) is None:
            folder, device = fetch_model(spec), choose_device()
            reader = image_reader(folder)
            dtype = choose_dtype(profile.dtype, device)
            tower = vision_tower(load_model(folder, 1, device, dtype).whole)
            size = max(1, profile.token_budget // reader.layout.n_tokens)
            starts = tqdm(range(0, len(data), size), desc="vision tower", disable=None)
            with torch.inference_mode():
                parts = [
                    tower(torch.from_numpy(reader.pixels(data.inputs[i : i + size])).to(device))
                    .last_hidden_state.float().mean(dim=1).cpu().numpy()
                    for i in starts
                ]  # fmt: skip
            store.write(key, 0, {"mean": np.concatenate(parts)})
            store.finish(key, 1, {"block": "vision_tower"})
    return store.read(key, 0, ("mean",))["mean"]


def with_untrained_connector(
    workspace: Workspace, spec: ModelSpec, seed: int = 0
) -> tuple[Workspace, ModelSpec]:
    """The workspace with a copy of a model whose connector was drawn anew, and the copy (ours).

    Tower and text model stay as trained: what the SAEs still find does not come from having learnt
    to speak to the text model. The connector is drawn as its configuration says, with `seed`.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    folder = fetch_model(spec)
    identity = {"untrained": seed, "model": model_identity(folder)}
    target = workspace.cache / "models" / make_key(identity)
    if not (target / "config.json").is_file():
        with quiet_loading(), reachable(spec.source):
            model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True)
        std = model.config.get_text_config().initializer_range
        for name, parameter in sorted(_connector(model).items()):
            draw = torch.Generator().manual_seed(seed + len(name))
            weight = torch.zeros(parameter.shape)
            if parameter.dim() > 1:
                weight.normal_(std=std, generator=draw)
            parameter.data = weight.to(parameter.dtype)
        part = target.with_name(f"{target.name}.part")
        with quiet_loading():
            model.save_pretrained(part)
        load_tokenizer(folder).save_pretrained(part)
        image_reader(folder).processor.save_pretrained(part)
        part.replace(target)
    copy = replace(spec, name=f"{spec.name}-untrained", source=str(target.resolve()), revision=None)
    profile = replace(workspace.profile, models=(*workspace.profile.models, copy))
    return replace(workspace, profile=profile), copy


def _connector(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """Parameters that belong neither to the tower nor to the text model and its LM head."""
    from mosaic.models import find_blocks

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


def specs(
    profile: Profile,
    tasks: Iterable[str],
    model: ModelSpec,
    untrained: ModelSpec | None = None,
    seed: int = 0,
) -> list[Spec]:
    """All SAE and hidden-state cells of image tasks, with tower and base rate for each.

    Of the untrained copy only the narrow SAEs are read, to be compared with the same of the model.
    """
    found = []
    for task in tasks:
        found += grid(profile, [task], [model], [seed])
        found.append(Spec(task, "vision_tower", model.name, pooling="mean", seed=seed))
        found.append(Spec(task, "base_rate", seed=seed))
        if untrained is not None:
            cells = grid(profile, [task], [untrained], [seed])
            found += [cell for cell in cells if cell.width == untrained.widths[0]]
    return found
