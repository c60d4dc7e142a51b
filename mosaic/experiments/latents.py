"""What a probe reads: its strongest latents, what they mark, and the tokens they fire on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import make_split
from mosaic.errors import ConfigError
from mosaic.probes.evaluate import Outcome
from mosaic.probes.select import FittedProbe
from mosaic.scores.intervals import Interval, bootstrap_interval
from mosaic.sweep.cells import Cell, grid_poolings
from mosaic.sweep.source import Source

if TYPE_CHECKING:
    from scipy.sparse import csr_array


MOST_VALUES = 24
"""Annotations with more values than this name single documents rather than kinds of them."""

FAINT = 0.2
"""Agreement below which a latent marks no annotation worth naming (ours)."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A cell with its probe kept, for looking inside."""

    data: TaskData
    X: csr_array
    """What the probe reads, all documents `[n_docs, d_sae]`."""
    raw: csr_array
    """The same before binarization."""
    outcome: Outcome
    interval: Interval
    sizes: pd.DataFrame
    """For every pooling of the grid: latents that are not zero, per test document on average."""


def read_cell(spec: Cell, workspace: Workspace) -> Reading:
    """Score one SAE cell and keep its probe and features. Raises what `sweep.score` raises."""
    profile = workspace.profile
    source = Source(workspace, load_task(spec.task, profile), spec.model)
    source.prepare([spec])
    split = make_split(source.data, spec.seed, spec.protocol, profile.n_train, profile.n_test)
    outcome = source.outcome(spec, split)
    sizes = []
    for pooling in grid_poolings(profile):
        pooled = source.matrix(replace(spec, **{"top_n": None, **pooling}))[split.test]
        sizes.append({**pooling, "active_latents": pooled.count_nonzero() / len(split.test)})
    return Reading(
        data=source.data,
        X=source.matrix(spec),
        raw=source.matrix(replace(spec, threshold=None)),
        outcome=outcome,
        interval=bootstrap_interval(outcome),
        sizes=pd.DataFrame(sizes)[["pooling", "top_n", "threshold", "active_latents"]],
    )


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """One document token by token."""

    tokens: list[str]
    """Pooled tokens as text, `[n_tokens]`."""
    values: csr_array
    """Activations `[n_tokens, d_sae]` in units of the residual stream."""


def token_activations(
    model: ModelSpec, texts: Sequence[str], layer: int, width: str, profile: Profile
) -> list[TokenActivations]:
    """Activations of one SAE on every pooled token of a few texts (for figures; not stored).

    Raises what loading raises.
    """
    import torch
    from tqdm import tqdm

    from mosaic.extraction.encode import encode
    from mosaic.models.language_model import load_model, residual_stream
    from mosaic.models.readers import text_reader
    from mosaic.models.resolve import resolve
    from mosaic.models.saes import load_sae

    found_model = resolve(model, profile)
    device, tokenizer = found_model.device, found_model.tokenizer
    loaded = load_model(found_model, layer + 1)
    sae = load_sae(model.sae(layer, width), device, loaded.text.config.hidden_size)
    documents = text_reader(found_model, profile).read(list(texts))
    found = []
    with torch.inference_mode(), residual_stream(loaded, [layer]) as outputs:
        for row in tqdm(range(len(texts)), desc="tokens", unit="text", disable=None):
            batch = documents.collate(np.asarray([row]))
            loaded.text(**{k: torch.from_numpy(v).to(device) for k, v in batch.arguments.items()})
            x = outputs[layer][torch.from_numpy(batch.keep).to(device)].float()
            triplets = encode(sae, x)
            values = sparse.coo_array(
                (
                    triplets.value.cpu().numpy(),
                    (triplets.token.cpu().numpy(), triplets.latent.cpu().numpy()),
                ),
                shape=(len(x), sae.cfg.d_sae),
            ).tocsr()
            ids = batch.arguments["input_ids"][batch.keep]
            found.append(TokenActivations([str(tokenizer.decode([int(i)])) for i in ids], values))
    return found


def top_latents(probe: FittedProbe, X: Any, y: np.ndarray, k: int = 10) -> pd.DataFrame:
    """The k latents that move the probe's decision most on documents `X [n_docs, d_sae]`.

    `effect` is the weight times the difference of the latent's mean between the class it speaks
    for and the rest, in logits. Two classes: positive weights speak for class 1. Columns: latent,
    class, weight (per unit of the pooled value), effect, active_in_class, active_elsewhere.
    Raises ConfigError for a tree, which has no weights.
    """
    if probe.coef is None:
        raise ConfigError("A decision tree has no weights per latent; interpret a linear probe.")
    read = X[:, probe.columns]
    active = sparse.csr_array(read != 0) if sparse.issparse(read) else read != 0
    binary = len(probe.coef) == 1
    rows = []
    by_class = zip(np.asarray(probe.coef), _effects(probe, X, y), strict=True)
    for position, (weights, effect) in enumerate(by_class):
        label = probe.classes[1] if binary else probe.classes[position]
        inside = np.asarray(y == label)
        share, other = _mean(active, inside), _mean(active, ~inside)
        for j in np.argsort(-np.abs(effect), kind="stable")[:k]:
            speaks_for = label if weights[j] > 0 or not binary else probe.classes[0]
            swap = binary and weights[j] <= 0
            rows.append(
                {
                    "latent": int(probe.columns[j]),
                    "class": int(speaks_for),
                    "weight": float(weights[j]),
                    "effect": float(effect[j]),
                    "active_in_class": float(other[j] if swap else share[j]),
                    "active_elsewhere": float(share[j] if swap else other[j]),
                }
            )
    table = pd.DataFrame(rows).sort_values("effect", key=np.abs, ascending=False, kind="stable")
    return table.head(k).reset_index(drop=True)


def contributions(probe: FittedProbe, row: csr_array, k: int) -> list[tuple[int, float, float]]:
    """The k latents that move one document `row [1, d_sae]` most: latent, weight, pooled value.

    Weights speak for the class the probe answers with: their product with the value is what the
    latent adds to that class's logit (with two classes, to its log-odds). Ours.
    """
    read = row[:, probe.columns].tocoo()
    answer = int(probe.probabilities(row)[0].argmax())
    binary = len(probe.coef) == 1
    weights = probe.coef[0] * (1 if answer else -1) if binary else probe.coef[answer]
    found = [
        (int(probe.columns[j]), float(weights[j]), float(value))
        for j, value in zip(read.coords[1], read.data, strict=True)
        if weights[j] != 0
    ]
    return sorted(found, key=lambda entry: (-abs(entry[1] * entry[2]), entry[0]))[:k]


def top_share(probe: FittedProbe, X: Any, y: np.ndarray, k: int = 10) -> float:
    """Share of the sum of all absolute effects that the k largest hold (see `top_latents`)."""
    effects = np.abs(_effects(probe, X, y)).ravel()
    k = min(k, len(effects))
    return float(np.partition(effects, -k)[-k:].sum() / effects.sum())


def _effects(probe: FittedProbe, X: Any, y: np.ndarray) -> np.ndarray:
    """Effect of each latent the probe reads, `[1 or n_classes, n_used]`; see `top_latents`."""
    read, weights = X[:, probe.columns], np.asarray(probe.coef)
    labels = probe.classes if len(weights) > 1 else probe.classes[1:]
    gaps = [_mean(read, y == label) - _mean(read, y != label) for label in labels]
    return weights * np.asarray(gaps)


def closest_annotations(data: TaskData, X: Any, latents: Sequence[int]) -> pd.DataFrame:
    """For each latent the annotation it marks best; empty where a task has no annotations.

    A latent marks a value of an annotation as far as being active and having the value agree:
    Matthews correlation over documents, 1 for always and 0 for chance. Below FAINT in either
    direction no annotation is named. Columns: latent, closest_annotation, agreement.
    """
    marks: dict[str, np.ndarray] = {}
    for name, values in data.annotations.items():
        kinds = pd.unique(pd.Series(values).astype(str))
        if 2 <= len(kinds) <= MOST_VALUES:
            marks |= {f"{name} = {kind}": values.astype(str) == kind for kind in kinds}
    rows = []
    for latent in latents if marks else ():
        active = np.asarray(X[:, [latent]].todense()).ravel() != 0
        agreement = {name: _matthews(active, mark) for name, mark in marks.items()}
        best = max(agreement, key=lambda name: abs(agreement[name]))
        named = best if abs(agreement[best]) >= FAINT else None
        rows.append((int(latent), named, agreement[best]))
    return pd.DataFrame(rows, columns=["latent", "closest_annotation", "agreement"])


def strongest_documents(X: Any, latent: int, n: int = 3) -> np.ndarray:
    """Positions of the documents with the largest pooled value of a latent, strongest first."""
    values = np.asarray(X[:, [latent]].todense()).ravel()
    order = np.argsort(-values, kind="stable")[:n]
    return order[values[order] > 0]


def _mean(X: Any, rows: np.ndarray) -> np.ndarray:
    return np.asarray(X[rows].mean(axis=0)).ravel()


def _matthews(a: np.ndarray, b: np.ndarray) -> float:
    # The correlation of two yes-or-no variables; constant ones agree with nothing.
    if a.all() or b.all() or not a.any() or not b.any():
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
