"""What slips of the authors' code change, measured on a profile's own models and tasks (ours).

Their scores hold no run without the slip, and their models need a GPU; any model shows how large
such a thing can be, though not how large it was.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.experiments.behaviour import BEHAVIOUR_CHAPTER, label_sets, question_tasks
from mosaic.probes.authors import fit_authors_linear
from mosaic.scores.intervals import macro_f1
from mosaic.sweep.cells import Cell, authors_cells, recipe_cells
from mosaic.sweep.compare import compare_cells
from mosaic.sweep.run import score_cells
from mosaic.sweep.source import open_source

SLIPS = {"before": -1, "after": 1}


def stand_ins(
    workspace: Workspace, tasks: Sequence[str], seeds: Iterable[int], n_questions: int = 200
) -> dict[str, Any]:
    """Every number of this module by name: of the first text model, and of all that are asked."""
    found: dict[str, Any] = {f"off_{k}": v for k, v in off_by_one(workspace, tasks, seeds).items()}
    found["best_epoch"] = best_epoch(workspace, tasks)
    zeros = zeros_among_top_n(workspace, tasks)
    found["zeros"] = ", ".join(f"{share:.0%} at n = {n}" for n, share in zeros.items())
    found["answers"] = changed_answers(workspace, n_questions)
    return found


def moved(model: ModelSpec, shift: int) -> ModelSpec:
    """The model with the narrow SAE of its middle layer read so many blocks later."""
    layer = model.layer("middle")
    saes = [s for s in model.saes if (s.layer, s.width) == (layer, model.narrowest(layer))]
    return replace(
        model,
        name=f"{model.name} moved by {shift}",
        layers={"middle": layer + shift},
        saes=tuple(replace(sae, layer=layer + shift, moved=True) for sae in saes),
    )


def off_by_one(
    workspace: Workspace, tasks: Sequence[str], seeds: Iterable[int]
) -> dict[str, float]:
    """Recipe with the SAE read a block before or after its own, minus in its place; mean."""
    model, seeds = workspace.profile.text_models[0], tuple(seeds)
    copies = {name: moved(model, shift) for name, shift in SLIPS.items()}
    profile = replace(workspace.profile, models=(model, *copies.values()))
    pairs = {}
    for name, copy in copies.items():
        both = [[recipe_cells(profile, t, m, 0)[0] for m in (copy, model)] for t in tasks]
        pairs[name] = [(off, own) for off, own in both]
    cells = dict.fromkeys(cell for each in pairs.values() for pair in each for cell in pair)
    wanted = [replace(cell, seed=seed) for cell in cells for seed in seeds]
    scored = score_cells(wanted, replace(workspace, profile=profile))
    return {k: float(compare_cells(v, scored)["difference"].mean()) for k, v in pairs.items()}


def best_epoch(workspace: Workspace, tasks: Sequence[str]) -> float:
    """Macro-F1 of the authors' probe with the best epoch's weights minus the last's; mean."""
    gaps = []
    for last in score_cells(authors_cells(workspace.profile, tasks, "linear"), workspace):
        source, seed = open_source(workspace, last.cell), last.cell.seed
        split, X, y = source.split(seed, "published"), source.matrix(last.cell), source.data.labels
        best = fit_authors_linear(X[split.train], y[split.train], seed, restore=True)
        gaps.append(macro_f1(y[split.test], best.predict(X[split.test])) - last.row["macro_f1"])
    return float(np.mean(gaps))


def zeros_among_top_n(workspace: Workspace, tasks: Sequence[str]) -> dict[int, float]:
    """Share of the n latents picked at each token that are not active, for each n of the profile.

    argpartition fills up with such latents where fewer than n are active.
    """
    model = workspace.profile.text_models[0]
    layer = model.layer("middle")
    base = Cell("", "sae", model.name, layer, model.narrowest(layer), "top_n")
    found = {}
    for n in workspace.profile.top_n:
        sources = [
            (source := open_source(workspace, cell), source.matrix(cell))
            for cell in (replace(base, task=task, train_task=task, top_n=n) for task in tasks)
        ]
        tokens = sum(int(source.n_tokens.sum()) for source, _ in sources)
        found[n] = 1 - sum(float(picked.sum()) for _, picked in sources) / (n * tokens)
    return found


def changed_answers(workspace: Workspace, n: int) -> str:
    """Share right of multiple choice, asked this book's way and the authors', and labels changed.

    In words, since a profile without chat models and without chapter 06 asks nothing.
    """
    profile = workspace.profile
    if BEHAVIOUR_CHAPTER not in profile.chapters and not any(m.chat for m in profile.text_models):
        return "no model is asked"
    tasks, _ = question_tasks(profile)
    ways = [label_sets(workspace, tasks, (), n, scoring=way) for way in ("plain", "published")]
    plain, theirs = (np.concatenate([d.labels for d in way.values()]) for way in ways)
    return (
        f"{plain.mean():.3f} of {len(plain)} answers are right when models are asked with BOS, "
        f"space and template, {theirs.mean():.3f} when asked the authors' way, and "
        f"{(plain != theirs).mean():.0%} of the labels differ"
    )
