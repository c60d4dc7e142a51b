"""What an extraction asks for: models with their tasks, keys of blocks, and no work for nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pictures import add_processor, picture

from mosaic.cli import main
from mosaic.config.profiles import ModelSpec, load_profile
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError, ResourceError
from mosaic.experiments.behaviour import behaviour_cells
from mosaic.experiments.images import image_tasks
from mosaic.experiments.transfer import languages_of, transfer_cells
from mosaic.extraction import cost, engines, memory
from mosaic.extraction.extract import extract, extract_all, models_with_tasks
from mosaic.extraction.jobs import resolve_job
from mosaic.extraction.memory import (
    asking_bytes,
    device_memory,
    lack_of_memory,
    memory_bytes,
    require_memory_to_ask,
)
from mosaic.extraction.tower import tower_key
from mosaic.models.resolve import resolve
from mosaic.storage.shards import Store
from mosaic.sweep.source import Source


def named(*arguments: Any) -> list[tuple[str, list[str]]]:
    return [(model.name, [t.key for t in tasks]) for model, tasks in models_with_tasks(*arguments)]


def test_each_model_gets_the_tasks_it_reads() -> None:
    mini = load_profile("mini")
    text = [model.name for model in mini.text_models]
    texts = [key for key in mini.tasks if mini.task(key).modality == "text"]
    seen = [key for key in mini.tasks if key not in texts]
    assert seen
    assert named(mini) == [*((name, texts) for name in text), ("mini-vlm", seen)]
    assert named(mini, ["mini-small"]) == [("mini-small", texts)]
    shown = image_tasks(mini)[0]
    both = ["toxicity-en", shown]
    assert named(mini, None, both) == [
        *((name, ["toxicity-en"]) for name in text),
        ("mini-vlm", [shown]),
    ]
    assert named(mini, ["mini-vlm"], ["toxicity-en"]) == [("mini-vlm", ["toxicity-en"])]
    with pytest.raises(ConfigError, match=f"'{shown}' holds images, which none of the models"):
        models_with_tasks(mini, ["mini-small"], both)
    with pytest.raises(ConfigError, match="'mini-small' is of kind 'text' and reads none of the"):
        models_with_tasks(mini, ["mini-small", "mini-vlm"], [shown])


@pytest.mark.parametrize(
    "words", [[], ["--models", "mini-small"], ["--tasks", "toxicity-en", "safety-en"]]
)
def test_the_dry_run_prices_what_would_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same models with the same tasks, and each model is asked for once for all its tasks."""
    priced: list[Any] = []
    run: list[Any] = []

    def price(_profile: Any, work: Any) -> tuple[()]:
        priced.extend((model.name, [task.key for task in tasks]) for model, tasks in work)
        return ()

    def compute(model: Any, data: Any, *_: Any, **__: Any) -> list[Any]:
        run.append((model.name, [d.task.key for d in data]))
        return [argparse.Namespace(n_docs=len(d)) for d in data]

    monkeypatch.setattr("mosaic.extraction.cost.estimate", price)
    monkeypatch.setattr("mosaic.extraction.cost.cost_table", str)
    monkeypatch.setattr("mosaic.extraction.extract.extract_all", compute)
    base = ["extract", "--profile", "mini", "--build-dir", str(tmp_path), *words]
    assert main([*base, "--dry-run"]) == 0
    assert main(base) == 0
    assert priced == run != []


def test_images_are_extracted_or_refused_and_never_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = load_profile("mini")
    shown = image_tasks(mini)[0]
    base = ["extract", "--profile", "mini", "--build-dir", str(tmp_path), "--tasks", shown]
    assert main([*base, "--models", "mini-small"]) == ConfigError.exit_code
    assert "holds images, which none of the models" in capsys.readouterr().err


def test_several_tasks_take_one_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    loads: list[int] = []
    from mosaic.extraction import jobs

    real = jobs.load_model
    monkeypatch.setattr(jobs, "load_model", lambda *a: loads.append(1) or real(*a))
    several = [tiny.task_data(), tiny.task_data(["other texts", "b"])]
    found = extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    assert [f.n_docs for f in found] == [len(tiny.TEXTS), 2]
    assert loads == [1]
    extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    assert loads == [1]


def test_a_task_is_whole_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of seventeen tasks, killed in the twelfth, computed the first eleven again."""
    spec = tiny.model_spec(tmp_path / "m")
    several = [tiny.task_data(), tiny.task_data(["other texts", "b"])]
    from mosaic.extraction.jobs import ShardWorker

    real, asked = ShardWorker.shard, []

    def dies(self: Any, shard: int, blocks: Any, bar: Any) -> None:
        asked.append(list(self.job.data.ids))
        if asked.count(list(several[1].ids)) == 1:
            raise KeyboardInterrupt
        real(self, shard, blocks, bar)

    monkeypatch.setattr(ShardWorker, "shard", dies)
    with pytest.raises(KeyboardInterrupt):
        extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    before = len(asked)
    extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    assert asked[before:] == [list(several[1].ids)], "the first is not read again"


def test_no_cluster_starts_where_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, data = tiny.model_spec(tmp_path / "m"), tiny.task_data()
    first = extract(spec, data, tiny.profile(spec), store=tmp_path / "s")

    def connected() -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("mosaic.extraction.ray.connect", connected)
    again = extract(spec, data, tiny.profile(spec), store=tmp_path / "s", engine="ray")
    assert again.blocks == first.blocks
    assert list(engines.parallel("ray", 2)([])) == []
    with pytest.raises(AssertionError, match="a cluster was started"):
        engines.parallel("ray", 2)([(len, ("a",), {})])
    assert list(engines.parallel("local", 1)((len, (w,), {}) for w in ("a", "bc"))) == [1, 2]


def test_keys_know_libraries_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of a library, or another source, and old features are not read."""
    from mosaic.extraction import jobs
    from mosaic.storage import versions

    spec = tiny.model_spec(tmp_path / "m", "paligemma")
    add_processor(spec.source, 28)
    profile, store = tiny.profile(spec), Store(tmp_path / "s")
    pictures = tiny.task_data([picture(0)], "image")

    def keys() -> tuple[str, ...]:
        job = resolve_job(spec, tiny.task_data(), profile, [0], None, store)
        return (*(b.key for b in job.blocks), tower_key(resolve(spec, profile), pictures))

    seen = [keys()]
    assert keys() == seen[0]
    real, read = versions.package_version, Path.read_bytes
    for package in ("torch", "transformers", "sae-lens"):
        with monkeypatch.context() as patch:
            patch.setattr(
                versions, "package_version", lambda p, n=package: "0" if p == n else real(p)
            )
            seen.append(keys())
    assert seen[3][2] == seen[0][2], "no SAE reads the tower"
    for module in jobs.BLOCK_CODE:
        with monkeypatch.context() as patch:
            patch.setattr(
                Path, "read_bytes",
                lambda p, m=module: read(p) + (b"#" if str(p).endswith(m) else b""),
            )  # fmt: skip
            seen.append(keys())
    blocks = [key for found in seen for key in found[:2]]
    assert len(set(blocks)) == len(blocks)
    assert len({found[2] for found in seen}) >= 5


class Hub:
    """A Hub of which only SAEs are asked, each a few bytes; it remembers what was fetched."""

    def __init__(self, root: Path) -> None:
        self.root, self.fetched = root, []

    def download(self, repo: str, allow_patterns: list[str], **_: Any) -> str:
        folder = self.root / repo / "c0ffee"
        path = folder / allow_patterns[0]
        path.mkdir(parents=True, exist_ok=True)
        (path / "params.npz").write_text(f"{repo}/{allow_patterns[0]}")
        self.fetched.append(allow_patterns[0])
        return str(folder)


@pytest.mark.parametrize("chapter", ["05", "06"])
def test_naming_cells_fetches_no_sae_that_none_of_them_reads(
    chapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's models have SAEs of a million latents, which chapters 05 and 06 never read."""
    paper, hub = load_profile("paper"), Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.download)
    folder = tiny.write_model(
        tmp_path / "m", "gemma2", num_hidden_layers=20, layer_types=None, intermediate_size=16
    )
    model = replace(paper.model("gemma-2-2b"), source=str(folder), revision=None, sha256={})
    profile = replace(paper, models=(model,))
    if chapter == "05":
        cells = transfer_cells(profile, languages_of("toxicity", profile), model)
    else:
        cells = behaviour_cells(profile, ["tiny"])
    source = Source(Workspace(profile, tmp_path / "b", "paper"), tiny.task_data(), model.name)
    for cell in cells:
        if cell.model is not None:
            source.identity(cell)
    wanted = {(c.layer, c.width) for c in cells if c.width is not None}
    assert {width for _, width in wanted} == {"16k"}
    assert sorted(hub.fetched) == sorted(
        str(model.sae(layer, width).path) for layer, width in wanted
    )


def test_a_block_is_named_as_the_extraction_of_all_names_it(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m", widths=(96, 300))
    store, profile = Store(tmp_path / "s"), tiny.profile(spec)
    job = resolve_job(spec, tiny.task_data(), profile, (), (), store)
    assert job.blocks == []
    whole = resolve_job(spec, tiny.task_data(), profile, None, None, store)
    for block in whole.blocks:
        assert job.block(block.layer, block.width) == block
    with pytest.raises(ConfigError, match="no SAE of width '5'"):
        job.block(0, "5")
    deep = replace(spec, layers={**spec.layers, "late": 7}, saes=())
    with pytest.raises(ConfigError, match="There is no layer 7: the model has 5 blocks"):
        resolve_job(deep, tiny.task_data(), profile, (), (), store).block(7)


def test_prompts_of_behaviour_tasks_keep_their_end_and_say_what_was_cut(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    texts = ["Context: words and words. Question: why?", "why?"]
    profile, data = tiny.profile(spec, max_length=12), tiny.task_data(texts)
    asked = replace(data, task=replace(data.task, label_model="m"))
    prompts, plain = (
        extract(spec, d, profile, [0], (), tmp_path / name)
        for d, name in ((asked, "prompts"), (data, "texts"))
    )
    assert prompts.cut.tolist() == plain.cut.tolist() == [True, False]
    end = extract(spec, tiny.task_data([texts[0][-11:]]), profile, [0], (), tmp_path / "end")
    np.testing.assert_allclose(prompts.hidden(0)[0], end.hidden(0)[0], atol=1e-5)
    assert not np.allclose(plain.hidden(0)[0], end.hidden(0)[0])
    np.testing.assert_allclose(prompts.hidden(0)[1], plain.hidden(0)[1], atol=1e-5)


def test_doctor_and_extraction_and_asking_refuse_by_one_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mosaic.cli.doctor import can_run

    spec = tiny.model_spec(tmp_path / "m")
    profile = tiny.profile(spec, tasks=("toxicity-en",), data_dir=load_profile("mini").data_dir)
    model, cpu = resolve(spec, profile), torch.device("cpu")
    need = memory_bytes(spec, model.config, spec.saes, profile, model.dtype, "cpu")
    monkeypatch.setattr(cost, "matmul_peak", lambda *_: 1e12)
    for total, fits in ((need, True), (need - 1, False)):
        monkeypatch.setattr(memory, "device_memory", lambda _, t=total: ("this machine", t))
        monkeypatch.setattr("mosaic.extraction.cost.choose_device", lambda: cpu)
        said = can_run(profile, 0, {"EleutherAI/pythia-70m-deduped": ""}, tmp_path)
        assert said.state == ("yes" if fits else "no"), said
        store = tmp_path / str(total)
        if fits:
            extract(spec, tiny.task_data(), profile, store=store)
        else:
            with pytest.raises(ResourceError, match="takes about 0 GB and this machine has"):
                extract(spec, tiny.task_data(), profile, store=store)
    stored = tmp_path / str(need)
    assert extract(spec, tiny.task_data(), profile, store=stored).n_docs, "nothing is left to load"
    asking = asking_bytes(model, profile.token_budget)
    for total, fits in ((asking, True), (asking - 1, False)):
        monkeypatch.setattr(memory, "device_memory", lambda _, t=total: ("this machine", t))
        if fits:
            require_memory_to_ask(model, profile.token_budget)
        else:
            with pytest.raises(ResourceError, match="^Asking 'gemma2' takes about"):
                require_memory_to_ask(model, profile.token_budget)


def test_the_memory_of_a_device_is_all_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory changes while a model downloads; what is refused now would run a minute later."""
    there = argparse.Namespace(total=8 * 10**9, available=10**8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: there)
    assert device_memory(torch.device("cpu")) == ("this machine", 8 * 10**9)
    assert lack_of_memory(8 * 10**9, torch.device("cpu")) is None
    assert "has 8 GB" in str(lack_of_memory(9 * 10**9, torch.device("cpu")))


def test_asking_holds_the_head_and_the_cache(tmp_path: Path) -> None:
    """Llama's head is no part of its blocks; twice the tokens are twice the keys and values."""
    profile = tiny.profile()
    models = []
    for family in ("llama", "gemma2"):
        folder = tiny.write_model(tmp_path / family, family)
        models.append(resolve(ModelSpec(family, str(folder), {"early": 0}), profile))
    llama, gemma = models
    assert asking_bytes(llama, 0) > 4 * 300 * tiny.D_MODEL
    grown = asking_bytes(gemma, 2000) - asking_bytes(gemma, 1000)
    keys_and_values = 2 * tiny.N_BLOCKS * 2 * 8
    assert grown == 1000 * 4 * (keys_and_values + memory.WORKING_VECTORS * tiny.D_MODEL)


def test_several_tasks_take_one_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 262,144 words takes five seconds, and every task loaded its own."""
    from transformers import AutoTokenizer

    spec = tiny.model_spec(tmp_path / "m")
    loads: list[int] = []
    real = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: loads.append(1) or real(*a, **k)
    )
    several = [tiny.task_data(), tiny.task_data(["other texts", "b"])]
    extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    assert loads == [1]
    file = Path(spec.source) / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    extract_all(spec, several, tiny.profile(spec), store=tmp_path / "s")
    assert loads == [1, 1], "changed files are another tokenizer"
