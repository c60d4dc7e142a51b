"""The paper's comparisons again, with one difference between the two sides taken away at a time.

The paper sums SAE latents over all positions, the first one included, and reads hidden states at
the last; its probe scales neither; and it reads the instruction-tuned model through the base
model's SAEs. Each of these is a condition here; all else stays equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mosaic.config.choices import Bos
from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.sweep.cells import Cell
from mosaic.sweep.compare import compare_cells
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells


@dataclass(frozen=True)
class Condition:
    """Two cells that differ in what a claim is about, under one condition."""

    claim: str
    condition: str
    first: Cell
    second: Cell
    bos: Bos = "drop"


def conditions(task: str, model: ModelSpec, depth: str = "middle") -> list[Condition]:
    """SAE against hidden state, and binarized against raw sums, under each condition (seed 0)."""
    layer = model.layer(depth)
    width = model.narrowest(layer)
    latents = Cell(task, "sae", model.name, layer, width, "sum", threshold=1.0)
    raw = replace(latents, threshold=None)
    last = Cell(task, "hidden", model.name, layer, pooling="last")
    sae, binarized = "SAE minus hidden state", "binarized minus raw sums"

    def unscaled(cell: Cell) -> Cell:
        return replace(cell, scaling="none")

    return [
        Condition(sae, "paper's pooling: sum > 1, last token", latents, last),
        Condition(sae, "same, BOS kept", latents, last, bos="keep"),
        Condition(sae, "same, not scaled", unscaled(latents), unscaled(last)),
        Condition(sae, "both last token", replace(raw, pooling="last"), last),
        Condition(sae, "both all tokens: sum > 1, mean", latents, replace(last, pooling="mean")),
        Condition(binarized, "scaled", latents, raw),
        Condition(binarized, "scaled, BOS kept", latents, raw, bos="keep"),
        Condition(binarized, "not scaled", unscaled(latents), unscaled(raw)),
    ]


def with_base_saes(workspace: Workspace) -> tuple[Workspace, ModelSpec, ModelSpec] | None:
    """The instruction-tuned model, and a copy of it read through its base model's SAEs.

    The base model is the text model with the same layers that takes no chat template; None where
    the profile has no such pair. The returned workspace knows the copy as well.
    """
    for tuned in (m for m in workspace.profile.text_models if m.chat):
        for base in workspace.profile.text_models:
            if not base.chat and base.layers == tuned.layers:
                copy = replace(tuned, name=f"{tuned.name} with SAEs of {base.name}", saes=base.saes)
                profile = replace(workspace.profile, models=(*workspace.profile.models, copy))
                return replace(workspace, profile=profile), tuned, copy
    return None


def compare_conditions(
    workspace: Workspace,
    tasks: Sequence[str],
    seeds: Iterable[int],
    depth: str = "middle",
) -> tuple[pd.DataFrame, list[ScoredCell]]:
    """Paired differences of every contrast, and the scored cells behind them.

    The first text model of the profile is asked under every condition; the instruction-tuned one
    through its own and through the base model's SAEs. Columns: claim, condition, task, model,
    difference, low, high (95% bootstrap interval over documents), n_docs. Raises ConfigError for a
    profile without text models.
    """
    if not workspace.profile.text_models:
        raise ConfigError(
            f"Profile {workspace.profile.name!r} has no text model to read; use one that has."
        )
    seeds = tuple(seeds)
    model = workspace.profile.text_models[0]
    asked = [c for task in tasks for c in conditions(task, model, depth)]
    if (pair := with_base_saes(workspace)) is not None:
        workspace, tuned, copy = pair
        for task in tasks:
            layer = tuned.layer(depth)
            own = Cell(task, "sae", tuned.name, layer, tuned.narrowest(layer), "sum")
            for threshold, name in ((1.0, "sum > 1"), (None, "raw sum")):
                first = replace(own, threshold=threshold)
                second = replace(first, model=copy.name)
                asked.append(Condition("SAE of tuned minus of base", name, first, second))
    parts, scored = [], []
    for bos in dict.fromkeys(c.bos for c in asked):
        here = [c for c in asked if c.bos == bos]
        cells = dict.fromkeys(cell for c in here for cell in (c.first, c.second))
        pooled = replace(workspace, profile=replace(workspace.profile, bos=bos))
        wanted = [replace(cell, seed=seed) for cell in cells for seed in seeds]
        scored += (results := score_cells(wanted, pooled))
        found = compare_cells([(c.first, c.second) for c in here], results)
        names = {"claim": [c.claim for c in here], "condition": [c.condition for c in here]}
        parts.append(found.assign(**names, place=[asked.index(c) for c in here]))
    table = pd.concat(parts).sort_values("place", ignore_index=True)
    columns = ["claim", "condition", "task", "model", "difference", "low", "high", "n_docs"]
    return table[columns], scored
