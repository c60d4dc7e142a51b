"""Was a model's answer right? Labels made by asking it, and cells that predict them (paper §4.5).

Asking costs model time, so answers are kept on disk under a key of everything that changes them.
Any model's features may predict any model's correctness: the pairs are the question of oversight.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from mosaic.config.choices import TEXT_BASELINES
from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.workspace import Workspace
from mosaic.data.load import TaskData
from mosaic.data.questions import Questions, load_questions
from mosaic.errors import ConfigError
from mosaic.experiments.oversight import margin_and_mass
from mosaic.extraction.memory import require_memory_to_ask
from mosaic.models.ask import (
    OPEN_TOKENS,
    SCORINGS,
    Scoring,
    generate_answers,
    includes,
    load_answerer,
)
from mosaic.models.options import score_options
from mosaic.models.resolve import ResolvedModel, resolve
from mosaic.scores.choose import rows_best_by_cv
from mosaic.scores.intervals import bootstrap_interval
from mosaic.storage.sealed import read_sealed_or_set_aside, write_sealed
from mosaic.storage.versions import code_digest, versions_of
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells

LABEL_NAMES = ("wrong", "right")

BEHAVIOUR_POOLINGS: tuple[dict[str, Any], ...] = (
    {"pooling": "sum"},
    {"pooling": "sum", "threshold": 1.0},
    {"pooling": "max"},
)
"""SAE poolings compared here: the paper's recipe, raw and binarized, and the maximum (ours)."""

BEHAVIOUR_CHAPTER = "06_behaviour_prediction"

QUESTION_TASKS = {
    "paper": (
        ("pubmedqa-questions", "boolq-questions", "piqa-questions"),
        ("nqswap-closed-questions", "nqswap-original-questions", "nqswap-substituted-questions"),
    ),
    "mini": (("questions",), ("questions", "questions-original", "questions-substituted")),
}
"""Catalogue to its sets of questions: multiple choice, and answered openly."""


def question_tasks(profile: Profile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the multiple-choice and open questions of a profile's catalogue.

    Where the profile names tasks for the chapter, only these. Raises ConfigError for a reader's own
    catalogue, where the reader has to say.
    """
    if profile.catalogue not in QUESTION_TASKS:
        raise ConfigError(
            f"Which tasks of {profile.catalogue!r} are questions is not known; name them in the "
            f"parameters `choice_tasks` and `open_tasks`."
        )
    choice, written = QUESTION_TASKS[profile.catalogue]
    named = profile.chapters.get(BEHAVIOUR_CHAPTER, (*choice, *written))
    return tuple(k for k in choice if k in named), tuple(k for k in written if k in named)


def label_sets(
    workspace: Workspace,
    choice_tasks: Iterable[str],
    open_tasks: Iterable[str],
    n_questions: int | None = None,
    scoring: str = "plain",
    max_new_tokens: int = OPEN_TOKENS,
) -> dict[str, TaskData]:
    """All sets of labels by key: every text model's choices, and open answers of the chat models.

    Open questions are put to instruction-tuned models, as the authors do; to all text models where
    the profile has none. `n_questions` caps the questions of a task, whole groups at a time.
    Raises ConfigError for a profile without text models, and what `correctness` raises.
    """
    profile = workspace.profile
    models = profile.text_models
    if not models:
        raise ConfigError(
            f"Profile {profile.name!r} has no text model to ask; use one that has, such as mini."
        )
    writers = tuple(model for model in models if model.chat) or models
    asked = [(load_questions(key, profile), models) for key in choice_tasks]
    asked += [(load_questions(key, profile).open_ended(), writers) for key in open_tasks]
    found = {}
    for questions, answerers in asked:
        questions = questions.first(n_questions)
        for model in answerers:
            data = correctness(model, questions, workspace, scoring, max_new_tokens)
            found[data.task.key] = data
    return found


def describe_labels(labelled: Mapping[str, TaskData], least: int = 30) -> pd.DataFrame:
    """One row per label set: questions, share right, and whether it can be predicted at all.

    `unfinished` is the share of open answers that were cut before the model ended them. A set with
    fewer than `least` right or wrong answers leaves too few to learn and test on.
    """
    rows = []
    for key, data in labelled.items():
        right = int(data.labels.sum())
        rows.append(
            {
                "key": key,
                "task": data.task.name,
                "label_model": data.task.label_model,
                "questions": len(data),
                "share_right": right / len(data),
                "unfinished": 1 - float(np.mean(data.annotations.get("finished", True))),
                "usable": min(right, len(data) - right) >= least,
            }
        )
    return pd.DataFrame(rows)


def behaviour_cells(
    profile: Profile, keys: Iterable[str], seeds: Sequence[int] = (0,)
) -> list[Cell]:
    """Cells that predict each label set: every text model's features, and the baselines.

    Narrow SAEs at every depth, hidden states last and mean, TF-IDF, prompt length, base rate.
    """
    found = []
    for key in keys:
        for seed in seeds:
            for model in profile.text_models:
                for layer in model.layers.values():
                    base = Cell(key, "hidden", model.name, layer, seed=seed)
                    found += [replace(base, pooling=pooling) for pooling in ("last", "mean")]
                    sae = replace(base, feature="sae", width=model.narrowest(layer))
                    found += [replace(sae, **pooling) for pooling in BEHAVIOUR_POOLINGS]
            found += [Cell(key, name, seed=seed) for name in TEXT_BASELINES]
    return found


def score_behaviour(
    cells: Sequence[Cell], labelled: Mapping[str, TaskData], workspace: Workspace, n_jobs: int = -1
) -> list[ScoredCell]:
    """Score cells whose labels are in `labelled`."""
    return score_cells(cells, workspace, n_jobs, load=lambda key, _profile: labelled[key])


def model_sizes(profile: Profile) -> dict[str, int]:
    """Text models, smallest first, with the weights of their blocks up to a constant factor.

    An instruction-tuned model is as large as its base: neither oversees the other.
    """
    sizes = {}
    for model in profile.text_models:
        text = resolve(model, profile).config.get_text_config()
        sizes[model.name] = text.num_hidden_layers * text.hidden_size**2
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def best_by_cv(
    results: Iterable[ScoredCell], *keys: str, hidden_apart: bool = True
) -> list[ScoredCell]:
    """Per task key, feature and `keys` (columns of a row) the cell that `rows_best_by_cv` names."""
    results = list(results)
    table = pd.DataFrame([{**r.row, "key": r.cell.task} for r in results])
    return [results[i] for i in rows_best_by_cv(table, ["key", *keys], hidden_apart)]


def against_baselines(chosen: Iterable[ScoredCell]) -> list[tuple[Cell, Cell]]:
    """Pairs for `compare_cells`: the SAE cell of each label set and every other cell of it."""
    chosen = list(chosen)
    first = {r.cell.task: r.cell for r in chosen if r.cell.feature == "sae"}
    return [
        (first[r.cell.task], r.cell)
        for r in chosen
        if r.cell.feature not in ("sae", "base_rate") and r.cell.task in first
    ]


def auc_table(results: Iterable[ScoredCell]) -> pd.DataFrame:
    """AUC of "right" with its 95% interval beside macro-F1; 0.5 is chance at any base rate."""
    rows = []
    for result in results:
        span = bootstrap_interval(result, metric="auc")
        names = ("task", "label_model", "feature", "model", "layer", "pooling", "threshold")
        row = {name: result.row[name] for name in names}
        row |= {"macro_f1": result.row["macro_f1"]}
        rows.append({**row, "auc": span.value, "auc_low": span.low, "auc_high": span.high})
    return pd.DataFrame(rows)


def correctness(
    spec: ModelSpec,
    questions: Questions,
    workspace: Workspace,
    scoring: str = "plain",
    max_new_tokens: int = OPEN_TOKENS,
) -> TaskData:
    """The questions with the label "was `spec` right?", asked once and read from disk afterwards.

    The texts are the prompts without chat template. A damaged label file is set aside with a
    warning, and asked anew. Raises ConfigError for an unknown scoring, and what loading raises.
    """
    if scoring not in SCORINGS:
        raise ConfigError(f"Unknown scoring {scoring!r}; use one of {tuple(SCORINGS)}.")
    profile = workspace.profile
    model = resolve(spec, profile)
    identity = {
        "model": model.identity,
        "chat": spec.chat,
        "dtype": str(model.dtype),
        "questions": questions.fingerprint,
        "open": questions.options is None,
        "scoring": asdict(SCORINGS[scoring]),
        "max_new_tokens": max_new_tokens if questions.options is None else None,
        "kept": "margin and mass",
        "code": code_digest("models/ask.py", "models/options.py", "models/language_model.py"),
        "versions": versions_of("torch", "transformers"),
    }
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    path = workspace.cache / "labels" / f"{name}.json"
    if (kept := read_sealed_or_set_aside(path)) is None:
        kept = {"identity": identity, "ids": questions.data.ids.tolist()}
        kept |= _ask(model, questions, profile, SCORINGS[scoring], max_new_tokens)
        write_sealed(path, kept)
    said = kept["answers"]
    if questions.options is None:
        right = [includes(*pair) for pair in zip(said, questions.answers, strict=True)]
    else:
        right = [text in allowed for text, allowed in zip(said, questions.answers, strict=True)]
    name = questions.data.task.name.replace("-questions", "")
    task = replace(
        questions.data.task, name=name, label_model=spec.name, label_names=LABEL_NAMES, rows=None
    )
    labels = np.asarray(right, dtype=np.int64)
    notes = {**questions.data.annotations}
    for name in {"finished", "margin", "mass"} & set(kept):
        notes[name] = np.asarray(kept[name])
    return replace(
        questions.data, task=task, labels=labels, label_names=LABEL_NAMES, annotations=notes
    )


def _ask(
    model: ResolvedModel,
    questions: Questions,
    profile: Profile,
    scoring: Scoring,
    max_new_tokens: int,
) -> dict[str, list[Any]]:
    """Per question the `answers`, an option or what the model wrote, and whether it ended them;
    where there are options also the margin and the mass of their probabilities."""
    budget, prompts = profile.token_budget, questions.data.inputs
    require_memory_to_ask(model, budget)
    answerer = load_answerer(model)
    if questions.options is None:
        written = generate_answers(answerer, prompts, scoring, max_new_tokens, budget)
        return {"answers": [a.text for a in written], "finished": [a.finished for a in written]}
    found = score_options(answerer, prompts, questions.options, scoring, budget)
    best = [o[int(s.argmax())] for o, s in zip(questions.options, found, strict=True)]
    margins, masses = zip(*map(margin_and_mass, found), strict=True)
    return {
        "answers": best,
        "finished": [True] * len(best),
        "margin": list(margins),
        "mass": list(masses),
    }
