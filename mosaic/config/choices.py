"""Every vocabulary once: what depths, poolings, features, protocols and probes are called.

A `Literal` is what a settings file may say; the tuple beside it has the same words in order.
Nothing but the standard library is imported here.
"""

import re
from typing import Literal, get_args

Depth = Literal["early", "middle", "late"]
DEPTHS: tuple[str, ...] = get_args(Depth)

DType = Literal["auto", "float32", "bfloat16", "float16"]

Pooling = Literal["sum", "mean", "max", "last", "count", "top_n"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

HIDDEN_POOLINGS = ("last", "mean", "max")

HIDDEN_JOINED = "mean+max"
"""Mean and max of hidden states side by side, for probes."""

CONTROLS = {
    "random": "random dictionary",
    "rotated": "SAE, rotated input",
    "pca": "signed PCA",
}
"""Dictionaries as wide and as active as an SAE in which nothing, or less, was learnt, and what
they are called. The width of one is the SAE's with the kind behind it, such as "16k random"."""

Bos = Literal["drop", "keep"]
BOS: tuple[Bos, ...] = get_args(Bos)

TEXT_BASELINES = ("tfidf", "length", "base_rate")
"""Features that need no model."""

FEATURES = ("sae", "control", "hidden", *TEXT_BASELINES, "vision_tower", "asked")
"""What a probe reads; "asked" reads nothing: the model itself says the label."""

SELECTIONS = ("all", "topk")

PROTOCOLS = ("published", "nested")

TEST_SHARE = 0.2

PROBES = ("linear", "tree")
NO_PROBE = "none"

ENGINES = ("local", "ray")

PREDICTION_FORMATS = ("table", "csv", "jsonl")

SOURCES = ("published", "run", "bundle")
"""Where a row of scores comes from."""

Role = Literal[
    "safety",
    "toxicity",
    "sentiment",
    "intent",
    "scenario",
    "stance",
    "emotion",
    "behaviour",
    "vision",
    "own",
]

ModelKind = Literal["text", "vision"]

Modality = Literal["text", "image"]
READS: dict[str, Modality] = {"text": "text", "vision": "image"}
"""What the tasks of a kind of model hold."""

KINDS = ("text", "translated", "behaviour", "image")
"""What a task asks: a label of a text, or of its translation, whether a model's answer is right, a
label of an image. `mosaic.config.tasks.Task.kind` says which."""

CATALOGUES = ("paper", "mini")
"""The shipped task catalogues."""

GEMMA_PROFILES = ("paper", "colab-large", "colab")
"""Shipped profiles with Gemma 2, the one that needs most memory first."""

PRICED_PROFILES = ("mini", "encoder", "small", "gemma", "paper")
"""Shipped profiles that `mosaic doctor` asks this machine about."""


def latents_named(width: str) -> float | None:
    """The number in a width's name: "16k" and "16k-l0-82" are 16,000. None for another name."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([km]?)(-.+)?", width.lower())
    number = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6}[found[2]] if found else 0
    return number if number > 0 else None
