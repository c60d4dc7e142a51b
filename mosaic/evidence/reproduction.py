"""Which published numbers can be made again to the last digit, and which cannot and why."""

from __future__ import annotations

import pandas as pd

from mosaic.config.tasks import load_catalogue
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.load import missing_reason
from mosaic.evidence.published import published_scores
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells

TASK_KEYS = ["task", "language", "label_model"]


def tfidf_check(workspace: Workspace, bundles: pd.DataFrame) -> pd.DataFrame:
    """The eleven published TF-IDF baselines beside ours, under the authors' protocol.

    Tasks whose data are at hand offline are computed now; others are taken from a bundle, or
    left out with the reason. Returns task, language, label_model, n_test, published, ours,
    difference and status; the baseline is deterministic, so the difference should be 0.
    """
    real = open_workspace("encoder", str(workspace.root))
    targets = published_scores().query("feature == 'tfidf'")
    wanted = {_key(row): row for _, row in targets.iterrows()}
    tasks = {
        k: t for k, t in load_catalogue(real.profile.catalogue).items() if _task_key(t) in wanted
    }
    reasons = {_task_key(task): missing_reason(task, real.profile) for task in tasks.values()}
    here = [key for key, task in tasks.items() if reasons[_task_key(task)] is None]
    computed = to_scores(
        score_cells([Cell(key, "tfidf", protocol="published") for key in here], real)
    )
    shipped = bundles[(bundles["feature"] == "tfidf") & (bundles["protocol"] == "published")]
    ours: dict[tuple[str, ...], tuple[float, str]] = {}
    for table, status in (
        (shipped, "shipped run on real text"),
        (computed, "computed in this run"),
    ):
        ours |= {_key(row): (float(row["macro_f1"]), status) for _, row in table.iterrows()}
    rows = []
    for key, target in wanted.items():
        value, status = ours.get(key, (None, f"not run: {reasons[key]}"))
        rows.append(
            {
                **{name: target[name] for name in TASK_KEYS},
                "n_test": target["n_test"],
                "published": float(target["macro_f1"]),
                "ours": value,
                "difference": None if value is None else value - float(target["macro_f1"]),
                "status": status,
            }
        )
    return pd.DataFrame(rows)


def _key(row: pd.Series) -> tuple[str, ...]:
    return tuple("" if pd.isna(row[name]) else str(row[name]) for name in TASK_KEYS)


def _task_key(task: object) -> tuple[str, ...]:
    values = (getattr(task, name if name != "task" else "name") for name in TASK_KEYS)
    return tuple("" if value is None else str(value) for value in values)
