"""Where work runs: in this process, or on a Ray cluster. Keys, files and bytes are the same.

The shard is the unit of work of an extraction and the cell that of a sweep. A worker that dies
costs what it had in hand: shards are whole or absent, and another worker computes the lost one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mosaic.errors import ConfigError

if TYPE_CHECKING:
    from joblib import Parallel

    from mosaic.extract import Job
    from mosaic.features import Block
    from mosaic.forward import Pass

    Missing = Mapping[int, tuple[Block, ...]]  # shard to the blocks that lack it
    Work = Sequence[tuple[Job, Missing]]

ENGINES = ("local", "ray")


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

        from mosaic.cluster import connect

        connect()
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


def load(work: Work) -> list[Runner]:
    """One runner per job of a model; all of them share the model and the SAEs."""
    from mosaic.forward import Pass
    from mosaic.models import load_model
    from mosaic.saes import load_sae

    job = work[0][0]
    blocks = [block for _, missing in work for block in blocks_of(missing)]
    model = load_model(job.folder, max(b.layer for b in blocks) + 1, job.device, job.dtype)
    d_model = model.text.config.hidden_size
    saes = {
        (layer, width): load_sae(job.model.sae(layer, width), job.device, d_model)
        for layer, width in dict.fromkeys((b.layer, b.width) for b in blocks)
        if width is not None
    }
    runners = []
    for job, missing in work:
        own = {b: saes[b.layer, b.width] for b in blocks_of(missing) if b.width is not None}
        run = Pass(model, own, job.profile.top_n, job.profile.token_budget)
        runners.append(Runner(job, run))
    return runners


def blocks_of(missing: Missing) -> tuple[Block, ...]:
    """The blocks named there, each once."""
    return tuple(dict.fromkeys(block for blocks in missing.values() for block in blocks))


def compute(work: Work, engine: str) -> dict[str, int]:
    """Compute and store the missing shards of several jobs of one model.

    Returns the number of latents by SAE block's key.
    """
    import torch

    sizes: dict[str, int] = {}
    if engine == "ray":
        from mosaic.cluster import compute_on_ray

        for job, missing in work:
            with _bar(job, missing) as bar:
                sizes |= compute_on_ray(job, missing, bar)
        return sizes
    with torch.inference_mode():
        for runner, (job, missing) in zip(load(work), work, strict=True):
            with _bar(job, missing) as bar:
                for shard, blocks in missing.items():
                    runner.shard(shard, blocks, bar)
            sizes |= runner.sizes
    return sizes


def _bar(job: Job, missing: Missing) -> tqdm:
    n_docs = sum(len(job.rows(shard)) for shard in missing)
    name = f"{job.model.name} {job.data.task.key}"
    return tqdm(total=n_docs, unit="doc", desc=name, disable=None)
