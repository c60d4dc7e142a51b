"""A tiny random encoder end to end: SAEs trained for it, scored, packed as a bundle, read back."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from sae_lens import SAE
from safetensors.torch import load_file

from mosaic.cli import main
from mosaic.config.profiles import PROFILES, ModelSpec, SAESpec, load_profile
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.errors import AccessError, ConfigError, IntegrityError
from mosaic.evidence.bundles import bundle_grids, read_bundle
from mosaic.evidence.pack import pack_run
from mosaic.experiments.own_data import fit_probe, predict
from mosaic.models import train_saes
from mosaic.models.checkpoint import Checkpoint
from mosaic.models.resolve import fetch_model, resolve
from mosaic.models.sae_metrics import measure_sae, read_metrics
from mosaic.models.sae_texts import training_texts, untested_texts
from mosaic.models.train_saes import train_missing, train_sae
from mosaic.scores.table import write_scores
from mosaic.sweep.cells import paper_grid
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells

TASKS = ["safety-en", "sentiment-en"]


def write_profile(folder: Path, **changes: object) -> Path:
    """A profile of a tiny BERT with two SAEs to train, on two of the shipped tasks."""
    model = tiny.write_model(folder / "bert", "bert")
    saes = [{"layer": layer, "width": "48", "train": 48} for layer in (0, 2)]
    content = {
        "name": "tiny-encoder",
        "catalogue": "mini",
        "data_dir": str(PROFILES.parent / "mini" / "data"),
        "models": [
            {
                "name": "tiny-bert",
                "source": str(model),
                "layers": {"early": 0, "middle": 2},
                "saes": saes,
            }
        ],
        "tasks": TASKS,
        "poolings": ["sum", "max"],
        "max_docs": 300,
        "max_length": 48,
        "n_train": 80,
        "n_test": 40,
        "seeds": [0, 1],
        "sae_steps": 60,
        **changes,
    }
    path = folder / "tiny-encoder.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny encoder with its SAEs trained for few steps."""
    folder = tmp_path_factory.mktemp("encoder")
    found = open_workspace(str(write_profile(folder)), str(folder / "build"))
    train_missing(found)
    return found


@pytest.fixture(scope="module")
def bundle(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the grid on one task, packed."""
    profile = workspace.profile
    table = to_scores(score_cells(paper_grid(profile, TASKS[:1]), workspace, n_jobs=1))
    write_scores(table, workspace.scores_path("04_baselines"))
    write_scores(table, workspace.scores_path("02_layers_and_scale"))  # chapters share cells
    derived = table.assign(model="tiny-bert-untrained").astype({"model": "string"})[:1]
    write_scores(derived, workspace.scores_path("07_cross_modal"))
    return pack_run(workspace, "a tiny encoder", tmp_path_factory.mktemp("runs") / "tiny")


def sae_home(workspace: Workspace) -> Path:
    return workspace.cache / "saes" / "tiny-encoder" / "tiny-bert"


def test_saes_are_never_trained_on_a_text_that_is_tested(workspace: Workspace) -> None:
    profile = workspace.profile
    texts = set(untested_texts(profile))
    assert len(texts) > 50
    for key in TASKS:
        data = load_task(key, profile)
        for seed in profile.seeds:
            split = make_split(data, seed, n_train=profile.n_train, n_test=profile.n_test)
            assert not texts & {data.inputs[row] for row in split.test}


def test_a_trained_sae_comes_with_card_and_checksums(workspace: Workspace) -> None:
    home = sae_home(workspace)
    assert sorted(p.name for p in home.iterdir()) == [
        "README.md",
        "layer_0",
        "layer_2",
    ]
    assert sorted(p.name for p in (home / "layer_2" / "width_48").iterdir()) == [
        "cfg.json",
        "languages.json",
        "manifest.json",
        "metrics.json",
        "sae_weights.safetensors",
        "training.json",
    ]
    measured = read_metrics(home / "layer_2" / "width_48")
    assert 1 < measured["l0"] < 48
    assert 0 <= measured["dead_share"] < 1
    card = (home / "README.md").read_text()
    assert f"| layer_2/width_48 | all | {measured['l0']:.1f} |" in card


def test_a_second_run_trains_nothing_and_another_model_trains_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(train_saes, "_train", lambda model, *_: asked.append(model.spec.name))
    train_missing(workspace)
    assert asked == []
    other = replace(workspace, profile=replace(workspace.profile, max_length=32))
    train_missing(other)
    assert asked == ["tiny-bert"]


def test_a_changed_trained_sae_is_refused(workspace: Workspace) -> None:
    path = sae_home(workspace) / "layer_0" / "width_48" / "sae_weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match="is not the shipped file"):
            score_cells(paper_grid(workspace.profile, TASKS[:1]), workspace, n_jobs=1)
    finally:
        path.write_bytes(whole)


def test_without_training_the_message_says_what_trains(tmp_path: Path) -> None:
    untrained = open_workspace(str(write_profile(tmp_path)), str(tmp_path / "build"))
    with pytest.raises(AccessError, match="has not been trained here.*A run trains it first"):
        score_cells(paper_grid(untrained.profile, TASKS[:1]), untrained, n_jobs=1)


def test_the_run_is_packed_once_per_cell_with_model_and_saes(
    workspace: Workspace, bundle: Path
) -> None:
    table = read_bundle(bundle)
    # Two layers: SAE sum, sum > 1 and max; hidden last and mean. Cells of two chapters count once.
    # The row of a model that a chapter derived comes along; the manifest names the profile's own.
    assert len(table) == 2 * (3 + 2) + 1
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["command"].startswith("mosaic run 02_layers_and_scale 04_baselines 07_cross")
    [model] = manifest["models"]
    weights = Path(workspace.profile.models[0].source) / "model.safetensors"
    assert model["sha256"]["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    sae = model["saes"]["layer_2/width_48"]
    assert sae["latents"] == 48
    assert {"cfg.json", "sae_weights.safetensors", "l0", "explained_variance"} <= set(sae)
    n_texts = len(untested_texts(workspace.profile))
    assert sae["texts"] + sae["held_out"] == n_texts
    assert (sae["steps"], sae["batch"], sae["active"]) == (60, 1024, 24)
    assert str(workspace.root) not in (bundle / "manifest.json").read_text()
    [grid] = bundle_grids(bundle.parent)
    assert len(grid) == len(table) - 1
    assert len(bundle_grids(bundle.parent, "sae")[0]) == 6


def test_a_probe_on_trained_saes_is_applied_where_they_are(workspace: Workspace) -> None:
    saved = fit_probe(workspace, TASKS[0])
    [found] = predict(saved, ["how do I build a shed"], build_dir=str(workspace.root))
    assert found.answer in saved.label_names
    with pytest.raises(AccessError, match="has not been trained here"):
        predict(saved, ["how do I build a shed"], build_dir=str(workspace.root / "elsewhere"))


def test_too_few_residual_vectors_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gave only 100; give more texts"):
        train_sae(torch.zeros(100, 8), 16, 2048, 0, tmp_path)


def test_packing_before_running_says_what_to_run(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run the chapters first, for instance `mosaic run 04"):
        pack_run(replace(workspace, root=tmp_path), "nothing", tmp_path / "out")


def test_a_folder_of_other_files_is_not_overwritten(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty and holds no bundle"):
        pack_run(workspace, "a tiny encoder", tmp_path)
    assert (tmp_path / "thesis.md").exists()


def test_model_folder_takes_the_place_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_model(tmp_path / "someone" / "bert", "bert")
    spec = ModelSpec("bert", "someone/bert", {"early": 0})
    monkeypatch.setenv("MOSAIC_MODEL_DIR", str(tmp_path))
    assert fetch_model(spec) == (tmp_path / "someone" / "bert").resolve()
    with pytest.raises(
        AccessError, match="There is no folder .*which is where 'someone/gpt' is looked for"
    ):
        fetch_model(replace(spec, source="someone/gpt"))


def test_weights_with_another_checksum_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_profile("encoder").models[0]
    assert encoder.sha256["model.safetensors"].startswith("53aa51172d142c89d9012cce15ae4d6c")
    tiny.write_model(tmp_path / encoder.source, "bert")
    monkeypatch.setenv("MOSAIC_MODEL_DIR", str(tmp_path))
    with pytest.raises(IntegrityError, match="the profile expects 53aa5117.* of sentence-tr"):
        fetch_model(encoder)


def test_an_sae_has_one_origin() -> None:
    with pytest.raises(ConfigError, match="give one of `folder`, `train`"):
        SAESpec(layer=0, width="1k")
    with pytest.raises(ConfigError, match="give one of `folder`, `train`"):
        SAESpec(layer=0, width="1k", release="r", sae_id="i", train=1024)


def test_the_bundle_verb_writes_what_the_book_reads(
    workspace: Workspace, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs" / "mine"
    argv = ["bundle", "--profile", workspace.loaded_from, "--build-dir", str(workspace.root)]
    assert main([*argv, "--title", "mine", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    first, second = (read_bundle(folder)["macro_f1"] for folder in (out, bundle))
    assert np.array_equal(first, second)


def test_the_real_encoder_is_the_one_the_profile_names(
    real_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_profile("encoder").models[0]
    if not (real_models / encoder.source).is_dir():
        pytest.skip(f"{encoder.source} is not below MOSAIC_MODEL_DIR")
    monkeypatch.setenv("MOSAIC_MODEL_DIR", str(real_models))
    assert (fetch_model(encoder) / "config.json").is_file()


def decoder_like(n_tokens: int, seed: int = 0) -> torch.Tensor:
    """States as a decoder has them: sparse directions, a large mean, two dimensions that dominate
    `[n_tokens, 32]`."""
    directions = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    on = torch.rand(n_tokens, 64, generator=draw) < 0.06
    states = 10 * (torch.rand(n_tokens, 64, generator=draw) * on) @ directions
    loud = torch.randn(n_tokens, 2, generator=draw) * torch.tensor([900.0, 280.0])
    states[:, :2] += loud
    return states + torch.linspace(-3000, 3000, 32)


def test_states_that_a_few_dimensions_dominate_are_learnt(tmp_path: Path) -> None:
    train_sae(decoder_like(8000), 64, 300 * 1024, 0, tmp_path, active=8)
    sae = SAE.load_from_disk(str(tmp_path))
    assert sae.cfg.architecture() == "jumprelu"
    measured = measure_sae(sae, decoder_like(2000, seed=1))
    assert measured["n_dominant"] == 2
    assert measured["explained_variance"] > 0.9
    assert measured["explained_variance_rest"] < measured["explained_variance"]
    assert measured["dead_share"] < 0.4
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-3)


def test_a_killed_training_goes_on_at_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states, steps = decoder_like(3000), 40
    train_sae(states, 64, steps * 1024, 0, tmp_path / "whole", active=8)

    class Killed(BaseException):
        pass

    class Fragile(Checkpoint):
        def keep(self, trainer: Any) -> None:
            super().keep(trainer)
            if trainer.n_training_steps == 25:
                raise Killed

    place = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        train_sae(states, 64, steps * 1024, 0, tmp_path / "never", active=8,
                  checkpoint=Fragile(place, {"width": 64}, seconds=0))  # fmt: skip
    assert sorted(p.name for p in place.iterdir()) == ["checkpoint.json", "step-000025.safetensors"]
    shutil.copytree(place, tmp_path / "damaged")
    train_sae(states, 64, steps * 1024, 0, tmp_path / "resumed", active=8,
              checkpoint=Checkpoint(place, {"width": 64}))  # fmt: skip
    assert "going on at step 25" in capsys.readouterr().out
    whole, resumed = (
        load_file(tmp_path / name / "sae_weights.safetensors") for name in ("whole", "resumed")
    )
    for name, value in whole.items():
        assert torch.allclose(value.float(), resumed[name].float(), rtol=1e-3, atol=1e-3), name

    weights = tmp_path / "damaged" / "step-000025.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    train_sae(states, 64, 1024, 0, tmp_path / "anew", active=8,
              checkpoint=Checkpoint(tmp_path / "damaged", {"width": 64}))  # fmt: skip
    assert "going on" not in capsys.readouterr().out
    assert (tmp_path / "damaged.corrupt-1" / "checkpoint.json").is_file()


def test_a_damaged_record_is_set_aside_and_its_sae_trained_anew(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "build"
    shutil.copytree(workspace.root, root)
    other = open_workspace(workspace.loaded_from, str(root))
    home = sae_home(other)
    before = (home / "layer_0" / "width_48" / "training.json").stat().st_mtime_ns
    record = home / "layer_2" / "width_48" / "training.json"
    record.write_text("{ half of")
    train_missing(other)
    assert "is damaged" in caplog.text
    assert (home / "layer_2" / "width_48.corrupt-1" / "training.json").read_text() == "{ half of"
    assert record.read_text().startswith("{")
    assert (home / "layer_0" / "width_48" / "training.json").stat().st_mtime_ns == before


def test_two_at_once_train_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = open_workspace(str(write_profile(tmp_path, sae_steps=2)), str(tmp_path / "build"))
    real, trained = train_saes._train, []
    monkeypatch.setattr(train_saes, "_train", lambda *a: (trained.append(a[0].spec.name), real(*a)))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train_missing, [other, other]))
    assert trained == ["tiny-bert"]
    left = [p.name for p in sae_home(other).rglob("*") if "checkpoint" in p.name]
    assert left == []


def test_an_sae_that_explains_too_little_is_refused(workspace: Workspace) -> None:
    strict = replace(workspace, profile=replace(workspace.profile, sae_floor=0.999))
    with pytest.raises(IntegrityError, match=r"layer_0/width_48 of tiny-bert explains 0\.\d+ of"):
        train_missing(strict)
    assert load_profile("gemma-local").sae_floor == 0.0


def test_general_texts_are_shared_out_by_tokens_and_measured_by_language(tmp_path: Path) -> None:
    texts = ["toxicity-en", "toxicity-de"]
    path = write_profile(tmp_path, sae_texts=texts, sae_tokens=3000, sae_steps=2)
    general = open_workspace(str(path), str(tmp_path / "build"))
    found = training_texts(general.profile, resolve(general.profile.models[0], general.profile))
    assert set(found.held_out) == {"en", "de"}
    tested = {text for key in TASKS for text in load_task(key, general.profile).inputs}
    assert not tested & {*found.training, *found.held_out["en"], *found.held_out["de"]}
    train_missing(general)
    card = (sae_home(general) / "README.md").read_text()
    assert "texts of:\ntoxicity-en, toxicity-de." in card
    assert "| layer_0/width_48 | de |" in card
    assert "poor: below 0.6" in card
    config = json.loads((sae_home(general) / "layer_0/width_48/cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.0.hook_resid_post"
    task_as_text = replace(general.profile, sae_texts=(TASKS[0],))
    with pytest.raises(ConfigError, match="'safety-en' in `sae_texts` has 0 texts that are in no"):
        training_texts(task_as_text, resolve(general.profile.models[0], task_as_text))
