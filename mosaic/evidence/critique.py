"""Points of critique of the original, each with how it ends here and the numbers behind it.

The points are data (`assets/critique.yaml`); `critique_numbers` computes every number they name.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mosaic import ASSETS
from mosaic.config.choices import PROTOCOLS
from mosaic.errors import IntegrityError
from mosaic.evidence.claims import Finding
from mosaic.evidence.comparisons import native_tfidf
from mosaic.evidence.contrasts import (
    COUNTS_BINARIZED,
    SUMS_BINARIZED,
    by_binarization,
    hidden_pairs,
)
from mosaic.evidence.noise import files_agree, rerun_differences, rerun_probes, within_noise
from mosaic.evidence.published import best_on_test

CRITIQUE = ASSETS / "critique.yaml"

ENDS = ("measured here", "shown in the published scores", "not testable here")


def load_critique(path: Path = CRITIQUE) -> list[dict[str, Any]]:
    """The points in order: id, point, ends, result and, where there is a figure, see."""
    points = yaml.safe_load(path.read_text(encoding="utf-8"))
    for point in points:
        if point["ends"] not in ENDS:
            raise IntegrityError(
                f"{path}: point {point['id']} ends as {point['ends']!r}; use one of {ENDS}."
            )
    return points


def critique_table(numbers: dict[str, Any]) -> pd.DataFrame:
    """The points as a table with their numbers filled in; columns id, point, ends, result."""
    return pd.DataFrame(
        {
            "no.": point["id"],
            "point": point["point"].format(**numbers),
            "ends": point["ends"],
            "result": point["result"].format(**numbers),
            "see": point.get("see"),
        }
        for point in load_critique()
    )


def critique_numbers(
    scores: pd.DataFrame,
    findings: dict[str, Finding],
    spread: pd.DataFrame,
    choices: pd.DataFrame,
    conditions: pd.DataFrame,
    contributed: pd.DataFrame,
    run: pd.DataFrame,
    profile: str,
    slips: dict[str, Any],
) -> dict[str, Any]:
    """Every number the points name.

    `scores` are the published ones, `findings` what they say of the claims by key, `spread` and
    `choices` their noise and optimism, `conditions` the run's table of confounds; `contributed` and
    `run` the scores of the bundles and of the run's other chapters, either of which may be empty;
    `slips` are the numbers of `experiments.stand_ins`.
    """
    known = spread[spread["n_test"].notna()]
    inside, of = within_noise(spread, hidden_pairs(findings))
    linear = scores[(scores["probe"] == "linear") & scores["feature"].isin(["sae", "hidden"])]
    measured = choices[choices["n_test"].notna()]
    effect = by_binarization(linear[linear["feature"] == "sae"])
    tfidf = scores[(scores["feature"] == "tfidf") & (scores["task"] == "toxicity")]
    gaps = findings["above-tfidf"].pairs.groupby("task")["value"].mean()
    behaviour = findings["behaviour-above-hidden"].pairs
    pubmedqa = behaviour["task"] == "pubmedqa"
    mean = conditions.groupby(["claim", "condition"])["difference"].mean()
    sae, binarized = mean["SAE minus hidden state"], mean["binarized minus raw sums"]
    towers = run.loc[run["feature"] == "vision_tower", "macro_f1"]
    tuned = mean.get("SAE of tuned minus of base")
    languages = {
        f"{task}_{feature}": _best_language(linear, task, feature)
        for task in ("sentiment", "toxicity")
        for feature in ("sae", "hidden")
    }
    agree = [languages[f"{t}_sae"] == languages[f"{t}_hidden"] for t in ("sentiment", "toxicity")]
    return {
        "profile": profile,
        **slips,
        "max_cells": int(choices["n_cells"].max()),
        "gain_published": measured["difference"].mean(),
        "gain_sets": len(measured),
        "gain_expected": measured["gain_high"].mean(),
        "small_sets": int((known["n_test"] < 200).sum()),
        "known_sets": len(known),
        "needed_53": float(known.loc[known["n_test"] == 53, "needed"].iloc[0]),
        "stance_sd": _of(spread, "stance")["sd_run"],
        "toxicity_en_sd": _of(spread, "toxicity", "en")["sd_run"],
        "within": inside,
        "within_of": of,
        "within_expected": round(0.95 * of),
        **files_agree(rerun_differences(rerun_probes(scores))),
        "accuracy_gap": float((linear["accuracy"] - linear["macro_f1"]).mean()),
        **languages,
        "same_languages": {2: "in both", 1: "in one of the two", 0: "in neither"}[sum(agree)],
        "sae_last": sae["paper's pooling: sum > 1, last token"],
        "sae_raw": sae["same, not binarized: raw sum, last token"],
        "sae_mean": sae["both all tokens: raw sum, mean"],
        "sae_max": sae["both maximum over tokens"],
        "both_last": sae["both last token"],
        "bos_keep": sae["same, BOS kept"],
        "binarized_scaled": binarized["scaled"],
        "binarized_unscaled": binarized["not scaled"],
        "binarized_published": effect[SUMS_BINARIZED].effect,
        "binarized_counts": effect[COUNTS_BINARIZED].effect,
        "tfidf_zh": float(tfidf.loc[tfidf["language"] == "zh", "macro_f1"].iloc[0]),
        "tfidf_nested": _tfidf_nested(contributed),
        "tower": (
            f"{towers.mean():.3f}" if len(towers) else "no score, as that chapter has not run here"
        ),
        "tfidf_gaps": ", ".join(f"{task} {gap:+.3f}" for task, gap in gaps.items()),
        "pubmedqa_gap": behaviour.loc[pubmedqa, "value"].mean(),
        "other_behaviour_gap": behaviour.loc[~pubmedqa, "value"].mean(),
        "hidden_share": float((linear["feature"] == "hidden").mean()),
        "tuned_saes": (
            "an amount this profile cannot show"
            if tuned is None
            else ", ".join(f"{value:+.3f} ({name})" for name, value in tuned.items())
        ),
    }


def _of(spread: pd.DataFrame, task: str, language: str | None = None) -> pd.Series:
    rows = spread[spread["task"] == task]
    return (rows if language is None else rows[rows["language"] == language]).iloc[0]


def _best_language(linear: pd.DataFrame, task: str, feature: str) -> str:
    rows = best_on_test(linear[(linear["task"] == task) & (linear["feature"] == feature)])
    return str(rows.loc[rows["macro_f1"].idxmax(), "language"])


def _tfidf_nested(contributed: pd.DataFrame) -> str:
    """Nested minus published TF-IDF on the sentiment set, mean over its languages but English."""
    rows = native_tfidf(contributed)
    rows = rows[rows["task"].eq("sentiment") & rows["language"].ne("en")]
    by = rows.groupby(["language", "protocol"])["macro_f1"].mean().unstack("protocol")
    gaps = by.reindex(columns=list(PROTOCOLS)).dropna()
    if gaps.empty:
        return "an amount that no shipped run here shows"
    difference = (gaps["nested"] - gaps["published"]).astype(float)
    return (
        f"{difference.mean():+.3f} (mean of {len(gaps)} languages, {int((difference > 0).sum())} "
        f"of them better; each protocol on test parts of its own)"
    )
