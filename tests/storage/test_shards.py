"""The feature store: nothing half-written is ever read, and every failure is one sentence."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic.errors import IntegrityError, ResourceError
from mosaic.storage import files
from mosaic.storage.files import replace_file
from mosaic.storage.shards import Store, make_key

ARRAYS = {"sum": np.arange(6, dtype=np.float32), "latent": np.arange(6, dtype=np.uint16)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    assert list(store.read("k", 0, ["sum"])) == ["sum"]
    np.testing.assert_array_equal(store.read("k", 0, ["latent"])["latent"], ARRAYS["latent"])
    assert store.missing("k", 2) == [1]


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Store(tmp_path / name).write("k", 0, dict(reversed(ARRAYS.items())))
    paths = [Store(tmp_path / name).shard_path("k", 0) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    path = store.shard_path("k", 0)
    whole = path.read_bytes()
    for position in range(8, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        os.utime(path, ns=(position, position))
        assert Store(tmp_path).missing("k", 1) == [0], position
    path.write_bytes(whole)
    assert Store(tmp_path).missing("k", 1) == []


def test_a_shard_of_another_place_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    store.shard_path("k", 1).write_bytes(store.shard_path("k", 0).read_bytes())
    with pytest.raises(IntegrityError, match="shard-00001.safetensors is missing or fails"):
        store.read("k", 1, ["sum"])


def test_a_sound_shard_is_not_set_aside(tmp_path: Path, caplog: Any) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    with caplog.at_level(logging.WARNING):
        store.set_aside("k", 0)
    assert store.shard_path("k", 0).is_file()
    assert not caplog.records


def test_the_manifest_comes_last_and_names_every_checksum(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    assert store.manifest("k") is None
    store.finish("k", 1, {"layer": 3}, d_sae=8)
    manifest = store.manifest("k")
    assert manifest is not None
    assert (manifest["identity"], manifest["d_sae"]) == ({"layer": 3}, 8)
    assert len(manifest["shards"][0]) == 64


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "f"
    replace_file(path, b"old")

    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(ResourceError, match="is full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"The disk of .* is full; free some space and run again"),
        (errno.EROFS, r"cannot be written; name a folder that can"),
        (errno.EACCES, r"cannot be written; name a folder that can"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: Any, number: int, message: str
) -> None:
    def refuse(*_args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(ResourceError, match=message):
        Store(tmp_path).write("k", 0, ARRAYS)


def test_reading_one_block_opens_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("k", 0, ARRAYS)
    store.shard_path("other", 0).parent.mkdir()
    store.shard_path("other", 0).write_bytes(b"not a shard")
    assert store.read("k", 0, ["sum"])["sum"].sum() == 15


def test_keys_do_not_depend_on_the_order_of_names() -> None:
    assert make_key({"a": 1, "b": [2]}) == make_key({"b": [2], "a": 1})
    assert make_key({"a": 1}) != make_key({"a": 2})


def test_a_tensor_that_numpy_does_not_know_is_damage_and_an_error_of_ours_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.write("k", 0, {"a": np.zeros(2, dtype=np.float32)})

    def wrong(*_: Any) -> str:
        raise AttributeError("ours")

    with monkeypatch.context() as patch:
        patch.setattr("mosaic.storage.shards._content_hash", wrong)
        with pytest.raises(AttributeError, match="ours"):
            store.missing("k", 1)
    header = b'{"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}'
    content = len(header).to_bytes(8, "little") + header + b"\0\0"
    store.shard_path("k", 0).write_bytes(content)
    assert store.missing("k", 1) == [0]
