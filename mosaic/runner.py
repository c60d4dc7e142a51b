"""Execute notebooks with papermill into the build folder, stage the book there, and build it.

The sources are never written to: a run leaves `<build>/runs/<profile>/`, the book is staged in
`<build>/book/` and built to `<build>/html/`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mosaic import bundles, scorecard
from mosaic.bundle_cards import cards
from mosaic.cards import profile_table, task_table
from mosaic.errors import ConfigError, MosaicError
from mosaic.pages import figure_index, repository, rerun_box
from mosaic.parameters import for_each
from mosaic.workspace import Workspace

STAGED = ("_config.yml", "_toc.yml", "book")


class NotebookError(MosaicError):
    """A notebook that failed: names the notebook, the cell and the error."""


def project_root() -> Path:
    """The clone's root, which holds `_toc.yml` and `notebooks/`; ConfigError outside of one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise ConfigError(
        f"{here} is not inside a clone of the companion (no _toc.yml and notebooks/ above it). "
        f"Change into the clone and run the command again."
    )


def chapters(root: Path) -> list[str]:
    """Names of the notebooks, in reading order."""
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def find_chapters(root: Path, names: list[str]) -> list[str]:
    """The chapters meant by names or leading parts ("04"); all of them where none is named."""
    there = chapters(root)
    if not names:
        return there
    found = []
    for name in names:
        stem = Path(name).stem
        matches = [chapter for chapter in there if chapter == stem or chapter.startswith(stem)]
        if len(matches) != 1:
            raise ConfigError(f"No single notebook is meant by {name!r}; there are {there}.")
        found.append(matches[0])
    return found


def run_chapter(chapter: str, workspace: Workspace, parameters: dict[str, Any]) -> Path:
    """Execute one notebook by papermill; returns the executed copy.

    The copy is written cell by cell, so what was reached before a failure can be read there.
    Raises NotebookError that names notebook and cell.
    """
    import papermill

    root = project_root()
    source = root / "notebooks" / f"{chapter}.ipynb"
    target = workspace.run / "notebooks" / f"{chapter}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    parameters = {
        "profile": workspace.source,
        "build_dir": str(workspace.root),
        **parameters,
    }
    # Kernels inherit it: OpenMP threads that wait must not take the cores from the joblib workers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            cwd=str(root),
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"Notebook {chapter} failed in cell {error.cell_index}: {error.ename}: {error.evalue} "
            f"(executed copy with the traceback: {target})."
        ) from error
    return target


def run(names: list[str], workspace: Workspace, parameters: dict[str, Any]) -> list[Path]:
    """Execute the named notebooks (all, where none is named) one after another.

    Each gets those of `parameters` that it has. Raises ConfigError, NotebookError.
    """
    root = project_root()
    executed = []
    found = find_chapters(root, names)
    given = for_each([root / "notebooks" / f"{chapter}.ipynb" for chapter in found], parameters)
    for chapter, values in zip(found, given, strict=True):
        start = time.perf_counter()
        print(f"{chapter}: running on profile {workspace.profile.name} ...", flush=True)
        executed.append(run_chapter(chapter, workspace, values))
        print(f"{chapter}: done in {time.perf_counter() - start:.0f} s", flush=True)
    return executed


def build_book(workspace: Workspace) -> Path:
    """Stage sources, executed notebooks and figures, and build the HTML; returns `index.html`.

    Every warning is an error. Raises MosaicError when a chapter has not been executed or when the
    build fails, and ConfigError for a build folder that holds sources.
    """
    root = project_root()
    stage = workspace.root / "book"
    html = workspace.root / "html"
    sources = [(root / name).resolve() for name in (*STAGED, "notebooks")]
    if any(stage.resolve().is_relative_to(source) for source in sources):
        raise ConfigError(
            f"The book would be built over its own sources in {stage}; name a build folder of its "
            f"own, such as `--build-dir _build`."
        )
    for folder in (stage, html):
        shutil.rmtree(folder, ignore_errors=True)
    _stage(workspace, root, stage)
    _generate(workspace, root, stage / "book" / "_generated")
    _render(stage, workspace.root / "book.log")
    shutil.move(stage / "_build" / "html", html)
    _drop_live_code(html)
    return html / "index.html"


def _stage(workspace: Workspace, root: Path, stage: Path) -> None:
    """Copy pages, executed notebooks and figures to where the book is built."""
    stage.mkdir(parents=True)
    for name in STAGED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, stage / name)
        else:
            shutil.copy2(source, stage / name)
    (stage / "notebooks").mkdir()
    for chapter in chapters(root):
        executed = workspace.run / "notebooks" / f"{chapter}.ipynb"
        if not executed.is_file():
            raise ConfigError(
                f"Notebook {chapter} has not been executed on profile {workspace.profile.name!r}; "
                f"run `mosaic run {chapter} --profile {workspace.profile.name}` first."
            )
        _stage_notebook(executed, stage / "notebooks" / executed.name, repository(root))
    if workspace.figures.is_dir():
        shutil.copytree(workspace.figures, stage / "figures")


def _generate(workspace: Workspace, root: Path, folder: Path) -> None:
    """Write the parts of pages that are tables of tasks, claims, bundles and figures."""
    runs = root / "book" / "runs"
    pages = {f"{catalogue}_tasks": task_table(catalogue) for catalogue in ("paper", "mini")}
    pages["profiles"] = profile_table()
    pages["scorecard"] = scorecard.page(scorecard.findings(workspace, runs), chapters(root))
    pages["figures"] = figure_index(workspace.figures)
    for bundle in bundles.folders(runs):
        pages |= {f"run_{bundle.name}_{name}": text for name, text in cards(bundle).items()}
    folder.mkdir()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def _render(stage: Path, log: Path) -> None:
    """Build the staged book, every warning an error."""
    # The package has no `-m` entry, and its script may not be on the PATH of a kernel.
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"]
    command += [str(stage), "--path-output", str(stage)]
    command += ["--warningiserror", "--nitpick", "--keep-going", "--quiet"]
    environment = {**os.environ, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    log.write_text(result.stdout + result.stderr, encoding="utf-8")
    if result.returncode != 0:
        lines = [x for x in log.read_text().splitlines() if "WARNING" in x or "ERROR" in x]
        raise MosaicError(
            f"The book did not build without warnings; first: {(lines or ['see the log'])[0]} "
            f"(whole log: {log})."
        )


def _drop_live_code(html: Path) -> None:
    """Take the live-code scripts out of every page.

    jupyter-book declares them twice, which is an error in the browser's console, and they would
    load from another site; the book runs nothing, so no page needs them.
    """
    scripts = re.compile(
        r"<script[^>]*>const THEBE_JS_URL.*?</script>|<script[^>]*sphinx-thebe[^>]*></script>", re.S
    )
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(scripts.sub("", text), encoding="utf-8")


def _stage_notebook(executed: Path, target: Path, slug: str) -> None:
    """Copy an executed notebook without papermill's clock times, with how to rerun it at its end.

    The cell papermill injected is hidden.
    """
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    given = notebook.metadata.pop("papermill", {}).get("parameters", {})
    notebook.cells.append(nbformat.v4.new_markdown_cell(rerun_box(target.stem, given, slug)))
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "remove-cell"]
    nbformat.write(notebook, target)
