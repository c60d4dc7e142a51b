"""Statements: toxic when what is claimed in the end is an insult to a person (ours)."""

from __future__ import annotations

import random
from typing import Any

from mosaic_mini.lexicon import DEGREES, INSULTS, LANGUAGES, PRAISES, THINGS
from mosaic_mini.meaning import PERSONS, Level, Meaning, join, person, thing

TARGET_THINGS = list(THINGS)[:8]

# name, whether it turns the statement round, one form per language; German `{sub}` is verb-last.
FRAMES: list[tuple[str, bool, tuple[str, ...]]] = [
    ("none", False, ("{main}.",) * 4 + ("{main}。",)),
    ("true", False, ("it is true that {sub}.", "es cierto que {sub}.", "es stimmt, dass {sub}.",
                     "верно, что {sub}.", "确实如此：{sub}。")),
    ("false", True, ("it is false that {sub}.", "es mentira que {sub}.",
                     "es ist falsch, dass {sub}.", "неверно, что {sub}.", "这话不对：{sub}。")),
    ("denies", True, ("she denies that {sub}.", "ella desmiente que {sub}.",
                      "sie bestreitet, dass {sub}.", "она отрицает, что {sub}.", "她否认{sub}。")),
    ("is right", False, ("he says that {sub} and he is right.", "dice que {sub} y tiene razón.",
                         "er sagt, dass {sub}, und er hat recht.",
                         "он говорит, что {sub}, и он прав.", "他说{sub}，他说得对。")),
    ("is lying", True, ("he says that {sub} and he is lying.", "dice que {sub} y está mintiendo.",
                        "er sagt, dass {sub}, und er lügt.", "он говорит, что {sub}, и он врёт.",
                        "他说{sub}，他在撒谎。")),
]  # fmt: skip


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
    flips = FRAMES[frame][1]
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
            "frame": FRAMES[frame][0],
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
    return FRAMES[slots["frame"]][2][LANGUAGES.index(lang)].format(main=main, sub=sub)
