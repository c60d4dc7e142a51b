"""Every figure: a finding that follows its numbers, all marks in its table, legible type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from places import ROOT
from scipy.sparse import csr_array

from mosaic.evidence.claims import judge_pairs, load_claims
from mosaic.evidence.contrasts import by_binarization
from mosaic.experiments.ablation import ABLATED_COLUMNS
from mosaic.experiments.latents import TokenActivations
from mosaic.figures import CAPTIONS, CHAPTER_OF_FIGURE, figure_number
from mosaic.figures.anatomy import fig_anatomy
from mosaic.figures.audit import fig_confounds, fig_noise, fig_optimism
from mosaic.figures.baselines import fig_baselines, fig_layerwise
from mosaic.figures.behaviour import fig_behaviour, fig_oversight
from mosaic.figures.claims import fig_claims
from mosaic.figures.configuration import fig_binarize, fig_topn, fig_width
from mosaic.figures.controls import fig_ablation, fig_controls, fig_small_data
from mosaic.figures.images import fig_vision
from mosaic.figures.layers import fig_layers, fig_scale
from mosaic.figures.style import CYCLE, SERIES_STYLE, WIDTH_INCHES, SavedFigure
from mosaic.figures.transfer import (
    fig_multilingual,
    fig_shared_latents,
    fig_training_share,
    fig_transfer_matrix,
)
from mosaic.scores.table import make_scores

TASKS = ("banking77", "election", "reject", "stance", "toxicity")
DEPTHS = ("early", "middle", "late")
SHARED = {"source": "published", "protocol": "published", "probe": "linear", "toy": False}
SAE = {"feature": "sae", "pooling": "sum", "threshold": 1.0, "width": "1k", "selection": "all"}
FEATURES = ((SAE, 0.1), ({"feature": "hidden", "pooling": "last"}, 0.0), ({"feature": "tfidf"}, 0))


def scores(*parts: tuple[dict[str, Any], float], flipped: bool) -> pd.DataFrame:
    """A row per part with its score, or 1 minus its score, with an interval of 0.02."""
    rows = []
    for row, score in parts:
        score = round(1 - score if flipped else score, 6)
        ends = {"macro_f1_low": score - 0.01, "macro_f1_high": score + 0.01}
        rows.append({**SHARED, "kind": "text", "macro_f1": score, **ends, **row})
    return make_scores(rows)


def grid(flipped: bool) -> pd.DataFrame:
    """SAE cells: each choice moves the score, a little more from task to task; one fit failed."""
    parts = []
    for (t, task), (m, model), (d, depth) in product(
        enumerate(TASKS), enumerate(("small", "large")), enumerate(DEPTHS)
    ):
        for width, n, above in product(("1k", "4k"), (None, 5), (None, 1.0)):
            pooled = {"pooling": "sum" if n is None else "top_n", "top_n": n, "threshold": above}
            gain = 0.04 * (above is not None) + 0.02 * (n is None) + 0.03 * (width == "1k")
            score = 0.6 + gain * (1 + t / 10) + 0.05 * m + (0.03 - 0.01 * t / 2) * (d == 1)
            place = {"task": task, "model": model, "layer": 2 * d, "depth": depth, "width": width}
            sure = {"cv_accuracy": score, "accuracy": score, "n_test": 100 + t}
            parts.append(({**SAE, **place, **pooled, **sure}, score))
    parts[4][0]["accuracy"] -= 0.5  # a wide one
    return scores(*((row, score - 0.5 * (i == 4)) for i, (row, score) in enumerate(parts)),
                  flipped=flipped)  # fmt: skip


def features(flipped: bool, kind: str, **more: Any) -> pd.DataFrame:
    """SAE latents above hidden states above TF-IDF, one row a task, model and depth."""
    parts = []
    for (t, task), model, depth in product(enumerate(TASKS), ("small", "large"), DEPTHS):
        for feature, gain in FEATURES:
            place = {"task": task, "kind": kind, **more}
            if feature["feature"] != "tfidf":
                place |= {"model": model, "depth": depth, "layer": DEPTHS.index(depth)}
            elif (model, depth) != ("small", "early"):
                continue
            score = 0.5 + gain + t / 100 + 0.01 * DEPTHS.index(depth) + 0.02 * (model == "large")
            parts.append(({**feature, **place, "cv_accuracy": score}, score))
    return scores(*parts, flipped=flipped)


def best(table: pd.DataFrame, *by: str) -> pd.DataFrame:
    return table.groupby(["task", "feature", *by], dropna=False, sort=False).head(1)


def moved(flipped: bool) -> pd.DataFrame:
    parts = []
    for (feature, gain), train, test, share in product(
        FEATURES, ("en", "de"), ("en", "de"), (0.5, 1.0)
    ):
        score = 0.6 + gain + 0.2 * (train == test) * (1 + gain) + 0.05 * share
        place = {"task": "toxicity", "language": test, "train_language": train}
        if feature["feature"] != "tfidf" or share == 1:
            parts.append(({**feature, **place, "train_fraction": share, "n_train": 9}, score))
    return scores(*parts, flipped=flipped).assign(repeat=2)


def draw_binarize(
    flipped: bool, folder: Path, tables: list[pd.DataFrame] | None = None
) -> SavedFigure:
    table = grid(flipped)
    sums = table[(table["pooling"] == "sum") & (table["width"] == "1k")]
    kept = pd.concat([sums.assign(k=k, n_features=n) for k, n in ((8, 8), (pd.NA, 99))])
    sweep = pd.concat([sums.dropna(subset="threshold").assign(threshold=t, n_features=n)
                       for t, n in ((0.0, 99), (5.0, 20))])  # fmt: skip
    return fig_binarize(tables or [table], sweep, kept, folder)


def draw_anatomy(flipped: bool, folder: Path) -> SavedFigure:
    values = np.array([[0.0, 2.5, 1.5], [0.75, 0.0, 0.25 if flipped else 3.0]])
    return fig_anatomy(TokenActivations("a b", np.array([[0, 1], [2, 3]]), csr_array(values)), 1.9,
                       folder)  # fmt: skip


def draw_noise(flipped: bool, folder: Path) -> SavedFigure:
    size = 5.0 if flipped else 0.5
    sets = pd.DataFrame(
        {"task": ["a", "b"], "language": "", "label_model": "", "n_test": [50, 900]}
    )
    spread = sets.assign(sd_run=[0.03, 0.01], sd_training=0.005, sd_documents=[0.04, 0.02])
    spread["needed"] = 1.96 * 2**0.5 * spread["sd_run"]
    pairs = pd.concat([sets, sets]).assign(value=size * np.array([0.02, -0.03, 0.1, 0.04]))
    return fig_noise(spread.replace("", pd.NA), pairs, folder)


def draw_claims(flipped: bool, folder: Path) -> SavedFigure:
    """Two claims on five tasks in opposite directions, and one about a level."""
    known = {claim.key: claim for claim in load_claims()}
    rows = pd.DataFrame({"task": TASKS, "toy": False, "variance": 1e-4})
    about = [known[key] for key in ("above-hidden", "above-tfidf", "above-0.8")]
    effects = (-0.05, -0.04, 0.6) if flipped else (0.05, -0.04, 0.9)
    pairs = [rows.assign(value=x + np.arange(5) / 100) for x in effects]
    found = {claim.key: f for claim, f in zip(about, judge_pairs(about, pairs), strict=True)}
    return fig_claims({"Published scores": found}, folder)


def draw_optimism(flipped: bool, folder: Path) -> SavedFigure:
    gain = [0.09, 0.07] if flipped else [0.01, 0.002]
    table = pd.DataFrame({"task": ["a", "b"], "language": pd.NA, "label_model": pd.NA})
    table = table.assign(source="published", profile=pd.NA, n_test=[50, 900], difference=gain)
    return fig_optimism([table.assign(gain_low=0.02, gain_high=[0.04, 0.03])], folder)


def draw_confounds(flipped: bool, folder: Path) -> SavedFigure:
    said = ("paper's pooling", "equal pooling")
    table = pd.DataFrame({"claim": "SAE minus hidden state", "condition": said, "task": "a"})
    table["difference"] = [0.001, 0.05] if flipped else [0.05, 0.001]
    table = table.assign(low=table["difference"] - 0.02, high=table["difference"] + 0.03)
    return fig_confounds(table, "this run", folder)


def draw_small(flipped: bool, folder: Path) -> SavedFigure:
    curve = pd.DataFrame({"series": ["SAE latents", "TF-IDF"] * 2, "n_train": [16, 16, 64, 64]})
    curve["macro_f1"] = [0.6, 0.5, 0.7, 0.8] if flipped else [0.5, 0.6, 0.8, 0.7]
    ends = {"macro_f1_low": 0.0, "macro_f1_high": 1.0, "n_tasks": 3}
    return fig_small_data([curve.assign(source="published", profile=pd.NA, **ends)], folder)


def draw_ablation(flipped: bool, folder: Path) -> SavedFigure:
    top = pd.DataFrame({"task": "toxicity-de", "k": [1, 5], "latents": "top", "toy": False})
    top["difference"] = [0.0, -0.25] if flipped else [0.125, 0.5]
    top = top.assign(low=top["difference"] - 0.0625, high=top["difference"] + 0.0625)
    drawn = [
        top.assign(latents="matched", difference=d, low=np.nan, high=np.nan) for d in (-0.2, 0.2)
    ]
    table = pd.concat([top, *drawn], ignore_index=True)
    return fig_ablation(table.assign(source="run", profile="mine"), folder)


def test_what_ablation_shows_is_counted(kept: list[Figure], tmp_path: Path) -> None:
    said = [draw_ablation(flipped, tmp_path).caption.finding for flipped in (False, True)]
    assert said[0] == (
        "In this run, profile mine, the margin lost to the top latents lies +0.125 to +0.500 from "
        "that to others as active; in 2 of 2 rows the interval leaves out zero."
    )
    assert "-0.250 to +0.000" in said[1]
    assert "in 1 of 2 rows" in said[1]
    none = pd.DataFrame(columns=ABLATED_COLUMNS)
    assert fig_ablation(none, tmp_path).caption.finding.startswith("Nothing was ablated")


def draw_shared(flipped: bool, folder: Path) -> SavedFigure:
    rows = [("en", 1, True, 0.5), ("de", 1, not flipped, 0.4), ("en", 2, True, -0.3)]
    table = pd.DataFrame(rows, columns=["language", "latent", "selected", "gap"])
    kept = table[table["selected"]].groupby("latent")["language"].nunique()
    return fig_shared_latents(
        table.assign(n_active=40, n_languages=table["latent"].map(kept)), folder
    )


SIZES = {"small": 1, "large": 2}
Draw = Callable[[bool, Path], SavedFigure]
DRAWN: dict[str, Draw] = {
    "fig-anatomy": draw_anatomy,
    "fig-layers": lambda flip, to: fig_layers([grid(flip)], to),
    "fig-scale": lambda flip, to: fig_scale([grid(flip)], to),
    "fig-width": lambda flip, to: fig_width([grid(flip)], to),
    "fig-topn": lambda flip, to: fig_topn([grid(flip)], to),
    "fig-binarize": draw_binarize,
    "fig-baselines": lambda flip, to: fig_baselines([best(features(flip, "text"))], to),
    "fig-layerwise": lambda flip, to: fig_layerwise([best(features(flip, "text"), "depth")], to),
    "fig-multilingual": lambda flip, to: fig_multilingual([moved(flip)], to),
    "fig-training-share": lambda flip, to: fig_training_share(moved(flip), to),
    "fig-transfer-matrix": lambda flip, to: fig_transfer_matrix([moved(flip)], to),
    "fig-transfer-floor": lambda flip, to: fig_transfer_matrix(
        [moved(flip).query("feature == 'tfidf'")], to, "fig-transfer-floor"
    ),
    "fig-shared-latents": draw_shared,
    "fig-behaviour": lambda flip, to: fig_behaviour(
        [best(features(flip, "behaviour", label_model="large"))], SIZES, to
    ),
    "fig-oversight": lambda flip, to: fig_oversight(
        [best(features(flip, "behaviour", label_model="large"), "model")], SIZES, to
    ),
    "fig-vision": lambda flip, to: fig_vision([best(features(flip, "image"), "depth")], to),
    "fig-claims": draw_claims,
    "fig-noise": draw_noise,
    "fig-optimism": draw_optimism,
    "fig-confounds": draw_confounds,
    "fig-controls": lambda flip, to: fig_controls({"this run": by_binarization(grid(flip))}, to),
    "fig-small-data": draw_small,
    "fig-ablation": draw_ablation,
}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they were when they would have been written; writing them is slow."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    return figures


@pytest.mark.parametrize("name", sorted(CHAPTER_OF_FIGURE))
def test_a_figure_tells_what_it_draws(name: str, kept: list[Figure], tmp_path: Path) -> None:
    saved, opposite = (DRAWN[name](flipped, tmp_path / str(flipped)) for flipped in (False, True))
    said = saved.caption
    assert saved.name == name
    assert said.finding != opposite.caption.finding, "the other way round it says the same"
    assert any(c.isdigit() for c in said.finding)
    assert (said.marks, said.picture) == (opposite.caption.marks, opposite.caption.picture)
    for words in (said, opposite.caption):
        assert len(re.findall(r"\.(?= [A-Z]|$)", words.alt)) == 2, words.alt
        assert "nan" not in words.finding.split(), words.finding
    table = pd.read_csv(saved.csv).select_dtypes("number").to_numpy().ravel()
    known = set(np.round(np.abs(table), 6))
    drawn = [value for axes in kept[0].axes for value in marks(axes)]
    assert len(drawn) > 3
    assert not sorted(set(np.round(np.abs(drawn), 6)) - known), "not in the table"
    phone = phone_width() / (72 * WIDTH_INCHES)
    texts = [t for t in kept[0].findobj(matplotlib.text.Text) if t.get_text().strip()]
    assert min(t.get_fontsize() for t in texts) * phone >= 8, "px at 390 px"


def test_a_finding_is_of_what_counts_before_it_is_of_toys(
    kept: list[Figure], tmp_path: Path
) -> None:
    """A shipped run comes first where there is one; of toys alone the words say so."""
    toys = moved(False).assign(source="run", profile="mini", toy=True)
    real = moved(True).assign(source="bundle", profile="gemma-local", seed=3)
    alone = fig_multilingual([toys], tmp_path).caption.finding
    assert alone.startswith("In this run of toys, profile mini, training on en")
    both = fig_multilingual([real, toys], tmp_path).caption.finding
    assert both.startswith("In the Gemma run, training on en instead of the test language costs")
    assert [axes.get_title(loc="left") for axes in kept[-1].axes] == [
        "toxicity, Gemma run",
        "toxicity, this run, profile mini",
    ]
    other = fig_multilingual([real.assign(task="sentiment"), toys], tmp_path).caption.finding
    assert other == alone, "a task that is not asked about"


def test_native_and_moved_probes_are_compared_over_the_same_seeds(tmp_path: Path) -> None:
    table = moved(False).query("train_fraction == 1").assign(seed=0)
    more = table.query("language == 'de' and train_language == 'de'").assign(seed=1, macro_f1=0.0)
    same, wider = (fig_multilingual([t], tmp_path) for t in (table, pd.concat([table, more])))
    assert same.caption.finding == wider.caption.finding


def marks(axes: Axes) -> Iterator[float]:
    """Values at which markers, bars, ends of intervals and shades stand; a row is no value."""
    rows = isinstance(axes.yaxis.get_major_locator(), FixedLocator) and len(axes.get_yticks())
    for image in axes.images:
        yield from np.ma.compressed(np.ma.masked_invalid(image.get_array()))
    for line in axes.lines:
        marker, data = line.get_marker() not in ("None", "", None), line.get_transform()
        if marker and line.get_gid() != "arrow" and data == axes.transData:
            yield from np.asarray(line.get_data()[0 if rows else 1], dtype=float)
    for group in axes.containers:
        if isinstance(group, ErrorbarContainer):
            for bars in group.lines[2]:
                yield from np.concatenate([*bars.get_segments(), np.empty((0, 2))])[
                    :, 1 - bool(rows)
                ]
        if isinstance(group, BarContainer):
            for bar in group:
                yield from (
                    (bar.get_x(), bar.get_x() + bar.get_width()) if rows else (bar.get_height(),)
                )


def phone_width() -> float:
    """Pixels below which a figure scrolls instead of shrinking."""
    css = (ROOT / "book/_static/mosaic.css").read_text(encoding="utf-8")
    found = re.search(r"\.mosaic-figure img \{[^}]*min-width: (\d+)px", css)
    assert found
    return float(found[1])


def test_a_mark_that_is_not_in_the_table_is_found(kept: list[Figure], tmp_path: Path) -> None:
    saved = DRAWN["fig-layers"](False, tmp_path)
    table = pd.read_csv(saved.csv).select_dtypes("number").to_numpy().ravel()
    kept[0].axes[0].plot([0.123], [2], "o")
    assert 0.123 in set(np.round(list(marks(kept[0].axes[0])), 6)) - set(np.round(table, 6))


def test_a_failed_fit_is_an_arrow_and_not_a_dot(kept: list[Figure], tmp_path: Path) -> None:
    saved = fig_width([grid(False)], tmp_path)
    texts = [t.get_text() for t in kept[0].axes[0].texts]
    assert any(text.startswith("failed fit +0.") for text in texts), texts
    drawn = pd.read_csv(saved.csv)
    failed = drawn[drawn["mark"] == "failed fit"]
    assert set(failed["task"]) == {"banking77"}
    assert failed["difference"].min() > kept[0].axes[0].get_xlim()[1]
    assert "without failed fits" in saved.caption.finding


def wild(seed: int) -> pd.DataFrame:
    """Toys far beyond what is real, with several failed fits among them, up and down."""
    toys = grid(False).assign(source="run", profile="mini", toy=True, protocol="nested", seed=0)
    random = np.random.default_rng(seed)
    toys["macro_f1"] = (toys["macro_f1"] + random.normal(0, 0.4, len(toys))).clip(0, 1)
    failed = toys.sample(12, random_state=seed).index
    toys.loc[failed, ["accuracy", "macro_f1"]] = 0.02
    return toys


def far_claims(folder: Path) -> SavedFigure:
    """Three sources whose effects all lie beyond the axis, two to one side of it."""
    [claim] = [claim for claim in load_claims() if claim.key == "above-hidden"]
    rows = pd.DataFrame({"task": TASKS, "toy": False, "variance": 1e-4})
    found = {
        source: {claim.key: judge_pairs([claim], [rows.assign(value=x + np.arange(5) / 100)])[0]}
        for source, x in (("a", 0.5), ("b", 0.6), ("c", -0.7))
    }
    return fig_claims(found, folder)


CROWDED: dict[str, Draw] = {
    "fig-width": lambda _, to: fig_width([grid(False), wild(0)], to),
    "fig-topn": lambda _, to: fig_topn([grid(False), wild(1), wild(2)], to),
    "fig-binarize": lambda _, to: draw_binarize(False, to, [grid(False), wild(3)]),
    "fig-layers": lambda _, to: fig_layers([grid(False), wild(4)], to),
    "fig-scale": lambda _, to: fig_scale([grid(False), wild(5)], to),
    "fig-claims": lambda _, to: far_claims(to),
}


@pytest.mark.parametrize("name", CROWDED)
def test_no_label_lies_on_a_mark_a_frame_or_another_label(
    name: str, kept: list[Figure], tmp_path: Path
) -> None:
    CROWDED[name](False, tmp_path)
    figure = kept[0]
    figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    labels = [text for axes in drawn for text in axes.texts if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in labels]
    assert any("+" in words or "-" in words for words, _ in boxes), "nothing lies beyond the axis"
    crowd = [
        (a, b) for i, (a, one) in enumerate(boxes) for b, two in boxes[:i] if one.overlaps(two)
    ]
    assert not crowd, "one label on another"
    for axes in drawn:
        frame = axes.get_window_extent()
        lines = [line for line in axes.lines if line.get_marker() not in ("None", "", None)]
        places = [
            np.c_[line.get_transform().transform(np.column_stack(line.get_data())),
                  np.full(len(line.get_xdata()), line.get_markersize() * figure.dpi / 144)]
            for line in lines
        ]  # fmt: skip
        x, y, half = np.concatenate(places).T
        seen = (x >= frame.x0 - 1) & (x <= frame.x1 + 1) & (y >= frame.y0) & (y <= frame.y1)
        for words, box in boxes:
            hit = seen & (x > box.x0 - half) & (x < box.x1 + half)
            hit &= (y > box.y0 - half) & (y < box.y1 + half)
            assert not hit.any(), f"{words!r} lies on a mark"
            inside = frame.x0 < box.x0 < box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1
            assert inside or not box.overlaps(frame), f"{words!r} lies on a frame"
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for _, box in boxes), "a label is cut"


def test_a_label_says_how_far_the_arrows_of_its_row_reach(
    kept: list[Figure], tmp_path: Path
) -> None:
    drawn = pd.read_csv(fig_topn([grid(False), wild(1)], tmp_path).csv)
    panel = kept[0].axes[1]
    low, high = panel.get_xlim()
    mine = drawn[drawn["source"].str.contains("mini")]
    for y, contrast in enumerate(dict.fromkeys(mine["contrast"])):
        said = [t.get_text() for t in panel.texts if t.get_gid() == f"row {y}"]
        lines = " ".join(said).count("failed fit")
        failed = mine[(mine["contrast"] == contrast) & (mine["mark"] == "failed fit")]["difference"]
        below, above = failed[failed < low], failed[failed > high]
        assert lines == (len(below) > 0) + (len(above) > 0)
        if len(above) > 1:
            assert f"{len(above)} failed fits to {above.max():+.2f}" in said[0]


def test_the_finding_has_the_direction_of_the_numbers(kept: list[Figure], tmp_path: Path) -> None:
    said = [fig_scale([grid(flipped)], tmp_path).caption.finding for flipped in (False, True)]
    assert "large scores 0.054 higher (5 of 5 tasks) than small" in said[0]
    assert "large scores 0.054 lower (5 of 5 tasks) than small" in said[1]


def test_captions_and_numbers_are_those_of_the_figures() -> None:
    assert set(CAPTIONS) == set(CHAPTER_OF_FIGURE)
    assert figure_number("fig-baselines") == "4.1"
    numbers = [figure_number(name) for name in CHAPTER_OF_FIGURE]
    assert len(set(numbers)) == len(numbers)


def test_blue_and_orange_are_left_to_latents_and_hidden_states() -> None:
    kept = {SERIES_STYLE[name][0] for name in SERIES_STYLE if name.startswith(("SAE l", "hidden"))}
    assert len(kept) == 3, "SAE latents, last token, mean"
    assert not kept & {colour for colour, _, _ in CYCLE}
    others = [look[0] for name, look in SERIES_STYLE.items() if not name.startswith(("SAE", "hid"))]
    assert not kept & set(others)
