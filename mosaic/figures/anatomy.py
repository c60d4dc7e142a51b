"""fig-anatomy: one text from tokens to latents to a pooled, binarized row (paper §3)."""

from pathlib import Path

import numpy as np
import pandas as pd

from mosaic.experiments.latents import TokenActivations
from mosaic.figures.style import BLUE, GREY, SavedFigure, new_figure, save_figure

N_LATENTS = 12

MOST_TOKENS = 32


def fig_anatomy(document: TokenActivations, threshold: float, folder: Path) -> SavedFigure:
    """Activations of the strongest latents by token, their sums, and what binarization keeps."""
    dense = np.asarray(document.values.todense())
    sums = dense.sum(axis=0)
    order = np.argsort(-sums, kind="stable")[:N_LATENTS]
    shown = dense[:MOST_TOKENS, order].T  # [n_latents, n_tokens]
    tokens = [token.strip() or "␣" for token in document.tokens[:MOST_TOKENS]]
    figure = new_figure(1, 3, height=4.4, width_ratios=[5, 2, 0.7], sharey=True)
    by_token, by_sum, by_bit = figure.axes
    image = by_token.imshow(shown, aspect="auto", cmap="Blues", vmin=0)
    by_token.grid(False)
    by_token.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right", fontsize=7.5)
    by_token.set_yticks(range(len(order)), [str(latent) for latent in order], fontsize=7.5)
    by_token.set_ylabel("latent (strongest by sum)")
    by_token.set_title("1. activations by token", fontsize=9.5)
    figure.colorbar(image, ax=by_token, location="bottom", fraction=0.04, label="activation")
    by_sum.barh(range(len(order)), sums[order], color=BLUE)
    by_sum.axvline(threshold, color="black", linestyle="--", linewidth=1.4)
    by_sum.set_xscale("symlog", linthresh=1)
    by_sum.set_title("2. sum over tokens", fontsize=9.5)
    by_sum.set_xlabel(f"sum (dashed: {threshold:g})")
    kept = sums[order] > threshold
    by_bit.barh(range(len(order)), kept.astype(float), color=GREY)
    by_bit.set_xlim(0, 1)
    by_bit.set_xticks([0, 1])
    by_bit.set_title(f"3. > {threshold:g}", fontsize=9.5)
    active, above = int((sums > 0).sum()), int((sums > threshold).sum())
    finding = (
        f"Of {len(sums):,} latents {active} are active somewhere in this text of "
        f"{len(document.tokens)} tokens, {float((dense > 0).sum(axis=1).mean()):.1f} per token on "
        f"average, and {above} have a sum above {threshold:g} and become 1."
    )
    table = pd.DataFrame(shown, columns=[f"{i} {t}" for i, t in enumerate(tokens)])
    table.insert(0, "latent", order)
    table.insert(1, "sum", sums[order])
    table.insert(2, "binarized", kept.astype(int))
    return save_figure(figure, "fig-anatomy", table, finding, folder)
