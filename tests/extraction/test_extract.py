"""The one pass: against the dense reference, in any batch and order, killed, damaged, contended."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
import torch
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosaic import ASSETS
from mosaic.config.choices import HIDDEN_POOLINGS
from mosaic.config.profiles import SAESpec, load_profile
from mosaic.data.load import load_task
from mosaic.errors import ConfigError, IntegrityError, ResourceError
from mosaic.extraction.extract import extract
from mosaic.extraction.features import Features
from mosaic.extraction.forward import Pass
from mosaic.models.saes import load_sae
from mosaic.storage.shards import Store

LAYERS, WIDTHS, TOP_N = (0, 2, 3), ("96", "300"), (3, 8)
MINI_DATA = ASSETS / "mini" / "data" / "mosaic-mini"


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        family: tiny.model_spec(tmp_path_factory.mktemp(family), family, (96, 300))
        for family in (*tiny.FAMILIES, "paligemma")
    }


def check_against_reference(
    spec: Any, texts: list[str], max_length: int, features: Features
) -> int:
    """Compare every pooling of every document; returns for how many (document, layer) the top-n
    counts could be compared too: no latent near its threshold, no tie among the strongest."""
    compared = 0
    folder = spec.source if spec.kind == "text" else None
    assert folder is not None
    expected = reference.run_model(folder, texts, max_length, LAYERS)
    assert features.n_tokens.tolist() == [len(found[0]) for found in expected]
    for layer in LAYERS:
        stacked = {how: features.hidden(layer, how) for how in HIDDEN_POOLINGS}
        sae_spec = spec.sae(layer, "96")
        sae = load_sae(sae_spec, torch.device("cpu"), tiny.D_MODEL)
        matrices = {
            pooling: features.matrix(layer, "96", pooling).toarray()
            for pooling in ("sum", "mean", "max", "last", "count")
        }
        tops = {n: features.matrix(layer, "96", "top_n", top_n=n).toarray() for n in TOP_N}
        for row, found in enumerate(expected):
            x = found[layer]
            if len(x) == 0:
                for values in (*stacked.values(), *matrices.values(), *tops.values()):
                    assert not values[row].any()
                continue
            for how, value in (("last", x[-1]), ("mean", x.mean(0)), ("max", x.max(0))):
                np.testing.assert_allclose(stacked[how][row], value, atol=1e-5, rtol=1e-5)
            activations, margin = reference.sae_activations(sae, x)
            sure = (margin > 1e-4).all(axis=0)
            values = reference.statistics(activations, TOP_N)
            for pooling, matrix in matrices.items():
                np.testing.assert_allclose(
                    matrix[row][sure], values[pooling][sure], rtol=1e-4, atol=1e-4
                )
            strongest = np.sort(activations, axis=1)[:, -9:]
            # Two latents at zero tie harmlessly: neither is ever counted.
            apart = (np.diff(strongest, axis=1) > 1e-4) | (strongest[:, 1:] == 0)
            if sure.all() and apart.all():
                compared += 1
                for n, matrix in tops.items():
                    np.testing.assert_array_equal(matrix[row], values[f"top_{n}"])
    return compared


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families_equal_the_dense_reference(specs: dict, family: str, tmp_path: Path) -> None:
    """Empty, one token, truncated at the limit, several scripts, several shards and batches."""
    spec = specs[family]
    features = extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path)
    assert features.n_docs == len(tiny.TEXTS)
    assert 0 in features.n_tokens
    assert 1 in features.n_tokens
    assert features.n_tokens.max() >= 62  # cut at max_length
    assert check_against_reference(spec, list(tiny.TEXTS), 64, features) >= 20, "of 27"


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_equals_the_dense_reference(
    specs: dict, tmp_path_factory: Any, texts: list[str]
) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # no lone surrogates
    spec = specs["gemma2"]
    store = tmp_path_factory.mktemp("store")
    features = extract(spec, tiny.task_data(texts), tiny.profile(spec, max_length=24), store=store)
    check_against_reference(spec, texts, 24, features)


def test_a_shard_of_empty_texts_is_all_zeros(specs: dict, tmp_path: Path) -> None:
    spec = specs["gemma2"]
    texts = ["", "", "", "", "full"]
    features = extract(spec, tiny.task_data(texts), tiny.profile(spec), store=tmp_path)
    assert check_against_reference(spec, texts, 64, features) >= 2, "of 3"


def test_every_language_of_the_mini_world(specs: dict, tmp_path: Path) -> None:
    texts: list[str] = []
    cache = str(tmp_path / "cache")
    for file in sorted((MINI_DATA / "toxicity").glob("*.parquet")):
        table = load_dataset("parquet", data_files=str(file), split="train", cache_dir=cache)
        column = next(name for name in ("text", "sentence") if name in table.column_names)
        texts += table[column][:4]
    assert len(texts) == 20
    spec = specs["gemma2"]
    profile = tiny.profile(spec, max_length=128)
    features = extract(spec, tiny.task_data(texts), profile, store=tmp_path / "store")
    assert check_against_reference(spec, texts, 128, features) >= 30, "of 60"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_mini_world_equals_the_dense_reference(tmp_path: Path, language: str) -> None:
    """The shipped models and SAEs, on the first texts of a shipped task."""
    profile = replace(load_profile("mini"), shard_docs=16, token_budget=256)
    spec = profile.model("mini-small")
    data = load_task(f"toxicity-{language}", profile).subset(np.arange(24))
    layer, width = spec.layers["middle"], spec.widths[0]
    features = extract(spec, data, profile, [layer], [width], tmp_path)
    expected = reference.run_model(spec.source, data.inputs, profile.max_length, [layer])
    sae = load_sae(spec.sae(layer, width), torch.device("cpu"), features.hidden(layer).shape[1])
    sums = features.matrix(layer, width).toarray()
    for row, found in enumerate(expected):
        activations, margin = reference.sae_activations(sae, found[layer])
        sure = (margin > 1e-4).all(axis=0)
        np.testing.assert_allclose(
            sums[row][sure], activations.sum(axis=0)[sure], rtol=1e-4, atol=1e-3
        )


def test_special_tokens_are_kept_on_request_only(specs: dict, tmp_path: Path) -> None:
    spec = specs["bert"]
    data = tiny.task_data(["abc", ""])
    dropped = extract(spec, data, tiny.profile(spec), widths=(), store=tmp_path)
    kept = extract(spec, data, tiny.profile(spec, bos="keep"), widths=(), store=tmp_path)
    assert dropped.n_tokens.tolist() == [3, 0]
    assert kept.n_tokens.tolist() == [5, 2]
    assert not np.allclose(dropped.hidden(0), kept.hidden(0))


def test_the_text_model_inside_a_vision_language_model(specs: dict, tmp_path: Path) -> None:
    import transformers

    spec = specs["paligemma"]
    data = tiny.task_data(["hello there", "hi"])
    features = extract(spec, data, tiny.profile(spec), layers=[2], widths=[], store=tmp_path)
    full = transformers.PaliGemmaForConditionalGeneration.from_pretrained(spec.source)
    text = full.model.language_model
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.source)
    for row, value in enumerate(data.inputs):
        ids = tokenizer(value, return_tensors="pt").input_ids
        states = text(ids, output_hidden_states=True).hidden_states[3][0, 1:]
        np.testing.assert_allclose(
            features.hidden(2, "mean")[row], states.mean(0).detach().numpy(), atol=1e-5
        )


Key = tuple[int, str | None, str]


def matrices(features: Features) -> dict[Key, np.ndarray]:
    """Every pooled array `[n_docs, ...]` by layer, width (None: hidden states) and pooling."""
    found: dict[Key, np.ndarray] = {}
    for layer in LAYERS:
        for how in HIDDEN_POOLINGS:
            found[layer, None, how] = features.hidden(layer, how)
        for width in WIDTHS:
            for how in ("sum", "mean", "max", "last", "count"):
                found[layer, width, how] = features.matrix(layer, width, how).toarray()
            for n in TOP_N:
                top = features.matrix(layer, width, "top_n", top_n=n)
                found[layer, width, f"top_{n}"] = top.toarray()
    return found


@pytest.fixture(scope="module")
def undecided(specs: dict) -> dict[Key, np.ndarray]:
    """Entries of `matrices` that float32 may count otherwise, bool `[n_docs, d_sae]`."""
    spec = specs["gemma2"]
    states = reference.run_model(spec.source, tiny.TEXTS, 64, LAYERS)
    found: dict[Key, np.ndarray] = {}
    for place in spec.saes:
        sae = load_sae(place, torch.device("cpu"), tiny.D_MODEL)
        rows = [reference.undecided(sae, state[place.layer], TOP_N) for state in states]
        for how in ("sum", "mean", "max", "last", "count", *(f"top_{n}" for n in TOP_N)):
            name = how if how.startswith("top") else "count"
            found[place.layer, place.width, how] = np.stack([row[name] for row in rows])
    return found


def assert_same_up_to_thresholds(
    one: dict[Key, np.ndarray], other: dict[Key, np.ndarray], undecided: dict[Key, np.ndarray]
) -> None:
    """Every entry at most 1e-4 of itself apart, counts not at all; hidden states, which may cancel
    to nothing, 1e-4 of the document's largest.

    Only entries at their threshold are excused. They are few, or the check would mean little.
    """
    assert one.keys() == other.keys()
    n_excused, n_entries = 0, 0
    for key, values in one.items():
        scale = np.abs(values)
        if key[1] is None:
            scale = scale.max(axis=1, keepdims=True)
        allowed = 0 if key[2].startswith(("count", "top_")) else 1e-4 * scale
        excused = undecided.get(key, np.zeros(values.shape, bool))
        apart = (np.abs(values - other[key]) > allowed) & ~excused
        assert not apart.any(), f"{key}: documents and entries {np.argwhere(apart)[:5].tolist()}"
        n_excused += excused.sum()
        n_entries += values.size
    assert n_excused < 0.0005 * n_entries, f"{n_excused} of {n_entries} entries excused"


def test_batch_size_and_order_do_not_matter(specs: dict, undecided: dict, tmp_path: Path) -> None:
    spec = specs["gemma2"]
    data = tiny.task_data()
    expected = matrices(extract(spec, data, tiny.profile(spec), store=tmp_path / "a"))
    for budget in (1, 40, 10_000):
        profile = tiny.profile(spec, token_budget=budget, shard_docs=7)
        found = matrices(extract(spec, data, profile, store=tmp_path / str(budget)))
        assert_same_up_to_thresholds(expected, found, undecided)
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = extract(spec, data.subset(order), tiny.profile(spec), store=tmp_path / "b")
    back = {name: values[np.argsort(order)] for name, values in matrices(shuffled).items()}
    assert_same_up_to_thresholds(expected, back, undecided)
    for key in ((2, "300", "count"), (3, "96", "top_8"), (0, "300", "sum")):
        wrong = back[key].copy()  # one entry, and the comparison says which
        row, latent = np.argwhere((wrong > 0) & ~undecided[key])[0]
        wrong[row, latent] *= 2
        with pytest.raises(AssertionError, match=rf"\[\[{row}, {latent}\]\]"):
            assert_same_up_to_thresholds(expected, {**back, key: wrong}, undecided)


def test_out_of_memory_halves_the_budget_and_changes_nothing(
    specs: dict, undecided: dict, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    spec = specs["gemma2"]
    expected = matrices(extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path / "a"))
    real, sizes = Pass.batch, []

    def short_of_memory(self: Any, documents: Any, rows: np.ndarray, blocks: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, documents, rows, blocks)

    monkeypatch.setattr(Pass, "batch", short_of_memory)
    with caplog.at_level(logging.WARNING):
        found = extract(
            spec, tiny.task_data(), tiny.profile(spec, token_budget=400), store=tmp_path / "b"
        )
    assert max(sizes) > 1
    assert len([r for r in caplog.records if "out of memory" in r.message]) == 1
    assert_same_up_to_thresholds(expected, matrices(found), undecided)


def test_a_document_too_long_for_memory_is_one_sentence(
    specs: dict, tmp_path: Path, monkeypatch: Any
) -> None:
    def never(self: Any, documents: Any, rows: np.ndarray, blocks: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: out of memory")

    monkeypatch.setattr(Pass, "batch", never)
    spec = specs["gemma2"]
    with pytest.raises(ResourceError, match="One document of 41 tokens does not fit"):
        extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path)


def test_overflow_of_the_residual_stream_is_named(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    from safetensors.torch import load_file, save_file

    file = Path(spec.source) / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"].fill_(float("inf"))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="layer 2 holds NaN or infinity: weights of"):
        extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path / "s")


def blocks_on_disk(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".safetensors", ".json") and path.name != "pins.json"
    }


def test_adding_a_width_computes_nothing_else(
    specs: dict, tmp_path: Path, monkeypatch: Any
) -> None:
    spec = specs["gemma2"]
    extract(spec, tiny.task_data(), tiny.profile(spec), [0, 2], ["96"], store=tmp_path)
    before = blocks_on_disk(tmp_path)
    asked: list[Any] = []
    real = Pass.shard
    monkeypatch.setattr(
        Pass,
        "shard",
        lambda self, docs, blocks, bar: (
            asked.append(({b.name for b in blocks}, len(self.model.blocks)))
            or real(self, docs, blocks, bar)
        ),
    )
    extract(spec, tiny.task_data(), tiny.profile(spec), [0, 2], ["96", "300"], store=tmp_path)
    assert asked == [({"layer_0/width_300", "layer_2/width_300"}, 3)] * 3
    asked.clear()
    extract(spec, tiny.task_data(), tiny.profile(spec), [0], ["300"], store=tmp_path)
    assert asked == []
    after = blocks_on_disk(tmp_path)
    assert {name: after[name] for name in before} == before


def test_the_key_follows_everything_that_changes_the_numbers(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    profile = tiny.profile(spec)
    data = tiny.task_data()

    def key(profile: Any = profile, data: Any = data, spec: Any = spec) -> tuple[str, ...]:
        features = extract(spec, data, profile, [0], store=tmp_path / "s")
        return tuple(block.key for block in features.blocks)

    first = key()
    assert key() == first
    assert key(tiny.profile(spec, token_budget=64)) == first  # changes the speed only
    changed = [
        key(tiny.profile(spec, max_length=32)),
        key(tiny.profile(spec, bos="keep")),
        key(tiny.profile(spec, dtype="bfloat16")),
        key(data=tiny.task_data([*tiny.TEXTS, "x"])),
    ]
    hidden, sae = key(tiny.profile(spec, top_n=(4,)))
    assert hidden == first[0]
    assert sae != first[1]
    tiny.write_sae(Path(spec.saes[0].folder or ""), seed=99)
    hidden, sae = key()
    assert hidden == first[0]
    assert sae != first[1]
    tiny.write_model(Path(spec.source), "gemma2", seed=5)
    changed.append(key())
    flat = [k for pair in [first, *changed] for k in pair]
    assert len(set(flat)) == len(flat)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Start extractions of one tiny model in processes of their own, ready to be killed.

    A server process imports everything once, so a start takes no time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sae_lens", "tiny", "mosaic.extraction.extract"])
    profile = tiny.write_profile(tmp_path / "run.yaml", tiny.model_spec(tmp_path, widths=(96, 300)))

    def run(store: Path) -> Any:
        log = str(store.with_suffix(".log"))
        arguments = (str(profile), str(store), log)
        process = context.Process(target=tiny.extract_in_process, args=arguments)
        process.start()
        return process

    return run


def test_killed_at_random_points_it_ends_bit_identical(tmp_path: Path, start: Any) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    expected = blocks_on_disk(whole)
    rng = np.random.default_rng(0)
    interrupted = 0
    for _ in range(5):
        process = start(killed)
        goal = len(list(killed.rglob("shard-*"))) + int(rng.integers(5, 120))
        while process.is_alive() and len(list(killed.rglob("shard-*"))) < goal:
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.02)))
        process.kill()
        process.join()
        interrupted += process.exitcode == -signal.SIGKILL
    assert interrupted >= 2
    process = start(killed)
    process.join()
    assert process.exitcode == 0
    assert blocks_on_disk(killed) == expected
    assert not list(killed.rglob("*.tmp-*"))


def test_two_processes_do_the_work_once(tmp_path: Path, start: Any) -> None:
    store = tmp_path / "shared"
    processes = [start(store), start(store)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(store.with_suffix(".log").read_text().split()) == 75  # 300 texts, 4 to a shard


def test_a_damaged_shard_is_named_set_aside_and_computed_again(
    specs: dict, tmp_path: Path, caplog: Any
) -> None:
    spec = specs["gemma2"]
    features = extract(spec, tiny.task_data(), tiny.profile(spec), [2], store=tmp_path)
    expected = blocks_on_disk(tmp_path)
    block = features.blocks[1]
    path = features.store.shard_path(block.key, 1)
    for damage in (lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[: len(b) // 2]):
        path.write_bytes(damage(path.read_bytes()))
        with caplog.at_level(logging.WARNING):
            extract(spec, tiny.task_data(), tiny.profile(spec), [2], store=tmp_path)
        assert str(path) in caplog.text
        assert path.read_bytes() == expected[str(path.relative_to(tmp_path))]
        caplog.clear()
    assert [p.name for p in sorted(path.parent.glob("*.corrupt-*"))] == [
        "shard-00001.safetensors.corrupt-1",
        "shard-00001.safetensors.corrupt-2",
    ]


def test_layers_may_have_different_widths(specs: dict, tmp_path: Path) -> None:
    spec = specs["gemma2"]
    narrow, wide = spec.widths
    first = min(spec.layers.values())
    kept = tuple(s for s in spec.saes if s.width == narrow or s.layer == first)
    uneven = replace(spec, saes=kept)
    features = extract(
        uneven, tiny.task_data(), tiny.profile(uneven), None, [narrow, wide], store=tmp_path
    )
    found = {(block.layer, block.width) for block in features.blocks}
    assert {(s.layer, s.width) for s in kept} == {(a, b) for a, b in found if b is not None}
    assert len(kept) < len(spec.saes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [1]}, r"Layer 1 is not among the layers of 'gemma2'.*'middle': 2"),
        ({"widths": ["16k"]}, r"'gemma2' has no SAE of width '16k' at layer 0.*\['96', '300'\]"),
        ({"data": tiny.task_data([])}, "has no documents"),
        ({"data": tiny.task_data(modality="image")}, "holds images and 'gemma2' is a text model"),
        ({"profile": {"max_length": 1}}, "reads 1 tokens of a text, which leaves no room"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    specs: dict, tmp_path: Path, arguments: dict, message: str
) -> None:
    spec = specs["gemma2"]
    data = arguments.pop("data", tiny.task_data())
    profile = tiny.profile(spec, **arguments.pop("profile", {}))
    with pytest.raises(ConfigError, match=message):
        extract(spec, data, profile, store=tmp_path, **arguments)


def test_a_sae_of_another_model_is_refused(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    tiny.write_sae(Path(spec.saes[0].folder or ""), d_in=16)
    with pytest.raises(ConfigError, match="reads vectors of 16 numbers .* stream has 32"):
        extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path / "s")


def test_a_layer_beyond_the_model_is_refused(tmp_path: Path) -> None:
    spec = replace(tiny.model_spec(tmp_path / "m"), layers={"late": 9}, saes=())
    with pytest.raises(ConfigError, match="There is no layer 9: the model has 5 blocks"):
        extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path / "s")


def test_a_sae_spec_without_files_says_what_is_missing(tmp_path: Path) -> None:
    from mosaic.errors import AccessError
    from mosaic.models.saes import sae_identity

    spec = SAESpec(layer=0, width="1k", folder=str(tmp_path))
    with pytest.raises(AccessError, match="cfg.json for the SAE layer_0/width_1k"):
        sae_identity(spec, Store(tmp_path).root / "pins.json")
