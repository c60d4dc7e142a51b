"""Which published numbers can be made again to the last digit, and which cannot and why."""

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
    targets = published_scores().query("feature == 'tfidf'").reset_index(drop=True)
    catalogue = load_catalogue(real.profile.catalogue)
    reasons = {key: missing_reason(catalogue[key], real.profile) for key in _keys(targets)}
    here = [key for key, reason in reasons.items() if reason is None]
    cells = [Cell(key, "tfidf", protocol="published") for key in here]
    shipped = bundles[(bundles["feature"] == "tfidf") & (bundles["protocol"] == "published")]
    ours = {key: (None, f"not run: {reason}") for key, reason in reasons.items()}
    for table, status in (
        (shipped, "shipped run on real text"),
        (to_scores(score_cells(cells, real)), "computed in this run"),
    ):
        found = zip(_keys(table), table["macro_f1"].astype(float), strict=True)
        ours |= {key: (value, status) for key, value in found}
    reached = pd.DataFrame([ours[key] for key in _keys(targets)], columns=["ours", "status"])
    published = targets["macro_f1"].astype(float)
    return targets[[*TASK_KEYS, "n_test"]].assign(
        published=published,
        ours=reached["ours"].astype(float),
        difference=reached["ours"].astype(float) - published,
        status=reached["status"],
    )


def _keys(table: pd.DataFrame) -> list[str]:
    """The key of each row's task, as catalogues have it."""
    return ["-".join(row.dropna()) for _, row in table[TASK_KEYS].iterrows()]
