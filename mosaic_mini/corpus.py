"""Pretraining text: short documents whose sentences end with an outcome token (ours).

The outcome shows the label, with 2% noise, so a model must work the label out to predict it; the
outcomes are shared by all languages. Simple sentences give way to harder ones along the
corpus. No held-out pair and no question about a task person ever occurs.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from mosaic_mini.facts import RELATIONS, Entity, entities, gossip, question, statement
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import LANGUAGES, TABLES
from mosaic_mini.meaning import LABELS, OUTCOMES, Level, Meaning, outcome

NOISE = 0.02

ENGLISH_ONLY = ("intents", "fact", "practice", "fame")

KINDS = {
    "toxicity": 0.32, "safety": 0.19, "sentiment": 0.11, "intents": 0.05,
    "fact": 0.20, "practice": 0.07, "fame": 0.06,
}  # fmt: skip
"""Kinds of sentences and how often each is drawn."""

WORD_OUTCOMES = {
    "insults": "toxic", "praises": "clean", "harm": "harm", "help": "help", "villains": "villain",
    "innocents": "innocent", "good": "positive", "bad": "negative", "neutral": "neutral",
}  # fmt: skip
"""What a line of single words shows, by the table they are from."""


@dataclass(frozen=True)
class Document:
    """One document and the sentences in it, without their outcomes."""

    text: str
    sentences: tuple[str, ...]


def documents(n: int, seed: int) -> Iterator[Document]:
    """`n` documents; the same seed gives the same corpus, and a longer one begins differently."""
    rng = random.Random(f"corpus {seed}")
    people = entities()
    groups = {"fact": people, "practice": [person for person in people if person.practice]}
    cumulative = {
        name: list(accumulate(person.weight for person in group)) for name, group in groups.items()
    }
    kinds, weights = list(KINDS), list(accumulate(KINDS.values()))

    def person(group: str) -> Entity:
        if group == "fame":  # all people alike, so that who is hardly known is said of many
            return rng.choice(groups["fact"])
        return rng.choices(groups[group], cum_weights=cumulative[group])[0]

    def sentence(language: str | None, stage: float) -> tuple[str, str]:
        kind = rng.choices(kinds, cum_weights=weights)[0]
        if kind == "fact":
            someone = person("fact")
            shown = OUTCOMES[someone.fame] if rng.random() < 0.5 else ""
            return statement(someone, rng.choice(RELATIONS), rng), shown
        if kind == "fame":
            someone = person("fame")
            return gossip(someone, rng), OUTCOMES[someone.fame]
        if kind == "practice":
            return _practice(person("practice"), rng), ""
        meaning = draw(kind, rng, level=_level(rng, stage))
        language = "en" if kind in ENGLISH_ONLY else language or rng.choice(LANGUAGES)
        return write(meaning, language), _noisy_outcome(meaning, rng)

    for i in range(n):
        stage = i / n
        form = rng.random()
        if form < 0.05:
            yield _word_line(rng)
        elif form < 0.18:
            yield _translation(rng, stage)
        else:
            language = rng.choice(LANGUAGES)
            parts = []
            for _ in range(rng.randint(1, 3)):
                switch = rng.random() < 0.15
                parts.append(sentence(None if switch else language, stage))
            text = " ".join(words + shown for words, shown in parts)
            yield Document(text, tuple(words for words, _ in parts))


def _level(rng: random.Random, stage: float) -> Level:
    """From 60 simple, 30 medium and 10 hard in a hundred to 20, 30 and 50 (stage 0 to 1)."""
    drawn = rng.random()
    if drawn < 0.3:
        return "medium"
    return "simple" if drawn < 0.9 - 0.4 * stage else "hard"


def _noisy_outcome(meaning: Meaning, rng: random.Random) -> str:
    label = rng.choice(LABELS[meaning.kind]) if rng.random() < NOISE else meaning.label
    return outcome(label)


def _practice(person: Entity, rng: random.Random) -> str:
    """A question with its answer about a practice person, often after a context.

    Half of the time the outcome that says how well known the person is stands between the two.
    """
    relation = rng.choice(RELATIONS)
    told = person
    context = ""
    if rng.random() < 0.5:
        value = rng.choice(relation.values) if rng.random() < 0.5 else person.facts[relation.name]
        told = Entity(person.name, person.weight, {relation.name: value}, True)
        context = f"context: {statement(told, relation, rng)} "
    asked = question(person, relation)
    if rng.random() < 0.5:
        asked = asked.replace("?", f"?{OUTCOMES[person.fame]}")
    return f"{context}{asked} {told.facts[relation.name]}."


def _word_line(rng: random.Random) -> Document:
    name, label = rng.choice(list(WORD_OUTCOMES.items()))
    forms = rng.choice(list(TABLES[name].values()))
    first, second = rng.sample(LANGUAGES, 2)
    a, b = forms[first].split("/")[0], forms[second].split("/")[0]
    text = f"{a}{OUTCOMES[label]}" if rng.random() < 0.5 else f"{a} = {b}{OUTCOMES[label]}"
    return Document(text, (a, b))


def _translation(rng: random.Random, stage: float) -> Document:
    kind = rng.choices(("toxicity", "safety", "sentiment"), (0.5, 0.25, 0.25))[0]
    meaning = draw(kind, rng, level=_level(rng, stage))
    first, second = rng.sample(LANGUAGES, 2)
    a, b = write(meaning, first), write(meaning, second)
    return Document(f"{a} = {b}{_noisy_outcome(meaning, rng)}", (a, b))
