"""SAEs through sae-lens, from its registry or a folder, and nothing of them but the encoder."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mosaic.config.profiles import SAESpec
from mosaic.errors import FOREIGN, AccessError, ConfigError, IntegrityError
from mosaic.models.hub import check_pin, reachable
from mosaic.models.language_model import skeleton, truncated
from mosaic.models.resolve import ResolvedModel
from mosaic.storage.files import digest_files, refuse_pointers
from mosaic.storage.manifest import verify_folder

if TYPE_CHECKING:
    from sae_lens import SAE

log = logging.getLogger(__name__)

ELEMENTWISE = ("standard", "jumprelu", "gated")
"""Architectures where a latent depends on its own pre-activation only, so latents can be tiled."""

UNSUPPORTED = re.compile("abstopk|temporal|.*transcoder")
"""Activations below zero, of several tokens at once, or of another place than a block's output."""

SCALED = ("expected_average_only_in", "covariance_whitening")
"""What an SAE in training has done to the residual stream before it, and a finished one has not."""

SCALER = ("activation_scaler.json", "activation_whitening.safetensors")
"""By what numbers: sae-lens writes them beside a checkpoint."""

STREAM = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)|(?:\w+\.)*(?:layers|layer|h)\.(\d+)")
"""Places of the residual stream, as TransformerLens and transformers call them."""


def registry_path(spec: SAESpec) -> tuple[str, str]:
    """Hub repository and path that sae-lens gives for a release and id.

    Raises ConfigError when the registry lacks them, IntegrityError when it resolves to another path
    than the profile names.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory().get(str(spec.release))
    if release is None:
        raise ConfigError(
            f"sae-lens has no release {spec.release!r}; correct the profile, or give a `folder`."
        )
    path = release.saes_map.get(str(spec.sae_id))
    if path is None:
        marks = (f"layer_{spec.layer}/", f".{spec.layer}.")
        near = [name for name in release.saes_map if any(mark in name for mark in marks)]
        raise ConfigError(
            f"Release {spec.release!r} has no SAE {spec.sae_id!r}; "
            f"at layer {spec.layer} it has {near[:8]}."
        )
    if spec.path is not None and path != spec.path:
        raise IntegrityError(
            f"{spec.sae_id!r} of {spec.release!r} resolves to {path!r} in this sae-lens, where the "
            f"profile expects {spec.path!r}. Install the locked sae-lens, or correct the profile."
        )
    return release.repo_id, path


def sae_files(spec: SAESpec) -> tuple[dict[str, str], list[Path]]:
    """Path and commit on the Hub (empty for a folder) and the SAE's files, fetched if need be."""
    if spec.folder is not None:
        files = [Path(spec.folder) / name for name in ("cfg.json", "sae_weights.safetensors")]
        for file in files:
            if not file.is_file() and spec.train is not None:
                raise AccessError(
                    f"The SAE {spec.name} has not been trained here: there is no {file}. A run "
                    f"trains it first: `mosaic run 04 --profile NAME` with the profile's name."
                )
            if not file.is_file():
                raise AccessError(
                    f"No file {file} for the SAE {spec.name}: `folder` must name one that sae-lens "
                    f"wrote with `save_model` (cfg.json, sae_weights.safetensors)."
                )
        verify_folder(spec.folder)
        files += [file for name in SCALER if (file := Path(spec.folder) / name).is_file()]
        refuse_pointers(files)
        return {}, files
    from huggingface_hub import snapshot_download

    repo, path = registry_path(spec)
    with reachable(repo):
        snapshot = Path(snapshot_download(repo, allow_patterns=[path, f"{path}/*"]))
    place = snapshot / path
    files = [place] if place.is_file() else sorted(f for f in place.glob("*") if f.is_file())
    if not files:
        raise AccessError(
            f"{path!r} of {repo!r} is not in the local cache and the Hub cannot be reached: go "
            f"online once, or give the SAE as a `folder`."
        )
    return {"path": path, "commit": snapshot.name}, files


def sae_identity(spec: SAESpec, pins: Path) -> dict[str, Any]:
    """What decides the SAE's numbers: hashes of its files, and for the Hub where they came from.

    Raises AccessError, ConfigError, and IntegrityError when the files are not those of the first
    download.
    """
    origin, files = sae_files(spec)
    sha256 = digest_files(files)
    if origin:
        check_pin(pins, f"{spec.release}/{spec.sae_id}", origin["commit"], sha256)
    # Loading depends on the path too: sae-lens reads the layer and the width of an npz from it.
    return {"sha256": sha256, "path": origin.get("path")}


def load_sae(
    spec: SAESpec,
    device: torch.device,
    d_model: int,
    model: ResolvedModel | None = None,
    decoder: bool = False,
) -> SAE[Any]:
    """The SAE in float32 on `device`; the decoder is dropped where nothing asks for it.

    Warns where its own metadata name another model than `model`. Raises AccessError, ConfigError
    (architecture, size or place of the residual stream), IntegrityError.
    """
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name

    with warnings.catch_warnings():
        # How to load the model is the profile's business, and sae-lens cannot know it is settled.
        warnings.filterwarnings("ignore", message=".*model_from_pretrained_kwargs")
        if spec.folder is not None:
            sae = _load_folder(spec)
        else:
            with reachable(str(spec.release)):
                kind = get_conversion_loader_name(str(spec.release))
                own = _gemma_scope_2 if kind == "gemma_3" else None
                sae = SAE.from_pretrained(
                    str(spec.release), str(spec.sae_id), device="cpu", converter=own
                )
    architecture = sae.cfg.architecture()
    if UNSUPPORTED.fullmatch(architecture):
        raise ConfigError(
            f"The SAE {spec.name} is a {architecture!r} SAE, whose activations may be negative or "
            f"belong elsewhere; use one of {ELEMENTWISE}, topk or matching_pursuit."
        )
    if sae.cfg.d_in != d_model:
        raise ConfigError(
            f"The SAE {spec.name} reads vectors of {sae.cfg.d_in} numbers and the model's residual "
            f"stream has {d_model}: it belongs to another model. Correct the profile."
        )
    for name, weights in sae.named_parameters():
        # The latent of an infinite threshold never fires.
        if torch.isnan(weights).any() or (name != "threshold" and torch.isinf(weights).any()):
            raise IntegrityError(f"{name} of the SAE {spec.name} is not finite. Fetch it again.")
    _check_place(spec, sae, model)
    if architecture in ELEMENTWISE and not decoder:
        del sae.W_dec  # half of the weights, before anything reaches the device
    return sae.to(device).requires_grad_(False)


def _gemma_scope_2(
    repo_id: str, folder_name: str, device: str, cfg_overrides: dict[str, Any], **_: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor], None]:
    """Configuration and weights of an SAE of Gemma Scope 2 from the local cache.

    sae-lens' own loader makes the same of them, but asks the Hub for their shapes each time.
    """
    from huggingface_hub import hf_hub_download

    weights = load_file(hf_hub_download(repo_id, f"{folder_name}/params.safetensors"))
    d_in, d_sae = weights["w_enc"].shape
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "metadata": {}}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", **cfg_overrides}
    state = {name.replace("w_", "W_"): weights[name].float().to(device) for name in names}
    return config, state, None


@contextmanager
def _readable(spec: SAESpec) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, *FOREIGN) as error:
        first = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise IntegrityError(
            f"The configuration or weights of the SAE {spec.name} in {spec.folder} are not "
            f"readable ({first}). Fetch or build them again."
        ) from error


def read_config(spec: SAESpec) -> dict[str, Any]:
    """The `cfg.json` of an SAE's folder. Raises IntegrityError."""
    with _readable(spec):
        config = json.loads((Path(str(spec.folder)) / "cfg.json").read_text(encoding="utf-8"))
        return {**config, "d_sae": int(config["d_sae"])}


def _load_folder(spec: SAESpec) -> SAE[Any]:
    """The SAE of a folder: a finished one, or a checkpoint as sae-lens would finish it."""
    from sae_lens import SAE, TrainingSAE
    from sae_lens.registry import SAE_CLASS_REGISTRY
    from sae_lens.training.activation_scaler import ActivationScaler

    config, scaler = read_config(spec), ActivationScaler()
    with _readable(spec):
        known = config.get("architecture", "standard") in SAE_CLASS_REGISTRY
        folder = Path(str(spec.folder))
        kind = SAE if known else TrainingSAE
        sae = kind.load_from_disk(folder, device="cpu", dtype="float32")
        if (folder / SCALER[0]).is_file():
            scaler.load(folder / SCALER[0])
        how, white = sae.cfg.normalize_activations, scaler.whitening
        if how == SCALED[0] and scaler.scaling_factor is not None:
            sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
        elif how == SCALED[1] and white is not None:
            sae.fold_activation_whitening(white.mean, white.matrix, white.inverse_matrix)
        elif how in SCALED or scaler.scaling_factor is not None or white is not None:
            raise ValueError(
                f"normalize_activations is {how!r}, which {SCALER[0]} beside it does not give: a "
                f"checkpoint needs the file that sae-lens wrote with it, a finished SAE says 'none'"
            )
        if not known:
            state = sae.state_dict()
            sae.process_state_dict_for_saving_inference(state)
            sae = SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
            sae.process_state_dict_for_loading(state)
            sae.load_state_dict(state)
        for name in [field.name for field in fields(sae.cfg) if isinstance(field.default, bool)]:
            if not isinstance(found := getattr(sae.cfg, name), bool):
                raise ValueError(f"{name} is {found!r}, neither true nor false")
        vars(sae.cfg.metadata).update(config.get("metadata") or {})  # dropped without a version
        dict(sae.cfg.metadata.model_from_pretrained_kwargs or {})
        sae.encode(torch.zeros(1, sae.cfg.d_in))  # where a strange setting shows
        lacking = {f.name for f in fields(sae.cfg)} - {*config, "dtype", "device"}
    if known and lacking and "metadata" in config:
        log.warning(
            "the cfg.json of the SAE %s does not state %s: sae-lens takes its default, by which "
            "the numbers may be others", spec.name, ", ".join(sorted(lacking))
        )  # fmt: skip
    return sae


def _check_place(spec: SAESpec, sae: SAE[Any], model: ResolvedModel | None) -> None:
    """Hold an SAE to what its own metadata say it reads; ConfigError where that is not here.

    Where the residual stream was centred in training, as TransformerLens does by default in models
    with LayerNorm, it is centred here: each vector less its mean is just what that library reads.
    """
    said = sae.cfg.metadata
    hook = str(said.hook_name or "")
    found = STREAM.fullmatch(hook)
    if (hook and not found) or said.hook_head_index is not None or sae.hook_z_reshaping_mode:
        raise ConfigError(
            f"The SAE {spec.name} was trained at {hook or 'the heads'!r}, and here SAEs read the "
            f"output of a block (hook_resid_post, or hook_resid_pre of the block after it); choose "
            f"one of those."
        )
    if found:
        layer = int(found[1] or found[3]) - (found[2] == "pre")
        if layer != spec.layer and not spec.moved:
            advice = f"write `layer: {layer}`" if layer >= 0 else "there is no block before it"
            raise ConfigError(
                f"The SAE {spec.name} was trained at {hook!r}, which is not the output of block "
                f"{spec.layer}: {advice}, or name another SAE in the profile."
            )
    centred = (said.model_from_pretrained_kwargs or {}).get("center_writing_weights")
    if centred:
        parts = () if model is None else skeleton(truncated(model.config, 1)).modules()
        if model is None or any(type(part).__name__ == "LayerNorm" for part in parts):
            inner, sae.is_centred = sae.run_time_activation_norm_fn_in, True
            sae.run_time_activation_norm_fn_in = lambda x: inner(x - x.mean(dim=-1, keepdim=True))
    if said.model_name and model is not None:
        ours = {_bare(model.spec.source), _bare(model.spec.name)}
        if _bare(str(said.model_name)) not in ours:
            log.warning(
                "the SAE %s was trained on %s and reads %s: its latents may mean other things",
                spec.name, said.model_name, model.spec.name
            )  # fmt: skip


def _bare(name: str) -> str:
    """A model's name without its owner or folder; TransformerLens calls GPT-2 "gpt2-small"."""
    bare = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
    return "gpt2" if bare == "gpt2-small" else bare
