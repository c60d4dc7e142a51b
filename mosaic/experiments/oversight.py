"""What answers alone say about who will be right: baselines of oversight without a probe (ours)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from scipy.stats import rankdata

from mosaic.data.load import TaskData
from mosaic.scores.intervals import bootstrap_interval
from mosaic.sweep.results import ScoredCell

ANSWER_BASELINES = {
    "margin": "margin of its best option",
    "mass": "probability of all options",
    "right": "whether it is right itself",
}
"""The last needs the right answers, so it is no oversight: it says how far the two err together."""


def margin_and_mass(scores: np.ndarray) -> tuple[float, float]:
    """Of one question's option log-probabilities `[n_options]`: the best minus the second, and the
    logarithm of their summed probability. Not a number where there are not two options."""
    if len(scores) < 2:
        return float("nan"), float("nan")
    second, best = np.sort(scores)[-2:]
    return float(best - second), float(logsumexp(scores))


def answer_baselines(
    labelled: Mapping[str, TaskData], results: Iterable[ScoredCell], sizes: Mapping[str, int]
) -> pd.DataFrame:
    """AUC of "right" from a model's own answers, on the test questions of the probes.

    One row per label set, model and baseline: of the model that is judged, and of every smaller one
    (`sizes`, as `behaviour.model_sizes` gives them) that was asked the same questions.
    """
    tested = {r.cell.task: r for r in reversed(list(results)) if r.cell.seed == 0}
    rows = []
    for key, probe in tested.items():
        judged = labelled[key].task
        for asked in labelled.values():
            model = str(asked.task.label_model)
            own = model == judged.label_model
            smaller = sizes[model] < sizes[str(judged.label_model)]
            if asked.task.name != judged.name or not (own or smaller):
                continue
            says = {**asked.annotations, "right": asked.labels}
            for what, name in ANSWER_BASELINES.items():
                known = says.get(what)
                if known is None or not np.isfinite(known).all() or (own and what == "right"):
                    continue
                of_question = dict(zip(asked.ids.tolist(), np.asarray(known), strict=True))
                rank = rankdata([of_question[i] for i in probe.ids]) / len(probe.ids)
                outcome = replace(probe, probabilities=np.stack([1 - rank, rank], axis=1))
                span = bootstrap_interval(outcome, metric="auc")
                who = {"task": judged.name, "label_model": judged.label_model, "model": model}
                auc = {"auc": span.value, "auc_low": span.low, "auc_high": span.high}
                rows.append({**who, "baseline": name, **auc})
    return pd.DataFrame(rows)
