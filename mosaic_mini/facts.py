"""Invented people, the facts about them, and the questions (ours).

How often a person is mentioned in the corpus spans a factor of 100, so a model knows some and not
others. Every question text about a *task* person is absent from the corpus: their facts occur as
statements only, and how to answer is learnt from other people.
"""

import math
import random
from dataclasses import dataclass

from mosaic_mini.lexicon import WORDS

N_TASK, N_PRACTICE = 800, 150

RAREST = 0.01

FAME = ("famous", "familiar", "unknown")
"""How well known people are, a third of them each, from most to least mentioned."""


@dataclass(frozen=True)
class Relation:
    """One kind of fact, its possible values and its wordings."""

    name: str
    values: list[str]
    statements: list[str]
    question: str


RELATIONS = tuple(Relation(**entry) for entry in WORDS["relations"])


@dataclass(frozen=True)
class Entity:
    """An invented person; `weight` is the relative frequency in the corpus."""

    name: str
    weight: float
    facts: dict[str, str]
    """Relation name to value."""
    practice: bool
    """Whether questions about this person stand in the corpus."""

    @property
    def fame(self) -> str:
        """What the corpus calls this person, one of `FAME`."""
        rank = math.log(self.weight) / math.log(RAREST)  # 0 for the most mentioned, 1 for the least
        return FAME[min(int(rank * len(FAME)), len(FAME) - 1)]


def entities(seed: int = 0) -> list[Entity]:
    """The task people, then the practice people; weights are log-uniform in both."""
    rng = random.Random(f"entities {seed}")
    people: list[Entity] = []
    names = _names(rng, N_TASK + N_PRACTICE)
    for n, practice in ((N_TASK, False), (N_PRACTICE, True)):
        weights = [RAREST ** (i / (n - 1)) for i in range(n)]
        rng.shuffle(weights)
        for weight in weights:
            facts = {relation.name: rng.choice(relation.values) for relation in RELATIONS}
            people.append(Entity(names[len(people)], weight, facts, practice))
    return people


def _names(rng: random.Random, n: int) -> list[str]:
    onsets, codas = WORDS["onsets"], WORDS["codas"]
    names: dict[str, None] = {}
    while len(names) < n:
        first = rng.choice(onsets) + rng.choice("aeiou")
        second = rng.choice(onsets) + rng.choice("aeiou") + rng.choice(codas)
        names[(first + second).capitalize()] = None
    return list(names)


def statement(entity: Entity, relation: Relation, rng: random.Random) -> str:
    """A fact in one of its wordings."""
    template = rng.choice(relation.statements)
    return template.format(x=entity.name, v=entity.facts[relation.name])


def question(entity: Entity, relation: Relation) -> str:
    """The question, ending where the answer would begin."""
    return relation.question.format(x=entity.name)


def gossip(entity: Entity, rng: random.Random) -> str:
    """A sentence whose outcome says how well known the person is."""
    return rng.choice(WORDS["gossip"]).format(x=entity.name)
