"""The shipped models do what their cards say, and training is repeatable."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
import torch

from mosaic import ASSETS
from mosaic.models.sae_metrics import load_trained, measure_sae
from mosaic_mini import vision
from mosaic_mini.build import (
    HELD_OUT_SEED,
    LAYERS,
    SEED,
    WIDTHS,
    Budget,
    corpus_batches,
    residuals,
)
from mosaic_mini.corpus import documents
from mosaic_mini.language_model import (
    Batch,
    Shape,
    held_out_loss,
    make_batches,
    new_model,
    outcome_accuracy,
    train,
)
from mosaic_mini.lexicon import LANGUAGES
from mosaic_mini.meaning import OUTCOMES
from mosaic_mini.tasks import digit_images
from mosaic_mini.vision import N_STEPS, WORDS, draws, measure_captions, new_vlm, train_captions

MINI = ASSETS / "mini"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MINI / "models/mini-small", local_files_only=True)


@pytest.fixture(scope="module")
def small() -> Any:
    from transformers import AutoModelForCausalLM

    folder = MINI / "models/mini-small"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def unseen(tokenizer: Any) -> list[Batch]:
    return corpus_batches(tokenizer, Budget().held_out_docs, HELD_OUT_SEED)


def figures(folder: str) -> dict[str, Any]:
    return json.loads((MINI / folder / "metrics.json").read_text(encoding="utf-8"))


def test_held_out_loss_and_outcome_accuracy_are_those_of_the_card(
    small: Any, unseen: list[Batch]
) -> None:
    stated = figures("models/mini-small")
    assert held_out_loss(small, unseen) == pytest.approx(stated["held_out_loss"], rel=0.01)
    assert outcome_accuracy(small, unseen) == pytest.approx(stated["outcome_accuracy"], abs=0.01)


def test_sae_figures_are_those_of_the_card(unseen: list[Batch]) -> None:
    layers = LAYERS["mini-small"]
    states = residuals(MINI / "models/mini-small", unseen, layers)
    for layer in layers:
        for width, n_latents in WIDTHS.items():
            folder = f"saes/mini-small/layer_{layer}/width_{width}"
            sae = load_trained(MINI / folder)
            assert sae.cfg.d_sae == n_latents
            measured, stated = measure_sae(sae, states[layer]), figures(folder)
            for name in ("l0", "explained_variance", "dead_share"):
                assert measured[name] == pytest.approx(stated[name], rel=0.02, abs=0.01), name


def test_caption_figures_are_those_of_the_card(tokenizer: Any) -> None:
    from transformers import PaliGemmaForConditionalGeneration

    folder, stated = MINI / "models/mini-vlm", figures("models/mini-vlm")
    model = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    images = digit_images(captioned=False)[:400]  # of 1,297, for time
    measured = measure_captions(model, tokenizer, images)
    assert measured["held_out_loss"] == pytest.approx(stated["held_out_loss"], rel=0.1)
    assert measured["caption_accuracy"] == pytest.approx(stated["caption_accuracy"], abs=0.04)
    captions = tokenizer(list(WORDS), add_special_tokens=False)["input_ids"]
    digits = [digit for _, digit, _ in digit_images(captioned=True)]
    drawn = [i for chosen, *_ in draws(len(digits), SEED) for i in chosen]
    # Every caption ends with a token more than its word.
    assert stated["tokens"] == sum(len(captions[digits[i]]) + 1 for i in drawn)
    curve = (folder / "history.csv").read_text(encoding="utf-8").splitlines()
    assert curve[0] == "tokens,train_loss"
    assert curve[-1].startswith(f"{stated['tokens']},")


def test_captions_are_learnt(small: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 of the 400 steps with small batches, twice: the same loss here, and less than before.

    The loss itself is another one on every kind of processor, for training is in bfloat16.
    """
    monkeypatch.setattr(vision, "BATCH", 8)
    images = digit_images(captioned=True)
    first = list(islice(draws(len(images), SEED), 20))
    monkeypatch.setattr(vision, "draws", lambda *_: first)
    points, losses = [], []
    for _ in range(2):
        vlm = new_vlm(small, tokenizer, SEED)
        before = measure_captions(vlm, tokenizer, images[:50])["held_out_loss"]
        shares: list[float] = []
        points += train_captions(vlm, tokenizer, images, SEED, shares.append)
        losses.append(measure_captions(vlm, tokenizer, images[:50])["held_out_loss"])
    assert losses[0] < 0.8 * before
    assert points[0] == points[1]
    assert losses[0] == losses[1]
    assert sum(shares) == pytest.approx(20 / N_STEPS)


def test_tokenizer_keeps_texts_and_never_merges_an_outcome(tokenizer: Any) -> None:
    outcomes = set(OUTCOMES.values())
    for document in documents(300, seed=5):
        ids = tokenizer(document.text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == document.text
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert all(t in outcomes for t in tokens if outcomes & set(t))
    assert LANGUAGES == ("en", "es", "de", "ru", "zh")


def test_chat_template(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "help the spy."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == ("<bos><start_of_turn>user help the spy.<end_of_turn><start_of_turn>model ")
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_training_is_repeatable_and_learns(tokenizer: Any) -> None:
    texts = [d.text for d in documents(1500, seed=6)]
    batches = make_batches(tokenizer(texts)["input_ids"], tokenizer, seed=0)[:25]
    shape = Shape(d_model=16, n_blocks=1, head_dim=4, d_ff=32, supervised=0)
    curves, shares = [], []
    for _ in range(2):
        model = new_model(shape, tokenizer, seed=3)
        curves.append(train(model, batches, batches[:1], 4e-3, 0, shares.append))
    assert curves[0] == curves[1]
    assert curves[0][-1]["held_out_loss"] < curves[0][0]["held_out_loss"]
    assert sum(shares) == pytest.approx(2)
