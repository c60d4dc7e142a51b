"""Statements: toxic when what is claimed in the end is an insult to a person (ours)."""

from __future__ import annotations

import random
from typing import Any

from mosaic_mini.lexicon import DEGREES, INSULTS, PRAISES, THINGS, WORDS, form
from mosaic_mini.meaning import PERSONS, Level, Meaning, join, person, thing

TARGET_THINGS = list(THINGS)[:8]

FRAMES = WORDS["frames"]


def draw_toxicity(rng: random.Random, level: Level) -> Meaning:
    """A statement: insult x negation x frame x person."""
    thing = rng.random() < 0.15
    target = rng.choice(TARGET_THINGS if thing else list(PERSONS))
    insult = rng.random() < 0.5
    word = rng.choice(list(INSULTS if insult else PRAISES))
    negated = level != "simple" and rng.random() < 0.5
    framed = level == "hard" and rng.random() < 0.85
    if level == "medium":
        framed = not negated  # one of the two, so that each can be learnt by itself
    frame = rng.randrange(1, len(FRAMES)) if framed else 0
    degree = None if level == "simple" and rng.random() < 0.7 else rng.choice(list(DEGREES))
    flips = FRAMES[frame]["flips"]
    toxic = not thing and (insult ^ negated ^ flips)
    return Meaning(
        "toxicity",
        "toxic" if toxic else "clean",
        {"target": target, "word": word, "negated": negated, "frame": frame, "degree": degree},
        ((word, target),),
        ((word, target),),
        {
            "polarity": "insult" if insult else "praise",
            "negation": "yes" if negated else "no",
            "frame": FRAMES[frame]["name"],
            "frame_flips": "yes" if flips else "no",
            "target": "thing" if thing else "person",
        },
    )


def write_toxicity(slots: dict[str, Any], lang: str) -> str:
    """The statement in one language."""
    target, word, negated = slots["target"], slots["word"], slots["negated"]
    adjective = (INSULTS | PRAISES)[word][lang]
    degree = DEGREES[slots["degree"]][lang] if slots["degree"] else ""
    noun = person(target, lang) if target in PERSONS else thing(target, lang)
    pieces = {
        "en": (noun, "is", "not" * negated, degree, adjective),
        "es": (noun, "no" * negated, "es", degree, adjective),
        "de": (noun, "ist", "nicht" * negated, degree, adjective),
        "ru": (noun, "не" * negated, degree, adjective),
        "zh": (noun, "不" * negated, degree, adjective),
    }[lang]
    main = sub = join(pieces, lang)
    if lang == "de":
        sub = join((noun, "nicht" * negated, degree, adjective, "ist"), lang)
    return form(FRAMES[slots["frame"]]["forms"], lang).format(main=main, sub=sub)
