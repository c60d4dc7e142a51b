"""The engine `ray`: shards of an extraction mapped over the actors of a Ray cluster."""

import json
import logging
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mosaic.errors import MosaicError, ResourceError
from mosaic.extraction.jobs import Job, Missing, ShardWorker, load_workers
from mosaic.models.resolve import choose_device
from mosaic.storage.shards import Store

RETRIES = 2
"""How often a shard may lose its worker before the run gives up (ours)."""


class RayWorker:
    """What a Ray actor holds: one copy of the model, for one shard after the other."""

    def __init__(self, job: Job, missing: Missing) -> None:
        # The machine that hands out the shards may be another one, without a GPU.
        self.job = replace(job, model=replace(job.model, device=choose_device()))
        self.missing = missing
        self.worker: ShardWorker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """A batch names one shard; the answer says what was done, or which error ended it."""
        shard = int(batch["shard"][0])
        answer = {"docs": len(self.job.rows(shard)), "sizes": "{}", "error": "", "message": ""}
        try:
            with torch.inference_mode(), tqdm(disable=True) as bar:
                # Not in __init__, where Ray would retry a wrong file name without an end.
                self.worker = self.worker or load_workers([(self.job, self.missing)])[0]
                self.worker.shard(shard, self.missing[shard], bar)
                answer["sizes"] = json.dumps(self.worker.sizes)
        except MosaicError as error:
            answer |= {"error": type(error).__name__, "message": str(error)}
        return {name: [value] for name, value in answer.items()}


def compute_on_ray(job: Job, missing: Missing, bar: Any) -> dict[str, int]:
    """Ray Data maps the shards over actors: one per GPU, or one per CPU where there is none.

    All machines must see the store, the model and the SAEs under the same paths.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError, RayTaskError

    from mosaic import errors

    connect()
    job = replace(job, store=Store(job.store.root.absolute()))  # workers may start elsewhere
    DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU") else "CPU"
    slots = int(resources.get(kind, 0))
    shards = ray.data.from_items(
        [{"shard": shard} for shard in missing],
        override_num_blocks=len(missing),  # the block is what Ray runs again
    )
    done = shards.map_batches(
        RayWorker,
        batch_size=1,
        compute=ActorPoolStrategy(size=max(1, min(slots, len(missing)))),
        fn_constructor_args=(job, dict(missing)),
        num_gpus=1 if kind == "GPU" else 0,
        num_cpus=0 if kind == "GPU" else 1,
        ray_remote_args_fn=lambda: {"max_restarts": RETRIES, "max_task_retries": RETRIES},
    )
    sizes: dict[str, int] = {}
    try:
        for answer in done.iter_rows():
            if answer["error"]:
                raise getattr(errors, answer["error"])(answer["message"])
            sizes |= json.loads(answer["sizes"])
            bar.update(answer["docs"])
    except RayTaskError:
        raise  # a defect in our code, which says where
    except RayError as error:
        raise ResourceError(
            f"Ray workers were lost {RETRIES + 1} times over ({type(error).__name__}), perhaps for "
            f"lack of memory; what is stored stays valid. Lower `token_budget` in the profile or "
            f"start fewer workers, and run again."
        ) from error
    return sizes


def connect() -> None:
    """Join the cluster of RAY_ADDRESS, else start one on this machine."""
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
