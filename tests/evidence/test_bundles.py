"""What a bundle may hold: everything else is refused with one sentence that says what to do."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import tiny
from PIL import Image
from places import RUNS

from mosaic.cli import build_parser
from mosaic.config.workspace import open_workspace
from mosaic.errors import ConfigError, IntegrityError
from mosaic.evidence.bundle_rules import read_manifest
from mosaic.evidence.bundles import (
    bundle_folders,
    bundle_grids,
    bundle_latents,
    bundles_with_latents,
    further_parts,
    open_bundle,
    read_bundle,
    read_bundles,
    shipped_runs,
    write_bundle,
)
from mosaic.evidence.claims import judge_claims, load_claims
from mosaic.evidence.pack import command_line, pack_run, public
from mosaic.publish.bundle_pages import (
    bundle_pages,
    languages_table,
    pages_of_bundles,
    seeds_table,
    training_in_words,
    verdicts_table,
)
from mosaic.publish.scorecard import PUBLISHED, scorecard_columns, verdicts_in_words
from mosaic.scores.table import ADDED, make_scores, write_scores
from mosaic.storage.files import sha256

SHIPPED = RUNS
ROW = {
    "source": "run",
    "protocol": "nested",
    "profile": "mine",
    "model": "bert",
    "layer": 3,
    "depth": "middle",
    "width": "1k",
    "feature": "sae",
    "pooling": "sum",
    "selection": "all",
    "task": "banking77",
    "kind": "text",
    "toy": False,
    "probe": "linear",
    "seed": 0,
    "n_train": 100,
    "n_test": 50,
    "macro_f1": 0.5,
    "macro_f1_low": 0.4,
    "macro_f1_high": 0.6,
    "cv_accuracy": 0.5,
}
MODEL = {
    "name": "bert",
    "source": "someone/bert",
    "sha256": {"model.safetensors": "0" * 64},
    "saes": {
        "layer_3/width_1k": {
            "latents": 1024,
            "l0": 23.4,
            "explained_variance": 0.7,
            "dead_share": 0.1,
            "n_states": 1234.0,
        }
    },
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle: an SAE cell, its threshold and top-k neighbours, hidden states, a figure."""
    rows = [
        ROW,
        {**ROW, "threshold": 1.0, "macro_f1": 0.55, "cv_accuracy": 0.6},
        {**ROW, "threshold": 5.0, "macro_f1": 0.45},
        {**ROW, "selection": "topk", "k": 8},
        {**ROW, "seed": 1},
        {**ROW, "seed": None, "repeat": 2},
        {**ROW, "feature": "hidden", "pooling": "mean", "width": None, "selection": None},
        {**ROW, "feature": "tfidf", "language": "de", "train_language": "en", "layer": None},
        {**ROW, "scaling": "none"},
        {**ROW, "bos": "keep"},
        {**ROW, "label_model": "big", "kind": "behaviour"},
        {**ROW, "feature": "base_rate", "cv_accuracy": None},
    ]
    figure = tmp_path / "fig-baselines.png"
    Image.new("RGB", (20, 10)).save(figure)
    folder = tmp_path / "runs" / "mine"
    table = make_scores(rows)
    return write_bundle(folder, table, "mine", "mosaic run 04", "cpu", [MODEL], [figure])


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_scores(folder: Path, old: str, new: str, honest: bool) -> None:
    """Change the table; an honest change comes with a new checksum, as a forger's would."""
    path = folder / "scores.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if honest:
        manifest = json.loads((folder / "manifest.json").read_text())
        change_manifest(folder, files={**manifest["files"], "scores.csv": sha256(path)})


def without(folder: Path, field: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[field]
    path.write_text(json.dumps(manifest))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "number changed": (
        lambda f: change_scores(f, "0.55", "0.95", honest=False),
        "was changed after it was written: its checksum differs",
    ),
    "score above 1": (
        lambda f: change_scores(f, "0.55,0.4,0.6", "1.55,0.4,1.6", honest=True),
        "macro_f1 is 1.55 but must lie between 0 and 1",
    ),
    "score outside its interval": (
        lambda f: change_scores(f, "0.55,0.4,0.6", "0.75,0.4,0.6", honest=True),
        "must lie inside its interval",
    ),
    "negative count": (
        lambda f: change_scores(f, ",100,50,", ",-100,50,", honest=True),
        "n_train is -100 but must not be below 0",
    ),
    "not a number": (
        lambda f: change_scores(f, "0.55", "much", honest=True),
        "a number cannot be read",
    ),
    "HTML in a score table": (
        lambda f: change_scores(f, "banking77", "<script>alert(1)</script>", honest=True),
        "column 'task': the text '<script>.* holds markup",
    ),
    "other profile": (
        lambda f: change_scores(f, ",mine,", ",paper,", honest=True),
        r"the profiles \['paper'\] where the manifest names \['mine'\]",
    ),
    "other seeds": (
        lambda f: change_manifest(f, seeds=[7]),
        r"the seeds \[0, 1\] where the manifest names \[7\]",
    ),
    "missing field": (lambda f: without(f, "device"), "field 'device' is missing"),
    "wrong kind of field": (
        lambda f: change_manifest(f, command=3),
        "field 'command' is 3, which does not fit .input should be a valid string",
    ),
    "unknown field": (lambda f: change_manifest(f, html="x"), "unknown field 'html'; remove it"),
    "other schema": (
        lambda f: change_manifest(f, schema_version=1, command=3),
        "field 'schema_version' is 1, which does not fit .input should be 2, 3, 4 or 5",
    ),
    "script in a text": (
        lambda f: change_manifest(f, title="<img src=x onerror=alert(1)>"),
        "a text in a bundle is one plain line",
    ),
    "directive in a text": (
        lambda f: change_manifest(f, machine="fast\n```{include} /etc/passwd\n```"),
        "a text in a bundle is one plain line",
    ),
    "script in a model": (
        lambda f: change_manifest(f, models=[{**MODEL, "name": "<b>"}]),
        "a text in a bundle is one plain line",
    ),
    "script in a key": (
        lambda f: change_manifest(f, versions={"<b>": "1"}),
        "a text in a bundle is one plain line",
    ),
    "long text": (lambda f: change_manifest(f, title="x" * 700), "longer than 600 characters"),
    "long command": (
        lambda f: change_manifest(f, command="x" * 3001),
        "longer than 3000 characters",
    ),
    "list for an object": (lambda f: (f / "manifest.json").write_text("[]"), "does not fit"),
    "model without checksums": (
        lambda f: change_manifest(f, models=[{"name": "bert"}]),
        r"field 'models\.0\.source' is missing",
    ),
    "seed that is no number": (
        lambda f: change_manifest(f, seeds=["<b>"]),
        r"field 'seeds\.0' is '<b>', which does not fit .input should be a valid integer",
    ),
    "unknown kind of file": (
        lambda f: (f / "page.html").write_text("<p>hello</p>"),
        "page.html is no file a bundle may hold",
    ),
    "SVG": (lambda f: (f / "fig-a.svg").write_text("<svg/>"), "fig-a.svg is no file a bundle"),
    "weights": (lambda f: (f / "sae.pkl").write_bytes(b"x"), "sae.pkl is no file a bundle may"),
    "folder": (lambda f: (f / "data").mkdir(), "is a link or a folder"),
    "link": (
        lambda f: os.symlink(SHIPPED / "tfidf-nested" / "scores.csv", f / "fig-b.png"),
        "is a link or a folder",
    ),
    "path out of the folder": (
        lambda f: change_manifest(f, files={"../../secret": "0" * 64}),
        r"'\.\./\.\./secret' is no file of a bundle",
    ),
    "file nobody listed": (
        lambda f: shutil.copy(f / "fig-baselines.png", f / "fig-new.png"),
        "fig-new.png is not in the manifest",
    ),
    "picture that is none": (
        lambda f: (
            (f / "fig-baselines.png").write_text("<script>"),
            change_manifest(
                f, files={n: sha256(f / n) for n in ("scores.csv", "fig-baselines.png")}
            ),
        ),
        "is not a PNG picture",
    ),
    "too large": (
        lambda f: (f / "fig-big.png").write_bytes(b"\0" * 4_000_001),
        "a bundle has 4,000,000 at most",
    ),
    "no scores": (lambda f: (f / "scores.csv").unlink(), "has a manifest but no scores.csv"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is not a readable manifest"),
    "no JSON": (
        lambda f: (f / "manifest.json").write_text("[" * 100_000),
        "is not a readable manifest",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_belong_is_refused_in_one_sentence(bundle: Path, what: str) -> None:
    spoil, says = REFUSED[what]
    assert len(read_bundles(bundle.parent)) == 12
    spoil(bundle)
    with pytest.raises(IntegrityError, match=says) as refusal:
        read_bundles(bundle.parent)
    assert "\n" not in str(refusal.value)


def test_a_bundle_that_would_be_refused_leaves_the_old_one(bundle: Path) -> None:
    table = read_bundle(bundle)
    with pytest.raises(IntegrityError, match="holds markup"):
        write_bundle(bundle, table, "<b>new</b>", "mosaic run 04")
    assert read_manifest(bundle).title == "mine"
    assert bundle_folders(bundle.parent) == [bundle]
    write_bundle(bundle, table, "new", "mosaic run 04")
    assert read_manifest(bundle).title == "new"
    assert [path.name for path in bundle.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_while_a_bundle_is_replaced_leaves_one_whole(bundle: Path, renames: int) -> None:
    """The process ends before the first rename, or between the two."""
    table = read_bundle(bundle)

    def crash() -> None:
        done, real = [], Path.rename

        def rename(path: Path, target: Path) -> Path:
            if len(done) == renames:
                os._exit(9)
            done.append(path)
            return real(path, target)

        Path.rename = rename  # type: ignore[method-assign, assignment]
        write_bundle(bundle, table, "new", "mosaic run 04")

    process = multiprocessing.get_context("fork").Process(target=crash)
    process.start()
    process.join()
    assert process.exitcode == 9
    [left] = bundle_folders(bundle.parent)
    assert read_manifest(left).title == "mine"
    assert len(read_bundle(left)) == len(table)
    write_bundle(bundle, table, "newer", "mosaic run 04")
    assert bundle_folders(bundle.parent) == [bundle]
    assert read_manifest(bundle).title == "newer"


def test_a_leftover_beside_its_bundle_is_not_read_twice(bundle: Path) -> None:
    shutil.copytree(bundle, bundle.with_name("mine.replaced"))
    shutil.copytree(bundle, bundle.with_name(".mine.new-1"))
    assert bundle_folders(bundle.parent) == [bundle]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/" + "home/me/secret/mine.yaml", "mine.yaml"),
        ("~/secret/mine.yaml", "mine.yaml"),
        ("../../secret/mine.yaml", "mine.yaml"),
        ("runs/../../secret/out", "out"),
        ("C:\\Users\\secret\\out", "out"),
        ("file:///home/secret/out/", "out"),
        ("book/runs/tfidf", "book/runs/tfidf"),
        ("https://example.org/a", "https://example.org/a"),
        ("a..b", "a..b"),
        (["/secret/a", "b"], ["a", "b"]),
        ({"/secret/a": ["/secret/b"]}, {"a": ["b"]}),
        (3, 3),
    ],
)
def test_private_paths_reach_no_command(given: Any, said: Any) -> None:
    assert public(given) == said
    line = command_line(
        "run", ["04"], {"profile": given, "build_dir": "/secret", "engine": "ray"},
        {"x": given, "build_dir": "/secret", "profile": "/secret", "engine": "ray"},
    )  # fmt: skip
    assert "secret" not in line
    assert "ray" not in line
    args = build_parser().parse_args(shlex.split(line)[1:]) if isinstance(given, str) else None
    assert args is None or (args.profile, args.parameters) == (said, [("x", said)])


def test_a_packed_run_names_the_commands_that_were_run(tmp_path: Path) -> None:
    """Chapters that were given other parameters are other commands; none is made of both."""
    workspace = open_workspace("mini", str(tmp_path / "secret build"))
    tasks = {"tasks": ["safety-en"]}
    given: dict[str, dict[str, Any]] = {
        "02_layers_and_scale": tasks, "03_width": {"k_values": [8], **tasks}, "04_baselines": tasks
    }  # fmt: skip
    for chapter, parameters in given.items():
        write_scores(make_scores([{**ROW, "profile": "mini"}]), workspace.scores_path(chapter))
        notebook = nbformat.v4.new_notebook()
        where = {"profile": "mini", "build_dir": str(workspace.root), "bundles_dir": str(tmp_path)}
        notebook.metadata["papermill"] = {"parameters": {**where, **parameters}}
        path = workspace.run / "notebooks" / f"{chapter}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    folder = pack_run(workspace, "mine", tmp_path / "runs" / "mine")
    first, second = read_manifest(folder).command.split(" && ")
    there = shlex.split(first)
    assert there[:6] == [
        "mosaic",
        "run",
        "02_layers_and_scale",
        "04_baselines",
        "--profile",
        "mini",
    ]
    assert "k_values" not in first
    assert shlex.split(second)[2] == "03_width"
    assert "k_values=[8]" in second
    assert "secret" not in (folder / "manifest.json").read_text()
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


def test_another_folder_with_a_manifest_is_not_taken_for_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"years of work")
    with pytest.raises(ConfigError, match="holds no bundle"):
        write_bundle(tmp_path, make_scores([ROW]), "mine", "mosaic run 04")
    assert (tmp_path / "weights.safetensors").exists()


def test_models_of_one_bundle_keep_their_own_rows() -> None:
    means = {**ROW, "seed": None, "repeat": 2}
    page = seeds_table(make_scores([means, {**means, "model": "other", "macro_f1": 0.55}]))
    assert page.startswith(":::{dropdown} The paper's recipe, mean over seeds (2 rows;")
    rows = [line for line in page.splitlines() if line.startswith("| `banking77`")]
    assert ["3 of `bert`" in rows[0], "3 of `other`" in rows[1]] == [True, True]
    assert "} 0.550 (" in rows[1]


def test_every_shipped_bundle_is_read() -> None:
    found = bundle_folders(SHIPPED)
    assert len(found) >= 3
    assert all(len(read_bundle(folder)) for folder in found)


def as_version_2(folder: Path, profile: str = "mine") -> Path:
    """The bundle as it was written before tables said kind and toy."""
    return as_version(2, ["kind", "toy", *ADDED], folder, profile)


def as_version(version: int, without: list[str], folder: Path, profile: str = "mine") -> Path:
    path = folder / "scores.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=without)
    table.assign(profile=profile).to_csv(path, index=False)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files |= {"scores.csv": sha256(path)}
    change_manifest(folder, schema_version=version, files=files, profile=profile)
    return folder


def test_shipped_bundles_of_every_version_are_read() -> None:
    versions = {read_manifest(folder).schema_version for folder in bundle_folders(SHIPPED)}
    assert versions == {2, 3, 4, 5}
    for folder in bundle_folders(SHIPPED):
        table = read_bundle(folder)
        assert "text" in set(table["kind"]) <= {"text", "behaviour"}
        assert not table["toy"].any()


def test_a_bundle_of_version_2_is_completed_by_its_other_columns(tmp_path: Path) -> None:
    bundle = tiny.mixed_bundle(tmp_path)
    now, then = read_bundle(bundle), read_bundle(as_version_2(bundle))
    pd.testing.assert_frame_equal(now, then)
    assert set(now.loc[now["task"] == "my-pictures", "kind"]) == {"image"}
    assert read_bundle(as_version_2(tiny.mixed_bundle(tmp_path), "mini"))["toy"].all()


def test_a_bundle_of_version_3_says_nothing_of_probabilities(tmp_path: Path) -> None:
    bundle = tiny.mixed_bundle(tmp_path)
    now, then = read_bundle(bundle), read_bundle(as_version(3, list(ADDED), bundle))
    assert then[list(ADDED)].isna().all(axis=None)
    others = [name for name in now if name not in ADDED]
    pd.testing.assert_frame_equal(now[others], then[others])


def test_old_tables_lack_no_other_column(tmp_path: Path) -> None:
    bundle = as_version_2(tiny.mixed_bundle(tmp_path))
    change_scores(bundle, "label_model,", "label,", honest=True)
    with pytest.raises(IntegrityError, match="columns do not fit the schema"):
        read_bundle(bundle)
    change_manifest(bundle, schema_version=3)
    with pytest.raises(IntegrityError, match="columns do not fit the schema"):
        read_bundle(bundle)


def test_own_pictures_are_images_without_a_vision_tower_beside(tmp_path: Path) -> None:
    rows = [{**ROW, "task": "my-snaps", "kind": "image"}, ROW]
    bundle = write_bundle(
        tmp_path / "b" / "b", make_scores(rows), "b", "mosaic run", "cpu", [MODEL]
    )
    [images] = bundle_grids(bundle.parent, kind="image")
    assert set(images["task"]) == {"my-snaps"}
    [texts] = bundle_grids(bundle.parent)
    assert set(texts["task"]) == {"banking77"}


def test_the_grid_of_a_bundle_is_what_chapters_compare(bundle: Path) -> None:
    [grid] = bundle_grids(bundle.parent)
    assert sorted(grid["feature"]) == ["hidden", "sae", "sae"]
    assert set(grid["source"]) == {"bundle"}
    assert len(bundle_grids(bundle.parent, "sae")[0]) == 2
    assert bundle_grids(bundle.parent.parent / "nowhere") == []
    [whole] = bundles_with_latents(bundle.parent)
    assert len(whole) == len(read_bundle(bundle)) > len(grid)


def two_widths(bundle: Path, monkeypatch: pytest.MonkeyPatch, profile: str = "widths") -> Path:
    """Beside the bundle another of `profile`: its narrow SAE again, .02 above, and a wider one."""
    monkeypatch.setattr("mosaic.scores.names.RUNS", {"mine": "Bert", "widths": "Bert"})
    rows = [
        {**ROW, "profile": profile, "macro_f1": 0.52, "sae_release": "trained again"},
        {**ROW, "profile": profile, "macro_f1": 0.6, "width": "4k"},
    ]
    [facts] = MODEL["saes"].values()
    saes = {"layer_3/width_1k": {**facts, "l0": 99.0}, "layer_3/width_4k": facts}
    command, models = "mosaic run 03", [{**MODEL, "saes": saes}]
    folder = bundle.with_name("more")
    return write_bundle(folder, make_scores(rows), "more", command, "cpu", models)


def test_parts_of_a_run_are_one_run(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first cannot say the second says, and no pair is made of both."""
    alone = judge_claims(load_claims(), read_bundle(bundle))
    two_widths(bundle, monkeypatch)
    runs = shipped_runs(bundle.parent)
    assert {name: [p.folder.name for p in parts] for name, parts in runs.items()} == {
        "Bert run": ["mine", "more"]
    }
    [only] = bundles_with_latents(bundle.parent)
    assert set(only["profile"]) == {"mine"}
    assert [set(table["profile"]) for table in further_parts(bundle.parent)] == [{"widths"}]
    found = scorecard_columns(bundle.parent)["Bert run"]
    [claimed] = [f for f in found if f.claim.key == "narrow-enough"]
    assert claimed.effect == pytest.approx(0.52 - 0.6), "both of the second"
    others = [f.effect for f in found if f is not claimed]
    assert others == [f.effect for f in alone if f.claim.key != "narrow-enough"]
    pages = pages_of_bundles(bundle.parent)
    assert "width_4k" in pages["more_saes"]
    assert "The narrowest SAE is enough" in pages["mine_claims"]
    assert "mosaic run 03" in pages["more_provenance"]
    assert "mine_again" not in pages
    assert pages["more_again"] == (
        "Cells scored in both parts that came out equal to the last digit: of SAE latents 0 of 1 "
        "(others by up to 0.020, on average +0.020). Each part is judged within itself.\n"
    )


def test_a_second_run_of_a_profile_stands_beside_the_first(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the first one's column, without a word."""
    two_widths(bundle, monkeypatch, profile="mine")
    assert list(shipped_runs(bundle.parent)) == ["Bert run", "Bert run (more)"]
    assert list(scorecard_columns(bundle.parent)) == [PUBLISHED, "Bert run", "Bert run (more)"]


def test_cards_hold_the_numbers_of_the_bundle(bundle: Path) -> None:
    cards = {
        name: re.sub(r"\[[^]]*:\]\{\.source\} ", "", text)  # what only a phone shows
        for name, text in bundle_pages(open_bundle(bundle)).items()
    }
    assert "| `layer_3/width_1k` | 1,024 | 23.4 | 0.700 | 10.0% |" in cards["saes"]
    assert "| SAE `1k`, sum &gt; 1 | 3 | 0.550 (0.400 to 0.600) |" in cards["chosen"]
    assert "| 2 | 0.500 (0.400 to 0.600) |" in cards["seeds"]
    assert "`mosaic run 04`" in cards["provenance"]
    assert cards["training"] == (
        "The figures above are measured on 1,234 tokens of texts kept back.\n"
    )
    said = "SAE latents by task and language: against the mean hidden state ahead in 1 of 1.\n"
    assert cards["summary"] == said


def test_how_saes_were_trained_is_said_by_the_bundle_alone(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants of today's code are no facts of a run made elsewhere."""
    for name in ("sae_texts.MOST_TEXTS", "sae_texts.HELD_OUT", "sae_metrics.SAE_BATCH"):
        monkeypatch.setattr(f"mosaic.models.{name}", 7777777)
    assert "7,777,777" not in bundle_pages(open_bundle(bundle))["training"]
    facts = {"texts": 6000, "held_out": 600, "steps": 195, "batch": 1024, "active": 24}
    [sae] = MODEL["saes"].values()
    told = {**MODEL, "saes": {"layer_3/width_1k": {**sae, **facts}}}
    write_bundle(bundle, read_bundle(bundle), "told", "mosaic run 04", "cpu", [told])
    assert training_in_words(read_manifest(bundle)) == (
        "The figures above are measured on 1,234 tokens of texts kept back. The SAEs were trained "
        "on 6,000 other texts. There are 600 texts kept back. Training took 195 steps. A step had "
        "1,024 residual vectors. On a token 24 latents are active in training.\n"
    )


def test_a_page_says_what_its_run_finds_of_each_claim(bundle: Path) -> None:
    """With few tasks nothing is decided; with ten that agree the same comparison is, either way."""
    said = bundle_pages(open_bundle(bundle))["verdicts"]
    assert "**Too few tasks**" in said
    assert "**Not tested**" in said
    assert "Supported" not in said
    for better, verdict in ((0.7, "Supported"), (0.3, "Not supported")):
        rows = []
        for task in range(10):
            cell = {**ROW, "task": f"task-{task}", "depth": "middle", "threshold": 1.0}
            cell |= {"macro_f1_low": 0.1, "macro_f1_high": 0.9}
            last = {"feature": "hidden", "pooling": "last", "width": None, "selection": None}
            rows += [{**cell, "macro_f1": better + task / 1000}]
            rows += [{**cell, **last, "threshold": None, "macro_f1": 0.5}]
        found = verdicts_in_words(judge_claims(load_claims(), make_scores(rows)))
        [line] = [line for line in found.splitlines() if "SAE beats the last token" in line]
        assert line.startswith(f"- **{verdict}** ")
        table = verdicts_table(make_scores(rows))
        assert f"{better - 0.5 + 0.0045:+.3f} [" in table
        assert ("10 of 10" if better > 0.5 else "0 of 10") in table
        assert "; beyond noise 0 above, 0 below" in table, "of one run each the noise is not known"


def test_explained_variance_stands_by_language(bundle: Path) -> None:
    assert bundle_pages(open_bundle(bundle))["languages"] == ""
    facts = {"explained_variance zh": 0.812, "explained_variance_rest zh": 0.7}
    [sae] = MODEL["saes"].values()
    told = {**MODEL, "saes": {"layer_3/width_1k": {**sae, **facts}}}
    write_bundle(bundle, read_bundle(bundle), "told", "mosaic run 04", "cpu", [told])
    row = "| `layer_3/width_1k` | [`zh`:]{.source} 0.81 (0.70) |"
    assert row in languages_table(read_manifest(bundle))


def test_a_page_reads_its_bundle_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mosaic.evidence import bundles

    read: list[Path] = []
    real = bundles.read_manifest
    monkeypatch.setattr(bundles, "read_manifest", lambda f: (read.append(f), real(f))[1])
    bundle_pages(open_bundle(bundle))
    assert read == [bundle]


def shown_latents(**changes: Any) -> dict[str, Any]:
    """A view of one latent with one text, as JSON; `changes` replace fields of any depth."""
    text = {"label": "card", "value": 2.5, "pieces": [["my <b>", 0.0], [" card", 2.5]]}
    latent: dict[str, Any] = {
        "latent": 7, "weights": [{"label": "card", "weight": 1.0, "effect": 0.5}],
        "edges": [1.0, 3.0], "inside": [1], "elsewhere": [0], "promotes": [" card"],
        "page": None, "explanation": None, "strongest": [text], "random": [],
    }  # fmt: skip
    view: dict[str, Any] = {
        "task": "banking77", "dataset": "legacy-datasets/banking77", "licence": "CC-BY-4.0",
        "role": "intent", "toy": False, "model": "bert", "layer": 3, "width": "1k", "documents": 2,
        "latents": [latent],
    }  # fmt: skip
    for name, value in changes.items():
        [place] = [part for part in (view, latent, text) if name in part] or [view]
        place[name] = value
    return view


def write_latents(bundle: Path, view: Any) -> Path:
    """Put a view into a bundle whose manifest names it, as a forger would."""
    path = bundle / "latents.json"
    path.write_text(json.dumps(view))
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    change_manifest(bundle, files={**files, "latents.json": sha256(path)})
    return path


def test_latents_of_a_bundle_are_read_with_its_title(bundle: Path) -> None:
    assert bundle_latents(bundle.parent) == {}
    path = write_latents(bundle, shown_latents())
    assert list(bundle_latents(bundle.parent)) == ["mine"]
    view = bundle_latents(bundle.parent)["mine"]
    assert json.loads(path.read_text()) == view.model_dump(mode="json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"licence": "unverified"}, "may hold texts under"),
        ({"role": "toxicity"}, "may hold texts under"),
        ({"page": "javascript:alert(1)"}, "page"),
        ({"page": "https://example.org/1"}, "page"),
        ({"script": "x"}, "unknown field 'script'"),
        ({"pieces": [["x", 0.0]] * 503}, "pieces"),
        ({"pieces": [["x" * 503, 0.0]]}, "500 characters"),
        ({"value": float("nan")}, "value"),
        ({"promotes": ["x" * 201]}, "promotes"),
        ({"latents": []}, "latents"),
        ({"inside": [1, 2]}, "edges"),
    ],
)
def test_latents_that_do_not_belong_are_refused(
    bundle: Path, change: dict[str, Any], says: str
) -> None:
    write_latents(bundle, shown_latents(**change))
    with pytest.raises(IntegrityError, match=says):
        read_bundles(bundle.parent)


def test_a_packed_run_takes_latents_only_where_their_texts_may_be_passed_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = open_workspace("mini", str(tmp_path / "build"))
    write_scores(make_scores([{**ROW, "profile": "mini"}]), workspace.scores_path("04_baselines"))
    workspace.figures.mkdir(parents=True)
    path = workspace.figures / "latents.json"
    path.write_text(json.dumps(shown_latents()))
    folder = pack_run(workspace, "mine", tmp_path / "runs" / "mine")
    assert list(bundle_latents(folder.parent)) == ["mine"]
    assert read_manifest(folder).command == "mosaic run 01_features 04_baselines --profile mini"
    path.write_text(json.dumps(shown_latents(licence="unverified")))
    pack_run(workspace, "mine", folder)
    assert bundle_latents(folder.parent) == {}
    assert "may not be passed on" in caplog.text
