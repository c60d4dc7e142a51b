"""What slips of the authors' code change: each number beside a small computation of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from documents import latents, task_data
from scipy.sparse import csr_array

from mosaic.config.profiles import load_profile
from mosaic.config.workspace import Workspace
from mosaic.data.splits import make_split
from mosaic.experiments import stand_ins
from mosaic.probes import authors
from mosaic.probes.authors import fit_authors_linear
from mosaic.scores.intervals import macro_f1
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(load_profile("mini"), tmp_path, "mini")


def test_a_moved_sae_keeps_its_weights_and_changes_its_place(workspace: Workspace) -> None:
    model = workspace.profile.text_models[0]
    off = stand_ins.moved(model, -1)
    layer = model.layers["middle"]
    assert off.layers == {"middle": layer - 1}
    [sae] = off.saes
    assert replace(sae, layer=layer, moved=False) == model.sae(layer, model.narrowest(layer))
    assert (off.source, off.name != model.name) == (model.source, True)


def test_off_by_one_is_a_paired_difference(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, right = np.arange(40) % 2, {"": 40, "-1": 30, "1": 20}

    def score(cells: list[Cell], _: Workspace) -> list[ScoredCell]:
        found = []
        for cell in cells:
            name = cell.model.partition("moved by ")[2]
            said = np.where(np.arange(40) < right[name], truth, 1 - truth)
            ids, empty = np.arange(40), np.empty((40, 0))
            found.append(ScoredCell(cell, {}, ids, truth, said, empty, None))
        return found

    monkeypatch.setattr(stand_ins, "score_cells", score)
    found = stand_ins.off_by_one(workspace, ["toxicity-en", "safety-en"], [0, 1])
    assert found == pytest.approx({"before": -0.25, "after": -0.5})


def opened(X: Any, y: np.ndarray, n_tokens: int) -> Any:
    data = task_data(y)
    return SimpleNamespace(
        data=data,
        matrix=lambda cell: X,
        split=lambda seed, protocol: make_split(data, seed, protocol),
        n_tokens=np.full(len(y), n_tokens),
    )


def test_the_best_epoch_is_compared_with_the_last(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = latents(200, 300)
    monkeypatch.setattr(authors, "MAX_EPOCHS", 60)
    monkeypatch.setattr(stand_ins, "open_source", lambda *_: opened(X, y, 1))
    split = make_split(task_data(y), 0, "published")
    best = fit_authors_linear(X[split.train], y[split.train], 0, restore=True)
    score = macro_f1(y[split.test], best.predict(X[split.test]))
    last = {"row": {"macro_f1": 0.25}}

    def scored(cells: list[Cell], _: Workspace) -> list[Any]:
        return [SimpleNamespace(cell=cell, **last) for cell in cells]

    monkeypatch.setattr(stand_ins, "score_cells", scored)
    assert stand_ins.best_epoch(workspace, ["toxicity-en"]) == pytest.approx(score - 0.25)


def test_picks_that_are_not_active_are_counted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten documents of three tokens with two active latents each: of n = 5, three are not."""
    picked = csr_array(np.full((10, 2), 3.0))
    monkeypatch.setattr(stand_ins, "open_source", lambda *_: opened(picked, np.arange(10) % 2, 3))
    few = replace(workspace, profile=replace(workspace.profile, top_n=(2, 5)))
    assert stand_ins.zeros_among_top_n(few, ["a", "b"]) == pytest.approx({2: 0.0, 5: 0.6})


def test_answers_are_compared_question_by_question(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"plain": [1, 1, 0, 0], "published": [1, 0, 1, 0]}

    def sets(*_: Any, scoring: str) -> dict[str, Any]:
        return {"questions": SimpleNamespace(labels=np.array(labels[scoring]))}

    monkeypatch.setattr(stand_ins, "label_sets", sets)
    said = stand_ins.changed_answers(workspace, 4)
    assert said.startswith("0.500 of 4 answers are right")
    assert said.endswith("0.500 when asked the authors' way, and 50% of the labels differ")
    alone = replace(workspace.profile, models=workspace.profile.models[:1], chapters={})
    assert stand_ins.changed_answers(replace(workspace, profile=alone), 4) == "no model is asked"
