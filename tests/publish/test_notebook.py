"""What notebooks put on a page: escaped text, figures with alt text, glued numbers."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from mosaic.figures.style import CYCLE, SERIES_STYLE, SavedFigure, new_figure, save_figure
from mosaic.publish.notebook import document_counts, show, show_cells, show_table
from mosaic.scores.table import make_scores

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_table_cells_and_captions_are_escaped() -> None:
    html = show_table(pd.DataFrame({HOSTILE: [HOSTILE]}), caption=HOSTILE).data
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") == 4


def test_empty_columns_are_left_out_and_missing_values_shown() -> None:
    html = show_table(pd.DataFrame({"a": [1.23456, None], "b": [None, None]}), digits=2).data
    assert "1.23" in html
    assert "–" in html
    assert ">b</th>" not in html


def test_a_table_has_plain_names_one_column_an_interval_and_counts_in_its_caption() -> None:
    frame = pd.DataFrame(
        {
            "task": ["toxicity-de", "safety-en"],
            "difference": [0.1, -0.25],
            "low": [0.0, None],
            "high": [0.2, None],
            "p_holm": [0.01, 0.2],
            "usable": [True, False],
            "top": [5.0, None],
            "n_docs": [300, 1400],
            "n_seeds": [2, 2],
        }
    )
    html = show_table(frame, caption="Differences").data
    title = "Differences. 300 to 1,400 documents; 2 seeds"
    assert f"<caption>{title}</caption>" in html
    assert f'role="region" tabindex="0" aria-label="{title}"' in html
    assert '<th scope="row">toxicity (de)</th>' in html
    assert "<td>+0.100 [+0.000 to +0.200]</td>" in html
    assert "<td>-0.250</td>" in html
    assert "<td>yes</td><td>5</td>" in html
    assert "_" not in html
    assert html.count('scope="col"') == 5


def test_a_long_table_is_folded() -> None:
    assert "<details" not in show_table(pd.DataFrame({"a": range(12)})).data
    assert "(13 rows)</summary>" in show_table(pd.DataFrame({"a": range(13)})).data


def cell(**values: object) -> dict[str, object]:
    shared = {
        "source": "run",
        "protocol": "nested",
        "task": "a",
        "feature": "sae",
        "kind": "text",
        "toy": False,
    }
    return {**shared, "probe": "linear", "pooling": "sum", "macro_f1": 0.5, **values}


def test_cells_say_whether_a_pooling_is_binarized() -> None:
    table = make_scores([cell(), cell(threshold=1.0), cell(feature="tfidf", pooling=None)])
    html = show_cells(table).data
    assert html.count("<td>SAE, sum</td>") == 1
    assert html.count("<td>SAE, sum &gt; 1</td>") == 1
    assert html.count("<td>TF-IDF</td>") == 1
    assert "threshold" not in html


def test_documents_are_counted_with_their_range() -> None:
    few, many = cell(n_train=580, n_test=290), cell(n_train=1000, n_test=290)
    assert document_counts(make_scores([few])) == "580 training and 290 test documents"
    assert (
        document_counts(make_scores([few, many])) == "580 to 1,000 training and 290 test documents"
    )


def saved(folder: Path, finding: str) -> SavedFigure:
    figure = new_figure()
    figure.axes[0].plot([0, 1], [0, 1])
    return save_figure(figure, "fig-scale", pd.DataFrame({"x": [0, 1]}), finding, folder)


def test_figure_has_a_number_an_escaped_caption_and_alt_text(tmp_path: Path) -> None:
    figure = saved(tmp_path, f"A line {HOSTILE} from 0 to 1.")
    html = show(figure).data
    assert "<script" not in html
    assert f'alt="{figure.caption.picture} A line &lt;script&gt;' in html
    caption = html.split("<figcaption>")[1]
    assert caption.startswith("<b>Figure 2.2.</b> A line &lt;script&gt;")
    assert figure.caption.marks in unescape(caption)
    folded = show(figure, folded=True).data
    assert folded.index("Figure 2.2.</b>") < folded.index("</summary>") < folded.index("<img")
    assert folded.count("A line") == html.count("A line") == 2, "in the alt text and once beside it"


def test_same_data_same_bytes(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a", "A line."), saved(tmp_path / "b", "A line.")
    for ending in ("svg", "png", "csv"):
        assert getattr(first, ending).read_bytes() == getattr(second, ending).read_bytes()


def test_a_figure_without_a_finding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a finding"):
        saved(tmp_path, " ")


def test_series_differ_without_colour() -> None:
    marks = [(marker, str(dash)) for _, marker, dash in SERIES_STYLE.values()]
    assert len(set(marks)) == len(marks)
    assert len({(marker, str(dash)) for _, marker, dash in CYCLE}) == len(CYCLE)
