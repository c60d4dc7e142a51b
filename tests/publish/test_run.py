"""The runner in a project of its own: what it writes, and what it says when a notebook fails."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from places import ROOT

from mosaic.config.workspace import open_workspace
from mosaic.errors import ConfigError, ResourceError
from mosaic.publish.build import build_book
from mosaic.publish.run import NotebookError, given_to_each, project_root, run_chapters


def project(folder: Path, *sources: str) -> Path:
    """A folder that looks like a clone, with one notebook of the given code cells."""
    notebook = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell(
        'profile = "mini"\nbuild_dir = "_build"\nextra = 1\ntasks = []  # keys'
    )
    parameters.metadata["tags"] = ["parameters"]
    notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, sources)]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    (folder / "notebooks").mkdir(parents=True)
    nbformat.write(notebook, folder / "notebooks" / "09_trial.ipynb")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    return folder


def mosaic(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mosaic", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_run_writes_below_the_build_folder_only(tmp_path: Path) -> None:
    folder = project(tmp_path / "a clone", "print(profile, build_dir, 6 * 7)")
    source = (folder / "notebooks/09_trial.ipynb").read_bytes()
    result = mosaic(folder, "run", "09", "-p", "extra=3")
    assert result.returncode == 0, result.stderr
    executed = folder / "_build/runs/mini/notebooks/09_trial.ipynb"
    assert "TCP" not in result.stderr
    assert result.stdout.splitlines()[-1] == str(executed.relative_to(folder))
    assert "mini _build 42" in executed.read_text()
    assert (folder / "notebooks/09_trial.ipynb").read_bytes() == source


def test_the_engine_reaches_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project(tmp_path, "1"))
    given: list[dict] = []
    monkeypatch.setattr(
        "mosaic.publish.run.run_chapter", lambda _, __, parameters: given.append(parameters)
    )
    with pytest.raises(ConfigError, match="No parameter 'engine'"):
        run_chapters([], open_workspace("mini", engine="ray"), {})
    path = tmp_path / "notebooks" / "09_trial.ipynb"
    path.write_text(path.read_text().replace("extra = 1", "extra = 1\\nengine = 'local'"))
    run_chapters([], open_workspace("mini", engine="ray"), {})
    run_chapters([], open_workspace("mini"), {})
    assert given == [{"engine": "ray"}, {}]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_notebook_opens_its_workspace_with_the_engine(path: Path) -> None:
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert sum('engine = "local"' in source for source in cells) == 1
    opened = [line for source in cells for line in source.splitlines() if "open_workspace(" in line]
    assert opened
    assert all(line.endswith(", build_dir, engine)") for line in opened)


def test_a_failing_notebook_is_named_with_its_cell(tmp_path: Path) -> None:
    folder = project(tmp_path, "kept = 1", "raise ValueError('no such bird')")
    result = mosaic(folder, "run")
    assert result.returncode == 1
    assert "Notebook 09_trial failed in cell" in result.stderr
    assert "ValueError: no such bird" in result.stderr
    assert "Traceback" not in result.stderr
    executed = json.loads((folder / "_build/runs/mini/notebooks/09_trial.ipynb").read_text())
    assert any(cell.get("execution_count") == 3 for cell in executed["cells"])


def test_a_mosaic_error_in_a_notebook_keeps_its_sentence(tmp_path: Path) -> None:
    code = (
        "from mosaic.publish.notebook import setup_notebook\n"
        "from mosaic.errors import AccessError\nsetup_notebook()",
        "raise AccessError('The model is gated; accept its licence.')",
    )
    result = mosaic(project(tmp_path, *code), "run")
    assert result.returncode == 1
    assert "AccessError: The model is gated; accept its licence." in result.stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"taks": ["safety-en"]}, "No parameter 'taks' in .*09_trial.*; there are .*'tasks'"),
        ({"extra": "two"}, "'extra' is 'two', and the notebook has 1 there"),
        ({"extra": True}, "'extra' is True, and the notebook has 1 there"),
        ({"build_dir": 256}, "'build_dir' is 256, and the notebook has '_build' there"),
        ({"tasks": "safety-en"}, r"'tasks' is a list; write -p 'tasks=\[safety-en\]'"),
    ],
)
def test_a_parameter_that_would_change_nothing_is_refused(
    tmp_path: Path, given: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path))
    with pytest.raises(ConfigError, match=says):
        run_chapters([], open_workspace("mini"), given)
    assert not (tmp_path / "_build").exists()


def test_each_notebook_gets_the_parameters_it_has(tmp_path: Path) -> None:
    folder = project(tmp_path) / "notebooks"
    other = nbformat.read(folder / "09_trial.ipynb", as_version=4)
    other.cells[0].source = 'profile = "mini"\ntask = ""'
    nbformat.write(other, folder / "08_other.ipynb")
    notebooks = [folder / "08_other.ipynb", folder / "09_trial.ipynb"]
    given = given_to_each(notebooks, {"task": "a", "extra": 2})
    assert given == [{"task": "a"}, {"extra": 2}]


def test_outside_of_a_clone_the_runner_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not inside a clone"):
        project_root()


@pytest.mark.parametrize("build_dir", [".", "book", "notebooks"])
def test_the_book_is_never_built_over_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_dir: str
) -> None:
    folder = project(tmp_path, "1")
    (folder / "book").mkdir()
    (folder / "book" / "page.md").write_text("mine")
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="over its own sources"):
        build_book(open_workspace("mini", build_dir))
    assert (folder / "book" / "page.md").read_text() == "mine"


def test_the_book_is_not_built_from_notebooks_that_never_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path, "1")
    (folder / "book").mkdir()
    (folder / "_config.yml").write_text("title: trial\n")
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="09_trial has not been executed on profile 'mini'"):
        build_book(open_workspace("mini", "_build"))


def test_from_another_folder_it_is_as_from_the_root(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "clone",
        "from mosaic.config.workspace import open_workspace\n"
        "made = open_workspace(profile, build_dir)\n"
        "made.figures.mkdir(parents=True, exist_ok=True)\n"
        "(made.figures / 'drawn').touch()",
    )
    (folder / "below").mkdir()
    task = {"name": "mine", "dataset": "./mine.csv", "input_field": "text", "label_field": "label"}
    content = {"base": "mini", "models": ["mini-small"], "catalogue": [task]}
    (folder / "below" / "mine.yaml").write_text(json.dumps(content))
    result = mosaic(folder / "below", "run", "--profile", "mine.yaml")
    assert result.returncode == 0, result.stderr
    assert (folder / "below" / result.stdout.splitlines()[-1]).is_file()
    assert (folder / "below" / "_build" / "runs" / "mine" / "figures" / "drawn").is_file()
    assert not (folder / "_build").exists()


@pytest.mark.parametrize("error", [NoSuchKernel("python3"), RuntimeError("Kernel died")])
def test_a_kernel_that_does_not_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def execute(*_: object, **__: object) -> None:
        raise error

    monkeypatch.chdir(project(tmp_path, "1"))
    monkeypatch.setattr("papermill.execute_notebook", execute)
    with pytest.raises(NotebookError, match="found no kernel that runs .*--sys-prefix"):
        run_chapters([], open_workspace("mini"), {})


def test_a_checkout_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.chdir(project(tmp_path, "1"))
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match="cannot be written; name a folder that can"):
        run_chapters([], open_workspace("mini"), {})
