"""GGUF files made here, converted and refused; nothing is fetched."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from mosaic.cli import main
from mosaic.errors import AccessError, ConfigError, IntegrityError
from mosaic.models.ask import load_answerer
from mosaic.models.gguf import SCRIPTS, check_tokenizer, convert_gguf
from mosaic.models.resolve import resolve

gguf = pytest.importorskip("gguf", reason="package gguf is not installed")

D_MODEL, N_BLOCKS, FEED_FORWARD, N_HEADS = 32, 2, 64, 4


def write_gguf(path: Path, architecture: str = "llama", **left_out: Any) -> dict[str, np.ndarray]:
    """A random model of that architecture with a byte-level tokenizer; returns its tensors."""
    from tokenizers import pre_tokenizers

    tokens = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_license("cc0-1.0")
    writer.add_context_length(128)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_BLOCKS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), D_MODEL), "output_norm": (D_MODEL,)}
    for block in range(N_BLOCKS):
        square = {f"attn_{part}": (D_MODEL, D_MODEL) for part in ("q", "k", "v", "output")}
        square |= {"ffn_gate": (FEED_FORWARD, D_MODEL), "ffn_up": (FEED_FORWARD, D_MODEL)}
        square |= {"ffn_down": (D_MODEL, FEED_FORWARD)}
        square |= {"attn_norm": (D_MODEL,), "ffn_norm": (D_MODEL,)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in square.items()}
    tensors = {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
        if name not in left_out
    }
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def folder(whole: Path) -> Path:
    return convert_gguf(whole, whole.parent / "models" / "tiny")


def test_the_folder_holds_the_tensors_and_a_card(whole: Path, folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = write_gguf(tmp_path / "again.gguf")
    found = load_file(folder / "model.safetensors")
    assert np.array_equal(found["model.embed_tokens.weight"].numpy(), tensors["token_embd.weight"])
    assert np.array_equal(
        found["model.layers.1.mlp.down_proj.weight"].numpy(), tensors["blk.1.ffn_down.weight"]
    )
    assert all(value.dtype == torch.float32 for value in found.values())
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert (folder / "generation_config.json").is_file()
    card = (folder / "README.md").read_text()
    assert hashlib.sha256(whole.read_bytes()).hexdigest() in card
    assert "not the original weights" in card
    assert "cc0-1.0" in card
    assert "gguf " in card
    assert "transformers " in card


def test_the_folder_is_a_model_like_any_other(folder: Path) -> None:
    spec = replace(tiny.model_spec(folder.parent.parent), source=str(folder), saes=())
    answerer = load_answerer(resolve(spec, tiny.profile(spec)))
    assert answerer.model.config.num_hidden_layers == N_BLOCKS
    assert set(SCRIPTS) == {"Latin", "Cyrillic", "Arabic", "Devanagari", "Chinese", "emoji"}
    chatty = replace(answerer, spec=replace(spec, chat=True))
    with pytest.raises(ConfigError, match="its tokenizer has no chat template; correct the prof"):
        chatty.templated("hello")


def test_the_verb_writes_the_folder_and_checks_the_checksum(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tiny"
    argv = ["model", "from-gguf", str(whole), "--out", str(out), "--sha256"]
    assert main([*argv, "0" * 64]) == IntegrityError.exit_code
    assert "where 000000" in capsys.readouterr().err
    assert not out.exists()
    assert main([*argv, hashlib.sha256(whole.read_bytes()).hexdigest()]) == 0
    assert capsys.readouterr().out.strip().endswith(str(out))
    assert main(argv[:-1]) == ConfigError.exit_code
    assert f"{out} is in use" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_damaged_and_foreign_files_are_one_sentence(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    cut, other, foreign = (tmp_path / name for name in ("cut.gguf", "other.gguf", "foreign.gguf"))
    for size in (40, len(content) // 2, len(content) - 64):
        cut.write_bytes(content[:size])
        with pytest.raises(IntegrityError, match="is truncated or damaged .*fetch it again"):
            convert_gguf(cut, tmp_path / "out")
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(IntegrityError, match="is no GGUF file"):
        convert_gguf(other, tmp_path / "out")
    write_gguf(foreign, "rwkv6")
    with pytest.raises(ConfigError, match="architecture 'rwkv6', which transformers cannot read"):
        convert_gguf(foreign, tmp_path / "out")
    lacking = tmp_path / "lacking.gguf"
    write_gguf(lacking, **{"blk.1.ffn_down": True})
    with pytest.raises(IntegrityError, match="lacks 1 tensors of its model, 'model.layers.1.mlp"):
        convert_gguf(lacking, tmp_path / "out")
    with pytest.raises(AccessError, match="There is no file"):
        convert_gguf(tmp_path / "nowhere.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_does_not_give_text_back_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    latin = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    latin.pre_tokenizer = pre_tokenizers.Whitespace()
    tiny.write_model(tmp_path, "llama")
    PreTrainedTokenizerFast(tokenizer_object=latin, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(IntegrityError, match=r"\(Latin\) into .*it was not converted rightly"):
        check_tokenizer(tmp_path)
