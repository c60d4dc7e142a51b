"""Stage the book from pages, executed notebooks and figures, and build it.

The sources are never written to: staged in `<build>/book/`, the book is built to `<build>/html/`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mosaic.config.choices import CATALOGUES
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError, MosaicError
from mosaic.figures.style import load_figure
from mosaic.publish.all_scores import scores_page
from mosaic.publish.answers import first_page, lift_answer
from mosaic.publish.bundle_pages import pages_of_bundles
from mosaic.publish.notebook import show
from mosaic.publish.pages import (
    book_config,
    clone_lines,
    figure_index,
    measured_tables,
    profile_table,
    repository,
    rerun_box,
    task_table,
)
from mosaic.publish.run import chapters, project_root
from mosaic.publish.scorecard import scorecard_columns, scorecard_page

STAGED = ("_config.yml", "_toc.yml", "book")


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
    _drop_unused(html)
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
    (stage / "_config.yml").write_text(book_config(root), encoding="utf-8")
    (stage / "notebooks").mkdir()
    for chapter in chapters(root):
        executed = workspace.run / "notebooks" / f"{chapter}.ipynb"
        if not executed.is_file():
            raise ConfigError(
                f"Notebook {chapter} has not been executed on profile {workspace.profile.name!r}; "
                f"run `mosaic run {chapter} --profile {workspace.loaded_from}` first."
            )
        _stage_notebook(executed, stage / "notebooks" / executed.name, repository(root))
    if workspace.figures.is_dir():
        shutil.copytree(workspace.figures, stage / "figures")


def _generate(workspace: Workspace, root: Path, folder: Path) -> None:
    """Write the parts of pages that are tables of tasks, claims, bundles and figures."""
    runs = root / "book" / "runs"
    pages = {f"{catalogue}_tasks": task_table(catalogue) for catalogue in CATALOGUES}
    pages["clone"] = clone_lines(repository(root))
    pages["profiles"] = profile_table()
    pages |= measured_tables(root / "book")
    columns = scorecard_columns(runs)
    pages["scorecard"] = scorecard_page(columns, chapters(root))
    pages["findings"] = first_page(columns)
    pages["all_scores"] = scores_page(runs)
    pages["figures"] = figure_index(workspace.figures)
    forest = load_figure("fig-claims", workspace.figures)
    pages["forest"] = f"```{{raw}} html\n{show(forest).data}\n```\n" if forest else ""
    pages |= {f"run_{name}": text for name, text in pages_of_bundles(runs).items()}
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


def _drop_unused(html: Path) -> None:
    """Take out the live-code scripts of every page and the theme's source maps.

    jupyter-book declares the scripts twice, which is an error in the browser's console, and they
    would load from another site; the book runs nothing, so no page needs them. The maps are a tenth
    of the book, for those who mend the theme.
    """
    for source_map in html.rglob("*.map"):
        source_map.unlink()
    scripts = re.compile(
        r"<script[^>]*>const THEBE_JS_URL.*?</script>|<script[^>]*sphinx-thebe[^>]*></script>", re.S
    )
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(scripts.sub("", text), encoding="utf-8")


def _stage_notebook(executed: Path, target: Path, slug: str) -> None:
    """Copy an executed notebook without papermill's clock times, with how to rerun it at its end.

    The Answer is moved to its top. Code is folded, but for the parameters and what is tagged
    `shown`; cells that only hand numbers to the prose, and the cell papermill injected, are left
    out.
    """
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    lift_answer(notebook, target.stem)
    given = notebook.metadata.pop("papermill", {}).get("parameters", {})
    notebook.cells.append(nbformat.v4.new_markdown_cell(rerun_box(target.stem, given, slug)))
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            if tags & {"injected-parameters", "remove-output"}:
                cell.metadata["tags"] = sorted({*tags, "remove-cell"})
            elif not tags & {"parameters", "remove-cell", "shown"}:
                cell.metadata["tags"] = sorted({*tags, "hide-input"})
    nbformat.write(notebook, target)
