"""Where work runs: in this process, or on a Ray cluster. Keys, files and bytes are the same.

The shard is the unit of work of an extraction and the cell that of a sweep. A worker that dies
costs what it had in hand: shards are whole or absent, and another worker computes the lost one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mosaic.errors import ConfigError, MosaicError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    from joblib import Parallel

    from mosaic.extract import Job
    from mosaic.features import Block
    from mosaic.forward import Pass

    Missing = Mapping[int, tuple[Block, ...]]  # shard to the blocks that lack it

ENGINES = ("local", "ray")
RETRIES = 2
"""How often a shard may lose its worker before the run gives up (ours)."""


def check_engine(name: str) -> None:
    """Raises ConfigError for an unknown engine, or for Ray where it is not installed."""
    if name not in ENGINES:
        raise ConfigError(f"Unknown engine {name!r}; use one of {ENGINES}.")
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "The engine 'ray' needs Ray; run `pip install 'mosaic-companion[ray]'`, or use "
                "the engine 'local'."
            ) from error


def parallel(engine: str, n_jobs: int) -> Parallel:
    """joblib's Parallel over processes of this machine or of the Ray cluster.

    Results come in order: one by one from this machine, all at the end from Ray.
    """
    from joblib import Parallel

    check_engine(engine)
    if engine == "ray":
        from ray.util.joblib import register_ray

        _connect()
        register_ray()
        return Parallel(n_jobs=n_jobs, backend="ray")  # which knows no generators
    # joblib's workers outlive a killed parent by five minutes, or by the fit they are in.
    return Parallel(
        n_jobs=n_jobs, return_as="generator", initializer=_end_with, initargs=(os.getpid(),)
    )


def _end_with(parent: int) -> None:
    """Initializer of a worker process: leave soon after the parent is gone, whatever happens."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(eq=False)
class Runner:
    """A loaded model that computes and stores shards of a job."""

    job: Job
    run: Pass

    def shard(self, shard: int, blocks: tuple[Block, ...], bar: Any) -> None:
        """Compute one shard of these blocks and store it; a damaged one is set aside first."""
        job = self.job
        documents = job.reader.read([job.data.inputs[row] for row in job.rows(shard)])
        arrays = self.run.shard(documents, blocks, bar)
        for block in blocks:
            job.store.set_aside(block.key, shard)
            job.store.write(block.key, shard, arrays[block])

    @property
    def sizes(self) -> dict[str, int]:
        """Key of each SAE block to its number of latents."""
        return {block.key: sae.cfg.d_sae for block, sae in self.run.saes.items()}


def load(job: Job, missing: Missing) -> Runner:
    """Model and SAEs of what is missing, on the job's device."""
    from mosaic.forward import Pass
    from mosaic.models import load_model
    from mosaic.saes import load_sae

    blocks = blocks_of(missing)
    model = load_model(job.folder, max(b.layer for b in blocks) + 1, job.device, job.dtype)
    d_model = model.text.config.hidden_size
    saes = {
        block: load_sae(job.model.sae(block.layer, block.width), job.device, d_model)
        for block in blocks
        if block.width is not None
    }
    return Runner(job, Pass(model, saes, job.profile.top_n, job.profile.token_budget))


def blocks_of(missing: Missing) -> tuple[Block, ...]:
    """The blocks named there, each once."""
    return tuple(dict.fromkeys(block for blocks in missing.values() for block in blocks))


def compute(job: Job, missing: Missing, engine: str) -> dict[str, int]:
    """Compute and store the missing shards; returns the number of latents by SAE block's key."""
    from tqdm import tqdm

    n_docs = sum(len(job.rows(shard)) for shard in missing)
    name = f"{job.model.name} {job.data.task.key}"
    with tqdm(total=n_docs, unit="doc", desc=name, disable=None) as bar:
        return (_on_ray if engine == "ray" else _here)(job, missing, bar)


def _here(job: Job, missing: Missing, bar: Any) -> dict[str, int]:
    import torch

    with torch.inference_mode():
        runner = load(job, missing)
        for shard, blocks in missing.items():
            runner.shard(shard, blocks, bar)
    return runner.sizes


class Worker:
    """What a Ray actor holds: one copy of the model, for one shard after the other."""

    def __init__(self, job: Job, missing: Missing) -> None:
        from mosaic.models import choose_device

        # The machine that hands out the shards may be another one, without a GPU.
        self.job, self.missing = replace(job, device=choose_device()), missing
        self.runner: Runner | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """A batch names one shard; the answer says what was done, or which error ended it."""
        import torch
        from tqdm import tqdm

        shard = int(batch["shard"][0])
        answer = {"docs": len(self.job.rows(shard)), "sizes": "{}", "error": "", "message": ""}
        try:
            with torch.inference_mode(), tqdm(disable=True) as bar:
                # Not in __init__, where Ray would retry a wrong file name without an end.
                self.runner = self.runner or load(self.job, self.missing)
                self.runner.shard(shard, self.missing[shard], bar)
                answer["sizes"] = json.dumps(self.runner.sizes)
        except MosaicError as error:
            answer |= {"error": type(error).__name__, "message": str(error)}
        return {name: [value] for name, value in answer.items()}


def _on_ray(job: Job, missing: Missing, bar: Any) -> dict[str, int]:
    """Ray Data maps the shards over actors: one per GPU, or one per CPU where there is none.

    All machines must see the store, the model and the SAEs under the same paths.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError, RayTaskError

    from mosaic import errors
    from mosaic.store import Store

    _connect()
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
        Worker,
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


def _connect() -> None:
    """Join the cluster of RAY_ADDRESS, else start one on this machine."""
    import ray

    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
