"""Controls of an SAE: dictionaries as wide and as active, in which nothing was learnt (ours).

A control is made from an SAE and read like one: it is saved in sae-lens' format in the workspace's
cache, so that extraction, probes and scores treat both alike. Its pre-activations are directions
times the centred residual stream. A threshold a latent is set on texts that no test part holds, so
that it fires on as many of their tokens as the SAE's latent of that number does:

- `random`: random unit directions.
- `rotated`: the SAE's own directions after one random rotation of the residual stream.
- `pca`: the positive and the negative part of each principal component, two columns each and so at
  most 2 x `d_model`; all fire equally often, as many a token together as the SAE's latents.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic.config.choices import CONTROLS
from mosaic.config.profiles import ModelSpec, SAESpec
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.models.language_model import load_model
from mosaic.models.readers import text_reader
from mosaic.models.resolve import ResolvedModel, resolve
from mosaic.models.saes import load_sae, sae_identity
from mosaic.models.train_saes import residual_vectors
from mosaic.storage.files import storage_errors
from mosaic.storage.manifest import is_whole, write_manifest
from mosaic.storage.shards import Store, make_key

if TYPE_CHECKING:
    from sae_lens import SAE

log = logging.getLogger(__name__)

CONTROL_RECIPE = "controls 1"
"""Part of every control's identity: rename it when the way of making changes."""

CONTROL_SEED = 0

MEASURED_TOKENS = 20_000
"""Tokens on which thresholds are set, at most."""

TEXTS_AT_ONCE, LATENTS_AT_ONCE = 100, 512


def control_width(width: str, kind: str) -> str:
    """What the width of a control is called: `16k random`."""
    return f"{width} {kind}"


def with_controls(
    workspace: Workspace,
    model: ModelSpec,
    layer: int,
    width: str,
    texts: Sequence[str],
    kinds: Iterable[str] = tuple(CONTROLS),
) -> Workspace:
    """The workspace whose profile knows the controls of one SAE as further widths of its model.

    They are made where they are not there. `texts` set their thresholds and must be in no test
    part. Raises ConfigError where there is no text, and what loading raises.
    """
    profile, sae = workspace.profile, model.sae(layer, width)
    found = resolve(model, profile)
    if not any(texts):
        raise ConfigError("Controls need texts to set their thresholds on; there is none.")
    identity = {
        "recipe": CONTROL_RECIPE,
        "seed": CONTROL_SEED,
        "model": found.identity,
        "sae": sae_identity(sae, workspace.store.pins),
        "layer": layer,
        "texts": hashlib.sha256("\x1f".join(texts).encode()).hexdigest(),
        **text_reader(found, profile).identity,
    }
    home = workspace.cache / "controls" / make_key(identity)
    with Store(home.parent).lock([home.name]), storage_errors(home):
        missing = [kind for kind in kinds if not is_whole(home / kind)]
        if missing:
            log.info("%s %s: controls %s ...", model.name, sae.name, ", ".join(missing))
            _make(found, sae, workspace, texts, home, missing)
    made = [SAESpec(layer, control_width(width, kind), folder=str(home / kind)) for kind in kinds]
    known = replace(model, saes=(*model.saes, *made))
    models = tuple(known if m.name == model.name else m for m in profile.models)
    return replace(workspace, profile=replace(profile, models=models))


@torch.no_grad()
def _make(
    model: ResolvedModel,
    spec: SAESpec,
    workspace: Workspace,
    texts: Sequence[str],
    home: Path,
    kinds: Sequence[str],
) -> None:
    states = _states(model, workspace, texts, spec.layer)
    sae = load_sae(spec, torch.device("cpu"), states.shape[1])
    counts = fired(sae, states)
    for kind in kinds:
        part, target = home / f".{kind}.part", home / kind
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        make_control(kind, sae, states, counts).save_model(part)
        write_manifest(part)
        part.rename(target)  # a folder of this name is whole


def _states(
    model: ResolvedModel, workspace: Workspace, texts: Sequence[str], layer: int
) -> torch.Tensor:
    """Residual vectors `[n_tokens, d_model]` of as many texts as give `MEASURED_TOKENS`."""
    network, reader = load_model(model, layer + 1), text_reader(model, workspace.profile)
    found: list[torch.Tensor] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[start : start + TEXTS_AT_ONCE]
        budget = workspace.profile.token_budget
        found.append(residual_vectors(network, reader, some, [layer], budget)[layer])
        if sum(map(len, found)) >= MEASURED_TOKENS:
            break
    return torch.cat(found)[:MEASURED_TOKENS]


def fired(sae: SAE[Any], states: torch.Tensor) -> torch.Tensor:
    """On how many of `states` `[n_tokens, d_model]` each latent is active, `[d_sae]`."""
    return sum(((sae.encode(batch) > 0).sum(0) for batch in states.split(1024)), torch.tensor(0))


def make_control(kind: str, sae: SAE[Any], states: torch.Tensor, counts: torch.Tensor) -> SAE[Any]:
    """One control of an SAE, whose latents are active on `counts` `[d_sae]` of the `states`.

    It only encodes: its decoder is zero.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    mean = states.mean(0)
    directions, offset = _directions(kind, sae, states)
    d_model, width = directions.shape
    if width != len(counts):  # as many active together, the same number of tokens for each
        share, more = divmod(int(counts.sum()), width)
        counts = (share + (torch.arange(width) < more)).clamp(max=len(states))
    threshold = thresholds(states - mean, directions, counts) + offset
    # What fires on most tokens has a threshold below 0, where activations are none: all is raised.
    lift = threshold.clamp(max=0).neg()
    control = JumpReLUSAE(JumpReLUSAEConfig(d_model, width, apply_b_dec_to_input=False))
    control.load_state_dict(
        {
            "W_enc": directions,
            "W_dec": torch.zeros(width, d_model),
            "b_enc": offset + lift - mean @ directions,
            "b_dec": torch.zeros(d_model),
            "threshold": threshold + lift,
        }
    )
    return control.requires_grad_(False)


def _directions(
    kind: str, sae: SAE[Any], states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions `[d_model, n]` of the centred stream, and what is added to the products `[n]`."""
    rng, d_model = np.random.default_rng(CONTROL_SEED), states.shape[1]
    if kind == "random":
        drawn = rng.standard_normal((d_model, sae.cfg.d_sae))
        found = drawn / np.linalg.norm(drawn, axis=0)
    elif kind == "rotated":
        from scipy.stats import ortho_group

        turn = torch.from_numpy(ortho_group.rvs(d_model, random_state=rng)).float()
        bias = getattr(sae, "b_enc", 0) if hasattr(sae, "b_enc") else sae.b_gate
        centre = sae.process_sae_in(states.mean(0, keepdim=True))[0]
        return turn @ sae.W_enc, centre @ sae.W_enc + bias
    else:
        from sklearn.decomposition import PCA

        most = min(d_model, sae.cfg.d_sae // 2, len(states))
        components = PCA(most, svd_solver="full").fit(states.numpy()).components_.T
        found = np.hstack([components, -components])
    return torch.from_numpy(found).float(), torch.zeros(found.shape[1])


def thresholds(
    states: torch.Tensor, directions: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """What each of the products `states` `[n_tokens, d_model]` @ `directions` `[d_model, n]` must
    exceed so that exactly `counts` `[n]` of its tokens do, `[n]`; between two values, where ties
    allow."""
    found = []
    for some, wanted in zip(
        directions.split(LATENTS_AT_ONCE, dim=1), counts.split(LATENTS_AT_ONCE), strict=True
    ):
        values = (states @ some).sort(dim=0, descending=True).values
        values = torch.cat([values[:1] + 1, values, values[-1:] - 1])
        at = wanted.long()[None]
        found.append((values.gather(0, at) + values.gather(0, at + 1))[0] / 2)
    return torch.cat(found)
