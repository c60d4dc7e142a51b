"""What sources, tasks, features and poolings are called in figures, tables and prose."""

import pandas as pd

from mosaic.config.choices import CONTROLS, HIDDEN_JOINED

SOURCE_LABEL = {"published": "published scores", "run": "this run", "bundle": "a shipped run"}

RUNS = {
    "encoder": "MiniLM",
    "gemma-local": "Gemma",
    "gemma-widths": "Gemma",
    "gemma": "Gemma Scope",
}
"""What the run of a profile is called by its model; another is called by its profile. Profiles of
one name are parts of one run."""

COMPARED_WITH = {
    "hidden state, mean": "the mean hidden state",
    "hidden state, last token": "the last token's hidden state",
    "TF-IDF": "TF-IDF",
}

HIDDEN_SERIES = ("hidden state, last token", "hidden state, mean")

ASKED_SERIES = ("model asked, zero-shot", "model asked, few-shot")

UNTRAINED = "SAE, untrained connector"


def counted(n: int, one: str, several: str = "") -> str:
    """`1 task`, `2 tasks`; `several` is said where the plural is not `one` with an s."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def series_of(row: pd.Series) -> str:
    """Name of the series a score row belongs to in a comparison of feature types."""
    if row["feature"] == "hidden":
        last, mean = HIDDEN_SERIES
        others = {"mean": mean, "max": "hidden state, max", HIDDEN_JOINED: "hidden state, mean+max"}
        return others.get(row["pooling"], last)
    if row["feature"] == "asked":
        return ASKED_SERIES[0] if row["n_train"] == 0 else ASKED_SERIES[1]
    if row["feature"] == "control":
        return CONTROLS[row["width"].split()[-1]]
    names = {"sae": "SAE latents", "tfidf": "TF-IDF", "length": "prompt length"}
    return names.get(row["feature"], str(row["feature"]).replace("_", " "))


def pooling_name(row: pd.Series) -> str:
    """`sum`, `top-20`, with `> 1` where binarized."""
    kind = f"top-{row['top_n']:g}" if pd.notna(row["top_n"]) else str(row["pooling"])
    return kind if pd.isna(row["threshold"]) else f"{kind} > {row['threshold']:g}"


def what_is_read(row: pd.Series) -> str:
    """What a probe reads in a few words: `SAE 4k, sum > 1`, `hidden state, mean`, `TF-IDF`."""
    if row["feature"] != "sae":
        return series_of(row)
    kept = f", top {int(row['k'])}" if pd.notna(row["k"]) else ""
    width = f" {row['width']}" if pd.notna(row["width"]) else ""
    return f"SAE{width}, {pooling_name(row)}{kept}"


def source_label(table: pd.DataFrame) -> str:
    """Where a table's scores come from, as a panel title; a table has one source."""
    source, profile = str(table["source"].iloc[0]), table["profile"].dropna()
    if profile.empty:
        return SOURCE_LABEL[source]
    name = str(profile.iloc[0])
    return run_name(name) if source == "bundle" else f"{SOURCE_LABEL[source]}, profile {name}"


def run_name(profile: str) -> str:
    """`MiniLM run`, `Gemma run`: what readers call the shipped run of a profile."""
    return f"{RUNS.get(profile, profile)} run"


def in_source(table: pd.DataFrame) -> str:
    """`In the published scores`, `In this run of toys, profile mini`: the start of a sentence."""
    label = source_label(table)
    if label.startswith("this") and table["toy"].all():
        label = label.replace("this run", "this run of toys")
    return f"In {label}" if label.startswith(("this", "a ")) else f"In the {label}"


def task_label(row: pd.Series) -> str:
    """A task as a reader sees it: `toxicity (de)`, `pubmedqa (gemma-2-9b right?)`."""
    if pd.notna(row["label_model"]):
        return f"{row['task']} ({row['label_model']} right?)"
    return str(row["task"]) if pd.isna(row["language"]) else f"{row['task']} ({row['language']})"


FEATURE_SETS = (
    "all latents, sum > 1",
    "top-k latents, sum > 1",
    "all latents, last token",
    "hidden state, last token",
    "hidden state, mean",
    "TF-IDF",
)


def feature_set(row: pd.Series) -> str:
    """What a probe reads, as one of `FEATURE_SETS`."""
    if row["feature"] == "sae":
        kept = "all" if row["selection"] == "all" else "top-k"
        limit = "" if pd.isna(row["threshold"]) else f" > {row['threshold']:g}"
        return (
            f"{kept} latents, {'last token' if row['pooling'] == 'last' else row['pooling']}{limit}"
        )
    return series_of(row)
