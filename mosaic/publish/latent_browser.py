"""A view of latents as HTML: a browser by plain JavaScript, and without it folded lists.

Data, style and script stand in the page, so that it works from disk, in Jupyter and in Colab.
"""

import html
import json
from typing import Any

from IPython.display import HTML

from mosaic import ASSETS
from mosaic.scores.latent_view import LatentView, ShownText

BROWSER = ASSETS / "browser"


def show_latents(view: LatentView, title: str = "") -> HTML:
    """Every latent of a view with its texts, shaded; whatever the texts hold stays text."""
    about = f"{view.model}, layer {view.layer}, width {view.width}; texts of {view.task}"
    about += f" ({view.dataset}, {view.licence or 'no licence stated'})"
    about += "; made for this book, so no evidence" if view.toy else ""
    heading = f"<h3>{html.escape(title)}</h3>" if title else ""
    folded = "".join(
        f"<details><summary>Latent {latent.latent}, {html.escape(latent.weights[0].label)}: "
        f"{len(latent.strongest)} texts it is strongest on (may offend)</summary>"
        f"<ul>{''.join(f'<li>{_marked(text)}</li>' for text in latent.strongest)}</ul></details>"
        for latent in view.latents
    )
    return HTML(
        f'<section class="mosaic-latents" aria-label="Latents of {html.escape(about)}">{heading}'
        f'<p class="mosaic-about">{html.escape(about)}.</p>'
        f'<div class="mosaic-folded">{folded}</div>'
        f"{inline_data(view.model_dump(mode='json'))}</section>{inline_code('latents')}"
    )


def inline_data(data: Any) -> str:
    """JSON in a page, for a script to read; no text in it can end or open an element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def inline_code(name: str) -> str:
    """Style and script of the package, as elements of a page."""
    style, script = ((BROWSER / f"{name}{e}").read_text("utf-8") for e in (".css", ".js"))
    return f"<style>{style}</style><script>{script}</script>"


def _marked(text: ShownText) -> str:
    most = max((value for _, value in text.pieces), default=0.0)
    pieces = [
        f'<mark style="--shade: {value / most:.2f}" title="{value:g}">{html.escape(piece)}</mark>'
        if value > 0
        else html.escape(piece)
        for piece, value in text.pieces
    ]
    return f'<span class="mosaic-text" dir="auto">{"".join(pieces)}</span>'
