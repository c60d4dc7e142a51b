"""What the notebooks need to speak to the book: glued numbers, figures and tables."""

import base64
import html
import warnings
from typing import Any

import pandas as pd
from IPython.display import HTML, display

from mosaic.errors import MosaicError
from mosaic.figures import figure_number
from mosaic.figures.style import SavedFigure
from mosaic.publish.tables import table_html
from mosaic.scores.table import F1, SHOWN

# What a page shows of a scored cell; empty columns are left out.
CELL_COLUMNS = ("profile", *SHOWN, "k", "n_train", "n_test", "n_cut", "repeat", "cv_accuracy", *F1)


def glue(**values: Any) -> None:
    """Record values under their names, for `{glue:text}` in the prose of the same page.

    Writes the cell metadata that myst-nb reads; done here because myst-nb (and with it Sphinx) is
    not installed where a notebook runs on its own, as in Colab.
    """
    hidden = "application/papermill.record/"  # the prefix keeps the output off the page
    for name, value in values.items():
        text = repr(value.item() if hasattr(value, "item") else value)
        display(
            {f"{hidden}text/plain": text},
            raw=True,
            metadata={"scrapbook": {"name": name, "mime_prefix": hidden}},
        )


def show(figure: SavedFigure, folded: bool = False) -> HTML:
    """A saved figure with number, caption and alt text; SVG, so it stays sharp at any width.

    A folded one shows its number and finding until it is opened.
    """
    data = base64.b64encode(figure.svg.read_bytes()).decode("ascii")
    words = {name: html.escape(text, quote=True) for name, text in vars(figure.caption).items()}
    number = f"Figure {figure_number(figure.name)}"
    finding = f"<b>{number}.</b> {words['finding']}"
    picture = (
        f'<div class="mosaic-scroll" role="region" tabindex="0" aria-label="{number}">'
        f'<img class="dark-light" alt="{words["picture"]} {words["finding"]}" '
        f'src="data:image/svg+xml;base64,{data}"></div>'
    )
    said = words["marks"] if folded else f"{finding} {words['marks']}"
    body = f"{picture}<figcaption>{said}</figcaption>"
    if folded:
        body = f'<details class="mosaic-fold"><summary>{finding}</summary>{body}</details>'
    return HTML(f'<figure class="mosaic-figure" id="{figure.name}">{body}</figure>')


def show_table(frame: pd.DataFrame, digits: int = 3, caption: str = "") -> HTML:
    """A data frame as `table_html` has it: escaped, with few columns."""
    return HTML(table_html(frame, digits, caption))


def show_cells(table: pd.DataFrame, caption: str = "Scored configurations") -> HTML:
    """Scored cells, one table a profile: what the probe read, on how many documents, its score."""
    parts = [
        part[list(CELL_COLUMNS)] for _, part in table.groupby("profile", dropna=False, sort=False)
    ]
    return HTML("".join(table_html(part, caption=caption) for part in parts))


def document_counts(table: pd.DataFrame) -> str:
    """`400 training and 400 test documents`, with ranges where tasks differ in size."""
    said = [_span(table[name].dropna()) for name in ("n_train", "n_test")]
    return f"{said[0]} training and {said[1]} test documents"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def setup_notebook() -> None:
    """Notebook-wide behaviour: a MosaicError shows its sentence instead of a traceback.

    The error still fails the cell, so papermill and the runner see it.
    """
    from IPython import get_ipython

    # Without ipywidgets tqdm falls back to text, which is what the book wants anyway.
    warnings.filterwarnings("ignore", message="IProgress not found")

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((MosaicError,), _show_error)


def _show_error(shell: Any, kind: type, error: BaseException, trace: Any, **_: Any) -> list[str]:
    message = f"{kind.__name__}: {error}"
    # Jupyter takes the returned list as the traceback of the failed cell.
    shell._showtraceback(kind, error, [message])
    return [message]
