"""States of a vision tower: what an image holds before connector and language model (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mosaic.errors import ConfigError
from mosaic.models.language_model import load_model
from mosaic.models.readers import image_reader
from mosaic.models.resolve import choose_device, choose_dtype, fetch_model, model_identity
from mosaic.storage.shards import Store, make_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mosaic.config.profiles import ModelSpec, Profile
    from mosaic.data.load import TaskData


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
