"""The page of all scores: published rows and every bundle's, to filter, sort and download."""

import html
from pathlib import Path

import numpy as np
import pandas as pd

from mosaic.evidence.bundles import bundle_folders, open_bundle
from mosaic.evidence.published import published_scores
from mosaic.publish.latent_browser import inline_code, inline_data
from mosaic.scores.names import SOURCE_LABEL, pooling_name, run_name, series_of
from mosaic.scores.table import F1

N_PLAIN = 50
"""Rows of a page of the table, and all of them that are shown without JavaScript."""

FEATURE_NAMES = {"sae": "SAE latents", "hidden": "hidden state", "tfidf": "TF-IDF"}

WORDS = ("source", "task", "language", "model", "layer", "width", "pooling", "feature", "repeat")


def scores_page(runs: Path) -> str:
    """Markdown with the table in raw HTML: all rows as JSON, the first N_PLAIN also as a table.

    `runs` is the folder of bundles. Raises what reading bundles raises.
    """
    parts = [named_rows(published_scores(), SOURCE_LABEL["published"])]
    titles: dict[str, list[str]] = {SOURCE_LABEL["published"]: ["the authors' own"]}
    seen: set[str] = set()
    for bundle in map(open_bundle, bundle_folders(runs)):
        profile = bundle.manifest.profile
        name = run_name(profile)  # as everywhere: parts of a run share it, a second run does not
        if (bundle.table["feature"] == "sae").any():
            name += f" ({bundle.folder.name})" if profile in seen else ""
            seen.add(profile)
        titles.setdefault(name, []).append(bundle.manifest.title)
        parts.append(named_rows(bundle.table, name))
    said = (html.escape(f"{name}: {'; '.join(its)}") for name, its in titles.items())
    sources = "".join(f"<li>{line}</li>" for line in said)
    table = score_table(pd.concat(parts, ignore_index=True))
    return f"```{{raw}} html\n<ul>{sources}</ul>\n{table}\n```\n"


def named_rows(scores: pd.DataFrame, source: str) -> pd.DataFrame:
    """Scores as the page names them: columns WORDS as text ("" where none applies), and F1.

    `repeat` tells rows apart that are alike otherwise: the seed, how many seeds a mean is over, or
    which of the authors' files of one configuration it is.
    """
    if scores.empty:
        return pd.DataFrame(columns=[*WORDS, *F1])
    task, asked, language = (scores[name] for name in ("task", "label_model", "language"))
    away = scores["train_language"].where((scores["train_language"] != language).fillna(False))
    table = scores.assign(
        source=source,
        pooling=scores.apply(pooling_name, axis=1).where(scores["pooling"].notna()),
        feature=[_feature(row) for _, row in scores.iterrows()],
        task=task.where(asked.isna(), task + " (" + asked + " right?)"),
        language=language.where(away.isna(), away + " → " + language),
        repeat=_repeat(scores, source == SOURCE_LABEL["published"]),
    )
    return table[list(WORDS)].astype("object").fillna("").astype(str).join(table[list(F1)])


def _repeat(scores: pd.DataFrame, published: bool) -> list[str]:
    said = []
    for seed, repeat in zip(scores["seed"], scores["repeat"], strict=True):
        if pd.notna(seed):
            said.append(f"seed {seed}")
        elif pd.notna(repeat):
            said.append(f"file {repeat}" if published else f"mean of {repeat} seeds")
        else:
            said.append("")
    return said


def _feature(row: pd.Series) -> str:
    if row["feature"] == "asked":
        return series_of(row)
    said = FEATURE_NAMES.get(row["feature"], str(row["feature"]).replace("_", " "))
    said += f", top {row['k']}" if pd.notna(row["k"]) else ""
    share, scaling = row["train_fraction"], row["scaling"]
    said += f", {share:.0%} of training" if pd.notna(share) and share < 1 else ""
    said += f", scaling {scaling}" if pd.notna(scaling) and scaling != "auto" else ""
    return said + (", decision tree" if row["probe"] == "tree" else "")


def score_table(rows: pd.DataFrame) -> str:
    """HTML of the table of `named_rows`; texts are escaped."""
    words = {name: pd.factorize(rows[name]) for name in WORDS}
    data = {
        "names": list(WORDS),
        "words": [[str(word) for word in found] for _, found in words.values()],
        "codes": [codes.tolist() for codes, _ in words.values()],
        "f1": [
            [
                None if np.isnan(x) else round(x, 4)
                for x in rows[name].to_numpy(float, na_value=np.nan)
            ]
            for name in F1
        ],
        "page": N_PLAIN,
    }
    head = "".join(f'<th scope="col">{name}</th>' for name in (*WORDS, "macro-F1 [95%]"))
    texts = [[*(row[name] for name in WORDS), _f1(row)] for _, row in rows[:N_PLAIN].iterrows()]
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in line) for line in texts]
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    note = f"The first {min(N_PLAIN, len(rows))} of {len(rows):,} rows; the others need JavaScript."
    return (
        f'<div class="mosaic-scores"><p class="mosaic-count">{note}</p>'
        f'<div class="mosaic-wide" tabindex="0" role="region" aria-label="All scores">'
        f"<table><caption>Test scores; intervals where a row has one</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{inline_data(data)}</div>{inline_code('scores')}"
    )


def _f1(row: pd.Series) -> str:
    value, low, high = (row[name] for name in F1)
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
