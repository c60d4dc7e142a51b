"""What an extraction asks for: identity of every block, shards that lack, who computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic.errors import ConfigError, IntegrityError
from mosaic.extraction.cost import require_memory
from mosaic.extraction.features import Block
from mosaic.models.hub import check_pin, local_folder
from mosaic.models.language_model import skeleton, truncated
from mosaic.models.readers import Reader, text_reader
from mosaic.models.resolve import (
    at_hand,
    choose_device,
    choose_dtype,
    fetch_model,
    load_config,
    load_tokenizer,
    model_identity,
)
from mosaic.models.saes import sae_identity
from mosaic.storage.shards import Store, make_key
from mosaic.storage.versions import code_digest, versions_of

if TYPE_CHECKING:
    import torch

    from mosaic.config.profiles import ModelSpec, Profile
    from mosaic.data.load import TaskData
    from mosaic.extraction.engines import Missing, Work
    from mosaic.extraction.forward import Pass


NUMBERS = ("models/readers.py", "models/language_model.py", "models/saes.py",
           "extraction/forward.py", "extraction/encode.py", "extraction/pooling.py")  # fmt: skip
"""Modules that decide the numbers of a block: what other code extracted is not read."""


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
        from mosaic.models.readers import image_reader

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
        "code": code_digest(*NUMBERS),
        "versions": versions_of("torch", "transformers", "sae-lens"),
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


def _pins(store: Store) -> Path:
    return store.root / "pins.json"


@dataclass(eq=False)
class ShardWorker:
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


def load_workers(work: Work) -> list[ShardWorker]:
    """One runner per job of a model; all of them share the model and the SAEs."""
    from mosaic.extraction.forward import Pass
    from mosaic.models.language_model import load_model
    from mosaic.models.saes import load_sae

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
        runners.append(ShardWorker(job, run))
    return runners


def blocks_of(missing: Missing) -> tuple[Block, ...]:
    """The blocks named there, each once."""
    return tuple(dict.fromkeys(block for blocks in missing.values() for block in blocks))
