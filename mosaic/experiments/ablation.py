"""Does the model's own answer use the latents a probe reads? They are taken out to see (ours).

At the output of the SAE's block a latent's activation times its decoder row is subtracted from the
residual stream; the SAE's error and all other latents stay. What that does to the margin between
two label words is held against latents of equal activity, drawn at random.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData, load_task
from mosaic.errors import ConfigError
from mosaic.experiments.asked import Asked, label_words, why_not_asked
from mosaic.models.ask import Answerer
from mosaic.models.language_model import find_blocks
from mosaic.models.saes import load_sae
from mosaic.scores.choose import level
from mosaic.scores.sign_flips import sign_flip_interval
from mosaic.sweep.cells import Cell
from mosaic.sweep.source import fit, open_source

if TYPE_CHECKING:
    from sae_lens import SAE

NEAREST = 10
"""Latents of nearest activity that a matched one is drawn from."""

ABLATED_COLUMNS = ("source", "profile", "toy", "task", "k", "latents", "lost", "difference",
                   "low", "high", "margin", "active", "n_docs")  # fmt: skip


def written(sae: "SAE[Any]", states: torch.Tensor, latents: np.ndarray) -> torch.Tensor:
    """What these latents add to reconstructions of `states` `[n_tokens, d_model]`, as large."""
    parts, at = [], torch.from_numpy(latents).to(states.device)
    for some in states.split(min(4096, max(1, 2**26 // sae.cfg.d_sae))):  # 256 MB of latents
        active = sae.encode(some)
        only = torch.zeros_like(active)
        only[:, at] = active[:, at]
        # Their difference, so that what a decoder adds and scales besides is kept as it is.
        parts.append(sae.decode(only) - sae.decode(torch.zeros_like(only)))
    return torch.cat(parts)


@contextmanager
def without_latents(
    answerer: Answerer, layer: int, sae: "SAE[Any]", latents: np.ndarray, bos: str = "drop"
) -> Iterator[None]:
    """Inside, the model goes on from the output of block `layer` without these latents.

    With `bos="drop"` special tokens, which no feature is pooled over, stay as they are.
    """
    base, block = answerer.model.base_model, find_blocks(answerer.model)[1][layer]
    special = [] if bos == "keep" else answerer.tokenizer.all_special_ids
    read: list[torch.Tensor] = []

    def look(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        ids = named["input_ids"]
        read[:] = [~torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))]

    def ablate(_module: Any, _arguments: Any, output: Any) -> Any:
        states = (output[0] if isinstance(output, tuple) else output).clone()
        found = states[read[0]]
        states[read[0]] = (found.float() - written(sae, found.float(), latents)).to(states.dtype)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handles = [base.register_forward_pre_hook(look, with_kwargs=True)]
    handles.append(block.register_forward_hook(ablate))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activity(sums: Any) -> np.ndarray:
    """Of raw sums `[n_docs, d_sae]` the share of texts a latent fires on and its mean over texts,
    `[2, d_sae]`."""
    return np.stack([np.asarray((sums > 0).mean(axis=0)), np.asarray(sums.mean(axis=0))])


def matched_latents(sums: Any, latents: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Latents as active as `latents` that are none of them, `[n_draws, n_latents]`.

    Each is drawn from the `NEAREST` not drawn yet by the logarithms of its `activity` on `sums`
    `[n_docs, d_sae]`. Raises ConfigError where fewer others fire at all.
    """
    found = activity(sums)
    others = np.setdiff1d(np.flatnonzero(found[0] > 0), latents)
    if len(others) < len(latents):
        raise ConfigError(
            f"{len(latents)} latents need as many others that fire on the training texts, and "
            f"there are {len(others)}; ablate fewer, or take a wider SAE."
        )
    rng, draws = np.random.default_rng(seed), []
    near = np.log(found[:, others])
    for _ in range(n_draws):
        free, drawn = np.ones(len(others), dtype=bool), []
        for latent in latents:
            apart = np.abs(near - np.log(found[:, [latent]])).sum(axis=0)
            nearest = np.argsort(np.where(free, apart, np.inf), kind="stable")[:NEAREST]
            chosen = rng.choice(nearest[free[nearest]])
            free[chosen] = False
            drawn.append(others[chosen])
        draws.append(drawn)
    return np.asarray(draws, dtype=np.int64)


def ablation_table(
    workspace: Workspace,
    model: ModelSpec,
    layer: int,
    width: str,
    tasks: Iterable[str],
    numbers: Sequence[int],
    n_draws: int,
    n_texts: int,
    seed: int = 0,
) -> pd.DataFrame:
    """What a text loses of the margin of its label's word over the other when latents are ablated.

    Asked zero-shot about `n_texts` test texts at most, half of each class, of each task with two
    classes that have words. A row
    is one set of `k` latents: `top` by absolute weight in the recipe's probe (sum > 1), or one
    `matched` draw. Columns: source, profile, toy, task, k, latents, lost (log-probability, mean
    over texts), difference (from the mean of the draws), low, high (95% over texts, of `top` only),
    margin (before), active (share of training texts, mean over latents), n_docs. Raises what
    loading, extraction and asking raise.
    """
    asked = Asked(workspace, model)
    rows: list[dict[str, Any]] = []
    for key in tasks:
        data = load_task(key, workspace.profile)
        if asked.answers and len(data.label_names) == 2 and not why_not_asked(data):
            cell = Cell(key, "sae", model.name, layer, width, "sum", threshold=1.0, seed=seed)
            rows += _ablated(asked, cell, data, numbers, n_draws, n_texts)
    return pd.DataFrame(rows, columns=list(ABLATED_COLUMNS))


def _ablated(
    asked: Asked, cell: Cell, data: TaskData, numbers: Sequence[int], n_draws: int, n_texts: int
) -> Iterator[dict[str, Any]]:
    assert cell.layer is not None
    assert cell.width is not None
    layer, source = cell.layer, open_source(asked.workspace, cell)
    split = source.split(cell.seed)
    probe = fit(cell, source.candidates(cell), data.labels, split, source.profile.folds)
    strongest = np.argsort(-level(np.abs(probe.coef[0])), kind="stable")
    numbers = [k for k in numbers if k <= len(strongest)]
    top = probe.columns[strongest[: max(numbers, default=0)]]
    sums = source.matrix(replace(cell, threshold=None))[split.train]
    draws, fires = matched_latents(sums, top, n_draws, cell.seed), activity(sums)[0]
    # As many of each class, so that what only favours one word over the other is no loss.
    tested = np.random.default_rng(cell.seed).permutation(split.test)
    turn = pd.Series(data.labels[tested]).groupby(data.labels[tested]).cumcount().to_numpy()
    tested = tested[turn < min(n_texts // 2, np.bincount(data.labels[tested], minlength=2).min())]
    prompts, _ = asked.prompts(data, tested, np.zeros(0, dtype=np.int64))
    words, toward = label_words(data), 2 * data.labels[tested] - 1
    config = asked.answerer.model.config.get_text_config()
    spec, device = asked.spec.sae(layer, cell.width), asked.answerer.model.device
    sae = load_sae(spec, device, config.hidden_size, asked.model, decoder=True)

    def margin() -> np.ndarray:
        scores = asked.word_scores(prompts, words)
        return toward * (scores[:, 1] - scores[:, 0])

    def lost(latents: np.ndarray) -> np.ndarray:
        with without_latents(asked.answerer, layer, sae, latents, asked.profile.bos):
            return before - margin()

    before = margin()
    for k in numbers:
        drawn = np.stack([lost(draw[:k]) for draw in draws])
        gap = lost(top[:k]) - drawn.mean(axis=0)
        low, high = sign_flip_interval(gap)
        named = source.names(cell)
        shared = {"source": "run", "profile": named["profile"], "toy": named["toy"]}
        shared |= {"task": cell.task, "k": k, "margin": before.mean(), "n_docs": len(tested)}
        own = {"latents": "top", "low": low, "high": high, "active": fires[top[:k]].mean()}
        own |= {"lost": (gap + drawn.mean(axis=0)).mean(), "difference": gap.mean()}
        yield shared | own
        for draw, values in zip(draws, drawn, strict=True):
            its = {"latents": "matched", "active": fires[draw[:k]].mean(), "lost": values.mean()}
            yield shared | its | {"difference": values.mean() - drawn.mean()}
