"""Chapters 01-04 on other profiles: to the gate of a gated model, to the end on own files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
import tiny
import yaml
from places import ROOT

from mosaic.config.tasks import load_catalogue
from mosaic.scores.table import read_scores

CHAPTERS = {"01": "task=banking77", "02": "tasks=[banking77]", "03": "tasks=[banking77]",
            "04": "tasks=[banking77]"}  # fmt: skip


class Gate(BaseHTTPRequestHandler):
    """Answers every request as the Hub answers for a gated model without a token."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gated_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def mosaic(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mosaic", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def write_banking77(folder: Path) -> None:
    """As many rows as the real set has, so that loading has nothing to object to."""
    task = load_catalogue("paper")["banking77"]
    target = folder / task.dataset
    target.mkdir(parents=True)
    texts = [f"request {i} about topic {i % 77}" for i in range(task.rows or 0)]
    rows = {task.input_field: texts, task.label_field: [i % 77 for i in range(len(texts))]}
    pd.DataFrame(rows).to_parquet(target / "train.parquet")
    (target / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n---\n"
    )


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_paper_profile_runs_up_to_the_gate_and_says_how_to_pass_it(
    chapter: str, gated_hub: str, tmp_path: Path
) -> None:
    write_banking77(tmp_path / "data")
    found = mosaic(
        *("run", chapter, "--profile", "paper", "--build-dir", str(tmp_path / "build")),
        *("-p", CHAPTERS[chapter]),
        MOSAIC_DATA_DIR=str(tmp_path / "data"),
        HF_ENDPOINT=gated_hub,
        HF_HOME=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="0",
    )
    assert found.returncode == 1
    assert "AccessError: 'google/gemma-2-2b' is gated: accept its licence at" in found.stderr
    assert "set HF_TOKEN" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_random_gemma_folder_with_random_saes_runs_to_the_end(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path, "gemma2")
    path = tiny.write_profile(tmp_path / "own.yaml", spec)
    profile = yaml.safe_load(path.read_text())
    profile |= {
        "name": "own",
        "tasks": ["toxicity-en"],
        "data_dir": str(ROOT / "mosaic/assets/mini/data"),
        "max_docs": 100,
        "n_train": 40,
        "n_test": 40,
        "folds": 2,
        "seeds": [0],
        "top_n": [3, 6],
    }
    path.write_text(yaml.safe_dump(profile))
    words = ("run", "01", "02", "03", "04", "--profile", str(path))
    found = mosaic(*words, "--build-dir", str(tmp_path / "build"))
    assert found.returncode == 0, found.stderr
    kept = tmp_path / "build" / "runs" / "own" / "scores" / "04_baselines.csv"
    table = read_scores(kept)
    assert set(table["model"].dropna()) == {"gemma2"}
    assert set(table["depth"].dropna()) == {"early", "middle", "late"}
