"""Where the training of an SAE stands, on disk: weights, optimizer and counters, no pickle (ours).

sae-lens' own checkpoints are pickled and know no checksum.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mosaic.errors import MALFORMED
from mosaic.storage.files import replace_file, set_aside, sha256, storage_errors
from mosaic.storage.sealed import unseal, write_sealed

if TYPE_CHECKING:
    from sae_lens.training.sae_trainer import SAETrainer

SECONDS = 60.0
"""Least time between two checkpoints."""

COUNTERS = ("act_freq_scores", "n_forward_passes_since_fired")
"""Tensors of sae-lens' trainer beside weights and optimizer."""


@dataclass
class Checkpoint:
    """The last state of one training that another process can go on from."""

    folder: Path
    record: Mapping[str, Any]
    """What is trained; the checkpoint of another training is deleted."""
    seconds: float = SECONDS
    kept_at: float = 0.0

    def keep(self, trainer: SAETrainer[Any, Any]) -> None:
        """Write where the trainer stands, unless that was done a moment ago."""
        if time.monotonic() - self.kept_at < self.seconds:
            return
        step = trainer.n_training_steps
        optimizer = trainer.optimizer.state_dict()
        tensors = {f"sae.{k}": v.contiguous() for k, v in trainer.sae.state_dict().items()}
        tensors |= {name: getattr(trainer, name) for name in COUNTERS}
        for number, entry in optimizer["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
        weights = self.folder / f"step-{step:06d}.safetensors"
        replace_file(weights, save(tensors))
        facts = {
            "record": dict(self.record),
            "weights": {"name": weights.name, "sha256": sha256(weights)},
            "step": step,
            "n_training_samples": trainer.n_training_samples,
            "n_frac_active_samples": trainer.n_frac_active_samples,
            "groups": optimizer["param_groups"],
            "schedule": trainer.lr_scheduler.state_dict(),
        }
        write_sealed(self.folder / "checkpoint.json", json.loads(json.dumps(facts)))
        with storage_errors(weights):
            for old in self.folder.glob("step-*.safetensors"):
                if old != weights:
                    old.unlink()
        self.kept_at = time.monotonic()

    def restore(self, trainer: SAETrainer[Any, Any]) -> int:
        """Bring the trainer to the last checkpoint; returns the steps done, 0 without one.

        A damaged checkpoint is set aside, and one of another training deleted.
        """
        self.kept_at = time.monotonic()
        path = self.folder / "checkpoint.json"
        if not path.is_file():
            return 0
        try:
            facts = unseal(path.read_text(encoding="utf-8"))
            if facts["record"] != self.record:
                self.remove()
                return 0
            weights = self.folder / facts["weights"]["name"]
            if sha256(weights) != facts["weights"]["sha256"]:
                raise ValueError(f"the checksum of {weights.name} does not fit")
            self._load(trainer, weights, facts)
        except (OSError, SafetensorError, *MALFORMED) as error:
            set_aside(self.folder, error)
            return 0
        print(f"going on at step {facts['step']}", flush=True)
        return facts["step"]

    def _load(self, trainer: SAETrainer[Any, Any], weights: Path, facts: Mapping[str, Any]) -> None:
        tensors = load_file(weights)
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        for name in COUNTERS:
            setattr(trainer, name, tensors[name])
        trainer.sae.load_state_dict(
            {k.removeprefix("sae."): v for k, v in tensors.items() if k.startswith("sae.")}
        )
        trainer.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
        trainer.lr_scheduler.load_state_dict(dict(facts["schedule"]))
        trainer.n_training_steps = facts["step"]
        trainer.n_training_samples = facts["n_training_samples"]
        trainer.n_frac_active_samples = facts["n_frac_active_samples"]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
