"""Profiles: which models, layers, SAEs and tasks a run uses, as data.

One code path serves all of them; a profile is the YAML file of its name in `assets/profiles/`, or
any YAML file of the same form. That is how a reader brings own texts, an own model or an own SAE:
the file may start from a shipped profile (`base`) and hold its tasks itself (`catalogue`).
"""

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from mosaic import ASSETS
from mosaic.config.choices import Bos, Depth, DType, ModelKind, Pooling
from mosaic.config.reading import beside, local_or_id, read_yaml, says_toy, typed
from mosaic.config.tasks import Task, load_catalogue
from mosaic.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]

Index = Annotated[int, Field(ge=0)]

PROFILES = ASSETS / "profiles"

ABOUT_TASKS = (
    "catalogue", "tasks", "chapters", "data_dir", "max_docs", "n_train", "n_test", "folds"
)  # fmt: skip
"""Fields a file does not take from its `base` where it brings a catalogue of its own."""


@dataclass(frozen=True)
class SAESpec:
    """One SAE: `release` and `sae_id` of sae-lens' registry, a `folder`, or one to `train`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    layer: Index
    width: str
    """Name of the width, such as "16k"; the number of latents is read from the SAE itself."""
    release: str | None = None
    sae_id: str | None = None
    path: str | None = None
    """What `sae_id` must resolve to in the registry ("canonical" is only an alias)."""
    folder: str | None = None
    train: Positive | None = None
    """Number of latents of an SAE that a run trains; its folder is in the workspace's cache."""
    moved: bool = False
    """Whether it reads another layer than it was trained at on purpose, as a control."""

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

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    source: str
    """Hub id, or a folder written by `save_pretrained`. See `mosaic.models.hub.local_folder`."""
    layers: dict[Depth, Index]
    """Depth (early, middle, late) to 0-based block index."""
    saes: tuple[SAESpec, ...] = ()
    revision: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    """File name to the checksum it must have, wherever the file comes from."""
    kind: ModelKind = "text"
    """"text", or "vision" for a vision-language model whose text model is probed."""
    chat: bool = False
    """Whether prompts for generated answers go through the tokenizer's chat template."""
    languages: tuple[str, ...] = ()
    """Languages whose texts it is given; none means all. A task without one counts as English."""
    toy: bool = False
    """Whether the model was made for this book: a toy, and what it shows is no evidence. A folder
    whose `metrics.json` says so is one whatever the profile says."""
    note: str = ""

    @property
    def widths(self) -> tuple[str, ...]:
        """Names of the widths that exist for any layer, in the profile's order."""
        return tuple(dict.fromkeys(sae.width for sae in self.saes))

    def __post_init__(self) -> None:
        places = [(sae.layer, sae.width) for sae in self.saes]
        for layer, width in places:
            if places.count((layer, width)) > 1:
                raise ConfigError(
                    f"Model {self.name!r} has two SAEs of layer {layer} and width {width!r}; give "
                    f"each a name of its own, such as {f'{width}-l0-50'!r} for an L0 of 50."
                )
            self.depth_of(layer)

    def narrowest(self, layer: int) -> str:
        """Name of a layer's first width, by convention the narrowest; ConfigError without SAEs."""
        for sae in self.saes:
            if sae.layer == layer:
                return sae.width
        raise ConfigError(
            f"Model {self.name!r} has no SAE at layer {layer}, and here one is read; add one to "
            f"its `saes` in the profile."
        )

    def speaks(self, task: Task) -> bool:
        """Whether the task's language is one of the model's."""
        return not self.languages or (task.language or "en") in self.languages

    def layer(self, depth: str) -> int:
        """Block index of a depth; ConfigError where the profile names no layer for it."""
        for name, index in self.layers.items():
            if name == depth:
                return index
        raise ConfigError(
            f"Model {self.name!r} has no {depth!r} layer, only {self.layers}; add it to its "
            f"`layers` in the profile."
        )

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

    __pydantic_config__ = ConfigDict(extra="forbid")

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
    max_docs: Positive | None = None
    """Cap on documents of a task, drawn once and for all; None takes every row."""
    max_length: Positive = 512
    """Tokens kept of a document, special tokens included."""
    bos: Bos = "drop"
    """"drop" pools over real tokens; "keep" pools special tokens too, as the authors do."""
    poolings: tuple[Pooling, ...] = ("sum", "top_n")
    """Poolings of SAE latents in the grid; sums and counts also binarized at 1 (paper §4.2)."""
    top_n: tuple[Positive, ...] = (20, 50)
    thresholds: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 5.0)
    n_train: Positive | None = None
    """Cap on training documents of a split, or None for all."""
    n_test: Positive | None = None
    folds: Annotated[int, Field(gt=1)] = 5
    """Inner folds of a training part, which choose under the protocol `nested`."""
    seeds: tuple[Index, ...] = (0, 1, 2, 3, 4)
    token_budget: Positive = 8192
    """Padded tokens in one forward pass."""
    shard_docs: Positive = 2048
    dtype: DType = "auto"
    sae_texts: tuple[str, ...] = ()
    """Keys of text sets to train SAEs on, each giving as many tokens; without such, texts of the
    profile's tasks that are never tested."""
    sae_catalogue: str | None = None
    """Catalogue of `sae_texts`, if not the profile's own."""
    sae_tokens: Positive = 150_000
    """Tokens taken from `sae_texts` together."""
    sae_steps: Positive = 196
    """Steps of 1,024 residual vectors each SAE is trained for."""
    sae_active: Positive = 24
    """Latents kept per token in training; the L0 after training is near it."""
    sae_floor: float = 0.0
    """Least explained variance of an SAE that a run goes on with."""

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

    Paths in the file are relative to the file. A file with `base` takes from that profile what it
    does not say itself, and may name single models of it; with its own `catalogue`, nothing that is
    about tasks. `name` defaults to the file's, `tasks` to all of an own catalogue. Raises
    ConfigError for what does not fit, in the file or among `overrides`.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"No profile {name!r}; use one of {profile_names()} or a YAML file.")
    profile = _placed(typed(Profile, _completed(path), str(path)), path.parent)
    if not overrides:
        return profile
    return typed(Profile, {**asdict(profile), **overrides}, f"Profile {name!r} with {overrides}")


def _completed(path: Path) -> dict[str, Any]:
    """The file's fields, and what it takes from the profile it starts from."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of profile fields, found {raw!r}.")
    base = raw.pop("base", None)
    if isinstance(base, str) and base.endswith((".yaml", ".yml")):
        base = beside(path.parent, base)
    elif base is not None and base not in profile_names():
        raise ConfigError(f"{path}: `base` is {base!r}; use one of {profile_names()}, or a file.")
    inherited = asdict(load_profile(base)) if base else {}
    if "catalogue" in raw:
        inherited = {k: v for k, v in inherited.items() if k not in ABOUT_TASKS}
    known = {model["name"]: model for model in inherited.get("models", ())}
    raw = {**inherited, "name": path.stem, "description": "", **raw}
    raw |= {"models": raw.get("models") or [], "chapters": raw.get("chapters") or {}}
    if isinstance(raw["models"], (list, tuple)):
        named = [model for model in raw["models"] if isinstance(model, str)]
        if strange := [name for name in named if name not in known]:
            raise ConfigError(
                f"{path}: there is no model {strange[0]!r} in its `base` ({sorted(known)}); write "
                f"a mapping of fields, or with `base` a name."
            )
        raw["models"] = [known[m] if isinstance(m, str) else m for m in raw["models"]]
    if isinstance(raw.get("catalogue"), list):
        raw["catalogue"] = str(path.resolve())
        raw.setdefault("tasks", list(load_catalogue(raw["catalogue"])))
    return raw


def _placed(profile: Profile, home: Path) -> Profile:
    """The profile with its paths absolute, those of its file taken as beside it, in `home`."""
    models = []
    for model in profile.models:
        saes = (replace(s, folder=s.folder and beside(home, s.folder)) for s in model.saes)
        source = local_or_id(home, model.source)
        toy = model.toy or says_toy(source)
        models.append(replace(model, source=source, saes=tuple(saes), toy=toy))
    own = profile.catalogue.endswith((".yaml", ".yml"))
    folder = profile.data_dir
    return replace(
        profile,
        models=tuple(models),
        catalogue=beside(home, profile.catalogue) if own else profile.catalogue,
        data_dir=beside(home, folder) if folder else os.environ.get("MOSAIC_DATA_DIR") or None,
    )
