"""The store with up to a million documents of made-up sparse rows.

`python benchmarks/store_scale.py --out book/store_scale.csv` writes, resumes, verifies and reads
back; each stage runs in a process of its own, so that its peak memory is its own. No model takes
part: the rows are random, in the layout and with the density of an extraction.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mosaic.extraction.encode import compress
from mosaic.extraction.features import Block, Features
from mosaic.storage.shards import Store

D_SAE, N_ACTIVE, SHARD_DOCS, TOP_N = 16_384, 50, 2048, 20
BLOCKS = tuple(Block(layer, width, f"{layer}-{width}") for layer in (5, 12) for width in ("16k",))
READ = BLOCKS[1]


def rows(block: int, shard: int, n_docs: int) -> dict[str, np.ndarray]:
    """Arrays of one shard; a pure function of its place."""
    rng = np.random.default_rng([block, shard])
    # Distinct latents in rising order: one from each of N_ACTIVE equal stretches.
    step = D_SAE // N_ACTIVE
    latent = rng.integers(step, size=(n_docs, N_ACTIVE)) + np.arange(N_ACTIVE) * step
    count = rng.integers(1, 4, size=latent.size)
    value = rng.exponential(size=latent.size).astype(np.float32)
    pairs = {
        "doc": np.repeat(np.arange(n_docs), N_ACTIVE),
        "latent": latent.ravel().astype(np.int32),
        "sum": value * count.astype(np.float32),
        "max": value,
        "count": count.astype(np.int32),
        "last": np.where(rng.random(latent.size) < 0.1, value, 0).astype(np.float32),
        f"top_{TOP_N}": np.minimum(count, 2).astype(np.int32),
    }
    return {**compress(pairs, n_docs, D_SAE), "n_tokens": np.full(n_docs, 64, dtype=np.int32)}


def n_shards(n_docs: int) -> int:
    """Number of shards of each block."""
    return -(-n_docs // SHARD_DOCS)


def write(root: Path, n_docs: int) -> None:
    """What is missing of every block, shard by shard, then the manifests: also the resume."""
    store = Store(root)
    for number, block in enumerate(BLOCKS):
        for shard in store.missing(block.key, n_shards(n_docs)):
            size = min(SHARD_DOCS, n_docs - shard * SHARD_DOCS)
            store.write(block.key, shard, rows(number, shard, size))
        facts: dict[str, Any] = {"d_sae": D_SAE, "top_n": [TOP_N], "name": block.name}
        store.finish(block.key, n_shards(n_docs), {"simulated": block.name}, **facts)


def verify(root: Path, n_docs: int) -> None:
    """The checksum of every shard of every block."""
    for block in BLOCKS:
        assert Store(root).missing(block.key, n_shards(n_docs)) == []


def read(root: Path, n_docs: int) -> None:
    """The matrix of one layer and width, checksums included."""
    features = Features(np.arange(n_docs), Store(root), BLOCKS)
    matrix = features.matrix(READ.layer, str(READ.width))
    assert matrix.shape == (n_docs, D_SAE)
    assert matrix.nnz == n_docs * N_ACTIVE


STAGES = {"write": write, "resume": write, "verify": verify, "read": read}


def _report(stage: Callable[[Path, int], None], root: Path, n_docs: int, answer: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    stage(root, n_docs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer.put((seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)))


def measure(stage: Callable[[Path, int], None], root: Path, n_docs: int) -> tuple[float, float]:
    """Seconds, and the most megabytes held above what the imports take."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_report, args=(stage, root, n_docs, answer))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"stage {stage.__name__} of {n_docs} documents failed")
    return answer.get()


def curve(sizes: list[int], root: Path) -> pd.DataFrame:
    """One row a stage and number of documents."""
    found = []
    for n_docs in sizes:
        folder = root / str(n_docs)
        for name, stage in (
            ("write", write),
            ("resume", write),
            ("verify", verify),
            ("read", read),
        ):
            if name == "resume":  # a tenth of one block was lost
                for shard in range(0, n_shards(n_docs), 10):
                    Store(folder).shard_path(READ.key, shard).unlink()
            seconds, peak = measure(stage, folder, n_docs)
            blocks = [READ] if name == "read" else BLOCKS
            files = [f for b in blocks for f in (folder / b.key).iterdir()]
            found.append(
                {
                    "documents": n_docs,
                    "stage": name,
                    "seconds": round(seconds, 2),
                    "peak_mb": round(peak, 1),
                    "mb_on_disk": round(sum(f.stat().st_size for f in files) / 1e6, 1),
                }
            )
            print(found[-1], file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", help="CSV file; none prints it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mosaic-scale-") as folder:
        table = curve(args.sizes, Path(folder))
    print(table.to_csv(args.out or sys.stdout, index=False, lineterminator="\n") or "", end="")


if __name__ == "__main__":
    main()
