"""Profiles: which models, layers, SAEs and tasks a run uses, as data.

One code path serves all of them; a profile is the YAML file of its name in `assets/profiles/`, or
any YAML file of the same form. That is how a reader brings own texts, an own model or an own SAE:
the file may start from a shipped profile (`base`) and hold its tasks itself (`catalogue`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mosaic import ASSETS
from mosaic.config.choices import DEPTHS, DTYPES
from mosaic.config.reading import beside, local_or_id, read_yaml, typed
from mosaic.config.tasks import Task, load_catalogue
from mosaic.errors import ConfigError

PROFILES = ASSETS / "profiles"

ABOUT_TASKS = ("catalogue", "tasks", "chapters", "data_dir", "max_docs", "n_train", "n_test")
"""Fields a file does not take from its `base` where it brings a catalogue of its own."""


@dataclass(frozen=True)
class SAESpec:
    """One SAE: `release` and `sae_id` of sae-lens' registry, a `folder`, or one to `train`."""

    layer: int
    width: str
    """Name of the width, such as "16k"; the number of latents is read from the SAE itself."""
    release: str | None = None
    sae_id: str | None = None
    path: str | None = None
    """What `sae_id` must resolve to in the registry ("canonical" is only an alias)."""
    folder: str | None = None
    train: int | None = None
    """Number of latents of an SAE that a run trains; its folder is in the workspace's cache."""

    def __post_init__(self) -> None:
        origins = [self.release is not None and self.sae_id is not None]
        origins += [self.folder is not None] if self.train is None else [True]
        if sum(origins) != 1:
            raise ConfigError(
                f"SAE of layer {self.layer}, width {self.width!r}: give one of `folder`, `train`, "
                f"or `release` with `sae_id`."
            )

    @property
    def name(self) -> str:
        """`layer_12/width_16k`: how an SAE is called in messages and stores."""
        return f"layer_{self.layer}/width_{self.width}"


@dataclass(frozen=True)
class ModelSpec:
    """One language model, the layers studied and the SAEs that belong to it."""

    name: str
    source: str
    """Hub id, or a folder written by `save_pretrained`. See `mosaic.models.hub.local_folder`."""
    layers: dict[str, int]
    """Depth (early, middle, late) to 0-based block index."""
    saes: tuple[SAESpec, ...] = ()
    revision: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    """File name to the checksum it must have, wherever the file comes from."""
    kind: str = "text"
    """"text", or "vision" for a vision-language model whose text model is probed."""
    chat: bool = False
    """Whether prompts for generated answers go through the tokenizer's chat template."""
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("text", "vision"):
            raise ConfigError(
                f"Model {self.name!r} has kind {self.kind!r}; use 'text' or 'vision'."
            )
        unknown = sorted(set(self.layers) - set(DEPTHS))
        if unknown:
            raise ConfigError(f"Model {self.name!r} names depth {unknown[0]!r}; use {DEPTHS}.")

    @property
    def widths(self) -> tuple[str, ...]:
        """Names of the widths that exist for any layer, in the profile's order."""
        return tuple(dict.fromkeys(sae.width for sae in self.saes))

    def depth_of(self, layer: int) -> str:
        """early, middle or late; ConfigError where the layer is not one of the model's."""
        for depth, index in self.layers.items():
            if index == layer:
                return depth
        raise ConfigError(
            f"Layer {layer} is not among the layers of {self.name!r}: {self.layers}. "
            f"Name one of these, or add the layer to the profile."
        )

    def sae(self, layer: int, width: str) -> SAESpec:
        """The SAE of exactly that layer and width; ConfigError names what exists."""
        self.depth_of(layer)
        for sae in self.saes:
            if sae.layer == layer and sae.width == width:
                return sae
        there = [sae.width for sae in self.saes if sae.layer == layer]
        raise ConfigError(
            f"{self.name!r} has no SAE of width {width!r} at layer {layer}; "
            f"there it has the widths {there}."
        )


@dataclass(frozen=True)
class Profile:
    """Everything a run needs besides code; see the fields' own lines."""

    name: str
    catalogue: str
    """Name of a shipped task catalogue, or a YAML file; in a profile's file also the tasks
    themselves, and then this is the path of that file."""
    models: tuple[ModelSpec, ...]
    tasks: tuple[str, ...]
    description: str = ""
    chapters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Task keys a chapter uses by default; a chapter without an entry uses `tasks`."""
    data_dir: str | None = None
    """Folder laid out like Hub repositories; None reads MOSAIC_DATA_DIR, else the Hub."""
    max_docs: int | None = None
    """Cap on documents of a task, drawn once and for all; None takes every row."""
    max_length: int = 512
    """Tokens kept of a document, special tokens included."""
    bos: str = "drop"
    """"drop" pools over real tokens; "keep" pools special tokens too, as the authors do."""
    poolings: tuple[str, ...] = ("sum", "top_n")
    """Poolings of SAE latents in the grid; sums and counts also binarized at 1 (paper §4.2)."""
    top_n: tuple[int, ...] = (20, 50)
    thresholds: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0)
    n_train: int | None = None
    """Cap on training documents of a split, or None for all."""
    n_test: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    token_budget: int = 8192
    """Padded tokens in one forward pass."""
    shard_docs: int = 2048
    dtype: str = "auto"
    sae_texts: tuple[str, ...] = ()
    """Keys of text sets to train SAEs on, each giving as many tokens; without such, texts of the
    profile's tasks that are never tested."""
    sae_catalogue: str | None = None
    """Catalogue of `sae_texts`, if not the profile's own."""
    sae_tokens: int = 150_000
    """Tokens taken from `sae_texts` together."""
    sae_steps: int = 196
    """Steps of 1,024 residual vectors each SAE is trained for."""
    sae_active: int = 24
    """Latents kept per token in training; the L0 after training is near it."""
    sae_floor: float = 0.0
    """Least explained variance of an SAE that a run goes on with."""

    def __post_init__(self) -> None:
        if self.bos not in ("drop", "keep"):
            raise ConfigError(f"Profile {self.name!r}: bos is {self.bos!r}; use 'drop' or 'keep'.")
        if self.dtype not in DTYPES:
            raise ConfigError(f"Profile {self.name!r}: dtype is {self.dtype!r}; use {DTYPES}.")
        sizes = ("max_docs", "max_length", "token_budget", "shard_docs")
        for name in (*sizes, "sae_tokens", "sae_steps", "sae_active"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value > 0) and (name, value) != ("max_docs", None):
                raise ConfigError(
                    f"Profile {self.name!r}: {name} is {value!r}; it must be a positive integer."
                )

    def model(self, name: str) -> ModelSpec:
        """The model of exactly that name (never a prefix: 9B and 9B-IT have other SAEs)."""
        for model in self.models:
            if model.name == name:
                return model
        raise ConfigError(
            f"Profile {self.name!r} has no model {name!r}; it has {[m.name for m in self.models]}."
        )

    def task(self, key: str) -> Task:
        """The task of that key in the profile's catalogue; ConfigError names what there is."""
        catalogue = load_catalogue(self.catalogue)
        if key not in catalogue:
            raise ConfigError(f"No task {key!r} in {self.catalogue!r}; it has {sorted(catalogue)}.")
        return catalogue[key]

    def chapter_tasks(self, chapter: str) -> tuple[str, ...]:
        """Task keys of a chapter such as `04_baselines`."""
        return self.chapters.get(chapter, self.tasks)

    @property
    def text_models(self) -> tuple[ModelSpec, ...]:
        """The models that read text, in the profile's order (smallest first by convention)."""
        return tuple(model for model in self.models if model.kind == "text")


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str, **overrides: Any) -> Profile:
    """Read a shipped profile by name, or any YAML file; `overrides` replace single fields.

    Paths in the file are relative to the file. A file with `base` takes from that shipped profile
    what it does not say itself, and may name single models of it; where it brings its own
    `catalogue`, nothing that is about tasks. `name` defaults to the file's, `tasks` to all of an
    own catalogue. Raises ConfigError for what does not fit.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"No profile {name!r}; use one of {profile_names()} or a YAML file.")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of profile fields, found {raw!r}.")
    where = str(path)
    parent = _parent(raw, path)
    inherited = {f.name: getattr(parent, f.name) for f in fields(Profile)} if parent else {}
    if "catalogue" in raw:
        inherited = {k: v for k, v in inherited.items() if k not in ABOUT_TASKS}
    raw = {**inherited, "name": path.stem, "description": "", **raw}
    models, chapters = raw.get("models") or (), raw.get("chapters") or {}
    if not (isinstance(models, (list, tuple)) and isinstance(chapters, dict)):
        raise ConfigError(f"{where}: `models` must be a list, `chapters` a mapping; correct it.")
    raw["models"] = tuple(_model(entry, path.parent, where, parent) for entry in models)
    raw["chapters"] = {k: tuple(v) if isinstance(v, list) else v for k, v in chapters.items()}
    if "data_dir" not in inherited:
        folder = raw.get("data_dir")
        own = os.environ.get("MOSAIC_DATA_DIR") or None
        raw["data_dir"] = beside(path.parent, folder) if folder else own
    if isinstance(raw.get("catalogue"), list):
        raw["catalogue"] = str(path.resolve())
        raw.setdefault("tasks", tuple(load_catalogue(raw["catalogue"])))
    elif str(raw.get("catalogue", "")).endswith((".yaml", ".yml")):
        raw["catalogue"] = beside(path.parent, raw["catalogue"])
    profile = typed(Profile, raw, where)
    try:
        return replace(profile, **overrides)
    except TypeError as error:
        known = [f.name for f in fields(Profile)]
        raise ConfigError(f"Unknown profile field in {sorted(overrides)}; use {known}.") from error


def place_trained(profile: Profile, folder: Path) -> Profile:
    """The profile with a place below `folder` for each SAE that a run trains."""
    models = []
    for model in profile.models:
        home = folder / profile.name / model.name
        placed = (replace(s, folder=str(home / s.name)) if s.train else s for s in model.saes)
        models.append(replace(model, saes=tuple(placed)))
    return replace(profile, models=tuple(models))


def _parent(raw: dict[str, Any], path: Path) -> Profile | None:
    """The shipped profile a file starts from, if it names one."""
    base = raw.pop("base", None)
    if base is None:
        return None
    if base not in profile_names():
        raise ConfigError(f"{path}: `base` is {base!r}; use one of {profile_names()}.")
    return load_profile(base)


def _model(entry: Any, base: Path, where: str, parent: Profile | None) -> ModelSpec:
    """A model from its mapping, or, named by a string, from the profile the file starts from."""
    if isinstance(entry, ModelSpec):
        return entry
    if isinstance(entry, str) and parent is not None:
        return parent.model(entry)
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{where}: a model must be a mapping of fields, or with `base` a name; found {entry!r}."
        )
    entry = dict(entry)
    where = f"{where}: model {entry.get('name')!r}"
    saes = entry.get("saes") or []
    entry["source"] = local_or_id(base, str(entry.get("source", "")))
    if not (isinstance(saes, list) and all(isinstance(sae, dict) for sae in saes)):
        raise ConfigError(f"{where}: `saes` must be a list of mappings, found {saes!r}.")
    entry["saes"] = [_sae(sae, base, where) for sae in saes]
    return typed(ModelSpec, entry, where)


def _sae(entry: dict[str, Any], base: Path, where: str) -> SAESpec:
    if entry.get("folder") is not None:
        entry = {**entry, "folder": beside(base, entry["folder"])}
    return typed(SAESpec, entry, where)
