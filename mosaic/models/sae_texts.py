"""The texts that SAEs are trained on: general text, or what no split of a task ever tests."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from mosaic.config.profiles import Profile
from mosaic.data.load import load_task
from mosaic.data.splits import make_split
from mosaic.errors import ConfigError
from mosaic.models.resolve import ResolvedModel

SAE_SEED = 0

MOST_TEXTS = 8000
"""Texts of the profile's tasks at most, drawn at random; general texts are counted by tokens."""

HELD_OUT = 10
"""Of so many texts, one is kept back to measure the SAEs."""


@dataclass(frozen=True)
class Texts:
    """Texts to train on, and texts kept back by their language ("" where none is known)."""

    training: list[str]
    held_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over all texts in their order."""
        parts = [self.training, *self.held_out.values()]
        return hashlib.sha256("\x1e".join("\x1f".join(p) for p in parts).encode()).hexdigest()


def training_texts(profile: Profile, model: ResolvedModel) -> Texts:
    """Texts of the profile's `sae_texts`, each set giving as many tokens of the model;
    without such sets, texts of the profile's tasks that are never tested.

    Raises ConfigError for a set that is a task, or that has too few texts to keep one back.
    """
    if not profile.sae_texts:
        texts = untested_texts(profile)
        return Texts(texts[len(texts) // HELD_OUT :], {"": texts[: len(texts) // HELD_OUT]})
    sets = replace(profile, catalogue=profile.sae_catalogue or profile.catalogue, max_docs=None)
    loaded = {key: load_task(key, sets) for key in profile.sae_texts}
    whole = replace(profile, max_docs=None)
    tested = {text for key in profile.tasks for text in load_task(key, whole).inputs} | {""}
    tokenizer = model.tokenizer
    share = profile.sae_tokens // len(loaded)
    training: list[str] = []
    held_out: dict[str, list[str]] = {}
    for key, data in loaded.items():
        fresh = [text for text in dict.fromkeys(data.inputs) if text not in tested]
        order = np.random.default_rng(SAE_SEED).permutation(len(fresh))
        taken: list[str] = []
        n_tokens = at = 0
        while n_tokens < share and at < len(order):
            some = [fresh[i] for i in order[at : at + 64]]
            rows = tokenizer(some, truncation=True, max_length=profile.max_length)["input_ids"]
            for text, ids in zip(some, rows, strict=True):
                if n_tokens < share:
                    taken.append(text)
                    n_tokens += len(ids)
            at += 64
        if len(taken) < 2:
            raise ConfigError(
                f"{key!r} in `sae_texts` has {len(taken)} texts that are in no task; name sets of "
                f"general text that is not in the profile's tasks."
            )
        kept = max(1, len(taken) // HELD_OUT)
        held_out.setdefault(data.task.language or "", []).extend(taken[:kept])
        training.extend(taken[kept:])
    order = np.random.default_rng(SAE_SEED).permutation(len(training))
    return Texts([training[i] for i in order], held_out)


def untested_texts(profile: Profile) -> list[str]:
    """Texts of the profile's tasks that no split tests under any of its seeds, at most MOST_TEXTS.

    What an SAE is trained on is thereby in no test part, whichever cell is scored later; equal
    texts count as one.
    """
    texts: dict[str, None] = {}
    tested = {""}
    for key in profile.tasks:
        data = load_task(key, profile)
        texts |= dict.fromkeys(data.inputs)
        for seed in profile.seeds:
            split = make_split(data, seed, n_train=profile.n_train, n_test=profile.n_test)
            tested |= {data.inputs[row] for row in split.test}
    kept = [text for text in texts if text not in tested]
    order = np.random.default_rng(SAE_SEED).permutation(len(kept))[:MOST_TEXTS]
    return [kept[i] for i in order]
