"""The paper's comparisons again, with one difference between the two sides taken away at a time.

The paper sums SAE latents over all positions, the first one included, and reads hidden states at
the last; it binarizes the sums and nothing else; its probe scales neither; and it reads the
instruction-tuned model through the base model's SAEs. Each of these is a condition here; all else
stays equal. Binarized sums are only ever set against raw sums of the same cells, never against a
hidden state that is pooled otherwise as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mosaic.config.choices import CONTROLS, HIDDEN_JOINED, Bos
from mosaic.config.profiles import ModelSpec
from mosaic.config.workspace import Workspace
from mosaic.errors import ConfigError
from mosaic.evidence.claims import Claim, Finding, judge_claims, judge_pairs
from mosaic.evidence.contrasts import compared, effect_table, verdicts_twice
from mosaic.scores.choose import best_rows
from mosaic.scores.controls import control_rows, headline
from mosaic.sweep.cells import Cell
from mosaic.sweep.compare import compare_cells
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells

CONTROL_CHAPTER = "10_does_the_sae_matter"

ALIKE = "hidden state, pooled alike"

PROBED_LATENTS = {"feature": "sae", "pooling": ["sum", "max"], "threshold": None}

PLAIN = {
    "hidden state, mean+max": {"feature": "hidden", "pooling": HIDDEN_JOINED},
    "hidden state, last token": {"feature": "hidden", "pooling": "last"},
    "TF-IDF": {"feature": "tfidf"},
}
"""What the trained SAE's sums and maxima together are compared with, whatever their pooling."""

ASKED = {"zero-shot": [0], "few-shot": list(range(1, 100))}
"""Labelled texts shown to a model that is asked for the label."""

OFFERED = "chooser, with the trained SAE"


@dataclass(frozen=True)
class Condition:
    """Two cells that differ in what a claim is about, under one condition."""

    claim: str
    condition: str
    first: Cell
    second: Cell
    bos: Bos = "drop"


def conditions(task: str, model: ModelSpec, depth: str = "middle") -> list[Condition]:
    """SAE against hidden state, and binarized against raw sums, under each condition (seed 0)."""
    layer = model.layer(depth)
    width = model.narrowest(layer)
    latents = Cell(task, "sae", model.name, layer, width, "sum", threshold=1.0)
    raw = replace(latents, threshold=None)
    last = Cell(task, "hidden", model.name, layer, pooling="last")
    mean, most = replace(last, pooling="mean"), replace(last, pooling="max")
    sae, binarized = "SAE minus hidden state", "binarized minus raw sums"

    def unscaled(cell: Cell) -> Cell:
        return replace(cell, scaling="none")

    return [
        Condition(sae, "paper's pooling: sum > 1, last token", latents, last),
        Condition(sae, "same, BOS kept", latents, last, bos="keep"),
        Condition(sae, "same, not scaled", unscaled(latents), unscaled(last)),
        Condition(sae, "same, not binarized: raw sum, last token", raw, last),
        Condition(sae, "both all tokens: raw sum, mean", raw, mean),
        Condition(sae, "both maximum over tokens", replace(raw, pooling="max"), most),
        Condition(sae, "both last token", replace(raw, pooling="last"), last),
        Condition(binarized, "scaled", latents, raw),
        Condition(binarized, "scaled, BOS kept", latents, raw, bos="keep"),
        Condition(binarized, "not scaled", unscaled(latents), unscaled(raw)),
    ]


def with_base_saes(workspace: Workspace) -> tuple[Workspace, ModelSpec, ModelSpec] | None:
    """The instruction-tuned model, and a copy of it read through its base model's SAEs.

    The base model is the text model with the same layers that takes no chat template; None where
    the profile has no such pair. The returned workspace knows the copy as well.
    """
    for tuned in (m for m in workspace.profile.text_models if m.chat):
        for base in workspace.profile.text_models:
            if not base.chat and base.layers == tuned.layers:
                copy = replace(tuned, name=f"{tuned.name} with SAEs of {base.name}", saes=base.saes)
                profile = replace(workspace.profile, models=(*workspace.profile.models, copy))
                return replace(workspace, profile=profile), tuned, copy
    return None


def compare_conditions(
    workspace: Workspace,
    tasks: Sequence[str],
    seeds: Iterable[int],
    depth: str = "middle",
) -> tuple[pd.DataFrame, list[ScoredCell]]:
    """Paired differences of every contrast, and the scored cells behind them.

    The first text model of the profile is asked under every condition; the instruction-tuned one
    through its own and through the base model's SAEs. Columns: claim, condition, task, model,
    difference, low, high (95% bootstrap interval over documents), n_docs. Raises ConfigError for a
    profile without text models.
    """
    if not workspace.profile.text_models:
        raise ConfigError(
            f"Profile {workspace.profile.name!r} has no text model to read; use one that has."
        )
    seeds = tuple(seeds)
    model = workspace.profile.text_models[0]
    asked = [c for task in tasks for c in conditions(task, model, depth)]
    if (pair := with_base_saes(workspace)) is not None:
        workspace, tuned, copy = pair
        for task in tasks:
            layer = tuned.layer(depth)
            own = Cell(task, "sae", tuned.name, layer, tuned.narrowest(layer), "sum")
            for threshold, name in ((1.0, "sum > 1"), (None, "raw sum")):
                first = replace(own, threshold=threshold)
                second = replace(first, model=copy.name)
                asked.append(Condition("SAE of tuned minus of base", name, first, second))
    parts, scored = [], []
    for bos in dict.fromkeys(c.bos for c in asked):
        here = [c for c in asked if c.bos == bos]
        cells = dict.fromkeys(cell for c in here for cell in (c.first, c.second))
        pooled = replace(workspace, profile=replace(workspace.profile, bos=bos))
        wanted = [replace(cell, seed=seed) for cell in cells for seed in seeds]
        scored += (results := score_cells(wanted, pooled))
        found = compare_cells([(c.first, c.second) for c in here], results)
        names = {"claim": [c.claim for c in here], "condition": [c.condition for c in here]}
        parts.append(found.assign(**names, place=[asked.index(c) for c in here]))
    table = pd.concat(parts).sort_values("place", ignore_index=True)
    columns = ["claim", "condition", "task", "model", "difference", "low", "high", "n_docs"]
    return table[columns], scored


def control_contrasts(table: pd.DataFrame) -> dict[str, Finding]:
    """The trained SAE minus each control and each plain baseline, sums and maxima averaged.

    Controls are pooled as the SAE is; the mean hidden state stands beside sums and the largest
    beside maxima.
    """
    rows = control_rows(table)
    mean = (rows["feature"] == "hidden") & (rows["pooling"] == "mean")
    rows = rows.assign(pooling=rows["pooling"].mask(mean, "sum"))
    widths = list(rows.loc[rows["feature"] == "control", "width"].unique())
    seconds: dict[str, dict[str, Any]] = {
        name: {"feature": "control", "width": [w for w in widths if w.endswith(f" {kind}")]}
        for kind, name in CONTROLS.items()
    }
    seconds |= {ALIKE: {"feature": "hidden", "pooling": PROBED_LATENTS["pooling"]}, **PLAIN}
    claims = [_control_claim(name, second) for name, second in seconds.items()]
    found = zip(seconds, judge_claims(claims, rows), strict=True)
    return {name: finding for name, finding in found if len(finding.pairs)}


def sparse_contrasts(table: pd.DataFrame) -> dict[str, Finding]:
    """The trained SAE minus the random dictionary, raw sums, where a probe reads k latents only."""
    rows = control_rows(table)
    rows = rows[rows["width"].str.endswith(" random").fillna(False) | (rows["feature"] == "sae")]
    # Only numbers that the control kept too: chapter 03 keeps others of the trained SAE.
    kept = sorted(rows.loc[rows["feature"] == "control", "k"].dropna().astype(int).unique())
    claims = []
    for k in kept:
        latents = {"pooling": "sum", "selection": "topk", "k": k}
        claim = _control_claim(f"random dictionary, {k} latents", {"feature": "control", **latents})
        claims.append(replace(claim, first={"feature": "sae", **latents}))
    return {claim.key: f for claim, f in zip(claims, judge_claims(claims, rows), strict=True)}


def asked_contrasts(table: pd.DataFrame) -> dict[str, Finding]:
    """The trained SAE minus the model itself asked for the label; sums and maxima averaged."""
    claims = [
        _control_claim(f"model asked, {how}", {"feature": "asked", "n_train": shown})
        for how, shown in ASKED.items()
    ]
    claims = [replace(claim, same=("task", "language", "model")) for claim in claims]
    found = zip(claims, judge_claims(claims, control_rows(table)), strict=True)
    return {claim.key: finding for claim, finding in found if len(finding.pairs)}


def asked_in_words(found: Mapping[str, Mapping[str, Finding]]) -> str:
    """How the trained SAE compares with the model asked, a clause a source that asked it."""
    each = {
        source: [f"{compared(f)} than the {n}" for n, f in its.items()]
        for source, its in found.items()
    }
    said = [f"{source}, {' and '.join(clauses)}" for source, clauses in each.items() if clauses]
    return "; ".join(said) or "no source asked its model"


def control_findings(table: pd.DataFrame) -> dict[str, Finding]:
    """What a source says of an SAE's controls; `few latents` is the middle number kept."""
    found, sparse = control_contrasts(table), list(sparse_contrasts(table).values())
    if len(found):
        found |= chooser_contrasts(table)
    return found | ({"few latents": sparse[len(sparse) // 2]} if sparse else {})


def _control_claim(name: str, second: dict[str, Any] | None = None) -> Claim:
    same = ("task", "language") if name == "TF-IDF" else ("task", "language", "model", "layer")
    return Claim(
        key=name,
        says=f"The trained SAE is above: {name}",
        said_in="ours",
        measure="raw sums and maxima of all latents",
        kind="text",
        first=PROBED_LATENTS,
        second=second,
        same=same if name in PLAIN else (*same, "pooling"),
        chapter=CONTROL_CHAPTER,
        figure="fig-controls",
    )


def chooser_contrasts(table: pd.DataFrame) -> dict[str, Finding]:
    """What the chooser gains from further cells beside hidden states and TF-IDF.

    The chooser takes the cell of the highest inner cross-validation, per task and seed. It is
    offered the trained SAE's cells, or those of the random dictionary.
    """
    rows = headline(control_rows(table))
    plain = rows["feature"].isin(["hidden", "tfidf"])
    random = rows["width"].str.endswith(" random").fillna(False)
    offers = {
        OFFERED: rows["feature"] == "sae",
        "chooser, with the random dictionary": random,
    }
    keys = ["task", "language", "seed"]
    rows = rows.assign(toy=rows.groupby(keys, dropna=False)["toy"].transform("max"))

    def chosen(offered: pd.Series) -> pd.DataFrame:
        part = rows[offered]
        best = best_rows(part["cv_accuracy"], [part[key] for key in keys])
        picked = part.loc[best].set_index(keys)
        return picked.astype({"macro_f1": float, "toy": bool})

    without = chosen(plain)
    pairs = []
    for offered in offers.values():
        picked = chosen(plain | offered)
        gain = picked.assign(
            value=picked["macro_f1"] - without["macro_f1"],
            changed=(picked["feature"] != without["feature"]).astype(float),
        )
        by_task = gain.groupby(["task", "language"], dropna=False)
        means = by_task[["value", "toy", "changed"]].mean().reset_index()
        pairs.append(means.astype({"toy": bool}))
    claims = [_control_claim(name) for name in offers]
    return dict(zip(offers, judge_pairs(claims, pairs), strict=True))


def effects_by_source(found: Mapping[str, Mapping[str, Finding]]) -> pd.DataFrame:
    """`effect_table` of several sources, with the adjusted p-value and the verdict; of a chooser
    also in how many of its choices, one a task and language, the offer changed what it took."""
    parts = []
    for source, contrasts in found.items():
        told = contrasts.values()
        more = {"p (Holm)": [f.p_holm for f in told], "verdict": verdicts_twice(list(told))}
        if all("changed" in f.pairs for f in told):
            changed = [(f.pairs["changed"] > 0).sum() for f in told]
            more["changed"] = [f"{n} of {len(f.pairs)}" for n, f in zip(changed, told, strict=True)]
        parts.append(effect_table(contrasts, source).assign(**more))
    return pd.concat(parts, ignore_index=True)
