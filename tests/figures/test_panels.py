"""The four kinds of panel, by what stands where on the axes."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from mosaic.evidence.comparisons import label_sets_by_size
from mosaic.figures.panels import bands, differences, dots, heatmap, interval_bars, lines, looks_of
from mosaic.figures.style import CYCLE, SERIES_STYLE
from mosaic.scores.table import make_scores

ROW = {"source": "run", "protocol": "nested", "profile": "p", "probe": "linear"}
ROW |= {"kind": "behaviour", "toy": False}


@pytest.fixture
def axes() -> Iterator[Axes]:
    figure, drawn = plt.subplots()
    yield drawn
    plt.close(figure)


def scores(*cells: tuple[str, str | None, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"series": s, "depth": d, "macro_f1": f1, "macro_f1_low": f1 - 0.1, "macro_f1_high": None}
        for s, d, f1 in cells
    )


def test_lines_go_by_depth_and_what_has_none_is_a_level(axes: Axes) -> None:
    table = scores(
        ("SAE latents", "late", 0.7), ("SAE latents", "early", 0.5), ("SAE latents", "early", 0.6)
    )
    table = pd.concat([table, scores(("hidden state, mean", "middle", 0.8), ("TF-IDF", None, 0.4))])
    lines(axes, table, looks_of(table["series"]))
    sae, hidden = (bar.lines[0].get_xydata() for bar in axes.containers)
    assert np.allclose(sae, [(0, 0.55), (2, 0.7)])
    assert np.allclose(hidden, [(1.0, 0.8)])
    level = next(line for line in axes.lines if line.get_label() == "TF-IDF")
    assert list(level.get_ydata()) == [0.4, 0.4]


def test_known_series_keep_their_look_and_others_take_the_cycles() -> None:
    assert list(looks_of(["TF-IDF", "SAE latents"])) == ["SAE latents", "TF-IDF"]
    assert looks_of(["TF-IDF"])["TF-IDF"] == SERIES_STYLE["TF-IDF"]
    many = looks_of([f"m{i}" for i in range(len(CYCLE) + 1)])
    assert many["m0"] == many[f"m{len(CYCLE)}"] == CYCLE[0]
    assert many["m1"] == CYCLE[1]


def test_an_interval_that_is_missing_has_no_length() -> None:
    table = scores(("a", None, 0.5))
    assert interval_bars(table) == pytest.approx(np.array([[0.1], [0.0]]))


def test_rows_go_down_from_the_first(axes: Axes) -> None:
    differences(axes, ["first", "second"], "title")
    bands(axes, pd.Series([-0.1, 0.0]), pd.Series([0.1, 0.3]), "band")
    low, high = axes.get_ylim()
    assert low > high
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    assert [(b.get_x(), b.get_width()) for b in axes.patches] == [(-0.1, 0.2), (0.0, 0.3)]


def test_a_missing_score_leaves_its_square_empty(axes: Axes) -> None:
    heatmap(axes, pd.DataFrame([[0.5, None], [0.91, 1.0]], index=list("ab"), columns=list("xy")))
    assert [text.get_text() for text in axes.texts] == [".50", ".91", "1.00"]


def test_models_of_unknown_size_come_last(axes: Axes) -> None:
    rows = [
        {**ROW, "feature": "sae", "task": task, "label_model": model, "macro_f1": 0.5}
        for task in ("boolq", "piqa")
        for model in ("unheard of", "large", "small")
    ]
    table = label_sets_by_size(make_scores(rows), {"small": 1, "large": 2})
    assert list(table["label_model"]) == ["small", "large", "unheard of"] * 2
    assert list(dict.fromkeys(table["task"])) == ["boolq", "piqa"]
    dots(axes, table, step=0.1)
    assert [text.get_text() for text in axes.get_yticklabels()][2] == "boolq (unheard of right?)"
