"""One function per figure; each takes tidy scores and does not care where they come from."""

from __future__ import annotations

CHAPTER_OF_FIGURE = {
    "fig-anatomy": "01_features",
    "fig-layers": "02_layers_and_scale",
    "fig-scale": "02_layers_and_scale",
    "fig-width": "03_width_pooling_binarization",
    "fig-topn": "03_width_pooling_binarization",
    "fig-binarize": "03_width_pooling_binarization",
    "fig-baselines": "04_baselines",
    "fig-layerwise": "04_baselines",
    "fig-multilingual": "05_multilingual_transfer",
    "fig-training-share": "05_multilingual_transfer",
    "fig-transfer-matrix": "05_multilingual_transfer",
    "fig-shared-latents": "05_multilingual_transfer",
    "fig-transfer-floor": "05_multilingual_transfer",
    "fig-behaviour": "06_behaviour_prediction",
    "fig-oversight": "06_behaviour_prediction",
    "fig-vision": "07_cross_modal",
    "fig-claims": "08_audit",
    "fig-noise": "08_audit",
    "fig-optimism": "08_audit",
    "fig-confounds": "08_audit",
    "fig-controls": "10_does_the_sae_matter",
    "fig-small-data": "10_does_the_sae_matter",
}


def figure_number(name: str) -> str:
    """`4.1`: number of the chapter and place among its figures; KeyError for an unknown name."""
    chapter = CHAPTER_OF_FIGURE[name]
    same = [figure for figure, where in CHAPTER_OF_FIGURE.items() if where == chapter]
    return f"{int(chapter[:2])}.{same.index(name) + 1}"
