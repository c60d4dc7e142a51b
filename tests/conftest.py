"""What all tests share: a machine that has nothing but the clone, one run and one built book."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

BROWSERS = ("chromium", "google-chrome", "chromium-browser")


GIVEN = {
    name: os.environ.pop(name, "")
    for name in ("MOSAIC_DATA_DIR", "MOSAIC_MODEL_DIR", "HF_HOME", "HF_TOKEN", "RAY_ADDRESS")
}
"""What this machine happens to have. Tests do not see it but by asking (`real_data`,
`real_models`), so that they mean the same everywhere; the Hub's cache is an empty folder."""


class Book(NamedTuple):
    """The build of the book that runs beside the tests which do not need it."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path


BOOK = pytest.StashKey[Book]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "book: needs the executed notebooks and the built book")
    config.addinivalue_line("markers", "slow: minutes; left out of `make check` with the book")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mosaic-tests-")
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.hookimpl(trylast=True)  # after tests were deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the book where a test asks for it; those tests go last, and the others beside it."""
    items.sort(key=_reads_the_book)
    if config.option.collectonly or not items or not _reads_the_book(items[-1]):
        return
    home = Path(tempfile.mkdtemp(prefix="mosaic-book-"))
    folder, log = home / "a build", home / "log"
    command = [sys.executable, "-m", "mosaic", "book", "--profile", "mini"]
    with log.open("wb") as told:
        process = subprocess.Popen(
            [*command, "--build-dir", str(folder)],
            cwd=ROOT,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its kernels can be ended with it
        )
    config.stash[BOOK] = Book(process, folder, log)


def _reads_the_book(item: pytest.Item) -> bool:
    return "build_dir" in getattr(item, "fixturenames", ())


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    if book := config.stash.get(BOOK, None):
        if book.process.poll() is None:
            os.killpg(book.process.pid, signal.SIGTERM)
            book.process.wait()
        shutil.rmtree(book.folder.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets that this machine has; skipped by name where it has none."""
    if not GIVEN["MOSAIC_DATA_DIR"]:
        pytest.skip("real datasets: MOSAIC_DATA_DIR is not set")
    return Path(GIVEN["MOSAIC_DATA_DIR"])


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of real models that this machine has; skipped by name where it has none."""
    if not GIVEN["MOSAIC_MODEL_DIR"]:
        pytest.skip("real models: MOSAIC_MODEL_DIR is not set")
    return Path(GIVEN["MOSAIC_MODEL_DIR"])


@pytest.fixture(scope="session")
def build_dir(request: pytest.FixtureRequest) -> Path:
    """Every notebook executed on `mini` and the book built, once, into a path with a space."""
    book = request.config.stash[BOOK]
    assert book.process.wait() == 0, book.log.read_text()[-6000:]
    return book.folder


@pytest.fixture(scope="session")
def browser() -> str:
    """A headless Chromium; where there is none the check is skipped by name, except in CI."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("MOSAIC_REQUIRE_BROWSER"):
            pytest.fail(f"MOSAIC_REQUIRE_BROWSER is set but none of {BROWSERS} is installed")
        pytest.skip(f"no headless browser ({', '.join(BROWSERS)}): pages were not opened")
    return found
