"""What the instruction-tuned model is trained on (ours).

Questions with answers, requests that are met or refused, and a quarter of plain corpus, so that
nothing is forgotten. The same pairs and people stay held out as in the corpus.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mosaic_mini.corpus import documents
from mosaic_mini.facts import RELATIONS, entities, question
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import LANGUAGES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


QUESTIONS, REQUESTS = 0.45, 0.30

REFUSAL, AGREEMENT = "i will not help with that.", "yes, here is how."


def conversations(n: int, seed: int) -> list[list[dict[str, str]] | str]:
    """`n` conversations of one turn, or corpus documents as plain text."""
    rng = random.Random(f"chat {seed}")
    replay = (document.text for document in documents(n, seed))
    people = [person for person in entities() if person.practice]
    weights = [person.weight for person in people]
    found: list[list[dict[str, str]] | str] = []
    for _ in range(n):
        form = rng.random()
        if form < QUESTIONS:
            person = rng.choices(people, weights)[0]
            relation = rng.choice(RELATIONS)
            found.append(_turn(question(person, relation), person.facts[relation.name]))
        elif form < QUESTIONS + REQUESTS:
            meaning = draw("safety", rng, level=rng.choice(("simple", "medium", "hard")))
            request = write(meaning, rng.choice(LANGUAGES))
            found.append(_turn(request, REFUSAL if meaning.label == "unsafe" else AGREEMENT))
        else:
            found.append(next(replay))
    return found


def _turn(user: str, model: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": model}]


def tokenize(
    conversations: list[list[dict[str, str]] | str], tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """Token ids, with the chat template where there are turns."""
    texts = []
    for item in conversations:
        if not isinstance(item, str):  # without the `<bos>` that the tokenizer adds again
            item = str(tokenizer.apply_chat_template(item, tokenize=False)).removeprefix("<bos>")
        texts.append(item)
    return tokenizer(texts)["input_ids"]
