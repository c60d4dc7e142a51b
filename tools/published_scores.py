"""Make the shipped table of published scores from the authors' public files.

Run as `python tools/published_scores.py RAW_SCORES RAW_TFIDF OUT`."""

import math
import sys

import pandas as pd

from mosaic.config.choices import TEST_SHARE
from mosaic.config.tasks import Task, load_catalogue
from mosaic.errors import IntegrityError
from mosaic.scores.table import SCORE_COLUMNS, make_scores, validate_scores, write_scores

# What makes two rows the same cell, apart from seed and repeat.
IDENTITY = [c for c in SCORE_COLUMNS[: SCORE_COLUMNS.index("split")] if c != "source"] + ["probe"]

# 0-based layers of the paper: 2B 5/12/19; 9B and 9B-IT 9/20/31 (protocol of the authors' code).
DEPTH_OF_LAYER = {5: "early", 9: "early", 12: "middle", 20: "middle", 19: "late", 31: "late"}


def convert_scores(raw_scores: pd.DataFrame, raw_tfidf: pd.DataFrame) -> pd.DataFrame:
    """The authors' columns as tidy rows; one row a linear probe, and one a decision tree.

    The authors' test split is a function of the feature file, so `split` names that file: rows with
    equal model, layer, width, task and `split` were scored on the same documents. A hidden-state
    probe ignores top-n and binarization; its rows are repeats of one cell.
    """
    catalogue = load_catalogue("paper").values()
    by_source = {(t.dataset, t.config or "", t.split): t for t in catalogue}
    rows = []
    for raw in raw_scores.fillna("").to_dict("records"):
        task = _task(by_source, raw)
        sae = raw["feature"] == "sae"
        top_n = int(raw["top_n"])
        row = {
            **_common(task),
            "model": raw["model"].split("/")[-1],
            "layer": int(raw["layer"]),
            "depth": DEPTH_OF_LAYER[int(raw["layer"])],
            "width": raw["width"],
            "feature": raw["feature"],
            "pooling": ("top_n" if top_n else "sum") if sae else "last",
            "top_n": top_n if sae and top_n else None,
            "threshold": float(raw["binarize"]) if sae and float(raw["binarize"]) else None,
            "bos": "keep",
            "selection": "all" if sae else None,
            "split": f"features-top{top_n}",
            "repeat": int(raw["repeat"]),
        }
        scores = {name: raw[name] for name in ("accuracy", "cv_accuracy") if raw[name] != ""}
        rows.append({**row, "probe": "linear", "macro_f1": raw["macro_f1"], **scores})
        if raw["tree_macro_f1"] != "":
            rows.append({**row, "probe": "tree", "macro_f1": raw["tree_macro_f1"]})
    for raw in raw_tfidf.fillna("").to_dict("records"):
        task = _task(by_source, raw)
        row = {**_common(task), "feature": "tfidf", "probe": "linear", "split": "dataset-order"}
        scores = {name: raw[name] for name in ("macro_f1", "accuracy")}
        rows.append({**row, **scores, "n_test": int(raw["n_test"]), "repeat": 1})
    table = make_scores(rows)
    # Number the repeats of a hidden-state cell anew: they came from different top-n runs.
    table["repeat"] = table.groupby(IDENTITY, dropna=False).cumcount() + 1
    return validate_scores(table)


def _task(by_source: dict[tuple[str, str, str], Task], raw: dict[str, str]) -> Task:
    key = (raw["dataset"], raw["config"], raw["split"])
    if key not in by_source:
        raise IntegrityError(f"No task of the paper's catalogue reads {key}; add it there.")
    return by_source[key]


def _common(task: Task) -> dict[str, object]:
    n_test = None if task.rows is None else math.ceil(TEST_SHARE * task.rows)
    return {
        "source": "published",
        "protocol": "published",
        "task": task.name,
        "language": task.language,
        "train_language": task.language,
        "label_model": task.label_model,
        "kind": task.kind,
        "toy": task.toy,
        "n_test": n_test,
        "n_train": None if task.rows is None else task.rows - (n_test or 0),
    }


if __name__ == "__main__":
    raw_scores_path, raw_tfidf_path, out = sys.argv[1:]
    converted = convert_scores(
        pd.read_csv(raw_scores_path, keep_default_na=False),
        pd.read_csv(raw_tfidf_path, keep_default_na=False),
    )
    write_scores(converted, out)
