"""Where work runs: in this process, or on a Ray cluster. Keys, files and bytes are the same.

The shard is the unit of work of an extraction and the cell that of a sweep. A worker that dies
costs what it had in hand: shards are whole or absent, and another worker computes the lost one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mosaic.config.choices import ENGINES
from mosaic.errors import ConfigError

if TYPE_CHECKING:
    from mosaic.extraction.jobs import Job, Missing, Work


def check_engine(name: str) -> None:
    """Raises ConfigError for an unknown engine, or for Ray where it is not installed."""
    if name not in ENGINES:
        raise ConfigError(f"Unknown engine {name!r}; use one of {ENGINES}.")
    if name == "ray":
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "The engine 'ray' needs Ray; run `pip install -e '.[ray]'` in the clone, or use "
                "the engine 'local'."
            ) from error


def parallel(engine: str, n_jobs: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """What runs joblib's `delayed` calls in processes of this machine or of the Ray cluster.

    Results come in order: one by one from this machine, all at the end from Ray. Where there is
    nothing to run, nothing is started.
    """
    check_engine(engine)

    def run(calls: Iterable[Any]) -> Iterable[Any]:
        from joblib import Parallel

        calls = iter(calls)  # each may hold a matrix: they are made when they are needed
        if (first := next(calls, None)) is None:
            return []
        calls = chain([first], calls)
        if engine == "ray":
            from ray.util.joblib import register_ray

            from mosaic.extraction.ray import connect

            connect()
            register_ray()
            return Parallel(n_jobs=n_jobs, backend="ray")(calls)  # which knows no generators
        # joblib's workers outlive a killed parent by five minutes, or by the fit they are in.
        own = Parallel(
            n_jobs=n_jobs, return_as="generator", initializer=_end_with, initargs=(os.getpid(),)
        )
        return own(calls)

    return run


def _end_with(parent: int) -> None:
    """Initializer of a worker process: leave soon after the parent is gone, whatever happens."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compute_shards(work: Work, engine: str) -> Iterator[dict[str, int]]:
    """Compute and store the missing shards of several jobs of one model, job by job.

    Yields after each the number of latents by SAE block's key: what is computed can be finished
    before the next begins.
    """
    if not work:
        return
    import torch  # with all that loads models, which a sweep of scored cells needs nothing of

    from mosaic.extraction.jobs import load_workers

    if engine == "ray":
        from mosaic.extraction.ray import compute_on_ray

        for job, missing in work:
            with _bar(job, missing) as bar:
                yield compute_on_ray(job, missing, bar)
        return
    for worker, (job, missing) in zip(load_workers(work), work, strict=True):
        with torch.inference_mode(), _bar(job, missing) as bar:
            for shard, blocks in missing.items():
                worker.shard(shard, blocks, bar)
        yield worker.sizes


def _bar(job: Job, missing: Missing) -> tqdm:
    n_docs = sum(len(job.rows(shard)) for shard in missing)
    name = f"{job.model.spec.name} {job.data.task.key}"
    return tqdm(total=n_docs, unit="doc", desc=name, disable=None)
