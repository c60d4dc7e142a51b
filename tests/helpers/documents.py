"""Small tasks made in memory, for tests of splits, probes and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from mosaic.config.tasks import Task
from mosaic.data.load import TaskData


def task_data(
    labels: Sequence[int] | np.ndarray,
    inputs: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    modality: str = "text",
) -> TaskData:
    """A task with the given labels; texts differ unless given."""
    labels = np.asarray(labels, dtype=np.int64)
    task = Task(
        name="made",
        role="intent",
        dataset="org/made",
        split="train",
        input_field="text",
        label_field="label",
        licence="MIT",
        section="none",
        modality=modality,
    )
    return TaskData(
        task=task,
        ids=np.array([f"{i:06d}" for i in range(len(labels))]),
        inputs=[f"text {i}" for i in range(len(labels))] if inputs is None else list(inputs),
        labels=labels,
        label_names=tuple(str(label) for label in range(labels.max() + 1)),
        groups=None if groups is None else np.asarray(groups),
    )


def latents(
    n_docs: int, n_latents: int, seed: int = 0, per_doc: int = 40
) -> tuple[sparse.csr_array, np.ndarray]:
    """Sparse positive features, the first 20 of which say something about the label."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n_docs)
    columns = rng.integers(20, n_latents, (n_docs, per_doc))
    telling = np.where(
        rng.random((n_docs, 5)) < 0.7,
        rng.integers(0, 10, (n_docs, 5)) + 10 * y[:, None],
        rng.integers(0, 20, (n_docs, 5)),
    )
    indices = np.hstack([columns, telling]).ravel()
    values = rng.gamma(2.0, size=len(indices)).astype(np.float32)
    rows = np.repeat(np.arange(n_docs), per_doc + 5)
    return sparse.csr_array((values, (rows, indices)), shape=(n_docs, n_latents)), y
