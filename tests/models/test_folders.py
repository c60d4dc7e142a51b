"""What a model folder and an SAE folder must be: one rule, one sentence for what breaks it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from mosaic.config.profiles import ModelSpec, SAESpec
from mosaic.config.reading import beside, local_or_id
from mosaic.errors import AccessError, ConfigError, MosaicError
from mosaic.extraction.extract import extract
from mosaic.models.hub import local_folder
from mosaic.models.language_model import find_blocks, load_model, positions, residual_stream
from mosaic.models.readers import text_reader
from mosaic.models.resolve import ResolvedModel, fetch_model, load_config
from mosaic.models.saes import load_sae, sae_identity
from mosaic.sweep.cells import paper_grid

CPU = torch.device("cpu")
X = torch.randn(6, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))


def at(folder: Path) -> ResolvedModel:
    spec = ModelSpec("own", str(folder), {"middle": 1})
    return ResolvedModel(spec, folder, CPU, torch.float32)


def sae_at(folder: Path, layer: int = 2) -> Any:
    return load_sae(SAESpec(layer, "96", folder=str(folder)), CPU, tiny.D_MODEL)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("hook", "layer"),
    [("blocks.2.hook_resid_post", 2), ("blocks.3.hook_resid_pre", 2), ("model.layers.2", 2)],
)
def test_a_residual_stream_is_read_where_it_was_trained(
    tmp_path: Path, hook: str, layer: int
) -> None:
    folder = tiny.write_sae(tmp_path, metadata={"hook_name": hook})
    plain = sae_at(tiny.write_sae(tmp_path / "plain"))
    assert torch.equal(sae_at(folder, layer).encode(X), plain.encode(X))
    with pytest.raises(ConfigError, match=f"not the output of block 1: write `layer: {layer}`"):
        sae_at(folder, 1)
    on_purpose = SAESpec(1, "96", folder=str(folder), moved=True)
    assert torch.equal(load_sae(on_purpose, CPU, tiny.D_MODEL).encode(X), plain.encode(X))


@pytest.mark.parametrize(
    "hook", ["blocks.2.hook_mlp_out", "blocks.2.attn.hook_z", "hook_embed", "blocks.2.ln2"]
)
def test_an_sae_of_another_place_is_refused(tmp_path: Path, hook: str) -> None:
    folder = tiny.write_sae(tmp_path, metadata={"hook_name": hook})
    with pytest.raises(ConfigError, match="here SAEs read the output of a block"):
        sae_at(folder)


def test_an_sae_of_another_model_is_warned_of(tmp_path: Path, caplog: Any) -> None:
    model = at(tiny.write_model(tmp_path / "m", "llama"))
    for named, warned in (("gemma-2-2b", True), ("someone/m", False), ("own", False)):
        folder = tiny.write_sae(tmp_path / "s", metadata={"model_name": named})
        caplog.clear()
        load_sae(SAESpec(2, "96", folder=str(folder)), CPU, tiny.D_MODEL, model)
        assert ("was trained on gemma-2-2b" in caplog.text) == warned


def test_the_form_of_gpt2_small_res_jb_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Configuration of sae-lens before 6, hook_resid_pre, centred by TransformerLens."""
    source = tiny.write_model(tmp_path / "gpt2", "gpt2")
    folder = tiny.write_sae(tmp_path / "sae", architecture="standard")
    old = {"model_name": "gpt2-small", "hook_point": "blocks.3.hook_resid_pre", "d_in": 32}
    old |= {"d_sae": 96, "hook_point_layer": 3, "hook_point_head_index": None, "dtype": "float32"}
    old |= {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    (folder / "cfg.json").write_text(json.dumps(old))
    sae = SAESpec(2, "96", folder=str(folder))
    spec = ModelSpec("gpt2", str(source), {"middle": 2}, (sae,))
    found = extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path / "s")
    weights, model = load_file(folder / "sae_weights.safetensors"), load_model(at(source), 3)
    reader = text_reader(at(source), tiny.profile(spec))
    batch = reader.read([tiny.TEXTS[0]]).collate(np.asarray([0]))
    with torch.no_grad(), residual_stream(model, [2]) as outputs:
        model.text(torch.from_numpy(batch.arguments["input_ids"]))
    x = outputs[2][0] - outputs[2][0].mean(-1, keepdim=True)
    latents = torch.relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    ours = found.matrix(2, "96", "sum").toarray()[0]
    np.testing.assert_allclose(ours, latents.sum(0).numpy(), rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_read_as_sae_lens_would_finish_it(tmp_path: Path) -> None:
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    config = BatchTopKTrainingSAEConfig(d_in=tiny.D_MODEL, d_sae=96, k=8)
    config.normalize_activations = "expected_average_only_in"
    training = BatchTopKTrainingSAE(config)
    training.topk_threshold.fill_(0.3)
    training.save_model(tmp_path)
    with pytest.raises(MosaicError, match="a checkpoint needs the file that sae-lens wrote"):
        sae_at(tmp_path)
    before = sae_identity(SAESpec(2, "96", folder=str(tmp_path)), tmp_path / "pins.json")
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.4}')
    assert sae_identity(SAESpec(2, "96", folder=str(tmp_path)), tmp_path / "pins.json") != before
    training.fold_activation_norm_scaling_factor(0.4)
    training.save_inference_model(tmp_path / "finished")
    expected = SAE.load_from_disk(tmp_path / "finished").encode(X)
    torch.testing.assert_close(sae_at(tmp_path).encode(X), expected)
    rewrite(tmp_path / "cfg.json", normalize_activations="none")
    with pytest.raises(MosaicError, match="normalize_activations is 'none'"):
        sae_at(tmp_path)


@pytest.mark.parametrize("from_input", [True, False])
def test_a_whitened_checkpoint_reads_whitened_states(tmp_path: Path, from_input: bool) -> None:
    """Latents of z = (x - mean) M computed by hand, through the files that sae-lens writes."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.training.activation_scaler import ActivationScaler

    rng = torch.Generator().manual_seed(1)
    mixed = torch.randn(4000, tiny.D_MODEL, generator=rng) @ torch.randn(
        tiny.D_MODEL, tiny.D_MODEL, generator=rng
    )
    mixed = (mixed + 3 * torch.randn(tiny.D_MODEL, generator=rng)).double()
    scaler = ActivationScaler()
    scaler.estimate_whitening(tiny.D_MODEL, iter(mixed.split(500)), n_batches_for_norm_estimate=8)
    config = StandardTrainingSAEConfig(d_in=tiny.D_MODEL, d_sae=96)
    config.normalize_activations = "covariance_whitening"
    config.apply_b_dec_to_input = from_input
    training = StandardTrainingSAE(config)
    for parameter in training.parameters():
        parameter.data.normal_(std=0.3, generator=rng)
    training.save_model(tmp_path)
    with pytest.raises(MosaicError, match="a checkpoint needs the file that sae-lens wrote"):
        sae_at(tmp_path)
    scaler.save(str(tmp_path / "activation_scaler.json"))
    white = scaler.whitening
    assert white is not None
    z = (mixed[:6] - white.mean) @ white.matrix
    torch.testing.assert_close(torch.cov(((mixed - white.mean) @ white.matrix).T).diag().mean(),
                               torch.tensor(1.0).double(), atol=0.05, rtol=0)  # fmt: skip
    centre = training.b_dec if from_input else 0
    by_hand = torch.relu((z.float() - centre) @ training.W_enc + training.b_enc)
    found = sae_at(tmp_path).encode(mixed[:6].float())
    torch.testing.assert_close(found, by_hand.detach(), rtol=1e-3, atol=1e-3)
    before = sae_identity(SAESpec(2, "96", folder=str(tmp_path)), tmp_path / "pins.json")
    assert "activation_whitening.safetensors" in before["sha256"]


TRAINED = ["standard", "gated", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk",
           "matching_pursuit"]  # fmt: skip


@pytest.mark.parametrize("kind", TRAINED)
def test_a_checkpoint_of_every_architecture_is_what_sae_lens_would_make_of_it(
    tmp_path: Path, kind: str
) -> None:
    from sae_lens import SAE
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY as KNOWN

    made, settings = KNOWN[kind]
    more: dict[str, Any] = {"k": 8} if "topk" in kind else {}
    more |= {"matryoshka_widths": [32, 96]} if kind.startswith("matryoshka") else {}
    torch.manual_seed(0)
    training = made(settings(d_in=tiny.D_MODEL, d_sae=96, **more))
    for parameter in training.parameters():
        parameter.data.normal_(std=0.3)
    if "batchtopk" in kind:
        training.topk_threshold.fill_(0.3)
    training.save_model(tmp_path)
    training.save_inference_model(tmp_path / "finished")
    found = sae_at(tmp_path).encode(X)
    assert found.count_nonzero()
    torch.testing.assert_close(found, SAE.load_from_disk(tmp_path / "finished").encode(X))


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_a_transcoder_is_refused(tmp_path: Path, kind: str) -> None:
    settings = {"d_out": tiny.D_MODEL, "apply_b_dec_to_input": False}
    tiny.write_sae(tmp_path, architecture=kind, **settings)
    with pytest.raises(ConfigError, match=f"is a '{kind}' SAE, whose activations may"):
        sae_at(tmp_path)


SETTINGS = ("apply_b_dec_to_input", "normalize_activations")
"""What a reader may set: another value is another SAE, known by another checksum."""


def test_nothing_of_an_sae_folder_changes_unnoticed(tmp_path: Path, caplog: Any) -> None:
    """Every tensor and every field removed, renamed or changed: refused, warned of, no influence
    or, for settings that cannot be held to anything, another identity."""
    said = {"hook_name": "blocks.2.hook_resid_post", "model_name": "own"}
    said |= {"sae_lens_version": "6.54.12"}
    folder = tiny.write_sae(tmp_path, metadata=said, apply_b_dec_to_input=False)
    expected = sae_at(folder).encode(X)
    cfg, file = folder / "cfg.json", folder / "sae_weights.safetensors"
    config, weights = json.loads(cfg.read_text()), load_file(file)
    spec, unnoticed = SAESpec(2, "96", folder=str(folder)), []
    whole = sae_identity(spec, tmp_path / "pins.json")
    tries: list[tuple[str, dict[str, Any], dict[str, torch.Tensor]]] = []
    for name in config:
        rest = {k: v for k, v in config.items() if k != name}
        tries += [(name, rest, weights), (name, {**rest, f"{name}_": config[name]}, weights)]
        tries += [(name, {**config, name: v}, weights) for v in (None, 7, "other", True)]
    for name in said:
        rest = {k: v for k, v in said.items() if k != name}
        tries += [(name, {**config, "metadata": m}, weights) for m in (rest, {**said, name: "x"})]
    for name, value in weights.items():
        others = {k: v for k, v in weights.items() if k != name}
        sick = torch.full_like(value, float("nan"))
        for wrong in (others, {**others, f"{name}_": value}, {**others, name: value[:-1]}):
            tries.append((name, config, wrong))
        tries.append((name, config, {**others, name: sick}))
    for name, settings, tensors in tries:
        cfg.write_text(json.dumps(settings))
        save_file({k: v.contiguous() for k, v in tensors.items()}, file)
        caplog.clear()
        try:
            same = torch.equal(sae_at(folder).encode(X), expected)
        except MosaicError:
            continue
        known = name in SETTINGS and sae_identity(spec, tmp_path / "pins.json") != whole
        if not (same or caplog.text or known):
            unnoticed.append((name, settings.get(name)))
    assert len(tries) >= 80
    assert not unnoticed


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "xmod", "mpnet"])
def test_positions_that_padding_takes_are_not_counted(kind: str) -> None:
    sizes = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.AutoConfig.for_model(
        kind, **sizes, intermediate_size=64, max_position_embeddings=514, pad_token_id=1
    )
    assert positions(config) == 512


def test_padding_beyond_the_embeddings_is_masked_and_a_token_beyond_is_named(
    tmp_path: Path,
) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<new{i}>" for i in range(60)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= 300
    tokenizer.save_pretrained(folder)
    reader = text_reader(at(folder), tiny.profile())
    ids = reader.read(["a", "a longer one"]).collate(np.asarray([0, 1])).arguments["input_ids"]
    assert ids.max() < 300
    with pytest.raises(ConfigError, match="the token '<new59>', number 3.* embeddings for 300"):
        reader.read(["a", "an <new59> of it"])


SIZES = dict(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=4, intermediate_size=64, max_position_embeddings=128,
             pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "opt",
         "bloom", "falcon", "phi", "phi3", "olmo2", "starcoder2", "cohere", "granite", "bert",
         "roberta", "mpnet", "electra", "distilbert", "modernbert"], {}),
    "longformer": {"attention_window": [8, 8, 8]},
    "mamba": {},
    "mamba2": dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8),
    "recurrent_gemma": dict(lru_width=32, attention_window_size=16),
    "bamba": dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8,
                  attn_layer_indices=[1]),
    "falcon_h1": dict(mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8,
                      mamba_chunk_size=8, head_dim=8),
    "zamba2": dict(mamba_d_state=8, mamba_headdim=16, n_mamba_heads=4, mamba_ngroups=1,
                   chunk_size=8, num_mem_blocks=1, adapter_rank=4,
                   layers_block_type=["mamba", "hybrid", "mamba"]),
    "nemotron_h": dict(mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=8, n_groups=1,
                       chunk_size=8, layers_block_type=["mamba", "attention", "mamba"]),
    "falcon_mamba": {},
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8,
                  num_experts_per_tok=1, use_mamba_kernels=False, mamba_dt_rank=4),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILIES)
def test_block_outputs_are_the_hidden_states_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **SIZES, **FAMILIES[kind])
    torch.manual_seed(0)
    whole = transformers.AutoModel.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    model, ids = load_model(at(tmp_path), 2), torch.tensor([[1, 70, 80, 90, 100]])
    assert len(find_blocks(model.whole)[1]) == 2
    with torch.no_grad(), residual_stream(model, [0]) as outputs:
        model.text(input_ids=ids)
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states
    ours = outputs[0][:, : ids.shape[1]]
    assert any(torch.allclose(ours, state, atol=1e-6) for state in states[:2])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_encoder_with_a_decoder_is_one_sentence(tmp_path: Path, kind: str) -> None:
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="an encoder with a decoder"):
        load_config(tmp_path)


def test_quantized_weights_foreign_code_and_a_missing_tokenizer_are_one_sentence(
    tmp_path: Path,
) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    rewrite(folder / "config.json", quantization_config=how)
    with pytest.raises(ConfigError, match="whose weights are quantized by bitsandbytes"):
        load_model(at(folder), 1)
    code = {"AutoConfig": "configuration_own.OwnConfig"}
    rewrite(folder / "config.json", auto_map=code, model_type="own")
    with pytest.raises(ConfigError, match="without code of its own"):
        load_config(folder)
    folder = tiny.write_model(tmp_path / "bare", "llama")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises((AccessError, ConfigError)):
        _ = at(folder).tokenizer


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"]
)
def test_a_pointer_of_git_lfs_in_place_of_a_file_of_a_model_is_told(
    tmp_path: Path, name: str
) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\n")
    (folder / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(MosaicError, match=f"{name} is a Git LFS pointer .* `git lfs pull`"):
        fetch_model(ModelSpec("own", str(folder), {"middle": 1}))
    tiny.write_model(tmp_path, "llama")
    assert fetch_model(ModelSpec("own", str(folder), {"middle": 1})) == folder  # ONNX is not read


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_pointer_of_git_lfs_in_place_of_a_file_of_an_sae_is_told(
    tmp_path: Path, name: str
) -> None:
    (tiny.write_sae(tmp_path) / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(MosaicError, match=f"{name} is a Git LFS pointer .* `git lfs pull`"):
        sae_identity(SAESpec(2, "96", folder=str(tmp_path)), tmp_path / "pins.json")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.model."])
def test_weights_of_compiled_and_wrapped_models_are_refused(tmp_path: Path, prefix: str) -> None:
    file = tiny.write_model(tmp_path, "llama") / "model.safetensors"
    whole = load_file(file)
    renamed = {prefix + name.removeprefix("model."): w for name, w in whole.items()}
    for wrong in (renamed, {n: w for n, w in whole.items() if "embed_tokens" not in n}):
        save_file(wrong, file, {"format": "pt"})
        with pytest.raises(MosaicError, match="lacks embed_tokens.weight"):
            load_model(at(tmp_path), 2)


def test_places(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    for name in ("google/gemma-2-2b", "gpt2"):
        assert local_or_id(tmp_path, name) == name
    for name, place in (("~/m", "m"), ("a/b/c", "a/b/c"), ("m/", "m"), ("data", "data")):
        assert local_or_id(tmp_path, name) == str(tmp_path / place)
    assert local_or_id(tmp_path, "C:\\m") == str(tmp_path / "C:\\m")
    assert local_folder("~/m") == tmp_path / "m"
    assert beside(tmp_path / "data", "~/sae") == str(tmp_path / "sae")  # `folder` of an SAE
    with pytest.raises(AccessError, match="There is no folder"):
        fetch_model(ModelSpec("own", "~/m", {"middle": 1}))
    with pytest.raises(AccessError, match="nor a name that the Hub allows"):
        fetch_model(ModelSpec("own", "a/b/c", {"middle": 1}))


def test_saes_are_told_apart_and_belong_to_a_layer() -> None:
    one = SAESpec(1, "96", folder="a")
    with pytest.raises(ConfigError, match="two SAEs of layer 1 and width '96'"):
        ModelSpec("own", "m", {"middle": 1}, (one, SAESpec(1, "96", folder="b")))
    with pytest.raises(ConfigError, match="Layer 1 is not among the layers"):
        ModelSpec("own", "m", {"middle": 2}, (one,))
    model = ModelSpec("own", "m", {"early": 1, "late": 3}, (one, SAESpec(3, "64", folder="c")))
    assert (model.narrowest(1), model.narrowest(3)) == ("96", "64")
    cells = paper_grid(tiny.profile(model), ["tiny"], [model])
    assert {(c.layer, c.width) for c in cells if c.width} == {(1, "96"), (3, "64")}
    bare = replace(model, saes=(one,))  # an SAE at one of two layers
    assert {c.layer for c in paper_grid(tiny.profile(bare), ["tiny"], [bare]) if c.width} == {1}
