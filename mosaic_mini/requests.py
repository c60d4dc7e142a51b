"""Requests about persons: unsafe when they harm an innocent or help a villain (ours)."""

from __future__ import annotations

import random
from typing import Any

from mosaic_mini.lexicon import HARM, HELP, INNOCENTS, MODIFIERS, VILLAINS, WORDS, form
from mosaic_mini.meaning import PERSONS, Level, Meaning, person


def draw_safety(rng: random.Random, level: Level) -> Meaning:
    """A request: verb x patient; the agent is a decoy."""
    # Even odds make a pure XOR, which no model of this size learns from scratch.
    harm, villain = rng.random() < 0.5, rng.random() < (0.5 if level == "hard" else 0.3)
    verb = rng.choice(list(HARM if harm else HELP))
    patient = rng.choice(list(VILLAINS if villain else INNOCENTS))
    agent = None
    if level != "simple":
        agent = rng.choice([person for person in PERSONS if person != patient])
    unsafe = harm != villain  # harming the innocent, or helping a villain
    return Meaning(
        "safety",
        "unsafe" if unsafe else "safe",
        {
            "agent": agent,
            "verb": verb,
            "patient": patient,
            "template": rng.randrange(4),
            "agent_is": rng.choice([None, *MODIFIERS]) if level == "hard" else None,
            "patient_is": rng.choice(list(MODIFIERS)) if level == "hard" else None,
        },
        ((verb, agent), (verb, patient)) if agent else ((verb, patient),),
        ((verb, patient),),
        {
            "verb": "harm" if harm else "help",
            "patient": "villain" if villain else "innocent",
            "agent": "none" if not agent else "villain" if agent in VILLAINS else "innocent",
        },
    )


def write_safety(slots: dict[str, Any], lang: str) -> str:
    """The request in one language."""
    verb = (HARM | HELP)[slots["verb"]][lang]
    patient = person(slots["patient"], lang, slots["patient_is"], accusative=True)
    if not slots["agent"]:
        return form(WORDS["bare_request"], lang).format(v=verb, p=patient)
    agent = person(slots["agent"], lang, slots["agent_is"])
    return form(WORDS["requests"][slots["template"]], lang).format(a=agent, v=verb, p=patient)
