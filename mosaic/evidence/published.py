"""The authors' scores in the tidy schema, and the tables the paper reads off them.

Source, citation and what is missing there: `assets/published/README.md`; made by
`tools/published_scores.py`."""

import pandas as pd

from mosaic import ASSETS
from mosaic.config.tasks import load_catalogue
from mosaic.scores.choose import best_rows
from mosaic.scores.table import read_scores

PUBLISHED_SCORES = ASSETS / "published" / "scores.csv"


def published_scores() -> pd.DataFrame:
    """The shipped published scores as a tidy table (4,159 probe cells and 11 TF-IDF baselines)."""
    return read_scores(PUBLISHED_SCORES)


def text_classification(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the tasks of §4.1-4.4 in their own language: no behaviour, images or translations."""
    return table[table["kind"] == "text"].reset_index(drop=True)


def best_on_test(table: pd.DataFrame, *more_keys: str) -> pd.DataFrame:
    """Per task, language and feature (and `more_keys`) the linear cell that is best on TEST.

    This is how the paper's comparison chooses its cells; rows come in the catalogue's order.
    """
    linear = table[table["probe"] == "linear"]
    keys = ["task", "language", "label_model", "feature", *more_keys]
    best = best_rows(linear["macro_f1"], [linear[key] for key in keys])
    names = dict.fromkeys(t.name for t in load_catalogue("paper").values())
    order = {name: i for i, name in enumerate(names)}
    rows = linear.loc[best].sort_values("task", key=lambda s: s.map(order), kind="stable")
    return rows.reset_index(drop=True)
