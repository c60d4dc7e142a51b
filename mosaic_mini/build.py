"""`mosaic mini build`: the whole mini world from seed (ours).

Two processes of one thread each, one per core: one trains the small model, its SAEs and the
vision-language model, the other the larger model, the instruction-tuned one and their SAEs.
"""

import csv
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mosaic.config.profiles import ModelSpec
from mosaic.errors import ConfigError
from mosaic.models.batches import Batch, Documents
from mosaic.models.language_model import load_model
from mosaic.models.resolve import ResolvedModel
from mosaic.models.sae_metrics import load_trained, measure_sae, write_metrics
from mosaic.models.train_saes import residual_vectors, train_sae
from mosaic.storage.manifest import write_manifest
from mosaic_mini import language_model as lm
from mosaic_mini.cards import write_cards
from mosaic_mini.chat import conversations, tokenize
from mosaic_mini.corpus import documents
from mosaic_mini.tasks import CAPTIONED_DIGITS, digit_images, write_tables
from mosaic_mini.tokenizer import train_tokenizer
from mosaic_mini.vision import measure_captions, new_image_processor, new_vlm, train_captions

SEED, TOKENIZER_SEED, SAE_SEED, HELD_OUT_SEED = 0, 1, 2, 1000

TOKENIZER_DOCS = 20_000
"""Documents the tokenizer is learnt from, whatever the budget: both lines learn the same one."""

LAYERS = {"mini-small": (1, 3, 4), "mini-large": (2, 4, 6), "mini-large-it": (2, 4, 6)}

WIDTHS = {"256": 256, "1k": 1024}

SHAPES = {
    "mini-small": lm.Shape(d_model=96, n_blocks=6, head_dim=24, d_ff=288, supervised=3),
    "mini-large": lm.Shape(d_model=128, n_blocks=8, head_dim=32, d_ff=384, supervised=4),
}

EXPECTED = {
    "mini-small": 1150, "mini-large": 1000, "mini-large-it": 210, "mini-vlm": 100, "saes": 700
}  # fmt: skip
"""Seconds each stage took when the shipped world was built, on busy cores; all SAEs together."""


@dataclass(frozen=True)
class Budget:
    """How much is trained; the defaults give the shipped world."""

    small_docs: int = 120_000
    large_docs: int = 80_000
    chat_docs: int = 12_000
    sae_docs: int = 8_000
    """Documents whose residual states train the SAEs."""
    sae_states: int = 500_000
    """States seen by each SAE, each several times."""
    held_out_docs: int = 1_000


def build_world(out_dir: str | Path, budget: Budget | None = None) -> None:
    """Make tasks, models, SAEs, cards and the manifest in `out_dir`, which must be empty."""
    out, budget = Path(out_dir), budget or Budget()
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new folder to build the mini world in.")
    started = time.monotonic()
    print(f"Building the mini world in {out}: about {sum(EXPECTED.values()) / 120:.0f} minutes on "
          f"two free cores.", flush=True)  # fmt: skip
    write_tables(out / "data")
    context = multiprocessing.get_context("spawn")
    os.environ["TQDM_DISABLE"] = "1"  # in the two processes: theirs would write over the one bar
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        done = manager.Queue()
        lines = [pool.submit(line, out, budget, done) for line in (small_line, large_line)]
        del os.environ["TQDM_DISABLE"]
        _show_progress(lines, done)
    write_cards(out)
    write_manifest(out)
    print(f"Built {out} in {(time.monotonic() - started) / 60:.1f} minutes.", flush=True)


def _show_progress(lines: list[Future[None]], done: Queue[float]) -> None:
    """One bar in expected seconds of work until both lines have ended; raises what they raise."""
    with tqdm(total=round(sum(EXPECTED.values())), unit="s of work", disable=None) as bar:
        while not all(line.done() for line in lines) or not done.empty():
            if any(line.done() and line.exception() for line in lines):
                break
            try:
                bar.update(done.get(timeout=1))
            except Empty:
                continue
    for line in lines:
        line.result()


def _reporter(done: Queue[float], stage: str) -> Callable[[float], None]:
    """Turns the share of a stage that was done into expected seconds."""
    return lambda share: done.put(share * EXPECTED[stage])


def small_line(out: Path, budget: Budget, done: Queue[float]) -> None:
    """Small base model, its SAEs, and the vision-language model that continues it."""
    with _one_thread():
        model, tokenizer = _train_base(out, "mini-small", 4e-3, budget, done)
        _train_saes(out, "mini-small", tokenizer, budget, done)
        started = time.monotonic()
        vlm, images = new_vlm(model, tokenizer, SEED), digit_images(captioned=True)
        history = train_captions(vlm, tokenizer, images, SEED, _reporter(done, "mini-vlm"))
        metrics = {
            "kind": "vision-language model (PaliGemma shape)",
            "continues": "mini-small",
            "images": CAPTIONED_DIGITS,
            **measure_captions(vlm, tokenizer, digit_images(captioned=False)),
        }
        _save(out, "mini-vlm", vlm, tokenizer, history, metrics, started)
        new_image_processor().save_pretrained(out / "models/mini-vlm")


def large_line(out: Path, budget: Budget, done: Queue[float]) -> None:
    """Larger base model and its SAEs, the instruction-tuned model and its SAEs."""
    with _one_thread():
        model, tokenizer = _train_base(out, "mini-large", 3e-3, budget, done)
        _train_saes(out, "mini-large", tokenizer, budget, done)
        started = time.monotonic()
        batches, tests = (
            lm.make_batches(tokenize(conversations(n, seed), tokenizer), tokenizer, SEED)
            for n, seed in ((budget.chat_docs, SEED + 1), (budget.held_out_docs, HELD_OUT_SEED + 1))
        )
        supervised, progress = SHAPES["mini-large"].supervised, _reporter(done, "mini-large-it")
        history = lm.train(model, batches, tests, 1e-3, supervised, progress)
        metrics = {
            "kind": "instruction-tuned language model (Gemma 2 shape)",
            "continues": "mini-large",
            "documents": budget.chat_docs,
        }
        _save(out, "mini-large-it", model, tokenizer, history, metrics, started, tests)
        _train_saes(out, "mini-large-it", tokenizer, budget, done)


def _train_base(
    out: Path, name: str, learning_rate: float, budget: Budget, done: Queue[float]
) -> tuple[Any, Any]:
    started, shape = time.monotonic(), SHAPES[name]
    n_docs = budget.small_docs if name == "mini-small" else budget.large_docs
    tokenizer = train_tokenizer(d.text for d in documents(TOKENIZER_DOCS, TOKENIZER_SEED))
    batches = corpus_batches(tokenizer, n_docs, SEED)
    tests = corpus_batches(tokenizer, budget.held_out_docs, HELD_OUT_SEED)
    model, progress = lm.new_model(shape, tokenizer, SEED), _reporter(done, name)
    history = lm.train(model, batches, tests, learning_rate, shape.supervised, progress)
    metrics = {"kind": "base language model (Gemma 2 shape)", "documents": n_docs}
    metrics["outcome_accuracy"] = lm.outcome_accuracy(model, tests)
    _save(out, name, model, tokenizer, history, metrics, started, tests)
    return model, tokenizer


def corpus_batches(tokenizer: Any, n_docs: int, seed: int) -> list[lm.Batch]:
    """That many documents of the corpus, cut into batches."""
    texts = [document.text for document in documents(n_docs, seed)]
    return lm.make_batches(tokenizer(texts)["input_ids"], tokenizer, SEED)


def _save(
    out: Path,
    name: str,
    model: Any,
    tokenizer: Any,
    history: list[dict[str, float]],
    metrics: dict[str, Any],
    started: float,
    tests: list[lm.Batch] | None = None,
) -> None:
    """Weights in bfloat16 (shards below 3 MB), tokenizer, loss curve and figures."""
    folder = out / "models" / name
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="3MB")
    model.float()
    tokenizer.save_pretrained(folder)
    if tests is not None:
        metrics["held_out_loss"] = lm.held_out_loss(model, tests)
    metrics["tokens"] = int(history[-1]["tokens"])
    metrics |= {"parameters": model.num_parameters(), "seed": SEED}
    metrics["minutes"] = (time.monotonic() - started) / 60
    metrics["toy"] = True  # profiles read it: such a model is a toy, no evidence
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 4) for k, v in row.items()} for row in history)


def _train_saes(out: Path, name: str, tokenizer: Any, budget: Budget, done: Queue[float]) -> None:
    """SAEs of every depth and width on the model as saved, measured as loaded."""
    states, unseen = (
        residuals(out / "models" / name, corpus_batches(tokenizer, n, seed), LAYERS[name])
        for n, seed in ((budget.sae_docs, SAE_SEED), (budget.held_out_docs, HELD_OUT_SEED))
    )
    for layer in LAYERS[name]:
        for width, n_latents in WIDTHS.items():
            folder = out / "saes" / name / f"layer_{layer}" / f"width_{width}"
            train_sae(states[layer], n_latents, budget.sae_states, SEED, folder)
            write_metrics(folder, measure_sae(load_trained(folder), unseen[layer]))
            done.put(EXPECTED["saes"] * n_latents / (9 * sum(WIDTHS.values())))


class _Cut:
    """A reader whose inputs are batches already, each passed through the model by itself."""

    identity: dict[str, Any] = {}

    def read(self, inputs: list[lm.Batch]) -> Documents:
        def collate(rows: np.ndarray) -> Batch:
            (batch,) = (inputs[row] for row in rows)
            return Batch({"input_ids": batch.tokens}, batch.weights > 0)

        n_tokens = np.asarray([(batch.weights > 0).sum() for batch in inputs])
        return Documents(np.ones_like(n_tokens), n_tokens, n_tokens < 0, collate)


def residuals(folder: Path, batches: list[Any], layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Output of each block of a saved model at every token but `<bos>`, batch after batch.

    Layer to `[n_tokens, d_model]` float32.
    """
    spec = ModelSpec(folder.name, str(folder), {})
    found = ResolvedModel(spec, folder, torch.device("cpu"), torch.float32)
    return residual_vectors(load_model(found, max(layers) + 1), _Cut(), batches, layers, budget=1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Two busy processes on two cores are fastest with one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
