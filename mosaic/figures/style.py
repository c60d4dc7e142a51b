"""The look of every figure, decided once: size, palette, markers, files and words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mosaic.evidence.claims import MIN_TASKS
from mosaic.figures import CAPTIONS
from mosaic.scores.names import UNTRAINED
from mosaic.scores.table import F1

WIDTH_INCHES = 7.2
"""Width of a figure: the text column of the book at desktop width."""

Look = tuple[str, str, Any]
"""Colour, marker and dash of a series."""

BLUE, ORANGE, GREY, PALE, BAND = "#0072B2", "#D55E00", "#4D4D4D", "#9E9E9E", "#C9C9C9"

# Okabe-Ito hues chosen for distinct lightness, each with its own marker, so that neither colour
# blindness nor a greyscale print takes a series away.
SERIES_STYLE: dict[str, Look] = {
    "SAE latents": (BLUE, "o", "-"),
    "hidden state, last token": ("#E69F00", "s", "-"),
    "hidden state, mean": (ORANGE, "D", "-"),
    "random dictionary": ("#CC79A7", "P", "--"),
    "TF-IDF": (GREY, "^", "-"),
    "prompt length": ("#CC79A7", "v", "-"),
    "base rate": (PALE, "X", "-"),
    "vision tower": ("#009E73", "P", "-"),
    UNTRAINED: ("#56B4E9", "o", "--"),
}

# For models, widths and other series without a fixed meaning: colour, marker and dash differ, and
# blue and orange are left to SAE latents and hidden states.
CYCLE: tuple[Look, ...] = (
    ("#009E73", "o", "-"),
    ("#7B3F98", "s", "--"),
    (GREY, "D", "-."),
    ("#CC79A7", "v", ":"),
    ("#8A7A00", "^", (0, (5, 1))),
    (PALE, "P", (0, (1, 1))),
)

MEAN: Look = ("black", "D", "")
"""Of a mean of differences, which is no feature's own."""

CSV_COLUMNS = ("source", "profile", "task", "language", "label_model", "model", "depth", "series")


@dataclass(frozen=True)
class Caption:
    """What stands below a figure, and in its place for who cannot see it.

    `finding`, one sentence, is made from the numbers drawn; the rest is in `assets/captions.yaml`.
    """

    finding: str
    marks: str
    picture: str

    @property
    def alt(self) -> str:
        return f"{self.picture} {self.finding}"


@dataclass(frozen=True)
class SavedFigure:
    """The files of one figure and its words."""

    name: str
    caption: Caption
    svg: Path
    png: Path
    csv: Path


def new_figure(n_rows: int = 1, n_cols: int = 1, height: float = 3.2, **kwargs: Any) -> Figure:
    """A figure with `n_rows` x `n_cols` axes (`figure.axes`) in the house style."""
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.85)
    mpl.rcParams.update(
        {
            "svg.fonttype": "path",  # looks the same where the font is missing
            "svg.hashsalt": "mosaic",  # same data, same bytes
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
        }
    )
    figure, _ = plt.subplots(
        n_rows,
        n_cols,
        figsize=(WIDTH_INCHES, height),
        layout="constrained",
        squeeze=False,
        **kwargs,
    )
    return figure


def legend_below(figure: Figure, ncols: int = 4) -> None:
    """One legend for all axes, below them, in the order of first appearance.

    It has `ncols` columns, or as many as the figure's width holds.
    """
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for columns in range(min(len(handles), ncols), 0, -1):
        legend = figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def drawn_rows(tables: Sequence[pd.DataFrame], without: Sequence[str] = ()) -> pd.DataFrame:
    """What a figure's CSV tells of the rows it draws; `without` names columns it does not need."""
    wanted = [name for name in (*CSV_COLUMNS, *F1, "n_test") if name not in without]
    return pd.concat(tables)[[name for name in wanted if name in tables[0]]]


def save_figure(
    figure: Figure,
    name: str,
    table: pd.DataFrame,
    finding: str,
    folder: Path,
    ncols: int = 4,
    **facts: str,
) -> SavedFigure:
    """Write `<name>.svg` (without a background), `.png` (2x), `.csv` (every mark that is drawn)
    and `.json` (the words), with a legend of `ncols` columns, and close the figure.

    `facts` fill the words in braces of its caption. Raises ValueError without a finding.
    """
    if not finding.strip():
        raise ValueError(f"{name}: a figure needs a finding, a sentence that says what it shows.")
    legend_below(figure, ncols)
    words = CAPTIONS[name]
    marks = words["marks"].format(min_tasks=MIN_TASKS, **facts)
    caption = Caption(finding, marks, words["picture"])
    folder.mkdir(parents=True, exist_ok=True)
    saved = SavedFigure(name, caption, *(folder / f"{name}.{end}" for end in ("svg", "png", "csv")))
    inside = {"Title": name, "Description": caption.alt}
    # No date in the file: the same data give the same bytes.
    figure.savefig(saved.svg, transparent=True, metadata={"Date": None, **inside})
    figure.savefig(saved.png, dpi=200, metadata=inside)
    table.dropna(axis="columns", how="all").to_csv(saved.csv, index=False, lineterminator="\n")
    told = {"name": name, "alt": caption.alt, **vars(caption)}
    text = json.dumps(told, ensure_ascii=False, indent=1)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    plt.close(figure)
    return saved


def load_figure(name: str, folder: Path) -> SavedFigure | None:
    """A figure as `save_figure` left it there; None where the run did not draw it."""
    told = folder / f"{name}.json"
    if not told.is_file():
        return None
    words = json.loads(told.read_text(encoding="utf-8"))
    caption = Caption(words["finding"], words["marks"], words["picture"])
    return SavedFigure(name, caption, *(folder / f"{name}.{end}" for end in ("svg", "png", "csv")))
