"""Latents to look into: the texts they fire on, their histogram, and the tokens they promote."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.config.workspace import Workspace
from mosaic.experiments.latents import (
    Reading,
    TokenActivations,
    read_cell,
    strongest_documents,
    token_activations,
    top_latents,
)
from mosaic.experiments.own_data import Prediction
from mosaic.models.language_model import load_weights, truncated
from mosaic.models.resolve import resolve
from mosaic.models.saes import sae_files
from mosaic.probes.saved import SavedProbe
from mosaic.scores.latent_view import (
    MOST_CHARACTERS,
    MOST_LATENTS,
    TEXTS_SHOWN,
    LatentView,
    ShownLatent,
    ShownText,
    Weight,
)
from mosaic.sweep.cells import Cell

HISTOGRAM_BINS, N_PROMOTED = 20, 10


def browse_latents(
    reading: Reading, top: pd.DataFrame, model: ModelSpec, layer: int, width: str, profile: Profile
) -> LatentView:
    """What `publish.latent_browser` draws of the latents of `top`, read in one pass.

    `top` is what `latents.deciding_latents` returns, with the columns of
    `neuronpedia.latent_pages`. Texts are drawn from all documents of the task. Raises what loading
    model and SAE raises.
    """
    data, sae = reading.data, model.sae(layer, width)
    latents = [int(latent) for latent in top["latent"].unique()[:MOST_LATENTS]]
    chosen = {latent: _documents_of(reading, latent) for latent in latents}
    rows = sorted({int(row) for lists in chosen.values() for some in lists for row in some})
    texts = [data.inputs[row] for row in rows]
    read = dict(zip(rows, token_activations(model, texts, layer, width, profile), strict=True))
    promoted = promoted_tokens(model, sae, latents, profile)

    def shown(latent: int, some: np.ndarray) -> list[ShownText]:
        values = reading.raw[:, [latent]]
        return [
            ShownText(
                label=data.label_names[data.labels[row]],
                value=_digits(values[row, 0]),
                pieces=_window(cut_at_activations(read[int(row)], latent)),
            )
            for row in some
        ]

    found = []
    for latent in latents:
        own = top[top["latent"] == latent]
        weights = [
            Weight(label=data.label_names[c], weight=_digits(w), effect=_digits(e))
            for c, w, e in zip(own["class"], own["weight"], own["effect"], strict=True)
        ]
        values = np.asarray(reading.raw[:, [latent]].todense()).ravel()
        inside, edges = data.labels == own["class"].iloc[0], np.zeros(0)
        if (values != 0).any():
            edges = np.histogram_bin_edges(values[values != 0], HISTOGRAM_BINS)
        parts = [values[(values != 0) & part] for part in (inside, ~inside)]
        counts = [np.histogram(part, edges)[0].tolist() if len(edges) else [] for part in parts]
        page, explanation = own[["page", "explanation"]].iloc[0]
        found.append(
            ShownLatent(
                latent=latent,
                weights=weights,
                edges=[_digits(edge) for edge in edges],
                inside=counts[0],
                elsewhere=counts[1],
                promotes=promoted.get(latent, []),
                page=page,
                explanation=explanation,
                strongest=shown(latent, chosen[latent][0]),
                random=shown(latent, chosen[latent][1]),
            )
        )
    place = Path(data.task.dataset)  # where a file lies is of one machine
    dataset = place.name if place.is_absolute() else data.task.dataset
    about = {"task": data.task.key, "dataset": dataset, "licence": data.task.licence}
    return LatentView(
        **about,
        role=data.task.role,
        toy=data.task.toy or model.toy,
        model=model.name,
        layer=layer,
        width=width,
        documents=len(data),
        latents=found,
    )


def read_reasons(
    saved: SavedProbe, predictions: Sequence[Prediction], workspace: Workspace
) -> tuple[Reading, pd.DataFrame]:
    """The texts that a probe was made of, read again, and the latents that predictions name.

    The second has the columns of `latents.top_latents`, largest effect first, for at most
    MOST_LATENTS latents; where they name none, of those that move the probe most. Raises what
    `latents.read_cell` raises.
    """
    row = saved.card["score"]
    names = ("model", "layer", "width", "pooling", "top_n", "threshold", "seed")
    cell = Cell(saved.card["task"]["key"], "sae", **{name: row[name] for name in names})
    reading = read_cell(cell, workspace)
    named = sorted({evidence.latent for p in predictions for evidence in p.evidence})
    labels, rows = reading.data.labels, len(named) * len(reading.data.label_names)
    top = top_latents(reading.outcome.probe, reading.X, labels, rows or MOST_LATENTS, named)
    kept = top["latent"].unique()[:MOST_LATENTS]
    return reading, top[top["latent"].isin(kept)].reset_index(drop=True)


def _documents_of(reading: Reading, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """The strongest documents of a latent, and others it is active on, drawn at random."""
    strongest = strongest_documents(reading.raw, latent, TEXTS_SHOWN)
    active = np.unique(reading.raw[:, [latent]].tocoo().coords[0])
    others = np.setdiff1d(active, strongest)
    rng = np.random.default_rng(latent)  # of its own, so that no other latent's choice moves it
    return strongest, rng.permutation(others)[:TEXTS_SHOWN]


def cut_at_activations(document: TokenActivations, latent: int) -> list[tuple[str, float]]:
    """The text cut where a latent's activation changes; together the pieces are the text.

    Tokens that hold bytes of one character are one piece, with the largest of their activations.
    """
    values = np.asarray(document.values[:, [latent]].todense()).ravel()
    marks: list[tuple[int, int, float]] = []
    for (start, end), value in zip(document.spans.tolist(), values.tolist(), strict=True):
        if value > 0 and end > start:
            if marks and start < marks[-1][1]:
                first, last, most = marks.pop()
                start, end, value = first, max(last, end), max(most, value)
            marks.append((start, end, value))
    pieces, at = [], 0
    for start, end, value in marks:
        pieces += [(document.text[at:start], 0.0)] if start > at else []
        pieces.append((document.text[start:end], _digits(value)))
        at = end
    return pieces + ([(document.text[at:], 0.0)] if at < len(document.text) else [])


def _window(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """At most MOST_CHARACTERS of a text, around its strongest piece; `…` where it was cut."""
    ends = np.cumsum([len(text) for text, _ in pieces])
    if not len(ends) or ends[-1] <= MOST_CHARACTERS:
        return pieces
    strongest = int(np.argmax([value for _, value in pieces]))
    middle = int(ends[strongest]) - len(pieces[strongest][0])
    first = min(max(0, middle - MOST_CHARACTERS // 2), int(ends[-1]) - MOST_CHARACTERS)
    last = first + MOST_CHARACTERS
    kept = [("…", 0.0)] if first else []
    for (text, value), end in zip(pieces, ends.tolist(), strict=True):
        start = end - len(text)
        if part := text[max(0, first - start) : max(0, last - start)]:
            kept.append((part, value))
    return kept + ([("…", 0.0)] if last < ends[-1] else [])


def promoted_tokens(
    model: ModelSpec, sae: SAESpec, latents: Sequence[int], profile: Profile, k: int = N_PROMOTED
) -> dict[int, list[str]]:
    """The k tokens whose logits each latent's decoder direction raises most, strongest first.

    The direction goes through the model's final norm and unembedding alone, as in the logit lens
    (nostalgebraist 2020); blocks in between are passed over. Empty for models that are no causal
    language models, and for SAEs whose file names no W_dec. Raises what loading raises.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = resolve(model, profile)
    directions = _decoder(sae, latents)
    kind = (found.config.architectures or [""])[0]
    if directions is None or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return {}
    whole = load_weights(AutoModelForCausalLM, found, truncated(found.config, 1))
    parts = [(m, getattr(m, "weight", None)) for m in whole.base_model.children()]
    norms = [module for module, weight in parts if weight is not None and weight.dim() == 1]
    norm, head = (norms or [torch.nn.Identity()])[-1], whole.get_output_embeddings()
    directions = directions.to(whole.device, head.weight.dtype)
    with torch.inference_mode():
        # What a bias adds belongs to no latent.
        logits = head(norm(directions)) - head(norm(torch.zeros_like(directions)))

    def decode(token: int) -> str:
        return str(found.tokenizer.decode([token]))

    best = logits.float().topk(k).indices.tolist()
    return {n: [decode(i) for i in ids] for n, ids in zip(latents, best, strict=True)}


def _decoder(sae: SAESpec, latents: Sequence[int]) -> torch.Tensor | None:
    """Rows of W_dec `[n_latents, d_model]`; None where no file of the SAE has it."""
    for file in sae_files(sae)[1]:
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                return torch.from_numpy(arrays["W_dec"][list(latents)])
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (it is no mapping)
                    if name.lower() == "w_dec":
                        return tensors.get_tensor(name)[list(latents)]
    return None


def _digits(number: float) -> float:
    return float(f"{number:.4g}")
