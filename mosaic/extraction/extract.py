"""The one pass: every wanted block and SAE of a model over the documents of a task.

Documents are cut into shards of a fixed size, a shard into batches by length. A batch goes through
the model once, up to the deepest block wanted; the residual vectors of the tokens that count are
packed, encoded by every SAE while they are at hand, and reduced to statistics per document.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import Task
from mosaic.data.load import TaskData
from mosaic.errors import ConfigError
from mosaic.extraction.engines import check_engine, compute_shards
from mosaic.extraction.features import Features
from mosaic.extraction.jobs import blocks_of, missing_shards, resolve_job
from mosaic.storage.shards import Store


def models_with_tasks(
    profile: Profile, models: Sequence[str] | None = None, tasks: Sequence[str] | None = None
) -> list[tuple[ModelSpec, tuple[Task, ...]]]:
    """Each model with the tasks it reads: what `mosaic extract` runs, and its dry run prices.

    Both default to the profile's own; of its tasks, named models get those that they read. Images
    go to vision models, texts to text models and to a vision model that is named. Raises
    ConfigError for an unknown name, for a task asked for that none of the models reads and for a
    named model that reads none of the tasks.
    """
    chosen = [profile.model(name) for name in models] if models else list(profile.models)
    wanted = [profile.task(key) for key in dict.fromkeys(tasks or profile.tasks)]

    def reads(model: ModelSpec, task: Task) -> bool:
        if task.modality == "image":
            return model.kind == "vision"
        return bool(models) or (model.kind == "text" and model.speaks(task))

    found = [(model, tuple(task for task in wanted if reads(model, task))) for model in chosen]
    for task in wanted if tasks or not models else ():
        if not any(task in mine for _, mine in found):
            raise ConfigError(
                f"Task {task.key!r} holds {task.modality}s, which none of the models "
                f"{[model.name for model in chosen]} reads; name one that does (`--models`), or "
                f"leave the task out."
            )
    for model, mine in found:
        if models and not mine:
            raise ConfigError(
                f"Model {model.name!r} is of kind {model.kind!r} and reads none of the tasks "
                f"{[task.key for task in wanted]}; name one that it reads (`--tasks`)."
            )
    return [(model, mine) for model, mine in found if mine]


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
            sizes = compute_shards(work, engine)
            for (job, missing), d_sae in zip(work, sizes, strict=True):
                for block in blocks_of(missing):
                    facts: dict[str, Any] = {"top_n": [], "d_sae": None, "name": block.name}
                    if block.width is not None:
                        facts |= {"top_n": list(profile.top_n), "d_sae": d_sae[block.key]}
                    store.finish(block.key, job.n_shards, job.identities[block.key], **facts)
    return [Features(job.data.ids, store, tuple(job.blocks)) for job in jobs]
