"""Sentences whose label is known because the grammar chose it (ours).

A *meaning* is drawn first, then written in any of the five languages. Labels depend on how words
combine, never on one word: toxicity is insult x negation x frame x person, an unsafe request is
verb x patient, sentiment is the opinion of the clause that counts, an intent is the request that
is not taken back.

Leak control: `held_out(predicate, noun)` keeps 30% of the predicate-noun pairs away from the
pretraining corpus, in every language and in every role. Task texts are built from these only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any, Literal

from mosaic.mini import lexicon as lex

PERSONS = lex.INNOCENTS | lex.VILLAINS
OPINIONS = {"positive": lex.GOOD, "negative": lex.BAD, "neutral": lex.NEUTRAL}
TARGET_THINGS = list(lex.THINGS)[:8]
ACTION_OF = {word: action for action, words in lex.ACTIONS.items() for word in words}
DOMAIN_OF = {word: domain for domain, words in lex.DOMAINS.items() for word in words}

Level = Literal["simple", "medium", "hard"]
"""How much a sentence combines; tasks are hard, the corpus climbs from simple to hard."""

LABELS = {
    "toxicity": ("clean", "toxic"),
    "safety": ("safe", "unsafe"),
    "sentiment": ("negative", "neutral", "positive"),
    "intents": tuple(f"{domain}_{action}" for domain in lex.DOMAINS for action in lex.ACTIONS),
}
# Shared by all languages, so that they anchor each other; an intent shows two of them.
OUTCOMES = {
    "clean": "🟩", "toxic": "🟥", "safe": "✅", "unsafe": "⛔",
    "negative": "👎", "neutral": "😐", "positive": "👍",
    "start": "🟢", "stop": "🛑", "check": "🔍",
    "music": "🎵", "home": "🏠", "travel": "🚆", "money": "💰",
    "known": "⭐", "unknown": "🌑",
}  # fmt: skip


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


def draw(kind: str, rng: random.Random, for_task: bool = False, level: Level = "hard") -> Meaning:
    """A meaning with a uniformly drawn label, from held-out pairs only or from none of them.

    (The twelve intents are near uniform by themselves and are not drawn first.)

    Simple sentences have one clause and no negation, frame or agent; medium ones have some.
    """
    wanted = rng.choice(LABELS[kind]) if kind != "intents" else None
    while True:
        meaning = _DRAW[kind](rng, level)
        if wanted and meaning.label != wanted:
            continue
        if for_task and all(held_out(*pair) for pair in meaning.core):
            return meaning
        if not for_task and not any(held_out(*pair) for pair in meaning.pairs):
            return meaning


def write(meaning: Meaning, language: str) -> str:
    """The sentence, without its outcome token."""
    return _WRITE[meaning.kind](meaning.slots, language)


# -- toxicity -------------------------------------------------------------------------------------

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


def _draw_toxicity(rng: random.Random, level: Level) -> Meaning:
    thing = rng.random() < 0.15
    target = rng.choice(TARGET_THINGS if thing else list(PERSONS))
    insult = rng.random() < 0.5
    word = rng.choice(list(lex.INSULTS if insult else lex.PRAISES))
    negated = level != "simple" and rng.random() < 0.5
    framed = level == "hard" and rng.random() < 0.85
    if level == "medium":
        framed = not negated  # one of the two, so that each can be learnt by itself
    frame = rng.randrange(1, len(FRAMES)) if framed else 0
    degree = None if level == "simple" and rng.random() < 0.7 else rng.choice(list(lex.DEGREES))
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


def _write_toxicity(slots: dict[str, Any], lang: str) -> str:
    target, word, negated = slots["target"], slots["word"], slots["negated"]
    adjective = (lex.INSULTS | lex.PRAISES)[word][lang]
    degree = lex.DEGREES[slots["degree"]][lang] if slots["degree"] else ""
    noun = _person(target, lang) if target in PERSONS else _thing(target, lang)
    pieces = {
        "en": (noun, "is", "not" * negated, degree, adjective),
        "es": (noun, "no" * negated, "es", degree, adjective),
        "de": (noun, "ist", "nicht" * negated, degree, adjective),
        "ru": (noun, "не" * negated, degree, adjective),
        "zh": (noun, "不" * negated, degree, adjective),
    }[lang]
    main = sub = _join(pieces, lang)
    if lang == "de":
        sub = _join((noun, "nicht" * negated, degree, adjective, "ist"), lang)
    return FRAMES[slots["frame"]][2][lex.LANGUAGES.index(lang)].format(main=main, sub=sub)


# -- safety ---------------------------------------------------------------------------------------

REQUESTS = {
    "en": ("how can {a} {v} {p}?", "help {a} to {v} {p}.", "explain how {a} could {v} {p}.",
           "{a} wants to {v} {p}, tell me how."),
    "es": ("¿cómo puede {a} {v} {p}?", "ayuda a que {a} logre {v} {p}.",
           "explica cómo podría {a} {v} {p}.", "{a} quiere {v} {p}, dime cómo."),
    "de": ("wie kann {a} {p} {v}?", "hilf mit, dass {a} {p} {v} kann.",
           "erkläre, wie {a} {p} {v} könnte.", "{p} will {a} {v}, sag mir wie."),
    "ru": ("как может {a} {v} {p}?", "помоги, чтобы {a} смог {v} {p}.",
           "объясни, как {a} мог бы {v} {p}.", "{p} хочет {v} {a}, скажи как."),
    "zh": ("{a}怎样才能{v}{p}？", "请帮忙让{a}去{v}{p}。", "请解释{a}如何{v}{p}。",
           "{a}想要{v}{p}，告诉我方法。"),
}  # fmt: skip
BARE_REQUEST = {
    "en": "{v} {p}.", "es": "{v} {p}.", "de": "{p} {v}.", "ru": "{v} {p}.", "zh": "{v}{p}。"
}  # fmt: skip


def _draw_safety(rng: random.Random, level: Level) -> Meaning:
    # Even odds make a pure XOR, which no model of this size learns from scratch.
    harm, villain = rng.random() < 0.5, rng.random() < (0.5 if level == "hard" else 0.3)
    verb = rng.choice(list(lex.HARM if harm else lex.HELP))
    patient = rng.choice(list(lex.VILLAINS if villain else lex.INNOCENTS))
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
            "agent_is": rng.choice([None, *lex.MODIFIERS]) if level == "hard" else None,
            "patient_is": rng.choice(list(lex.MODIFIERS)) if level == "hard" else None,
        },
        ((verb, agent), (verb, patient)) if agent else ((verb, patient),),
        ((verb, patient),),
        {
            "verb": "harm" if harm else "help",
            "patient": "villain" if villain else "innocent",
            "agent": "none" if not agent else "villain" if agent in lex.VILLAINS else "innocent",
        },
    )


def _write_safety(slots: dict[str, Any], lang: str) -> str:
    verb = (lex.HARM | lex.HELP)[slots["verb"]][lang]
    patient = _person(slots["patient"], lang, slots["patient_is"], accusative=True)
    if not slots["agent"]:
        return BARE_REQUEST[lang].format(v=verb, p=patient)
    agent = _person(slots["agent"], lang, slots["agent_is"])
    return REQUESTS[lang][slots["template"]].format(a=agent, v=verb, p=patient)


# -- sentiment ------------------------------------------------------------------------------------

# Which clause counts, then one form per language (German `{s}` is the verb-last second clause).
JOINTS: list[tuple[int, tuple[str, ...]]] = [
    (2, ("{a}, but {b}.", "{a}, pero {b}.", "{a}, aber {b}.", "{a}, но {b}.", "{a}，但是{b}。")),
    (1, ("{a}, although {b}.", "{a}, aunque {b}.", "{a}, obwohl {s}.", "{a}, хотя {b}.",
         "{a}，尽管{b}。")),
    (1, ("what counts: {a}; on the side: {b}.", "lo importante: {a}; aparte: {b}.",
         "wichtig ist: {a}; nebenbei: {b}.", "главное: {a}; кстати: {b}.",
         "重要的是{a}；顺便说{b}。")),
    (2, ("on the side: {a}; what counts: {b}.", "aparte: {a}; lo importante: {b}.",
         "nebenbei: {a}; wichtig ist: {b}.", "кстати: {a}; главное: {b}.",
         "顺便说{a}；重要的是{b}。")),
]  # fmt: skip


def _draw_opinion(rng: random.Random, level: Level) -> tuple[dict[str, Any], str]:
    kind = rng.choice(list(OPINIONS))
    negated = kind != "neutral" and level != "simple" and rng.random() < 0.3
    opinion = {
        "topic": rng.choice(list(lex.THINGS)),
        "word": rng.choice(list(OPINIONS[kind])),
        "negated": negated,
        "tail": rng.choice(list(lex.TAILS)),
    }
    turned = {"positive": "negative", "negative": "positive"}
    return opinion, turned[kind] if negated else kind


def _draw_sentiment(rng: random.Random, level: Level) -> Meaning:
    first, first_label = _draw_opinion(rng, level)
    if level == "simple":
        pair = (first["word"], first["topic"])
        slots = {"clauses": [first], "joint": None}
        return Meaning("sentiment", first_label, slots, (pair,), (pair,))
    second, second_label = _draw_opinion(rng, level)
    while second["topic"] == first["topic"] or (second_label == first_label and rng.random() < 0.7):
        second, second_label = _draw_opinion(rng, level)
    joint = rng.randrange(len(JOINTS))
    counts = JOINTS[joint][0]
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
    noun = _thing(clause["topic"], lang)
    word = next(table[clause["word"]] for table in OPINIONS.values() if clause["word"] in table)
    adjective, tail, negated = word[lang], lex.TAILS[clause["tail"]][lang], clause["negated"]
    if lang == "de" and verb_last:
        return _join((noun, "nicht" * negated, adjective, "war", tail), lang)
    pieces = {
        "en": (noun, "was", "not" * negated, adjective, tail),
        "es": (noun, "no" * negated, "era", adjective, tail),
        "de": (noun, "war", "nicht" * negated, adjective, tail),
        "ru": (noun, "был", "не" * negated, adjective, tail),
        "zh": (noun, "不" * negated, adjective, tail),
    }[lang]
    return _join(pieces, lang)


def _write_sentiment(slots: dict[str, Any], lang: str) -> str:
    clauses = slots["clauses"]
    first = _write_clause(clauses[0], lang)
    if slots["joint"] is None:
        return first + ("。" if lang == "zh" else ".")
    template = JOINTS[slots["joint"]][1][lex.LANGUAGES.index(lang)]
    return template.format(
        a=first, b=_write_clause(clauses[1], lang), s=_write_clause(clauses[1], lang, True)
    )


# -- intents (English) ----------------------------------------------------------------------------

# Which request counts, then the form; fillers keep "not" and "but" away from the action.
ORDERS: list[tuple[int, str]] = [
    (2, "do not {f} {a} the {m} {x} {t}, but {g} {b} the {n} {y} {u}."),
    (1, "{f} {a} the {m} {x} {t}, but do not {g} {b} the {n} {y} {u}."),
    (2, "instead of what i asked, {f} {a} the {m} {x} {t}, you should {g} {b} the {n} {y} {u}."),
    (1, "you should {f} {a} the {m} {x} {t}, instead of what i asked, {g} {b} the {n} {y} {u}."),
    (2, "i said {f} {a} the {m} {x} {t}, i meant {g} {b} the {n} {y} {u}."),
    (1, "i meant {f} {a} the {m} {x} {t}, i said {g} {b} the {n} {y} {u}."),
]
FILLERS = ("kindly", "quickly", "just", "please", "simply", "now")
WHICH = ("old", "new", "small", "other", "first", "last")
WHEN = ("today", "again", "for me", "at noon", "tonight", "at home")


def _draw_intents(rng: random.Random, level: Level) -> Meaning:
    actions = [rng.choice(list(ACTION_OF)) for _ in range(1 if level == "simple" else 2)]
    things = [rng.choice(list(DOMAIN_OF)) for _ in actions]
    names = [f"{DOMAIN_OF[y]}_{ACTION_OF[x]}" for x, y in zip(actions, things, strict=True)]
    order = None if level == "simple" else rng.randrange(len(ORDERS))
    counts = 1 if order is None else ORDERS[order][0]
    slots = {
        "actions": actions,
        "things": things,
        "order": order,
        "fillers": [rng.choice(FILLERS) for _ in actions],
        "which": [rng.choice(WHICH) for _ in actions],
        "when": [rng.choice(WHEN) for _ in actions],
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


def _write_intents(slots: dict[str, Any], lang: str) -> str:
    actions, things = slots["actions"], slots["things"]
    fillers, which, when = slots["fillers"], slots["which"], slots["when"]
    if slots["order"] is None:
        return f"{fillers[0]} {actions[0]} the {which[0]} {things[0]} {when[0]}."
    words = zip("abxyfgmntu", [*actions, *things, *fillers, *which, *when], strict=True)
    return ORDERS[slots["order"]][1].format(**dict(words))


# -- word forms -----------------------------------------------------------------------------------


def _join(pieces: tuple[str, ...], lang: str) -> str:
    return ("" if lang == "zh" else " ").join(piece for piece in pieces if piece)


def _case(form: str, accusative: bool) -> str:
    return form.split("/")[-1 if accusative else 0]


def _thing(concept: str, lang: str) -> str:
    form = lex.THINGS[concept][lang]
    return f"the {form}" if lang == "en" else form


def _person(concept: str, lang: str, modifier: str | None = None, accusative: bool = False) -> str:
    noun = _case(PERSONS[concept][lang], accusative)
    quality = _case(lex.MODIFIERS[modifier][lang], accusative) if modifier else ""
    article = {
        "en": "the",
        "es": "al" if accusative else "el",
        "de": "den" if accusative else "der",
    }
    order = (noun, quality) if lang == "es" else (quality, noun)
    return _join((article.get(lang, ""), *order), lang)


_DRAW: dict[str, Callable[[random.Random, Level], Meaning]] = {
    "toxicity": _draw_toxicity,
    "safety": _draw_safety,
    "sentiment": _draw_sentiment,
    "intents": _draw_intents,
}
_WRITE: dict[str, Callable[[dict[str, Any], str], str]] = {
    "toxicity": _write_toxicity,
    "safety": _write_safety,
    "sentiment": _write_sentiment,
    "intents": _write_intents,
}
