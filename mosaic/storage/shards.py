"""The feature store: one folder per block of numbers, written in shards that are whole or absent.

`<root>/<key>/shard-00000.safetensors` ... and, when all are there, `manifest.json`. The key is the
hash of everything that changes the numbers; a shard carries the sha256 of its own content. Nothing
pickled is written or read.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mosaic.errors import FOREIGN, IntegrityError
from mosaic.storage.files import replace_file, set_aside, storage_errors
from mosaic.storage.sealed import read_sealed_or_set_aside, write_sealed

VERSION = 1
"""Part of every key: raise it when the meaning of the numbers or the layout changes."""

log = logging.getLogger(__name__)


def make_key(identity: Mapping[str, Any]) -> str:
    """The name of a block: hash of the canonical JSON of everything that changes its numbers."""
    text = json.dumps({"store": VERSION, **identity}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Store:
    """Blocks under `root`; safe for several processes at once."""

    root: Path
    _verified: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @property
    def pins(self) -> Path:
        """Where is recorded what was first downloaded; see `models.hub.check_pin`."""
        return self.root / "pins.json"

    def shard_path(self, key: str, shard: int) -> Path:
        """Where a shard is, or will be."""
        return self.root / key / f"shard-{shard:05d}.safetensors"

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The block's manifest, or None while it is not complete or after it was damaged."""
        return read_sealed_or_set_aside(self.root / key / "manifest.json")

    def missing(self, key: str, n_shards: int) -> list[int]:
        """Shards that are absent or fail their checksum."""
        return [i for i in range(n_shards) if not self._is_valid(key, i)]

    def set_aside(self, key: str, shard: int) -> None:
        """Name a damaged shard and move it out of the way; call it under the block's lock."""
        path = self.shard_path(key, shard)
        if not path.is_file() or self._is_valid(key, shard):
            return
        set_aside(path, "its checksum does not fit")

    def _is_valid(self, key: str, shard: int) -> bool:
        path = self.shard_path(key, shard)
        if not path.is_file():
            return False
        stat = path.stat()
        if self._verified.get(path) == (stat.st_size, stat.st_mtime_ns):
            return True
        try:
            arrays, stated = _load(path, None)
        except (SafetensorError, *FOREIGN):
            return False
        if _content_hash(arrays, key, shard) != stated:
            return False
        self._verified[path] = (stat.st_size, stat.st_mtime_ns)
        return True

    def write(self, key: str, shard: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Store one shard. Raises ResourceError when the disk is full or read-only."""
        path = self.shard_path(key, shard)
        # One entry of metadata only: safetensors does not fix the order of several, and equal
        # content must give equal bytes.
        content = save(dict(arrays), metadata={"sha256": _content_hash(arrays, key, shard)})
        replace_file(path, content)

    def finish(self, key: str, n_shards: int, identity: Mapping[str, Any], **facts: Any) -> None:
        """Write the manifest, the last thing of a block, with the checksum of every shard."""
        path = self.root / key / "manifest.json"
        shards = [_load(self.shard_path(key, i), ())[1] for i in range(n_shards)]
        manifest = {"identity": dict(identity), **facts, "shards": shards}
        write_sealed(path, manifest)
        with storage_errors(path):
            for leftover in path.parent.glob("*.tmp-*"):
                leftover.unlink()

    def read(self, key: str, shard: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named arrays of one shard. Raises IntegrityError, naming a shard that is damaged."""
        path = self.shard_path(key, shard)
        if not self._is_valid(key, shard):
            raise IntegrityError(
                f"The shard {path} is missing or fails its checksum; run the extraction again, "
                f"which sets it aside and computes it anew."
            )
        return _load(path, names)[0]

    @contextmanager
    def lock(self, keys: Sequence[str]) -> Iterator[None]:
        """Hold these blocks for writing; another process that wants one of them waits."""
        with ExitStack() as held:
            for key in sorted(keys):  # the same order everywhere, so that nobody waits in a circle
                path = self.root / f"{key}.lock"
                with storage_errors(path):
                    self.root.mkdir(parents=True, exist_ok=True)
                    lock = FileLock(path)
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        log.warning("another process computes %s; waiting for it", key)
                        lock.acquire()
                held.callback(lock.release)
            yield


def _content_hash(arrays: Mapping[str, np.ndarray], key: str, shard: int) -> str:
    digest = hashlib.sha256(f"{key}/{shard}".encode())  # so that a shard fits its own place only
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _load(path: Path, names: Sequence[str] | None) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of a shard (all when `names` is None) and the checksum it states."""
    with safe_open(path, framework="np") as handle:
        wanted = handle.keys() if names is None else names
        stated = (handle.metadata() or {}).get("sha256", "")
        return {name: handle.get_tensor(name) for name in wanted}, stated
