"""How predictions are written: table, CSV or JSON lines."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pandas as pd

from mosaic.experiments.own_data import Prediction

TEXT_WIDTH = 72
"""Characters of a text shown in the table."""

ESCAPES = re.compile(
    r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # window titles, links
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\x1b[ -~]"
)

CONTROL_CHARACTERS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+"
)
"""Control characters, line separators, and marks that turn the direction of writing."""


def printable(text: str) -> str:
    """The text on one line and without anything that steers a terminal."""
    return CONTROL_CHARACTERS.sub(" ", ESCAPES.sub("", text))


def prediction_lines(predictions: Sequence[Prediction], kind: str) -> Iterator[str]:
    """The predictions in one of `PREDICTION_FORMATS`; the first line of a CSV is its header."""
    return {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind](predictions)


def because(prediction: Prediction) -> str:
    """The evidence as one text: `17 +0.52 (pest, gone); 4 -0.10 (thank)`."""
    return "; ".join(
        f"{e.latent} {e.contribution:+.2f} ({', '.join(e.tokens)})" for e in prediction.evidence
    )


def prediction_table(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row per text: text, answer, a probability per class (`p_<class>`), latents."""
    rows = []
    for p in predictions:
        shares = {f"p_{name}": share for name, share in p.probabilities.items()}
        rows.append({"text": p.text, "answer": p.answer, **shares, "latents": because(p)})
    return pd.DataFrame(rows)


def _table(predictions: Sequence[Prediction]) -> Iterator[str]:
    width = max((len(printable(p.answer)) for p in predictions), default=0)
    for prediction in predictions:
        text = printable(prediction.text)
        shown = text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"
        probability = prediction.probabilities[prediction.answer]
        yield f"{printable(prediction.answer):{width}}  {probability:.2f}  {shown}"
        for evidence in prediction.evidence:
            tokens = printable(", ".join(evidence.tokens))
            why = f"{evidence.contribution:+.2f} latent {evidence.latent}: {tokens}"
            yield f"{'':{width}}        {why}"


def _csv(predictions: Sequence[Prediction]) -> Iterator[str]:
    table = prediction_table(predictions)
    # A carriage return would end a row; pandas puts it between quotes only where it puts all.
    returns = any("\r" in cell for name in ("text", "answer", "latents") for cell in table[name])
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    written = table.to_csv(index=False, float_format="%.4f", quoting=quoting)
    yield from written.rstrip("\n").split("\n")


def _jsonl(predictions: Sequence[Prediction]) -> Iterator[str]:
    for p in predictions:
        row = {"text": p.text, "answer": p.answer, "probabilities": p.probabilities}
        latents = [{**asdict(e), "contribution": e.contribution} for e in p.evidence]
        yield json.dumps({**row, "latents": latents}, ensure_ascii=False)
