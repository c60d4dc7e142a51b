"""The latent browser and the table of all scores, used in a real browser; nothing is asked of it
but the page itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from browser import Tab, open_tab
from places import ROOT, RUNS

from mosaic.evidence.bundles import bundle_folders, open_bundle
from mosaic.publish.all_scores import (
    N_PLAIN,
    WORDS,
    named_rows,
    score_table,
    scores_page,
)
from mosaic.publish.latent_browser import show_latents
from mosaic.scores.latent_view import LatentView, ShownLatent, ShownText, Weight
from mosaic.scores.names import run_name
from mosaic.scores.table import make_scores

HOSTILE = "</script><script>window.hit=1</script><img src=x onerror='window.hit=1'>"
ARROWS = {"ArrowDown": 40, "ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38}


def view(page: str | None = None) -> LatentView:
    """Two latents; texts with spaces, a script without spaces, an emoji and markup."""
    texts = [
        [("How ", 0.0), ("can", 1.0), (" the ", 0.0), ("waiter", 4.0), ("?", 2.0)],
        [("你", 2.0), ("真是", 0.0), ("👩‍👧", 3.0)],
        [(HOSTILE, 1.5)],
    ]
    shown = [ShownText(label=HOSTILE, value=7.0, pieces=pieces) for pieces in texts]
    latents = [
        ShownLatent(
            latent=n,
            weights=[Weight(label=f"class {n}", weight=-1.25, effect=0.5)],
            edges=[0.5, 1.0, 2.0],
            inside=[3, 1],
            elsewhere=[2, 0],
            promotes=[" the", HOSTILE, "\n"],
            page=page,
            explanation=HOSTILE,
            strongest=shown,
            random=shown[:1],
        )
        for n in (30, 144)
    ]
    about = dict(task="t", dataset="o/t", licence="MIT", role="own", toy=True, model=HOSTILE)
    return LatentView(**about, layer=3, width="1k", documents=9, latents=latents)


def rows(n: int = 5000) -> pd.DataFrame:
    """A table as large as the authors', with one task named by markup and one by a formula."""
    names = {7: HOSTILE, 8: '=SUM(1,"2")'}
    table = make_scores(
        {
            "source": "run", "protocol": "nested", "feature": ("sae", "hidden")[i % 2],
            "pooling": "mean", "task": names.get(i, f"task {i % 20}"), "kind": "text",
            "language": ("en", "de")[i % 2], "toy": False, "probe": "linear", "seed": i,
            "layer": i % 12, "macro_f1": i / n,
        }
        for i in range(n)
    )  # fmt: skip
    return named_rows(table, "mine")


@pytest.fixture(scope="module")
def tab(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(browser, tmp_path_factory.mktemp("browser")) as opened:
        opened.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as in a window in front
        yield opened


Opens = Callable[..., Tab]


@pytest.fixture
def opens(tab: Tab, tmp_path: Path) -> Iterator[Opens]:
    """Opens HTML from disk; at the end nothing failed, was asked for, or ran from a text."""

    def open_page(body: str, width: int = 1280) -> Tab:
        head = (
            "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        )
        (tmp_path / "page.html").write_text(head + body, encoding="utf-8")
        tab.open((tmp_path / "page.html").as_uri(), width=width)
        return tab

    yield open_page
    assert tab.troubles == []
    assert tab.run("window.hit === undefined && document.images.length === 0")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")


def press(tab: Tab, key: str) -> None:
    for kind in ("rawKeyDown", "keyUp"):
        tab.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=ARROWS[key],
        )


class Words(HTMLParser):
    """The text of a page and the names of its elements, as a browser without scripts has them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.names = "", []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_latent_is_chosen_and_its_texts_keep_their_spaces(opens: Opens) -> None:
    tab = opens(show_latents(view(), HOSTILE).data)
    assert tab.run("document.querySelector('details')") is None
    texts = "[...document.querySelectorAll('.mosaic-text')].map(e => e.textContent)"
    assert tab.run(texts) == ["How can the waiter?", "你真是👩‍👧", HOSTILE, "How can the waiter?"]
    assert "for class 30" in tab.run("document.querySelector('.mosaic-shown').textContent")
    tab.run("document.querySelector('select').focus()")
    press(tab, "ArrowDown")
    assert tab.run("document.querySelector('select').value") == "1"
    shown = tab.run("document.querySelector('.mosaic-shown').textContent")
    assert "Weight −1.25 for class 144 (effect +0.5 logits)" in shown
    assert "class 30" not in shown
    assert tab.run("document.querySelectorAll('.mosaic-shown svg rect').length") == 4
    said = tab.run("document.querySelector('.mosaic-shown svg').getAttribute('aria-label')")
    assert "6 documents, 4 of them of class class 144" in said


def test_values_show_on_focus_and_arrows_move_from_token_to_token(opens: Opens) -> None:
    tab = opens(show_latents(view()).data, width=390)
    tab.run("document.querySelector('mark').focus()")
    here = (
        "[document.activeElement.textContent, document.querySelector('[role=status]').textContent]"
    )
    assert tab.run(here) == ["can", "can: 1"]
    press(tab, "ArrowRight")
    assert tab.run(here) == ["waiter", "waiter: 4"]
    label = "getComputedStyle(document.activeElement, '::after').content"
    assert tab.run(label) == '"4"'
    press(tab, "ArrowLeft")
    assert tab.run(here)[0] == "can"
    stops = "[...document.querySelectorAll('.mosaic-text [tabindex=\"0\"]')].length"
    assert tab.run(stops) == 4, "one stop a text"
    shades = tab.run(
        "[...document.querySelectorAll('li:first-child mark')].slice(0, 3)"
        ".map(m => Number(m.style.getPropertyValue('--shade')))"
    )
    assert shades == [0.25, 1, 0.5]


def test_two_browsers_on_a_page_and_a_link_to_neuronpedia(opens: Opens) -> None:
    page = "https://www.neuronpedia.org/gemma/12/30"
    tab = opens(show_latents(view()).data + show_latents(view(page)).data)
    assert tab.run("document.querySelectorAll('select').length") == 2
    links = "[...document.querySelectorAll('.mosaic-latents a')].map(a => a.href)"
    assert tab.run(links) == [page]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_shaded_tokens_have_contrast(opens: Opens, theme: str) -> None:
    paper, ink = {"light": ("#fff", "#222832"), "dark": ("#14181e", "#ced6dd")}[theme]
    tab = opens(f"<body style='background:{paper};color:{ink}'>{show_latents(view()).data}")
    ratio = tab.run(
        """(() => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = (c) => { const [r, g, b] = c.map(x => { x /= 255;
            return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const paper = rgb(getComputedStyle(document.body).backgroundColor);
          return Math.min(...[...document.querySelectorAll('mark')].map(mark => {
            const style = getComputedStyle(mark), [r, g, b, a] = rgb(style.backgroundColor);
            const mixed = light([r, g, b].map((x, i) => a * x + (1 - a) * paper[i]));
            const ink = light(rgb(style.color).slice(0, 3));
            return (Math.max(ink, mixed) + 0.05) / (Math.min(ink, mixed) + 0.05); }));
        })()"""
    )
    assert ratio >= 4.5


def test_without_scripts_the_folded_lists_and_the_first_rows_are_there() -> None:
    latents = Words(show_latents(view()).data)
    assert latents.names.count("details") == 2
    assert latents.names.count("script") == 2
    assert "img" not in latents.names
    assert "How can the waiter?" in latents.text
    table = Words(score_table(rows(200)))
    assert table.names.count("tr") == N_PLAIN + 1
    assert table.names.count("td") == N_PLAIN * (len(WORDS) + 1)
    assert "img" not in table.names
    assert f"first {N_PLAIN} of 200 rows" in table.text


COUNT = "document.querySelector('[role=status]').textContent"
FIRST = "[...document.querySelectorAll('tbody tr:first-child td')].map(d => d.textContent)"


def choose(tab: Tab, column: str, option: str) -> None:
    tab.run(
        f"""(() => {{ const s = document.querySelector('select[data-column="{column}"]');
        s.value = [...s.options].find(o => o.text === '{option}').value;
        s.dispatchEvent(new Event('change')); }})()"""
    )


def test_scores_are_filtered_sorted_and_paged(opens: Opens) -> None:
    tab = opens(score_table(rows()))
    assert tab.run(COUNT) == "Rows 1 to 50 of 5,000, of 5,000 in all"
    choose(tab, "language", "de")
    choose(tab, "layer", "11")
    assert tab.run(COUNT) == "Rows 1 to 50 of 416, of 5,000 in all"
    tab.run("document.querySelector('th:last-child button').click()")
    assert tab.run(FIRST)[-1] == "0.998"
    assert tab.run("document.querySelector('th:last-child').ariaSort") == "descending"
    tab.run("document.querySelector('th:last-child button').click()")
    assert tab.run(FIRST)[-1] == "0.002"
    tab.run("document.querySelectorAll('th button')[4].click()")
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1
    tab.run("[...document.querySelectorAll('button')].at(-1).click()")
    assert tab.run(COUNT).startswith("Rows 51 to 100 of 416")
    find = (
        "(() => {{ const i = document.querySelector('input'); i.value = '{}'; "
        "i.dispatchEvent(new Event('input')); }})()"
    )
    tab.run(find.format("HIDDEN 4991"))
    assert tab.run(COUNT) == "Rows 1 to 1 of 1, of 5,000 in all"
    assert tab.run(FIRST)[WORDS.index("task")] == "task 11"
    tab.run(find.format("nowhere"))
    assert tab.run(COUNT) == "No row fits"
    assert tab.run("document.querySelectorAll('tbody tr').length") == 0


def test_layers_are_sorted_as_numbers(opens: Opens) -> None:
    tab = opens(score_table(rows()))
    tab.run("document.querySelectorAll('th button')[4].click()")
    tab.run("document.querySelectorAll('th button')[4].click()")
    assert tab.run(FIRST)[4] == "11"


def test_the_download_holds_what_is_chosen_and_computes_nothing(opens: Opens) -> None:
    table = rows()
    tab = opens(score_table(table))
    tab.run(
        "{ const make = URL.createObjectURL; "
        "URL.createObjectURL = b => (window.saved = b, make(b)); }"
    )
    tab.run("HTMLAnchorElement.prototype.click = function () { window.named = this.download; }")
    press_save = (
        "[...document.querySelectorAll('button')].find(b => b.textContent.includes('CSV')).click()"
    )
    tab.run(press_save)
    lines = list(csv.DictReader(io.StringIO(tab.run("saved.text()"))))
    assert tab.run("named") == "scores.csv"
    assert [line["repeat"] for line in lines] == table["repeat"].tolist()
    assert lines[7]["task"] == HOSTILE
    assert lines[8]["task"] == "'" + '=SUM(1,"2")'
    assert float(lines[4321]["macro_f1"]) == pytest.approx(4321 / 5000)
    choose(tab, "task", "task 3")
    tab.run(press_save)
    chosen = list(csv.DictReader(io.StringIO(tab.run("saved.text()"))))
    assert len(chosen) == 250
    assert {line["task"] for line in chosen} == {"task 3"}


def test_everything_is_reached_by_keyboard(opens: Opens) -> None:
    """Only elements that take focus by themselves are pressed: buttons, selects and a field."""
    tab = opens(score_table(rows(100)), width=390)
    assert tab.run(
        "[...document.querySelectorAll('th')].every(h => h.firstChild.tagName === 'BUTTON')"
    )
    tab.run("document.querySelector('th button').focus()")
    for kind, text in (("keyDown", "\r"), ("keyUp", "")):
        tab.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", text=text, windowsVirtualKeyCode=13
        )
    assert tab.run("document.querySelector('th').ariaSort") == "ascending"
    assert tab.run("document.querySelector('[role=region]').tabIndex") == 0


def test_the_page_holds_every_row_and_stays_quick(opens: Opens) -> None:
    page = scores_page(RUNS)
    body = page.split("```{raw} html\n")[1].removesuffix("```\n")
    assert "```" not in body
    assert len(page) < 1e6
    tab = opens(body)
    total = int(tab.run(COUNT).split()[-3].replace(",", ""))
    assert total > 8000
    named = tab.run("[...document.querySelector('select').options].map(o => o.text)")
    profiles = {open_bundle(folder).manifest.profile for folder in bundle_folders(RUNS)}
    assert set(named) == {"all", "published scores", *map(run_name, profiles)}
    assert "<li>Gemma run: A real Gemma" in page
    took = tab.run(
        """(() => { const start = performance.now();
        document.querySelector('th button').click(); return performance.now() - start; })()"""
    )
    assert took < 1000, "milliseconds on a busy machine; 30 on an idle one"


def test_rows_say_what_tells_them_apart() -> None:
    shared = {"source": "run", "protocol": "nested", "feature": "sae", "pooling": "sum"}
    shared |= {"task": "t", "kind": "text", "toy": False, "macro_f1": 0.5, "probe": "linear"}
    several = [
        {"threshold": 1.0, "seed": 2, "language": "de", "train_language": "en"},
        {"k": 8, "selection": "topk", "repeat": 3, "probe": "tree"},
        {"label_model": "m", "train_fraction": 0.1, "scaling": "none"},
    ]
    table = named_rows(make_scores([{**shared, **one} for one in several]), "x")
    assert table["language"].tolist() == ["en → de", "", ""]
    assert table["pooling"].tolist() == ["sum > 1", "sum", "sum"]
    assert table["repeat"].tolist() == ["seed 2", "mean of 3 seeds", ""]
    assert table["feature"].tolist() == [
        "SAE latents",
        "SAE latents, top 8, decision tree",
        "SAE latents, 10% of training, scaling none",
    ]
    assert table["task"].tolist() == ["t", "t", "t (m right?)"]


def test_the_page_is_in_the_book() -> None:
    assert "file: book/all_scores" in (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert "_generated/all_scores.md" in (ROOT / "book/all_scores.md").read_text(encoding="utf-8")
