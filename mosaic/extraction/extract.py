"""The one pass: every wanted block and SAE of a model over the documents of a task.

Documents are cut into shards of a fixed size, a shard into batches by length. A batch goes through
the model once, up to the deepest block wanted; the residual vectors of the tokens that count are
packed, encoded by every SAE while they are at hand, and reduced to statistics per document.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.extraction.engines import check_engine, compute_shards
from mosaic.extraction.features import Block, Features
from mosaic.extraction.jobs import blocks_of, missing_shards, resolve_job
from mosaic.storage.shards import Store

if TYPE_CHECKING:
    from mosaic.config.profiles import ModelSpec, Profile
    from mosaic.data.load import TaskData
    from mosaic.extraction.jobs import Job


def extract(
    model: ModelSpec,
    data: TaskData,
    profile: Profile,
    layers: Sequence[int] | None = None,
    widths: Sequence[str] | None = None,
    store: Store | Path | str | None = None,
    engine: str = "local",
) -> Features:
    """Features of `data` under `model`: computes what the store lacks, and reads the rest.

    See `extract_all`, of which this is the call for one task.
    """
    return extract_all(model, [data], profile, layers, widths, store, engine)[0]


def extract_all(
    model: ModelSpec,
    tasks: Sequence[TaskData],
    profile: Profile,
    layers: Sequence[int] | None = None,
    widths: Sequence[str] | None = None,
    store: Store | Path | str | None = None,
    engine: str = "local",
) -> list[Features]:
    """Features of several tasks under one model, which is loaded once for all of them.

    `layers` defaults to all of the model's, `widths` to every SAE each layer has; `widths=()` asks
    for hidden states alone. `store` defaults to `_build/cache/features`, where the command line has
    it. `engine` "ray" computes on a Ray cluster and stores the same bytes.
    Raises AccessError, ConfigError, IntegrityError, ResourceError.
    """
    check_engine(engine)
    if not isinstance(store, Store):
        store = Store(Path(store if store is not None else "_build/cache/features"))
    jobs = [resolve_job(model, data, profile, layers, widths, store) for data in tasks]
    lacking = [job for job in jobs if missing_shards(job)]
    if lacking:
        keys = {b.key for job in lacking for b in blocks_of(missing_shards(job))}
        with store.lock(sorted(keys)):
            # Another process may have done the work meanwhile.
            work = [(job, missing) for job in lacking if (missing := missing_shards(job))]
            if work:
                _compute(work, engine)
    return [Features(job.data.ids, store, job.blocks) for job in jobs]


def _compute(work: list[tuple[Job, dict[int, tuple[Block, ...]]]], engine: str) -> None:
    """Compute and store the missing shards, then write the manifests."""
    sizes = compute_shards(work, engine)
    for job, missing in work:
        for block in blocks_of(missing):
            facts: dict[str, Any] = {"top_n": [], "d_sae": None, "name": block.name}
            if block.width is not None:
                facts |= {"top_n": list(job.profile.top_n), "d_sae": sizes[block.key]}
            job.store.finish(block.key, job.n_shards, job.identities[block.key], **facts)
