"""Options scored by log-probability, each after its prompt, as a plain loop would score them.

Logits are made only where a token counts, tile by tile: a vocabulary may have 262,144 words.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mosaic.errors import ResourceError
from mosaic.models.ask import SCORINGS, Answerer, Scoring, in_batches, pad_rows

LOGITS = 2**24
"""Most logits held at a time: 64 MB in float32, whatever the size of the vocabulary (ours)."""


def score_options(
    answerer: Answerer,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    scoring: Scoring = SCORINGS["plain"],
    token_budget: int = 8192,
) -> list[np.ndarray]:
    """Log-probability of each option after its prompt, per question `[n_options]` float64.

    A prompt runs once, and its options continue from the same cached keys and values.
    Raises ConfigError (no tokens, too long) and ResourceError (memory, numbers not finite).
    """
    ids = [answerer.prompt_ids(text, scoring) for text in prompts]
    choices = [[answerer.option_ids(text, scoring) for text in allowed] for allowed in options]
    lengths = [len(p) + max(map(len, c)) for p, c in zip(ids, choices, strict=True)]

    def compute(rows: np.ndarray) -> list[np.ndarray]:
        return _score_batch(answerer, [ids[i] for i in rows], [choices[i] for i in rows], scoring)

    return in_batches(answerer, lengths, token_budget, compute)


def _score_batch(
    answerer: Answerer, prompts: list[list[int]], choices: list[list[list[int]]], scoring: Scoring
) -> list[np.ndarray]:
    """Options of a few prompts: a prompt gives their first tokens, what follows continues it."""
    base, device = answerer.model.base_model, answerer.model.device
    start, mask = pad_rows(prompts, answerer, left=True)
    done = base(
        input_ids=start, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
    )  # fmt: skip
    firsts, _ = pad_rows([[tokens[0] for tokens in allowed] for allowed in choices], answerer)
    total = _log_probabilities(answerer, done, done.last_hidden_state[:, -1], firsts)
    sizes = mask.sum(1, keepdim=True)
    for k in range(total.shape[1]):
        rows = [i for i, allowed in enumerate(choices) if len((allowed[k : k + 1] or [[]])[0]) > 1]
        if not rows:
            continue
        given, kept = pad_rows([choices[i][k][:-1] for i in rows], answerer)
        targets, _ = pad_rows([choices[i][k][1:] for i in rows], answerer)
        states = base(
            input_ids=given,
            attention_mask=torch.cat([mask[rows], kept], dim=1),
            position_ids=sizes[rows] + torch.arange(given.shape[1], device=device),
            past_key_values=_continued(done.past_key_values, rows, len(prompts)),
            use_cache=True,
        ).last_hidden_state
        each = torch.zeros(kept.shape, dtype=torch.float64)
        real = kept.bool()
        found = _log_probabilities(answerer, done, states[real], targets[real][:, None])
        each[real.cpu()] = found[:, 0]
        total[rows, k] += each.sum(1)
    sums = [values[: len(allowed)].numpy() for values, allowed in zip(total, choices, strict=True)]
    if not scoring.normalise:
        return sums
    return [values / [*map(len, allowed)] for values, allowed in zip(sums, choices, strict=True)]


def _continued(cache: Any, rows: list[int], n_rows: int) -> Any:
    """A cache to add to that leaves the given one as it is; keys and values are shared."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    # These put new tensors in the place of old ones; any other kind may write into its own.
    shared = (DynamicLayer, DynamicSlidingWindowLayer)
    grown = copy.copy(cache)
    grown.layers = [
        copy.copy(layer) if type(layer) in shared else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    if len(rows) < n_rows:
        grown.batch_select_indices(torch.tensor(rows, device=grown.layers[0].keys.device))
    return grown


def _log_probabilities(
    answerer: Answerer, done: Any, states: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Of the tokens `targets` `[n, k]` after final states `[n, d_model]`, float64 `[n, k]` on the
    CPU. `done` is any output of the model's blocks. Raises ResourceError for what is not finite."""
    tile = max(1, LOGITS // answerer.model.config.get_text_config().vocab_size)
    parts = []
    for some, wanted in zip(states.split(tile), targets.split(tile), strict=True):
        logits = _logits(answerer, done, some).float()
        parts.append((logits.gather(1, wanted) - logits.logsumexp(1, keepdim=True)).cpu().double())
    found = torch.cat(parts)
    if not torch.isfinite(found).all():
        raise ResourceError(
            f"Log-probabilities of {answerer.spec.name!r} are not finite in "
            f"{answerer.model.dtype}, so they choose nothing; set `dtype: float32` in the profile, "
            f"or mend the model."
        )
    return found


def _logits(answerer: Answerer, done: Any, states: torch.Tensor) -> torch.Tensor:
    """The model's own logits `[n, n_vocabulary]` of final states `[n, d_model]`.

    Its forward pass runs with the blocks left out, so that what the model does behind its LM head
    (Gemma 2's caps, scales) is kept, and no logit is made that nobody asked for.
    """
    model, base = answerer.model, answerer.model.base_model
    output = type(done)(**{**done, "last_hidden_state": states[None]})
    own = base.__dict__.get("forward")  # float16 sets one
    base.forward = lambda *_, **__: output
    try:
        nothing = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        return model(input_ids=nothing, use_cache=False).logits[0]
    finally:
        if own is None:
            del base.forward
        else:
            base.forward = own
