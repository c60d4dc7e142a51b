"""The house: which room may import which, how large rooms and modules may be, one name once."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

ROOMS = (
    "errors",
    "storage",
    "config",
    "scores",
    "data",
    "models",
    "extraction",
    "probes",
    "sweep",
    "experiments",
    "evidence",
    "figures",
    "publish",
    "cli",
    "colab",
)
"""A room imports only rooms that stand before it, also where only a type is meant."""

BUILDERS = ("mosaic_mini", "tools")

LAZY = {("cli", "mosaic_mini"): "the verb `mini` builds and checks the mini world"}
"""The one import of a builder, and only inside a function."""

MOST_FILES, MOST_LINES = 13, 300

MOST_LINES_OF_ALL = {("mosaic",): 18_270, ("mosaic", *BUILDERS): 20_440}
"""What stands today: the numbers may fall and not rise. A thin package has 11,500 and 13,500."""

SAME_NAME = {"log": "the logger of its module, as the standard library has it"}
"""Names that two modules define on purpose, each with its reason."""


def modules(*folders: str) -> dict[str, Path]:
    """Dotted name to file, of every module below the folders."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of ours that a file imports, and whether only inside a function.

    `from mosaic.x import y` is an import of `mosaic.x.y` where that is a module.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [
                full if (full := f"{node.module}.{alias.name}") in known else str(node.module)
                for alias in node.names
            ]
        for name in names:
            if name.split(".")[0] in ("mosaic", *BUILDERS):
                assert name in known, f"{path} imports {name}, which is no module"
                yield name, node in lazy


def room(module: str) -> str:
    """The room of a module of `mosaic`, or the builder's name; "" for `mosaic` itself."""
    top, *rest = module.split(".")
    return rest[0] if top == "mosaic" and rest else "" if top == "mosaic" else top


def test_every_room_is_in_the_order() -> None:
    found = {room(name) for name in modules("mosaic")} - {"", "__main__"}
    assert found == set(ROOMS)


def test_no_room_imports_a_room_below_it() -> None:
    known, climbs = modules("mosaic", *BUILDERS), []
    for name, path in modules("mosaic").items():
        here = room(name)
        if here in ("", "__main__"):  # the face and the door may name any room
            continue
        for target, lazy in imports(path, known):
            there = room(target)
            if there in BUILDERS:
                allowed = lazy and (here, there) in LAZY
            else:
                allowed = there in ("", here) or ROOMS.index(there) < ROOMS.index(here)
            if not allowed:
                climbs.append(f"{name} -> {target}")
    assert not climbs, "\n".join(climbs)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules("mosaic", *BUILDERS)
    graph = {name: {target for target, _ in imports(path, known)} for name, path in known.items()}
    del graph["mosaic"]  # the face: it names the rooms, and all of them take ASSETS from it
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_a_folder_holds_few_files_and_a_module_few_lines() -> None:
    files = Counter(p.parent.name for p in modules("mosaic").values() if p.stem != "__init__")
    assert not {folder: n for folder, n in files.items() if n > MOST_FILES}
    lengths = {name: _lines(path) for name, path in modules("mosaic", *BUILDERS).items()}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES}


def test_the_package_is_thin() -> None:
    lines = {
        folders: sum(_lines(path) for path in modules(*folders).values())
        for folders in MOST_LINES_OF_ALL
    }
    assert not {f: n for f, n in lines.items() if n > MOST_LINES_OF_ALL[f]}, lines


def test_a_public_name_is_defined_once() -> None:
    """Functions, classes and constants at the top of a module; a name has one meaning."""
    homes: dict[str, list[str]] = defaultdict(list)
    for name, path in modules("mosaic").items():
        for defined in set(_defined(ast.parse(path.read_text(encoding="utf-8")))):
            if not defined.startswith("_"):
                homes[defined].append(name)
    twice = {name: where for name, where in homes.items() if len(where) > 1}
    unknown = [f"{name}: {', '.join(twice[name])}" for name in sorted(twice.keys() - SAME_NAME)]
    assert not unknown, "\n".join(unknown)
    assert SAME_NAME.keys() <= twice.keys(), "a reason for a name that is defined once"


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            for inner in ast.walk(target) if target is not None else ():
                if isinstance(inner, ast.Name):
                    yield inner.id


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")
