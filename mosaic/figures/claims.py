"""fig-claims: every claim of the paper with what each source says of it (chapter 08, ours)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mosaic.evidence.claims import Finding, Verdict
from mosaic.figures.panels import arrows, differences, interval_bars, mark, room_for_labels
from mosaic.figures.style import CYCLE, GREY, MEAN, SavedFigure, new_figure, save_figure

LIMITS = (-0.32, 0.32)
"""Ends of the axis of differences; what lies beyond is an arrow."""

SHIFT = 0.24
"""Rows between two sources of one claim."""


def fig_claims(found: Mapping[str, Mapping[str, Finding]], folder: Path) -> SavedFigure:
    """Effect and interval of each claim that a source of evidence tests, one marker a source.

    `found` is source to claim to finding; what toys show is left out. Claims about a level of
    macro-F1 have a panel of their own.
    """
    rows = [
        {
            "source": source,
            "claim": finding.claim.says,
            "level": finding.claim.second is None,
            "verdict": finding.verdict,
            "effect": finding.effect,
            "low": finding.low,
            "high": finding.high,
            "bound": finding.claim.beyond,
            "n_tasks": finding.n_tasks,
            "holds": finding.points_at_claim,
        }
        for source, its in found.items()
        for finding in its.values()
        if finding.effect is not None and finding.verdict != Verdict.TOY
    ]
    order = list(dict.fromkeys(f.claim.says for its in found.values() for f in its.values()))
    table = pd.DataFrame(rows).astype({"effect": float, "low": float, "high": float})
    parts = [part for _, part in table.groupby("level")]
    sizes = [part["claim"].nunique() for part in parts]
    figure = new_figure(len(parts), 1, height=1.8 + 0.33 * sum(sizes), height_ratios=sizes)
    looks = dict(zip(dict.fromkeys(table["source"]), (MEAN, *CYCLE), strict=False))
    for axes, part in zip(figure.axes, parts, strict=True):
        level = bool(part["level"].all())
        claims = [claim for claim in order if claim in set(part["claim"])]
        title = "macro-F1" if level else "difference in macro-F1"
        differences(axes, claims, title, zero=not level)
        bounds = part.drop_duplicates("claim").set_index("claim").loc[claims, "bound"]
        said = "the claim holds to the right of this"
        mark(axes, bounds, range(len(claims)), (GREY, "|", ""), 13, markeredgewidth=1.4, label=said)
        for i, (source, (colour, marker, _)) in enumerate(looks.items()):
            of = part[part["source"] == source]
            places = np.array([claims.index(claim) for claim in of["claim"]])
            places = places + SHIFT * (i - (len(looks) - 1) / 2)
            decided = of["verdict"].isin((Verdict.SUPPORTED, Verdict.NOT_SUPPORTED)).to_numpy()
            limits = (0.3, 1.0) if level else LIMITS
            for which, face in ((decided, colour), (~decided, "white")):
                bars = interval_bars(of[which], ("effect", "low", "high"))
                style: dict[str, Any] = {"markerfacecolor": face}
                style["label"] = source if face == colour else None
                look = (colour, marker, "")
                arrows(axes, of["effect"][which], places[which], look, limits, xerr=bars, **style)
    room_for_labels(figure, figure.axes, 0.33)
    counted = [
        f"{of['holds'].sum()} of {len(of)} ({source})"
        for source, of in table.groupby("source", sort=False)
    ]
    finding = f"The effect lies on the claim's side, decided or not, in {', '.join(counted)}."
    return save_figure(figure, "fig-claims", table, finding, folder, ncols=2)
