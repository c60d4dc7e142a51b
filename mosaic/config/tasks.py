"""What a task is: one labelled dataset under one configuration and split, as data.

Task catalogues are YAML files in `assets/tasks/`; a profile names the catalogue it uses, so `mini`
and `paper` differ in data only. A reader's profile may hold its catalogue itself, with data files
named relative to it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from mosaic import ASSETS
from mosaic.config.choices import CATALOGUES, Modality, Role
from mosaic.config.reading import local_or_id, read_yaml, typed
from mosaic.errors import ConfigError

TASKS = ASSETS / "tasks"


@dataclass(frozen=True)
class Task:
    """One labelled dataset; `key` is its unique name in a catalogue (paper §3, our wording)."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    dataset: str
    """Hub id, `<org>/<name>` (below `data_dir` the folder of the same name), or the absolute path
    of a folder laid out like a Hub repository or of a CSV, TSV or JSONL file."""
    input_field: str
    label_field: str
    role: Role = "own"
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
    modality: Modality = "text"
    toy: bool = False
    """Whether its texts and labels were made for this book: scores on them are no evidence."""
    label_names: tuple[str, ...] | None = None
    rows: int | None = None
    class_counts: tuple[int, ...] | None = None
    n_classes: int | None = None
    """For prices, where `label_names` are those of the data and these are not at hand."""
    group_field: str | None = None
    """Rows that share its value never stand on both sides of a split."""
    annotations: tuple[str, ...] = ()
    """Columns that say what is known to have caused the label."""
    replaces: str | None = None
    """Script-only repository named by the authors, which `datasets` >= 4 refuses to load."""
    note: str = ""

    def __post_init__(self) -> None:
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

    @property
    def kind(self) -> str:
        """What the task asks, one of `mosaic.config.choices.KINDS`."""
        return kind_of(
            self.name,
            behaviour=self.label_model is not None or self.role == "behaviour",
            image=self.modality == "image",
        )


def kind_of(name: str, behaviour: bool, image: bool) -> str:
    """One of `KINDS` by a task's name and by what is known of its labels and inputs.

    By the catalogues' convention `name` ends in "-translated" where the texts were translated.
    """
    if behaviour:
        return "behaviour"
    if image:
        return "image"
    return "translated" if name.endswith("-translated") else "text"


def task_from_mapping(entry: dict[str, Any], where: str) -> Iterator[Task]:
    """Tasks of one catalogue entry; `languages: {en: {split: en}}` gives one task per language."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a task must be a mapping of fields, found {entry!r}.")
    entry = dict(entry)
    base = Path(where).parent
    languages = entry.pop("languages", None) or {entry.get("language"): {}}
    where = f"{where}: task {entry.get('name')!r}"
    if not (isinstance(languages, dict) and all(isinstance(v, dict) for v in languages.values())):
        raise ConfigError(f"{where}: `languages` must map languages to fields; correct it.")
    for language, overrides in languages.items():
        values = {**entry, "language": language, **overrides}
        for name in ("dataset", "test_dataset"):
            if isinstance(values.get(name), str):
                values[name] = local_or_id(base, values[name])
        yield typed(Task, values, where)


def load_catalogue(name: str) -> dict[str, Task]:
    """All tasks of a catalogue by key. `name` is a shipped one ("paper") or a path to a YAML file:
    a list of tasks, or a profile that holds such a list as its `catalogue`.

    Raises ConfigError for an unknown catalogue, a malformed entry or a key that occurs twice.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"No task catalogue {name!r}; use one of {CATALOGUES} or a YAML file.")
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


def shipped_tasks() -> list[Task]:
    """Every task of the shipped catalogues."""
    return [task for name in CATALOGUES for task in load_catalogue(name).values()]
