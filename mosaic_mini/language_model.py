"""Gemma-2-shaped language models, trained from scratch on the corpus (ours)."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mosaic.models.language_model import LanguageModel, residual_stream
from mosaic_mini.facts import RELATIONS
from mosaic_mini.meaning import OUTCOMES

if TYPE_CHECKING:
    from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast


BATCH_TOKENS = 1024

STRETCH = 2000
"""Documents sorted by length together."""

OUTCOME_WEIGHT, FACT_WEIGHT, DEEP_WEIGHT = 4.0, 3.0, 0.5


@dataclass(frozen=True)
class Shape:
    """Size of a language model."""

    d_model: int
    n_blocks: int
    head_dim: int
    d_ff: int
    supervised: int
    """Middle block whose output must predict the outcomes too; see `train`."""


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Gemma2ForCausalLM:
    """A random Gemma 2 of that shape: soft-capping, sliding window, tied embeddings."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=shape.head_dim,
        query_pre_attn_scalar=shape.head_dim,
        intermediate_size=shape.d_ff,
        max_position_embeddings=256,
        sliding_window=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Gemma2ForCausalLM(config)


@dataclass(frozen=True, eq=False)
class Batch:
    """Documents of similar length; both arrays `[n_docs, n_tokens]`, padded on the right."""

    tokens: np.ndarray
    weights: np.ndarray
    """Loss weight of predicting this token: 0 for `<bos>` and padding."""


def make_batches(
    documents: list[list[int]], tokenizer: PreTrainedTokenizerFast, seed: int
) -> list[Batch]:
    """Batches of about `BATCH_TOKENS`; a document moves only inside its stretch of the corpus.

    Sorting by length inside a stretch keeps padding small; attention is causal, so that padding on
    the right needs no mask.
    """
    rng = np.random.default_rng(seed)
    outcomes = [tokenizer.convert_tokens_to_ids(token) for token in set(OUTCOMES.values())]
    values = [tokenizer.convert_tokens_to_ids(f"▁{v}") for r in RELATIONS for v in r.values]
    batches: list[Batch] = []
    for start in range(0, len(documents), STRETCH):
        stretch = sorted(documents[start : start + STRETCH], key=len)
        groups: list[list[list[int]]] = [[]]
        for document in stretch:
            if (len(groups[-1]) + 1) * len(document) > BATCH_TOKENS:
                groups.append([])
            groups[-1].append(document)
        for i in rng.permutation(len(groups)):
            tokens = np.full((len(groups[i]), len(groups[i][-1])), tokenizer.pad_token_id)
            for row, document in zip(tokens, groups[i], strict=True):
                row[: len(document)] = document
            weights = np.where(np.isin(tokens, outcomes), OUTCOME_WEIGHT, 1.0)
            weights[np.isin(tokens, values)] = FACT_WEIGHT
            weights[np.isin(tokens, [tokenizer.pad_token_id, tokenizer.unk_token_id])] = 0.0
            weights[:, 0] = 0.0
            batches.append(Batch(tokens, weights.astype(np.float32)))
    return batches


def token_losses(model: Gemma2ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each predicted token (nats, unweighted) and its weight, both flat."""
    tokens = torch.from_numpy(batch.tokens)
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    losses = cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return losses, torch.from_numpy(batch.weights[:, 1:]).flatten()


def deep_loss(model: Gemma2ForCausalLM, states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean loss of the outcome tokens as read from a middle block's output, which is `states`.

    `[n_docs, n_tokens, d_model]`. They go through the model's own final norm and head (deep
    supervision, Lee et al. 2015). Without it the labels form in the last blocks only, where no
    middle layer could show them.
    """
    shown = torch.from_numpy(batch.weights[:, 1:] == OUTCOME_WEIGHT)
    targets = torch.from_numpy(batch.tokens)[:, 1:][shown]
    logits = model.lm_head(model.model.norm(states[:, :-1][shown])).float()
    return cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))


def train(
    model: Gemma2ForCausalLM,
    batches: list[Batch],
    held_out: list[Batch],
    learning_rate: float,
    supervised: int,
    progress: Callable[[float], None],
) -> list[dict[str, float]]:
    """One pass over the batches in their order; returns the loss curve.

    Forward and backward run on a bfloat16 copy, the optimizers on the float32 weights: Muon for
    the matrices inside the blocks, AdamW for the rest. Both warm up over 50 steps and then fall to
    zero along a cosine. The output of block `supervised` must predict the outcome tokens too.
    `progress` is told the share of the work that each step was.
    """
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    outer = [p for n, p in model.named_parameters() if p.ndim == 1 or ".layers." not in n]
    optimizers = (
        torch.optim.Muon(inner, lr=10 * learning_rate, weight_decay=0.0),
        torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )

    def rate(step: int) -> float:
        return min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / len(batches))) / 2

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    fast = deepcopy(model).bfloat16()
    every = max(1, len(batches) // 25)
    history: list[dict[str, float]] = []
    recent: list[float] = []
    seen = 0
    model.train()
    with residual_stream(LanguageModel(fast, fast, fast.model.layers), [supervised]) as outputs:
        for step, batch in enumerate(batches, start=1):
            losses, weights = token_losses(fast, batch)
            loss = (losses * weights).sum() / weights.sum()
            (loss + DEEP_WEIGHT * deep_loss(fast, outputs[supervised], batch)).backward()
            for slow_p, fast_p in zip(model.parameters(), fast.parameters(), strict=True):
                assert fast_p.grad is not None  # every weight takes part in every step
                slow_p.grad, fast_p.grad = fast_p.grad.float(), None
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
            with torch.no_grad():
                for slow_p, fast_p in zip(model.parameters(), fast.parameters(), strict=True):
                    fast_p.copy_(slow_p)
            seen += int((batch.weights > 0).sum())
            recent.append(loss.item())
            progress(1 / len(batches))
            if step % every == 0 or step == len(batches):
                losses_now = {"train_loss": float(np.mean(recent))}
                losses_now["held_out_loss"] = held_out_loss(fast, held_out)
                history.append({"tokens": seen, **losses_now})
                recent.clear()
    model.zero_grad(set_to_none=True)
    model.eval()
    return history


@torch.no_grad()
def held_out_loss(model: Gemma2ForCausalLM, batches: list[Batch]) -> float:
    """Mean loss per token (nats), without the outcome weighting of training."""
    total, count = 0.0, 0
    for batch in batches:
        losses, weights = token_losses(model, batch)
        total += float(losses[weights > 0].sum())
        count += int((weights > 0).sum())
    return total / count


@torch.no_grad()
def outcome_accuracy(model: Gemma2ForCausalLM, batches: list[Batch]) -> float:
    """Share of outcome tokens that the model ranks first (2% of them are noise)."""
    right, count = 0, 0
    for batch in batches:
        logits = model(input_ids=torch.from_numpy(batch.tokens), use_cache=False).logits
        shown = batch.weights[:, 1:] == OUTCOME_WEIGHT
        hit = logits[:, :-1].argmax(-1).numpy() == batch.tokens[:, 1:]
        right += int(hit[shown].sum())
        count += int(shown.sum())
    return right / count
