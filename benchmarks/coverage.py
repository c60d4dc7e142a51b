"""How often the book's intervals hold the truth, by simulation, in the designs the book uses.

Run as `python benchmarks/coverage.py [--repeats 400] [--out FOLDER]`; writes `coverage.csv`. A
population of 10,000 documents is answered once per seed; what is true is macro-F1 (or AUC) on all
of it. Test parts are drawn from it within classes, as splits are, and the interval either holds
the truth or not. Half of a document's luck is shared by all seeds and cells, as it is in life.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from mosaic.scores.intervals import bootstrap_interval, macro_f1, paired_difference

N_POPULATION = 10_000
SHARED = 0.5
N_RESAMPLES = 400


@dataclass
class Said:
    """What one cell says of its documents: all that an interval reads."""

    ids: np.ndarray
    y_true: np.ndarray
    y_pred: np.ndarray
    probabilities: np.ndarray

    def take(self, rows: np.ndarray) -> Said:
        """The documents at these positions."""
        return Said(self.ids[rows], self.y_true[rows], self.y_pred[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Design:
    """One kind of interval on one kind of task."""

    kind: str
    """score, difference or auc."""
    n_classes: int
    n_test: int
    accuracy: float
    n_seeds: int
    where: str
    """What of the book is of this kind."""


DESIGNS = (
    Design("score", 2, 400, 0.90, 1, "single cells of mini"),
    Design("score", 2, 400, 0.90, 5, "means over seeds of mini"),
    Design("score", 2, 174, 0.70, 3, "sentiment, one language"),
    Design("score", 12, 400, 0.85, 3, "intents of mini"),
    Design("score", 77, 500, 0.75, 1, "banking77, one seed"),
    Design("score", 77, 500, 0.75, 3, "banking77, three seeds"),
    Design("score", 77, 500, 0.75, 5, "banking77, five seeds"),
    Design("score", 77, 500, 0.45, 3, "banking77, weak features"),
    Design("difference", 2, 400, 0.90, 3, "recipe minus baseline, mini"),
    Design("difference", 77, 500, 0.75, 3, "recipe minus baseline, banking77"),
    Design("auc", 2, 200, 0.65, 1, "right answers foreseen"),
)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--out", default=".", help="folder of coverage.csv")
    args = parser.parse_args()
    table = pd.DataFrame(row(design, args.repeats) for design in tqdm(DESIGNS))
    print(table.to_string(index=False))
    table.to_csv(Path(args.out) / "coverage.csv", index=False, lineterminator="\n")


def row(design: Design, repeats: int) -> dict[str, object]:
    """Coverage and mean width of one design."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, design.n_classes, N_POPULATION))
    sides = 2 if design.kind == "difference" else 1
    cells = population(rng, labels, design, sides * design.n_seeds)
    truths = [_measure(design, cell) for cell in cells]
    first, second = np.mean(truths[: design.n_seeds]), np.mean(truths[design.n_seeds :] or [0.0])
    truth = first - second if sides == 2 else first
    hits, widths = 0, []
    for repeat in range(repeats):
        parts = [test_part(rng, labels, design) for _ in range(design.n_seeds)]
        said = [cell.take(parts[i % design.n_seeds]) for i, cell in enumerate(cells)]
        found = _interval(design, said, repeat)
        hits += found[0] <= truth <= found[1]
        widths.append(found[1] - found[0])
    return {
        "interval of": design.kind,
        "classes": design.n_classes,
        "test documents": design.n_test,
        "seeds": design.n_seeds,
        "truth": round(float(truth), 3),
        "coverage": round(hits / repeats, 3),
        "mean width": round(float(np.mean(widths)), 3),
        "as in": design.where,
    }


def population(
    rng: np.random.Generator, labels: np.ndarray, design: Design, n_cells: int
) -> list[Said]:
    """What each of `n_cells` cells says of every document of the population."""
    of_class = np.clip(rng.normal(design.accuracy, 0.1, design.n_classes), 0.05, 0.99)[labels]
    luck = rng.normal(size=len(labels))
    ids = np.array([f"d{i}" for i in range(len(labels))])
    cells = []
    for _ in range(n_cells):
        own = rng.normal(size=len(labels))
        rank = norm.cdf(SHARED**0.5 * luck + (1 - SHARED) ** 0.5 * own)
        other = (labels + rng.integers(1, max(design.n_classes, 2), len(labels))) % design.n_classes
        answer = np.where(rank < of_class, labels, other)
        score = norm.cdf((2 * labels - 1) * (design.accuracy - rank) + rng.normal(size=len(rank)))
        cells.append(Said(ids, labels, answer, np.column_stack([1 - score, score])))
    return cells


def test_part(rng: np.random.Generator, labels: np.ndarray, design: Design) -> np.ndarray:
    """Positions of a test part, stratified as scikit-learn does."""
    from sklearn.model_selection import train_test_split

    return train_test_split(
        np.arange(len(labels)), test_size=design.n_test, stratify=labels,
        random_state=int(rng.integers(2**31)),
    )[1]  # fmt: skip


def _measure(design: Design, cell: Said) -> float:
    from sklearn.metrics import roc_auc_score

    if design.kind == "auc":
        return float(roc_auc_score(cell.y_true, cell.probabilities[:, 1]))
    return macro_f1(cell.y_true, cell.y_pred)


def _interval(design: Design, said: list[Said], seed: int) -> tuple[float, float]:
    n = design.n_seeds
    if design.kind == "difference":
        found = paired_difference(said[:n], said[n:], n_resamples=N_RESAMPLES, seed=seed)
        return found.low, found.high
    metric = "auc" if design.kind == "auc" else "macro_f1"
    score = bootstrap_interval(said, metric, n_resamples=N_RESAMPLES, seed=seed)
    return score.low, score.high


if __name__ == "__main__":
    main()
