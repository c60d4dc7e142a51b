"""Words and sentences of the grammar in five languages, read once from `words.yaml` (ours)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

WORDS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")
)

LANGUAGES: tuple[str, ...] = tuple(WORDS["languages"])

Table = dict[str, dict[str, str]]
"""Concept (the English word) to language to form."""

TABLES: dict[str, Table] = {
    name: {forms[0]: dict(zip(LANGUAGES, forms, strict=True)) for forms in rows}
    for name, rows in WORDS["tables"].items()
}

INNOCENTS, VILLAINS, THINGS = TABLES["innocents"], TABLES["villains"], TABLES["things"]

INSULTS, PRAISES = TABLES["insults"], TABLES["praises"]

OPINIONS = {"positive": TABLES["good"], "negative": TABLES["bad"], "neutral": TABLES["neutral"]}

HARM, HELP = TABLES["harm"], TABLES["help"]

MODIFIERS, DEGREES, TAILS = TABLES["modifiers"], TABLES["degrees"], TABLES["tails"]


def form(forms: Sequence[str], lang: str) -> str:
    """The one of a language."""
    return forms[LANGUAGES.index(lang)]
