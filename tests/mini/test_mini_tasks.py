"""The mini world's texts: known causes, no leak into pretraining, shipped rows as regenerated."""

from __future__ import annotations

import hashlib
import random
import re

import pandas as pd
import pytest

from mosaic import ASSETS
from mosaic_mini.build import SAE_SEED, SEED, TOKENIZER_DOCS, TOKENIZER_SEED, Budget
from mosaic_mini.chat import conversations
from mosaic_mini.corpus import documents
from mosaic_mini.facts import N_PRACTICE, N_TASK, RAREST, entities
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import INNOCENTS, INSULTS, LANGUAGES, TABLES, Table
from mosaic_mini.meaning import OUTCOMES, held_out
from mosaic_mini.requests import ACTION_OF, DOMAIN_OF
from mosaic_mini.tasks import ORGANISATION, ROWS, questions, sentences

DATA = ASSETS / "mini" / "data" / ORGANISATION
PREDICATES: Table = {}
for _name in ("insults", "praises", "harm", "help", "good", "bad", "neutral"):
    PREDICATES |= TABLES[_name]
NOUNS = TABLES["innocents"] | TABLES["villains"] | TABLES["things"]
ALSO_ENGLISH = ([*ACTION_OF], [*DOMAIN_OF])


def shipped(name: str) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted((DATA / name).glob("*.parquet"))}


@pytest.fixture(scope="module")
def pretraining() -> set[str]:
    """Every sentence any shipped file was trained on: models, tokenizer and SAEs."""
    budget = Budget()
    sentences: set[str] = set()
    for n, seed in (
        (budget.small_docs, SEED),
        (budget.large_docs, SEED),
        (TOKENIZER_DOCS, TOKENIZER_SEED),
        (budget.sae_docs, SAE_SEED),
    ):
        for document in documents(n, seed):
            sentences.update(document.sentences)
    for item in conversations(budget.chat_docs, SEED + 1):
        if isinstance(item, str):
            sentences.update(re.split("|".join(OUTCOMES.values()), item))
        else:
            sentences.update(turn["content"] for turn in item)
    return {sentence.strip() for sentence in sentences if sentence.strip()}


def test_no_task_text_is_in_the_pretraining_corpus(pretraining: set[str]) -> None:
    assert len(pretraining) > 100_000
    texts = 0
    for name in ("safety", "toxicity", "sentiment", "intents", "scenarios"):
        for rows in shipped(name).values():
            texts += len(rows)
            assert not pretraining & set(rows["text"])
    assert texts == 13 * ROWS
    asked = {match[0] for s in pretraining for match in re.finditer("question: .*?answer:", s)}
    assert asked, "the practice questions must be there"
    for rows in shipped("questions").values():
        assert not pretraining & set(rows["prompt"])
        assert not asked & {prompt[prompt.index("question:") :] for prompt in rows["prompt"]}


def test_no_held_out_pair_is_in_the_pretraining_corpus(pretraining: set[str]) -> None:
    """Words are found in the text itself, so a mistake in the grammar's own account would show."""
    leaks, pairs = [], 0
    for language in LANGUAGES:
        predicates = _forms(PREDICATES, language, ALSO_ENGLISH[0])
        nouns = _forms(NOUNS, language, ALSO_ENGLISH[1])
        for sentence in pretraining:
            if language == "zh":
                if sentence.isascii():
                    continue
                words = [form for form in (*predicates, *nouns) if form in sentence]
            else:
                words = re.findall(r"\w+", sentence)
            for predicate in (predicates[w] for w in words if w in predicates):
                for noun in (nouns[w] for w in words if w in nouns):
                    pairs += 1
                    if held_out(predicate, noun):
                        leaks.append((sentence, predicate, noun))
    assert pairs > 100_000
    assert not leaks, f"{len(leaks)} leaks, such as {leaks[:3]}"


def _forms(table: Table, language: str, also_english: list[str]) -> dict[str, str]:
    """Last word of every form to its concept, both cases of Russian nouns included."""
    found = {
        case.split()[-1]: concept
        for concept, forms in table.items()
        for case in forms[language].split("/")
    }
    return found | ({word: word for word in also_english} if language == "en" else {})


def test_the_test_would_see_a_leak() -> None:
    predicate, noun = next((p, n) for p in INSULTS for n in INNOCENTS if held_out(p, n))
    forms = _forms(PREDICATES, "de", []), _forms(NOUNS, "de", [])
    words = f"der {INNOCENTS[noun]['de']} ist {INSULTS[predicate]['de']}".split()
    assert [forms[0][w] for w in words if w in forms[0]] == [predicate]
    assert [forms[1][w] for w in words if w in forms[1]] == [noun]


@pytest.mark.parametrize(
    ("name", "config", "kind"),
    [("safety", "default", "safety"), ("toxicity", "zh", "toxicity"),
     ("sentiment", "de", "sentiment"), ("intents", "default", "intents")],
)  # fmt: skip
def test_shipped_rows_are_regenerated(name: str, config: str, kind: str) -> None:
    language = "en" if config == "default" else config
    again = pd.DataFrame(sentences(kind, language))
    pd.testing.assert_frame_equal(shipped(name)[config], again)


def test_shipped_questions_are_regenerated() -> None:
    for context, rows in shipped("questions").items():
        again = pd.DataFrame(questions(context))
        assert [list(x) for x in rows.pop("options")] == [list(x) for x in again.pop("options")]
        pd.testing.assert_frame_equal(rows, again)


def test_no_single_word_gives_toxicity_or_safety_away() -> None:
    """Within statements on persons every cause is near chance by itself; together they decide."""
    rows = shipped("toxicity")["en"]
    people = rows[rows["target"] == "person"]
    for cause in ("polarity", "negation", "frame_flips"):
        toxic = (people["true_label"] == "toxic").groupby(people[cause]).mean()
        assert toxic.between(0.4, 0.75).all(), toxic
    flips = sum((people[c] == v).astype(int) for c, v in
                (("polarity", "insult"), ("negation", "yes"), ("frame_flips", "yes")))  # fmt: skip
    assert ((flips % 2 == 1) == (people["true_label"] == "toxic")).all()
    rows = shipped("safety")["default"]
    assert ((rows["verb"] == "harm") ^ (rows["patient"] == "villain")).equals(
        rows["true_label"] == "unsafe"
    )


def test_the_corpus_is_the_one_the_shipped_models_learnt() -> None:
    text = "\n".join(document.text for document in documents(2000, SEED))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest.startswith("8dd6e9932ceff274")


def test_translations_share_the_label_and_no_language_is_empty() -> None:
    drawn = draw("toxicity", random.Random(0))
    texts = [write(drawn, language) for language in LANGUAGES]
    assert len(set(texts)) == 5
    assert all("{" not in text for text in texts)


def test_frequencies_span_the_stated_range() -> None:
    weights = [person.weight for person in entities() if not person.practice]
    assert max(weights) == 1
    assert min(weights) == pytest.approx(RAREST)
    assert len({person.name for person in entities()}) == N_TASK + N_PRACTICE
