"""What `fit` and `predict` say of texts and labels of one's own, so that nothing goes unseen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mosaic.models.readers import text_reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mosaic.config.profiles import Profile
    from mosaic.data.load import TaskData
    from mosaic.data.splits import Split
    from mosaic.models.resolve import ResolvedModel

NO_LABEL = {"", "nan", "none", "null", "na", "n/a", "-1"}
"""What other programs write where a label is missing."""

TEXTS_LOOKED_AT = 500
"""Texts whose tokens are looked at."""

SCRAPS = 0.4
"""Share of tokens that are single letters, parts of a letter or unknown above which a model does
not read the words (ours). Measured on 200 texts a set: 0 to 0.34 for the mini models on their own
texts, 0.43 to 0.87 on real ones; 0 to 0.31 for Gemma 3 and SmolLM2 on European languages, 0.77 and
0.83 for SmolLM2 on Russian and Chinese."""

LETTERS = 1000
"""Entries below which a tokenizer reads letters or bytes by design."""


def rows_said(data: TaskData, split: Split) -> list[str]:
    """Rows, classes with their sizes and parts; blank and repeated texts; classes to look at."""
    sizes = np.bincount(data.labels, minlength=len(data.label_names)).tolist()
    named = ", ".join(f"{n!r} {size}" for n, size in zip(data.label_names, sizes, strict=True))
    left = len(data) - len(split.train) - len(split.test)
    lines = [
        f"{data.task.key}: {len(data)} rows; classes: {named}",
        f"{len(split.train)} texts train and {len(split.test)} test"
        + (f"; {left} are left out by n_train, n_test" if left else ""),
    ]
    if blank := sum(not text.strip() for text in data.inputs):
        lines.append(f"warning: {blank} texts are blank; a probe learns nothing of them")
    labels = defaultdict(set)
    for text, label in zip(data.inputs, data.labels.tolist(), strict=True):
        labels[text].add(label)
    if copies := len(data) - len(labels):
        lines.append(f"{copies} rows repeat the text of another; copies stay in one part")
    if contrary := sum(len(found) > 1 for found in labels.values()):
        lines.append(f"warning: {contrary} texts stand with more than one label")
    return lines + [f"warning: {line}" for line in doubtful_classes(data.label_names)]


def doubtful_classes(names: Sequence[str]) -> list[str]:
    """Sentences on classes that look like one class spelt twice, or like a missing label."""
    alike = defaultdict(list)
    for name in names:
        try:
            key = str(float(name))
        except ValueError:
            key = " ".join(name.casefold().split())
        alike[key].append(name)
    twice = [f"{found} look like one class spelt twice" for found in alike.values() if found[1:]]
    return twice + [
        f"the class {name!r} looks like a missing label"
        for name in names
        if name.casefold() in NO_LABEL
    ]


def reading_said(model: ResolvedModel, texts: Sequence[str], profile: Profile) -> list[str]:
    """How many texts are cut, and a warning where the tokenizer does not know their words."""
    reader = text_reader(model, profile)
    lines = []
    if cut := int(reader.read(list(texts)).cut.sum()):
        lines.append(
            f"{model.spec.name}: {cut} of {len(texts)} texts are cut after {reader.max_length} "
            f"tokens"
        )
    share = scraps(model.tokenizer, texts)
    if share > SCRAPS:
        lines.append(
            f"warning: {share:.0%} of the tokens that {model.spec.name} reads are single letters, "
            f"parts of letters or unknown: it was not trained on such texts, and what a probe "
            f"says of them means little. Choose a model of their language and kind."
        )
    return lines


def scraps(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Share of tokens that are unknown, part of a letter, or one letter of a script with cases.

    Of evenly spaced texts; 0 for a tokenizer of letters or bytes, and where there is no token.
    """
    step = max(1, len(texts) // TEXTS_LOOKED_AT)
    some = [text[:10_000] for text in texts[::step]]
    if len(tokenizer) < LETTERS or not some:
        return 0.0
    rows = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
    counts = Counter(token for row in rows for token in row)
    found = 0
    for token, count in counts.items():
        said = str(tokenizer.decode([token])).strip()
        letter = len(said) == 1 and said.lower() != said.upper()
        if letter or "\ufffd" in said or token == tokenizer.unk_token_id:
            found += count
    return found / max(1, counts.total())
