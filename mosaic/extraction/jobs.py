"""What an extraction asks for: identity of every block, shards that lack, who computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.data.load import TaskData
from mosaic.data.own_files import check_texts
from mosaic.errors import ConfigError
from mosaic.extraction.features import Block
from mosaic.extraction.forward import Pass
from mosaic.extraction.memory import require_memory
from mosaic.models.hub import check_pin
from mosaic.models.language_model import load_model, skeleton, truncated
from mosaic.models.readers import Reader, image_reader, text_reader
from mosaic.models.resolve import ResolvedModel, at_hand, choose_device, choose_dtype, resolve
from mosaic.models.saes import load_sae, sae_identity
from mosaic.storage.shards import Store, make_key
from mosaic.storage.versions import code_digest, versions_of

BLOCK_CODE = ("models/readers.py", "models/batches.py", "models/language_model.py",
              "models/saes.py", "extraction/forward.py", "extraction/encode.py")  # fmt: skip
"""Modules that decide the numbers of a block: what other code extracted is not read."""

BLOCK_LIBRARIES = ("torch", "transformers", "sae-lens")


@dataclass(frozen=True, eq=False)
class Job:
    """What one call of `extract` asks for, and the identity of every block of it."""

    model: ResolvedModel
    data: TaskData
    profile: Profile
    store: Store
    reader: Reader
    common: Mapping[str, Any]
    """What decides the numbers of all blocks alike."""
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Key of each block asked for to what decides its numbers."""
    blocks: list[Block] = field(default_factory=list)

    def block(self, layer: int, width: str | None = None) -> Block:
        """A block of this job, named by content; of the SAEs only this one is fetched.

        Raises AccessError, ConfigError (unknown layer or width), IntegrityError.
        """
        for block in self.blocks:
            if (block.layer, block.width) == (layer, width):
                return block
        self.model.spec.depth_of(layer)  # names the layers there are
        truncated(self.model.config, layer + 1)
        identity = {**self.common, "layer": layer}
        if width is not None:
            sae = sae_identity(self.model.spec.sae(layer, width), self.store.pins)
            identity |= {"sae": sae, "top_n": list(self.profile.top_n)}
        block = Block(layer, width, make_key(identity))
        self.identities[block.key] = identity
        self.blocks.append(block)
        return block

    @property
    def n_shards(self) -> int:
        """Number of shards each block has."""
        return -(-len(self.data) // self.profile.shard_docs)

    def rows(self, shard: int) -> range:
        """Rows of the task that a shard holds."""
        size = self.profile.shard_docs
        return range(shard * size, min((shard + 1) * size, len(self.data)))


Missing = Mapping[int, tuple[Block, ...]]
"""Shard to the blocks that lack it."""

Work = Sequence[tuple[Job, Missing]]
"""Jobs of one model, each with what it lacks."""


def resolve_job(
    model: ModelSpec,
    data: TaskData,
    profile: Profile,
    layers: Sequence[int] | None,
    widths: Sequence[str] | None,
    store: Store,
) -> Job:
    """Resolve names and hash what decides the numbers of each block; loads no model.

    With `layers=()` no SAE is looked at: `Job.block` then names one block at a time. The prompts of
    behaviour tasks, which end with the question, are cut on the left where they are too long.
    Raises AccessError, ConfigError (unknown layer or width, images for a text model),
    IntegrityError and ResourceError (more than the device holds).
    """
    if len(data) == 0:
        raise ConfigError(f"Task {data.task.key!r} has no documents; there is nothing to extract.")
    if data.task.modality == "image" and model.kind != "vision":
        raise ConfigError(
            f"Task {data.task.key!r} holds images and {model.name!r} is a text model; choose a "
            f"text task, or a model of kind 'vision'."
        )
    if data.task.modality == "text":
        check_texts(data.inputs, data.task.input_field, f"Task {data.task.key!r}")
    wanted: list[tuple[int, str | None]] = []
    asked = tuple(model.layers.values() if layers is None else layers)
    for layer in asked:
        model.depth_of(layer)
        there = [sae.width for sae in model.saes if sae.layer == layer]
        wanted += [(layer, None), *((layer, w) for w in there if widths is None or w in widths)]
    for width in widths or ():  # layers need not have the same widths, but one must have it
        if asked and all(w != width for _, w in wanted):
            model.sae(asked[0], width)
    if not at_hand(model):  # what is at hand may have been extracted on a larger GPU
        saes = [model.sae(layer, width) for layer, width in wanted if width is not None]
        device = choose_device()
        require_memory(model, saes, profile, choose_dtype(profile.dtype, device), device)
    found = resolve(model, profile)
    if found.commit is not None:
        check_pin(store.pins, model.source, found.commit, found.identity["weights"])
    cut = "right" if data.task.label_model is None else "left"
    image = data.task.modality == "image"
    reader: Reader = image_reader(found) if image else text_reader(found, profile, cut)
    attention = skeleton(truncated(found.config, 1)).config.get_text_config()._attn_implementation
    common = {
        "model": found.identity,
        "data": data.fingerprint,
        "shard_docs": profile.shard_docs,
        "dtype": str(found.dtype),
        "attention": attention,
        "code": code_digest(*BLOCK_CODE),
        "versions": versions_of(*BLOCK_LIBRARIES),
        **reader.identity,
    }
    job = Job(found, data, profile, store, reader, common)
    for layer, name in wanted:
        job.block(layer, name)
    return job


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
    """One worker per job of a model; all of them share the model and the SAEs.

    Raises ResourceError where the device cannot hold them, and what loading raises.
    """
    job = work[0][0]
    found, spec = job.model, job.model.spec
    blocks = [block for _, missing in work for block in blocks_of(missing)]
    places = dict.fromkeys((b.layer, b.width) for b in blocks if b.width is not None)
    wanted = {place: spec.sae(*place) for place in places}
    layers, how = {block.layer for block in blocks}, (found.dtype, found.device, found.config)
    require_memory(spec, wanted.values(), job.profile, *how, layers)
    model = load_model(found, max(layers) + 1)
    d_model = model.text.config.hidden_size
    saes = {place: load_sae(sae, found.device, d_model, found) for place, sae in wanted.items()}
    workers = []
    for job, missing in work:
        own = {b: saes[b.layer, b.width] for b in blocks_of(missing) if b.width is not None}
        run = Pass(model, own, job.profile.top_n, job.profile.token_budget)
        workers.append(ShardWorker(job, run))
    return workers


def blocks_of(missing: Missing) -> tuple[Block, ...]:
    """The blocks named there, each once."""
    return tuple(dict.fromkeys(block for blocks in missing.values() for block in blocks))
