"""Loading: blocks by structure, nothing deeper than wanted, and one sentence for every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file

from mosaic.config.profiles import ModelSpec, SAESpec
from mosaic.errors import AccessError, ConfigError, IntegrityError, ResourceError
from mosaic.models import language_model
from mosaic.models.hub import check_pin, reachable
from mosaic.models.language_model import (
    find_blocks,
    load_model,
    residual_stream,
    skeleton,
    truncated,
)
from mosaic.models.resolve import ResolvedModel, choose_dtype, fetch_model, load_config
from mosaic.models.saes import load_sae, registry_path

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 70, 80, 90, 100]])


def at(folder: Path, dtype: torch.dtype = torch.float32) -> ResolvedModel:
    return ResolvedModel(spec(str(folder)), folder, CPU, dtype)


def full_model(folder: Path) -> Any:
    import transformers

    name = load_config(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder).eval()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_block_outputs_equal_the_untruncated_model(tmp_path: Path, family: str) -> None:
    folder = tiny.write_model(tmp_path, family)
    seen: dict[int, torch.Tensor] = {}
    full = full_model(folder)
    blocks = find_blocks(full.base_model)[1]
    for i, block in enumerate(blocks):
        block.register_forward_hook(
            lambda _m, _a, out, i=i: seen.update({i: out[0] if isinstance(out, tuple) else out})
        )
    with torch.inference_mode():
        full(IDS)
        for deepest in range(tiny.N_BLOCKS):
            model = load_model(at(folder), deepest + 1)
            assert len(model.blocks) == deepest + 1
            with residual_stream(model, range(deepest + 1)) as outputs:
                model.text(IDS)
            for layer in range(deepest + 1):
                torch.testing.assert_close(outputs[layer], seen[layer], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt2"])
def test_the_last_hidden_state_is_after_the_norm(tmp_path: Path, family: str) -> None:
    """Why block outputs are hooked: transformers norms the last entry of `hidden_states`."""
    folder = tiny.write_model(tmp_path, family)
    model = load_model(at(folder), tiny.N_BLOCKS)
    with torch.inference_mode(), residual_stream(model, [tiny.N_BLOCKS - 1]) as outputs:
        last = model.text(IDS, output_hidden_states=True).hidden_states[-1]
        norm = getattr(model.text, "norm", None) or model.text.ln_f
        output = outputs[tiny.N_BLOCKS - 1]
        assert (output - last).abs().max() > 0.1
        torch.testing.assert_close(norm(output), last)


def test_float16_adds_up_its_residual_stream_in_float32(tmp_path: Path, monkeypatch: Any) -> None:
    """Sums past 65504, where plain float16 ends, stay within rounding of float32."""
    folder = tiny.write_model(tmp_path, "gemma2")
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if "post_" in name:  # the norms whose outputs are added to the residual stream
            tensor.fill_(1.2e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def last_block(dtype: torch.dtype) -> torch.Tensor:
        model = load_model(at(folder, dtype), tiny.N_BLOCKS)
        with torch.inference_mode(), residual_stream(model, [tiny.N_BLOCKS - 1]) as outputs:
            model.text(IDS)
        return outputs[tiny.N_BLOCKS - 1]

    exact, half = last_block(torch.float32), last_block(torch.float16)
    assert half.dtype == torch.float32
    assert exact.abs().max() > 65504
    assert (half - exact).abs().max() < 0.01 * exact.abs().max()
    monkeypatch.setattr(language_model, "float32_residual", lambda model: None)
    assert not torch.isfinite(last_block(torch.float16)).all()


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_is_taken_where_the_gpu_has_it(
    monkeypatch: Any, native: bool, expected: torch.dtype
) -> None:
    """torch says that a T4 supports bfloat16, because it can imitate it."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    assert choose_dtype("auto", torch.device("cuda")) == expected


def test_nothing_deeper_than_wanted_is_held(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path, "gemma2")
    two, five = (load_model(at(folder), n) for n in (2, 5))
    per_block = sum(p.numel() for p in five.blocks[0].parameters())
    sizes = [sum(p.numel() for p in m.whole.parameters()) for m in (two, five)]
    assert sizes[1] - sizes[0] == 3 * per_block
    assert not any("lm_head" in name for name, _ in two.whole.named_parameters())
    assert not any(p.requires_grad for p in two.whole.parameters())


def test_hooks_are_gone_after_use(tmp_path: Path) -> None:
    model = load_model(at(tiny.write_model(tmp_path, "llama")), 2)
    with pytest.raises(KeyError), residual_stream(model, [0, 1]):
        raise KeyError
    assert not any(block._forward_hooks for block in model.blocks)


def test_the_text_model_of_a_vision_language_model_is_found(tmp_path: Path) -> None:
    """Both towers have five blocks here, so the count alone cannot tell them apart."""
    model = load_model(at(tiny.write_model(tmp_path, "paligemma")), 2)
    assert type(model.text).__name__ == "Gemma2Model"
    assert len(model.blocks) == 2
    assert type(model.blocks[0]).__name__ == "Gemma2DecoderLayer"


def test_a_model_without_blocks_is_refused() -> None:
    config = tiny.model_config("gemma2")
    model = skeleton(config)
    model.layers = torch.nn.ModuleList(list(model.layers)[:3])
    with pytest.raises(ConfigError, match="Gemma2Model has no list of 5 blocks"):
        find_blocks(model)


def test_gemma_2_runs_with_its_soft_capped_attention() -> None:
    """`sdpa` has no soft-capping; transformers must pick `eager` on a CPU by itself."""
    assert skeleton(tiny.model_config("gemma2")).config._attn_implementation == "eager"


@pytest.mark.parametrize("layer", [-1, 5, 40])
def test_a_layer_the_model_has_not_is_named(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"There is no layer {layer}: the model has 5 blocks"):
        truncated(tiny.model_config("gemma2"), layer + 1)


def test_dtype_follows_the_device() -> None:
    assert choose_dtype("auto", CPU) is torch.float32
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16
    assert choose_dtype("auto", torch.device("mps")) is torch.float32


def spec(source: str) -> ModelSpec:
    return ModelSpec(name="m", source=source, layers={"early": 0})


@pytest.mark.parametrize("config", [{"model_type": "mosaicformer"}, {"hidden_size": 8}])
def test_an_unknown_type_of_model_is_one_sentence(tmp_path: Path, config: dict) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="does not fit the installed transformers") as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)


def raiser(error: BaseException) -> Any:
    def fetch(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return fetch


RESPONSE = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/x/y"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            hub_errors.GatedRepoError("no", response=RESPONSE),
            r"'x/y' is gated: accept its licence at https://huggingface.co/x/y .* set HF_TOKEN .* "
            r"`mini` profile need none of this",
        ),
        (
            hub_errors.RepositoryNotFoundError("no", response=RESPONSE),
            r"'x/y' is not on the Hub, or only for accounts with access: check the name",
        ),
        (
            hub_errors.RevisionNotFoundError("no", response=RESPONSE),
            r"'x/y' has no such revision on the Hub; correct `revision`",
        ),
        (
            hub_errors.LocalEntryNotFoundError("no"),
            r"'x/y' is not in the local cache and the Hub cannot be reached: go online once",
        ),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    monkeypatch: Any, error: Exception, message: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", raiser(error))
    with pytest.raises(AccessError, match=message):
        fetch_model(spec("x/y"))


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    """The real thing: an empty cache, and the Hub switched off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AccessError, match="is not in the local cache and the Hub cannot be"):
        fetch_model(spec("nobody/nothing"))


def test_an_error_of_ours_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), reachable("x/y"):
        _ = 1 / 0
    with pytest.raises(ConfigError, match="as it is"), reachable("x/y"):
        raise ConfigError("as it is")


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AccessError, match=r"is not whole in .*: a model needs config.json"):
        fetch_model(spec(str(tmp_path)))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(AccessError):
        load_model(at(folder), 2)


def test_what_was_downloaded_once_may_not_change(tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    check_pin(pins, "org/model", "c1", {"w": "aa"})
    check_pin(pins, "org/model", "c2", {"w": "aa"})  # only the commit moved
    check_pin(pins, "org/other", "c1", {"w": "bb"})
    with pytest.raises(IntegrityError, match=r"'org/model' is not .* \(commit c1\): w differ in"):
        check_pin(pins, "org/model", "c3", {"w": "bb"})
    with pytest.raises(IntegrityError, match="extra differ"):
        check_pin(pins, "org/model", "c1", {"w": "aa", "extra": "cc"})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"release": "no-such"}, ConfigError, "sae-lens has no release 'no-such'"),
        (
            {"sae_id": "layer_5/width_2k/canonical"},
            ConfigError,
            r"has no SAE 'layer_5/width_2k/canonical'; at layer 5 it has .*width_16k",
        ),
        ({"path": "layer_5/elsewhere"}, IntegrityError, "resolves to 'layer_5/width_16k/average_"),
    ],
)
def test_what_the_registry_lacks_is_named(changes: dict, error: type, message: str) -> None:
    right = {
        "release": "gemma-scope-2b-pt-res-canonical",
        "sae_id": "layer_5/width_16k/canonical",
    }
    with pytest.raises(error, match=message):
        registry_path(SAESpec(layer=5, width="16k", **{**right, **changes}))


@pytest.mark.parametrize(
    ("kind", "kept"), [("jumprelu", False), ("standard", False), ("topk", True)]
)
def test_the_decoder_is_dropped_where_it_is_not_needed(
    tmp_path: Path, kind: str, kept: bool
) -> None:
    folder = tiny.write_sae(tmp_path, 40, kind)
    sae = load_sae(SAESpec(layer=0, width="40", folder=str(folder)), CPU, tiny.D_MODEL)
    assert hasattr(sae, "W_dec") == kept


def test_unreadable_or_unsuitable_saes_are_named(tmp_path: Path) -> None:
    folder = tiny.write_sae(tmp_path, 40)
    sae_spec = SAESpec(layer=0, width="40", folder=str(folder))
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="weights of the SAE layer_0/width_40 .* not readable"):
        load_sae(sae_spec, CPU, tiny.D_MODEL)
    tiny.write_sae(tmp_path, 40, "abstopk")
    with pytest.raises(ConfigError, match="is a 'abstopk' SAE, whose activations may be negative"):
        load_sae(sae_spec, CPU, tiny.D_MODEL)


def test_a_model_too_large_for_the_device_is_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tiny.write_model(tmp_path, "llama")
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", raiser(error))
    with pytest.raises(ResourceError, match="with 2 blocks does not fit on cpu"):
        load_model(at(folder), 2)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "paligemma"])
def test_a_folder_with_other_weights_than_its_model_is_refused(tmp_path: Path, family: str) -> None:
    """transformers draws what it does not find, and passes over what it does not know."""
    folder = tiny.write_model(tmp_path, family)
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = next(n for n in whole if ".1." in n and "vision" not in n and whole[n].dim() > 1)
    for wrong, message in (
        ({n: w for n, w in whole.items() if n != name}, "lacks .*1"),
        ({**whole, name: torch.zeros(3, 3)}, "has another shape for .*1"),
        ({**whole, "adapter.weight": torch.zeros(3)}, "holds the unknown adapter.weight"),
    ):
        save_file(wrong, file, {"format": "pt"})
        with pytest.raises(IntegrityError, match=message):
            load_model(at(folder), 2)
    later = next(n for n in whole if ".3." in n and "vision" not in n)
    save_file({n: w for n, w in whole.items() if n != later}, file, {"format": "pt"})
    assert len(load_model(at(folder), 2).blocks) == 2  # nothing of block 3 is read
