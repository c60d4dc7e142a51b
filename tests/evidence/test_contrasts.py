"""Contrasts of configurations on tables with known answers, and beside the scorecard."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mosaic.evidence.claims import judge_claims, load_claims
from mosaic.evidence.comparisons import budget_numbers
from mosaic.evidence.contrasts import (
    COUNTS_BINARIZED,
    NARROW_TO_WIDER,
    SUMS_BINARIZED,
    SUMS_TO_COUNTS,
    Findings,
    by_binarization,
    by_model,
    by_pooling,
    by_width,
    configuration_table,
    failed_cell,
    in_words,
    overall_contrasts,
)
from mosaic.evidence.published import published_scores, text_classification
from mosaic.figures import configuration
from mosaic.figures.configuration import fig_binarize
from mosaic.figures.style import Caption, SavedFigure
from mosaic.publish.scorecard import verdict_cell
from mosaic.scores.table import make_scores

TASKS = ("banking77", "election", "reject", "stance", "toxicity")
POOLINGS = [(name, None, above) for name in ("sum",) for above in (None, 1.0)]
POOLINGS += [("top_n", n, above) for n in (5, 12) for above in (None, 1.0)]


def run(tasks: tuple[str, ...] = TASKS) -> pd.DataFrame:
    """Cells whose score says what they are: binarizing sums adds 0.04, the wide SAE 0.02, a larger
    model 0.1, the middle layer 0.01, and task t weighs t/100 more of the first."""
    rows = []
    cells = product(enumerate(tasks), ("small", "large"), ((1, "early"), (3, "middle")))
    for ((t, task), model, (layer, depth)), width in product(cells, ("1k", "4k")):
        for pooling, n, above in POOLINGS:
            gain = (0.04 + t / 100) * (above is not None) * (1 if n is None else -1)
            score = 0.5 + gain + 0.02 * (width == "4k") + 0.1 * (model == "large")
            rows.append(
                {
                    **{"source": "run", "protocol": "nested", "profile": "p", "feature": "sae"},
                    **{"task": task, "model": model, "layer": layer, "depth": depth},
                    **{"width": width, "pooling": pooling, "top_n": n, "threshold": above},
                    **{
                        "kind": "text",
                        "toy": False,
                        "probe": "linear",
                        "selection": "all",
                        "seed": 0,
                    },
                    "macro_f1": score + 0.01 * (depth == "middle"),
                }
            )
    return make_scores(rows)


def effects(found: Findings) -> dict[str, float]:
    return {name: round(float(f.effect or 0), 6) for name, f in found.items()}


def test_each_choice_has_its_effect() -> None:
    table = run()
    assert effects(by_binarization(table)) == {
        "sum > 1 minus raw": 0.06,
        "top-5 > 1 minus raw": -0.06,
        "top-12 > 1 minus raw": -0.06,
        COUNTS_BINARIZED: -0.06,
    }
    assert effects(by_width(table)) == {
        "narrowest minus 4k, early": -0.02,
        "narrowest minus 4k, middle": -0.02,
        NARROW_TO_WIDER: -0.02,
    }
    pooled = effects(by_pooling(table))
    assert list(pooled)[0] == "sum > 1 minus sum"
    assert pooled["sum > 1 minus top-12 > 1"] == 0.12
    assert pooled[SUMS_TO_COUNTS] == 0.06
    assert effects(by_model(table)) == {"large minus small": 0.1}


def test_widths_that_are_names_stand_in_the_order_of_the_table() -> None:
    table = run().replace({"width": {"1k": "slim", "4k": "broad"}})
    assert effects(by_width(table)) == {
        "narrowest minus broad, early": -0.02,
        "narrowest minus broad, middle": -0.02,
        NARROW_TO_WIDER: -0.02,
    }
    backwards = table.sort_values("width", kind="stable")
    assert effects(by_width(backwards))[NARROW_TO_WIDER] == 0.02
    numbered = run().sort_values("width", ascending=False, kind="stable")
    assert effects(by_width(numbered))[NARROW_TO_WIDER] == -0.02, "numbers need no order"


def test_tasks_weigh_alike_however_many_cells_they_have() -> None:
    table = run(("banking77", "stance"))
    few = table[(table["task"] == "banking77") | (table["width"] == "1k")]
    assert by_binarization(few)[SUMS_BINARIZED].effect == pytest.approx(0.045)


def test_no_interval_from_few_tasks() -> None:
    words = [in_words(overall_contrasts(run(TASKS[:n]))[SUMS_BINARIZED]) for n in (4, 5)]
    assert words[0] == "+0.055 (4 tasks)"
    assert words[1].startswith("+0.060 (95% interval +0.040 to +0.080, 5 tasks)")
    assert in_words(None) == "(not measured)"
    table = configuration_table([run(TASKS[:4]), run()])
    assert table["low"].isna().sum() == (table["n_tasks"] == 4).sum() == len(table) / 2


def test_a_source_without_a_pair_has_no_row() -> None:
    table = run()
    narrow = table[(table["width"] == "1k") & (table["pooling"] == "sum")]
    assert by_width(narrow) == {}
    assert list(overall_contrasts(narrow)) == [SUMS_BINARIZED]


def test_pages_and_scorecard_say_the_same_of_the_published_scores() -> None:
    authors = text_classification(published_scores().query("feature == 'sae'"))
    here = overall_contrasts(authors)
    there = {f.claim.key: f for f in judge_claims(load_claims(), published_scores())}
    for name, key in (
        (SUMS_BINARIZED, "binarized"),
        (SUMS_TO_COUNTS, "sum-above-top-n"),
        (NARROW_TO_WIDER, "narrow-enough"),
    ):
        assert verdict_cell(here[name]).split("} ")[1] == verdict_cell(there[key]).split("} ")[1]


def test_the_failed_published_cell_is_found() -> None:
    authors = text_classification(published_scores().query("feature == 'sae'"))
    cell = failed_cell(authors[authors["probe"] == "linear"])
    assert (cell["task"], cell["layer"], cell["width"], cell["pooling"]) == (
        "scenario",
        19,
        "65k",
        "sum",
    )
    assert cell["cv_accuracy"] - cell["accuracy"] > 0.4
    assert cell["beside"] - cell["macro_f1"] > 0.6


def error_bars(figure: plt.Figure) -> int:
    drawn = [c for axes in figure.axes for c in axes.containers]
    return sum(len(bars.get_segments()) for c in drawn for bars in c.lines[2])


@pytest.mark.parametrize(("n_tasks", "bars"), [(4, 0), (5, 4)])
def test_few_tasks_are_drawn_without_a_bar(
    n_tasks: int, bars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[plt.Figure] = []

    def save(figure: plt.Figure, *saved: object, **facts: str) -> SavedFigure:
        kept.append(figure)
        return SavedFigure("x", Caption("x", "x", "x"), tmp_path, tmp_path, tmp_path)

    monkeypatch.setattr(configuration, "save_figure", save)
    table = run(TASKS[:n_tasks])
    selection = table[table["pooling"] == "sum"].assign(k=8, n_features=8)
    sweep = selection.dropna(subset=["threshold"])
    fig_binarize([table], sweep, selection, tmp_path)
    assert error_bars(kept[0]) == bars
    plt.close("all")


def test_budget_names_thresholds_that_do_nothing() -> None:
    rows = run(("stance",)).query("pooling == 'sum' and width == '1k' and layer == 3")
    above = rows[rows["threshold"].notna()]
    sweep = pd.concat(
        [above.assign(threshold=t, macro_f1=f) for t, f in ((0.0, 0.6), (1.0, 0.6), (5.0, 0.5))]
    )
    selection = pd.concat([rows, rows.assign(k=8, macro_f1=rows["macro_f1"] + 0.1)])
    said = budget_numbers(sweep, selection)
    assert said["same_thresholds"] == "0, 1"
    assert said["k_low"] == 8
    assert said["select"] == pytest.approx(0.1)
    assert said["binarize_all"] == said["binarize_low"] == pytest.approx(0.04)
    assert said["instead"] == pytest.approx(0.04 - 0.1)
