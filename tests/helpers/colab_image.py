"""An environment that holds what Colab's image would, made from the running one without a network.

Files of the packages that are there from the start are symbolic links; whatever pip then installs
comes from wheels packed from the installed files. Nothing is downloaded, and pip resolves and
installs as it always does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

IMAGE = ("torch", "numpy", "pandas", "transformers", "ipykernel", "pip", "setuptools")
STUB = '''"""Stands in for Colab's module of secrets; there are none."""


class SecretNotFoundError(Exception):
    pass


class NotebookAccessError(Exception):
    pass


def get(name):
    raise SecretNotFoundError(name)
'''


def closure(names: list[str]) -> dict[str, Distribution]:
    """Distributions that the named ones need, by canonical name, extras left out."""
    found: dict[str, Distribution] = {}
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # needed on other platforms only
            continue
        needs = map(Requirement, found[name].requires or ())
        left += [n.name for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def files(package: Distribution) -> list[tuple[str, Path]]:
    """Files of a distribution inside site-packages: name in there, and where they lie."""
    listed = [(str(f), Path(str(f.locate()))) for f in package.files or ()]
    return [(name, path) for name, path in listed if not name.startswith("..") and path.is_file()]


def make_image(folder: Path) -> Path:
    """A virtual environment of IMAGE with a stub of `google.colab`; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    for package in closure(list(IMAGE)).values():
        for name, path in files(package):
            link = site / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    stub = site / "google" / "colab"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("")
    (stub / "userdata.py").write_text(STUB)
    # Colab's kernel has imported it before the first cell runs.
    (site / "sitecustomize.py").write_text("import google.colab.userdata\n")
    return folder / "bin" / "python"


def pack_wheels(needs: list[str], folder: Path) -> None:
    """Wheels of everything that `needs` need and IMAGE lacks, packed from the installed files.

    setuptools is among them, because pip builds the clone in an environment of its own.
    """
    folder.mkdir()
    there = closure(list(IMAGE))
    for name, package in closure([*needs, "setuptools"]).items():
        if name in there and name != "setuptools":
            continue
        tags = re.findall(r"^Tag: (\S+)-(\S+)-(\S+)$", package.read_text("WHEEL") or "", re.M)
        tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
        stem = f"{name.replace('-', '_')}-{package.version}-{tag}"
        with zipfile.ZipFile(folder / f"{stem}.whl", "w", zipfile.ZIP_STORED) as wheel:
            for inside, path in files(package):
                if "__pycache__" not in inside:
                    wheel.write(path, inside)


def write_kernel(python: Path, folder: Path, name: str) -> None:
    """A Jupyter kernel of that interpreter, below a folder for JUPYTER_PATH."""
    spec = folder / "kernels" / name
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": name, "language": "python"})
    (spec / "kernel.json").write_text(text)
