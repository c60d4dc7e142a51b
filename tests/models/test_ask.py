"""Asking: only logits that count, in tiles; what cannot be trusted or held is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from mosaic.config.profiles import ModelSpec
from mosaic.errors import IntegrityError, ResourceError
from mosaic.models import options
from mosaic.models.ask import SCORINGS, Answerer, generate_answers, includes, load_answerer
from mosaic.models.options import score_options
from mosaic.models.resolve import resolve

PROMPTS = ("Where is it?", "a", "Context: a long one with words. Question: who? Answer:", "Why so?")
CHOICES = (("here", "x", "there now"), ("x", "yes"), ("ab", "abc", "much longer"), ("1", "2"))


def answerer(folder: Path, family: str = "gemma2", dtype: str = "float32", **changes: Any) -> Any:
    spec = ModelSpec("m", str(tiny.write_model(folder, family, **changes)), {"early": 0})
    return load_answerer(resolve(spec, tiny.profile(spec, dtype=dtype)))


def plain_loop(model: Answerer, prompt: str, option: str) -> float:
    before = model.prompt_ids(prompt, SCORINGS["plain"])
    after = model.option_ids(option, SCORINGS["plain"])
    with torch.no_grad():
        logp = model.model(torch.tensor([before + after])).logits[0].float().log_softmax(-1)
    return sum(float(logp[len(before) - 1 + i, token]) for i, token in enumerate(after))


@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt2"])
def test_every_family_scores_as_in_a_plain_loop(tmp_path: Path, family: str) -> None:
    """Gemma 2 caps its logits, GPT-2 returns another output and has no rotary positions."""
    model = answerer(tmp_path, family)
    for budget in (16, 4096):
        found = score_options(model, PROMPTS, CHOICES, token_budget=budget)
        for prompt, allowed, values in zip(PROMPTS, CHOICES, found, strict=True):
            expected = [plain_loop(model, prompt, option) for option in allowed]
            np.testing.assert_allclose(values, expected, atol=1e-4, rtol=0)


def test_float16_scores_are_near_those_of_float32(tmp_path: Path) -> None:
    exact = answerer(tmp_path / "a")
    half = answerer(tmp_path / "b", dtype="float16")
    for one, other in zip(
        *(score_options(m, PROMPTS, CHOICES) for m in (exact, half)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.1)


def test_logits_are_made_in_tiles_and_only_where_they_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = answerer(tmp_path)
    expected = score_options(model, PROMPTS, CHOICES)
    made: list[int] = []
    head = model.model.get_output_embeddings()
    head.register_forward_hook(lambda _m, _a, out: made.append(out[..., 0].numel()))
    monkeypatch.setattr(options, "LOGITS", 3 * 300)  # three positions of this vocabulary
    found = score_options(model, PROMPTS, CHOICES)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert max(made) <= 3
    tokens = [len(model.option_ids(o, SCORINGS["plain"])) for c in CHOICES for o in c]
    # One for the first tokens of all options of a prompt, one for every further token.
    assert sum(made) == len(PROMPTS) + sum(n - 1 for n in tokens)


def test_options_share_the_keys_and_values_of_their_prompt(tmp_path: Path) -> None:
    model = answerer(tmp_path, sliding_window=12)
    ids = torch.tensor([[1, 70, 80, 90], [1, 60, 70, 80]])
    with torch.no_grad():
        cache = model.model.base_model(ids, use_cache=True).past_key_values
        before = [(layer.keys, layer.keys.clone()) for layer in cache.layers]
        grown = options._continued(cache, [0, 1], 2)
        assert all(a.keys is b.keys for a, b in zip(grown.layers, cache.layers, strict=True))
        model.model.base_model(ids, past_key_values=grown, use_cache=True)
    assert grown.get_seq_length() == 8
    assert cache.get_seq_length() == 4
    for layer, (same, values) in zip(cache.layers, before, strict=True):
        assert layer.keys is same
        assert torch.equal(layer.keys, values)


def test_numbers_that_are_not_finite_choose_nothing(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    spec = ModelSpec("broken", str(folder), {"early": 0})
    model = load_answerer(resolve(spec, tiny.profile(spec, dtype="float32")))
    with pytest.raises(ResourceError, match="of 'broken' are not finite in torch.float32, .* set"):
        score_options(model, PROMPTS[:1], CHOICES[:1])


def test_asking_goes_on_with_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model = answerer(tmp_path)
    prompts, choices = ["Why so?"] * 12, [("yes", "no")] * 12
    expected = score_options(model, prompts, choices)
    written = generate_answers(model, prompts, max_new_tokens=4)
    real = options._score_batch

    def short_of_memory(model: Any, prompts: Any, *rest: Any) -> Any:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, prompts, *rest)

    monkeypatch.setattr(options, "_score_batch", short_of_memory)
    with caplog.at_level(logging.WARNING):
        found = score_options(model, prompts, choices)
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=1e-5)
    assert len([r for r in caplog.records if "out of memory" in r.message]) == 1
    generate = model.model.generate

    def too_many(input_ids: torch.Tensor, **rest: Any) -> Any:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(input_ids=input_ids, **rest)

    monkeypatch.setattr(model.model, "generate", too_many)
    assert generate_answers(model, prompts, max_new_tokens=4) == written


def test_an_answer_that_was_cut_says_so(tmp_path: Path) -> None:
    model = answerer(tmp_path)
    answers = generate_answers(model, PROMPTS, max_new_tokens=2)
    assert not any(answer.finished for answer in answers)
    model.model.generation_config.eos_token_id = list(range(300))  # any token ends the answer
    assert all(answer.finished for answer in generate_answers(model, PROMPTS, max_new_tokens=2))


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("It is PARIS, of course.", ("rome", "Paris"), True),
        ("In 1912", ("1",), False),
        ("1.5 km", ("1",), False),
        ("1,912 men", ("1",), False),
        ("number 1.", ("1",), True),
        ("1", ("1",), True),
        ("1.5 km", ("1.5",), True),
        ("comparison", ("paris",), False),
        ("the  New\nYork team", ("New York",), True),
        ("It is Paris", ("Paris.",), True),
        ("ＰＡＲＩＳ", ("paris",), True),
        ("Straße 3", ("strasse",), True),
        ("首都是北京。", ("北京",), True),
        ("答えは東京です", ("東京",), True),
        ("第1名", ("1",), True),
        ("파리는 수도이다", ("파리",), True),
        ("เมืองหลวงคือกรุงเทพ", ("กรุงเทพ",), True),
        ("это Москва!", ("москва",), True),
        ("московский", ("москва",), False),
        ("काम", ("क",), False),
        ("anything", ("", "."), False),
    ],
)
def test_an_answer_stands_in_a_text_as_whole_words(
    text: str, answers: tuple[str, ...], found: bool
) -> None:
    assert includes(text, answers) == found


def test_a_folder_without_its_lm_head_is_not_asked(tmp_path: Path) -> None:
    """Llama's head is its own: without it every option would be scored at random."""
    folder = tiny.write_model(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    spec = ModelSpec("m", str(folder), {"early": 0})
    with pytest.raises(IntegrityError, match="lacks lm_head.weight"):
        load_answerer(resolve(spec, tiny.profile(spec)))
