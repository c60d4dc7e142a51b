"""Colab: what is installed, which profile is named and why, and one notebook in such an image."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from colab_image import closure, files, make_image, pack_wheels, write_kernel
from packaging.requirements import Requirement
from places import ROOT

from mosaic.colab import Gpu, choose_profile, constraints, hub_token, install
from mosaic.config.profiles import load_profile
from mosaic.errors import AccessError, ResourceError
from mosaic.extraction import memory
from mosaic.extraction.cost import shape_of
from mosaic.extraction.memory import require_memory

T4 = Gpu("Tesla T4", 15_835_660_288, bfloat16=False)
L4 = Gpu("NVIDIA L4", 23_669_112_832, bfloat16=True)
A100 = Gpu("NVIDIA A100-SXM4-80GB", 85_094_825_984, bfloat16=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("gpu", "token", "profile", "why"),
    [
        (None, True, "gemma", "no GPU; Gemma 3 270M, .* takes about 2 GB and runs on a CPU"),
        (None, False, "mini", "no GPU; Gemma 3 270M, .* gated: accept its licence at .*3-270m"),
        (T4, True, "colab", "Tesla T4 has 16 GB, and it takes about 7 GB in float16 with its res"),
        (T4, False, "mini", 'enough for "colab" .* Gemma 2 is gated: accept its licence'),
        (L4, True, "colab-large", 'in bfloat16 .*"paper" would take [0-9]+ GB'),
        (A100, True, "paper", r"80GB has 85 GB, and it takes about [0-9]+ GB in bfloat16\.$"),
        (replace(T4, name="P4", memory=4 * 10**9), True, "mini", "P4 has 4 GB, too little for"),
    ],
)
def test_profile_fits_the_gpu_and_says_why(
    gpu: Gpu | None, token: bool, profile: str, why: str
) -> None:
    choice = choose_profile(gpu, token)
    assert choice.profile == profile
    assert choice.why.startswith(f'Profile "{profile}": ')
    assert re.search(why, choice.why), choice.why


def test_what_cannot_fit_is_refused_before_its_weights_are_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper = load_profile("paper")
    model = paper.model("gemma-2-9b")
    monkeypatch.setattr(memory, "device_memory", lambda device: (T4.name, T4.memory))
    monkeypatch.setattr(memory, "load_config", lambda *_: shape_of(model))
    cuda = torch.device("cuda")
    expected = r"'gemma-2-9b' .* takes about \d+ GB and Tesla T4 has 16 GB; take fewer widths, a sm"
    with pytest.raises(ResourceError, match=expected):
        require_memory(model, model.saes, paper, torch.float16, cuda)
    small = load_profile("colab")
    monkeypatch.setattr(memory, "load_config", lambda *_: shape_of(small.models[0]))
    require_memory(small.models[0], small.models[0].saes, small, torch.float16, cuda)


@pytest.mark.parametrize("name", ["colab", "colab-large"])
def test_colab_profiles_are_parts_of_the_paper_profile(name: str) -> None:
    paper, profile = load_profile("paper"), load_profile(name)
    for model in profile.models:
        same = paper.model(model.name)
        assert set(model.saes) <= set(same.saes)
        assert replace(model, saes=(), note="") == replace(same, saes=(), note="")
    assert set(profile.tasks) <= set(paper.tasks)


def test_colab_on_a_t4_is_gemma_2_2b_with_16k_only() -> None:
    (model,) = load_profile("colab").models
    assert model.name == "gemma-2-2b"
    assert [(sae.layer, sae.width) for sae in model.saes] == [(5, "16k"), (12, "16k"), (19, "16k")]


def test_only_what_may_not_change_is_held() -> None:
    installed = [("torch", "2.13.0+cu130"), ("Pandas", "3.0"), ("tqdm", "4.1"), ("numpy", "2.3")]
    assert constraints(installed) == "torch==2.13.0+cu130\nPandas==3.0\nnumpy==2.3\n"


def test_a_failed_installation_is_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(AccessError, match="without changing torch, .* says: ERROR: .*nothing"):
        install(tmp_path / "nothing")


def test_the_token_comes_from_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(Exception):
        pass

    secrets = {"HF_TOKEN": "from the secrets"}

    def get(name: str) -> str:
        if name not in secrets:
            raise Missing
        return secrets[name]

    userdata = types.SimpleNamespace(
        get=get, SecretNotFoundError=Missing, NotebookAccessError=Missing
    )
    stub: Any = types.ModuleType("google.colab")
    stub.userdata = userdata
    monkeypatch.setitem(sys.modules, "google.colab", stub)
    monkeypatch.setenv("HF_TOKEN", "")  # so that what is set is taken back
    assert hub_token() == "from the secrets"
    monkeypatch.setenv("HF_TOKEN", "")
    del secrets["HF_TOKEN"]
    assert hub_token() is None


@pytest.mark.slow
def test_chapter_04_runs_in_colabs_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the bootstrap cell to the end, with the package fetched from this clone by git.

    The image holds torch, numpy, pandas and transformers; pip installs the rest without a network.
    """
    from nbclient import NotebookClient

    python = make_image(tmp_path / "image")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [Requirement(text).name for text in project["dependencies"]]
    pack_wheels(needs, tmp_path / "wheels")
    write_kernel(python, tmp_path / "jupyter", "colab")
    content = tmp_path / "content"
    content.mkdir()
    for name, value in {
        "JUPYTER_PATH": str(tmp_path / "jupyter"),
        "MOSAIC_SOURCE": ROOT.as_uri(),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_NO_COMPILE": "0",  # pip reads it the other way round: nothing is compiled
        "PYTHONPATH": "",
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "notebooks" / "04_baselines.ipynb", as_version=4)
    at = next(i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    fewer = nbformat.v4.new_code_cell('tasks, seeds = ["safety-en"], [0]')
    notebook.cells.insert(at + 1, fewer)
    last = nbformat.v4.new_code_cell("import mosaic; print(mosaic.__file__)")
    notebook.cells.append(last)
    before = kept_files(python)

    client = NotebookClient(notebook, timeout=600, kernel_name="colab")
    client.execute(cwd=str(content))

    boot = next(c for c in notebook.cells if "bootstrap" in c.metadata.get("tags", []))
    said = "".join(output.get("text", "") for output in boot.outputs)
    assert 'Profile "mini": this machine has no GPU; ' in said
    assert str(content) in notebook.cells[-1].outputs[0]["text"]
    figures = content / "mosaic-companion/_build/runs/mini/figures"
    assert (figures / "fig-baselines.svg").is_file()
    assert (figures / "fig-layerwise.svg").is_file()
    assert kept_files(python) == before


def kept_files(python: Path) -> dict[str, Path]:
    """Every file of torch, numpy and pandas in an image, and what it links to.

    A file that pip had written anew would no longer be a link.
    """
    site = next((python.parents[1] / "lib").glob("python*/site-packages"))
    found = {}
    for name in ("torch", "numpy", "pandas"):
        for inside, _ in files(closure([name])[name]):
            assert (site / inside).is_symlink(), inside
            found[inside] = (site / inside).readlink()
    assert len(found) > 1000
    return found
