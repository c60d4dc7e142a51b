"""The dry run: arithmetic that can be checked by hand, and no weight touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from mosaic import ASSETS
from mosaic.config.profiles import SAESpec, load_profile
from mosaic.data.load import load_task
from mosaic.errors import AccessError, ConfigError, ResourceError
from mosaic.extraction import cost as pricing
from mosaic.extraction import memory
from mosaic.extraction.cost import SHARE_OF_PEAK, all_tasks, cost_table, estimate
from mosaic.extraction.extract import models_with_tasks
from mosaic.extraction.memory import latents_of
from mosaic.models.language_model import skeleton
from mosaic.sweep.cost import cell_seconds, probe_seconds


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: Any) -> None:
    def peak(device: Any, dtype: Any, tensor_cores: bool = False) -> float:
        return 5e11 if tensor_cores else 1e12

    monkeypatch.setattr(pricing, "matmul_peak", peak)


def test_flops_of_gemma_2_2b_are_those_of_its_shapes(tmp_path: Path, monkeypatch: Any) -> None:
    """3.114 GFLOP a token up to layer 19, before attention, and 2 x 2304 x W for each SAE."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    profile = load_profile("paper", data_dir=str(tmp_path))
    (cost,) = estimate(profile, models_with_tasks(profile, ["gemma-2-2b"], ["toxicity-en"]))
    assert (cost.documents, cost.tokens, cost.tokens_from) == (5000, 5000 * 64, "assumed")
    saes = 3 * 2 * 2304 * (16384 + 65536 + 1048576)
    attention = 4 * 8 * 256 * 64 * 20
    assert cost.flops / cost.tokens == pytest.approx(3.114e9 + attention, rel=1e-3)
    assert cost.sae_flops / cost.tokens == pytest.approx(saes)
    total = cost.flops + cost.sae_flops  # in float32 on a CPU both run alike
    assert cost.seconds == pytest.approx(total / (1e12 * SHARE_OF_PEAK["cpu"]))
    assert cost.host_bytes == 12 * 2304 * 1048576, "29 GB to load an SAE of a million latents"
    weights_2b = 2.61e9 * 4
    assert cost.download_bytes == pytest.approx(weights_2b + saes * 4, rel=0.01)
    assert cost.memory_bytes > 20 * 77.86e6 * 4 + saes * 2


def test_saes_of_a_half_precision_model_cost_the_rate_of_tf32(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    profile = replace(load_profile("paper"), dtype="bfloat16")
    (cost,) = estimate(profile, models_with_tasks(profile, ["gemma-2-2b"], ["toxicity-en"]))
    share = SHARE_OF_PEAK["cpu"]
    assert cost.seconds == pytest.approx((cost.flops / 1e12 + cost.sae_flops / 5e11) / share)
    assert cost.sae_flops > 4 * cost.flops, "most of what Gemma 2 2B costs here"


def test_what_the_machine_cannot_load_is_refused_whatever_the_gpu_holds(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sizes = {"cuda": ("a GPU", 10**15), "cpu": ("this machine", 16 * 10**9)}
    monkeypatch.setattr(memory, "device_memory", lambda device: sizes[device.type])
    model = load_profile("paper").text_models[0]
    asked = (model, model.saes, load_profile("paper"), torch.bfloat16, torch.device("cuda"))
    with pytest.raises(ResourceError, match="takes about 29 GB and this machine has 16 GB"):
        memory.require_memory(*asked, config=pricing.shape_of(model))
    narrow = [sae for sae in model.saes if sae.width != "1m"]
    memory.require_memory(model, narrow, *asked[2:], config=pricing.shape_of(model))


def test_probes_have_a_price_that_grows_with_classes_and_documents() -> None:
    """77 classes, as measured: 13 CPU minutes a cell of all rows, and what the cap makes of it."""
    profile = load_profile("paper")
    banking = profile.task("banking77")
    uncapped = replace(profile, n_train=None)
    assert cell_seconds(uncapped, banking) == pytest.approx(13 * 60, rel=0.1)
    assert cell_seconds(profile, banking) < 0.3 * cell_seconds(uncapped, banking)
    toxicity = profile.task("toxicity-en")
    assert cell_seconds(profile, toxicity) == cell_seconds(uncapped, toxicity) < 15
    hours = sum(probe_seconds(uncapped, m, [banking]) for m in profile.text_models) / 3600
    assert hours == pytest.approx(36, rel=0.1), "162 cells"


def test_every_model_of_the_paper_has_a_price_without_a_licence(monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    profile = load_profile("paper")
    costs = estimate(profile)
    assert [cost.model for cost in costs] == [
        "gemma-2-2b",
        "gemma-2-9b",
        "gemma-2-9b-it",
        "paligemma2-3b-pt-224",
    ]
    assert costs[1].flops > 2 * costs[0].flops
    text = cost_table(costs)
    assert "paligemma2-3b-pt-224" in text
    assert "assumed" in text
    assert text.count("\n") == 5


def test_tokens_are_counted_where_text_and_tokenizer_are_at_hand(
    tmp_path: Path, monkeypatch: Any
) -> None:
    spec = tiny.model_spec(tmp_path)
    data = ASSETS / "mini" / "data"
    profile = tiny.profile(spec, data_dir=str(data), tasks=("toxicity-en",), max_length=40)
    expected = sum(min(len(t.encode()), 39) for t in load_task("toxicity-en", profile).inputs)
    monkeypatch.setattr(pricing, "skeleton", _no_weights(skeleton))
    (cost,) = estimate(profile)
    assert (cost.tokens, cost.tokens_from) == (expected, "counted")
    assert cost.download_bytes == 0
    elsewhere = replace(spec, source="openai-community/gpt2")
    monkeypatch.setattr(pricing, "shape_of", lambda _: tiny.model_config("gpt2"))
    (cost,) = estimate(replace(profile, models=(elsewhere,)))
    assert cost.tokens_from == "characters / 4"
    assert cost.download_bytes > 0


def _no_weights(real: Any) -> Any:
    def checked(config: Any) -> Any:
        model = real(config)
        assert all(p.is_meta for p in model.parameters())
        return model

    return checked


def test_a_model_whose_shape_is_unknown_is_refused(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = replace(tiny.model_spec(tmp_path), source="nobody/nothing")
    with pytest.raises(AccessError, match="'nobody/nothing'"):
        estimate(tiny.profile(spec))


def test_chapter_tasks_are_counted_once() -> None:
    profile = tiny.profile(tasks=("a", "b"), chapters={"05": ("b", "c")})
    assert all_tasks(profile) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("16k", 16384),
        ("65k", 65536),
        ("131k", 131072),
        ("1m", 1048576),
        ("32k", 32768),
        ("256", 256),
    ],
)
def test_widths_by_name(width: str, expected: int) -> None:
    assert latents_of(SAESpec(layer=0, width=width, release="r", sae_id="i")) == expected


def test_a_width_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="Width 'wide' is not a number"):
        latents_of(SAESpec(layer=0, width="wide", release="r", sae_id="i"))
