"""Requests about persons, unsafe when they harm an innocent or help a villain; requests to devices.

Those to devices are English only; the intent is the request that is not taken back (ours).
"""

import random
from typing import Any

from mosaic_mini.lexicon import HARM, HELP, INNOCENTS, MODIFIERS, VILLAINS, WORDS, form
from mosaic_mini.meaning import ACTIONS, DOMAINS, PERSONS, Level, Meaning, person

ACTION_OF = {word: action for action, words in ACTIONS.items() for word in words}

DOMAIN_OF = {word: domain for domain, words in DOMAINS.items() for word in words}

ORDERS = WORDS["corrections"]


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


def draw_intents(rng: random.Random, level: Level) -> Meaning:
    """One request where simple, else a request and its correction."""
    actions = [rng.choice(list(ACTION_OF)) for _ in range(1 if level == "simple" else 2)]
    things = [rng.choice(list(DOMAIN_OF)) for _ in actions]
    names = [f"{DOMAIN_OF[y]}_{ACTION_OF[x]}" for x, y in zip(actions, things, strict=True)]
    order = None if level == "simple" else rng.randrange(len(ORDERS))
    counts = 1 if order is None else ORDERS[order]["counts"]
    slots = {
        "actions": actions,
        "things": things,
        "order": order,
        "fillers": [rng.choice(WORDS["fillers"]) for _ in actions],
        "which": [rng.choice(WORDS["which"]) for _ in actions],
        "when": [rng.choice(WORDS["when"]) for _ in actions],
    }
    causes = {"counts": "first" if counts == 1 else "second", "other_request": names[-counts]}
    return Meaning(
        "intents",
        names[counts - 1],
        slots,
        tuple((x, y) for x in actions for y in things),
        tuple(zip(actions, things, strict=True)),
        causes,
    )


def write_intents(slots: dict[str, Any], lang: str) -> str:
    """The request; the language is always English."""
    actions, things = slots["actions"], slots["things"]
    fillers, which, when = slots["fillers"], slots["which"], slots["when"]
    if slots["order"] is None:
        return f"{fillers[0]} {actions[0]} the {which[0]} {things[0]} {when[0]}."
    words = zip("abxyfgmntu", [*actions, *things, *fillers, *which, *when], strict=True)
    return ORDERS[slots["order"]]["form"].format(**dict(words))
