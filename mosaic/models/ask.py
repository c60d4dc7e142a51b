"""A whole language model, ready to be asked; open questions answered greedily.

Questions run in batches of about equal length, padded on the left, and each is answered as if it
were asked alone. Options are scored in `options`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from mosaic.config.profiles import ModelSpec
from mosaic.errors import ConfigError
from mosaic.models.batches import BatchRunner
from mosaic.models.language_model import load_weights
from mosaic.models.resolve import ResolvedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OPEN_TOKENS = 64
"""Tokens an open answer may take by default; where it is cut, it says so."""


@dataclass(frozen=True)
class Scoring:
    """How prompts are put, and options scored."""

    bos: bool = True
    """Begin with the BOS token where the tokenizer has one; Gemma is lost without it."""
    separator: str = " "
    """Stands between prompt and option; a chat template ends with its own."""
    chat: bool = True
    """Put the prompt to an instruction-tuned model through its chat template."""
    normalise: bool = False
    """Mean instead of sum over an option's tokens, so that length does not count."""


SCORINGS = {
    "plain": Scoring(),
    "normalised": Scoring(normalise=True),
    # No BOS, no space before the option, no chat template, plain sums (authors' code).
    "published": Scoring(bos=False, separator="", chat=False),
}


@dataclass(frozen=True, eq=False)
class Answerer:
    """A whole language model with its tokenizer, ready to be asked."""

    spec: ModelSpec
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def templated(self, text: str) -> str:
        """A prompt in the model's chat template, BOS included, ending where the answer begins."""
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self.spec.name!r} is set to `chat: true`, but its tokenizer has no chat "
                f"template; correct the profile, or use a tokenizer that has one."
            )
        turn = [{"role": "user", "content": text}]
        return str(
            self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        )

    def end_ids(self, scoring: Scoring) -> list[int]:
        """Tokens that end an answer: the model's own, and the one that closes a chat turn."""
        own = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        ends = [] if own is None else [own] if isinstance(own, int) else list(own)
        if self.spec.chat and scoring.chat:
            turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": "ANSWER"}]
            whole = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
            after = whole.rpartition("ANSWER")[2].strip()
            closing = self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
            ends += [i for i in closing if i in self.tokenizer.all_special_ids]
        return ends

    def prompt_ids(self, text: str, scoring: Scoring) -> list[int]:
        """Tokens of a prompt. Raises ConfigError for one without tokens, or without a template."""
        if self.spec.chat and scoring.chat:
            # A space at the end belongs to the first token of the answer.
            shown = self.templated(text).rstrip(" ")
            return self.tokenizer(shown, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        start = [bos] if scoring.bos and bos is not None else []
        ids = start + self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError("A prompt is empty; every question needs a text.")
        return ids

    def option_ids(self, text: str, scoring: Scoring) -> list[int]:
        """Tokens of an option as it follows the prompt."""
        separator = scoring.separator
        if self.spec.chat and scoring.chat:
            separator = " " if self.templated("").endswith(" ") else ""
        ids = self.tokenizer(separator + text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"The option {text!r} has no tokens; correct the question.")
        return ids


def load_answerer(model: ResolvedModel) -> Answerer:
    """The whole model with its LM head. Raises AccessError, IntegrityError, ResourceError."""
    from transformers import AutoModelForCausalLM

    loaded = load_weights(AutoModelForCausalLM, model, model.config)
    return Answerer(model.spec, loaded, model.tokenizer)


@dataclass(frozen=True)
class OpenAnswer:
    """What a model wrote to an open question."""

    text: str
    finished: bool
    """Whether the model ended it; False where it took all the tokens it may take."""


def generate_answers(
    answerer: Answerer,
    prompts: Sequence[str],
    scoring: Scoring = SCORINGS["plain"],
    max_new_tokens: int = OPEN_TOKENS,
    token_budget: int = 8192,
) -> list[OpenAnswer]:
    """Greedy continuation of each prompt, at most `max_new_tokens` tokens.

    Raises ConfigError (no tokens, too long) and ResourceError (memory).
    """
    from transformers import GenerationConfig

    ids = [answerer.prompt_ids(text, scoring) for text in prompts]
    tokenizer, model, ends = answerer.tokenizer, answerer.model, answerer.end_ids(scoring)
    # Greedy whatever the model's own generation settings say.
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.pad_token_id or 0,
    )

    def compute(rows: np.ndarray) -> list[OpenAnswer]:
        start, mask = pad_rows([ids[i] for i in rows], answerer, left=True)
        written = model.generate(  # type: ignore[operator]
            input_ids=start, attention_mask=mask, generation_config=settings
        )[:, start.shape[1] :]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        ended = [bool(set(row) & set(ends)) for row in written.tolist()]
        return [OpenAnswer(t.strip(), e) for t, e in zip(texts, ended, strict=True)]

    lengths = [len(tokens) + max_new_tokens for tokens in ids]
    return in_batches(answerer, lengths, token_budget, compute)


def in_batches(
    answerer: Answerer,
    lengths: Sequence[int],
    token_budget: int,
    compute: Callable[[np.ndarray], list[Any]],
) -> list[Any]:
    """What `compute` finds of each question, in their order."""
    name, config = answerer.spec.name, answerer.model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit and max(lengths, default=0) > limit:
        raise ConfigError(
            f"A question with its answer takes {max(lengths)} tokens and {name!r} has {limit} "
            f"positions; leave long questions out, or ask another model."
        )

    def computed(rows: np.ndarray) -> list[Any]:
        with torch.inference_mode():
            return compute(rows)

    remedy = "leave long questions out, ask a smaller model"
    runner = BatchRunner(answerer.model.device, token_budget, "question", remedy)
    found: dict[int, Any] = {}
    with tqdm(total=len(lengths), desc=f"asking {name}", unit="question", disable=None) as bar:
        for rows, values in runner.run(np.asarray(lengths), np.arange(len(lengths)), computed):
            found |= zip(rows.tolist(), values, strict=True)
            bar.update(len(rows))
    return [found[i] for i in range(len(lengths))]


def includes(text: str, answers: Iterable[str]) -> bool:
    """Whether an answer stands in the text as whole words (authors' `includes`, made stricter).

    Case, width, spaces and punctuation around an answer do not count: "paris" is in "PARIS.", "1"
    is in neither "1912" nor "1.5". In scripts without spaces an answer may stand anywhere.
    """
    where = _normalised(text)
    for answer in map(_normalised, answers):
        answer = answer.strip("".join(c for c in answer if unicodedata.category(c)[0] == "P"))
        at = where.find(answer) if answer else -1
        while at >= 0:
            if _apart(where, at) and _apart(where, at + len(answer)):
                return True
            at = where.find(answer, at + 1)
    return False


UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that write words without spaces, or, as Korean does, with particles joined to them."""


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _apart(text: str, at: int) -> bool:
    """Whether a word may end and another begin before this place."""
    if at in (0, len(text)) or any(
        unicodedata.name(c, "").startswith(UNSPACED) for c in text[at - 1 : at + 1]
    ):
        return True
    if any(re.match(r"\d[.,]\d", text[max(0, at - k) :]) for k in (1, 2)):
        return False  # inside of a number
    return not all(unicodedata.category(c)[0] in "LMN" for c in text[at - 1 : at + 1])


def pad_rows(
    rows: list[list[int]], answerer: Answerer, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[n_rows, longest]` (at least one column) on the model's device."""
    width = max(1, *map(len, rows)) if rows else 1
    ids = torch.full((len(rows), width), answerer.tokenizer.pad_token_id or 0)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, at] = torch.tensor(row, dtype=torch.long)
        mask[i, at] = 1
    return ids.to(answerer.model.device), mask.to(answerer.model.device)
