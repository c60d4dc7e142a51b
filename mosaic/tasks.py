"""The paper's datasets as data, and the one function that loads them.

A task is one labelled dataset under one configuration and split. Task catalogues are YAML files in
`assets/tasks/`; a profile names the catalogue it uses, so `mini` and `paper` differ in data only. A
reader's profile may hold its catalogue itself, with data files named relative to it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic import ASSETS
from mosaic.errors import ConfigError, IntegrityError
from mosaic.fields import build, local_or_id, read_yaml
from mosaic.images import read_images
from mosaic.rows import read_rows, refuse_shared_texts, where

if TYPE_CHECKING:
    from datasets import Dataset

    from mosaic.profiles import Profile

CATALOGUES = ASSETS / "tasks"
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
    "own",
)


@dataclass(frozen=True)
class Task:
    """One labelled dataset; `key` is its unique name in a catalogue (paper §3, our wording)."""

    name: str
    dataset: str
    """Hub id, `<org>/<name>` (below `data_dir` the folder of the same name), or the absolute path
    of a folder laid out like a Hub repository or of a CSV, TSV or JSONL file."""
    input_field: str
    label_field: str
    role: str = "own"
    split: str = "train"
    licence: str = ""
    section: str = ""
    """Section of the paper that uses it."""
    split_field: str | None = None
    """Column that says "train" or "test"; without one the test part is drawn (`splits`)."""
    test_dataset: str | None = None
    """Where the test part is, if not in `dataset`."""
    test_split: str | None = None
    """Split that is the test part; all of `split` is then training."""
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
        for name in filter(None, (self.dataset, self.test_dataset)):
            if not (os.path.isabs(name) or (name.count("/") == 1 and all(name.split("/")))):
                raise ConfigError(
                    f"Task {self.name!r} names dataset {name!r}; write '<org>/<name>' for the Hub, "
                    f"or a path that begins with './' or '/'."
                )
        if self.split_field and (self.test_dataset or self.test_split):
            raise ConfigError(
                f"Task {self.name!r} names its test part twice; give either `split_field`, or "
                f"`test_dataset` and `test_split`."
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
    in_test: np.ndarray | None = None
    """True for the test part a task brings; None where the split is drawn."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """sha256 over ids, inputs, labels and given parts: equal exactly when these are."""
        digest = hashlib.sha256(
            b"" if self.in_test is None else np.packbits(self.in_test).tobytes()
        )
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
            in_test=None if self.in_test is None else self.in_test[index],
        )


def task_from_mapping(entry: dict[str, Any], where: str) -> Iterator[Task]:
    """Tasks of one catalogue entry; `languages: {en: {split: en}}` gives one task per language."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a task must be a mapping of fields, found {entry!r}.")
    entry = dict(entry)
    base = Path(where).parent
    needed = [f.name for f in fields(Task) if f.default is MISSING and f.default_factory is MISSING]
    languages = entry.pop("languages", None) or {entry.get("language"): {}}
    where = f"{where}: task {entry.get('name')!r}"
    if not (isinstance(languages, dict) and all(isinstance(v, dict) for v in languages.values())):
        raise ConfigError(f"{where}: `languages` must map languages to fields; correct it.")
    for language, overrides in languages.items():
        values = {**entry, "language": language, **overrides}
        if absent := [name for name in needed if not isinstance(values.get(name), str)]:
            raise ConfigError(
                f"{where}: the field {absent[0]!r} is missing; a task needs {needed}."
            )
        for name in ("dataset", "test_dataset"):
            if values.get(name) is not None:
                values[name] = local_or_id(base, str(values[name]))
        yield build(Task, values, where)


def load_catalogue(name: str) -> dict[str, Task]:
    """All tasks of a catalogue by key. `name` is a shipped one ("paper") or a path to a YAML file:
    a list of tasks, or a profile that holds such a list as its `catalogue`.

    Raises ConfigError for an unknown catalogue, a malformed entry or a key that occurs twice.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CATALOGUES / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in CATALOGUES.glob("*.yaml"))
        raise ConfigError(f"No task catalogue {name!r}; use one of {shipped} or a YAML file.")
    stat = path.stat()
    return dict(_parsed(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=16)  # a run asks for single tasks many times, and parsing takes most of that
def _parsed(path: Path, _size: int, _mtime_ns: int) -> dict[str, Task]:
    entries = read_yaml(path)
    if isinstance(entries, dict) and isinstance(entries.get("catalogue"), list):
        entries = entries["catalogue"]
    if not isinstance(entries, list):
        raise ConfigError(f"{path} must hold a list of tasks, found {type(entries).__name__}.")
    catalogue: dict[str, Task] = {}
    for entry in entries:
        for task in task_from_mapping(entry, str(path)):
            if task.key in catalogue:
                raise ConfigError(f"{path} defines task {task.key!r} twice; rename one.")
            catalogue[task.key] = task
    return catalogue


def image_names() -> set[str]:
    """Names of the image tasks of the shipped catalogues."""
    both = (load_catalogue(name).values() for name in ("paper", "mini"))
    return {task.name for tasks in both for task in tasks if task.modality == "image"}


def find_task(key: str, profile: Profile) -> Task:
    """The task of that key in the profile's catalogue; ConfigError names what there is."""
    catalogue = load_catalogue(profile.catalogue)
    if key not in catalogue:
        raise ConfigError(f"No task {key!r} in {profile.catalogue!r}; it has {sorted(catalogue)}.")
    return catalogue[key]


def missing_reason(task: Task, profile: Profile) -> str | None:
    """Why the task cannot be loaded offline here, or None when its folder is at hand."""
    if os.path.isabs(task.dataset):
        return None if os.path.exists(task.dataset) else f"there is no {task.dataset}"
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
    table, in_test = read_rows(task, profile)
    if task.rows is not None and len(table) != task.rows:
        raise IntegrityError(
            f"{where(task)} has {len(table)} rows where {task.rows} were expected. "
            f"Fetch the dataset again, or correct `rows` if it was changed on purpose."
        )
    try:
        data = _to_data(task, table, in_test)
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where(task)} is not UTF-8; write it anew as UTF-8.") from error
    if profile.max_docs is None or profile.max_docs >= len(data):
        return data
    # Tasks of equal length keep the same positions: variants of one question stay together.
    chosen = np.random.default_rng(0).permutation(len(data))[: profile.max_docs]
    return data.subset(np.sort(chosen))


def _to_data(task: Task, table: Dataset, in_test: np.ndarray | None) -> TaskData:
    labels, label_names = _encode_labels(task, table)
    if task.modality == "image":
        inputs: list[Any] = read_images(table, task.input_field, where(task))
    else:
        inputs = [_as_text(value) for value in table[task.input_field][:]]
    if in_test is not None:
        refuse_shared_texts(inputs, in_test, task)
    return TaskData(
        task=task,
        ids=_row_ids(task, table),
        inputs=inputs,
        labels=labels,
        label_names=label_names,
        groups=_groups(task, table[task.group_field][:]) if task.group_field else None,
        annotations={name: _as_column(table[name][:]) for name in task.annotations},
        in_test=in_test,
    )


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _as_column(values: Any) -> np.ndarray:
    """One entry per row; lists and mappings stay whole, for their lengths may differ."""
    whole = len(values) > 0 and isinstance(values[0], (list, dict))
    return np.fromiter(values, dtype=object) if whole else np.asarray(values)


def _groups(task: Task, values: Sequence[Any]) -> np.ndarray:
    """The group of each row; one whose group is missing or blank is a group of its own."""
    found = np.asarray(values, dtype=object)
    for row, value in enumerate(values):
        if value is None or value == "" or value != value:  # the last is NaN
            found[row] = f"{task.key}, row {row}"
    return np.asarray(found.tolist())


def _row_ids(task: Task, table: Dataset) -> np.ndarray:
    if "id" in table.column_names:
        ids = np.asarray([str(value) for value in table["id"][:]])
        if len(np.unique(ids)) == len(ids):
            return ids
    # Zero-padded, so that the order of the strings is the order of the rows.
    return np.asarray([f"{i:07d}" for i in range(len(table))])


def _encode_labels(task: Task, table: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    from datasets import ClassLabel

    values = table[task.label_field][:]
    feature = table.features[task.label_field]
    if any(value is None or isinstance(value, (float, list, dict)) for value in values):
        bad = next(v for v in values if v is None or isinstance(v, (float, list, dict)))
        raise IntegrityError(
            f"{where(task)}: label field {task.label_field!r} holds {bad!r}; labels must be "
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
                f"{where(task)} has the unexpected label {unknown[0]!r}; expected {names}."
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
            f"{where(task)} has label {int(labels.max())} but only {len(names)} label names."
        )
    counts = tuple(int(n) for n in np.bincount(labels, minlength=len(names)))
    if task.class_counts is not None and counts != task.class_counts:
        raise IntegrityError(
            f"{where(task)} has class counts {counts} where {task.class_counts} were expected. "
            f"Fetch the dataset again, or correct `class_counts` if it was changed on purpose."
        )
    return labels, names
