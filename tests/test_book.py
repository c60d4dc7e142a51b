"""The executed notebooks, the figures they leave, and the book built from them."""

from __future__ import annotations

import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mosaic import scores
from mosaic.figures import CHAPTER_OF_FIGURE

pytestmark = pytest.mark.book

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


class Page(HTMLParser):
    """What a page links to, shows and loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {v for k in ("id", "name") if (v := values.get(k))}
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag == "img":
            self.images.append(values)
        if tag in ("script", "iframe") and values.get("src"):
            self.loaded.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(str(values["href"]))


@pytest.fixture(scope="module")
def pages(build_dir: Path) -> dict[Path, Page]:
    html = build_dir / "html"
    return {
        path.resolve(): Page(path) for path in html.rglob("*.html") if "_static" not in path.parts
    }


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebook_was_executed_from_top_to_bottom(build_dir: Path, chapter: str) -> None:
    executed = nbformat.read(build_dir / f"runs/mini/notebooks/{chapter}.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    warned = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not any("Warning" in text for text in warned), warned


@pytest.mark.parametrize("figure", sorted(CHAPTER_OF_FIGURE))
def test_figure_is_a_picture_with_axes_data_and_words(build_dir: Path, figure: str) -> None:
    folder = build_dir / "runs/mini/figures"
    tree = ElementTree.parse(folder / f"{figure}.svg")
    groups = {g.get("id", "") for g in tree.iter("{http://www.w3.org/2000/svg}g")}
    assert any(name.startswith("axes_") for name in groups)
    drawn = any(name.startswith(("line2d", "PathCollection", "QuadMesh")) for name in groups)
    assert drawn or list(tree.iter("{http://www.w3.org/2000/svg}image"))
    pixels = np.asarray(Image.open(folder / f"{figure}.png").convert("L"))
    assert pixels.shape[1] >= 1200
    assert pixels.std() > 5, "the picture is blank"
    assert len(pd.read_csv(folder / f"{figure}.csv")) > 0
    alt = json.loads((folder / f"{figure}.json").read_text())["alt"]
    assert len(alt) > 60
    assert any(character.isdigit() for character in alt), "alt text is written from the data"


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if not c.startswith(("01", "09"))])
def test_chapter_leaves_a_valid_score_table(build_dir: Path, chapter: str) -> None:
    table = scores.read(build_dir / f"runs/mini/scores/{chapter}.csv")
    assert len(table) > 0
    assert set(table["profile"]) == {"mini"}
    assert set(table["source"]) == {"run"}


def test_no_dead_internal_link(pages: dict[Path, Page]) -> None:
    dead = []
    for page in pages.values():
        for link in page.links:
            target = urlparse(link)
            if target.scheme or target.netloc:
                continue
            path = page.path if not target.path else page.path.parent / unquote(target.path)
            if not path.exists():
                dead.append((page.path.name, link))
            elif target.fragment and path.resolve() in pages:
                ids = pages[path.resolve()].ids
                if unquote(target.fragment) not in ids:
                    dead.append((page.path.name, link))
    assert not dead


def test_every_picture_is_there_and_has_alt_text(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for image in page.images:
            source = str(image.get("src"))
            if not source.startswith("data:"):
                assert not urlparse(source).scheme, f"{page.path.name} loads {source}"
                assert (page.path.parent / unquote(source)).exists(), source
            assert image.get("alt"), f"{page.path.name}: {source[:60]} has no alt text"


def test_no_script_style_or_font_from_another_site(
    build_dir: Path, pages: dict[Path, Page]
) -> None:
    outside = [(p.path.name, u) for p in pages.values() for u in p.loaded if urlparse(u).netloc]
    assert not outside
    for sheet in (build_dir / "html").rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8").replace("url(//", "url(http")


def test_every_glued_number_was_filled_in(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        text = page.path.read_text(encoding="utf-8")
        assert "{glue:" not in text, page.path.name
        assert "glue:text" not in text, page.path.name


def test_book_is_small(build_dir: Path, pages: dict[Path, Page]) -> None:
    total = sum(p.stat().st_size for p in (build_dir / "html").rglob("*") if p.is_file())
    assert total < 30e6
    assert max(page.path.stat().st_size for page in pages.values()) < 1.5e6


def test_pages_open_in_a_browser_without_network(
    build_dir: Path, pages: dict[Path, Page], browser: str, tmp_path: Path
) -> None:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += [
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
    ]
    command += [
        f"--user-data-dir={tmp_path / 'browser'}",
        "--virtual-time-budget=4000",
        "--dump-dom",
    ]
    contents = [p for p in pages if p.parent.name in ("book", "notebooks")]
    assert contents
    for path in contents:
        result = subprocess.run(
            [*command, path.as_uri()], capture_output=True, text=True, timeout=120
        )
        assert "</article>" in result.stdout, path.name
        said = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
        wrong = [line for line in said if "Uncaught" in line or "Failed" in line or "ERR_" in line]
        assert not wrong, f"{path.name}: {wrong}"
