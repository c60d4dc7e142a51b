"""How often the book's intervals hold the truth, by simulation, in the designs the book uses.

Run as `python benchmarks/coverage.py [--repeats 400] [--out FOLDER]`; writes `coverage.csv`. A
population of 10,000 documents is answered once per seed; what is true is macro-F1 (or AUC) on all
of it. Test parts are drawn from it within classes, as splits are, and the interval either holds
the truth or not. Half of a document's luck is shared by all seeds and cells, as it is in life. For
means over tasks it is tasks that are drawn, their effects as skewed as those of published scores.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import gamma, norm
from tqdm import tqdm

from mosaic.scores.intervals import bootstrap_interval, macro_f1, paired_difference
from mosaic.scores.sign_flips import sign_flip_interval

N_POPULATION = 10_000
SHARED = 0.5
N_RESAMPLES = 400

WHOLE = ("classes", "test documents", "seeds")

WANTED = (0.92, 0.98)
"""Coverage that an interval of 95% should have in a simulation; the table says where it has not."""


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
    spread: float = 0.1
    """Standard deviation of the classes' accuracies."""
    share: float | None = None
    """Share of class 1 of two; None draws all classes alike."""
    rates: tuple[float, ...] = ()
    """Accuracies in place of the one above, simulated one after the other."""


@dataclass(frozen=True)
class TaskMean:
    """The interval of a mean over tasks (or texts), whose effects are drawn with this skewness."""

    n_tasks: int
    skew: float
    where: str
    of: str = "tasks"


DESIGNS = (
    Design("score", 2, 400, 0.90, 1, "single cells of mini"),
    Design("score", 2, 400, 0.90, 5, "means over seeds of mini"),
    Design("score", 2, 174, 0.70, 3, "sentiment, one language"),
    Design("score", 12, 400, 0.85, 3, "intents of mini"),
    Design("score", 77, 500, 0.75, 1, "banking77, one seed"),
    Design("score", 77, 500, 0.75, 3, "banking77, three seeds"),
    Design("score", 77, 500, 0.75, 5, "banking77, five seeds"),
    Design("score", 77, 500, 0.45, 3, "banking77, weak features"),
    Design("score", 77, 300, 0.65, 3, "banking77 of gemma-local"),
    Design(
        "score", 2, 248, 0.99, 1, "hardly an error (exact low end where none)", spread=0.0,
        rates=(0.98, 0.984, 0.987, 0.99, 0.993, 0.995),
    ),
    Design("score", 2, 40, 0.85, 1, "your own data, 40 test texts"),
    Design("score", 2, 40, 0.85, 1, "your own data, a fifth in one class", share=0.2),
    Design("difference", 2, 400, 0.90, 3, "recipe minus baseline, mini"),
    Design("difference", 3, 174, 0.65, 3, "recipe minus baseline, sentiment"),
    Design("difference", 77, 500, 0.75, 3, "recipe minus baseline, banking77"),
    Design("difference", 77, 300, 0.65, 3, "recipe minus baseline, gemma-local"),
    Design("difference", 2, 40, 0.85, 1, "SAE minus control, your own data"),
    Design("difference", 2, 300, 0.80, 1, "native minus English-trained, gemma-local"),
    Design(
        "difference", 2, 248, 0.98, 1, "two cells with few errors", spread=0.0,
        rates=(0.95, 0.97, 0.98, 0.987, 0.993, 0.995),
    ),
    Design("auc", 2, 200, 0.65, 1, "right answers foreseen"),
    Design("auc", 2, 160, 0.65, 1, "right answers foreseen, a fifth is right", share=0.2),
    Design("auc", 2, 100, 0.60, 1, "right answers foreseen, gemma-local", share=0.4),
)  # fmt: skip

TASK_MEANS = (
    TaskMean(9, 0.0, "means over text tasks, no skew"),
    TaskMean(9, 0.7, "SAE minus last hidden state, published"),
    TaskMean(9, 1.4, "binarized minus raw sums, published"),
    TaskMean(6, 1.2, "SAE minus TF-IDF, published"),
    TaskMean(6, 1.7, "narrowest SAE, published"),
    TaskMean(6, 0.3, "trained minus random dictionary, gemma-local"),
    TaskMean(6, 1.6, "SAE minus last hidden state, gemma-local"),
    TaskMean(5, 0.0, "the fewest tasks with an interval"),
    TaskMean(50, 2.0, "top latents taken out minus matched ones, mini", "texts"),
)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--out", default=".", help="folder of coverage.csv")
    args = parser.parse_args()
    rows = [row_again(design, args.repeats) for design in tqdm(DESIGNS)]
    # An interval of many texts is drawn, which takes as long as ten of few tasks.
    each = [(design, args.repeats * (10 if design.of == "tasks" else 1)) for design in TASK_MEANS]
    rows += [row_of_tasks(*given) for given in each]
    table = pd.DataFrame(rows).astype(dict.fromkeys(WHOLE, "Int64"))
    inside = table["coverage"].between(*WANTED)
    table.insert(6, "within .92 to .98", np.where(inside, "yes", "no"))
    print(table.to_string(index=False))
    table.to_csv(Path(args.out) / "coverage.csv", index=False, lineterminator="\n")


def row_again(design: Design, repeats: int) -> dict[str, object]:
    """A design's row; one that falls outside is simulated three times as often, for it may be
    chance alone that put it there."""
    first = row(design, repeats)
    inside = WANTED[0] <= float(str(first["coverage"])) <= WANTED[1]
    return first if inside else row(design, 3 * repeats)


def row(design: Design, repeats: int) -> dict[str, object]:
    """Coverage and mean width of one design; mean over its rates, where it has several."""
    if design.rates:
        each = [replace(design, accuracy=rate, rates=()) for rate in design.rates]
        rows = pd.DataFrame([row(one, repeats) for one in each])
        means = rows[["truth", "coverage", "mean width"]].mean().round(3)
        return {**rows.iloc[0].to_dict(), **means.to_dict()}
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, design.n_classes, N_POPULATION))
    if design.share is not None:
        labels = (np.arange(N_POPULATION) >= (1 - design.share) * N_POPULATION).astype(int)
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


def row_of_tasks(design: TaskMean, repeats: int) -> dict[str, object]:
    """Coverage of the scorecard's interval; a task's effect has mean 0.05 and deviation 0.05."""
    rng = np.random.default_rng(0)
    shape = (2 / design.skew) ** 2 if design.skew else 0.0
    drawn = rng.normal(size=(repeats, design.n_tasks))
    if design.skew:
        drawn = gamma.rvs(shape, size=drawn.shape, random_state=rng)
        drawn = (drawn - shape) / shape**0.5
    found = np.array([sign_flip_interval(values) for values in 0.05 + 0.05 * drawn])
    hits = (found[:, 0] <= 0.05) & (found[:, 1] >= 0.05)
    return {
        "interval of": f"mean over {design.n_tasks} {design.of}",
        "truth": 0.05,
        "coverage": round(float(np.mean(hits)), 3),
        "mean width": round(float(np.mean(found[:, 1] - found[:, 0])), 3),
        "as in": f"{design.where} (skewness {design.skew:g})",
    }


def population(
    rng: np.random.Generator, labels: np.ndarray, design: Design, n_cells: int
) -> list[Said]:
    """What each of `n_cells` cells says of every document of the population."""
    of_class = rng.normal(design.accuracy, design.spread, design.n_classes)
    of_class = np.clip(of_class, 0.05, 0.995)[labels]
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
