"""Opinions on things, in one or two clauses: the label is that of the clause that counts (ours)."""

from __future__ import annotations

import random
from typing import Any

from mosaic_mini.lexicon import OPINIONS, TAILS, THINGS, WORDS, form
from mosaic_mini.meaning import Level, Meaning, join, thing

JOINTS = WORDS["joints"]


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
