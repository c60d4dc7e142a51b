"""Damaged folders of models and SAEs: what becomes of each on the way to features.

`python benchmarks/damaged_folders.py --rounds 2000` prints a table of outcomes, and ends with exit
code 1 if anything but a MosaicError came out. A crash is printed with the seed that makes it again:
`--seed SEED --rounds 1`. "other" are settings with another value: another model, known as such by
its checksum, which is why the features were computed anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import mutate, mutate_tree

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import tiny

from mosaic.config.profiles import ModelSpec, SAESpec
from mosaic.errors import MosaicError
from mosaic.extraction.extract import extract

KINDS = ("llama", "gpt2", "bert", "sae")
"""Families of models that are damaged, and the SAE that reads the first of them."""

TEXTS = ("You are a pest.", "Thank you so much!", "short")


def change_tensors(file: Path, rng: np.random.Generator) -> str:
    """One tensor removed, renamed, cut, or made of no numbers."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    name = str(rng.choice(sorted(tensors)))
    value, how = tensors.pop(name), str(rng.choice(["removed", "renamed", "cut", "nan"]))
    if how == "renamed":
        tensors[str(rng.choice([f"_orig_mod.{name}", f"module.{name}", f"{name}_"]))] = value
    elif how == "cut":
        tensors[name] = np.ascontiguousarray(value[: len(value) // 2])
    elif how == "nan":
        tensors[name] = np.full_like(value, np.nan)
    save_file(tensors, file, {"format": "pt"})
    return how


def change_fields(file: Path, rng: np.random.Generator) -> str:
    """One field removed or renamed, or any value of the tree changed."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    name, how = str(rng.choice(sorted(tree))), str(rng.choice(["removed", "renamed", "changed"]))
    if how == "changed":
        tree = mutate_tree(tree, rng)
    else:
        value = tree.pop(name)
        tree |= {f"{name}_": value} if how == "renamed" else {}
    file.write_text(json.dumps(tree), encoding="utf-8")
    return how


def change_bytes(file: Path, rng: np.random.Generator) -> str:
    """A file gone, or damaged byte by byte."""
    if rng.random() < 0.3:
        file.unlink()
        return "file gone"
    file.write_bytes(mutate(file.read_bytes(), rng))
    return "bytes"


class Warnings(logging.Handler):
    """Counts what the package warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.n = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.n += 1


def damage_all(rounds: int, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """Counts of (folder, damage, outcome) over `rounds` folders."""
    counts: Counter[tuple[str, str, str]] = Counter()
    heard = Warnings()
    logging.getLogger("mosaic").addHandler(heard)
    logging.getLogger("mosaic").propagate = False
    with tempfile.TemporaryDirectory(prefix="mosaic-damaged-") as name:
        root, expected = Path(name), {}
        said = {"hook_name": "blocks.1.hook_resid_post", "model_name": "own"}
        tiny.write_sae(root / "sae", 32, metadata=said)
        for family in KINDS[:-1]:
            tiny.write_model(root / family, family)
            expected[family] = _features(root, root / family, root / "sae")
        for number in range(seed, seed + rounds):
            rng = np.random.default_rng(number)
            kind = KINDS[number % len(KINDS)]
            copy = root / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(root / kind, copy)
            how = _damage(copy, kind, rng)
            family = KINDS[0] if kind == "sae" else kind
            places = (root / family, copy) if kind == "sae" else (copy, root / "sae")
            before = heard.n
            try:
                same = np.array_equal(_features(root, *places), expected[family])
                outcome = "warned of" if heard.n > before else "same" if same else "other"
            except MosaicError:
                outcome = "refused"
            except Exception:
                outcome = "crash"
                print(f"seed {number}: {kind}, {how}\n{traceback.format_exc()}", flush=True)
            counts[kind, how, outcome] += 1
    return counts


def _damage(folder: Path, kind: str, rng: np.random.Generator) -> str:
    config = folder / ("cfg.json" if kind == "sae" else "config.json")
    weights = folder / ("sae_weights.safetensors" if kind == "sae" else "model.safetensors")
    draw = rng.random()
    if draw < 0.4:
        return f"tensor {change_tensors(weights, rng)}"
    if draw < 0.8:
        return f"field {change_fields(config, rng)}"
    file = sorted(folder.iterdir())[int(rng.integers(len(list(folder.iterdir()))))]
    return change_bytes(file, rng)


def _features(root: Path, source: Path, sae: Path) -> Any:
    store = root / "store"
    shutil.rmtree(store, ignore_errors=True)
    spec = ModelSpec("own", str(source), {"middle": 1}, (SAESpec(1, "32", folder=str(sae)),))
    found = extract(spec, tiny.task_data(TEXTS), tiny.profile(spec), store=store)
    return found.matrix(1, "32", "sum").toarray()


def main() -> int:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = damage_all(args.rounds, args.seed)
    table = pd.DataFrame([(*key, n) for key, n in counts.items()])
    table.columns = ["folder", "damage", "outcome", "n"]
    print(table.pivot_table("n", ["folder", "damage"], "outcome", "sum", 0).to_string())
    return int(any(outcome == "crash" for _, _, outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
