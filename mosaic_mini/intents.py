"""Requests to devices, English only: the intent is the request that is not taken back (ours)."""

from __future__ import annotations

import random
from typing import Any

from mosaic_mini.lexicon import WORDS
from mosaic_mini.meaning import ACTIONS, DOMAINS, Level, Meaning

ACTION_OF = {word: action for action, words in ACTIONS.items() for word in words}

DOMAIN_OF = {word: domain for domain, words in DOMAINS.items() for word in words}

ORDERS = WORDS["corrections"]


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
