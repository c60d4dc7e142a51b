"""One executed run and one built book for the whole session; every book test reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "google-chrome", "chromium-browser")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "book: needs the executed notebooks and the built book")
    config.addinivalue_line("markers", "slow: minutes; left out of `make check` with the book")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every notebook executed on `mini` and the book built, once, into a path with a space."""
    folder = tmp_path_factory.mktemp("a build")
    command = [sys.executable, "-m", "mosaic", "book", "--profile", "mini"]
    result = subprocess.run(
        [*command, "--build-dir", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return folder


@pytest.fixture(scope="session")
def browser() -> str:
    """A headless Chromium; where there is none the check is skipped by name, except in CI."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("MOSAIC_REQUIRE_BROWSER"):
            pytest.fail(f"MOSAIC_REQUIRE_BROWSER is set but none of {BROWSERS} is installed")
        pytest.skip(f"no headless browser ({', '.join(BROWSERS)}): pages were not opened")
    return found
