"""The executed notebooks, the figures they leave, and the book built from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import Tab, open_tab
from PIL import Image
from places import ROOT

from mosaic.figures import CHAPTER_OF_FIGURE
from mosaic.publish.pages import repository
from mosaic.scores.table import read_scores

pytestmark = pytest.mark.book

CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SCROLL_WIDTH = "document.documentElement.scrollWidth"


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
    printed = [
        (output.name, output.text)
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream"
        and (output.name == "stderr" or "print(" not in cell.source)
    ]
    assert not printed, "a page has a line that no cell of it prints"


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
    table = read_scores(build_dir / f"runs/mini/scores/{chapter}.csv")
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


@pytest.fixture(scope="module")
def tab(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(browser, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_every_page_opens_from_disk_without_a_network(tab: Tab, pages: dict[Path, Page]) -> None:
    """No console error or failed load, nothing asked of any site, no picture missing, no overflow
    at desktop width."""
    contents = [p for p in pages if p.parent.name in ("book", "notebooks")]
    assert len(contents) > len(CHAPTERS)
    for path in contents:
        tab.open(path.as_uri(), width=1280)
        assert tab.run(SCROLL_WIDTH) <= 1280, path.name
        assert not tab.troubles, (path.name, tab.troubles)
        assert tab.run("document.querySelectorAll('article h1').length") == 1, path.name
        missing = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert tab.run(missing) == [], path.name


def test_every_page_fits_a_phone(tab: Tab, pages: dict[Path, Page]) -> None:
    for path in pages:
        if path.parent.name in ("book", "notebooks"):
            tab.open(path.as_uri(), width=390)
            assert tab.run(SCROLL_WIDTH) <= 390, path.name


CUT = """[...document.querySelectorAll('article table, article pre')].filter(e => {
    const box = e.closest('.mosaic-scroll, .pst-scrollable-table-container') || e;
    return [e, box].some(b => b.scrollWidth > b.clientWidth + 1);
}).map(e => e.innerText.slice(0, 80))"""


def test_no_table_and_no_code_is_cut_at_desktop_width(tab: Tab, pages: dict[Path, Page]) -> None:
    """Folded ones as well; and every table of a chapter has a name and headed rows."""
    for path in pages:
        if path.parent.name in ("book", "notebooks"):
            tab.open(path.as_uri(), width=1280)
            tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            assert tab.run(CUT) == [], path.name
            bare = (
                "[...document.querySelectorAll('.mosaic-table')].filter(t => !t.caption.innerText)"
            )
            assert tab.run(f"{bare}.length") == 0, path.name


def test_a_stacked_table_is_read_on_a_phone_without_scrolling(
    tab: Tab, pages: dict[Path, Page]
) -> None:
    """No line of it is cut, and each value stands behind the name of its column."""
    stacked, found = ".mosaic-stacked", 0
    for path in (p for p in pages if p.parent.name == "book"):
        tab.open(path.as_uri(), width=390)
        tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        found += tab.run(f"document.querySelectorAll('{stacked}').length")
        cut = f"[...document.querySelectorAll('{stacked}, {stacked} *')]"
        cut += ".filter(e => e.getBoundingClientRect().right > 390 || e.scrollWidth > 390)"
        assert tab.run(f"{cut}.length") == 0, path.name
        hidden = f"[...document.querySelectorAll('{stacked} .source')].filter(e => !e.offsetWidth)"
        assert tab.run(f"{hidden}.length") == 0, path.name
    assert found > 10


def test_a_chapter_shows_its_parameters_and_one_call_and_folds_other_code(
    tab: Tab, build_dir: Path
) -> None:
    for chapter in CHAPTERS:
        tab.open((build_dir / f"html/notebooks/{chapter}.html").resolve().as_uri())
        shown = "[...document.querySelectorAll('.cell_input pre')].filter(e => e.checkVisibility())"
        code = tab.run(f"{shown}.map(e => e.innerText)")
        assert len(code) == 2, (chapter, code)
        assert 'profile = "mini"' in code[0]
        assert "glue(" not in tab.run("document.querySelector('article').textContent")


def test_a_chapter_offers_its_repository_its_issues_and_colab_once_it_has_an_address(
    build_dir: Path,
) -> None:
    text = (build_dir / "html/notebooks/04_baselines.html").read_text(encoding="utf-8")
    for button in ("btn-source-repository-button", "btn-source-issues-button", "colab.svg"):
        offered = button in text or button.replace("btn-", "") in text
        assert offered == bool(repository(ROOT)), button
    assert text.count('class="bd-search') <= 2


def test_formulas_are_drawn_without_a_script(build_dir: Path) -> None:
    text = (build_dir / "html/book/method.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20
    assert not [word for word in ("cdn", "mathjax", "$") if word in text.lower()]


def test_search_finds_binarization_from_disk(tab: Tab, build_dir: Path) -> None:
    tab.open((build_dir / "html" / "search.html").resolve().as_uri() + "?q=binarization")
    links = "[...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    for _ in range(50):
        if found := tab.run(links):
            break
        tab.run("new Promise(done => setTimeout(done, 100))")
    assert any("03_width_pooling_binarization.html" in link for link in found), found
    assert not tab.troubles


def test_keyboard_reaches_the_content_first(tab: Tab, build_dir: Path) -> None:
    """The first stop of the tabulator is the link that skips the menus, and focus is visible."""
    tab.open((build_dir / "html" / "book" / "index.html").resolve().as_uri())
    for kind in ("rawKeyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
    assert tab.run("document.activeElement.getAttribute('href')") == "#main-content"
    assert tab.run("document.querySelector('#main-content') !== null")
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(tab: Tab, build_dir: Path, theme: str) -> None:
    """Body text, links, code and captions stand out at 4.5 to 1 at least (WCAG AA)."""
    tab.open((build_dir / "html" / "notebooks" / "04_baselines.html").resolve().as_uri())
    tab.run(f"document.documentElement.dataset.theme = '{theme}'")
    weak = tab.run((ROOT / "tests/helpers/contrast.js").read_text(encoding="utf-8"))
    assert weak == []


def test_every_chapter_says_how_to_rerun_it(build_dir: Path) -> None:
    for chapter in CHAPTERS:
        text = (build_dir / f"html/notebooks/{chapter}.html").read_text(encoding="utf-8")
        assert f"mosaic run {chapter[:2]} --profile mini" in text
        assert f"papermill notebooks/{chapter}.ipynb out.ipynb -p profile mini" in text
        buttons = text.count(f"blob/main/notebooks/{chapter}.ipynb")
        assert buttons >= 2 if repository(ROOT) else buttons == 0, "no address, no button"


def test_figure_index_shows_every_figure(build_dir: Path) -> None:
    page = Page(build_dir / "html/book/figures_index.html")
    shown = {Path(str(image["src"])).stem for image in page.images}
    assert set(CHAPTER_OF_FIGURE) <= shown
    for figure, chapter in CHAPTER_OF_FIGURE.items():
        assert f"../notebooks/{chapter}.html#{figure}" in page.links
