"""Random damage against every kind of file the package reads.

`python benchmarks/fuzz.py --minutes 10 --seed 0` ends with a count per kind of file, and with exit
code 1 if anything but a MosaicError came out. Every crash is printed with the seed that makes it
again: `--only KIND --seed SEED --rounds 1`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mosaic.config.profiles import Profile, SAESpec, load_profile
from mosaic.config.tasks import load_catalogue
from mosaic.data.load import load_task
from mosaic.errors import IntegrityError, MosaicError
from mosaic.evidence.bundles import bundle_origins, read_bundle, write_bundle
from mosaic.extraction.features import Block, Features
from mosaic.models.hub import check_pin
from mosaic.models.saes import load_sae
from mosaic.scores.table import make_scores, read_scores, write_scores
from mosaic.storage.files import sha256
from mosaic.storage.manifest import MANIFEST, verify_folder, write_manifest
from mosaic.storage.shards import Store
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell, read_scored, to_scores, write_scored

# What tears parsers: ends of numbers and of structures, other encodings, the very deep and long.
TOKENS = [
    *(b"", b"{", b"}", b"[", b"]", b'"', b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b",", b"\n", b": "),
    *(b"null", b"NaN", b"-1", b"1e999", b"99999999999999999999", b"true", b"''", b"- ", b"*a"),
    *(
        b"[" * 3000,
        b"{" * 300,
        b"x" * 5000,
        b"<script>",
        b"../../x",
        b"!!python/object:os.system x",
    ),
]
D_MODEL, D_SAE = 8, 16


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` with one to four kinds of damage; now and then nothing but random bytes."""
    if rng.random() < 0.05:
        return rng.bytes(int(rng.integers(0, 300)))
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(data) + 1))
        end = min(len(data), at + int(rng.integers(1, 40)))
        kind = rng.integers(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = TOKENS[int(rng.integers(len(TOKENS)))]
        elif kind == 4:
            data[at:end] = TOKENS[int(rng.integers(len(TOKENS)))]
        else:
            other = int(rng.integers(0, len(data) + 1))
            data[at:at] = data[other : other + 30]
    return bytes(data)


def values_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of every value in nested lists and mappings."""
    yield path
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from values_of(value, (*path, key))


ODD = (None, True, -1, 0, 3.5, 10**30, "", "x", "16k", [], [[]], {}, {"a": 1}, [None], "\ud800")


def mutate_tree(tree: Any, rng: np.random.Generator) -> Any:
    """Well-formed, but with one value or key replaced by something odd."""
    paths = [path for path in values_of(tree) if path]
    path = paths[int(rng.integers(len(paths)))]
    node = tree = json.loads(json.dumps(tree))
    for key in path[:-1]:
        node = node[key]
    value = ODD[int(rng.integers(len(ODD)))]
    if isinstance(node, dict) and rng.random() < 0.3:
        kept = node.pop(path[-1])
        if rng.random() < 0.5:
            node[str(value)] = kept
    else:
        node[path[-1]] = value
    return tree


@dataclass(frozen=True)
class Target:
    """A kind of file: where a sound one is, and what reads it."""

    name: str
    file: Path
    read: Callable[[], Any]
    text: bool = True
    """JSON or YAML, which is also damaged value by value."""


def targets(root: Path) -> list[Target]:
    """Sound files below `root`, one of each kind, with their readers."""
    made = (_store_files, _tables, _settings, _sae_files)
    return [target for make in made for target in make(root / make.__name__)]


def _store_files(root: Path) -> list[Target]:
    arrays = {
        "indptr": np.array([0, 2, 3]),
        "latent": np.array([1, 5, 2], dtype=np.uint8),
        "sum": np.array([1.0, 2.0, 3.0], dtype=np.float32),
        "n_tokens": np.array([3, 4], dtype=np.int32),
    }
    Store(root).write("k", 0, arrays)
    Store(root).finish("k", 1, {"layer": 3}, d_sae=D_SAE, top_n=[3], name="layer_3/width_16")
    pins = root / "pins.json"
    check_pin(pins, "org/model", "c1", {"w": "aa"})
    ids = np.array(["a", "b"])

    def matrix() -> None:
        store = Store(root)
        found = Features(ids, store, (Block(3, "16", "k"),))
        store.missing("k", 1)
        assert found.matrix(3, "16").shape == (2, D_SAE), "a wrong matrix was believed"

    shipped = root.parent / "shipped"
    shipped.mkdir(parents=True)
    (shipped / "file").write_text("content")
    write_manifest(shipped)
    return [
        Target("shard", root / "k" / "shard-00000.safetensors", matrix, text=False),
        Target("store manifest", root / "k" / "manifest.json", matrix),
        Target("pins", pins, lambda: check_pin(pins, "org/model", "c1", {"w": "aa"})),
        Target(
            "file manifest",
            shipped / MANIFEST,
            lambda: verify_folder(shipped),
        ),
    ]


def _tables(root: Path) -> list[Target]:
    row = {"source": "run", "protocol": "nested", "profile": "p", "task": "t", "probe": "linear"}
    row |= {"kind": "text", "toy": False}
    rows = [
        {**row, "feature": "sae", "layer": 3, "threshold": 1.0, "macro_f1": 0.5, "seed": s}
        for s in range(3)
    ]
    table = root / "scores.csv"
    write_scores(make_scores(rows), table)
    bundle = write_bundle(root / "bundle", make_scores(rows), "title", "mosaic sweep")
    manifest = bundle / "manifest.json"
    signed = write_bundle(root / "signed", make_scores(rows), "title", "mosaic sweep")

    def sign_and_read() -> None:
        content = json.loads((signed / "manifest.json").read_text())
        content["files"]["scores.csv"] = sha256(signed / "scores.csv")
        (signed / "manifest.json").write_text(json.dumps(content))
        read_bundle(signed)

    def read_and_cite() -> None:
        read_bundle(bundle)
        bundle_origins(root)

    kept = Cell("t", "sae")
    cell = root / "cell.json"
    numbers = np.array([0, 1])
    write_scored(
        cell,
        ScoredCell(kept, dict(rows[0]), np.array(["a", "b"]), numbers, numbers, np.eye(2), 1.0),
    )

    def read_cell() -> None:
        result = read_scored(cell, kept)
        if result is None:
            for aside in cell.parent.glob(f"{cell.name}.corrupt-*"):
                aside.unlink()
            raise IntegrityError("it was set aside, to be scored anew")
        to_scores([result])

    return [
        Target("score table", table, lambda: read_scores(table), text=False),
        Target("bundle manifest", manifest, read_and_cite),
        Target("bundle scores", signed / "scores.csv", sign_and_read, text=False),
        Target("scored cell", cell, read_cell),
    ]


def _settings(root: Path) -> list[Target]:
    root.mkdir(parents=True)
    task = {
        **{"name": "t", "role": "intent", "dataset": "org/set", "split": "train"},
        **{"input_field": "text", "label_field": "label", "licence": "MIT", "section": "4"},
        **{"label_names": ["no", "yes"], "rows": 4, "languages": {"en": {"split": "train"}}},
    }
    catalogue = root / "tasks.yaml"
    catalogue.write_text(yaml.safe_dump([task]))
    model = {
        **{"name": "m", "source": "./model", "layers": {"early": 0, "middle": 1}, "chat": True},
        "saes": [{"layer": 0, "width": "16", "folder": "./sae"}],
    }
    profile = root / "profile.yaml"
    settings = {"name": "p", "catalogue": "./tasks.yaml", "tasks": ["t-en"], "models": [model]}
    settings |= {"chapters": {"04": ["t-en"]}, "top_n": [3], "max_length": 64, "n_train": 10}
    profile.write_text(yaml.safe_dump(settings))
    folder = root / "data" / "org" / "set"
    folder.mkdir(parents=True)
    data = folder / "train.parquet"
    rows = pd.DataFrame({"text": ["a", "b", "<script>", ""], "label": [0, 1, 0, 1]})
    rows.to_parquet(data)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n---\n"
    )
    whole = Profile("p", str(root / "sound.yaml"), (), ("t-en",), data_dir=str(root / "data"))
    (root / "sound.yaml").write_text(yaml.safe_dump([task]))

    def read_profile() -> None:
        for found in load_profile(str(profile)).models:
            _ = found.widths, found.layers.values()

    return [
        Target("profile", profile, read_profile),
        Target("task file", catalogue, lambda: load_catalogue(str(catalogue))),
        Target("dataset", data, lambda: load_task("t-en", whole), text=False),
    ]


def _sae_files(root: Path) -> list[Target]:
    import torch
    from sae_lens import SAE

    config = {"architecture": "jumprelu", "d_in": D_MODEL, "d_sae": D_SAE, "dtype": "float32"}
    sae: Any = SAE.from_dict({**config, "device": "cpu", "metadata": {}})
    root.mkdir(parents=True)
    sae.save_model(root)
    spec = SAESpec(layer=0, width="16", folder=str(root))

    def load() -> None:
        found = load_sae(spec, torch.device("cpu"), D_MODEL)
        assert found.W_enc.shape == (D_MODEL, D_SAE), "a wrong shape was believed"

    return [
        Target("SAE config", root / "cfg.json", load),
        Target("SAE weights", root / "sae_weights.safetensors", load, text=False),
    ]


def damage(target: Target, content: bytes, seed: int) -> bytes:
    """The content that `seed` gives the target's file."""
    rng = np.random.default_rng(seed)
    if target.text and rng.random() < 0.5:
        tree = mutate_tree(yaml.safe_load(content), rng)
        written = json.dumps(tree) if target.file.suffix == ".json" else yaml.safe_dump(tree)
        return written.encode("utf-8", "surrogatepass")
    return mutate(content, rng)


def attack(target: Target, seed: int) -> str:
    """ "read", the name of the MosaicError, or "crash" with the traceback printed."""
    content = target.file.read_bytes()
    target.file.write_bytes(damage(target, content, seed))
    try:
        target.read()
        return "read"
    except MosaicError as error:
        return type(error).__name__
    except Exception:
        print(f"CRASH {target.name!r} seed {seed}\n{traceback.format_exc(limit=-4)}", flush=True)
        return "crash"
    finally:
        target.file.write_bytes(content)


def fuzz(
    seed: int, seconds: float, rounds: int | None = None, only: str | None = None
) -> Counter[tuple[str, str]]:
    """Attack every target in turn, in a folder of its own; counts by (kind of file, outcome)."""
    logging.disable(logging.WARNING)
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="mosaic fuzz ") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = [t for t in targets(Path(folder)) if only in (None, t.name)]
        for target in chosen:
            target.read()  # a sound file is read
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end and (rounds is None or done < rounds):
            for target in chosen:
                counts[target.name, attack(target, seed)] += 1
            seed, done = seed + 1, done + 1
    logging.disable(logging.NOTSET)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rounds", type=int, help="end after so many attacks on each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--only", help="one kind of file")
    parser.add_argument("--out", help="CSV file for the counts; none prints them")
    args = parser.parse_args()
    counts = fuzz(args.seed, 60 * args.minutes, args.rounds, args.only)
    frame = pd.Series(counts).unstack(fill_value=0).rename_axis("file").reset_index()
    print(frame.to_csv(args.out or sys.stdout, index=False, lineterminator="\n") or "", end="")
    return int("crash" in frame)


if __name__ == "__main__":
    sys.exit(main())
