"""States of a vision tower: what an image holds before connector and language model (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.data.load import TaskData
from mosaic.errors import ConfigError
from mosaic.models.batches import BatchRunner
from mosaic.models.language_model import load_model
from mosaic.models.readers import image_reader
from mosaic.models.resolve import ResolvedModel, resolve
from mosaic.storage.shards import Store, make_key
from mosaic.storage.versions import code_digest, versions_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOWER_CODE = ("models/readers.py", "models/language_model.py", "extraction/tower.py")
"""Modules that decide the tower's numbers."""


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The vision tower inside a vision-language model, found by its configuration."""
    from transformers import PreTrainedModel

    wanted = model.config.vision_config
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config is wanted:
            return module
    raise ConfigError(f"{type(model).__name__} holds no vision tower with its vision_config.")


def tower_key(model: ResolvedModel, data: TaskData) -> str:
    """Key of the tower's states in the feature store: everything that changes their numbers."""
    return make_key(
        {
            "block": "vision_tower",
            "model": model.identity,
            "data": data.fingerprint,
            "dtype": str(model.dtype),
            "code": code_digest(*TOWER_CODE),
            "versions": versions_of("torch", "transformers"),
            **image_reader(model).identity,
        }
    )


def tower_states(spec: ModelSpec, data: TaskData, profile: Profile, store: Store) -> np.ndarray:
    """Last states of the vision tower, mean over patches, `[n_docs, d_vision]` float32 (ours).

    What the image holds before connector and language model; computed once, then read. Raises what
    loading raises, and ResourceError.
    """
    model = resolve(spec, profile)
    key = tower_key(model, data)
    with store.lock([key]):
        if store.missing(key, 1) or store.manifest(key) is None:
            reader = image_reader(model)
            tower = vision_tower(load_model(model, 1).whole)
            found: list[np.ndarray] = [np.empty(0)] * len(data)

            def compute(rows: np.ndarray) -> np.ndarray:
                pixels = torch.from_numpy(reader.pixels([data.inputs[i] for i in rows]))
                with torch.inference_mode():
                    states = tower(pixels.to(model.device)).last_hidden_state
                return states.float().mean(dim=1).cpu().numpy()

            lengths = np.full(len(data), reader.layout.n_tokens)
            remedy = "take a model of smaller images"
            runner = BatchRunner(model.device, profile.token_budget, "image", remedy)
            with tqdm(total=len(data), desc="vision tower", unit="image", disable=None) as bar:
                for rows, states in runner.run(lengths, np.arange(len(data)), compute):
                    for row, state in zip(rows, states, strict=True):
                        found[row] = state
                    bar.update(len(rows))
            store.set_aside(key, 0)
            store.write(key, 0, {"mean": np.stack(found)})
            store.finish(key, 1, {"block": "vision_tower"})
    return store.read(key, 0, ("mean",))["mean"]
