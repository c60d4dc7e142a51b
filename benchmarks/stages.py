"""Where the time of an extraction goes: the pass alone, and each of its stages.

Both tables warm up on one shard, then read, run, pool and store all the others, model and SAEs
loaded. They are made by `benchmarks/extraction.py`.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import world
from tqdm import tqdm

from mosaic.extraction import encode, features, forward
from mosaic.extraction.cost import matmul_peak, pass_flops
from mosaic.extraction.jobs import Job, ShardWorker, load_workers, missing_shards, resolve_job
from mosaic.extraction.memory import device_memory
from mosaic.models.resolve import load_config
from mosaic.storage.shards import Store


class Ready(NamedTuple):
    """A worker that is warm, and what is left to do."""

    job: Job
    worker: ShardWorker
    missing: dict[int, tuple[features.Block, ...]]

    @property
    def n_docs(self) -> int:
        """Documents of the shards that are left."""
        return sum(len(self.job.rows(shard)) for shard in self.missing)


def warm_up(root: Path, spec: world.ModelSpec, n_docs: int, shards: int, **settings: int) -> Ready:
    """Load model and SAEs and run the first of so many shards."""
    data = world.task(world.texts(n_docs, seed=2))
    profile = world.profile(spec, shard_docs=max(1, n_docs // shards), **settings)
    job = resolve_job(spec, data, profile, None, None, Store(root / "store"))
    missing = missing_shards(job)
    (worker,) = load_workers([(job, missing)])
    run_shards(Ready(job, worker, {0: missing.pop(0)}))
    return Ready(job, worker, missing)


def run_shards(ready: Ready) -> None:
    """Read, run, pool and store every shard that is left."""
    with torch.inference_mode(), tqdm(disable=True) as bar:
        for shard, blocks in ready.missing.items():
            ready.worker.shard(shard, blocks, bar)


def one_pass(root: Path, size: world.Size) -> pd.DataFrame:
    """Speed of the pass on the device at hand.

    `share_of_peak` is the FLOPs of `mosaic.extraction.cost` a second over those of a large matrix
    product in the model's dtype.
    """
    spec = world.build(root / "world", size)
    ready = warm_up(root, spec, size.n_docs, 8, token_budget=16384)
    job, run = ready.job, ready.worker.run
    before = run.n_tokens
    start = time.perf_counter()
    run_shards(ready)
    seconds = time.perf_counter() - start
    n_tokens = run.n_tokens - before
    flops = pass_flops(spec, load_config(spec.source), ready.n_docs, n_tokens)
    rate = sum(flops) / seconds
    peak = matmul_peak(job.model.device, job.model.dtype)
    row = {
        "device": device_memory(job.model.device)[0],
        "dtype": str(job.model.dtype).removeprefix("torch."),
        "tokens": n_tokens,
        "seconds": round(seconds, 2),
        "tokens_per_second": round(n_tokens / seconds),
        "tflops": round(rate / 1e12, 3),
        "peak_tflops": round(peak / 1e12, 3),
        "share_of_peak": round(rate / peak, 3),
    }
    return pd.DataFrame([row])


def by_stage(root: Path, size: world.Size, budgets: tuple[int, ...]) -> pd.DataFrame:
    """One row a token budget and stage, on the CPU; `share_of_gemm` where a stage multiplies.

    Seconds are those spent below the functions of a stage, by the standard library's profiler.
    `padding` is padded positions over pooled ones.
    """
    spec = world.build(root / "world", size)
    peak = matmul_peak(torch.device("cpu"), torch.float32)
    rows = []
    for budget in budgets:
        ready = warm_up(root / str(budget), spec, size.n_docs, 2, token_budget=budget)
        run = ready.worker.run
        positions: list[int] = []
        first = next(iter(run.saes))
        run.listener = lambda block, _, batch, __, first=first, positions=positions: (
            positions.append(batch.keep.size) if block == first else None
        )
        before = run.n_tokens
        profiler = cProfile.Profile()
        profiler.runcall(run_shards, ready)
        n_tokens = run.n_tokens - before
        spent = _seconds(profiler)
        model, saes = pass_flops(spec, load_config(spec.source), ready.n_docs, n_tokens)
        flops = {"model": model, "SAE encoders": saes, "all": model + saes}
        rows += [
            {
                "budget": budget,
                "stage": stage,
                "seconds": round(seconds, 2),
                "tokens_per_second": round(n_tokens / seconds),
                "padding": round(sum(positions) / n_tokens - 1, 3),
                "share_of_gemm": round(flops[stage] / seconds / peak, 3) if stage in flops else "",
            }
            for stage, seconds in spent.items()
        ]
    return pd.DataFrame(rows)


def _seconds(profiler: cProfile.Profile) -> dict[str, float]:
    """Seconds of each stage; a function that another stage calls is taken from that stage."""
    table = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # not in the stubs

    def below(function: Callable[..., object]) -> float:
        code = function.__code__
        return float(table[code.co_filename, code.co_firstlineno, code.co_name][3])

    whole, batch = below(run_shards), below(forward.Pass.batch)
    encoding, gathering = below(encode.encode), below(encode._gather)
    pooling = below(encode.document_statistics) + below(encode.hidden_statistics)
    writing = below(Store.write)
    return {
        "model": batch - encoding - pooling,
        "SAE encoders": encoding - gathering,
        "gather what is active": gathering,
        "pool by document": pooling,
        "tokenize and join": whole - batch - writing,
        "write": writing,
        "all": whole,
    }
