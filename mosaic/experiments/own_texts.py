"""What `fit` and `predict` say of texts and labels of one's own, so that nothing goes unseen."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from unicodedata import category, normalize

import numpy as np

from mosaic.config.profiles import Profile
from mosaic.data.load import TaskData
from mosaic.data.splits import Split
from mosaic.models.readers import text_reader
from mosaic.models.resolve import ResolvedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LABEL = {"", "nan", "none", "null", "na", "n/a", "-1", "-100", "?", "unlabelled", "unlabeled"}
"""What other programs write where a label is missing."""

TEXTS_LOOKED_AT = 500
"""Texts whose tokens are looked at."""

CLASSES_NAMED = 20
"""Classes named with their sizes; of more the largest."""

SPELT = 0.65
"""Share of words in scraps above which a model does not read the texts (ours). On 200 texts a set:
0 to 0.55 for the mini models on their own texts and 0.76 to 1 on real ones; 0 to 0.28 for Gemma 3
in nine languages; 0 to 0.50 for SmolLM2, but 1.00 and 0.96 in Russian and Chinese toxicity."""

PIECE = 2.5
"""Letters a piece of a word has at least, on average, where the word is not spelt by letters."""

LETTERS = 1000
"""Entries below which a tokenizer reads letters or bytes by design."""


def rows_said(data: TaskData) -> list[str]:
    """Rows, classes with their sizes; blank and repeated texts; classes to look at."""
    sizes = np.bincount(data.labels, minlength=len(data.label_names))
    shown = np.sort(np.argsort(-sizes, kind="stable")[:CLASSES_NAMED])
    named = ", ".join(f"{data.label_names[c]!r} {sizes[c]}" for c in shown)
    more = f" and {len(sizes) - len(shown)} more" if len(sizes) > len(shown) else ""
    lines = [f"{data.task.key}: {len(data)} rows; classes: {named}{more}"]
    if blank := sum(not text.strip() for text in data.inputs):
        lines.append(f"warning: {blank} texts are blank; a probe learns nothing of them")
    labels = defaultdict(set)
    for text, label in zip(data.inputs, data.labels.tolist(), strict=True):
        labels[text].add(label)
    if copies := len(data) - len(labels):
        lines.append(f"{copies} rows repeat the text of another; copies stay in one part")
    if contrary := sum(len(found) > 1 for found in labels.values()):
        lines.append(f"warning: of {len(labels)} texts {contrary} stand with more than one label")
    return lines + [f"warning: {line}" for line in doubtful_classes(data.label_names)]


def parts_said(data: TaskData, split: Split) -> str:
    """How many texts train, how many test, and how many the profile's caps leave out."""
    left = len(data) - len(split.train) - len(split.test)
    said = f"{len(split.train)} texts train and {len(split.test)} test"
    return said + (f"; {left} are left out by n_train, n_test" if left else "")


def doubtful_classes(names: Sequence[str]) -> list[str]:
    """Sentences on classes that look like one class spelt twice, or like a missing label."""
    alike = defaultdict(list)
    for name in names:
        try:
            key = str(float(name))
        except ValueError:
            seen = "".join(c for c in normalize("NFKC", name) if category(c) != "Cf")
            key = " ".join(re.split(r"[\s_-]+", seen.casefold())).strip() or name
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
    share = spelt(model.tokenizer, texts)
    if share > SPELT:
        lines.append(
            f"warning: {model.spec.name} has no words for these texts: {share:.0%} of theirs are "
            f"read in scraps or as unknown. It was not trained on such texts, and what a probe "
            f"says of them means little. Choose a model of their language and kind."
        )
    return lines


def spelt(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Share of words that are mostly unknown, or cut into pieces of fewer than `PIECE` letters.

    Of evenly spaced texts; of scripts with upper case the words of four letters or more, of others
    every run of letters, which only counts where it is unknown. 0 for a tokenizer of letters or
    bytes, and without words.
    """
    step = max(1, len(texts) // TEXTS_LOOKED_AT)
    some = (text[:10_000] for text in texts[::step])
    counts = Counter(word for text in some for word in re.findall(r"[^\W\d_]+", text))
    words = [w for w in counts if w.lower() == w.upper() or len(w) >= 4]
    if len(tokenizer) < LETTERS or not words:
        return 0.0
    rows = tokenizer([f" {w}" for w in words], add_special_tokens=False, verbose=False)["input_ids"]
    found = 0
    for word, row in zip(words, rows, strict=True):
        pieces = [str(tokenizer.decode([token])).strip() for token in row]
        unknown = sum("\ufffd" in p for p in pieces) + row.count(tokenizer.unk_token_id)
        cased = word.lower() != word.upper()
        scraps = cased and sum(map(bool, pieces)) > len(word) / PIECE
        found += counts[word] * (scraps or unknown > len(pieces) / 2)
    return found / sum(counts[word] for word in words)
