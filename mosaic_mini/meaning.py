"""What a sentence says, the words it says it with, and which pairs of words are held out (ours)."""

from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any, Literal

from mosaic_mini.lexicon import INNOCENTS, MODIFIERS, THINGS, VILLAINS, WORDS

PERSONS = INNOCENTS | VILLAINS

ACTIONS, DOMAINS = WORDS["actions"], WORDS["domains"]

Level = Literal["simple", "medium", "hard"]
"""How much a sentence combines; tasks are hard, the corpus climbs from simple to hard."""

LABELS = {
    "toxicity": ("clean", "toxic"),
    "safety": ("safe", "unsafe"),
    "sentiment": ("negative", "neutral", "positive"),
    "intents": tuple(f"{domain}_{action}" for domain in DOMAINS for action in ACTIONS),
}

OUTCOMES: dict[str, str] = WORDS["outcomes"]


def outcome(label: str) -> str:
    """The outcome token of a label, or the two of an intent such as `music_stop`."""
    return "".join(OUTCOMES[part] for part in label.split("_"))


@dataclass(frozen=True)
class Meaning:
    """What a sentence says, before it is put in words."""

    kind: str
    label: str
    slots: dict[str, Any]
    pairs: tuple[tuple[str, str], ...]
    """Every (predicate, noun) pair that stands in the sentence, whatever their roles."""
    core: tuple[tuple[str, str], ...]
    """The pairs that carry the label; task texts have all of these held out."""
    causes: dict[str, str] = field(default_factory=dict)
    """Ground truth kept as annotation columns."""


@cache
def held_out(predicate: str, noun: str) -> bool:
    """Whether the pair is kept for the tasks (30% of all pairs, by hash)."""
    return blake2b(f"{predicate} {noun}".encode(), digest_size=4).digest()[0] % 10 < 3


def join(pieces: tuple[str, ...], lang: str) -> str:
    """The non-empty pieces as one text; Chinese has no spaces."""
    return ("" if lang == "zh" else " ").join(piece for piece in pieces if piece)


def _case(form: str, accusative: bool) -> str:
    return form.split("/")[-1 if accusative else 0]


def thing(concept: str, lang: str) -> str:
    """A thing with its article."""
    form = THINGS[concept][lang]
    return f"the {form}" if lang == "en" else form


def person(concept: str, lang: str, modifier: str | None = None, accusative: bool = False) -> str:
    """A person with article, modifier and case."""
    noun = _case(PERSONS[concept][lang], accusative)
    quality = _case(MODIFIERS[modifier][lang], accusative) if modifier else ""
    article = {
        "en": "the",
        "es": "al" if accusative else "el",
        "de": "den" if accusative else "der",
    }
    order = (noun, quality) if lang == "es" else (quality, noun)
    return join((article.get(lang, ""), *order), lang)
