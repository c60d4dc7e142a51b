"""Extraction side by side: `python benchmarks/extraction.py` prints its tables in markdown.

Times run from folders on disk to pooled matrices, loading included. `--quick` is a check that it
works, on sizes whose times mean nothing.
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
import schemes
import torch
import world

from mosaic.extract import extract


def difference(one: schemes.Outputs, other: schemes.Outputs) -> str:
    """Largest difference of the sums relative to the largest sum; counts and bits not the same."""
    largest, differing, total = 0.0, 0, 0
    for cell, matrix in one.items():
        apart = abs(matrix - other[cell])
        if cell[2] == 0 and not cell[3]:
            largest = max(largest, apart.max() / matrix.max())
        else:
            differing += apart.count_nonzero()
            total += matrix.nnz
    return f"{largest:.0e} | {differing} of {total}"


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


def compare_times(root: Path, size: world.Size) -> str:
    """The table of times over layers x widths x six poolings."""
    spec = world.build(root / "world", size)
    data = world.task(world.texts(size.n_docs, seed=2))
    profile = world.profile(spec)
    a = measure("a", lambda: schemes.ours(spec, data, profile, root / "store"))
    b = measure("b", lambda: schemes.usual(spec, data))
    c = measure("c", lambda: schemes.authors(spec, data, root / "states"))
    features = extract(spec, data, profile, store=root / "store")
    n_tokens = int(features.n_tokens.sum())
    l0 = [features.matrix(s.layer, s.width, "count").sum() / n_tokens for s in spec.saes]
    named = {"(a) ours": a, "(b) sae-lens, a run per SAE": b, "(c) the authors' scheme": c}
    lines = [
        f"{len(data)} texts, {n_tokens} tokens; layers {size.layers}, widths {size.widths}, six "
        f"poolings; mean L0 {min(l0):.0f} to {max(l0):.0f}; {_machine()}",
        "",
        "| scheme | s | CPU s | tokens/s | times ours | in CPU s | sums apart | others apart |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {timed.seconds:.1f} | {timed.cpu_seconds:.1f} "
            f"| {n_tokens / timed.seconds:.0f} | {timed.seconds / a.seconds:.1f} "
            f"| {timed.cpu_seconds / a.cpu_seconds:.1f} | {difference(a.outputs, timed.outputs)} |"
            for name, timed in named.items()
        ),
    ]
    return "\n".join(lines)


def compare_bytes(root: Path, size: world.Size, lengths: tuple[int, ...]) -> str:
    """The table of stored bytes: our shards beside (c)'s token states, all layers and widths."""
    spec = world.build(root / "world", size)
    lines = ["| tokens a text | ours, kB a text | (c), kB a text | share |", "|---|---|---|---|"]
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
        lines.append(
            f"| {n_tokens} | {ours / 1e3:.0f} | {theirs / 1e3:.0f} | {ours / theirs:.0%} |"
        )
    return "\n".join(lines)


def peak_memory(
    spec: world.ModelSpec, n_docs: int, store: str, queue: multiprocessing.Queue
) -> None:
    """Body of a process of its own: extract and report the most memory it held, in bytes."""
    data = world.task(world.texts(n_docs, seed=3, n_tokens=12))
    extract(spec, data, world.profile(spec, shard_docs=512), store=store)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def compare_memory(root: Path, counts: tuple[int, ...]) -> str:
    """The table of peak memory against the number of documents."""
    spec = world.build(root / "world", world.MEMORY)
    context = multiprocessing.get_context("spawn")
    lines = ["| texts | peak memory, MB |", "|---|---|"]
    for n_docs in counts:
        queue = context.Queue()
        arguments = (spec, n_docs, str(root / f"store-{n_docs}"), queue)
        process = context.Process(target=peak_memory, args=arguments)
        process.start()
        lines.append(f"| {n_docs} | {queue.get() / 1e6:.0f} |")
        process.join()
    return "\n".join(lines)


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, load {load}"


def main() -> None:
    """Print the tables asked for, all three by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work at all")
    parser.add_argument("--texts", type=int, help="number of texts in the table of times")
    parser.add_argument("--only", choices=["times", "bytes", "memory"])
    chosen = parser.parse_args()
    size = world.QUICK if chosen.quick else world.FULL
    if chosen.texts is not None:
        size = replace(size, n_docs=chosen.texts)
    lengths = (20, 40) if chosen.quick else (50, 200, 500)
    counts = (64, 128) if chosen.quick else (1024, 4096, 16384)
    np.seterr(all="raise", under="ignore")
    parts = {
        "times": lambda root: compare_times(root, size),
        "bytes": lambda root: compare_bytes(root, size, lengths),
        "memory": lambda root: compare_memory(root, counts),
    }
    for name, part in parts.items():
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                print(f"\n{part(Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
