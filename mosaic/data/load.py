"""The documents and labels of a task: loaded, checked and integer-encoded by one function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic.config.profiles import Profile
from mosaic.config.tasks import Task
from mosaic.data.images import read_images
from mosaic.data.own_files import as_labels, check_texts
from mosaic.data.sources import called, read_rows, refuse_shared_texts
from mosaic.errors import IntegrityError

if TYPE_CHECKING:
    from datasets import Dataset


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
    Inputs of the paper's tasks are cast as the authors do (first element of a list, None to "";
    protocol §2); those of an own task must be texts. The whole set is checked before the profile's
    `max_docs` is drawn from it.
    Raises ConfigError (unknown key), AccessError (not reachable), IntegrityError (not as expected).
    """
    task = profile.task(key)
    table, in_test = read_rows(task, profile)
    if task.rows is not None and len(table) != task.rows:
        raise IntegrityError(
            f"{called(task)} has {len(table)} rows where {task.rows} were expected. "
            f"Fetch the dataset again, or correct `rows` if it was changed on purpose."
        )
    try:
        data = _to_data(task, table, in_test)
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{called(task)} is not UTF-8; write it anew as UTF-8.") from error
    if profile.max_docs is None or profile.max_docs >= len(data):
        return data
    # Tasks of equal length keep the same positions: variants of one question stay together.
    chosen = np.random.default_rng(0).permutation(len(data))[: profile.max_docs]
    return data.subset(np.sort(chosen))


def _to_data(task: Task, table: Dataset, in_test: np.ndarray | None) -> TaskData:
    labels, label_names = _encode_labels(task, table)
    if task.modality == "image":
        inputs: list[Any] = read_images(table, task.input_field, called(task))
    else:
        inputs = table[task.input_field][:]
        if task.role == "own":
            check_texts(inputs, task.input_field, called(task))
        inputs = [_as_text(value) for value in inputs]
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
    values = table[task.label_field][:]
    feature = table.features[task.label_field]
    texts = as_labels(values, task.label_field, called(task))
    if isinstance(values[0] if values else 0, str):
        names = task.label_names or tuple(sorted(set(texts)))
        if unknown := sorted(set(texts) - set(names)):
            raise IntegrityError(
                f"{called(task)} has the unexpected label {unknown[0]!r}; expected {names}."
            )
        position = {name: i for i, name in enumerate(names)}
        values = [position[text] for text in texts]
    else:
        codes = sorted({int(value) for value in values})
        stated = task.label_names or getattr(feature, "names", None)
        if codes[:1] == [-1] and (stated or codes == list(range(-1, len(codes) - 1))) and codes[1:]:
            raise IntegrityError(
                f"{called(task)}: {values.count(-1)} rows have the label -1, which marks rows "
                f"without a label; leave them out, or write words if it is a class."
            )
        # Without names the codes are the names; without gaps a code is its class's number.
        names = tuple(stated or map(str, codes))
        number = {code: i for i, code in enumerate(codes)}
        values = values if stated else [number[int(value)] for value in values]
    labels = np.asarray(values, dtype=np.int64)
    if task.label_names is not None and len(task.label_names) == len(names):
        names = task.label_names
    if len(labels) and (labels.min() < 0 or labels.max() >= len(names)):
        raise IntegrityError(
            f"{called(task)} has label {int(labels.max())} but only {len(names)} label names."
        )
    counts = tuple(int(n) for n in np.bincount(labels, minlength=len(names)))
    if task.class_counts is not None and counts != task.class_counts:
        raise IntegrityError(
            f"{called(task)} has class counts {counts} where {task.class_counts} were expected. "
            f"Fetch the dataset again, or correct `class_counts` if it was changed on purpose."
        )
    return labels, names
