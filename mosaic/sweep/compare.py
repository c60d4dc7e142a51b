"""Choose, average and compare scored cells; the test score never takes part in a choice (ours)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mosaic.probes.select import SETTINGS
from mosaic.scores.intervals import bootstrap_interval, holm, paired_difference
from mosaic.scores.table import PROBABILITY, make_scores
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell


def mean_over_seeds(results: Sequence[ScoredCell]) -> pd.DataFrame:
    """One row per cell: macro-F1 averaged over its seeds, with one interval over documents.

    A document that several seeds tested is drawn with all that was said of it, so the interval
    does not pretend that seeds are independent samples. `repeat` holds the number of seeds.
    """
    rows = []
    for members in by_cell(results).values():
        span = bootstrap_interval(members)
        row = dict(members[0].row)
        for name in ("accuracy", *PROBABILITY, "cv_accuracy", "seconds"):
            values = [m.row[name] for m in members if m.row[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row |= {"seed": None, "split": None, "repeat": len(members)}
        row |= {"macro_f1": span.value, "macro_f1_low": span.low, "macro_f1_high": span.high}
        rows.append(row)
    return make_scores(rows)


def by_cell(results: Iterable[ScoredCell]) -> dict[Cell, list[ScoredCell]]:
    """Results grouped by cell, seeds in order; the key is the cell with seed 0."""
    cells: dict[Cell, list[ScoredCell]] = {}
    for result in sorted(results, key=lambda r: r.cell.seed):
        cells.setdefault(replace(result.cell, seed=0), []).append(result)
    return cells


def compare_cells(
    pairs: Sequence[tuple[Cell, Cell]], results: Sequence[ScoredCell]
) -> pd.DataFrame:
    """Paired differences in macro-F1 of the first cell from the second, over all seeds.

    p-values are Holm's, adjusted for the number of pairs given. Columns: task, model,
    first, second, difference, low, high, p_holm, n_docs, n_seeds.
    """
    cells = by_cell(results)
    found = [
        paired_difference(cells[replace(a, seed=0)], cells[replace(b, seed=0)]) for a, b in pairs
    ]
    adjusted = holm([c.p_value for c in found])
    rows = []
    for (a, b), comparison, p_holm in zip(pairs, found, adjusted, strict=True):
        names = {"task": a.task, "model": a.model, "first": _cell_name(a), "second": _cell_name(b)}
        counts = {"n_docs": comparison.n_docs, "n_seeds": len(cells[replace(a, seed=0)])}
        span = {name: getattr(comparison, name) for name in ("difference", "low", "high")}
        rows.append({**names, **span, "p_holm": p_holm, **counts})
    return pd.DataFrame(rows)


def at_the_edge(results: Iterable[ScoredCell]) -> tuple[int, int]:
    """In how many cells cross-validation chose the largest C on offer, and of how many."""
    chosen = [r.setting for r in results if r.cell.probe == "linear" and r.setting is not None]
    return sum(c == SETTINGS["linear"][-1] for c in chosen), len(chosen)


def by_classifier(table: pd.DataFrame, first: str) -> pd.DataFrame:
    """Macro-F1 of the recipe's SAE cells, a column per probe and protocol, seed 0 where it has one.

    Only cells that have `first`, such as "tree, published", which takes the first column. Columns:
    source, task, language, model, then those of the classifiers.
    """
    keys = ["source", "task", "language", "model", "width"]
    recipe = (table["depth"] == "middle") & (table["pooling"] == "sum") & (table["threshold"] == 1)
    recipe &= (table["selection"] == "all") & (table["seed"].fillna(0) == 0)
    rows = table[recipe.fillna(False)].astype({key: object for key in keys})
    rows = rows.assign(by=rows["probe"] + ", " + rows["protocol"]).fillna({"language": ""})
    wide = rows.pivot_table(index=keys, columns="by", values="macro_f1", sort=False)
    if first not in wide:
        return pd.DataFrame(columns=[*keys[:-1], first])
    wide = wide[[first, *wide.columns.drop(first)]].dropna(subset=first)
    return wide.reset_index().drop(columns="width").rename_axis(columns=None)


def surely_above(differences: pd.DataFrame, second: str, level: float = 0.05) -> int:
    """In how many tasks of `compare_cells` the first cell beats every cell named `second...`.

    A cell is beaten where the difference is above zero and Holm's p-value below `level`.
    """
    against = differences[differences["second"].str.startswith(second)]
    beaten = (against["difference"] > 0) & (against["p_holm"] < level)
    return int(beaten.groupby(against["task"]).all().sum())


def _cell_name(cell: Cell) -> str:
    parts = [cell.feature, cell.width, cell.pooling]
    parts.append(f"n={cell.top_n}" if cell.top_n is not None else None)
    parts.append(f"> {cell.threshold:g}" if cell.threshold is not None else None)
    return " ".join(part for part in parts if part)
