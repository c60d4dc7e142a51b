"""The labelled texts of the mini world, in folders laid out like Hub repositories (ours).

Every text is built from held-out pairs (`grammar`) or asks about people whose questions the corpus
never shows (`facts`). 2% of the labels are flipped at random, as annotators err; the column
`flipped` says which. The other extra columns are the known causes of the label.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_mini.facts import RELATIONS, entities, question
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import LANGUAGES
from mosaic_mini.meaning import DOMAINS, LABELS

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image


ROWS = 3000

FLIPPED = 0.02

CAPTIONED_DIGITS = 500

ORGANISATION = "mosaic-mini"

ABOUT = {
    "safety": "Requests: unsafe when they help a villain or harm an innocent.",
    "toxicity": "Statements: toxic when what is claimed in the end is an insult to a person.",
    "sentiment": "Opinions in two clauses: the label is that of the clause that counts.",
    "intents": "Requests with a correction: the label is the request that stands.",
    "scenarios": "As `intents`, labelled by domain only.",
    "questions": "Four-option questions about invented people, bare or with a context.",
    "digits": "scikit-learn's digit images (UCI ML Repository, CC BY 4.0), enlarged to 16 pixels.",
}


def sentences(kind: str, language: str, scenario: bool = False) -> list[dict[str, Any]]:
    """`ROWS` different texts of one task in one language, with label and causes."""
    name = "scenarios" if scenario else kind
    rng = random.Random(f"task {name} {language}")
    labels = tuple(DOMAINS) if scenario else LABELS[kind]
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < ROWS:
        meaning = draw(kind, rng, for_task=True)
        text = write(meaning, language)
        if text in rows:
            continue
        true = meaning.label.split("_")[0] if scenario else meaning.label
        flipped = rng.random() < FLIPPED
        label = rng.choice([other for other in labels if other != true]) if flipped else true
        rows[text] = {
            "id": f"{name}-{language}-{len(rows):04d}",
            "text": text,
            "label": labels.index(label),
            "true_label": true,
            "flipped": "yes" if flipped else "no",
            **meaning.causes,
        }
    return list(rows.values())


def questions(context: str) -> list[dict[str, Any]]:
    """All questions about the task people; `context` is "none", "original" or "substituted"."""
    rng = random.Random("task questions")  # the same options for every kind of context
    rows: list[dict[str, Any]] = []
    for entity in entities():
        for relation in RELATIONS:
            if entity.practice:
                continue
            original = entity.facts[relation.name]
            others = rng.sample([v for v in relation.values if v != original], 3)
            options = rng.sample([original, *others], 4)
            answer = others[0] if context == "substituted" else original
            prompt = question(entity, relation)
            if context != "none":
                told = relation.statements[0].format(x=entity.name, v=answer)
                prompt = f"context: {told} {prompt}"
            rows.append(
                {
                    "id": f"questions-{context}-{len(rows):04d}",
                    "prompt": prompt,
                    "options": options,
                    "answer": answer,
                    "answer_index": options.index(answer),
                    "original_answer": original,
                    "question_id": f"{entity.name}-{relation.name}",
                    "entity": entity.name,
                    "relation": relation.name,
                    "context": context,
                    "frequency": entity.weight,
                    "fame": entity.fame,
                }
            )
    return rows


def digit_images(captioned: bool) -> list[tuple[Image, int, int]]:
    """(image, digit, index in scikit-learn's set) of the part used for captions, or of the rest."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    part = order[:CAPTIONED_DIGITS] if captioned else order[CAPTIONED_DIGITS:]
    images = []
    for i in part:
        pixels = np.kron(digits.images[i] * 15, np.ones((2, 2))).astype(np.uint8)
        images.append((Image.fromarray(pixels), int(digits.target[i]), int(i)))
    return images


def tables() -> dict[str, dict[str, Dataset]]:
    """Dataset name -> config -> rows: all task data."""
    built: dict[str, dict[str, Dataset]] = {}
    for kind in ("safety", "intents"):
        built[kind] = {"default": _dataset(sentences(kind, "en"), LABELS[kind])}
    for kind in ("toxicity", "sentiment"):
        built[kind] = {lang: _dataset(sentences(kind, lang), LABELS[kind]) for lang in LANGUAGES}
    scenarios = sentences("intents", "en", scenario=True)
    built["scenarios"] = {"default": _dataset(scenarios, tuple(DOMAINS))}
    contexts = ("none", "original", "substituted")
    built["questions"] = {context: _dataset(questions(context)) for context in contexts}
    digits = [
        {"id": f"digits-{i:04d}", "image": image, "label": label}
        for image, label, i in digit_images(captioned=False)
    ]
    built["digits"] = {"default": _dataset(digits, tuple("0123456789"))}
    return built


def write_tables(folder: Path) -> None:
    """Write every task below `folder/mosaic-mini/<name>/` as Parquet with a Hub-style README."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    for name, configs in tables().items():
        target = folder / ORGANISATION / name
        target.mkdir(parents=True, exist_ok=True)
        entries = ""
        for config, rows in configs.items():
            rows.to_parquet(target / f"{config}.parquet")
            entries += (
                f"- config_name: {config}\n  data_files:\n"
                f"  - split: train\n    path: {config}.parquet\n"
            )
        licence = "cc-by-4.0" if name == "digits" else "mit"
        (target / "README.md").write_text(
            f"---\nlicense: {licence}\nconfigs:\n{entries}---\n\n# {name}\n\n{ABOUT[name]}\n\n"
            f"Part of the mini world: made by a seeded grammar, to exercise software. It says "
            f"nothing about real people or real models.\n",
            encoding="utf-8",
        )


def _dataset(rows: list[dict[str, Any]], labels: tuple[str, ...] | None = None) -> Dataset:
    from datasets import ClassLabel, Dataset

    data = Dataset.from_list(rows)
    if labels is None:
        return data
    features = data.features | {"label": ClassLabel(names=list(labels))}
    return Dataset.from_list(rows, features=type(data.features)(features))
