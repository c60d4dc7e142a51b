"""Fit the probe that inner cross-validation chooses, keep it, and apply it to new texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.load import load_task
from mosaic.data.splits import inner_folds, make_split
from mosaic.errors import ConfigError
from mosaic.experiments.control_grid import explained_variances
from mosaic.experiments.controls import control_width, with_controls
from mosaic.experiments.latents import TokenActivations, contributions, read_tokens
from mosaic.experiments.own_texts import parts_said, reading_said, rows_said
from mosaic.models.resolve import resolve
from mosaic.models.sae_metrics import LOW
from mosaic.probes.saved import SavedProbe, check_same
from mosaic.scores.choose import first_best
from mosaic.scores.intervals import paired_difference
from mosaic.storage.versions import made_with
from mosaic.sweep.cells import Cell, paper_grid
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells
from mosaic.sweep.source import Source, fit, open_source

log = logging.getLogger(__name__)

TOKENS_NAMED = 5
"""Tokens named per latent and text."""


def fit_probe(
    workspace: Workspace,
    task: str | None = None,
    models: Sequence[str] | None = None,
    seed: int = 0,
    say: Callable[[str], object] = log.info,
) -> SavedProbe:
    """The linear probe of SAE latents whose inner cross-validation is best, with its card.

    `task` defaults to the profile's first. Chooses between layers, widths and poolings of the named
    models (default: all text models); the test part only gives the score that the card states.
    What is read is told to `say` line by line. Raises what loading and scoring raise.
    """
    profile = workspace.profile
    if not (task := task or next(iter(profile.tasks), None)):
        raise ConfigError(f"Profile {profile.name!r} has no task; name one.")
    data = load_task(task, profile)
    if data.task.modality != "text":
        raise ConfigError(f"Task {task!r} holds images; probes are saved for texts only.")
    for line in rows_said(data):
        say(line)
    # What cannot be split is said before anything is extracted.
    split = make_split(data, seed, "nested", profile.n_train, profile.n_test)
    inner_folds(data.labels[split.train], split.train_groups, profile.folds, seed)
    chosen = [profile.model(name) for name in models] if models else profile.text_models
    cells = [c for c in paper_grid(profile, [task], chosen, (seed,)) if c.feature == "sae"]
    if not chosen or not cells:
        raise ConfigError(
            f"Profile {profile.name!r} has no text model with an SAE; add one under `models`."
        )
    say(parts_said(data, split))
    for model in {cell.model: profile.model(str(cell.model)) for cell in cells}.values():
        for line in reading_said(resolve(model, profile), data.inputs, profile):
            say(line)
    results = score_cells(cells, workspace)
    for line in saes_said(workspace, cells, data.inputs):
        say(line)
    best = results[first_best(result.row["cv_accuracy"] for result in results)]
    source = open_source(workspace, best.cell)
    probe = fit(best.cell, source.candidates(best.cell), data.labels, split, profile.folds)
    classes = [data.label_names[c] for c in probe.classes]
    card = {"classes": classes, **_card(source, best), "chosen_from": len(results)}
    return SavedProbe(probe, card)


def saes_said(workspace: Workspace, cells: Sequence[Cell], texts: Sequence[str]) -> list[str]:
    """Where each SAE of these cells reads, how many of its latents a token has on average, and how
    much of the variance of the first texts it explains."""
    lines = []
    for model in dict.fromkeys(str(cell.model) for cell in cells):
        spec = workspace.profile.model(model)
        asked = {(c.layer, c.width): c for c in reversed(cells) if c.model == model}
        saes = [sae for sae in spec.saes if (sae.layer, sae.width) in asked]
        [explained] = explained_variances(workspace.profile, spec, saes, [texts])
        for sae, share in explained.items():
            one = asked[sae.layer, sae.width]
            source = open_source(workspace, one)
            counts = source.matrix(replace(one, pooling="count", top_n=None, threshold=None))
            l0 = counts.sum() / max(1, source.n_tokens.sum())
            poor = (
                "" if share >= LOW else f"; warning: below {LOW:g}, it misses much of these texts"
            )
            poor = poor if counts.nnz else "; warning: it never fires on these texts"
            lines.append(
                f"{model}, SAE {sae.width} at the output of block {sae.layer}: {l0:.1f} latents a "
                f"token (L0), explained variance {share:.2f}{poor}"
            )
    return lines


def fit_report(saved: SavedProbe) -> str:
    """What was chosen and how well it does, in two lines."""
    row = saved.card["score"]
    above = "" if row["threshold"] is None else f" above {row['threshold']:g}"
    n = "" if row["top_n"] is None else f" {row['top_n']}"
    return (
        f"chosen of {saved.card['chosen_from']} by inner cross-validation: {row['model']}, "
        f"layer {row['layer']}, width {row['width']}, {row['pooling']}{n}{above} "
        f"({row['cv_accuracy']:.3f})\n"
        f"macro-F1 on the {row['n_test']} test texts: {row['macro_f1']:.3f} "
        f"(95% interval {row['macro_f1_low']:.3f} to {row['macro_f1_high']:.3f})"
    )


def controls_report(workspace: Workspace, saved: SavedProbe) -> str:
    """What the chosen SAE adds on the test texts over its layer's mean hidden state and over a
    random dictionary that is as wide and as active and pooled alike, in a few lines.

    Nothing is binarized, since a threshold stands in units of one dictionary and hidden states have
    none. Each is chosen its own strength of regularization. Thresholds of the random dictionary are
    set on training texts. Raises what loading and scoring raise.
    """
    row = saved.card["score"]
    model, layer, width = workspace.profile.model(row["model"]), row["layer"], row["width"]
    data = load_task(saved.card["task"]["key"], workspace.profile)
    cell = Cell(
        data.task.key, "sae", model.name, layer, width, row["pooling"], row["top_n"],
        seed=row["seed"],
    )  # fmt: skip
    split = make_split(
        data, cell.seed, "nested", workspace.profile.n_train, workspace.profile.n_test
    )
    texts = [data.inputs[i] for i in split.train]
    controlled = with_controls(workspace, model, layer, width, texts, ["random"])
    mean = Cell(cell.task, "hidden", model.name, layer, pooling="mean", seed=cell.seed)
    random = replace(cell, feature="control", width=control_width(width, "random"))
    sae, *others = score_cells([cell, mean, random], controlled)
    lines = [
        f"SAE (raw {row['pooling']}, {sae.row['macro_f1']:.3f}) minus a control on the "
        f"{len(split.test)} test texts, in macro-F1:"
    ]
    for name, other in zip(("mean hidden state", "random dictionary"), others, strict=True):
        found = paired_difference(sae, other)
        lines.append(
            f"  {name} ({other.row['macro_f1']:.3f}): {found.difference:+.3f} "
            f"(95% interval {found.low:+.3f} to {found.high:+.3f})"
        )
    chosen = f"Layer and pooling were chosen for the SAE, of {saved.card['chosen_from']}"
    lines.append(f"{chosen}, and not for the controls, which favours the SAE.")
    return "\n".join([*lines, "An interval that holds 0 does not tell the two apart."])


def _card(source: Source, best: ScoredCell) -> dict[str, Any]:
    data, cell = source.data, best.cell
    model = source.profile.model(str(cell.model))
    sae = model.sae(int(cell.layer or 0), str(cell.width))
    return {
        "task": {
            "key": cell.task,
            "fingerprint": data.fingerprint,
            "n_docs": len(data),
            "input_field": data.task.input_field,
        },
        "decision": "the class of highest probability",
        "model": {"name": model.name, "revision": model.revision},
        "sae": {
            "layer": sae.layer,
            "width": sae.width,
            "release": sae.release,
            "sae_id": sae.sae_id,
        },
        "features": {"pooling": cell.pooling, "top_n": cell.top_n, "threshold": cell.threshold},
        "probe": {
            "kind": cell.probe,
            "C": best.setting,
            "scaling": f"{cell.scaling}, folded into the weights",
        },
        "identity": source.block_identity(sae.layer, sae.width),
        "score": best.row,
        "profile": source.workspace.loaded_from,
        **made_with(),
    }


def predict(
    saved: SavedProbe,
    texts: Sequence[str],
    profile: str | None = None,
    explain: int = 3,
    build_dir: str = "_build",
    say: Callable[[str], object] = log.info,
) -> list[Prediction]:
    """Answers of a saved probe for new texts, each with the `explain` latents that move it most.

    `profile` says where model and SAE are; default is what the probe was fitted with. SAEs that a
    run trained are read from its `build_dir`. Nothing of the texts is kept. Raises IntegrityError
    where model, tokenizer or SAE are not those of the probe, and what loading raises.
    """
    card = saved.card
    reading = {name: card["identity"][name] for name in ("max_length", "bos")}
    top_n = tuple(card["identity"]["top_n"])
    stated = open_workspace(profile or card["profile"], build_dir).profile
    used = replace(stated, **reading, top_n=top_n)
    model, sae = used.model(card["model"]["name"]), card["sae"]
    layer, width = int(sae["layer"]), str(sae["width"])

    for line in reading_said(resolve(model, used), texts, used):
        say(line)

    def check(identity: dict[str, Any]) -> None:
        check_same(saved, identity, used)

    read, pooled = read_tokens(model, texts, layer, width, used, check, by_token=explain > 0)
    X = pooled(**card["features"])
    scores = saved.probe.probabilities(X)
    found = []
    for row, text in enumerate(texts):
        strongest = contributions(saved.probe, X[[row]], explain) if explain else []
        evidence = tuple(
            Evidence(latent, weight, value, _tokens(read[row], latent))
            for latent, weight, value in strongest
        )
        named = dict(zip(saved.label_names, map(float, scores[row]), strict=True))
        found.append(Prediction(text, max(named, key=lambda name: named[name]), named, evidence))
    return found


def _tokens(document: TokenActivations, latent: int) -> tuple[str, ...]:
    """The tokens a latent fires on, strongest first, each once; white space as ␣."""
    column = document.values[:, [latent]].tocoo()
    order = np.argsort(-column.data, kind="stable")
    names = (document.tokens[column.coords[0][i]].strip() or "␣" for i in order)
    return tuple(dict.fromkeys(names))[:TOKENS_NAMED]


@dataclass(frozen=True)
class Evidence:
    """One latent of one text."""

    latent: int
    weight: float
    """Of the probe, toward the answer, in logits per unit of the pooled value."""
    value: float
    """The text's pooled value."""
    tokens: tuple[str, ...]
    """Where the latent fires, strongest first."""

    @property
    def contribution(self) -> float:
        """Weight times value: logits toward the answer."""
        return self.weight * self.value


@dataclass(frozen=True)
class Prediction:
    """The answer for one text."""

    text: str
    answer: str
    probabilities: dict[str, float]
    evidence: tuple[Evidence, ...] = ()
