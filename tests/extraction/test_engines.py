"""Engines: a Ray cluster stores the same bytes as this process, whatever happens to its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mosaic.config.profiles import load_profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import load_task
from mosaic.errors import ConfigError, ResourceError
from mosaic.extraction.engines import check_engine
from mosaic.extraction.extract import extract
from mosaic.extraction.ray import RayWorker
from mosaic.storage.shards import Store
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A local cluster of two processes, small enough for a machine that does other things."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        num_gpus=0,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield ray
    ray.shutdown()


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".safetensors", ".json")
    }


def test_ray_and_local_store_the_same_bytes_on_the_mini_world(cluster: Any, tmp_path: Path) -> None:
    profile = replace(load_profile("mini"), shard_docs=16)
    spec = profile.text_models[0]
    data = load_task("toxicity-en", profile).subset(np.arange(72))
    for engine in ("local", "ray"):
        extract(spec, data, profile, store=tmp_path / engine, engine=engine)
    local, ray = files(tmp_path / "local"), files(tmp_path / "ray")
    assert len(local) > 5
    assert local == ray


class Mortal(RayWorker):
    """Logs every shard it takes; dies once, between two blocks of shard 7."""

    def __call__(self, batch: Any) -> Any:
        shard = int(batch["shard"][0])
        root = self.job.store.root
        with (root.parent / "taken.log").open("a") as log:
            log.write(f"{shard}\n")
        if shard == 7 and not (root.parent / "died").exists():
            (root.parent / "died").touch()
            write = Store.write

            def last_write(*arguments: Any) -> None:
                write(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)

            Store.write = last_write  # type: ignore[method-assign]
        return super().__call__(batch)


def test_a_killed_ray_worker_costs_its_shard_and_nothing_else(
    cluster: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mosaic.extraction.ray.RayWorker", Mortal)
    spec = tiny.model_spec(tmp_path / "m", widths=(96, 300))
    data, profile = tiny.task_data(tiny.TEXTS * 8), tiny.profile(spec)
    extract(spec, data, profile, store=tmp_path / "whole")
    (tmp_path / "ray").mkdir()
    extract(spec, data, profile, store=tmp_path / "ray" / "store", engine="ray")
    assert (tmp_path / "ray" / "died").exists()
    taken = sorted(map(int, (tmp_path / "ray" / "taken.log").read_text().split()))
    assert taken == sorted([*range(20), 7])
    assert files(tmp_path / "ray" / "store") == files(tmp_path / "whole")


def test_an_error_of_a_ray_worker_keeps_its_sentence(cluster: Any, tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    tiny.write_sae(Path(spec.saes[0].folder or ""), d_in=16)
    data = tiny.task_data(tiny.TEXTS[:4])
    with pytest.raises(ConfigError, match="^The SAE .* 16 numbers .* stream has 32"):
        extract(spec, data, tiny.profile(spec), store=tmp_path / "s", engine="ray")


class Doomed(RayWorker):
    """Dies of every shard, as a worker does that the system kills for its memory."""

    def __call__(self, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_kills_every_worker_ends_the_run(
    cluster: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mosaic.extraction.ray.RayWorker", Doomed)
    spec, data = tiny.model_spec(tmp_path / "m"), tiny.task_data(tiny.TEXTS[:4])
    with pytest.raises(ResourceError, match="^Ray workers were lost 3 times over"):
        extract(spec, data, tiny.profile(spec), store=tmp_path / "s", engine="ray")


def test_a_sweep_on_ray_scores_what_a_local_one_scores(cluster: Any, tmp_path: Path) -> None:
    profile = replace(load_profile("mini"), n_train=60, n_test=40)
    specs = [Cell("safety-en", "tfidf"), Cell("safety-en", "length")]
    rows = []
    for engine in ("local", "ray"):
        workspace = Workspace(profile, tmp_path / engine, "mini", engine)
        table = to_scores(score_cells(specs, workspace, n_jobs=2))
        rows.append(table.drop(columns="seconds"))
    pd.testing.assert_frame_equal(*rows)


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m")
    with pytest.raises(ConfigError, match="Unknown engine 'spark'; use one of"):
        extract(spec, tiny.task_data(), tiny.profile(spec), store=tmp_path, engine="spark")


def test_without_ray_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[ray\]'"):
        check_engine("ray")


def test_worker_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no time to say goodbye; a fit in hand takes ten minutes."""
    script = (
        "import os, sys, time, pathlib; from joblib import delayed; "
        "from mosaic.extraction.engines import parallel\n"
        "def work(i): pathlib.Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(600)\n"
        "list(parallel('local', 2)(delayed(work)(i) for i in range(2)))"
    )
    file = tmp_path / "parent.py"
    file.write_text(script)
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, str(file), str(pids)])
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2:
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in pids.iterdir()]
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, f"{workers} outlive their parent"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not state.stdout.strip().startswith("Z")
