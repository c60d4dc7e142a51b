"""The shipped files of the mini world: sizes, formats, checksums, figures, loading."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from places import ROOT

from mosaic import ASSETS
from mosaic.errors import IntegrityError
from mosaic.storage.manifest import verify_folder
from mosaic_mini.build import LAYERS
from mosaic_mini.cards import STANDS_FOR, write_cards

MINI = ASSETS / "mini"
FILES = [path for path in MINI.rglob("*") if path.is_file()]
BOOK = ROOT / "book" / "mini"
SAES = sorted(MINI.glob("saes/*/layer_*/width_*"))


def test_sizes() -> None:
    assert sum(path.stat().st_size for path in FILES) <= 20e6
    assert max(path.stat().st_size for path in FILES) <= 4e6


def test_no_pickle_and_nothing_unknown() -> None:
    known = {".safetensors", ".json", ".parquet", ".md", ".csv", ".svg", ".jinja"}
    assert {path.suffix for path in FILES} <= known


def test_manifest_covers_every_file_and_holds() -> None:
    listed = json.loads((MINI / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert set(listed) == {p.relative_to(MINI).as_posix() for p in FILES} - {"manifest.json"}
    verify_folder(MINI)


def test_a_flipped_byte_is_reported_by_name(tmp_path: Path) -> None:
    world = tmp_path / "mini"
    shutil.copytree(MINI, world)
    listed = json.loads((world / "manifest.json").read_text(encoding="utf-8"))["files"]
    for name in listed:
        path = world / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=path.name):
            verify_folder(path.parent)
        path.write_bytes(good)
    verify_folder(world)


def test_a_missing_file_is_reported_and_a_folder_without_manifest_is_not(tmp_path: Path) -> None:
    shutil.copytree(MINI / "models" / "mini-small", tmp_path / "own")
    verify_folder(tmp_path / "own")
    shutil.copytree(MINI, tmp_path / "mini")
    (tmp_path / "mini/models/mini-small/config.json").unlink()
    with pytest.raises(IntegrityError, match=r"config\.json is missing"):
        verify_folder(tmp_path / "mini/models/mini-small")


def test_sae_figures_are_in_their_bounds() -> None:
    assert len(SAES) == 18
    for folder in SAES:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert figures["explained_variance"] >= 0.80, folder
        assert 16 <= figures["l0"] <= 60, folder
        assert figures["dead_share"] < 0.40, folder
        card = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
        assert f"| {figures['l0']:.1f} | {figures['explained_variance']:.3f} |" in card


def test_cards_and_pages_are_what_the_figures_say(tmp_path: Path) -> None:
    again = tmp_path / "mini"
    shutil.copytree(MINI, again)
    written = [*MINI.glob("*/*/README.md"), *MINI.glob("pages/*.md")]
    assert len(written) == 4 + 3 + 3
    for path in written:
        (again / path.relative_to(MINI)).unlink()
    write_cards(again)
    for path in written:
        assert (again / path.relative_to(MINI)).read_bytes() == path.read_bytes(), path
    drawn = (again / "pages/loss.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in drawn for name in STANDS_FOR)


def test_the_book_shows_these_pages() -> None:
    pages = {path.name: path.read_bytes() for path in MINI.glob("pages/*")}
    shown = {path.name: path.read_bytes() for path in BOOK.iterdir()}
    assert shown.pop("check.md")  # `mosaic mini check` writes it; see test_check.py
    assert shown == pages


def test_every_model_card_states_its_origin_tokens_and_loss() -> None:
    for name in STANDS_FOR:
        card = (MINI / "models" / name / "README.md").read_text(encoding="utf-8")
        figures = json.loads((MINI / "models" / name / "metrics.json").read_text(encoding="utf-8"))
        assert ("Trained from scratch" in card) == ("continues" not in figures), name
        for figure in ("tokens", "held_out_loss", "parameters", "seed"):
            assert f"| {figure.replace('_', ' ')} | {figures[figure]} |" in card, (name, figure)


def test_everything_loads_in_ten_seconds() -> None:
    import torch
    from sae_lens import SAE
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        PaliGemmaForConditionalGeneration,
    )

    start = time.perf_counter()
    for name in LAYERS:
        model = AutoModelForCausalLM.from_pretrained(MINI / "models" / name, dtype=torch.float32)
        assert model.config.model_type == "gemma2"
        tokenizer = AutoTokenizer.from_pretrained(MINI / "models" / name)
        assert tokenizer("the")["input_ids"][0] == tokenizer.bos_token_id
    PaliGemmaForConditionalGeneration.from_pretrained(MINI / "models/mini-vlm")
    for folder in SAES:
        sae = SAE.load_from_disk(str(folder))
        assert sae.cfg.architecture() == "jumprelu"
        norms = sae.W_dec.norm(dim=1)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-2)
    assert time.perf_counter() - start < 10
