"""Formulas as MathML, which browsers draw by themselves: no page needs a script from another site.

A Sphinx extension, named in the book's `_config.yml`.
"""

from functools import partial
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx as the renderer `mathml`."""
    # The book's style lets what is wider than a phone scroll inside this box.
    block = partial(_append, before='<div class="mosaic-formula">', after="</div>\n")
    app.add_html_math_renderer("mathml", (_append, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _append(page: Any, node: nodes.Element, before: str = "", after: str = "") -> None:
    """A node's LaTeX as MathML; what docutils does not know is a warning, which ends the build."""
    from sphinx.util import logging

    try:
        page.body.append(before + tex2mathml(node.astext(), as_block=bool(before)) + after)
    except MathError as error:
        said = "no MathML for %r: %s"
        logging.getLogger(__name__).warning(said, node.astext(), error, location=node)
    raise nodes.SkipNode
