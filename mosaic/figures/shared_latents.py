"""fig-shared-latents: which latents the languages have in common (ours)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mosaic.evidence.comparisons import shared_counts, shared_first
from mosaic.figures.panels import mark
from mosaic.figures.style import BLUE, PALE, SavedFigure, new_figure, save_figure


def fig_shared_latents(
    selected: pd.DataFrame, folder: Path, last_class: str = "the last class"
) -> SavedFigure:
    """Which latents top-k selection keeps in which language, and how many share them (ours).

    `selected` comes from `transfer.selected_latents`. An upward triangle is a latent that is more
    active in documents of the last class, a downward one is less active there.
    """
    languages = list(dict.fromkeys(selected["language"]))
    kept_by = shared_first(selected)
    place = {latent: x for x, latent in enumerate(kept_by.index)}
    figure = new_figure(2, 1, height=4.4, height_ratios=[1.25, 1])
    axes, bars = figure.axes
    for up, marker in ((True, "^"), (False, "v")):
        part = selected[selected["selected"] & ((selected["gap"] > 0) == up)]
        x = [place[latent] for latent in part["latent"]]
        y = [languages.index(language) for language in part["language"]]
        fill, said = BLUE if up else "white", "more" if up else "less"
        said = f"{said} active in {last_class}"
        mark(axes, x, y, (BLUE, marker, ""), 4.5, markerfacecolor=fill, label=said)
    axes.set_yticks(range(len(languages)), languages)
    axes.set_ylim(len(languages) - 0.5, -0.5)
    for x in np.flatnonzero(np.diff(kept_by)) + 0.5:
        axes.axvline(x, color=PALE, linewidth=1, linestyle=":")
    axes.set_xlim(-1, len(place))
    axes.set_xlabel("latents kept by any language: by all, by all but one, ...", fontsize=8)
    axes.set_xticks([])
    data = shared_counts(selected)
    counts = data["n_languages"]
    bars.bar(counts, data["latents"], color=BLUE, width=0.6, label="found", zorder=2)
    look, said = ("black", "D", ""), "expected at random"
    mark(bars, counts, data["expected_by_chance"], look, clip_on=False, zorder=3, label=said)
    for n, latents in zip(counts, data["latents"], strict=True):
        bars.annotate(str(latents), (n + 0.33, latents), fontsize=8, va="center")
    bars.set_ylim(-0.04 * data["latents"].max(), None)
    bars.set_xticks(counts)
    bars.set_xlabel("number of languages that keep a latent", fontsize=8)
    bars.set_ylabel("latents", fontsize=8)
    last, first = data.iloc[-1], data.iloc[0]
    finding = (
        f"Of {data['latents'].sum():.0f} latents that selection keeps in any language, "
        f"{last['latents']:.0f} are shared by all {len(languages)} languages (expected at random: "
        f"{last['expected_by_chance']:.1f}) and {first['latents']:.0f} are kept by one only."
    )
    marks = selected.loc[selected["selected"], ["latent", "language", "gap"]]
    drawn = pd.concat([data, marks.assign(place=marks["latent"].map(place))])
    return save_figure(figure, "fig-shared-latents", drawn, finding, folder)
