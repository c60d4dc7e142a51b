"""A probe that is fitted, saved, moved and applied; and what it refuses to be applied to."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy import sparse

from mosaic.cli import main
from mosaic.cli.predictions import prediction_lines, printable
from mosaic.config.profiles import load_profile
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.load import load_task
from mosaic.errors import ConfigError, IntegrityError
from mosaic.experiments.latent_browser import browse_latents, read_reasons
from mosaic.experiments.latents import contributions
from mosaic.experiments.own_data import Prediction, controls_report, fit_probe, predict
from mosaic.extraction import forward
from mosaic.extraction.extract import extract
from mosaic.extraction.features import Features
from mosaic.models import language_model, saes
from mosaic.models.readers import text_reader
from mosaic.models.resolve import resolve
from mosaic.probes.saved import load_probe
from mosaic.probes.select import Candidate, fit_select
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells

NEW = ["31: you are so fool", "30: you are so kind", "thank you"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, model, SAE, their YAML file and a probe fitted on them."""
    folder = tmp_path_factory.mktemp("own")
    tiny.write_model(folder / "model", "gemma2")
    for layer in (0, 2):
        tiny.write_sae(folder / f"sae_{layer}", seed=layer)
    rng = np.random.default_rng(0)
    words = [rng.choice(["pest", "fool"] if i % 2 else ["lovely", "kind"]) for i in range(60)]
    rows = [f"{i}: you are so {word}" for i, word in enumerate(words)]
    frame = pd.DataFrame({"body": rows, "kind": ["rude" if i % 2 else "nice" for i in range(60)]})
    frame.to_csv(folder / "mine.csv", index=False)
    saes = [{"layer": layer, "width": "96", "folder": f"sae_{layer}"} for layer in (0, 2)]
    model = {"name": "own", "source": "./model", "layers": {"early": 0, "middle": 2}, "saes": saes}
    task = {"name": "mine", "dataset": "./mine.csv", "input_field": "body", "label_field": "kind"}
    profile = {"catalogue": [task], "models": [model], "top_n": [3], "max_length": 64}
    (folder / "mine.yaml").write_text(json.dumps(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic.experiments.own_data.score_cells", partial(score_cells, n_jobs=1))
        command = ["fit", "--profile", str(folder / "mine.yaml"), "--out", str(folder / "probe")]
        assert main([*command, "--build-dir", str(folder / "build")]) == 0
    return folder


def test_controls_say_what_the_sae_adds(
    fitted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.experiments.own_data.score_cells", partial(score_cells, n_jobs=1))
    command = ["fit", "--profile", str(fitted / "mine.yaml"), "--out", str(fitted / "again")]
    assert main([*command, "--build-dir", str(fitted / "build"), "--controls"]) == 0
    said = capsys.readouterr().out.splitlines()
    [head] = [line for line in said if line.startswith("SAE (raw ")]
    kind, number = re.match(
        r"SAE \(raw (\w+), (\S+)\) minus a control on the 12 test", head
    ).groups()
    chosen = json.loads((fitted / "again" / "probe.json").read_text())["score"]
    at, score = said.index(head), float(number)
    assert kind == chosen["pooling"]
    if chosen["threshold"] is None:
        assert score == pytest.approx(chosen["macro_f1"], abs=0.0011)
    for line, name in zip(said[at + 1 :], ("mean hidden state", "random dictionary"), strict=False):
        found = re.fullmatch(rf"  {name} \((\S+)\): (\S+) \(95% interval (\S+) to (\S+)\)", line)
        assert found, line
        other, difference, low, high = map(float, found.groups())
        assert difference == pytest.approx(score - other, abs=0.0011)
        assert low <= difference <= high
    assert said[at + 3].startswith(
        "Layer and pooling were chosen for the SAE, of 8, and not for the"
    )
    assert said[at + 4] == "An interval that holds 0 does not tell the two apart."


def test_controls_binarize_nothing(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold of 1 stands in the SAE's units, and the mean hidden state has none."""
    asked = []

    def score(cells: list[Cell], workspace: Workspace) -> list[ScoredCell]:
        asked.extend(cells)
        return score_cells(cells, workspace, n_jobs=1)

    monkeypatch.setattr("mosaic.experiments.own_data.score_cells", score)
    workspace = open_workspace(str(fitted / "mine.yaml"), str(fitted / "build"))
    saved = load_probe(fitted / "probe")
    row = {**saved.card["score"], "pooling": "sum", "threshold": 1.0, "top_n": None}
    controls_report(workspace, replace(saved, card={**saved.card, "score": row}))
    assert [cell.threshold for cell in asked] == [None] * 3
    assert {cell.pooling for cell in asked} == {"sum", "mean"}


@pytest.fixture
def moved(fitted: Path, tmp_path: Path) -> Path:
    """The same folder at another place."""
    return Path(shutil.copytree(fitted, tmp_path / "a place", ignore=lambda *_: ["build"]))


def test_the_card_says_what_the_probe_is(fitted: Path) -> None:
    card = json.loads((fitted / "probe" / "probe.json").read_text())
    assert card["classes"] == ["nice", "rude"]
    assert card["chosen_from"] == 8
    assert card["score"]["macro_f1"] > 0.9
    assert card["score"]["n_train"] + card["score"]["n_test"] == 60
    assert card["score"]["macro_f1_low"] <= card["score"]["macro_f1"]
    assert card["profile"] == "../mine.yaml"
    assert set(card["identity"]["model"]["weights"]) == {"config.json", "model.safetensors"}
    assert card["versions"]["sae-lens"][0].isdigit()
    assert {p.name for p in (fitted / "probe").iterdir()} == {"probe.json", "probe.safetensors"}


def test_the_choice_is_that_of_inner_cross_validation(fitted: Path) -> None:
    workspace = open_workspace(str(fitted / "mine.yaml"), str(fitted / "build"))
    saved = load_probe(fitted / "probe")
    again = fit_probe(workspace)  # from the scored cells on disk
    assert again.card["score"] == saved.card["score"]
    np.testing.assert_array_equal(again.probe.coef, saved.probe.coef)
    best = max(
        json.loads(path.read_text())["row"]["cv_accuracy"]
        for path in (fitted / "build" / "cache" / "cells").rglob("*.json")
    )
    assert saved.card["score"]["cv_accuracy"] == best


def test_a_fit_from_scored_cells_builds_one_matrix(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    real = Features.matrix
    monkeypatch.setattr(Features, "matrix", lambda *a: built.append(a[1:]) or real(*a))
    fit_probe(open_workspace(str(fitted / "mine.yaml"), str(fitted / "build")))
    assert [pooling for _, _, pooling, *_ in built] == ["count", "count", "sum"]  # L0 of each SAE


@pytest.mark.parametrize("explain", [0, 2])
def test_predict_loads_model_and_sae_once_and_reads_each_text_once(
    moved: Path, monkeypatch: pytest.MonkeyPatch, explain: int
) -> None:
    calls: dict[str, int] = {"load_model": 0, "load_sae": 0, "tokens": 0}
    real = {
        "load_model": language_model.load_model,
        "load_sae": saes.load_sae,
        "encode": forward.encode,
    }

    def encode(sae: object, x: np.ndarray, *limit: int) -> object:
        calls["tokens"] += len(x)
        return real["encode"](sae, x, *limit)

    def counted(name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls[name] += 1
            return real[name](*arguments)

        return call

    monkeypatch.setattr("mosaic.extraction.jobs.load_model", counted("load_model"))
    monkeypatch.setattr("mosaic.extraction.jobs.load_sae", counted("load_sae"))
    monkeypatch.setattr(forward, "encode", encode)
    found = predict(load_probe(moved / "probe"), NEW, explain=explain)
    assert [len(p.evidence) > 0 for p in found] == [explain > 0] * 3
    assert (calls["load_model"], calls["load_sae"]) == (1, 1)
    profile = load_profile(str(moved / "mine.yaml"))
    reader = text_reader(resolve(profile.models[0], profile), profile)
    assert calls["tokens"] == reader.read(NEW).n_tokens.sum()


def test_an_empty_text_has_an_answer_and_no_evidence(moved: Path) -> None:
    [empty, other] = predict(load_probe(moved / "probe"), ["", NEW[0]])
    assert empty.evidence == ()
    assert other.evidence
    assert sum(empty.probabilities.values()) == pytest.approx(1)


def test_a_moved_probe_says_what_the_fitted_one_said(fitted: Path, moved: Path) -> None:
    profile = load_profile(str(fitted / "mine.yaml"))
    data = load_task("mine", profile)
    saved = load_probe(moved / "probe")
    sae = saved.card["sae"]
    features = extract(profile.models[0], data, profile, store=fitted / "build/cache/features")
    X = features.matrix(sae["layer"], sae["width"], **saved.card["features"])
    found = predict(saved, data.inputs, explain=0)
    shares = np.asarray([list(p.probabilities.values()) for p in found])
    np.testing.assert_allclose(shares, saved.probe.probabilities(X), atol=1e-4)
    assert [p.answer for p in found] == [
        saved.label_names[k] for k in saved.probe.probabilities(X).argmax(axis=1)
    ]


def test_evidence_adds_up_and_its_tokens_are_in_the_text(moved: Path) -> None:
    saved = load_probe(moved / "probe")
    for found in predict(saved, NEW, explain=1000):
        sign = 1 if found.answer == "rude" else -1
        total = sum(e.contribution for e in found.evidence) + sign * saved.probe.intercept[0]
        assert 1 / (1 + np.exp(-total)) == pytest.approx(
            found.probabilities[found.answer], abs=1e-4
        )
        sizes = [abs(e.contribution) for e in found.evidence]
        assert sizes == sorted(sizes, reverse=True)
        assert all(
            e.tokens and set("".join(e.tokens)) <= {*found.text, "␣"} for e in found.evidence
        )


def test_the_latents_of_the_reasons_can_be_looked_into(fitted: Path) -> None:
    """On the texts the probe was made of, with the weights the predictions name."""
    saved = load_probe(fitted / "probe")
    own = open_workspace(str(fitted / "mine.yaml"), str(fitted / "build"))
    found = predict(saved, NEW)
    reading, top = read_reasons(saved, found, own)
    assert reading.interval.value == pytest.approx(saved.card["score"]["macro_f1"])
    layer, width = saved.card["sae"]["layer"], saved.card["sae"]["width"]
    top = top.assign(page=None, explanation=None)
    view = browse_latents(reading, top, own.profile.model("own"), layer, width, own.profile)
    assert view.dataset == "mine.csv", "where it lies is of one machine"
    weights = {latent.latent: abs(latent.weights[0].weight) for latent in view.latents}
    named = {e.latent: abs(e.weight) for p in found for e in p.evidence}
    assert weights == pytest.approx(named, rel=1e-3)
    texts = set(pd.read_csv(fitted / "mine.csv")["body"])
    shown = ["".join(part for part, _ in t.pieces) for x in view.latents for t in x.strongest]
    assert shown
    assert set(shown) <= texts
    assert len(read_reasons(saved, [], own)[1]) > 1, "no reason: what moves the probe most"


def test_evidence_of_three_classes_speaks_for_the_answer() -> None:
    y = np.arange(90) % 3
    X = sparse.csr_array(np.eye(3, dtype=np.float32)[y])
    probe = fit_select(Candidate(X), y, seed=0, n_jobs=1)
    for row in range(3):
        [(latent, weight, value)] = contributions(probe, X[[row]], 5)
        assert latent == y[row]
        assert weight > 0
        assert value == 1


@pytest.mark.parametrize("kind", ["table", "csv", "jsonl"])
def test_answers_can_be_piped(
    moved: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(NEW).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["predict", str(moved / "probe"), "--format", kind, "--explain", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    if kind == "csv":
        table = pd.read_csv(io.StringIO(captured.out))
        assert list(table.columns) == ["text", "answer", "p_nice", "p_rude", "latents"]
        assert table["text"].tolist() == NEW
        assert table["answer"][0] == "rude"
    elif kind == "jsonl":
        rows = [json.loads(line) for line in captured.out.splitlines()]
        assert [row["text"] for row in rows] == NEW
        assert len(rows[0]["latents"]) == 2
    else:
        assert captured.out.splitlines()[0].startswith("rude  ")
        assert captured.out.count(" latent ") == 6


def test_a_text_cannot_steer_the_terminal() -> None:
    hostile = "a\x1b[2J\x1b]0;title\x07b\x9b31m\u202ec\r\nd\x1b]8;;http://x\x1b\\e"
    found = Prediction(hostile, "yes\x1b[31m", {"yes\x1b[31m": 1.0})
    [line] = prediction_lines([found], "table")
    assert line == "yes  1.00  ab c de"
    assert printable("क्‍ष 你好 🙂") == "क्‍ष 你好 🙂"


def test_a_long_text_is_shortened_in_the_table_only() -> None:
    found = Prediction("word " * 100, "yes", {"yes": 1.0})
    assert len(next(prediction_lines([found], "table"))) < 100
    assert "word " * 100 in list(prediction_lines([found], "csv"))[1]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("model/config.json", "weights of the model 'own' .* config.json differ"),
        ("model/tokenizer_config.json", "tokenizer of 'own' .* tokenizer_config.json differ"),
        ("sae_{layer}/cfg.json", "SAE at layer .* cfg.json differ"),
        (
            "probe/probe.json",
            "probe.json is damaged .its checksum.*fit the probe again",
        ),
        ("probe/probe.safetensors", "probe.safetensors is damaged .its checksum does not fit"),
    ],
)
def test_what_changed_is_refused(moved: Path, path: str, says: str) -> None:
    card = json.loads((moved / "probe" / "probe.json").read_text())
    file = moved / path.format(layer=card["sae"]["layer"])
    if file.name == "probe.json":
        file.write_text(file.read_text().replace('"C": ', '"C": 1'))
    elif file.suffix == ".json":
        file.write_text(json.dumps({**json.loads(file.read_text()), "extra": 1}))
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=says):
        predict(load_probe(moved / "probe"), NEW)


def test_other_ways_to_break_a_probe_are_said(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (moved / "probe" / "probe.json").write_text("{")
    assert main(["predict", str(moved / "probe"), str(moved / "mine.csv")]) == 4
    assert "probe.json is damaged" in capsys.readouterr().err
    assert main(["predict", str(moved), str(moved / "mine.csv")]) == 3
    assert "holds no probe.json; name a folder that `mosaic fit` wrote" in capsys.readouterr().err


def test_a_probe_without_its_profile_asks_for_one(moved: Path) -> None:
    (moved / "mine.yaml").rename(moved / "renamed.yaml")
    saved = load_probe(moved / "probe")
    with pytest.raises(ConfigError, match="No profile"):
        predict(saved, NEW)
    assert len(predict(saved, NEW, str(moved / "renamed.yaml"), explain=0)) == 3


def test_a_reader_that_has_enough_gets_no_traceback() -> None:
    code = (
        "import sys, mosaic.cli as c;"
        "f = c.verbs.do_doctor = lambda _: [print('x' * 99) for _ in range(9999)];"
        "f.__doc__ = 'Its help.';"
        "sys.exit(c.main(['doctor']))"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (141, "")
    assert result.stdout == "x" * 99 + "\n"


def test_what_is_read_is_said_before_it_is(
    fitted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.experiments.own_data.score_cells", partial(score_cells, n_jobs=1))
    command = ["fit", "--profile", str(fitted / "mine.yaml"), "--out", str(fitted / "said")]
    assert main([*command, "--build-dir", str(fitted / "build")]) == 0
    said = capsys.readouterr().err
    assert "mine: 60 rows; classes: 'nice' 30, 'rude' 30\n48 texts train and 12 test\n" in said
    for layer in (0, 2):
        found = re.search(
            rf"SAE 96 at the output of block {layer}: \d+\.\d latents a token \(L0\), explained "
            rf"variance (-?\d+\.\d\d); warning: below 0.6, it misses much of these texts\n",
            said,
        )
        assert found, said
        assert float(found[1]) < 0.6, "the SAE is random"
    (fitted / "new.txt").write_text("you are kind\n\nyou are so fool\n")
    assert main(["predict", str(fitted / "said"), str(fitted / "new.txt")]) == 0
    assert "1 of 3 texts are blank" in capsys.readouterr().err


def test_a_place_that_is_a_file_is_said_before_the_work(
    fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--profile", str(fitted / "mine.yaml"), "--out", str(fitted / "mine.csv")]
    assert main(command) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_a_csv_of_answers_reads_back_with_carriage_returns() -> None:
    texts = ["one\rtwo", 'say "no"', "three\r\nfour\n"]
    found = [Prediction(text, "a", {"a": 0.75, "b": 0.25}) for text in texts]
    read = pd.read_csv(io.StringIO("\n".join(prediction_lines(found, "csv")) + "\n", newline=""))
    assert read["text"].tolist() == texts
    assert read["p_a"].tolist() == [0.75] * 3
