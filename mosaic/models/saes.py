"""SAEs through sae-lens, from its registry or a folder, and nothing of them but the encoder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.errors import FOREIGN, AccessError, ConfigError, IntegrityError
from mosaic.models.hub import check_pin, reachable
from mosaic.storage.files import digest_files
from mosaic.storage.manifest import verify_folder

if TYPE_CHECKING:
    import torch
    from sae_lens import SAE

    from mosaic.config.profiles import SAESpec


ELEMENTWISE = ("standard", "jumprelu", "gated")
"""Architectures where a latent depends on its own pre-activation only, so latents can be tiled."""

UNSUPPORTED = ("abstopk", "temporal", "transcoder", "skip_transcoder", "jumprelu_transcoder")
"""Activations below zero, of several tokens at once, or of another place than a block's output."""


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


def load_sae(spec: SAESpec, device: torch.device, d_model: int) -> SAE[Any]:
    """The SAE in float32 on `device`; the decoder is dropped where encoding does not need it.

    Raises AccessError, ConfigError (architecture, size of the residual stream), IntegrityError.
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
    if architecture in UNSUPPORTED:
        raise ConfigError(
            f"The SAE {spec.name} is a {architecture!r} SAE, whose activations may be negative or "
            f"belong elsewhere; use one of {ELEMENTWISE}, topk or matching_pursuit."
        )
    if sae.cfg.d_in != d_model:
        raise ConfigError(
            f"The SAE {spec.name} reads vectors of {sae.cfg.d_in} numbers and the model's residual "
            f"stream has {d_model}: it belongs to another model. Correct the profile."
        )
    if architecture in ELEMENTWISE:
        del sae.W_dec  # half of the weights, before anything reaches the device
    return sae.to(device).requires_grad_(False)


def _gemma_scope_2(
    repo_id: str, folder_name: str, device: str, cfg_overrides: dict[str, Any], **_: Any
) -> tuple[dict[str, Any], dict[str, torch.Tensor], None]:
    """Configuration and weights of an SAE of Gemma Scope 2 from the local cache.

    sae-lens' own loader makes the same of them, but asks the Hub for their shapes each time.
    """
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    weights = load_file(hf_hub_download(repo_id, f"{folder_name}/params.safetensors"))
    d_in, d_sae = weights["w_enc"].shape
    names = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae, "metadata": {}}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", **cfg_overrides}
    state = {name.replace("w_", "W_"): weights[name].float().to(device) for name in names}
    return config, state, None


def _load_folder(spec: SAESpec) -> SAE[Any]:
    from sae_lens import SAE
    from safetensors import SafetensorError

    try:
        return SAE.load_from_disk(str(spec.folder), device="cpu", dtype="float32")
    except (SafetensorError, OSError, *FOREIGN) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(
            f"The configuration or weights of the SAE {spec.name} in {spec.folder} are not "
            f"readable ({first}). Fetch or build them again."
        ) from error
