"""Damaged folders of models and SAEs: what becomes of each on the way to features.

`python benchmarks/damaged_folders.py --rounds 2000` prints a table of outcomes, and ends with exit
code 1 if anything but a MosaicError came out. A crash is printed with the seed that makes it again:
`--seed SEED --rounds 1`. "other" are settings with another value: another model, known as such by
its checksum, which is why the features were computed anew.

`--every` takes no chances: of a small random folder per family of models and per architecture of
SAEs, each tensor and each field of each JSON file is removed, renamed and changed in turn (`--step
9` takes every ninth). Each must be refused, warned of, without influence to the last bit, or such
that it makes another model by the rules of its format, with another checksum. Whatever else there
is, is printed as "unnoticed" and ends the command with exit code 1.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import mutate, mutate_tree

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import tiny

from mosaic.config.profiles import ModelSpec, SAESpec
from mosaic.errors import MosaicError
from mosaic.extraction.encode import encode
from mosaic.extraction.extract import extract
from mosaic.extraction.features import Block
from mosaic.extraction.forward import Pass
from mosaic.models.language_model import load_model
from mosaic.models.readers import text_reader
from mosaic.models.resolve import ResolvedModel, fetch_model
from mosaic.models.saes import load_sae, sae_identity

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


TURNED = {"rope_type": "default", "rope_theta": 77.0}
EVERY: dict[str, dict[str, Any]] = {
    "gpt2": dict(layer_norm_epsilon=1e-2, activation_function="relu", n_inner=48,
                 scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False),
    "gemma2": dict(num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=16, rms_norm_eps=1e-2,
                   hidden_activation="relu", sliding_window=4, attn_logit_softcapping=5.0,
                   rope_parameters=TURNED),
    "qwen2": dict(num_key_value_heads=2, rms_norm_eps=1e-2, hidden_act="relu",
                  rope_parameters=TURNED),
    "gpt_neox": dict(layer_norm_eps=1e-2, hidden_act="relu", use_parallel_residual=False,
                     rope_parameters={**TURNED, "partial_rotary_factor": 0.5}),
    "bloom": dict(layer_norm_epsilon=1e-2, apply_residual_connection_post_layernorm=True),
    "bert": dict(layer_norm_eps=1e-2, hidden_act="relu"),
}  # fmt: skip
"""Types of models, with settings that are no defaults: what is lost shows."""

EVERY_SAE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("standard", "jumprelu", "gated", "matching_pursuit"), {}),
    "topk": {"rescale_acts_by_decoder_norm": True},
}
SAID = {"hook_name": "blocks.1.hook_resid_post", "model_name": "own", "hook_head_index": None,
        "model_from_pretrained_kwargs": {}, "prepend_bos": True}  # fmt: skip

VALUES = (None, "other", True, False, 7, -1, 0.5, [1], {})
"""What every field is changed to."""

X = torch.randn(6, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Damage:
    """One file of a folder with other content, or gone (None)."""

    file: str
    part: str
    how: str
    content: bytes | None
    switch: bool = False
    """Whether the part is true or false: absent means off in older files of models."""

    @property
    def is_setting(self) -> bool:
        """Whether by the rules of its format it makes another model, as good as any."""
        of_tokenizer = self.file.startswith("tokenizer") and self.part != "all"
        left_out = self.file == "config.json" and self.switch
        return self.how == "changed" or of_tokenizer or left_out


def every_damage(folder: Path) -> Iterator[Damage]:
    """Each file gone; each tensor and each field, at any depth, removed, renamed and changed."""
    for file in sorted(folder.iterdir()):
        yield Damage(file.name, "all", "gone", None)
        if file.suffix == ".safetensors":
            yield from _every_tensor(file)
        elif file.name == "tokenizer.json":
            tree = json.loads(file.read_text(encoding="utf-8"))
            for part in tree:
                rest = {name: value for name, value in tree.items() if name != part}
                yield Damage(file.name, part, "removed", json.dumps(rest).encode())
        elif file.suffix == ".json":
            yield from _every_field(file)


def _every_field(file: Path) -> Iterator[Damage]:
    text = file.read_text(encoding="utf-8")

    def places(node: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
        for name, value in node.items():
            yield (*path, name)
            if isinstance(value, dict):
                yield from places(value, *path, name)

    for *path, name in places(json.loads(text)):
        for how in ("removed", "renamed", *VALUES):
            tree = json.loads(text)
            node = tree
            for step in path:
                node = node[step]
            value = node.pop(name)
            if how == "renamed":
                node[f"{name}_"] = value
            elif how != "removed":
                if type(how) is type(value) and how == value:
                    continue
                node[name] = how
            said = str(how) if how in ("removed", "renamed") else "changed"
            part = ".".join([*path, name])
            yield Damage(file.name, part, said, json.dumps(tree).encode(), isinstance(value, bool))


def _every_tensor(file: Path) -> Iterator[Damage]:
    from safetensors.torch import load_file, save

    tensors = load_file(file)
    for name, value in tensors.items():
        rest = {key: other for key, other in tensors.items() if key != name}
        sick = torch.full_like(value, float("nan"))
        tries = [("removed", {}), ("changed", {name: value * 2 + 1}), ("nan", {name: sick})]
        tries += [("cut", {name: value[:-1].contiguous()})]
        tries += [("renamed", {to: value}) for to in (f"{name}_", f"module.{name}")]
        if value.dim() == 2 and value.shape[0] != value.shape[1]:
            tries.append(("transposed", {name: value.T.contiguous()}))
        for how, changed in tries:
            yield Damage(file.name, name, how, save({**rest, **changed}, {"format": "pt"}))


def write_family(folder: Path, kind: str) -> Path:
    """A random model of two blocks, with settings that are no defaults, and its tokenizer."""
    import transformers

    torch.manual_seed(0)
    sizes = dict(hidden_size=tiny.D_MODEL, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(vocab_size=300, intermediate_size=48, max_position_embeddings=64)
    tokens = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = transformers.AutoConfig.for_model(kind, **sizes, **tokens, **EVERY[kind])
    masked = transformers.AutoModelForMaskedLM
    auto = masked if kind == "bert" else transformers.AutoModelForCausalLM
    model = auto.from_config(config)
    tiny.spread(model)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tiny.write_tokenizer(folder, kind)
    return folder


def read_model(folder: Path) -> tuple[list[np.ndarray], object]:
    """Hidden states of a text after each block, pooled, with its length; the model's identity."""
    spec = ModelSpec("own", str(folder), {"middle": 1})
    found = ResolvedModel(spec, fetch_model(spec), torch.device("cpu"), torch.float32)
    documents = text_reader(found, tiny.profile()).read(list(TEXTS[:1]))
    blocks = tuple(Block(layer, None, "") for layer in range(2))
    run = Pass(load_model(found, 2), {}, (), 10_000)
    states = run.batch(documents, np.asarray([0]), blocks)
    pooled = [states[block][how] for block in blocks for how in ("last", "mean", "max")]
    return [documents.lengths, *pooled], found.identity


def read_sae(folder: Path) -> tuple[list[np.ndarray], object]:
    """Latents of six random vectors; the SAE's identity."""
    spec = SAESpec(1, "96", folder=str(folder))
    sae = load_sae(spec, X.device, X.shape[1])
    active = encode(sae, X)
    latents = [t.numpy() for t in (active.token, active.latent, active.value)]
    return latents, sae_identity(spec, folder.parent / "pins.json")


def try_every(
    kinds: Sequence[str] = (*EVERY, *EVERY_SAE), step: int = 1
) -> tuple[Counter[tuple[str, str, str, str]], list[str]]:
    """Counts of (kind, file, damage, outcome) and what went unnoticed, or crashed."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    bad: list[str] = []
    heard, logger = Warnings(), logging.getLogger("mosaic")
    logger.addHandler(heard)
    logger.propagate = False
    try:
        for kind in kinds:
            with tempfile.TemporaryDirectory(prefix="mosaic-every-") as name:
                _try_kind(kind, Path(name), step, heard, counts, bad)
    finally:
        logger.removeHandler(heard)
        logger.propagate = True
    return counts, bad


def _try_kind(
    kind: str, root: Path, step: int, heard: Warnings, counts: Counter[Any], bad: list[str]
) -> None:
    read: Callable[[Path], tuple[list[np.ndarray], object]] = read_model
    whole, copy = root / "whole", root / "copy"
    if kind in EVERY_SAE:
        read = read_sae
        tiny.write_sae(whole, architecture=kind, metadata=SAID, **EVERY_SAE[kind])
    else:
        write_family(whole, kind)
    shutil.copytree(whole, copy)
    expected, identity = read(whole)
    for damage in list(every_damage(whole))[::step]:
        file, before = copy / damage.file, heard.n
        file.unlink() if damage.content is None else file.write_bytes(damage.content)
        try:
            found, other = read(copy)
            same = all(map(np.array_equal, found, expected))
            known = damage.is_setting and other != identity
            outcome = "warned of" if heard.n > before else "same" if same else "unnoticed"
            outcome = "another model" if outcome == "unnoticed" and known else outcome
        except MosaicError:
            outcome = "refused"
        except Exception as error:
            outcome = f"crash ({type(error).__name__})"
        counts[kind, damage.file, damage.how, outcome] += 1
        if outcome == "unnoticed" or outcome.startswith("crash"):
            bad.append(f"{kind}, {damage.file}: {damage.part} {damage.how}: {outcome}")
        shutil.copy(whole / damage.file, file)


def main() -> int:
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", action="store_true", help="each tensor and field in turn")
    parser.add_argument("--step", type=int, default=1)
    kinds = (*EVERY, *EVERY_SAE)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    args = parser.parse_args()
    if args.every:
        found, bad = try_every(args.kinds, args.step)
        table = pd.DataFrame([(*key, n) for key, n in found.items()])
        table.columns = ["kind", "file", "damage", "outcome", "n"]
        rows = ["kind", "file", "damage"]
        print(table.pivot_table("n", rows, "outcome", "sum", 0).to_string())
        print(table.groupby("outcome")["n"].sum().to_string(), *bad, sep="\n")
        return int(bool(bad))
    counts = damage_all(args.rounds, args.seed)
    table = pd.DataFrame([(*key, n) for key, n in counts.items()])
    table.columns = ["folder", "damage", "outcome", "n"]
    print(table.pivot_table("n", ["folder", "damage"], "outcome", "sum", 0).to_string())
    return int(any(outcome == "crash" for _, _, outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
