"""A fitted probe on disk: weights as safetensors, and a card that says what it may be applied to.

The card holds the same identity by which the feature store names a block: hashes of model,
tokenizer and SAE, and how texts are read. A probe is applied to nothing else.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from mosaic.config.profiles import Profile
from mosaic.errors import AccessError, IntegrityError
from mosaic.probes.select import FittedProbe
from mosaic.storage.files import replace_file, sha256
from mosaic.storage.sealed import read_sealed, write_sealed

FORMAT = 1

WEIGHTS, CARD, CARD_CHECKSUM = "probe.safetensors", "probe.json", "checksum"

STORED = {"coef": np.float64, "intercept": np.float64, "columns": np.int64, "classes": np.int64}

YAML = (".yaml", ".yml")

FIT_AGAIN = "Restore the files, or fit the probe again with `mosaic fit`."

INCIDENTAL = ("data", "shard_docs", "dtype", "attention", "code", "versions")
"""Parts of a block's identity that a probe does not depend on beyond rounding."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SavedProbe:
    """A linear probe of SAE latents with its card."""

    probe: FittedProbe
    card: dict[str, Any]
    """Keys: task, classes, model, sae, features, identity, probe, score, chosen_from, profile,
    versions, machine; see `experiments.own_data.fit_probe`."""

    @property
    def label_names(self) -> list[str]:
        """Names of the classes in the order of the probe's probabilities."""
        return list(self.card["classes"])


def save_probe(folder: Path, saved: SavedProbe) -> Path:
    """Write weights, then the card with their checksum; returns the folder. Raises ResourceError.

    A profile's file is recorded relative to the folder, so that both can move together.
    """
    probe = saved.probe
    content = to_bytes({k: np.asarray(getattr(probe, k), kind) for k, kind in STORED.items()})
    card = {"format": FORMAT, **saved.card, "weights_sha256": hashlib.sha256(content).hexdigest()}
    if card["profile"].endswith(YAML):
        card["profile"] = os.path.relpath(Path(card["profile"]).resolve(), folder.resolve())
    replace_file(folder / WEIGHTS, content)
    write_sealed(folder / CARD, card, CARD_CHECKSUM, indent=1)
    return folder


def load_probe(folder: Path) -> SavedProbe:
    """Read a saved probe. Raises AccessError (no such probe) and IntegrityError (damaged)."""
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            raise AccessError(f"{folder} holds no {name}; name a folder that `mosaic fit` wrote.")
    card = read_sealed(folder / CARD, FIT_AGAIN, CARD_CHECKSUM)
    if card["format"] != FORMAT:
        raise IntegrityError(
            f"{folder / CARD} has format {card['format']}, this version reads {FORMAT}. {FIT_AGAIN}"
        )
    if sha256(folder / WEIGHTS) != card["weights_sha256"]:
        raise IntegrityError(
            f"{folder / WEIGHTS} is damaged (its checksum does not fit). {FIT_AGAIN}"
        )
    try:
        arrays = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise IntegrityError(
            f"{folder / WEIGHTS} is not readable ({error}). {FIT_AGAIN}"
        ) from error
    probe = FittedProbe(
        arrays["classes"],
        arrays["columns"],
        arrays["coef"],
        arrays["intercept"],
        setting=card["probe"]["C"],
        cv_score=card["score"]["cv_accuracy"],
    )
    if card["profile"].endswith(YAML):
        card["profile"] = str((folder / card["profile"]).resolve())
    return SavedProbe(probe, card)


def check_same(saved: SavedProbe, identity: Mapping[str, Any], profile: Profile) -> None:
    """Refuse a model, tokenizer, SAE or way of reading other than the probe was fitted on.

    `identity` is the block's (see `extraction.jobs.resolve_job`). Raises IntegrityError.
    """
    stated, name = saved.card["identity"], saved.card["model"]["name"]
    old, new = stated["model"], identity["model"]
    for what, then, now in (
        (f"weights of the model {name!r}", old["weights"], new["weights"]),
        (f"tokenizer of {name!r}", old["tokenizer"], new["tokenizer"]),
        (f"SAE at layer {stated['layer']}", stated["sae"]["sha256"], identity["sae"]["sha256"]),
    ):
        changed = sorted(f for f in {*then, *now} if then.get(f) != now.get(f))
        if changed:
            raise IntegrityError(
                f"The {what} in profile {profile.name!r} is not what the probe was fitted on: "
                f"{', '.join(changed)} differ. {FIT_AGAIN}"
            )
    for key in sorted({*stated, *identity} - {*INCIDENTAL, "model", "sae"}):
        if stated.get(key) != identity.get(key):
            raise IntegrityError(
                f"The probe was fitted with {key} {stated.get(key)!r} and this model gives "
                f"{identity.get(key)!r}. {FIT_AGAIN}"
            )
    if stated["dtype"] != identity["dtype"]:
        log.warning(
            "the probe was fitted in %s and is applied in %s: probabilities may differ a little",
            stated["dtype"],
            identity["dtype"],
        )
