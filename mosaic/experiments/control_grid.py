"""What is scored to see what an SAE adds: its cells, those of its controls, plain baselines."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from mosaic.config.choices import CONTROLS, HIDDEN_JOINED
from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.config.workspace import Workspace
from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.experiments.controls import control_width
from mosaic.extraction.extract import extract_all
from mosaic.models.language_model import load_model
from mosaic.models.readers import text_reader
from mosaic.models.resolve import resolve
from mosaic.models.sae_metrics import measure_sae
from mosaic.models.sae_texts import training_texts, untested_texts
from mosaic.models.saes import load_sae
from mosaic.models.train_saes import residual_vectors
from mosaic.probes.scaling import Scaler
from mosaic.sweep.cells import Cell
from mosaic.sweep.source import open_source

TEXTS_MEASURED = 50
"""Texts of a task on which explained variance is measured."""


def control_texts(workspace: Workspace, model: ModelSpec, tasks: Iterable[str]) -> list[str]:
    """The profile's general texts that SAEs are trained on, without such those of `tasks` that no
    split tests under any of the profile's seeds."""
    profile = workspace.profile
    if profile.sae_texts:
        return training_texts(profile, resolve(model, profile)).training
    return untested_texts(replace(profile, tasks=tuple(tasks)))


def control_cells(task: str, model: ModelSpec, layer: int, width: str, seed: int = 0) -> list[Cell]:
    """Raw sums and maxima of an SAE and its controls; hidden states pooled in four ways; TF-IDF."""
    base = Cell(task, "hidden", model.name, layer, seed=seed)
    cells = [replace(base, pooling=how) for how in ("last", "mean", "max", HIDDEN_JOINED)]
    sae = replace(base, feature="sae", width=width)
    for pooling in ("sum", "max"):
        cells.append(replace(sae, pooling=pooling))
        for kind in CONTROLS:
            named = control_width(width, kind)
            cells.append(replace(sae, feature="control", width=named, pooling=pooling))
    return [*cells, Cell(task, "tfidf", seed=seed)]


def small_cells(workspace: Workspace, cells: Iterable[Cell], sizes: Iterable[int]) -> list[Cell]:
    """The cells trained on about so many texts, where each class then has two at least."""
    found = []
    for cell in cells:
        profile = workspace.profile
        data = load_task(cell.task, profile)
        split = make_split(data, cell.seed, "nested", profile.n_train, profile.n_test)
        per_class = np.unique(data.labels[split.train], return_counts=True)[1]
        for size in sizes:
            share = size / len(split.train)
            if share < 1 and (np.round(share * per_class) >= 2).all():
                found.append(replace(cell, train_fraction=share))
    return found


def latent_table(
    workspace: Workspace, tasks: Sequence[str], model: ModelSpec, layer: int, width: str
) -> pd.DataFrame:
    """How active an SAE and its controls are on all tokens of each task.

    Columns: task, latents (what they are of), n_latents, l0 (active per token), above_1 (share of
    the sums over a text that are not 0 which are above 1, the paper's threshold). For the SAE also
    explained_variance on the first `TEXTS_MEASURED` texts.
    """
    widths = {width: "trained SAE"}
    widths |= {control_width(width, kind): name for kind, name in CONTROLS.items()}
    data = [load_task(task, workspace.profile) for task in tasks]
    where = (workspace.store, workspace.engine)
    read = extract_all(model, data, workspace.profile, [layer], list(widths), *where)
    sae, texts = model.sae(layer, width), [one.inputs for one in data]
    explained = explained_variances(workspace.profile, model, [sae], texts)
    rows = []
    for one, features, shares in zip(data, read, explained, strict=True):
        for name, said in widths.items():
            counts, sums = (features.matrix(layer, name, how) for how in ("count", "sum"))
            rows.append(
                {
                    "task": one.task.key,
                    "latents": said,
                    "n_latents": sums.shape[1],
                    "l0": counts.sum() / features.n_tokens.sum(),
                    "explained_variance": shares[sae] if name == width else None,
                    "above_1": float((sums.data > 1).mean()) if sums.nnz else None,
                }
            )
    return pd.DataFrame(rows).astype({"explained_variance": float})


def latent_agreement(
    workspace: Workspace,
    tasks: Iterable[str],
    model: ModelSpec,
    layer: int,
    width: str,
    k: int,
    seeds: Sequence[int],
) -> pd.DataFrame:
    """How many of the k latents that a sparse probe reads it would read with another split too.

    Of an SAE and of its random dictionary, raw sums. Columns: task, latents, k, n_active (latents
    to choose from), shared (of the k, mean over pairs of seeds), by_chance (if each split drew).
    """
    rows: list[dict[str, Any]] = []
    widths = {width: "sae", control_width(width, "random"): "control"}
    for task, (name, feature) in product(tasks, widths.items()):
        cell = Cell(task, feature, model.name, layer, name, "sum")
        source = open_source(workspace, cell)
        X, y, kept, active = source.matrix(cell), source.data.labels, [], []
        for train in (source.split(seed).train for seed in seeds):
            kept.append(set(Scaler.fit(X[train], y[train], k=k).columns))
            active.append(len(Scaler.fit(X[train], y[train]).columns))
        row = {
            "task": task,
            "latents": "trained SAE" if name == width else CONTROLS["random"],
            "k": k,
            "n_active": round(float(np.mean(active))),
            "shared": float(np.mean([len(a & b) for a, b in combinations(kept, 2)])),
            "by_chance": k * min(1.0, k / float(np.mean(active))),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def explained_variances(
    profile: Profile, model: ModelSpec, saes: Sequence[SAESpec], texts: Sequence[Sequence[str]]
) -> list[dict[SAESpec, float]]:
    """Explained variance of each SAE of a model on the first texts of each list that are not blank.

    Raises what loading raises.
    """
    found, layers = resolve(model, profile), sorted({sae.layer for sae in saes})
    network, reader = load_model(found, max(layers) + 1), text_reader(found, profile)
    firsts = [[text for text in some if text.strip()][:TEXTS_MEASURED] for some in texts]
    budget = profile.token_budget
    states = [residual_vectors(network, reader, first, layers, budget) for first in firsts]
    measured: list[dict[SAESpec, float]] = [{} for _ in texts]
    for sae in saes:  # one at a time is in memory, with its decoder
        reads = [of[sae.layer] for of in states]
        whole = load_sae(sae, reads[0].device, reads[0].shape[1], found, decoder=True)
        for read, shares in zip(reads, measured, strict=True):
            if getattr(whole, "is_centred", False):  # what it was trained to explain
                read = read - read.mean(dim=-1, keepdim=True)
            shares[sae] = measure_sae(whole, read)["explained_variance"]
    return measured
