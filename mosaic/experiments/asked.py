"""The model itself asked for a text's label: log-probability of the label words (ours).

The words are the names of the task's classes, whatever the language of its texts. The model is
asked zero-shot, or after a few labelled texts of the training part, on the probes' test documents.
"""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from mosaic.config.choices import NO_PROBE
from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.data.splits import Split
from mosaic.errors import ConfigError
from mosaic.extraction.memory import require_memory_to_ask
from mosaic.models.ask import SCORINGS, Answerer, load_answerer
from mosaic.models.options import score_options
from mosaic.models.readers import text_reader
from mosaic.models.resolve import resolve
from mosaic.scores.calibration import probability_scores
from mosaic.scores.intervals import bootstrap_interval, macro_f1
from mosaic.storage.versions import code_digest, versions_of
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell, read_scored, write_scored
from mosaic.sweep.source import Source

MOST_CLASSES = 20
"""Classes of a task that is asked: every prompt names them all."""

ASKED_CODE = ("experiments/asked.py", "models/ask.py", "models/options.py", "scores/intervals.py",
              "models/language_model.py", "scores/calibration.py")  # fmt: skip


def label_words(data: TaskData) -> tuple[str, ...]:
    """The words for a task's classes: their names, `_` read as a space."""
    return tuple(_one_line(name.replace("_", " ")) for name in data.label_names)


def why_not_asked(data: TaskData) -> str:
    """Why a task is left out, "" for one that is asked."""
    words = label_words(data)
    if len(words) > MOST_CLASSES:
        return f"{len(words)} classes, more than {MOST_CLASSES}"
    if not all(any(map(str.isalpha, word)) for word in words) or len(set(words)) < len(words):
        return "the names of its classes are no words of their own"
    return ""


def label_prompt(text: str, words: Sequence[str], shown: Iterable[tuple[str, str]] = ()) -> str:
    """The prompt: a question with the label words, texts `shown` with their words, the text.

    White space is one space, so that no text can open a line of its own.
    """
    blocks = [f"Which label fits the text: {', '.join(words)}?"]
    blocks += [f"Text: {_one_line(example)}\nLabel: {word}" for example, word in shown]
    return "\n\n".join([*blocks, f"Text: {_one_line(text)}\nLabel:"])


def shortened_prompt(
    text: str,
    words: Sequence[str],
    shown: Sequence[tuple[str, str]],
    count: Callable[[str], int],
    limit: int,
) -> tuple[str, bool]:
    """`label_prompt` in at most `limit` of what `count` counts, and whether anything was lost.

    Examples are lost first, then the text's end; the question never. Raises ConfigError where that
    alone is too long.
    """
    for lost in range(len(shown) + 1):
        whole = label_prompt(text, words, shown[lost:])
        if count(whole) <= limit:
            return whole, lost > 0
    text = _one_line(text)
    fits = bisect_right(
        range(len(text) + 1), limit, key=lambda n: count(label_prompt(text[:n], words))
    )
    if not fits:
        raise ConfigError(
            f"The question for a label takes more than the {limit} tokens a prompt may have; raise "
            f"`max_length` in the profile, or ask for fewer classes."
        )
    return label_prompt(text[: fits - 1], words), True


def drawn_examples(data: TaskData, split: Split, n: int) -> np.ndarray:
    """Rows of `n` training texts, drawn by the split's seed, each class in turn as far as it goes;
    blank texts are not shown."""
    rng = np.random.default_rng(split.seed)
    said = np.asarray([row for row in split.train if data.inputs[row].strip()], dtype=np.int64)
    order = rng.permutation(said)
    turn = pd.Series(data.labels[order]).groupby(data.labels[order]).cumcount()
    return rng.permutation(order[np.argsort(turn.to_numpy(), kind="stable")[:n]])


class Asked:
    """A model that is asked for labels; it is loaded when first needed."""

    def __init__(self, workspace: Workspace, model: ModelSpec) -> None:
        self.workspace, self.profile, self.spec = workspace, workspace.profile, model
        self.model = resolve(model, self.profile)
        self.limit = text_reader(self.model, self.profile).max_length

    @property
    def answers(self) -> bool:
        """Whether it is a causal language model, the only kind that can be asked."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        named = (self.model.config.architectures or [""])[0]
        return named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()

    @cached_property
    def answerer(self) -> Answerer:
        """The whole model. Raises ResourceError and what loading raises."""
        require_memory_to_ask(self.model, self.profile.token_budget)
        return load_answerer(self.model)

    def prompts(
        self, data: TaskData, rows: np.ndarray, shown: np.ndarray
    ) -> tuple[list[str], np.ndarray]:
        """The prompt of each document, and which lost something, bool `[n_rows]`."""
        words, ask = label_words(data), self.answerer
        scoring = SCORINGS["plain"]
        room = self.limit - max(len(ask.option_ids(word, scoring)) for word in words)
        examples = [(data.inputs[row], words[data.labels[row]]) for row in shown]

        def count(text: str) -> int:
            return len(ask.prompt_ids(text, scoring))

        found = [shortened_prompt(data.inputs[r], words, examples, count, room) for r in rows]
        return [prompt for prompt, _ in found], np.asarray([cut for _, cut in found], dtype=bool)

    def word_scores(self, prompts: Sequence[str], words: Sequence[str]) -> np.ndarray:
        """Log-probability of each label word after each prompt, `[n_prompts, n_classes]`."""
        options = [tuple(words)] * len(prompts)
        budget = self.profile.token_budget
        return np.stack(score_options(self.answerer, prompts, options, token_budget=budget))

    def cell(self, data: TaskData, seed: int, n_shown: int) -> ScoredCell:
        """The labels of the test documents of a split, asked once and kept."""
        source = Source(self.workspace, data, self.spec.name)
        split = source.split(seed)
        shown = drawn_examples(data, split, n_shown)
        share = len(shown) / len(split.train)
        cell = Cell(data.task.key, "asked", self.spec.name, seed=seed,
                    train_fraction=share, probe=NO_PROBE)  # fmt: skip
        path = self._path([data.fingerprint, split.fingerprint, data.label_names, shown.tolist()])
        if (kept := read_scored(path, cell)) is not None:
            return kept
        start = time.perf_counter()
        prompts, cut = self.prompts(data, split.test, shown)
        found = softmax(self.word_scores(prompts, label_words(data)), axis=1)
        seconds, classes = time.perf_counter() - start, np.arange(found.shape[1])
        y_true, y_pred, two = data.labels[split.test], found.argmax(axis=1), found.shape[1] == 2
        kept = ScoredCell(cell, {}, split.test_ids, y_true, y_pred, found[:, : 2 * two], None)
        interval = bootstrap_interval(kept)
        kept.row.update(source.names(cell))
        kept.row.update(
            source="run",
            protocol="nested",
            model=self.spec.name,
            feature="asked",
            task=data.task.name,
            language=data.task.language,
            train_language=data.task.language,
            probe=NO_PROBE,
            seed=seed,
            train_fraction=share,
            split=split.fingerprint[:16],
            n_train=len(shown),
            n_test=len(split.test),
            n_cut=int(cut.sum()),
            macro_f1=macro_f1(y_true, y_pred),
            macro_f1_low=interval.low,
            macro_f1_high=interval.high,
            accuracy=float(np.mean(y_true == y_pred)),
            **probability_scores(y_true, classes, found),
            seconds=seconds,
        )
        write_scored(path, kept)
        return kept

    def _path(self, asked: list[Any]) -> Any:
        about = [self.profile.name, self.model.identity, str(self.model.dtype), self.spec.chat]
        about += [self.limit, code_digest(*ASKED_CODE), versions_of("torch", "transformers")]
        key = hashlib.sha256(json.dumps([*about, *asked], sort_keys=True).encode()).hexdigest()
        return self.workspace.cache / "asked" / f"{key[:32]}.json"


def ask_for_labels(
    workspace: Workspace,
    model: ModelSpec,
    tasks: Iterable[str],
    seeds: Sequence[int],
    shots: Sequence[int],
) -> tuple[list[ScoredCell], dict[str, str]]:
    """Scored cells of the feature `asked`, one each number of `shots`, and why a task has none.

    Their rows have neither pooling nor threshold and no probe; `n_train` is the number of labelled
    texts shown, `n_cut` that of prompts that lost some of them or the text's end. Raises what
    loading raises.
    """
    asked, found, left_out = Asked(workspace, model), [], {}
    for task in tasks:
        data = load_task(task, workspace.profile)
        if why := why_not_asked(data) if asked.answers else "the model is no causal one":
            left_out[task] = why
            continue
        found += [asked.cell(data, seed, n) for seed in seeds for n in shots]
    return found, left_out


def _one_line(text: str) -> str:
    return " ".join(text.split())
