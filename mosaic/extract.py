"""The one pass: every wanted block and SAE of a model over the documents of a task.

Documents are cut into shards of a fixed size, a shard into batches by length. A batch goes through
the model once, up to the deepest block wanted; the residual vectors of the tokens that count are
packed, encoded by every SAE while they are at hand, and reduced to statistics per document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic import engines
from mosaic.batches import Reader, text_reader
from mosaic.errors import ConfigError, IntegrityError
from mosaic.features import Block, Features
from mosaic.hub import check_pin, local_folder
from mosaic.models import (
    at_hand,
    choose_device,
    choose_dtype,
    fetch_model,
    load_config,
    load_tokenizer,
    model_identity,
    skeleton,
    truncated,
)
from mosaic.plan import require_memory
from mosaic.saes import sae_identity
from mosaic.store import Store, make_key

if TYPE_CHECKING:
    import torch

    from mosaic.profiles import ModelSpec, Profile
    from mosaic.tasks import TaskData


@dataclass(frozen=True, eq=False)
class Job:
    """What one call of `extract` asks for, and the identity of every block of it."""

    model: ModelSpec
    folder: Path
    data: TaskData
    profile: Profile
    store: Store
    blocks: tuple[Block, ...]
    identities: dict[str, dict[str, Any]]
    reader: Reader
    device: torch.device
    dtype: torch.dtype

    @property
    def n_shards(self) -> int:
        """Number of shards each block has."""
        return -(-len(self.data) // self.profile.shard_docs)

    def rows(self, shard: int) -> range:
        """Rows of the task that a shard holds."""
        size = self.profile.shard_docs
        return range(shard * size, min((shard + 1) * size, len(self.data)))


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
    engines.check_engine(engine)
    if not isinstance(store, Store):
        store = Store(Path(store if store is not None else "_build/cache/features"))
    jobs = [resolve_job(model, data, profile, layers, widths, store) for data in tasks]
    lacking = [job for job in jobs if missing_shards(job)]
    if lacking:
        keys = {b.key for job in lacking for b in engines.blocks_of(missing_shards(job))}
        with store.lock(sorted(keys)):
            # Another process may have done the work meanwhile.
            work = [(job, missing) for job in lacking if (missing := missing_shards(job))]
            if work:
                _compute(work, engine)
    return [Features(job.data.ids, store, job.blocks) for job in jobs]


def resolve_job(
    model: ModelSpec,
    data: TaskData,
    profile: Profile,
    layers: Sequence[int] | None,
    widths: Sequence[str] | None,
    store: Store,
) -> Job:
    """Resolve names and hash what decides the numbers of each block; loads no model.

    Raises AccessError, ConfigError (unknown layer or width, images for a text model),
    IntegrityError and ResourceError (more than the GPU holds).
    """
    if len(data) == 0:
        raise ConfigError(f"Task {data.task.key!r} has no documents; there is nothing to extract.")
    if data.task.modality == "image" and model.kind != "vision":
        raise ConfigError(
            f"Task {data.task.key!r} holds images and {model.name!r} is a text model; choose a "
            f"text task, or a model of kind 'vision'."
        )
    if data.task.modality == "text":
        _check_texts(data)
    layers = tuple(model.layers.values()) if layers is None else tuple(layers)
    wanted: list[tuple[int, str | None]] = []
    for layer in layers:
        model.depth_of(layer)  # names the layers there are
        there = [sae.width for sae in model.saes if sae.layer == layer]
        wanted += [(layer, None), *((layer, w) for w in (there if widths is None else widths))]
    device = choose_device()
    dtype = choose_dtype(profile.dtype, device)
    if not at_hand(model):  # what is at hand may have been extracted on a larger GPU
        saes = [model.sae(layer, width) for layer, width in wanted if width is not None]
        require_memory(model, saes, profile, dtype, device)
    folder = fetch_model(model)
    sources = model_identity(folder)
    if local_folder(model.source) is None:
        check_pin(_pins(store), model.source, folder.name, sources["weights"])
    config = load_config(folder)
    text = truncated(config, max(layers) + 1).get_text_config()
    reader: Reader
    if data.task.modality == "image":
        from mosaic.vision import image_reader

        reader = image_reader(folder)
    else:
        limit = getattr(text, "max_position_embeddings", None)
        reader = text_reader(load_tokenizer(folder), profile, limit)
    common = {
        "model": sources,
        "data": data.fingerprint,
        "shard_docs": profile.shard_docs,
        "dtype": str(dtype),
        "attention": skeleton(truncated(config, 1)).config.get_text_config()._attn_implementation,
        **reader.identity,
    }
    blocks, identities = [], {}
    for layer, width in wanted:
        identity = {**common, "layer": layer}
        if width is not None:
            spec = model.sae(layer, width)
            identity |= {"sae": sae_identity(spec, _pins(store)), "top_n": list(profile.top_n)}
        blocks.append(Block(layer, width, make_key(identity)))
        identities[blocks[-1].key] = identity
    return Job(
        model, folder, data, profile, store, tuple(blocks), identities, reader, device, dtype
    )


def _check_texts(data: TaskData) -> None:
    for row, text in enumerate(data.inputs):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise IntegrityError(
                f"Text {row} of task {data.task.key!r} is no valid Unicode ({error.reason}); "
                f"clean it, or read the file with the encoding it was written in."
            ) from error


def missing_shards(job: Job) -> dict[int, tuple[Block, ...]]:
    """Shard to the blocks that lack it; a block without its manifest is listed once at least."""
    missing: dict[int, tuple[Block, ...]] = {}
    for block in job.blocks:
        shards = job.store.missing(block.key, job.n_shards)
        if not shards and job.store.manifest(block.key) is None:
            shards = [job.n_shards - 1]  # killed between its last shard and its manifest
        for shard in shards:
            missing[shard] = (*missing.get(shard, ()), block)
    return dict(sorted(missing.items()))


def _compute(work: list[tuple[Job, dict[int, tuple[Block, ...]]]], engine: str) -> None:
    """Compute and store the missing shards, then write the manifests."""
    sizes = engines.compute(work, engine)
    for job, missing in work:
        for block in engines.blocks_of(missing):
            facts: dict[str, Any] = {"top_n": [], "d_sae": None, "name": block.name}
            if block.width is not None:
                facts |= {"top_n": list(job.profile.top_n), "d_sae": sizes[block.key]}
            job.store.finish(block.key, job.n_shards, job.identities[block.key], **facts)


def _pins(store: Store) -> Path:
    return store.root / "pins.json"
