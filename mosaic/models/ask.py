"""A model's answers: options scored by log-probability, open questions answered greedily.

Both run in batches of about equal length, padded on the left; a plain loop over one prompt and one
option at a time gives the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mosaic.errors import ConfigError, ResourceError
from mosaic.models.hub import reachable
from mosaic.models.language_model import float32_residual, quiet_loading
from mosaic.models.resolve import choose_device, choose_dtype, fetch_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mosaic.config.profiles import ModelSpec, Profile


LOGITS = 2**26
"""Most logits held at a time: 256 MB in float32, whatever the size of the vocabulary (ours)."""


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


def load_answerer(spec: ModelSpec, profile: Profile) -> Answerer:
    """The whole model with its LM head. Raises AccessError, ResourceError."""
    import torch
    from transformers import AutoModelForCausalLM

    folder, device = fetch_model(spec), choose_device()
    dtype = choose_dtype(profile.dtype, device)
    try:
        with quiet_loading(), reachable(spec.source):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
        float32_residual(model)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{spec.source!r} does not fit on {device}; ask a smaller model, or use a device with "
            f"more memory."
        ) from error
    return Answerer(spec, model, load_tokenizer(folder))


def score_options(
    answerer: Answerer,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    scoring: Scoring = SCORINGS["plain"],
    token_budget: int = 8192,
) -> list[np.ndarray]:
    """Log-probability of each option after its prompt, per question `[n_options]` float64.

    A prompt runs once, and its options continue from the same cached keys and values.
    """
    import torch

    ids = [answerer.prompt_ids(text, scoring) for text in prompts]
    choices = [[answerer.option_ids(text, scoring) for text in allowed] for allowed in options]
    _check_length(answerer, [len(p) + max(map(len, c)) for p, c in zip(ids, choices, strict=True)])
    found: list[np.ndarray] = [np.empty(0)] * len(prompts)
    longest = max(len(tokens) for allowed in choices for tokens in allowed)
    rows_at_most = LOGITS // (longest * answerer.model.config.get_text_config().vocab_size)
    bar = tqdm(total=len(ids), desc=f"asking {answerer.spec.name}", unit="question", disable=None)
    with bar, torch.inference_mode():
        for rows in _batches([len(tokens) for tokens in ids], token_budget, max(1, rows_at_most)):
            scores = _score_batch(
                answerer, [ids[i] for i in rows], [choices[i] for i in rows], scoring
            )
            for i, values in zip(rows, scores, strict=True):
                found[i] = values
            bar.update(len(rows))
    return found


def _score_batch(
    answerer: Answerer,
    prompts: list[list[int]],
    choices: list[list[list[int]]],
    scoring: Scoring,
) -> list[np.ndarray]:
    """Options of a few prompts: all but the last prompt token are run once, then each option."""
    import torch

    model, device = answerer.model, answerer.model.device
    start, mask = _pad([tokens[:-1] for tokens in prompts], answerer, left=True)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = model(
        input_ids=start, attention_mask=mask, position_ids=positions, use_cache=True,
        logits_to_keep=1,
    ).past_key_values  # fmt: skip
    sizes = mask.sum(1, keepdim=True)
    scores: list[list[float]] = [[] for _ in prompts]
    for k in range(max(map(len, choices))):
        rows = [i for i, allowed in enumerate(choices) if k < len(allowed)]
        targets, kept = _pad([choices[i][k] for i in rows], answerer, left=False)
        last = torch.tensor([[prompts[i][-1]] for i in rows], device=device)
        continued = copy.deepcopy(cache)  # a forward pass adds to the cache it is given
        if len(rows) < len(prompts):
            continued.batch_select_indices(torch.tensor(rows, device=device))
        logits = model(
            input_ids=torch.cat([last, targets[:, :-1]], dim=1),
            attention_mask=torch.cat([mask[rows], kept], dim=1),
            position_ids=sizes[rows] + torch.arange(targets.shape[1], device=device),
            past_key_values=continued,
            use_cache=True,
        ).logits
        logp = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        total = (logp * kept).double().sum(1)
        if scoring.normalise:
            total = total / kept.sum(1)
        for i, value in zip(rows, total.tolist(), strict=True):
            scores[i].append(value)
    return [np.asarray(values) for values in scores]


def generate_answers(
    answerer: Answerer,
    prompts: Sequence[str],
    scoring: Scoring = SCORINGS["plain"],
    max_new_tokens: int = 16,
    token_budget: int = 8192,
) -> list[str]:
    """Greedy continuation of each prompt, at most `max_new_tokens` tokens."""
    import torch
    from transformers import GenerationConfig

    ids = [answerer.prompt_ids(text, scoring) for text in prompts]
    _check_length(answerer, [len(tokens) + max_new_tokens for tokens in ids])
    tokenizer, model = answerer.tokenizer, answerer.model
    # Greedy whatever the model's own generation settings say.
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=answerer.end_ids(scoring) or None,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    found = [""] * len(prompts)
    bar = tqdm(total=len(ids), desc=f"asking {answerer.spec.name}", unit="question", disable=None)
    with bar, torch.inference_mode():
        for rows in _batches([len(t) + max_new_tokens for t in ids], token_budget, len(ids)):
            start, mask = _pad([ids[i] for i in rows], answerer, left=True)
            written = model.generate(  # type: ignore[operator]
                input_ids=start, attention_mask=mask, generation_config=settings
            )[:, start.shape[1] :]
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            for i, text in zip(rows, texts, strict=True):
                found[i] = text.strip()
            bar.update(len(rows))
    return found


def includes(text: str, answers: Iterable[str]) -> bool:
    """Whether an answer stands anywhere in the text, whatever its case (authors' `includes`)."""
    return any(answer.strip().casefold() in text.casefold() for answer in answers)


def _check_length(answerer: Answerer, lengths: Sequence[int]) -> None:
    limit = getattr(answerer.model.config.get_text_config(), "max_position_embeddings", None)
    if limit and max(lengths) > limit:
        raise ConfigError(
            f"A question with its answer takes {max(lengths)} tokens and {answerer.spec.name!r} "
            f"has {limit} positions; leave long questions out, or ask another model."
        )


def _batches(lengths: Sequence[int], budget: int, rows_at_most: int) -> Iterable[np.ndarray]:
    """Positions in batches of about equal length, the longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    while len(order):
        size = max(1, min(rows_at_most, budget // max(1, lengths[order[0]])))
        yield order[:size]
        order = order[size:]


def _pad(
    rows: list[list[int]], answerer: Answerer, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[n_rows, longest]` (at least one column) on the model's device."""
    import torch

    width = max(1, *map(len, rows)) if rows else 1
    ids = torch.full((len(rows), width), answerer.tokenizer.pad_token_id or 0)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, at] = torch.tensor(row, dtype=torch.long)
        mask[i, at] = 1
    return ids.to(answerer.model.device), mask.to(answerer.model.device)
