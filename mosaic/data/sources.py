"""The rows of a task: from the Hub, a folder laid out like a Hub repository, or one own file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic.config.profiles import Profile
from mosaic.config.tasks import Task
from mosaic.data.own_files import FILE_KINDS, as_labels, check_texts, read_file
from mosaic.errors import MALFORMED, AccessError, ConfigError, IntegrityError
from mosaic.storage.files import refuse_pointers
from mosaic.storage.manifest import verify_folder

if TYPE_CHECKING:
    from datasets import Dataset

CONVERTED = "refs/convert/parquet"
"""Branch of the Hub's own copies of script-only sets: a folder per configuration, no README."""

SPLIT_NAMED = re.compile("train|test|val|dev|eval")
"""How files of a folder begin that belong to a split."""

PARTS = ("train", "test")
"""What a `split_field` may hold."""


def read_rows(task: Task, profile: Profile) -> tuple[Dataset, np.ndarray | None]:
    """All rows of a task, and which of them are its given test part `[n_docs]` (None: none given).

    Raises AccessError, ConfigError (unknown configuration or split) and IntegrityError.
    """
    table = _table(task, task.dataset, task.split, profile)
    if task.split_field is not None:
        parts = [str(value) for value in table[task.split_field]]
        if odd := sorted(set(parts) - set(PARTS)):
            raise IntegrityError(
                f"{called(task)}: {task.split_field!r} holds {odd[0]!r}; each row must say one of "
                f"{PARTS}."
            )
        return table, _checked(np.asarray(parts) == "test", task)
    if task.test_dataset is None and task.test_split is None:
        return table, None
    from datasets import concatenate_datasets

    test = _table(
        task, task.test_dataset or task.dataset, task.test_split or task.split, profile
    ).select_columns(table.column_names)
    try:
        both = concatenate_datasets([table, test])
    except ValueError as error:
        raise IntegrityError(
            f"{called(task)}: the columns of its training and test part differ in type ({error}). "
            f"Write both in one way."
        ) from error
    return both, _checked(np.arange(len(both)) >= len(table), task)


def called(task: Task) -> str:
    """How a task's dataset is called in messages."""
    config = f", config {task.config!r}" if task.config else ""
    return f"Dataset {task.dataset!r}{config}, split {task.split!r}"


def refuse_shared_texts(inputs: list[Any], in_test: np.ndarray, task: Task) -> None:
    """IntegrityError for a text on both sides of a given split: it is answered from memory."""
    if task.modality != "text":
        return  # copies of a picture are not looked for
    train = {text for text, tested in zip(inputs, in_test, strict=True) if not tested}
    shared = [row for row, text in enumerate(inputs, start=1) if in_test[row - 1] and text in train]
    if shared:
        raise IntegrityError(
            f"{called(task)}: {len(shared)} texts of its test part stand in its training part too "
            f"(first: row {shared[0]} of both together); take them out of one."
        )


def _checked(in_test: np.ndarray, task: Task) -> np.ndarray:
    if in_test.all() or not in_test.any():
        raise IntegrityError(
            f"{called(task)}: its {'training' if in_test.all() else 'test'} part is empty; name "
            f"rows for both parts, or no parts at all."
        )
    return in_test


def _table(task: Task, source: str, split: str, profile: Profile) -> Dataset:
    wanted = [task.input_field, task.label_field, task.group_field, task.split_field]
    names = [name for name in (*wanted, *task.annotations) if name]
    if os.path.isabs(source) and (files := _own_files(task, Path(source), split)):
        return _own_table(task, files, names)
    table = _load(task, source, split, profile)
    for name in names:
        if name not in table.column_names:
            refuse_pointers(Path(profile.data_dir or "", source).rglob("*.*"))
            raise IntegrityError(
                f"{called(task)} has no field {name!r}; it has {table.column_names}. "
                f"Correct the task's fields or fetch the dataset again."
            )
    return table


def _own_files(task: Task, source: Path, split: str) -> list[Path]:
    """A file itself; of a folder its tables of that split, or all for "train" where none names a
    split. Empty for pictures and for a folder that is laid out like a Hub repository."""
    if not source.is_dir():
        return [source]
    if (source / "README.md").is_file() or task.config or task.modality != "text":
        return []
    tables = sorted(p for p in source.glob("[!._]*") if p.suffix.lower() in FILE_KINDS)
    if split == "train" and not any(SPLIT_NAMED.match(path.name) for path in tables):
        return tables
    return [path for path in tables if path.name.startswith(split)]


def _own_table(task: Task, files: list[Path], names: list[str]) -> Dataset:
    from datasets import Dataset
    from pyarrow import ArrowException

    columns: dict[str, list[Any]] = {name: [] for name in names}
    for path in files:
        found = read_file(path, names)
        check_texts(found[task.input_field], task.input_field, path)
        found[task.label_field] = as_labels(found[task.label_field], task.label_field, path)
        for name in names:
            columns[name] += found[name]
    try:
        return Dataset.from_dict(columns)
    except (ArrowException, *MALFORMED) as error:
        raise IntegrityError(
            f"{files[0]}: a column mixes types ({error}); write each column in one type."
        ) from error


def _load(task: Task, name: str, split: str, profile: Profile) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from pyarrow import ArrowException

    source, by_folder = name, task.revision == CONVERTED
    cache: AbstractContextManager[str | None] = nullcontext()
    options: dict[str, Any] = {"revision": task.revision}
    if os.path.isabs(name) or profile.data_dir is not None:
        source = str(Path(profile.data_dir or "") / name)
        if not os.path.isdir(source):
            raise AccessError(
                f"No folder {name!r} in {profile.data_dir}: the task {task.key!r} needs a "
                f"copy of that Hub dataset there. Put one there, or unset MOSAIC_DATA_DIR to use "
                f"the Hub."
            )
        verify_folder(source)
        by_folder = not (Path(source) / "README.md").is_file()
        # datasets keys the cache of a local folder by its README alone: a changed Parquet file
        # would be served stale. So a folder is read afresh, through a cache that does not last.
        cache = TemporaryDirectory(prefix="mosaic-")
        options = {"keep_in_memory": True}
    # Without a README datasets knows the configuration "default" alone: all of a folder.
    if by_folder and task.config not in (None, "default"):
        options["data_dir"] = task.config
    else:
        options["name"] = task.config
    try:
        with cache as cache_dir, _without_bars():
            try:
                return load_dataset(source, split=split, cache_dir=cache_dir, **options)
            except Exception:
                if os.path.isdir(source):  # else no folder of this machine
                    refuse_pointers(Path(source).rglob("*.*"))
                raise
    except FileNotFoundError as error:
        raise AccessError(
            f"A file of {called(task)} is missing ({error}). Fetch the dataset again."
        ) from error
    except DatasetNotFoundError as error:
        raise AccessError(
            f"{name} cannot be loaded from the Hub ({error}). Accept its terms while "
            f"logged in and set HF_TOKEN, or point MOSAIC_DATA_DIR at a local copy."
        ) from error
    except (ArrowException, DatasetsError) as error:
        raise IntegrityError(f"{called(task)} cannot be read ({error}). Fetch it again.") from error
    except ValueError as error:  # unknown config or split: datasets' message lists what exists
        raise ConfigError(
            f"{called(task)} does not exist: {str(error).rstrip('.')}. Correct `config` or `split` "
            f"of the task, or fetch the dataset again."
        ) from error
    except (OSError, RuntimeError) as error:
        if not os.path.isdir(source):
            raise AccessError(
                f"{name} could not be fetched ({type(error).__name__}: {error}). Check the "
                f"network, or point MOSAIC_DATA_DIR at a local copy."
            ) from error
        raise IntegrityError(f"{called(task)} cannot be read ({error}). Fetch it again.") from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of `datasets`, afterwards as before: they would fill the book's pages."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
