"""Execute notebooks with papermill into the build folder: `<build>/runs/<profile>/`.

The sources are never written to."""

import ast
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError, MosaicError
from mosaic.storage.files import storage_errors

QUIET = "--IPKernelApp.log_level=40"
"""Keeps the kernel's own warnings off the terminal, such as that it speaks TCP on this machine."""


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
    from jupyter_client.kernelspec import NoSuchKernel

    root = project_root()
    source = root / "notebooks" / f"{chapter}.ipynb"
    target = workspace.run / "notebooks" / f"{chapter}.ipynb"
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    # The notebook runs at the clone's root, wherever the command was given.
    named = workspace.loaded_from.endswith((".yaml", ".yml"))
    parameters = {
        "profile": os.path.relpath(workspace.loaded_from, root) if named else workspace.loaded_from,
        "build_dir": os.path.relpath(workspace.root, root),
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
            extra_arguments=[QUIET],
        )
    except papermill.PapermillExecutionError as error:
        raise NotebookError(
            f"Notebook {chapter} failed in cell {error.cell_index}: {error.ename}: {error.evalue} "
            f"(executed copy with the traceback: {target})."
        ) from error
    except (NoSuchKernel, RuntimeError) as error:  # RuntimeError: it died
        raise NotebookError(
            f"Notebook {chapter} found no kernel that runs ({error}). Make one "
            f"in the environment of this package: `python -m ipykernel install --sys-prefix`."
        ) from error
    return target


def run_chapters(names: list[str], workspace: Workspace, parameters: dict[str, Any]) -> list[Path]:
    """Execute the named notebooks (all, where none is named) one after another.

    Each gets those of `parameters` that it has. Raises ConfigError, NotebookError.
    """
    root = project_root()
    executed = []
    found = find_chapters(root, names)
    if workspace.engine != "local":
        parameters = {"engine": workspace.engine, **parameters}
    paths = [root / "notebooks" / f"{chapter}.ipynb" for chapter in found]
    given = given_to_each(paths, parameters)
    for chapter, values in zip(found, given, strict=True):
        start = time.perf_counter()
        print(f"{chapter}: running on profile {workspace.profile.name} ...", flush=True)
        executed.append(run_chapter(chapter, workspace, values))
        print(f"{chapter}: done in {time.perf_counter() - start:.0f} s", flush=True)
    return executed


def given_to_each(notebooks: Sequence[Path], parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """What each notebook is given: those of `parameters` that its parameters cell defines.

    Raises ConfigError for a name that no notebook has, and for one value where a list belongs (it
    would be read letter by letter).
    """
    import papermill

    defined = [papermill.inspect_notebook(str(path)) for path in notebooks]
    known = {name: cell for cells in defined for name, cell in cells.items()}
    for name, value in parameters.items():
        if name not in known:
            raise ConfigError(
                f"No parameter {name!r} in {[path.stem for path in notebooks]}; there are "
                f"{sorted(known)}."
            )
        default = _literal(known[name]["default"])
        if isinstance(default, list) and not isinstance(value, list):
            raise ConfigError(
                f"Parameter {name!r} is a list; write -p '{name}=[{value}]' to give one entry."
            )
        if not _fits(value, default):
            raise ConfigError(
                f"Parameter {name!r} is {value!r}, and the notebook has {default!r} there; give "
                f"one of its kind (a text that looks like a number as -p '{name}=\"{value}\"')."
            )
    return [{k: v for k, v in parameters.items() if k in cells} for cells in defined]


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the default's kind; None, on either side, fits every kind."""
    if value is None or default is None:
        return True
    if isinstance(default, list) and default:
        return all(_fits(entry, default[0]) for entry in value)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
