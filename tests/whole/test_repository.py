"""The repository as a reader finds it: pins that agree, clean notebooks, sources without traces."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from places import ROOT

from mosaic.errors import ConfigError
from mosaic.publish.pages import book_config, clone_lines, repository
from tools.address import set_address

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=True
    )
    return [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_lock_is_exact_and_torch_comes_first() -> None:
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if x[:1] != "#"]
    assert lines[0] == "torch==2.13.0"
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)


def test_project_ranges_hold_for_the_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in ("book", "dev", "gguf", "ray"):
        wanted += project["optional-dependencies"][extra]
    pinned = {name.lower().replace("_", "-"): Version(v) for name, v in pins().items()}
    for text in wanted:
        need = Requirement(text)
        assert need.name in pinned, f"{need.name} has no pin in requirements.lock"
        assert pinned[need.name] in need.specifier, f"{need} against pin {pinned[need.name]}"


def test_conda_environment_uses_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(d for d in conda if d.startswith("python="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Version(python.split("=")[1]) in Requirement(f"p{project['requires-python']}").specifier


def test_the_environment_is_the_lock() -> None:
    from importlib.metadata import version

    off = {}
    for name in (
        "torch",
        "transformers",
        "sae-lens",
        "scikit-learn",
        "datasets",
        "jupyter-book",
        "ray",
    ):
        if (found := version(name).split("+")[0]) != pins()[name]:
            off[name] = found
    assert not off, f"installed versions differ from requirements.lock: {off}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_source_is_clean(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}
        source = "".join(cell["source"])
        assert not re.search(r"^\s*(def|class) ", source, re.M), "logic belongs in mosaic/"
        assert source.count("\n") < 30
    tags = [tag for cell in code for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1
    assert tags.count("bootstrap") == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_notebook_gives_an_imported_name_another_meaning(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    source = "\n".join(text for text in code if "google.colab" not in text)
    nodes = list(ast.walk(ast.parse(source)))
    imported = {a.asname or a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
    assigned = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assert imported
    assert not imported & assigned


def test_every_notebook_has_the_same_bootstrap_cell() -> None:
    cells = set()
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "bootstrap" in cell["metadata"].get("tags", []):
                cells.add("".join(cell["source"]))
    assert len(cells) == 1


def test_every_notebook_is_in_the_table_of_contents() -> None:
    toc = (ROOT / "_toc.yml").read_text()
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}" in toc


def test_every_figure_belongs_to_a_notebook_that_names_it() -> None:
    from mosaic.figures import CHAPTER_OF_FIGURE

    for figure, chapter in CHAPTER_OF_FIGURE.items():
        source = (ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8")
        assert f"({figure})=" in source, f"{chapter} has no target for {figure}"


def test_no_tracked_file_is_large_or_can_carry_code() -> None:
    for path in tracked():
        if path.is_file():
            assert path.stat().st_size <= 4_000_000, path
            assert path.suffix not in {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"}, path


def test_no_path_of_one_machine_in_the_sources() -> None:
    pattern = re.compile(r"(?<![\w.~$}/-])/(?:home|root|Users)/\w")
    for path in tracked("*.py", "*.md", "*.yml", "*.yaml", "*.toml", "*.ipynb"):
        if path.is_file() and path != Path(__file__):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys; import mosaic.figures, mosaic.scores.table, mosaic.evidence.published;"
        "from mosaic.cli import build_parser; import mosaic.config.profiles;"
        "build_parser().format_help(); "
        "print([m for m in ('torch', 'transformers', 'sae_lens', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_one_command_sets_the_repository_address_everywhere(tmp_path: Path) -> None:
    for name in ("_config.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    read = {path: path.read_text() for path in sorted(tmp_path.rglob("*.*")) if path.is_file()}
    stands = repository(ROOT)
    set_address(tmp_path, stands)
    assert {path: path.read_text() for path in read} == read, "not the same everywhere"
    for slug in ("me/it.2", ""):
        set_address(tmp_path, slug)
        assert repository(tmp_path) == slug
        assert yaml.safe_load((tmp_path / "CITATION.cff").read_text()).get("repository-code") == (
            f"https://github.com/{slug}" if slug else None
        )
        assert ("git clone" in clone_lines(slug)) == bool(slug)
        config = yaml.safe_load(book_config(tmp_path))
        assert config["html"].get("use_issues_button", False) == bool(slug)
        assert ("repository" in config) == ("launch_buttons" in config) == bool(slug)
        for path in sorted((tmp_path / "notebooks").glob("*.ipynb")):
            first, boot, *_ = ("".join(c["source"]) for c in json.loads(path.read_text())["cells"])
            link = f"/github/{slug}/blob/main/notebooks/{path.name})"
            assert ("Open in Colab" in first) == (link in first) == bool(slug), path.name
            assert (f'"https://github.com/{slug}")' in boot) == bool(slug)
            assert ("no address is set yet" in boot) == (not slug)
    set_address(tmp_path, stands)
    assert {path: path.read_text() for path in read} == read, "not the way back"
    with pytest.raises(ConfigError, match=r"Expected OWNER/NAME .* found 'me/it/x'"):
        set_address(tmp_path, "me/it/x")


def test_no_text_names_the_address_by_hand() -> None:
    for path in (ROOT / "README.md", *(ROOT / "book").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"git clone http|colab\.research", text), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_has_no_math_that_needs_a_script_from_elsewhere(path: Path) -> None:
    """The book carries no MathJax, so `$...$` would be shown as it is typed."""
    cells = json.loads(path.read_text())["cells"]
    prose = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert not re.search(r"\$[^$\n]+\$", prose)


@pytest.mark.parametrize(
    ("workflow", "command"), [("test", "make test"), ("book", "make reproduce")]
)
def test_the_readme_commands_run_on_linux_and_macos(workflow: str, command: str) -> None:
    jobs = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())["jobs"]
    (job,) = [j for j in jobs.values() if any(s.get("run") == command for s in j["steps"])]
    assert job["runs-on"] == "${{ matrix.os }}"
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    uploads = [step for step in job["steps"] if "upload" in step.get("uses", "")]
    assert all("runner.os == 'Linux'" in step["if"] for step in uploads), "two would collide"
