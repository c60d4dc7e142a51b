"""What a probe reads: its strongest latents, what they mark, and the tokens they fire on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.sparse import csr_array
from tqdm import tqdm

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import Task
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData
from mosaic.errors import ConfigError
from mosaic.extraction.encode import Triplets
from mosaic.extraction.jobs import load_workers, resolve_job
from mosaic.extraction.pooling import arrays_for, pool
from mosaic.models.readers import Batch
from mosaic.probes.evaluate import Outcome
from mosaic.probes.select import Candidate, FittedProbe
from mosaic.scores.intervals import Interval, bootstrap_interval
from mosaic.storage.shards import Store
from mosaic.sweep.cells import Cell, grid_poolings
from mosaic.sweep.source import fit, open_source

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


def read_cell(cell: Cell, workspace: Workspace) -> Reading:
    """Score one SAE cell and keep its probe and features. Raises what scoring and loading raise."""
    source = open_source(workspace, cell)
    matrix = cache(source.matrix)  # each is built once
    split, labels = source.split(cell.seed, cell.protocol), source.data.labels
    start = time.perf_counter()
    described = {"": Candidate(matrix(cell), scaling=cell.scaling)}
    probe = fit(cell, described, labels, split, source.profile.folds)
    seconds = time.perf_counter() - start
    outcome = Outcome.of(probe, matrix(cell)[split.test], labels[split.test], split, seconds)
    sizes = []
    for pooling in grid_poolings(source.profile):
        pooled = matrix(replace(cell, **pooling))[split.test]
        sizes.append({**pooling, "active_latents": pooled.count_nonzero() / len(split.test)})
    return Reading(
        data=source.data,
        X=matrix(cell),
        raw=matrix(replace(cell, threshold=None)),
        outcome=outcome,
        interval=bootstrap_interval(outcome),
        sizes=pd.DataFrame(sizes)[["pooling", "top_n", "threshold", "active_latents"]],
    )


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """One document token by token."""

    text: str
    spans: np.ndarray
    """First and last (exclusive) character of each pooled token, `[n_tokens, 2]`; tokens that hold
    bytes of one character share it."""
    values: csr_array
    """Activations `[n_tokens, d_sae]` in units of the residual stream."""

    @property
    def tokens(self) -> list[str]:
        """Pooled tokens as slices of the text, white space included, `[n_tokens]`."""
        return [self.text[start:end] for start, end in self.spans.tolist()]


def read_tokens(
    model: ModelSpec,
    texts: Sequence[str],
    layer: int,
    width: str,
    profile: Profile,
    check: Callable[[dict[str, Any]], None] | None = None,
    by_token: bool = True,
) -> tuple[list[TokenActivations], Callable[..., csr_array]]:
    """Activations of one SAE on every pooled token of a few texts, and their features, in one pass.

    Model and SAE are loaded once, every text is read once and nothing is stored. The second value
    pools as `Features.matrix` does: `pooled(pooling, top_n=None, threshold=None)`. `check` is given
    what decides the SAE's numbers before anything is loaded. With `by_token=False` there is no
    list. Raises what loading raises, and ConfigError for a tokenizer that cannot say where in the
    text a token is.
    """
    with TemporaryDirectory(prefix="mosaic-") as folder:
        store = Store(Path(folder))
        job = resolve_job(model, _documents(texts), profile, [layer], [width], store)
        [block] = [block for block in job.blocks if block.width == width]
        if check is not None:
            check(job.identities[block.key])
        [worker] = load_workers([(job, {0: (block,)})])
    d_sae = worker.sizes[block.key]
    documents = job.reader.read(list(texts))
    places = _token_places(job.reader, texts) if by_token else []
    found: dict[int, TokenActivations] = {}

    def keep(_block: Any, rows: np.ndarray, batch: Batch, active: Triplets) -> None:
        parts = (active.value, active.token, active.latent)
        value, token, latent = (part.cpu().numpy() for part in parts)
        lengths = batch.keep.sum(axis=1)
        shape = (int(lengths.sum()), d_sae)
        values = sparse.csr_array(sparse.coo_array((value, (token, latent)), shape=shape))
        ends = np.cumsum(lengths)
        for row, kept, last, length in zip(rows.tolist(), batch.keep, ends, lengths, strict=True):
            spans = places[row][kept[: len(places[row])]]
            found[row] = TokenActivations(texts[row], spans, values[last - length : last])

    worker.run.listener = keep if by_token else None
    with torch.inference_mode(), tqdm(total=len(texts), desc="tokens", disable=None) as bar:
        arrays = worker.run.shard(documents, (block,), bar)[block]

    def pooled(pooling: str, top_n: int | None = None, threshold: float | None = None) -> csr_array:
        names = arrays_for(pooling, top_n, profile.top_n)
        return pool({name: arrays[name] for name in names}, pooling, d_sae, threshold)

    nowhere, silent = np.zeros((0, 2), np.int64), sparse.csr_array((0, d_sae), dtype=np.float32)
    read = [
        found.get(row) or TokenActivations(text, nowhere, silent) for row, text in enumerate(texts)
    ]
    return read if by_token else [], pooled


def _token_places(reader: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Where each token is in its text, as the reader cuts it: `[n_tokens, 2]` per text."""
    if not reader.tokenizer.is_fast:
        raise ConfigError(
            "The tokenizer cannot say where in a text a token is; give one with a tokenizer.json."
        )
    limit = {"truncation": True, "max_length": reader.max_length}
    encoded = reader.tokenizer(list(texts), return_offsets_mapping=True, **limit)
    return [np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in encoded["offset_mapping"]]


def token_activations(
    model: ModelSpec, texts: Sequence[str], layer: int, width: str, profile: Profile
) -> list[TokenActivations]:
    """The activations of `read_tokens` alone, for figures."""
    return read_tokens(model, texts, layer, width, profile)[0]


def _documents(texts: Sequence[str]) -> TaskData:
    task = Task(name="texts", dataset="own/texts", input_field="text", label_field="label")
    ids = np.asarray([f"{row:07d}" for row in range(len(texts))])
    return TaskData(task, ids, list(texts), np.zeros(len(texts), dtype=np.int64), ())


def deciding_latents(reading: Reading, k: int = 10) -> pd.DataFrame:
    """`top_latents` of a cell, each with the annotation it marks best.

    A latent that speaks for several classes has a row for each and one annotation.
    """
    top = top_latents(reading.outcome.probe, reading.X, reading.data.labels, k)
    closest = closest_annotations(reading.data, reading.X, top["latent"].unique())
    return top.merge(closest, on="latent", how="left", validate="many_to_one")


def top_latents(
    probe: FittedProbe, X: Any, y: np.ndarray, k: int = 10, among: Sequence[int] = ()
) -> pd.DataFrame:
    """The k latents that move the probe's decision most on documents `X [n_docs, d_sae]`.

    `among`, where there are any, is what they are taken from.

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
        order = np.argsort(-np.abs(effect), kind="stable")
        if len(among):
            order = order[np.isin(np.asarray(probe.columns)[order], among)]
        for j in order[:k]:
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
    found = pd.DataFrame(rows, columns=["latent", "closest_annotation", "agreement"])
    return found.astype({"latent": np.int64, "agreement": np.float64})


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
