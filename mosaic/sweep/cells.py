"""Cells of the experiment grid: which features of which documents, read by which probe."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mosaic.config.profiles import ModelSpec, Profile


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: which features of which documents, read by which probe."""

    task: str
    """Key of the task."""
    feature: str
    model: str | None = None
    layer: int | None = None
    width: str | None = None
    pooling: str | None = None
    top_n: int | None = None
    threshold: float | None = None
    k: int | None = None
    """Latents kept by class mean difference on the training part; None keeps all."""
    scaling: str = "auto"
    probe: str = "linear"
    protocol: str = "nested"
    seed: int = 0
    train_task: str = ""
    """Task whose training part is learnt from: the cell's own unless said (paper §4.4)."""
    also_train: tuple[str, ...] = ()
    """Further tasks learnt from, each with the same share of its training part (ours)."""
    train_fraction: float = 1.0
    kept_out: tuple[str, ...] = ()
    """Tasks whose test items are never trained on, so that no text meets its own translation."""

    def __post_init__(self) -> None:
        if not self.train_task:
            object.__setattr__(self, "train_task", self.task)

    @property
    def train_tasks(self) -> tuple[str, ...]:
        """Keys of the tasks learnt from."""
        return (self.train_task, *self.also_train)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Keys of all tasks that decide the cell's numbers, the tested one first."""
        return tuple(dict.fromkeys((self.task, *self.train_tasks, *self.kept_out)))


def grid_poolings(profile: Profile) -> list[dict[str, Any]]:
    """The profile's poolings; sums and token-level top-n counts raw and > 1 (paper §4.2).

    By default these are the paper's six. Other poolings (ours) are taken raw only.
    """
    found: list[dict[str, Any]] = []
    for name in profile.poolings:
        sizes = profile.top_n if name == "top_n" else (None,)
        at = (None, 1.0) if name in ("sum", "top_n") else (None,)
        found += [{"pooling": name, "top_n": n, "threshold": t} for n, t in product(sizes, at)]
    return found


def paper_grid(
    profile: Profile,
    tasks: Iterable[str],
    models: Iterable[ModelSpec] | None = None,
    seeds: Iterable[int] = (0,),
) -> list[Cell]:
    """SAE cells of every depth, width and pooling, and hidden-state cells of every depth."""
    cells = []
    for task, model, seed in _read(profile, tasks, models, seeds):
        for layer in model.layers.values():
            base = Cell(task, "hidden", model.name, layer, seed=seed)
            cells += [replace(base, pooling=p) for p in ("last", "mean")]
            widths = [sae.width for sae in model.saes if sae.layer == layer]
            cells += [
                replace(base, feature="sae", width=width, **pooling)
                for width, pooling in product(widths, grid_poolings(profile))
            ]
    return cells


def _read(
    profile: Profile,
    tasks: Iterable[str],
    models: Iterable[ModelSpec] | None = None,
    seeds: Iterable[int] = (0,),
) -> list[tuple[str, ModelSpec, int]]:
    """Every task with every model that reads it and every seed."""
    each = product(tasks, tuple(models or profile.text_models), tuple(seeds))
    return [
        (task, m, seed) for task, m, seed in each if not m.languages or m.speaks(profile.task(task))
    ]


def recipe_cells(
    profile: Profile, task: str, model: ModelSpec, seed: int, depth: str = "middle"
) -> list[Cell]:
    """The paper's recipe (sums, > 1, middle layer) at the narrowest width, and hidden states.

    Raises ConfigError for a model without a layer of that depth or without SAEs.
    """
    layer = model.layer(depth)
    base = Cell(task, "hidden", model.name, layer, seed=seed)
    sae = replace(base, feature="sae", width=model.narrowest(layer), pooling="sum", threshold=1.0)
    return [sae, replace(base, pooling="last"), replace(base, pooling="mean")]


def authors_cells(profile: Profile, tasks: Iterable[str], probe: str) -> list[Cell]:
    """The recipe's SAE cell of each task and the first text model, under the authors' protocol."""
    return [
        replace(recipe_cells(profile, task, model, 0)[0], protocol="published", probe=probe)
        for task, model, _ in _read(profile, tasks, profile.text_models[:1])
    ]


def all_recipes(profile: Profile, tasks: Iterable[str], seeds: Iterable[int] = (0,)) -> list[Cell]:
    """`recipe_cells` for every task, text model and seed."""
    each = _read(profile, tasks, None, seeds)
    return [cell for task, model, seed in each for cell in recipe_cells(profile, task, model, seed)]


def recipe_pairs(profile: Profile, tasks: Iterable[str]) -> list[tuple[Cell, Cell]]:
    """The recipe's SAE cell beside each of its hidden states and TF-IDF, per task and model."""
    pairs = []
    for task, model, _ in _read(profile, tasks):
        sae, *hidden = recipe_cells(profile, task, model, 0)
        pairs += [(sae, other) for other in (*hidden, Cell(task, "tfidf"))]
    return pairs


def threshold_cells(profile: Profile, tasks: Iterable[str]) -> list[Cell]:
    """Binarized full sums at every threshold of the profile, narrow SAE, middle layer."""
    sums = [cell for cell in all_recipes(profile, tasks) if cell.feature == "sae"]
    return [replace(cell, threshold=value) for cell in sums for value in profile.thresholds]


def selection_cells(profile: Profile, tasks: Iterable[str], k_values: Iterable[int]) -> list[Cell]:
    """Full sums of the k most different latents, raw and > 1, and raw sums of all latents.

    Narrow SAE, middle layer.
    """
    sums = [cell for cell in all_recipes(profile, tasks) if cell.feature == "sae"]
    kept = [(k, threshold) for threshold in (None, 1.0) for k in k_values]
    return [
        replace(cell, k=k, threshold=threshold)
        for cell, (k, threshold) in product(sums, [*kept, (None, None), (None, 1.0)])
    ]
