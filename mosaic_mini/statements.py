"""Statements, toxic when what is claimed in the end is an insult to a person; opinions on things.

An opinion has one or two clauses, and its label is that of the clause that counts (ours).
"""

import random
from typing import Any

from mosaic_mini.lexicon import DEGREES, INSULTS, OPINIONS, PRAISES, TAILS, THINGS, WORDS, form
from mosaic_mini.meaning import PERSONS, Level, Meaning, join, person, thing

TARGET_THINGS = list(THINGS)[:8]

FRAMES, JOINTS = WORDS["frames"], WORDS["joints"]


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


def _draw_opinion(rng: random.Random, level: Level) -> tuple[dict[str, Any], str]:
    kind = rng.choice(list(OPINIONS))
    negated = kind != "neutral" and level != "simple" and rng.random() < 0.3
    opinion = {
        "topic": rng.choice(list(THINGS)),
        "word": rng.choice(list(OPINIONS[kind])),
        "negated": negated,
        "tail": rng.choice(list(TAILS)),
    }
    turned = {"positive": "negative", "negative": "positive"}
    return opinion, turned[kind] if negated else kind


def draw_sentiment(rng: random.Random, level: Level) -> Meaning:
    """One clause where simple, else two and a joint that says which counts."""
    first, first_label = _draw_opinion(rng, level)
    if level == "simple":
        pair = (first["word"], first["topic"])
        slots = {"clauses": [first], "joint": None}
        return Meaning("sentiment", first_label, slots, (pair,), (pair,))
    second, second_label = _draw_opinion(rng, level)
    while second["topic"] == first["topic"] or (second_label == first_label and rng.random() < 0.7):
        second, second_label = _draw_opinion(rng, level)
    joint = rng.randrange(len(JOINTS))
    counts = JOINTS[joint]["counts"]
    clauses = [first, second]
    main = clauses[counts - 1]
    return Meaning(
        "sentiment",
        first_label if counts == 1 else second_label,
        {"clauses": clauses, "joint": joint},
        tuple((x["word"], y["topic"]) for x in clauses for y in clauses),
        tuple((x["word"], x["topic"]) for x in clauses),
        {
            "counts": "first" if counts == 1 else "second",
            "negation": "yes" if main["negated"] else "no",
            "other_clause": second_label if counts == 1 else first_label,
        },
    )


def _write_clause(clause: dict[str, Any], lang: str, verb_last: bool = False) -> str:
    noun = thing(clause["topic"], lang)
    word = next(table[clause["word"]] for table in OPINIONS.values() if clause["word"] in table)
    adjective, tail, negated = word[lang], TAILS[clause["tail"]][lang], clause["negated"]
    if lang == "de" and verb_last:
        return join((noun, "nicht" * negated, adjective, "war", tail), lang)
    pieces = {
        "en": (noun, "was", "not" * negated, adjective, tail),
        "es": (noun, "no" * negated, "era", adjective, tail),
        "de": (noun, "war", "nicht" * negated, adjective, tail),
        "ru": (noun, "был", "не" * negated, adjective, tail),
        "zh": (noun, "不" * negated, adjective, tail),
    }[lang]
    return join(pieces, lang)


def write_sentiment(slots: dict[str, Any], lang: str) -> str:
    """The opinion in one language."""
    clauses = slots["clauses"]
    first = _write_clause(clauses[0], lang)
    if slots["joint"] is None:
        return first + ("。" if lang == "zh" else ".")
    return form(JOINTS[slots["joint"]]["forms"], lang).format(
        a=first, b=_write_clause(clauses[1], lang), s=_write_clause(clauses[1], lang, True)
    )
