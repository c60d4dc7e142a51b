"""`small` and `paper`: every SAE id against sae-lens' registry, and both run end to end.

The runs use a Hub cache made here, laid out as huggingface_hub lays it out, with the Hub switched
off: random weights, the real configuration classes, and the SAE formats of the real repositories.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pictures import add_processor, picture
from safetensors.torch import save_file

from mosaic.config.profiles import Profile, load_profile, profile_names
from mosaic.config.tasks import load_catalogue
from mosaic.errors import ConfigError, IntegrityError
from mosaic.extraction.extract import extract
from mosaic.extraction.memory import latents_of
from mosaic.models.readers import image_reader
from mosaic.models.resolve import resolve
from mosaic.models.saes import load_sae, registry_path

SPECS = [
    pytest.param(model, sae, id=f"{name}-{model.name}-{sae.name}")
    for name in profile_names()
    for model in load_profile(name).models
    for sae in model.saes
    if sae.release is not None
]


@pytest.mark.parametrize(("model", "sae"), SPECS)
def test_every_sae_resolves_to_the_path_the_profile_names(model: Any, sae: Any) -> None:
    assert sae.path is not None
    repo, path = registry_path(sae)
    assert path == sae.path
    instruction_tuned = model.name.endswith("-it")
    assert ("-it-" in f"{repo}-") == instruction_tuned, (
        "an IT model must not get the base model's SAEs"
    )


@pytest.mark.parametrize(
    "name", ["encoder", "small", "gemma", "gemma-local", "gemma-vision", "paper"]
)
def test_models_have_a_sae_of_every_width_at_every_layer(name: str) -> None:
    for model in load_profile(name).models:
        assert sorted(model.layers) == ["early", "late", "middle"]
        for layer in model.layers.values():
            assert [sae.width for sae in model.saes if sae.layer == layer] == list(model.widths)


def test_layers_and_widths_are_those_of_the_paper() -> None:
    paper = load_profile("paper")
    found = {m.name: (tuple(m.layers.values()), m.widths) for m in paper.models}
    assert found["gemma-2-2b"] == ((5, 12, 19), ("16k", "65k", "1m"))
    assert found["gemma-2-9b"] == ((9, 20, 31), ("16k", "131k", "1m"))
    assert found["gemma-2-9b-it"] == ((9, 20, 31), ("16k", "131k"))
    assert paper.model("paligemma2-3b-pt-224").saes == paper.model("gemma-2-2b").saes
    with pytest.raises(
        ConfigError, match=r"'gemma-2-9b-it' has no SAE of width '1m' at layer 20.*131k"
    ):
        paper.model("gemma-2-9b-it").sae(20, "1m")


def test_gemma_3_has_the_layers_nearest_to_the_papers_depths() -> None:
    """Of the residual SAEs of "medium" sparsity in each release, in parts of the model's blocks."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    blocks = {"270m": 18, "1b": 26, "4b": 34}
    for model in (*load_profile("gemma").models, *load_profile("gemma-vision").models):
        release = get_pretrained_saes_directory()[str(model.saes[0].release)]
        assert release.model == model.source
        ids = [i for i in release.saes_map if i.endswith("width_16k_l0_medium")]
        there = [int(i.split("_")[1]) for i in ids]
        n_blocks = blocks[model.name.split("-")[2]]
        nearest = [
            min(there, key=lambda x: abs(x / n_blocks - depth / 26)) for depth in (5, 12, 19)
        ]
        assert list(model.layers.values()) == nearest
        assert model.widths == ("16k", "65k")
        assert all(sae.sae_id in release.neuronpedia_id for sae in model.saes)


def test_the_local_gemma_names_the_files_its_models_were_made_of() -> None:
    first, second = load_profile("gemma-local").models
    assert "sha256 a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818" in first.note
    assert "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in second.note
    for model, n_blocks in ((first, 18), (second, 30)):
        assert "dequantized" in model.note
        depths = [round(layer * 18 / n_blocks) for layer in model.layers.values()]
        assert depths == [5, 9, 12]
    assert second.chat


def test_the_second_part_of_the_local_gemma_differs_by_a_wider_sae_alone() -> None:
    """Its scores count as scores of the same run."""
    run, part = load_profile("gemma-local"), load_profile("gemma-widths")
    [model] = part.models
    assert {m.name: m.source for m in run.models}[model.name] == model.source
    whole = run.model(model.name)
    assert model.note == whole.note
    assert model.layers == {"middle": whole.layer("middle")}
    assert model.saes[0] == whole.sae(whole.layer("middle"), "4k")
    assert [sae.width for sae in model.saes] == ["4k", "16k"]
    own = {"name": part.name, "description": part.description, "models": part.models}
    own |= {"thresholds": part.thresholds}  # which the first part has
    assert replace(run, **own) == part


def test_no_text_of_a_task_trains_the_local_gemmas_saes() -> None:
    profile = load_profile("gemma-local")
    catalogue = load_catalogue(str(profile.sae_catalogue))
    assert set(profile.sae_texts) == set(catalogue)
    tasks = {profile.task(key).dataset for key in profile.tasks}
    assert not tasks & {task.dataset for task in catalogue.values()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: Any) -> Path:
    """An empty Hub cache, and no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def snapshot(hub: Path, repo: str, commit: str = "c0ffee") -> Path:
    """The folder of a repository's files in the cache, with `main` pointing at it."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    return folder / "snapshots" / commit


def write_gemma_scope(hub: Path, sae: Any, d_model: int, seed: int = 0) -> np.ndarray:
    """`params.npz` with the names and shapes of Gemma Scope; returns the 200 latents that can fire,
    which lie all over its width."""
    repo, path = registry_path(sae)
    file = snapshot(hub, repo) / path / "params.npz"
    file.parent.mkdir(parents=True)
    rng, width = np.random.default_rng(seed), latents_of(sae)
    alive = np.linspace(0, width - 1, 200).astype(int)
    w_enc = np.zeros((d_model, width), np.float16)
    w_enc[:, alive] = rng.normal(size=(d_model, 200)) / d_model**0.5
    np.savez(
        file,
        W_enc=w_enc,
        W_dec=np.zeros((width, d_model), np.float16),
        b_enc=np.full(width, -0.1, np.float32),
        b_dec=np.zeros(d_model, np.float32),
        threshold=np.full(width, 0.5, np.float32),
    )
    return alive


def write_sae_lens_5(hub: Path, sae: Any, **config: Any) -> None:
    """The folder sae-lens wrote before version 6, as the repositories of `small` have it."""
    repo, path = registry_path(sae)
    folder = snapshot(hub, repo) / path
    folder.mkdir(parents=True)
    cfg = {
        "architecture": "standard",
        "d_in": tiny.D_MODEL,
        "d_sae": 80,
        "dtype": "torch.float32",
        "device": "cuda",
        "hook_name": sae.sae_id,
        "hook_layer": sae.layer,
        "prepend_bos": False,
        "normalize_activations": "none",
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        **config,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    torch.manual_seed(sae.layer)
    weights = {
        "W_enc": torch.randn(tiny.D_MODEL, 80) * 0.3,
        "W_dec": torch.randn(80, tiny.D_MODEL),
        "b_enc": torch.full((80,), -1.0),
        "b_dec": torch.randn(tiny.D_MODEL) * 0.1,
    }
    save_file(weights, folder / "sae_weights.safetensors")


def write_gemma_scope_2(hub: Path, sae: Any, d_model: int) -> np.ndarray:
    """`config.json` and `params.safetensors` as Gemma Scope 2 has them; returns the 200 latents
    that can fire."""
    repo, path = registry_path(sae)
    folder = snapshot(hub, repo) / path
    folder.mkdir(parents=True)
    width = latents_of(sae)
    alive = np.linspace(0, width - 1, 200).astype(int)
    w_enc = torch.zeros(d_model, width)
    torch.manual_seed(0)
    w_enc[:, alive] = torch.randn(d_model, 200) / d_model**0.5
    weights = {
        "w_enc": w_enc,
        "w_dec": torch.zeros(width, d_model),
        "b_enc": torch.full((width,), -0.1),
        "b_dec": torch.zeros(d_model),
        "threshold": torch.full((width,), 0.5),
    }
    save_file(weights, folder / "params.safetensors")
    config = {"architecture": "jump_relu", "model_name": repo.replace("gemma-scope-2", "gemma-v3")}
    config["hf_hook_point_in"] = f"model.layers.{sae.layer}.output"
    (folder / "config.json").write_text(json.dumps(config))
    return alive


def short(profile: Profile) -> Profile:
    return replace(profile, shard_docs=4, max_length=32, token_budget=128)


@pytest.mark.parametrize(
    ("name", "layer", "width", "d_model"),
    [
        ("gemma-2-2b", 5, "16k", 2304),
        ("gemma-2-2b", 5, "65k", 2304),
        ("gemma-2-9b", 9, "16k", 3584),
        ("gemma-2-9b-it", 9, "16k", 3584),
        ("paligemma2-3b-pt-224", 5, "16k", 2304),
    ],
)
def test_paper_runs_on_gemma_scope_files(
    hub: Path, tmp_path: Path, name: str, layer: int, width: str, d_model: int
) -> None:
    """Real widths of stream and SAE, small in all else. Nothing is in the cache but the model and
    its own SAE: 9B-IT cannot be given the base model's."""
    profile = short(load_profile("paper"))
    model = profile.model(name)
    folder = snapshot(hub, model.source)
    sizes = {"hidden_size": d_model, "num_hidden_layers": layer + 2, "layer_types": None}
    if model.kind == "vision":
        tiny.write_model(folder, "paligemma", image_size=224, max_position_embeddings=512, **sizes)
        add_processor(str(folder), 224)
        data, tokens = tiny.task_data([picture(i) for i in range(2)], "image"), [256, 256]
    else:
        tiny.write_model(folder, "gemma2", **sizes)
        data, tokens = tiny.task_data(["You are a pest.", "", "a"]), [15, 0, 1]
    sae = model.sae(layer, width)
    alive = write_gemma_scope(hub, sae, d_model)
    features = extract(model, data, profile, [layer], [width], tmp_path / "s")
    assert features.n_tokens.tolist() == tokens
    matrix = features.matrix(layer, width, "top_n", top_n=20)
    assert matrix.shape == (len(data), latents_of(sae))
    assert set(matrix.indices) <= set(alive)
    assert matrix.indices.max() > 0.9 * latents_of(sae)
    assert matrix.sum() == 20 * sum(tokens)
    assert features.matrix(layer, width, "sum", threshold=1.0).nnz > 0
    assert features.hidden(layer, "last").shape == (len(data), d_model)
    pins = json.loads((tmp_path / "s" / "pins.json").read_text())
    assert pins[model.source]["commit"] == "c0ffee"
    assert list(pins[f"{sae.release}/{sae.sae_id}"]["sha256"]) == ["params.npz"]
    assert ("-it-" in str(sae.release)) == name.endswith("-it")


@pytest.mark.parametrize(
    ("profile_name", "name", "d_model"),
    [
        ("gemma", "gemma-3-270m", 640),
        ("gemma", "gemma-3-1b-it", 1152),
        ("gemma-vision", "gemma-3-4b-pt", 2560),
    ],
)
def test_gemma_3_runs_on_gemma_scope_2_files(
    hub: Path, tmp_path: Path, profile_name: str, name: str, d_model: int
) -> None:
    """Real widths of stream and SAE and the model's own image size, small in all else."""
    profile = short(load_profile(profile_name))
    model = profile.model(name)
    folder, layer = snapshot(hub, model.source), model.layers["early"]
    sizes = {"hidden_size": d_model, "num_hidden_layers": layer + 2, "max_position_embeddings": 512}
    if model.kind == "vision":
        tiny.write_model(folder, "gemma3-vision", image_size=896, **sizes)
        add_processor(str(folder), 896)
        data, tokens = tiny.task_data([picture(i) for i in range(2)], "image"), [256, 256]
        layout = image_reader(resolve(model, profile))
        # "\n" is one token of the tiny tokenizer: BOS, two of them and the mark in front.
        assert (len(layout.before), len(layout.after)) == (4, 3)
        kinds = layout.read(data.inputs).collate(np.arange(1)).arguments["token_type_ids"][0]
        assert kinds.sum() == 256
        assert kinds[:4].sum() == 0
    else:
        tiny.write_model(folder, "gemma3", **sizes)
        data, tokens = tiny.task_data(["You are a pest.", "", "a"]), [15, 0, 1]
    sae = model.sae(layer, "16k")
    alive = write_gemma_scope_2(hub, sae, d_model)
    features = extract(model, data, profile, [layer], ["16k"], tmp_path / "s")
    assert features.n_tokens.tolist() == tokens
    matrix = features.matrix(layer, "16k", "top_n", top_n=20)
    assert matrix.shape == (len(data), latents_of(sae))
    assert set(matrix.indices) <= set(alive)
    assert features.hidden(layer, "last").shape == (len(data), d_model)


def test_small_runs_on_the_formats_of_its_repositories(hub: Path, tmp_path: Path) -> None:
    import transformers

    profile = short(load_profile("small"))
    top_k = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}}
    for model in profile.models:
        folder = snapshot(hub, model.source)
        n_blocks = max(model.layers.values()) + 2
        if model.name == "gpt2":
            tiny.write_model(folder, "gpt2", n_layer=n_blocks)
        else:
            config = transformers.GPTNeoXConfig(
                hidden_size=tiny.D_MODEL,
                num_hidden_layers=n_blocks,
                num_attention_heads=4,
                intermediate_size=64,
                vocab_size=300,
            )
            network = transformers.GPTNeoXForCausalLM(config)
            tiny.spread(network)
            network.save_pretrained(folder)
            tiny.write_tokenizer(folder, "gpt2")
        for sae in model.saes:
            own = {**top_k, "normalize_activations": "layer_norm"} if model.name == "gpt2" else {}
            write_sae_lens_5(hub, sae, **own)
        features = extract(model, tiny.task_data(), profile, store=tmp_path / "s")
        for sae in model.saes:
            matrix = features.matrix(sae.layer, sae.width)
            assert matrix.shape == (len(tiny.TEXTS), 80)
            assert matrix.nnz > 0
        assert features.n_tokens.tolist()[2:4] == [0, 1]  # no BOS: an empty text has no token
    loaded = load_sae(profile.model("gpt2").saes[0], torch.device("cpu"), tiny.D_MODEL)
    assert loaded.cfg.architecture() == "topk"
    assert loaded.cfg.normalize_activations == "layer_norm"


def test_a_sae_that_changed_on_the_hub_is_refused(hub: Path, tmp_path: Path) -> None:
    profile = short(load_profile("small"))
    model = profile.model("pythia-70m")
    source = str(tiny.write_model(tmp_path / "model", "llama"))
    model = replace(model, source=source, saes=model.saes[:1])
    write_sae_lens_5(hub, model.saes[0])
    arguments = (tiny.task_data(), profile, [1], ["32k"], tmp_path / "s")
    extract(model, *arguments)
    repo, path = registry_path(model.saes[0])
    old = snapshot(hub, repo)
    new = snapshot(hub, repo, "decade")
    (new / path).mkdir()
    for file in (old / path).iterdir():
        (new / path / file.name).write_bytes(file.read_bytes())
    extract(model, *arguments)  # a commit that leaves the SAE alone
    weights = new / path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(IntegrityError, match=r"first downloaded \(commit c0ffee\): sae_weights"):
        extract(model, *arguments)


def test_a_sae_that_is_not_in_the_cache_says_how_to_get_it(hub: Path, tmp_path: Path) -> None:
    from mosaic.errors import AccessError

    profile = load_profile("small")
    source = str(tiny.write_model(tmp_path / "model", "llama"))
    model = replace(profile.model("pythia-70m"), source=source)
    with pytest.raises(AccessError, match="not in the local cache and the Hub cannot be reached"):
        extract(model, tiny.task_data(), profile, [1], ["32k"], tmp_path / "s")


def test_own_texts_are_not_chosen_in_the_few_folds_of_mini(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    mine = "{name: mine, dataset: ./t.csv, input_field: text, label_field: label}"
    path.write_text(f"base: mini\ncatalogue:\n  - {mine}\n")
    assert load_profile("mini").folds < 5
    assert load_profile(str(path)).folds == 5
