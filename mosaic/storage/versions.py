"""Which libraries and which machine made a number."""

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mosaic import ASSETS

PACKAGES = ("torch", "transformers", "sae-lens", "scikit-learn", "scipy", "numpy", "datasets")


def made_with() -> dict[str, Any]:
    """`versions` of what decides numbers and the `machine`, as a manifest records them."""
    return {
        "versions": versions_of(*PACKAGES),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def code_digest(*places: str) -> str:
    """sha256 over the source of these rooms and modules (paths below `mosaic/`).

    It stands in the keys of what is kept on disk: numbers made by other code are not read.
    """
    digest = hashlib.sha256()
    for place in places:
        path = ASSETS.parent / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def versions_of(*packages: str) -> dict[str, str]:
    """Installed version of each package; they stand in the keys of what is kept on disk."""
    return {name: package_version(name) for name in packages}


@cache
def package_version(package: str) -> str:
    """The installed version without its local part, or "not installed"."""
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return "not installed"
