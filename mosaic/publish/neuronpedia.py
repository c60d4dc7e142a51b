"""Pages and explanations of latents whose SAE is on Neuronpedia; offline there are links only."""

import json
import os
from collections.abc import Iterable
from http.client import HTTPException
from urllib.request import urlopen

import pandas as pd

from mosaic.config.profiles import SAESpec

SITE = "https://www.neuronpedia.org"

ANSWER_TIMEOUT = 5.0
"""Seconds to wait for one answer."""


def neuronpedia_place(sae: SAESpec) -> str | None:
    """`<model>/<SAE>` as Neuronpedia names it (from sae-lens' registry), or None."""
    if sae.release is None:
        return None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory().get(sae.release)
    return release.neuronpedia_id.get(str(sae.sae_id)) if release else None


def latent_pages(sae: SAESpec, latents: Iterable[int], site: str = SITE) -> pd.DataFrame:
    """Page and automatic explanation of each latent, for a table beside it.

    Columns: page, explanation; missing where the SAE is not on Neuronpedia, and an explanation
    also where there is none or the site does not answer. The first failure ends the asking, so
    that a notebook without network waits once. HF_HUB_OFFLINE asks nothing.
    """
    where = neuronpedia_place(sae)
    asking = where is not None and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")
    rows = []
    for latent in latents:
        explanation = None
        if asking:
            try:
                explanation = _explanation(f"{site}/api/feature/{where}/{int(latent)}")
            except (OSError, HTTPException, ValueError, TypeError, LookupError):
                asking = False
        page = f"{site}/{where}/{int(latent)}" if where else None
        rows.append({"page": page, "explanation": explanation})
    return pd.DataFrame(rows, columns=["page", "explanation"], dtype="object")


def _explanation(address: str) -> str | None:
    with urlopen(address, timeout=ANSWER_TIMEOUT) as answer:
        explanations = json.load(answer)["explanations"]
    return str(explanations[0]["description"]) if explanations else None
