"""Every tensor and every field of a small folder, damaged in turn: nothing goes unnoticed."""

from __future__ import annotations

import importlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from places import ROOT

MODELS, SAES = ("gpt2", "gemma2", "qwen2", "gpt_neox", "bloom"), ("standard", "gated", "topk")


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("damaged_folders")


def test_a_share_of_all_damages_is_noticed(damaged: Any) -> None:
    """`python benchmarks/damaged_folders.py --every` tries them all."""
    counts, bad = damaged.try_every(MODELS, step=13)
    more, worse = damaged.try_every((*SAES, "jumprelu", "matching_pursuit"), step=7)
    outcomes: Counter[str] = Counter()
    for (*_, outcome), n in (counts + more).items():
        outcomes[outcome] += n
    assert not bad + worse
    assert set(outcomes) == {"refused", "same", "warned of", "another model"}
    assert outcomes.total() > 350


def test_the_enumeration_is_whole(damaged: Any, tmp_path: Path) -> None:
    """Every tensor and every field of every JSON file is in it, each in at least three ways."""
    import json

    from safetensors.numpy import load_file

    folder = damaged.write_family(tmp_path / "gpt_neox", "gpt_neox")
    tries = list(damaged.every_damage(folder))
    ways = Counter(
        (one.file, one.part) for one in {(d.file, d.part, d.how): d for d in tries}.values()
    )
    for name in load_file(folder / "model.safetensors"):
        assert ways["model.safetensors", name] >= 5
    config = json.loads((folder / "config.json").read_text())
    for name in [*config, "rope_parameters.partial_rotary_factor"]:
        assert ways["config.json", name] == 3
    assert {d.file for d in tries if d.how == "gone"} == {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("lost", ["layer_norm_eps", "hidden_act", "rope_parameters"])
def test_a_number_that_config_json_does_not_state_is_warned_of(
    damaged: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    import json

    folder = damaged.write_family(tmp_path / "m", "gpt_neox")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    damaged.read_model(folder)
    assert not caplog.messages
    del config[lost]
    file.write_text(json.dumps(config))
    damaged.read_model(folder)
    named = "rope_theta, partial_rotary_factor" if lost == "rope_parameters" else lost
    assert f"config.json of own does not state {named}:" in caplog.text


PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": dict(activation_function="gelu_new", layer_norm_epsilon=1e-05, n_ctx=1024, n_embd=768,
                 n_head=12, n_layer=12, n_positions=1024, vocab_size=50257),
    "gpt_neox": dict(hidden_act="gelu", hidden_size=512, intermediate_size=2048,
                     layer_norm_eps=1e-05, max_position_embeddings=2048, num_attention_heads=8,
                     num_hidden_layers=6, rotary_emb_base=10000, rotary_pct=0.25,
                     vocab_size=50304),
    "llama": dict(hidden_act="silu", hidden_size=576, intermediate_size=1536, rope_scaling=None,
                  max_position_embeddings=8192, num_attention_heads=9, num_hidden_layers=30,
                  num_key_value_heads=3, rms_norm_eps=1e-05, rope_theta=100000, vocab_size=49152),
    "bert": dict(hidden_act="gelu", hidden_size=384, intermediate_size=1536, layer_norm_eps=1e-12,
                 max_position_embeddings=512, num_attention_heads=12, num_hidden_layers=6,
                 type_vocab_size=2, vocab_size=30522),
    "bloom": dict(n_embed=1024, n_inner=None, n_layer=24, num_attention_heads=16,
                  layer_norm_epsilon=1e-05, seq_length=2048, vocab_size=250880),
}  # fmt: skip
"""What the configurations of gpt2, pythia-70m, SmolLM2-135M, MiniLM and bloom-560m state."""


@pytest.mark.parametrize("kind", PUBLISHED)
def test_older_configurations_are_not_warned_of(tmp_path: Path, kind: str) -> None:
    import json

    import torch

    from mosaic.config.profiles import ModelSpec
    from mosaic.models.language_model import unstated
    from mosaic.models.resolve import ResolvedModel

    text = json.dumps({"model_type": kind, **PUBLISHED[kind]})
    (tmp_path / "config.json").write_text(text)
    spec = ModelSpec("own", str(tmp_path), {"middle": 1})
    model = ResolvedModel(spec, tmp_path, torch.device("cpu"), torch.float32)
    assert unstated(model) == []


def test_a_tokenizer_that_reads_otherwise_than_its_file_is_warned_of(
    damaged: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = damaged.write_family(tmp_path / "m", "gemma2")
    (folder / "tokenizer_config.json").unlink()
    damaged.read_model(folder)
    assert "reads a sentence otherwise than its tokenizer.json" in caplog.text


def test_a_tokenizer_of_far_fewer_words_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: Any
) -> None:
    tiny.write_model(tmp_path, "llama", vocab_size=900)
    damaged.read_model(tmp_path)
    assert "has 260 tokens and the model embeddings for 900" in caplog.text


def _setting(name: str, value: Any, at: str = "cfg.json") -> Any:
    def change(folder: Path) -> None:
        import json

        tree = json.loads((folder / at).read_text())
        tree.update({name: value})
        (folder / at).write_text(json.dumps(tree))

    return change


def _infinite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "sae_weights.safetensors")
    weights["b_enc"][3] = float("inf")
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_setting("apply_b_dec_to_input", 0.5), "apply_b_dec_to_input is 0.5, neither true nor"),
        (
            _setting("metadata", {"sae_lens_version": "6", "model_from_pretrained_kwargs": True}),
            "not readable",
        ),
        (_infinite, "b_enc of the SAE .* is not finite"),
        (_setting("architecture", "crosscoder"), "KeyError: 'crosscoder'"),
    ],
)
def test_strange_settings_of_an_sae_are_one_sentence(
    damaged: Any, tmp_path: Path, change: Any, says: str
) -> None:
    from mosaic.errors import IntegrityError

    folder = tiny.write_sae(tmp_path / "sae", metadata=damaged.SAID)
    damaged.read_sae(folder)
    change(folder)
    with pytest.raises(IntegrityError, match=says):
        damaged.read_sae(folder)


def test_no_lost_field_hides_the_place_of_an_sae(damaged: Any, tmp_path: Path) -> None:
    """The same damages at the wrong layer: each is refused but where the place itself is lost."""
    import json

    from mosaic.errors import MosaicError

    wrong = damaged.SAID | {"hook_name": "blocks.0.hook_resid_post"}
    folder = tiny.write_sae(tmp_path / "sae", metadata=wrong)
    tries = [d for d in damaged.every_damage(folder) if d.file == "cfg.json" and d.content]
    read = set()
    for damage in tries:
        (folder / "cfg.json").write_bytes(damage.content)
        try:
            damaged.read_sae(folder)
        except MosaicError:
            continue
        metadata = json.loads(damage.content).get("metadata") or {}
        assert metadata.get("hook_name") != wrong["hook_name"], damage
        read.add(damage.part)
    assert read <= {"metadata", "metadata.hook_name"}


def test_a_latent_whose_threshold_is_infinite_is_only_silent(damaged: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.write_sae(tmp_path / "sae", metadata=damaged.SAID)
    weights = load_file(folder / "sae_weights.safetensors")
    weights["threshold"][:] = float("inf")
    save_file(weights, folder / "sae_weights.safetensors")
    assert len(damaged.read_sae(folder)[0][0]) == 0


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "adapter_config.json"])
def test_weights_that_stand_twice_and_adapters_are_refused(
    damaged: Any, tmp_path: Path, name: str
) -> None:
    from mosaic.errors import IntegrityError

    folder = damaged.write_family(tmp_path / "m", "qwen2")
    (folder / name).write_text("{}")
    with pytest.raises(IntegrityError, match="which weights are meant is not said"):
        damaged.read_model(folder)


def test_a_length_that_is_no_number_is_one_sentence(damaged: Any, tmp_path: Path) -> None:
    from mosaic.errors import ConfigError

    folder = damaged.write_family(tmp_path / "m", "bloom")
    expected, _ = damaged.read_model(folder)
    _setting("max_position_embeddings", "many", "config.json")(folder)
    assert all(map(lambda a, b: (a == b).all(), damaged.read_model(folder)[0], expected))
    _setting("model_max_length", "many", "tokenizer_config.json")(folder)
    with pytest.raises(ConfigError, match="The tokenizer of .* does not fit"):
        damaged.read_model(folder)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mosaic")
