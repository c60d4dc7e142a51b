"""Files that are whole or absent: written aside, renamed, known by their sha256 (ours)."""

import errno
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from mosaic.errors import IntegrityError, ResourceError

log = logging.getLogger(__name__)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: Iterable[Path]) -> dict[str, str]:
    """File name to sha256; a file is read once per process unless its size or time changes."""
    found = {}
    for path in sorted(paths):
        stat = path.stat()
        found[path.name] = _sha256(path, stat.st_size, stat.st_mtime_ns)
    return found


POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointers(paths: Iterable[Path]) -> None:
    """IntegrityError for a file that a clone has only a Git LFS pointer of; of one that cannot be
    opened its reader tells."""
    for path in sorted(paths):
        with suppress(OSError), path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise IntegrityError(
                    f"{path} is a Git LFS pointer and not the file it stands for; run `git lfs "
                    f"pull` in its clone, or download the file itself."
                )


@lru_cache(maxsize=4096)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    return sha256(path)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder without write access into one ResourceError sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"The disk of {path} is full; free some space and run again, what is stored stays "
                f"valid."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ResourceError(
                f"{path} cannot be written; name a folder that can, by --build-dir or, in Python, "
                f"by `build_dir` or `store`."
            ) from error
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write `content`, with the folder it lies in, so that `path` holds all of it or is as it was
    before. Raises ResourceError."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)  # a full disk needs no half of a file
            raise


def set_aside(path: Path, why: object) -> None:
    """Keep a damaged file as `<name>.corrupt-<n>` and say so; whoever needs it computes it anew."""
    n = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{n}")).exists():
        n += 1
    with storage_errors(path):
        try:
            os.replace(path, aside)
        except FileNotFoundError:  # another process was faster
            return
    log.warning("%s is damaged (%s): kept as %s and computed again", path, why, aside.name)
