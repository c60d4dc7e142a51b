"""Fault drills; book/reliability.md lists them beside the promises they hold."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from places import ROOT

from mosaic.cli import main
from mosaic.config.profiles import ModelSpec, load_profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import load_task
from mosaic.data.splits import inner_folds
from mosaic.errors import AccessError, ConfigError, IntegrityError, ResourceError
from mosaic.extraction.extract import extract
from mosaic.models.hub import check_pin
from mosaic.models.resolve import fetch_model
from mosaic.publish.notebook import show_table
from mosaic.storage import files as storage_files
from mosaic.storage.manifest import verify_folder, write_manifest
from mosaic.sweep.cells import Cell
from mosaic.sweep.run import score_cells


@pytest.fixture
def benchmark(monkeypatch: Any) -> Callable[[str], Any]:
    """Imports a module of `benchmarks/`, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny.model_spec(tmp_path_factory.mktemp("model with spaces é"))


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_disk_that_fills_up_loses_nothing_that_was_stored(
    spec: ModelSpec, tmp_path: Path, monkeypatch: Any
) -> None:
    data, profile = tiny.task_data(), tiny.profile(spec)
    extract(spec, data, profile, store=tmp_path / "whole")
    real, written = os.fsync, []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    full = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(storage_files.os, "fsync", fsync)
        with pytest.raises(ResourceError, match="is full; free some space and run again"):
            extract(spec, data, profile, store=full)
    assert len(list(full.rglob("shard-*.safetensors"))) == 7
    assert not list(full.rglob("*.tmp-*")), "half of a file on a full disk"
    extract(spec, data, profile, store=full)
    assert files(full) == files(tmp_path / "whole")


def test_a_full_disk_while_scores_are_written_is_one_sentence(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage_files.os, "fsync", fsync)
    workspace = Workspace(load_profile("mini", n_train=60, n_test=40), tmp_path, "mini")
    with pytest.raises(ResourceError, match=r"The disk of .* is full"):
        score_cells([Cell("safety-en", "length")], workspace, n_jobs=1)


def test_a_cache_that_cannot_be_written_is_still_read(
    spec: ModelSpec, tmp_path: Path, monkeypatch: Any
) -> None:
    """Root may write anywhere, so the refusal is made where the package asks to write."""
    data, profile = tiny.task_data(), tiny.profile(spec)
    expected = extract(spec, data, profile, store=tmp_path).matrix(0, "96").toarray()

    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(storage_files.os, "replace", refuse)
    again = extract(spec, data, profile, store=tmp_path)
    np.testing.assert_array_equal(again.matrix(0, "96").toarray(), expected)
    with pytest.raises(ResourceError, match="cannot be written; name a folder that can"):
        extract(spec, data, profile, store=tmp_path / "cold")


def test_a_half_written_manifest_is_written_anew(
    spec: ModelSpec, tmp_path: Path, caplog: Any
) -> None:
    data, profile = tiny.task_data(), tiny.profile(spec)
    features = extract(spec, data, profile, [0], store=tmp_path)
    expected = files(tmp_path)
    path = tmp_path / features.blocks[1].key / "manifest.json"
    whole = path.read_text()
    for damaged in (whole[: len(whole) // 2], "", whole.replace('"d_sae": 96', '"d_sae": 97')):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match="is gone .* run the extraction again"):
            features.matrix(0, "96")
        extract(spec, data, profile, [0], store=tmp_path)
        assert f"{path} is damaged" in caplog.text
        path.with_name("manifest.json.corrupt-1").unlink()
        assert files(tmp_path) == expected


def test_a_changed_score_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A digit that changed on disk is as valid JSON as before."""
    workspace = Workspace(load_profile("mini", n_train=60, n_test=40), tmp_path, "mini")
    cell = Cell("safety-en", "base_rate")
    [result] = score_cells([cell], workspace, n_jobs=1)
    [path] = (workspace.cache / "cells").rglob("*.json")
    score = result.row["macro_f1"]
    assert str(score) in path.read_text()
    path.write_text(path.read_text().replace(str(score), "0.99"))
    [again] = score_cells([cell], workspace, n_jobs=1)
    assert again.row["macro_f1"] == score
    assert f"{path} is damaged (its checksum does not fit)" in caplog.text


def test_half_written_pins_are_named(tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    check_pin(pins, "org/model", "c1", {"w": "aa"})
    pins.write_text(pins.read_text()[:30])
    with pytest.raises(IntegrityError, match=r"pins.json is damaged .*: delete it"):
        check_pin(pins, "org/model", "c1", {"w": "aa"})


def test_a_manifest_of_another_program_is_passed_over(tmp_path: Path) -> None:
    """A web page's manifest.json above a folder is not ours; ours further up still counts."""
    ours, inner = tmp_path / "ours", tmp_path / "ours" / "app" / "model"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    write_manifest(ours)
    foreign = ({"name": "page", "icons": []}, {"files": ["a.js"]}, {"files": {"a.js": "b"}}, [], 3)
    for content in foreign:
        (ours / "app" / "manifest.json").write_text(json.dumps(content))
        verify_folder(inner)
    (inner / "config.json").write_text("[]")
    with pytest.raises(IntegrityError, match="config.json is not the shipped file"):
        verify_folder(inner)
    (ours / "manifest.json").write_text((ours / "manifest.json").read_text()[:-9])
    with pytest.raises(IntegrityError, match="is not readable JSON"):
        verify_folder(inner)


def test_shipped_files_without_their_manifest_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("mosaic.storage.manifest.MINI", tmp_path.resolve())
    (tmp_path / "models").mkdir()
    with pytest.raises(IntegrityError, match=r"has no manifest.json. Restore it"):
        verify_folder(tmp_path / "models")


@pytest.fixture
def no_network(monkeypatch: Any) -> None:
    """Nothing may connect, whatever the library or its settings."""

    def refuse(*_args: Any) -> None:
        raise AssertionError("something went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("no_network")
def test_without_network_a_warm_cache_is_enough(
    spec: ModelSpec, tmp_path: Path, monkeypatch: Any
) -> None:
    hub, commit = tmp_path / "models--org--tiny", "a" * 40
    shutil.copytree(spec.source, hub / "snapshots" / commit)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    remote = replace(spec, source="org/tiny")
    data = tiny.task_data()
    found = extract(remote, data, tiny.profile(remote), [0], store=tmp_path / "a")
    local = extract(spec, data, tiny.profile(spec), [0], store=tmp_path / "b")
    np.testing.assert_array_equal(found.hidden(0), local.hidden(0))
    with pytest.raises(
        AccessError, match="is not in the local cache and the Hub cannot be reached"
    ):
        fetch_model(replace(spec, source="org/other"))


@pytest.mark.usefixtures("no_network")
def test_the_mini_world_needs_no_network(tmp_path: Path) -> None:
    profile = replace(load_profile("mini"), shard_docs=16)
    data = load_task("toxicity-en", profile).subset(np.arange(8))
    model = profile.text_models[0]
    features = extract(model, data, profile, [model.layers["early"]], store=tmp_path)
    assert features.n_tokens.min() > 0


def hub_folder(root: Path, table: dict[str, list], **entry: Any) -> Any:
    """A dataset folder laid out like the Hub's, and the profile that reads it."""
    folder = root / "data" / "org" / "set"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n---\n"
    )
    task = {
        **{"name": "t", "role": "intent", "dataset": "org/set", "split": "train"},
        **{"input_field": "text", "label_field": "label", "licence": "MIT", "section": "4"},
        **entry,
    }
    (root / "tasks.yaml").write_text(yaml.safe_dump([task]))
    return tiny.profile(catalogue=str(root / "tasks.yaml"), data_dir=str(root / "data"))


def test_a_task_that_changed_upstream_is_refused_or_computed_anew(
    spec: ModelSpec, tmp_path: Path
) -> None:
    labels = [0, 1, 0, 1]
    profile = hub_folder(tmp_path, {"text": ["a", "b", "c", "d"], "label": labels}, rows=4)
    before = extract(spec, load_task("t", profile), profile, [0], (), tmp_path / "s")
    hub_folder(tmp_path, {"text": ["a", "B", "c", "d"], "label": labels}, rows=4)
    after = extract(spec, load_task("t", profile), profile, [0], (), tmp_path / "s")
    assert before.blocks[0].key != after.blocks[0].key
    same = (before.hidden(0) == after.hidden(0)).all(axis=1)
    assert same.tolist() == [True, False, True, True]
    hub_folder(tmp_path, {"text": ["a"] * 5, "label": [*labels, 0]}, rows=4)
    with pytest.raises(IntegrityError, match="has 5 rows where 4 were expected"):
        load_task("t", profile)


def test_no_fold_is_fitted_on_one_class() -> None:
    for labels, groups in (
        (np.array([0] * 9 + [1]), None),
        (np.array([0] * 6 + [1] * 4), np.array([*range(6), 6, 6, 6, 6])),
    ):
        with pytest.raises(ConfigError, match="needs two classes with at least 2 training"):
            inner_folds(labels, groups, 5, seed=0)
    labels = np.array([0] * 9 + [1] * 2)
    for fit, _ in inner_folds(labels, None, 5, seed=0):
        assert set(labels[fit]) == {0, 1}


def test_a_text_of_a_hundred_thousand_tokens_is_cut_and_the_empty_one_kept(
    spec: ModelSpec, tmp_path: Path
) -> None:
    texts = ["", "word " * 20_000 + "x" * 5, " ", "short"]  # a token is a byte here
    features = extract(spec, tiny.task_data(texts), tiny.profile(spec), [0], (), tmp_path)
    assert features.n_tokens.tolist() == [0, 63, 1, 5]
    assert not features.hidden(0)[0].any()
    cut = extract(
        spec, tiny.task_data([texts[1][:63]]), tiny.profile(spec), [0], (), tmp_path / "cut"
    )
    np.testing.assert_allclose(features.hidden(0)[1], cut.hidden(0)[0], rtol=1e-5, atol=1e-6)


def test_invalid_unicode_is_refused_with_its_row(spec: ModelSpec, tmp_path: Path) -> None:
    data = tiny.task_data(["fine", "half a \ud83d character"])
    with pytest.raises(IntegrityError, match=r"row 2: .* is not valid Unicode"):
        extract(spec, data, tiny.profile(spec), store=tmp_path)


def test_bytes_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    profile = hub_folder(tmp_path, {"text": ["a", "b"], "label": [0, 1]})
    raw = pa.array([b"caf\xe9", b"b"]).view(pa.string())
    table = pa.table({"text": raw, "label": [0, 1]})
    pq.write_table(table, tmp_path / "data" / "org" / "set" / "train.parquet")
    with pytest.raises(IntegrityError, match="org/set"):
        load_task("t", profile)


def test_markup_in_dataset_text_stays_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}$x$"
    page = show_table(pd.DataFrame({"text": [hostile]}), caption=hostile).data
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") == 3, "caption, name of the box, cell"


def test_paths_with_spaces_and_umlauts(tmp_path: Path, capsys: Any) -> None:
    """The CLI end to end, with everything it reads and writes in such a folder."""
    home = tmp_path / "my wörk (1) & more"
    spec = tiny.model_spec(home / "model")
    profile = home / "my profile.yaml"
    hub_folder(home, {"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
    tiny.write_profile(profile, spec)
    settings = {**json.loads(profile.read_text()), "tasks": ["t"]}
    settings |= {"catalogue": "./tasks.yaml", "data_dir": "./data"}
    profile.write_text(json.dumps(settings))
    build = str(home / "a build")
    assert main(["extract", "--profile", str(profile), "--build-dir", build]) == 0
    assert "4 documents" in capsys.readouterr().out
    assert list(Path(build).rglob("manifest.json"))


def test_errors_have_exit_codes_of_their_own(tmp_path: Path, capsys: Any) -> None:
    broken = tmp_path / "profile.yaml"
    broken.write_text("name: [")
    assert main(["extract", "--profile", str(broken)]) == ConfigError.exit_code == 2
    assert (AccessError.exit_code, IntegrityError.exit_code, ResourceError.exit_code) == (3, 4, 5)
    said = capsys.readouterr().err
    assert said.startswith("mosaic: ")
    assert "Traceback" not in said


def test_no_token_is_written_anywhere(spec: ModelSpec, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    extract(spec, tiny.task_data(), tiny.profile(spec), [0], (), tmp_path)
    assert not any(b"hf_secret" in content for content in files(tmp_path).values())


def test_random_damage_never_crashes_a_reader(benchmark: Callable[[str], Any]) -> None:
    """A few rounds of `python benchmarks/fuzz.py`, which runs for ten minutes by itself."""
    counts = benchmark("fuzz").fuzz(seed=1, seconds=300, rounds=12)
    outcomes = {outcome for _, outcome in counts}
    assert "crash" not in outcomes, counts
    assert len({name for name, _ in counts}) == 13
    assert sum(n for (_, outcome), n in counts.items() if outcome != "read") > 100


def test_damaged_folders_never_crash(benchmark: Callable[[str], Any]) -> None:
    """A few rounds of `python benchmarks/damaged_folders.py`, which tries 2,000 by itself."""
    counts = benchmark("damaged_folders").damage_all(24)
    outcomes = [outcome for *_, outcome in counts]
    assert "crash" not in outcomes, counts
    assert "refused" in outcomes


def test_memory_of_the_store_does_not_grow_with_its_documents(
    benchmark: Callable[[str], Any], tmp_path: Path
) -> None:
    table = benchmark("store_scale").curve([4_096, 32_768], tmp_path)
    peak = table.pivot(index="stage", columns="documents", values="peak_mb")
    for stage in ("write", "resume", "verify"):
        assert peak.loc[stage, 32_768] < peak.loc[stage, 4_096] + 10, table
    block = table[(table["stage"] == "read") & (table["documents"] == 32_768)]
    assert block["peak_mb"].item() < 4 * block["mb_on_disk"].item() + 10


def test_the_price_list_of_the_paper_is_the_formulas(
    benchmark: Callable[[str], Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    module = benchmark("paper_cost")
    shipped = pd.read_csv(ROOT / "book" / "paper_cost.csv")
    pd.testing.assert_frame_equal(module.cost_table(), shipped, check_dtype=False)


def test_every_test_named_in_the_table_of_promises_exists() -> None:
    page = (ROOT / "book" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert len(named) >= 30
    found = {
        (path.stem, name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M)
    }
    missing = [f"{file}::{name}" for file, name in named if (file, name) not in found]
    assert not missing, f"the page names tests that do not exist: {missing}"
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.M))
    about_the_page = {name for name in here if "table" in name}
    unlisted = here - {name for _, name in named} - about_the_page
    assert not unlisted, f"drills without a promise: {unlisted}"


def test_the_protections_that_were_removed_are_those_of_the_table(
    benchmark: Callable[[str], Any],
) -> None:
    """What `benchmarks/remove_protection.py` takes out is still there, and the page names it."""
    page = (ROOT / "book" / "reliability.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.count("|") == 5]
    tried = {cells[3].strip(" `"): cells[4].strip() for cells in rows if cells[4].strip("- ")}
    protections = benchmark("remove_protection").PROTECTIONS
    assert {p.test for p in protections} == set(tried) - {"test"}
    for protection in protections:
        source = (ROOT / "mosaic" / f"{protection.module}.py").read_text(encoding="utf-8")
        assert source.count(protection.old) == 1, protection.what
        assert protection.what == tried[protection.test]
