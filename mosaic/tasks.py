"""The paper's datasets as data, and the one function that loads them.

A task is one labelled dataset under one configuration and split. Task catalogues are YAML files in
`assets/tasks/`; a profile names the catalogue it uses, so `mini` and `paper` differ in data only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mosaic.errors import AccessError, ConfigError, IntegrityError
from mosaic.images import read_images
from mosaic.integrity import verify_folder

if TYPE_CHECKING:
    from datasets import Dataset

    from mosaic.profiles import Profile

CATALOGUES = Path(__file__).parent / "assets" / "tasks"
ROLES = (
    "safety",
    "toxicity",
    "sentiment",
    "intent",
    "scenario",
    "stance",
    "emotion",
    "behaviour",
    "vision",
)


@dataclass(frozen=True)
class Task:
    """One labelled dataset; `key` is its unique name in a catalogue (paper §3, our wording)."""

    name: str
    role: str
    dataset: str
    """Hub id, `<org>/<name>`; below `data_dir` the folder of the same name."""
    split: str
    input_field: str
    label_field: str
    licence: str
    section: str
    """Section of the paper that uses it."""
    config: str | None = None
    revision: str | None = None
    language: str | None = None
    label_model: str | None = None
    """The model whose correctness is the label (behaviour prediction only)."""
    modality: str = "text"
    label_names: tuple[str, ...] | None = None
    rows: int | None = None
    class_counts: tuple[int, ...] | None = None
    group_field: str | None = None
    """Rows that share its value never stand on both sides of a split."""
    annotations: tuple[str, ...] = ()
    """Columns that say what is known to have caused the label."""
    replaces: str | None = None
    """Script-only repository named by the authors, which `datasets` >= 4 refuses to load."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"Task {self.name!r} has role {self.role!r}; use one of {ROLES}.")
        if self.modality not in ("text", "image"):
            raise ConfigError(
                f"Task {self.name!r} has modality {self.modality!r}; use 'text' or 'image'."
            )
        if not (self.dataset.count("/") == 1 and all(self.dataset.split("/"))):
            raise ConfigError(
                f"Task {self.name!r} names dataset {self.dataset!r}; write it as '<org>/<name>'."
            )

    @property
    def key(self) -> str:
        """`name[-language][-label_model]`, such as `toxicity-de` or `pubmedqa-gemma-2-9b`."""
        return "-".join(part for part in (self.name, self.language, self.label_model) if part)


@dataclass(frozen=True, eq=False)
class TaskData:
    """The rows of a task in their published order; every array is `[n_docs]`."""

    task: Task
    ids: np.ndarray
    inputs: list[Any]
    """`str` for text tasks, `PIL.Image.Image` for image tasks."""
    labels: np.ndarray
    """int64 indices into `label_names`."""
    label_names: tuple[str, ...]
    groups: np.ndarray | None = None
    annotations: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """sha256 over ids, inputs and labels: equal exactly when the data are equal."""
        digest = hashlib.sha256()
        for row_id, value, label in zip(self.ids, self.inputs, self.labels, strict=True):
            content = value if isinstance(value, str) else f"{value.mode}{value.size}"
            digest.update(f"{row_id}\x1f{label}\x1f{len(content)}\x1f".encode())
            digest.update(content.encode("utf-8", "surrogatepass"))
            if not isinstance(value, str):
                digest.update(value.tobytes())
        return digest.hexdigest()

    def subset(self, index: np.ndarray) -> TaskData:
        """The rows at `index` (positions), in that order."""
        return replace(
            self,
            ids=self.ids[index],
            inputs=[self.inputs[i] for i in index],
            labels=self.labels[index],
            groups=None if self.groups is None else self.groups[index],
            annotations={name: values[index] for name, values in self.annotations.items()},
        )


def task_from_mapping(entry: dict[str, Any], where: str) -> Iterator[Task]:
    """Tasks of one catalogue entry; `languages: {en: {split: en}}` gives one task per language."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a task must be a mapping of fields, found {entry!r}.")
    entry = dict(entry)
    languages = entry.pop("languages", None) or {entry.get("language"): {}}
    known = {f.name for f in fields(Task)}
    for language, overrides in languages.items():
        values = {**entry, "language": language, **overrides}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"{where}: unknown field {unknown[0]!r} in task {entry.get('name')!r}; "
                f"the fields are {sorted(known)}."
            )
        for name in ("label_names", "class_counts", "annotations"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        try:
            yield Task(**values)
        except TypeError as error:
            raise ConfigError(f"{where}: task {entry.get('name')!r}: {error}.") from error


def load_catalogue(name: str) -> dict[str, Task]:
    """All tasks of a catalogue by key. `name` is a shipped one ("paper") or a path to a YAML file.

    Raises ConfigError for an unknown catalogue, a malformed entry or a key that occurs twice.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CATALOGUES / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in CATALOGUES.glob("*.yaml"))
        raise ConfigError(f"No task catalogue {name!r}; use one of {shipped} or a YAML file.")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML ({error}); correct it.") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a list of tasks, found {type(entries).__name__}.")
    catalogue: dict[str, Task] = {}
    for entry in entries:
        for task in task_from_mapping(entry, str(path)):
            if task.key in catalogue:
                raise ConfigError(f"{path} defines task {task.key!r} twice; rename one.")
            catalogue[task.key] = task
    return catalogue


def find_task(key: str, profile: Profile) -> Task:
    """The task of that key in the profile's catalogue; ConfigError names what there is."""
    catalogue = load_catalogue(profile.catalogue)
    if key not in catalogue:
        raise ConfigError(f"No task {key!r} in {profile.catalogue!r}; it has {sorted(catalogue)}.")
    return catalogue[key]


def missing_reason(task: Task, profile: Profile) -> str | None:
    """Why the task cannot be loaded offline here, or None when its folder is at hand."""
    if profile.data_dir is None:
        return "needs the Hub: MOSAIC_DATA_DIR is not set"
    if not (Path(profile.data_dir) / task.dataset).is_dir():
        return f"{task.dataset} is not below MOSAIC_DATA_DIR"
    return None


def load_task(key: str, profile: Profile) -> TaskData:
    """Load, check and integer-encode one task.

    Reads `<data_dir>/<dataset>` where the profile has a `data_dir`, else the Hub: the same call.
    Inputs are cast as the authors do (first element of a list, None to ""; protocol §2). The whole
    set is checked before the profile's `max_docs` is drawn from it.
    Raises ConfigError (unknown key), AccessError (not reachable), IntegrityError (not as expected).
    """
    task = find_task(key, profile)
    table = _read(task, profile)
    wanted = [task.input_field, task.label_field, task.group_field, *task.annotations]
    for name in filter(None, wanted):
        if name not in table.column_names:
            raise IntegrityError(
                f"{_where(task)} has no field {name!r}; it has {table.column_names}. "
                f"Correct the task's fields or fetch the dataset again."
            )
    if task.rows is not None and len(table) != task.rows:
        raise IntegrityError(
            f"{_where(task)} has {len(table)} rows where {task.rows} were expected. "
            f"Fetch the dataset again, or correct `rows` if it was changed on purpose."
        )
    labels, label_names = _encode_labels(task, table)
    inputs: list[Any]
    if task.modality == "text":
        inputs = [_as_text(value) for value in table[task.input_field]]
    else:
        inputs = read_images(table, task.input_field, _where(task))
    data = TaskData(
        task=task,
        ids=_row_ids(task, table),
        inputs=inputs,
        labels=labels,
        label_names=label_names,
        groups=np.asarray(table[task.group_field]) if task.group_field else None,
        annotations={name: _as_column(table[name]) for name in task.annotations},
    )
    if profile.max_docs is None or profile.max_docs >= len(labels):
        return data
    # Tasks of equal length keep the same positions: variants of one question stay together.
    chosen = np.random.default_rng(0).permutation(len(labels))[: profile.max_docs]
    return data.subset(np.sort(chosen))


def _read(task: Task, profile: Profile) -> Dataset:
    from datasets import disable_progress_bars, enable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from pyarrow import ArrowException

    if profile.data_dir is None:
        source = task.dataset
        where: AbstractContextManager[str | None] = nullcontext()
        options: dict[str, Any] = {"revision": task.revision}
    else:
        source = str(Path(profile.data_dir) / task.dataset)
        if not os.path.isdir(source):
            raise AccessError(
                f"No folder {task.dataset!r} in {profile.data_dir}: the task {task.key!r} needs a "
                f"copy of that Hub dataset there. Put one there, or unset MOSAIC_DATA_DIR to use "
                f"the Hub."
            )
        verify_folder(source)
        # datasets keys the cache of a local folder by its README alone: a changed Parquet file
        # would be served stale. So a folder is read afresh, through a cache that does not last.
        where = TemporaryDirectory(prefix="mosaic-")
        options = {"keep_in_memory": True}
    disable_progress_bars()  # a local Parquet file needs none, and they would fill the book's pages
    try:
        with where as cache_dir:
            options["cache_dir"] = cache_dir
            return load_dataset(source, task.config, split=task.split, **options)
    except FileNotFoundError as error:
        raise AccessError(
            f"A file of {_where(task)} is missing ({error}). Fetch the dataset again."
        ) from error
    except DatasetNotFoundError as error:
        raise AccessError(
            f"{task.dataset} cannot be loaded from the Hub ({error}). Accept its terms while "
            f"logged in and set HF_TOKEN, or point MOSAIC_DATA_DIR at a local copy."
        ) from error
    except ArrowException as error:
        raise IntegrityError(f"{_where(task)} cannot be read ({error}). Fetch it again.") from error
    except ValueError as error:  # unknown config or split: datasets' message lists what exists
        raise ConfigError(f"{_where(task)} does not exist: {error}") from error
    except (OSError, RuntimeError) as error:
        if not os.path.isdir(source):
            raise AccessError(
                f"{task.dataset} could not be fetched ({type(error).__name__}: {error}). Check the "
                f"network, or point MOSAIC_DATA_DIR at a local copy."
            ) from error
        raise IntegrityError(f"{_where(task)} cannot be read ({error}). Fetch it again.") from error
    finally:
        enable_progress_bars()


def _where(task: Task) -> str:
    config = f", config {task.config!r}" if task.config else ""
    return f"Dataset {task.dataset!r}{config}, split {task.split!r}"


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _as_column(values: Any) -> np.ndarray:
    """One entry per row; lists and mappings stay whole, for their lengths may differ."""
    whole = len(values) > 0 and isinstance(values[0], (list, dict))
    return np.fromiter(values, dtype=object) if whole else np.asarray(values)


def _row_ids(task: Task, table: Dataset) -> np.ndarray:
    if "id" in table.column_names:
        ids = np.asarray([str(value) for value in table["id"]])
        if len(np.unique(ids)) == len(ids):
            return ids
    # Zero-padded, so that the order of the strings is the order of the rows.
    return np.asarray([f"{i:07d}" for i in range(len(table))])


def _encode_labels(task: Task, table: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    from datasets import ClassLabel

    values = list(table[task.label_field])
    feature = table.features[task.label_field]
    if any(value is None or isinstance(value, (float, list, dict)) for value in values):
        bad = next(v for v in values if v is None or isinstance(v, (float, list, dict)))
        raise IntegrityError(
            f"{_where(task)}: label field {task.label_field!r} holds {bad!r}; labels must be "
            f"integers, booleans or strings. Choose another label field or clean the column."
        )
    if isinstance(feature, ClassLabel):
        names = tuple(feature.names)
    elif isinstance(values[0] if values else 0, str):
        names = task.label_names or tuple(sorted(set(values)))
        position = {name: i for i, name in enumerate(names)}
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise IntegrityError(
                f"{_where(task)} has the unexpected label {unknown[0]!r}; expected {names}."
            )
        values = [position[value] for value in values]
    else:
        n_classes = int(max(values, default=-1)) + 1
        names = task.label_names or tuple(str(i) for i in range(n_classes))
    labels = np.asarray(values, dtype=np.int64)
    if task.label_names is not None and len(task.label_names) == len(names):
        names = task.label_names
    if len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        raise IntegrityError(
            f"{_where(task)} has label {int(labels.max())} but only {len(names)} label names."
        )
    counts = tuple(int(n) for n in np.bincount(labels, minlength=len(names)))
    if task.class_counts is not None and counts != task.class_counts:
        raise IntegrityError(
            f"{_where(task)} has class counts {counts} where {task.class_counts} were expected. "
            f"Fetch the dataset again, or correct `class_counts` if it was changed on purpose."
        )
    return labels, names
