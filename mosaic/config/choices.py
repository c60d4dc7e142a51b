"""Every vocabulary once: what depths, poolings, features, protocols and probes are called."""

from __future__ import annotations

DEPTHS = ("early", "middle", "late")

DTYPES = ("auto", "float32", "bfloat16", "float16")

POOLINGS = ("sum", "mean", "max", "last", "count", "top_n")

HIDDEN_POOLINGS = ("last", "mean", "max")

FEATURES = ("sae", "hidden", "tfidf", "length", "base_rate", "vision_tower")

PROTOCOLS = ("published", "nested")

TEST_SHARE = 0.2

PROBES = ("linear", "tree")

ENGINES = ("local", "ray")

ROLES = (
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
)

KINDS = ("text", "behaviour", "image")
"""What a task asks: a label of a text, whether a model's answer is right, a label of an image."""
