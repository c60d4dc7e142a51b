"""The style all figures share."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from mosaic.figures.style import legend_below, new_figure


@pytest.mark.parametrize(("words", "columns"), [("short", 4), ("a label of quite some length", 2)])
def test_the_legend_has_as_many_columns_as_the_figure_holds(words: str, columns: int) -> None:
    figure = new_figure(1, 1, height=2)
    for i in range(6):
        figure.axes[0].plot([0, 1], [i, i], label=f"{words} {i}")
    legend_below(figure)
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert legend.get_window_extent().width <= figure.bbox.width
    plt.close(figure)
