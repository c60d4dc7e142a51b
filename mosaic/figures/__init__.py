"""One function per figure; each takes tidy scores and does not care where they come from."""

import yaml

from mosaic import ASSETS

CAPTIONS = yaml.safe_load((ASSETS / "captions.yaml").read_text(encoding="utf-8"))
"""Figure to `picture` and `marks`, the words that no number changes."""

CHAPTER_OF_FIGURE: dict[str, str] = {
    figure: chapter for chapter, its in CAPTIONS.pop("chapters").items() for figure in its
}


def figure_number(name: str) -> str:
    """`4.1`: number of the chapter and place among its figures; KeyError for an unknown name."""
    chapter = CHAPTER_OF_FIGURE[name]
    same = [figure for figure, where in CHAPTER_OF_FIGURE.items() if where == chapter]
    return f"{int(chapter[:2])}.{same.index(name) + 1}"
