"""Image tokens are where the configuration says, and every odd image is converted or refused."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tiny
import torch
import transformers
from datasets import Dataset, Value
from datasets import Image as ImageFeature
from pictures import add_processor, picture

from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.data.images import decode, read_images, to_rgb
from mosaic.errors import ConfigError, IntegrityError
from mosaic.evidence.bundles import bundle_grids
from mosaic.evidence.comparisons import at_best_depth, image_gaps
from mosaic.evidence.published import best_on_test, published_scores
from mosaic.experiments import images
from mosaic.experiments.images import image_cells, vision_model, with_untrained_connector
from mosaic.extraction.extract import extract
from mosaic.extraction.tower import tower_states
from mosaic.figures.images import fig_vision
from mosaic.models.readers import image_reader
from mosaic.models.resolve import resolve
from mosaic.scores.choose import select_by_cv
from mosaic.storage.shards import Store
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells


def encoded(image: PIL.Image.Image, kind: str = "PNG") -> dict[str, bytes | None]:
    out = io.BytesIO()
    image.save(out, kind)
    return {"bytes": out.getvalue(), "path": None}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random PaliGemma with 28-pixel images, four patches each."""
    spec = tiny.model_spec(tmp_path_factory.mktemp("vlm"), "paligemma")
    add_processor(spec.source, 28)
    return spec


@pytest.mark.parametrize(("size", "expected"), [(224, 256), (448, 1024)])
def test_image_tokens_follow_the_configuration(tmp_path: Path, size: int, expected: int) -> None:
    """PaliGemma's two shapes with random weights: number, positions, and what is pooled."""
    text = tiny.model_config("gemma2", max_position_embeddings=2048, num_hidden_layers=1)
    config = transformers.PaliGemmaConfig(
        text_config=text.to_dict(),
        vision_config=dict(
            model_type="siglip_vision_model",
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=size,
            patch_size=14,
            projection_dim=tiny.D_MODEL,
        ),
        image_token_index=299,
        projection_dim=tiny.D_MODEL,
        hidden_size=tiny.D_MODEL,
    )
    torch.manual_seed(0)
    model = transformers.PaliGemmaForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    tiny.write_tokenizer(tmp_path, "gemma2")
    add_processor(str(tmp_path), 224)  # the model's own size must win over the processor's
    spec = ModelSpec("vlm", str(tmp_path), {"early": 0}, kind="vision")
    reader = image_reader(resolve(spec, tiny.profile(spec)))
    batch = reader.read([picture(0)]).collate(np.array([0]))
    assert batch.keep.sum() == reader.layout.n_tokens == expected
    assert batch.keep[0, :expected].all()
    assert not batch.keep[0, expected:].any()
    assert batch.arguments["pixel_values"].shape == (1, 3, size, size)
    data = tiny.task_data([picture(1)], "image")
    found = extract(spec, data, tiny.profile(spec, max_length=4), store=tmp_path / "store")
    assert found.n_tokens.tolist() == [expected]
    arguments = {k: torch.from_numpy(v) for k, v in reader.read(data.inputs).collate(
        np.array([0])).arguments.items()}  # fmt: skip
    outputs = []
    layer = model.model.language_model.layers[0]
    layer.register_forward_hook(
        lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model.eval()(**arguments)
    last = outputs[0].reshape(-1, tiny.D_MODEL)[expected - 1]
    np.testing.assert_allclose(found.hidden(0, "last")[0], last, atol=1e-5)


def test_a_model_without_image_layout_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    text = ModelSpec("text", str(tiny.write_model(tmp_path / "t", "llama")), {"early": 0})
    data = tiny.task_data([picture(0)], "image")
    with pytest.raises(ConfigError, match="is a text model"):
        extract(text, data, tiny.profile(text), store=tmp_path)
    with pytest.raises(ConfigError, match="does not say how it lays out images"):
        extract(replace(text, kind="vision"), data, tiny.profile(text), store=tmp_path)
    with pytest.raises(ConfigError, match="no model of kind 'vision'"):
        vision_model(tiny.profile(text))
    assert vision_model(tiny.profile(text, spec)) is spec


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    found = to_rgb(picture(0, mode=mode), "here")
    assert found.mode == "RGB"
    assert found.size == (20, 30)


def test_grey_is_repeated_and_transparency_lies_on_white() -> None:
    grey = to_rgb(PIL.Image.new("L", (2, 2), 70), "here")
    assert np.asarray(grey).tolist() == [[[70] * 3] * 2] * 2
    clear = to_rgb(PIL.Image.new("RGBA", (1, 1), (9, 9, 9, 0)), "here")
    assert clear.getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_keep_their_high_byte_and_floats_are_refused() -> None:
    deep = PIL.Image.fromarray(np.full((2, 2), 0xAB12, dtype=np.uint16))
    assert to_rgb(deep, "here").getpixel((0, 0)) == (0xAB, 0xAB, 0xAB)
    with pytest.raises(IntegrityError, match="numbers without a scale"):
        to_rgb(PIL.Image.fromarray(np.ones((2, 2), dtype=np.float32)), "here")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_damaged_images_are_refused_with_their_row(kind: str) -> None:
    whole = encoded(picture(0, (200, 200)), kind)["bytes"]
    assert whole is not None
    for damaged in (whole[: len(whole) // 2], b"", b"not an image", whole[:12]):
        cells = [encoded(picture(1)), {"bytes": damaged, "path": None}]
        table = Dataset.from_dict({"image": cells}).cast_column("image", ImageFeature())
        if kind == "GIF" and len(damaged) > 100:
            continue  # PIL fills the rest of a cut GIF
        with pytest.raises(IntegrityError, match="row 1: this is not a readable image"):
            read_images(table, "image", "Set")


def test_a_missing_image_and_a_column_of_text_are_refused() -> None:
    table = Dataset.from_dict({"image": [None]}).cast_column("image", ImageFeature())
    with pytest.raises(IntegrityError, match="row 0: this is not a readable image"):
        read_images(table, "image", "Set")
    table = Dataset.from_dict({"image": ["a"]}).cast_column("image", Value("string"))
    with pytest.raises(IntegrityError, match="where images were expected"):
        read_images(table, "image", "Set")


def test_large_images_shrink_and_huge_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = decode(encoded(PIL.Image.new("L", (5000, 2500))), "here")
    assert large.size == (1024, 512)
    with pytest.raises(IntegrityError, match="12000 x 9000 pixels"):
        decode(encoded(PIL.Image.new("1", (12000, 9000))), "here")


def test_a_rotated_photograph_is_turned_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    out = io.BytesIO()
    picture(0, (20, 10)).save(out, "JPEG", exif=exif)
    assert decode({"bytes": out.getvalue(), "path": None}, "here").size == (10, 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 40), (40, 3), (900, 700)])
def test_odd_shapes_reach_the_tower(spec: ModelSpec, size: tuple[int, int]) -> None:
    """One pixel, or as many rows as colours: nothing may be taken for something else."""
    reader = image_reader(resolve(spec, tiny.profile(spec)))
    found = reader.pixels([PIL.Image.new("RGB", size, (255, 0, 0))])
    assert found.shape == (1, 3, 28, 28)
    np.testing.assert_allclose(found[0, 0], 1, atol=0.02)  # red stays in the first channel
    np.testing.assert_allclose(found[0, 1:], -1, atol=0.02)


def test_features_do_not_depend_on_the_batch(spec: ModelSpec, tmp_path: Path) -> None:
    data = tiny.task_data([picture(i) for i in range(6)], "image")
    one = extract(spec, data, tiny.profile(spec, token_budget=1), store=tmp_path / "one")
    many = extract(spec, data, tiny.profile(spec, token_budget=999), store=tmp_path / "many")
    for layer in spec.layers.values():
        np.testing.assert_allclose(one.hidden(layer), many.hidden(layer), rtol=1e-4, atol=1e-4)
        a, b = (f.matrix(layer, "96", "sum").toarray() for f in (one, many))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_tower_states_are_those_of_the_tower(spec: ModelSpec, tmp_path: Path) -> None:
    data = tiny.task_data([picture(i) for i in range(5)], "image")
    store = Store(tmp_path / "store")
    found = tower_states(spec, data, tiny.profile(spec), store)
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(spec.source).eval()
    pixels = torch.from_numpy(image_reader(resolve(spec, tiny.profile(spec))).pixels(data.inputs))
    with torch.no_grad():
        expected = model.model.vision_tower(pixels).last_hidden_state.mean(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(found, tower_states(spec, data, tiny.profile(spec), store))


def test_an_untrained_connector_changes_only_the_connector(spec: ModelSpec, tmp_path: Path) -> None:
    workspace, copy = with_untrained_connector(
        Workspace(tiny.profile(spec), tmp_path, "tiny"), spec
    )
    assert workspace.profile.model(f"{spec.name}-untrained") == copy
    old, new = (
        transformers.PaliGemmaForConditionalGeneration.from_pretrained(s.source).state_dict()
        for s in (spec, copy)
    )
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    again, same = with_untrained_connector(Workspace(tiny.profile(spec), tmp_path, "tiny"), spec)
    assert same == copy


def test_tensors_of_names_of_equal_length_are_drawn_apart() -> None:
    one, two = (
        torch.randn(4, generator=images._draw(0, name)) for name in ("a.weight", "b.weight")
    )
    assert not torch.equal(one, two)
    assert torch.equal(one, torch.randn(4, generator=images._draw(0, "a.weight")))
    assert not torch.equal(one, torch.randn(4, generator=images._draw(1, "a.weight")))


def test_an_untrained_copy_is_made_once_by_however_many(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once wait for one another, and what a killed one left does no harm."""
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    made: list[Path] = []
    real = images._write_untrained

    def slowly(model: Any, seed: int, target: Path) -> None:
        made.append(target)
        target.with_name(f"{target.name}.part-left").mkdir()
        real(model, seed, target)

    monkeypatch.setattr(images, "_write_untrained", slowly)
    with ThreadPoolExecutor(2) as pool:
        copies = list(pool.map(lambda _: with_untrained_connector(workspace, spec)[1], range(2)))
    assert copies[0] == copies[1]
    assert len(made) == 1
    assert (Path(copies[0].source) / "config.json").is_file()


def test_every_image_score_has_its_base_rate(spec: ModelSpec, tmp_path: Path) -> None:
    data = tiny.task_data([picture(i) for i in range(40)], "image")
    workspace = Workspace(tiny.profile(spec), tmp_path, "tiny")
    cells = image_cells(workspace.profile, ["tiny"], spec)
    table = to_scores(score_cells(cells, workspace, n_jobs=1, load=lambda *_: data))
    assert set(table["feature"]) == {"sae", "hidden", "vision_tower", "base_rate"}
    rated = table[table["feature"] == "base_rate"]
    assert set(table["split"]) == set(rated["split"])
    assert table.loc[table["feature"] == "vision_tower", "n_features"].item() == 16


def test_image_rows_of_a_bundle_stand_beside_the_published(tmp_path: Path) -> None:
    tiny.mixed_bundle(tmp_path / "runs")
    [found] = bundle_grids(tmp_path / "runs", kind="image")
    assert set(found["task"]) == {"flowers", "my-pictures"}
    assert set(bundle_grids(tmp_path / "runs")[0]["task"]) == {"sentiment"}
    authors = published_scores()
    best = best_on_test(authors[authors["task"] == "flowers"], "depth")
    theirs = select_by_cv(found, ["task", "model", "depth"])
    saved = fig_vision([best, theirs], tmp_path)
    values = pd.read_csv(saved.csv)
    drawn = values[(values["source"] == "bundle") & (values["task"] == "flowers")]
    assert set(drawn["series"]) == {
        "SAE latents", "SAE, untrained connector", "hidden state, last token", "vision tower",
        "base rate",
    }  # fmt: skip
    gap = image_gaps(best)["flowers"]
    said = f"in 1 of 1 image sets; at the best depth of each the differences reach from {gap:+.2f}"
    assert said in saved.caption.finding


def test_the_depth_of_a_run_is_chosen_without_the_test_score(tmp_path: Path) -> None:
    tiny.mixed_bundle(tmp_path)
    [found] = bundle_grids(tmp_path, kind="image")
    of = at_best_depth(found).set_index(["task", "series"])["macro_f1"]
    assert of["flowers", "SAE latents"] == 0.6
    assert image_gaps(found)["flowers"] == pytest.approx(0.6 - 0.65)
    authors = published_scores()
    best = best_on_test(authors[authors["task"] == "flowers"], "depth")
    sae = best[best["feature"] == "sae"]["macro_f1"]
    of = at_best_depth(best).set_index(["task", "series"])["macro_f1"]
    assert of["flowers", "SAE latents"] == sae.max()
