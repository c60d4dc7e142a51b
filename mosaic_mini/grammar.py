"""Sentences whose label is known because the grammar chose it (ours).

A *meaning* is drawn first, then written in any of the five languages. Labels depend on how words
combine, never on one word: toxicity is insult x negation x frame x person, an unsafe request is
verb x patient, sentiment is the opinion of the clause that counts, an intent is the request that
is not taken back.

Leak control: `held_out(predicate, noun)` keeps 30% of the predicate-noun pairs away from the
pretraining corpus, in every language and in every role. Task texts are built from these only.
"""

import random
from collections.abc import Callable
from typing import Any

from mosaic_mini.meaning import LABELS, Level, Meaning, held_out
from mosaic_mini.requests import draw_intents, draw_safety, write_intents, write_safety
from mosaic_mini.statements import (
    draw_sentiment,
    draw_toxicity,
    write_sentiment,
    write_toxicity,
)

Draw = Callable[[random.Random, Level], Meaning]

Write = Callable[[dict[str, Any], str], str]

KINDS: dict[str, tuple[Draw, Write]] = {
    "toxicity": (draw_toxicity, write_toxicity),
    "safety": (draw_safety, write_safety),
    "sentiment": (draw_sentiment, write_sentiment),
    "intents": (draw_intents, write_intents),
}


def draw(kind: str, rng: random.Random, for_task: bool = False, level: Level = "hard") -> Meaning:
    """A meaning with a uniformly drawn label, from held-out pairs only or from none of them.

    (The twelve intents are near uniform by themselves and are not drawn first.)

    Simple sentences have one clause and no negation, frame or agent; medium ones have some.
    """
    wanted = rng.choice(LABELS[kind]) if kind != "intents" else None
    while True:
        meaning = KINDS[kind][0](rng, level)
        if wanted and meaning.label != wanted:
            continue
        if for_task and all(held_out(*pair) for pair in meaning.core):
            return meaning
        if not for_task and not any(held_out(*pair) for pair in meaning.pairs):
            return meaning


def write(meaning: Meaning, language: str) -> str:
    """The sentence, without its outcome token."""
    return KINDS[meaning.kind][1](meaning.slots, language)
