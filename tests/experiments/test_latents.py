"""Looking inside a probe: strongest latents, known causes, escaped highlights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from probed import evaluate
from scipy import sparse

from mosaic.data.splits import make_split
from mosaic.errors import ConfigError
from mosaic.experiments.latent_browser import (
    browse_latents,
    cut_at_activations,
    promoted_tokens,
)
from mosaic.experiments.latents import (
    FAINT,
    Reading,
    TokenActivations,
    closest_annotations,
    deciding_latents,
    strongest_documents,
    token_activations,
    top_latents,
    top_share,
)
from mosaic.extraction.extract import extract
from mosaic.probes.select import Candidate, fit_select
from mosaic.scores.intervals import bootstrap_interval
from mosaic.scores.latent_view import MOST_CHARACTERS, TEXTS_SHOWN, LatentView


def planted(n: int = 200, d: int = 40) -> tuple[sparse.csr_array, np.ndarray]:
    """Sparse features where latent 7 speaks for class 1 and latent 3 against it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    X = (rng.random((n, d)) < 0.1).astype(np.float32)
    X[:, 7] = y * (rng.random(n) < 0.9)
    X[:, 3] = (1 - y) * (rng.random(n) < 0.9)
    return sparse.csr_array(X), y


def test_the_planted_latents_come_first_with_their_class() -> None:
    X, y = planted()
    probe = fit_select(Candidate(X), y, seed=0, n_jobs=1)
    top = top_latents(probe, X, y, k=5)
    assert set(top["latent"][:2]) == {3, 7}
    by_latent = top.set_index("latent")
    assert by_latent.loc[7, "class"] == 1
    assert by_latent.loc[3, "class"] == 0
    assert by_latent.loc[7, "weight"] > 0 > by_latent.loc[3, "weight"]
    assert (top["effect"].abs().diff().dropna() <= 0).all()
    for latent in (3, 7):
        assert by_latent.loc[latent, "active_in_class"] > 0.8
        assert by_latent.loc[latent, "active_elsewhere"] == 0


def test_three_classes_have_latents_of_their_own() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(150) % 3
    X = np.eye(3, dtype=np.float32)[y] * (rng.random((150, 1)) < 0.95)
    probe = fit_select(Candidate(sparse.csr_array(X)), y, seed=0, n_jobs=1)
    top = top_latents(probe, sparse.csr_array(X), y, k=9)
    positive = top[top["weight"] > 0].drop_duplicates("latent")
    assert dict(zip(positive["latent"], positive["class"], strict=True)) == {0: 0, 1: 1, 2: 2}


def test_a_tree_has_no_weights_to_show() -> None:
    X, y = planted()
    probe = fit_select(Candidate(X), y, seed=0, probe="tree", n_jobs=1)
    with pytest.raises(ConfigError, match="no weights per latent"):
        top_latents(probe, X, y)


def test_closest_annotation_is_the_one_that_fires_together() -> None:
    X, y = planted()
    data = tiny.task_data(["text"] * len(y))
    data.annotations.update(
        negation=y.astype(bool), noise=np.arange(len(y)) % 2, name=np.arange(len(y))
    )
    found = closest_annotations(data, X, [7]).iloc[0]
    assert found["closest_annotation"] in ("negation = True", "negation = False")
    assert abs(found["agreement"]) > 0.8
    data.annotations.pop("negation")
    faint = closest_annotations(data, X, [7]).iloc[0]
    assert abs(faint["agreement"]) < FAINT
    assert faint["closest_annotation"] is None, "chance agreement names nothing"
    data.annotations.clear()
    assert closest_annotations(data, X, [7]).empty


def test_a_latent_of_several_classes_has_a_row_for_each_and_one_annotation() -> None:
    """Three classes, two latents: each latent speaks for some classes and against others."""
    rng = np.random.default_rng(1)
    y = np.arange(150) % 3
    X = sparse.csr_array(np.eye(3, dtype=np.float32)[y] * (rng.random((150, 1)) < 0.95))
    data = replace(tiny.task_data([f"text {i}" for i in y.cumsum() + np.arange(150)]), labels=y)
    data.annotations["kind"] = y
    split = make_split(data, 0)
    outcome = evaluate(X, y, split, n_jobs=1)
    span = bootstrap_interval(outcome)
    reading = Reading(data, X, X, outcome, span, pd.DataFrame())
    top = top_latents(outcome.probe, X, y, k=9)
    assert top["latent"].duplicated().any()
    joined = deciding_latents(reading, k=9)
    pd.testing.assert_frame_equal(joined[top.columns], top)
    assert joined.groupby("latent")["closest_annotation"].nunique().tolist() == [1, 1, 1]
    assert closest_annotations(data, X, [1, 0])["latent"].tolist() == [1, 0]
    data.annotations.clear()
    assert deciding_latents(reading, k=9)["closest_annotation"].isna().all()
    assert len(deciding_latents(reading, k=9)) == len(top)


def test_share_of_the_strongest_latents() -> None:
    X, y = planted()
    probe = fit_select(Candidate(X), y, seed=0, n_jobs=1)
    shares = [top_share(probe, X, y, k) for k in (1, 2, X.shape[1])]
    effects = top_latents(probe, X, y, k=X.shape[1])["effect"].abs()
    assert shares[1] == pytest.approx(effects[:2].sum() / effects.sum())
    assert shares[0] < shares[1] < shares[2] == pytest.approx(1)


def test_pieces_are_slices_of_the_text_and_bytes_of_a_character_are_one() -> None:
    text = "How can 👩 <b>?"
    spans = np.array([[0, 3], [3, 7], [7, 9], [8, 9], [8, 9], [9, 13], [13, 14]])
    values = sparse.csr_array(np.array([[0, 2, 1, 3, 0, 0, 4]], dtype=float).T)
    document = TokenActivations(text, spans, values)
    assert document.tokens == ["How", " can", " 👩", "👩", "👩", " <b>", "?"]
    pieces = cut_at_activations(document, 0)
    assert "".join(piece for piece, _ in pieces) == text
    assert pieces == [("How", 0), (" can", 2), (" 👩", 3), (" <b>", 0), ("?", 4)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tokens_are_where_the_text_has_them(tmp_path, family: str) -> None:
    """In scripts without spaces, in bytes, and where a text is cut."""
    spec = tiny.model_spec(tmp_path, family)
    texts = [*tiny.TEXTS, "two  spaces,\nand 👩‍👧", "long " * 40]
    profile = tiny.profile(spec)
    for text, document in zip(texts, token_activations(spec, texts, 0, "96", profile), strict=True):
        assert document.text == text
        assert document.values.shape[0] == len(document.spans)
        covered = {i for start, end in document.spans.tolist() for i in range(start, end)}
        shown = "".join(c for i, c in enumerate(text) if i in covered)
        assert text.startswith(shown)
        assert shown == text or len(document.spans) > profile.max_length - 3
        for latent in range(0, 96, 16):
            assert "".join(p for p, _ in cut_at_activations(document, latent)) == text


def test_a_tokenizer_without_places_is_refused(tmp_path, monkeypatch) -> None:
    from transformers import PreTrainedTokenizerFast

    spec = tiny.model_spec(tmp_path)
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        token_activations(spec, ["a"], 0, "96", tiny.profile(spec))


def planted_reading(spec, texts: list[str]) -> Reading:
    """A probe on real features of a tiny model, without a split of its own."""
    data = tiny.task_data(texts)
    features = extract(spec, data, tiny.profile(spec), store=spec.source + "-store")
    raw = features.matrix(0, "96", "sum")
    split = make_split(data, 0)
    outcome = evaluate(raw, data.labels, split, n_jobs=1)
    return Reading(data, raw, raw, outcome, bootstrap_interval(outcome), pd.DataFrame())


def test_a_view_shows_strongest_and_random_texts_with_their_sums(tmp_path) -> None:
    spec = tiny.model_spec(tmp_path)
    texts = [f"text number {i} of many {'and more ' * (i % 5)}" for i in range(60)]
    texts += ["very long " * 80 for _ in range(2)]
    reading = planted_reading(spec, texts)
    top = deciding_latents(reading, k=4).assign(page=None, explanation=None)
    view = browse_latents(reading, top, spec, 0, "96", tiny.profile(spec))
    assert [latent.latent for latent in view.latents] == list(top["latent"].unique())
    for latent in view.latents:
        sums = reading.raw[:, [latent.latent]].toarray().ravel()
        active = int((sums > 0).sum())
        assert [t.value for t in latent.strongest] == pytest.approx(
            np.sort(sums)[::-1][: len(latent.strongest)], rel=1e-3
        )
        assert sum(latent.inside) + sum(latent.elsewhere) == active
        assert len(latent.random) == min(TEXTS_SHOWN, active - len(latent.strongest))
        assert all(0 < t.value <= latent.strongest[-1].value for t in latent.random)
        for text in (*latent.strongest, *latent.random):
            assert sum(len(piece) for piece, _ in text.pieces) <= MOST_CHARACTERS + 2
            assert any(value > 0 for _, value in text.pieces)
    again = LatentView.model_validate_json(view.save(tmp_path).read_bytes())
    assert again == view


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_promoted_tokens_are_those_whose_logits_rise_most(tmp_path, family: str) -> None:
    """By hand: the direction, the final norm's weight, the head. A masked model has no such way."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = tiny.model_spec(tmp_path, family)
    if family != "bert":
        model = AutoModelForCausalLM.from_pretrained(spec.source)
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "ln_f.weight", "ln_f.bias")):
                torch.nn.init.uniform_(weight, 0.1, 3)  # a norm that changes the order
        model.save_pretrained(spec.source)
    promoted = promoted_tokens(spec, spec.sae(0, "96"), [5, 80], tiny.profile(spec), k=3)
    if family == "bert":
        assert promoted == {}
        return
    decode = AutoTokenizer.from_pretrained(spec.source).decode
    rows = load_file(f"{spec.saes[0].folder}/sae_weights.safetensors")["W_dec"]
    weights = dict(model.named_parameters())
    [name] = [n for n in weights if n.endswith((".norm.weight", ".ln_f.weight"))]
    scale = weights[name] + (1 if family == "gemma2" else 0)  # Gemma keeps it around zero
    for latent in (5, 80):
        direction = rows[latent] - (rows[latent].mean() if family == "gpt2" else 0)
        logits = model.get_output_embeddings().weight @ (scale * direction)
        expected = [decode([int(i)]) for i in logits.topk(3).indices]
        assert promoted[latent] == expected


def test_token_activations_sum_to_the_stored_features(tmp_path) -> None:
    spec = tiny.model_spec(tmp_path)
    layer, width = spec.saes[0].layer, spec.saes[0].width
    data = tiny.task_data(["one small text", "another"])
    profile = tiny.profile(spec)
    stored = extract(spec, data, profile, store=tmp_path / "store").matrix(layer, width, "sum")
    read = token_activations(spec, data.inputs, layer, width, profile)
    for row, document in enumerate(read):
        assert len(document.tokens) == document.values.shape[0]
        summed = np.asarray(document.values.sum(axis=0)).ravel()
        np.testing.assert_allclose(summed, stored[[row]].toarray().ravel(), rtol=1e-4, atol=1e-5)


def test_strongest_documents_leave_out_silent_ones() -> None:
    X = sparse.csr_array(np.array([[0.0], [3.0], [1.0]]))
    assert strongest_documents(X, 0).tolist() == [1, 2]
