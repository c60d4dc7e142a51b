"""What the probes of a sweep cost, told before any is fitted (ours)."""

from collections.abc import Iterable

from mosaic.config.choices import READS, TEST_SHARE
from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.tasks import Task
from mosaic.sweep.cells import paper_grid

PER_DOCUMENT, PER_WEIGHT_VECTOR = 1.5e-3, 1.6e-7
"""CPU seconds of one cell (five folds, every C, the final fit): per training document, and
per class and squared document. Fitted to 2 classes at 800 and 1,600 documents and to 77 at up to
4,000; good to a factor of a few."""

CLASSES_ASSUMED = 10
"""Where neither the catalogue nor the profile says how many classes a task has."""


def probe_seconds(profile: Profile, model: ModelSpec, tasks: Iterable[Task]) -> float:
    """CPU seconds of the paper's grid for a model, one seed; tasks of unknown size count 0."""
    return sum(
        len(paper_grid(profile, [task.key], [model])) * cell_seconds(profile, task)
        for task in tasks
        if task.modality == READS[model.kind]
    )


def cell_seconds(profile: Profile, task: Task) -> float:
    """CPU seconds of choosing and fitting one linear probe under `nested`."""
    rows = min(task.rows or 0, profile.max_docs or task.rows or 0)
    n = (1 - TEST_SHARE) * rows
    n = min(n, profile.n_train or n)
    n_classes = len(task.label_names or ()) or task.n_classes or CLASSES_ASSUMED
    vectors = n_classes if n_classes > 2 else 1
    return PER_DOCUMENT * n + PER_WEIGHT_VECTOR * vectors * n**2
