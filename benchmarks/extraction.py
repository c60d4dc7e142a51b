"""Extraction side by side: `python benchmarks/extraction.py` prints its tables in markdown.

Times run from folders on disk to pooled matrices, loading included. `--out book` also writes
`book/extraction_times.csv`, `_bytes.csv`, `_memory.csv` and `_stages.csv`. `--only gpu` measures
the pass alone, on the shapes of Gemma 2 2B in bfloat16 with random weights. `--quick` is a check
that it works, on sizes whose times mean nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import schemes
import stages
import torch
import world

from mosaic.extraction.extract import extract
from mosaic.scores.markdown import markdown_table


def difference(one: schemes.Outputs, other: schemes.Outputs) -> dict[str, object]:
    """How far two schemes are apart: sums, and counts and their bits above 1.

    `sums_apart` is the largest difference relative to the largest sum, `counts_apart` the largest
    difference of a count or bit, and `counts_differing` how many of them are not the same.
    """
    sums, counts, differing, total = 0.0, 0, 0, 0
    for cell, matrix in one.items():
        apart = abs(matrix - other[cell])
        if cell[2] == 0 and not cell[3]:
            sums = max(sums, apart.max() / matrix.max())
        else:
            counts = max(counts, int(apart.max()))
            differing += apart.count_nonzero()
            total += matrix.nnz
    return {
        "sums_apart": f"{sums:.0e}",
        "counts_apart": counts,
        "counts_differing": f"{differing} of {total}",
    }


class Timed(NamedTuple):
    """What a scheme returned, the seconds on the clock and those its threads were at work."""

    outputs: schemes.Outputs
    seconds: float
    cpu_seconds: float


def measure(name: str, run: Callable[[], schemes.Outputs]) -> Timed:
    """Run one scheme. On a busy machine only the CPU seconds mean something."""
    print(f"running {name}", file=sys.stderr, flush=True)
    start, cpu_start = time.perf_counter(), time.process_time()
    found = run()
    timed = Timed(found, time.perf_counter() - start, time.process_time() - cpu_start)
    print(f"{name}: {timed.seconds:.1f} s, CPU {timed.cpu_seconds:.1f} s", file=sys.stderr)
    return timed


def compare_times(root: Path, size: world.Size) -> pd.DataFrame:
    """One row a scheme over layers x widths x six poolings; `times_ours` are seconds by ours."""
    spec = world.build(root / "world", size)
    data = world.task(world.texts(size.n_docs, seed=2))
    profile = world.profile(spec)
    a = measure("a", lambda: schemes.ours(spec, data, profile, root / "store"))
    b = measure("b", lambda: schemes.usual(spec, data))
    c = measure("c", lambda: schemes.authors(spec, data, root / "states"))
    features = extract(spec, data, profile, store=root / "store")
    n_tokens = int(features.n_tokens.sum())
    l0 = [features.matrix(s.layer, s.width, "count").sum() / n_tokens for s in spec.saes]
    print(
        f"layers {size.layers}, widths {size.widths}, six poolings; mean L0 {min(l0):.0f} to "
        f"{max(l0):.0f}; {_machine()}",
        file=sys.stderr,
    )
    named = {"(a) ours": a, "(b) sae-lens, a run per SAE": b, "(c) the authors' scheme": c}
    return pd.DataFrame(
        {
            "scheme": name,
            "texts": len(data),
            "tokens": n_tokens,
            "seconds": round(timed.seconds, 1),
            "cpu_seconds": round(timed.cpu_seconds, 1),
            "tokens_per_second": round(n_tokens / timed.seconds),
            "times_ours": round(timed.seconds / a.seconds, 1),
            "times_ours_cpu": round(timed.cpu_seconds / a.cpu_seconds, 1),
            **difference(a.outputs, timed.outputs),
        }
        for name, timed in named.items()
    )


def compare_bytes(root: Path, size: world.Size, lengths: tuple[int, ...]) -> pd.DataFrame:
    """Stored bytes by tokens a text: our shards beside (c)'s token states, all layers, widths."""
    spec = world.build(root / "world", size)
    rows = []
    for n_tokens in lengths:
        documents = world.texts(8, seed=n_tokens, n_tokens=n_tokens)
        store = root / f"store-{n_tokens}"
        extract(spec, world.task(documents), world.profile(spec), store=store)
        for sae in spec.saes:
            states = root / f"states-{n_tokens}" / f"{sae.layer}-{sae.width}"
            schemes.token_states(spec, sae.layer, documents, states)
        ours, theirs = (
            sum(f.stat().st_size for f in folder.rglob(pattern)) / len(documents)
            for folder, pattern in (
                (store, "*.safetensors"),
                (root / f"states-{n_tokens}", "*.npz"),
            )
        )
        rows.append(
            {
                "tokens_a_text": n_tokens,
                "ours_kb_a_text": round(ours / 1e3),
                "authors_kb_a_text": round(theirs / 1e3),
                "share_percent": round(100 * ours / theirs),
            }
        )
    return pd.DataFrame(rows)


def peak_memory(
    spec: world.ModelSpec, n_docs: int, store: str, queue: multiprocessing.Queue
) -> None:
    """Body of a process of its own: extract and report the most memory it held, in bytes."""
    data = world.task(world.texts(n_docs, seed=3, n_tokens=12))
    extract(spec, data, world.profile(spec, shard_docs=512), store=store)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def compare_memory(root: Path, counts: tuple[int, ...]) -> pd.DataFrame:
    """Peak memory of a process by its number of texts."""
    spec = world.build(root / "world", world.MEMORY)
    context = multiprocessing.get_context("spawn")
    rows = []
    for n_docs in counts:
        queue = context.Queue()
        arguments = (spec, n_docs, str(root / f"store-{n_docs}"), queue)
        process = context.Process(target=peak_memory, args=arguments)
        process.start()
        rows.append({"texts": n_docs, "peak_mb": round(queue.get() / 1e6)})
        process.join()
    return pd.DataFrame(rows)


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, load {load}"


def main() -> None:
    """Print the tables asked for, by default all but that of the GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work at all")
    parser.add_argument("--texts", type=int, help="number of texts in the table of times")
    parser.add_argument("--only", choices=["times", "bytes", "memory", "stages", "gpu"])
    parser.add_argument("--out", type=Path, help="folder for extraction_<table>.csv")
    chosen = parser.parse_args()
    if chosen.only == "gpu" and not chosen.quick and not torch.cuda.is_available():
        raise SystemExit(
            "The table of the GPU needs a CUDA device and there is none here; run it where there "
            "is one, or add --quick to try the same code on this machine."
        )
    size = world.QUICK if chosen.quick else world.FULL
    if chosen.texts is not None:
        size = replace(size, n_docs=chosen.texts)
    lengths = (20, 40) if chosen.quick else (50, 200, 500)
    counts = (64, 128) if chosen.quick else (1024, 4096, 16384)
    staged = world.QUICK if chosen.quick else world.GEMMA_3_270M
    np.seterr(all="raise", under="ignore")
    parts = {
        "times": lambda root: compare_times(root, size),
        "bytes": lambda root: compare_bytes(root, size, lengths),
        "memory": lambda root: compare_memory(root, counts),
        "stages": lambda root: stages.by_stage(root, staged, (8192, 1024)),
        "gpu": lambda root: stages.one_pass(
            root, world.QUICK if chosen.quick else world.GEMMA_2_2B
        ),
    }
    for name in [chosen.only] if chosen.only else ["times", "bytes", "memory", "stages"]:
        with tempfile.TemporaryDirectory() as folder:
            table = parts[name](Path(folder))
        print(f"\n{markdown_table(table.columns, table.astype(str).values.tolist())}", flush=True)
        if chosen.out is not None:
            table.to_csv(chosen.out / f"extraction_{name}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
