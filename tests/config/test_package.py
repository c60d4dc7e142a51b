"""What the package offers by its own name, and that it declares all that its code imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import takewhile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from places import ROOT

import mosaic

HEAVY = ("numpy", "pandas", "pydantic", "sklearn", "torch", "transformers", "yaml")
BESIDE = ("tests/helpers", "benchmarks")
HELPERS = {path.stem for folder in BESIDE for path in (ROOT / folder).glob("*.py")}
OURS = {"mosaic", "mosaic_mini", "tools", *HELPERS}
ELSEWHERE = {"google": "exists in Colab alone"}


def test_the_face_is_imported_when_asked_for() -> None:
    code = f"import sys, mosaic; print(len(sys.modules), [m for m in {HEAVY} if m in sys.modules])"
    bare = "import sys; print(len(sys.modules))"
    said = [
        subprocess.run([sys.executable, "-c", c], cwd=ROOT, capture_output=True, text=True)
        for c in (code, bare)
    ]
    count, loaded = said[0].stdout.split(maxsplit=1)
    assert loaded.strip() == "[]", said[0].stderr
    assert int(count) - int(said[1].stdout) < 40, "modules that `import mosaic` brings along"


@pytest.mark.parametrize("name", mosaic.__all__)
def test_every_name_of_the_face_is_there(name: str) -> None:
    assert name in dir(mosaic)
    assert getattr(mosaic, name).__doc__


def test_the_face_knows_what_it_lacks() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'; it offers .*score_cells"):
        mosaic.nonsense  # noqa: B018


def test_the_rooms_are_named_in_their_order() -> None:
    rooms = re.findall(r"^    (\w+) ", str(mosaic.__doc__), re.M)
    there = {p.name for p in (ROOT / "mosaic").iterdir() if (p / "__init__.py").is_file()}
    assert set(rooms) == there | {"errors"}
    assert rooms.index("config") < rooms.index("probes") < rooms.index("cli")


def imported(folder: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                yield name.partition(".")[0], path


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("mosaic", ("book", "gguf", "ray")),
        ("mosaic_mini", ()),
        ("tools", ()),
        ("tests", ("book", "dev", "gguf", "ray")),
        ("benchmarks", ("dev",)),
    ],
)
def test_every_imported_package_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    declared = {canonical(Requirement(text).name) for text in wanted}
    provided = packages_distributions()
    lacking = {
        (name, path.relative_to(ROOT).as_posix())
        for name, path in imported(folder)
        if name not in sys.stdlib_module_names | OURS | set(ELSEWHERE)
        and not {canonical(d) for d in provided.get(name, [name])} & declared
    }
    assert not lacking


def test_nothing_is_declared_that_no_code_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {name for folder in ("mosaic", "mosaic_mini") for name, _ in imported(folder)}
    provided = packages_distributions()
    used = {canonical(d) for name in names for d in provided.get(name, [name])}
    assert {canonical(Requirement(text).name) for text in project["dependencies"]} <= used


def named_columns(text: str) -> list[str]:
    """Names that a docstring lists after "Columns:", remarks in brackets left out."""
    listed = re.sub(r"\([^)]*\)", "", text.partition("Columns:")[2]).split("\n\n")[0]
    words = re.split(r",|\band\b", re.split(r"[.;:]", listed)[0])
    names = takewhile(lambda word: re.fullmatch(r"\w*", word), map(str.strip, words))
    return [name for name in names if name and not name.isupper()]


def test_docstrings_name_columns_that_exist() -> None:
    checked = 0
    for path in sorted((ROOT / "mosaic").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        texts = [ast.get_docstring(node) or "" for node in functions]
        said = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        said |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.keyword)}
        for node, text in zip(functions, texts, strict=True):
            names = named_columns(text)
            checked += len(names)
            lacking = [name for name in names if name not in said]
            assert not lacking, f"{path.name}, {node.name}: no column {lacking} is made there"
    assert checked > 20
