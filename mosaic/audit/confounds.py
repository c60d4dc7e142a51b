"""The paper's comparisons again, with one difference between the two sides taken away at a time.

The paper sums SAE latents over all positions, the first one included, and reads hidden states at
the last; its probe scales neither; and it reads the instruction-tuned model through the base
model's SAEs. Each of these is a condition here; all else stays equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mosaic import stats, sweep
from mosaic.errors import ConfigError
from mosaic.grids import Spec
from mosaic.profiles import ModelSpec
from mosaic.results import Result
from mosaic.workspace import Workspace


@dataclass(frozen=True)
class Contrast:
    """Two cells that differ in what a claim is about, under one condition."""

    claim: str
    condition: str
    first: Spec
    second: Spec
    bos: str = "drop"


def contrasts(task: str, model: ModelSpec, depth: str = "middle") -> list[Contrast]:
    """SAE against hidden state, and binarized against raw sums, under each condition (seed 0)."""
    layer, width = model.layers[depth], model.widths[0]
    latents = Spec(task, "sae", model.name, layer, width, "sum", threshold=1.0)
    raw = replace(latents, threshold=None)
    last = Spec(task, "hidden", model.name, layer, pooling="last")
    sae, binarized = "SAE minus hidden state", "binarized minus raw sums"

    def unscaled(spec: Spec) -> Spec:
        return replace(spec, scaling="none")

    return [
        Contrast(sae, "paper's pooling: sum > 1, last token", latents, last),
        Contrast(sae, "same, BOS kept", latents, last, bos="keep"),
        Contrast(sae, "same, not scaled", unscaled(latents), unscaled(last)),
        Contrast(sae, "both last token", replace(raw, pooling="last"), last),
        Contrast(sae, "both all tokens: sum > 1, mean", latents, replace(last, pooling="mean")),
        Contrast(binarized, "scaled", latents, raw),
        Contrast(binarized, "scaled, BOS kept", latents, raw, bos="keep"),
        Contrast(binarized, "not scaled", unscaled(latents), unscaled(raw)),
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


def run(
    workspace: Workspace,
    tasks: Sequence[str],
    seeds: Iterable[int],
    depth: str = "middle",
) -> tuple[pd.DataFrame, list[Result]]:
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
    asked = [c for task in tasks for c in contrasts(task, model, depth)]
    if (pair := with_base_saes(workspace)) is not None:
        workspace, tuned, copy = pair
        for task in tasks:
            own = Spec(task, "sae", tuned.name, tuned.layers[depth], tuned.widths[0], "sum")
            for threshold, name in ((1.0, "sum > 1"), (None, "raw sum")):
                first = replace(own, threshold=threshold)
                second = replace(first, model=copy.name)
                asked.append(Contrast("SAE of tuned minus of base", name, first, second))
    scored: dict[tuple[str, Spec], Result] = {}
    for bos in ("drop", "keep"):
        cells = dict.fromkeys(s for c in asked if c.bos == bos for s in (c.first, c.second))
        specs = [replace(spec, seed=seed) for spec in cells for seed in seeds]
        pooled = replace(workspace, profile=replace(workspace.profile, bos=bos))
        scored |= {(bos, result.spec): result for result in sweep.score(specs, pooled)}
    return pd.DataFrame([_compared(c, scored, seeds) for c in asked]), list(scored.values())


def _compared(
    contrast: Contrast, scored: dict[tuple[str, Spec], Result], seeds: Sequence[int]
) -> dict[str, object]:
    first, second = (
        [scored[contrast.bos, replace(spec, seed=seed)] for seed in seeds]
        for spec in (contrast.first, contrast.second)
    )
    found = stats.paired_difference(first, second)
    return {
        "claim": contrast.claim,
        "condition": contrast.condition,
        "task": contrast.first.task,
        "model": contrast.first.model,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "n_docs": found.n_docs,
    }
