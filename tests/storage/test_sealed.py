"""Sealed files: what was changed is not read, and one rule says what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mosaic.errors import IntegrityError
from mosaic.models.hub import check_pin
from mosaic.storage import sealed
from mosaic.storage.sealed import read_sealed, read_sealed_or_set_aside, seal, unseal, write_sealed

CONTENT = {"b": [1, 2.5], "a": {"text": "ä"}}
DAMAGED = ("", "[" * 100_000, "[]", "3", "null", "{}", '{"a": 1}', '{"a": 1, "sha256": "x"}')


@pytest.mark.parametrize("key", ["sha256", "checksum"])
@pytest.mark.parametrize("indent", [None, 1])
def test_what_is_sealed_is_read(tmp_path: Path, key: str, indent: int | None) -> None:
    path = tmp_path / "new" / "file.json"
    write_sealed(path, CONTENT, key, indent)
    assert read_sealed(path, "Write it again.", key) == CONTENT
    assert list(json.loads(path.read_text())) == ["b", "a", key]


@pytest.mark.parametrize("text", [*DAMAGED, seal(CONTENT).decode().replace("2.5", "2.6")])
def test_damage_is_one_sentence_or_set_aside(tmp_path: Path, text: str, caplog: Any) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=r"file.json is damaged \(.*\). Write it.") as refusal:
        read_sealed(path, "Write it again.")
    assert "\n" not in str(refusal.value)
    for n in (1, 2):
        path.write_text(text)
        assert read_sealed_or_set_aside(path) is None
        assert (tmp_path / f"file.json.corrupt-{n}").read_text() == text
        assert f"file.json.corrupt-{n} and computed again" in caplog.text
    assert read_sealed_or_set_aside(path) is None, "absent"


def test_files_from_before_they_were_sealed_are_read(tmp_path: Path) -> None:
    text = json.dumps(CONTENT)
    assert unseal(text, optional=True) == CONTENT
    with pytest.raises(ValueError, match="checksum does not fit"):
        unseal(text)
    with pytest.raises(ValueError, match="checksum does not fit"):
        unseal(seal(CONTENT).decode().replace("2.5", "2.6"), optional=True)
    pins = tmp_path / "pins.json"
    pins.write_text(json.dumps({"org/old": {"commit": "c1", "sha256": {"w": "aa"}}}))
    check_pin(pins, "org/old", "c2", {"w": "aa"})
    check_pin(pins, "org/new", "c1", {"w": "bb"})
    with pytest.raises(IntegrityError, match="'org/old' is not what was first downloaded"):
        check_pin(pins, "org/old", "c2", {"w": "ab"})
    pins.write_text(pins.read_text().replace("bb", "bc"))
    with pytest.raises(IntegrityError, match=r"pins.json is damaged .*delete it to pin"):
        check_pin(pins, "org/new", "c1", {"w": "bc"})


@pytest.mark.parametrize("kind", [AttributeError, AssertionError, NotImplementedError])
def test_an_error_of_our_own_code_is_not_told_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    path = tmp_path / "file.json"
    write_sealed(path, CONTENT)

    def wrong(_: object) -> str:
        raise kind("ours")

    monkeypatch.setattr(sealed, "_digest", wrong)
    for read in (lambda: read_sealed(path, ""), lambda: read_sealed_or_set_aside(path)):
        with pytest.raises(kind, match="ours"):
            read()
    assert path.exists()
