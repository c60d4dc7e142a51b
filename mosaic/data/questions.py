"""Questions as prompts: what a model is asked, between what it may choose, what counts as right.

The prompt is also the text whose features predict whether the answer was right (protocol §10).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaic.config.profiles import Profile
from mosaic.data.load import TaskData, load_task
from mosaic.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Questions:
    """The questions of a task; `data.inputs` are the prompts, ending where the answer begins."""

    data: TaskData
    options: tuple[tuple[str, ...], ...] | None
    """Per question the answers to choose from; None for open questions."""
    answers: tuple[tuple[str, ...], ...]
    """Per question the answers that count as right."""

    def __post_init__(self) -> None:
        for row, allowed in enumerate(self.options or ()):
            if not set(self.answers[row]) & set(allowed):
                raise ConfigError(
                    f"Question {self.data.ids[row]!r} has the answer {self.answers[row]!r}, which "
                    f"is not among its options {allowed!r}; correct the task's fields."
                )

    def __len__(self) -> int:
        return len(self.data)

    @property
    def fingerprint(self) -> str:
        """sha256 over ids, prompts, options and answers."""
        content = [self.data.ids.tolist(), self.data.inputs, self.options, self.answers]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def open_ended(self) -> Questions:
        """The same questions without their options, as a task of another name."""
        task = replace(self.data.task, name=f"{self.data.task.name}-open")
        named = self if self.options is None else replace(self, data=replace(self.data, task=task))
        return replace(named, options=None)

    def first(self, n: int | None, seed: int = 0) -> Questions:
        """About `n` questions: whole groups, drawn at random, until there are that many."""
        if n is None or n >= len(self):
            return self
        groups = self.data.groups if self.data.groups is not None else self.data.ids
        names, group = np.unique(groups, return_inverse=True)
        order = np.random.default_rng(seed).permutation(len(names))
        sizes = np.bincount(group)[order]
        drawn = order[: int(np.searchsorted(sizes.cumsum(), n)) + 1]
        rows = np.flatnonzero(np.isin(group, drawn))
        return Questions(
            data=self.data.subset(rows),
            options=None if self.options is None else tuple(self.options[i] for i in rows),
            answers=tuple(self.answers[i] for i in rows),
        )


def load_questions(key: str, profile: Profile) -> Questions:
    """The questions of a task, as prompts.

    A task of its own kind needs the annotation `answer` (a string, or several that count), and
    `options` (a list of strings) for multiple choice; its input is the prompt. The paper's sets are
    put into the authors' words. Raises what `load_task` raises, and ConfigError.
    """
    data = load_task(key, profile)
    if data.task.name in WORDINGS:
        return WORDINGS[data.task.name](data)
    notes = data.annotations
    if "answer" not in notes:
        raise ConfigError(
            f"Task {key!r} cannot be asked: it needs the annotation `answer`, and `options` for "
            f"multiple choice; it has {sorted(notes)}. Add them to the task's `annotations`."
        )
    options = tuple(map(_several, notes["options"])) if "options" in notes else None
    return Questions(data, options, tuple(map(_several, notes["answer"])))


def prompt(question: str, context: str = "", options: Sequence[str] = ()) -> str:
    """Context, question, numbered options, then "Answer:", one line each (authors' code)."""
    lines = [f"Context: {context}"] if context else []
    lines.append(f"Question: {question}")
    if options:
        lines += ["Options:", *(f"{i}. {option}" for i, option in enumerate(options, start=1))]
    return "\n".join([*lines, "Answer:"])


def _several(value: Any) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str) else tuple(map(str, value))


def _choice(
    data: TaskData, contexts: Sequence[str], options: Sequence[tuple[str, ...]], gold: Sequence[str]
) -> Questions:
    rows = zip(data.inputs, contexts, options, strict=True)
    texts = [prompt(question, context, allowed) for question, context, allowed in rows]
    return Questions(replace(data, inputs=texts), tuple(options), tuple((g,) for g in gold))


def _piqa(data: TaskData) -> Questions:
    notes = data.annotations
    options = [(str(a), str(b)) for a, b in zip(notes["sol1"], notes["sol2"], strict=True)]
    gold = [allowed[label] for allowed, label in zip(options, data.labels, strict=True)]
    return _choice(data, [""] * len(data), options, gold)


def _boolq(data: TaskData) -> Questions:
    options = [("no", "yes")] * len(data)
    gold = [("no", "yes")[label] for label in data.labels]
    return _choice(data, [str(c) for c in data.annotations["passage"]], options, gold)


def _pubmedqa(data: TaskData) -> Questions:
    contexts = [" ".join(context["contexts"]) for context in data.annotations["context"]]
    gold = [data.label_names[label] for label in data.labels]
    return _choice(data, contexts, [("yes", "no", "maybe")] * len(data), gold)


def _nqswap(data: TaskData) -> Questions:
    """Open questions; which context and whose answer is in the name of the task."""
    _, kind = data.task.name.removesuffix("-questions").split("-")
    side = "sub" if kind == "substituted" else "org"
    notes = data.annotations
    contexts = [""] * len(data) if kind == "closed" else notes[f"{side}_context"]
    texts = [prompt(q, str(c)) for q, c in zip(data.inputs, contexts, strict=True)]
    answers = tuple(map(_several, notes[f"{side}_answer"]))
    return Questions(replace(data, inputs=texts), None, answers)


WORDINGS: dict[str, Callable[[TaskData], Questions]] = {
    "piqa-questions": _piqa,
    "boolq-questions": _boolq,
    "pubmedqa-questions": _pubmedqa,
    "nqswap-closed-questions": _nqswap,
    "nqswap-original-questions": _nqswap,
    "nqswap-substituted-questions": _nqswap,
}
