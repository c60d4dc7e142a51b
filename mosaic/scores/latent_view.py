"""What a page shows of a probe's latents, as data: written by a run, checked in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

LATENTS_FILE = "latents.json"

MOST_LATENTS, TEXTS_SHOWN, MOST_CHARACTERS = 20, 6, 500
"""Of a view, of a list of texts, and of a text (ours)."""

Name = Annotated[str, Field(max_length=200)]

ShownTexts = Annotated[list["ShownText"], Field(max_length=TEXTS_SHOWN)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ShownText(_Strict):
    """One text, cut where the latent's activation changes."""

    label: Name
    value: float
    """The latent's sum over the text's tokens, in units of the residual stream."""
    pieces: Annotated[list[tuple[str, float]], Field(max_length=MOST_CHARACTERS + 2)]
    """Slices of the source text with their activation, in order; together they are the text."""

    @model_validator(mode="after")
    def _is_short(self) -> ShownText:
        if sum(len(text) for text, _ in self.pieces) > MOST_CHARACTERS + 2:
            raise ValueError(f"a shown text has more than {MOST_CHARACTERS} characters")
        return self


class Weight(_Strict):
    """What a latent is worth to the probe for one class; see `latents.top_latents`."""

    label: Name
    weight: float
    effect: float


class ShownLatent(_Strict):
    """One latent."""

    latent: int
    weights: Annotated[list[Weight], Field(min_length=1, max_length=MOST_LATENTS)]
    edges: Annotated[list[float], Field(max_length=41)]
    """Edges of the histogram of sums that are not zero."""
    inside: Annotated[list[int], Field(max_length=40)]
    """Documents a bin, of the class of the first weight."""
    elsewhere: Annotated[list[int], Field(max_length=40)]
    promotes: Annotated[list[Name], Field(max_length=20)]
    """Tokens whose logits the decoder direction raises most; none without an unembedding."""
    page: Annotated[str, Field(pattern=r"^https://www\.neuronpedia\.org/[\w./-]+$")] | None
    explanation: Annotated[str, Field(max_length=1000)] | None
    strongest: ShownTexts
    random: ShownTexts
    """Drawn from the documents the latent is active on, without the strongest."""

    @model_validator(mode="after")
    def _bars_fit(self) -> ShownLatent:
        if not len(self.inside) == len(self.elsewhere) == max(0, len(self.edges) - 1):
            raise ValueError("a histogram has one more edges than bars")
        return self


class LatentView(_Strict):
    """The latents of one probe, and where their texts come from."""

    task: Name
    dataset: Name
    licence: Name
    role: Name
    toy: bool
    model: Name
    layer: int
    width: Name
    documents: int
    latents: Annotated[list[ShownLatent], Field(min_length=1, max_length=MOST_LATENTS)]

    def save(self, folder: Path) -> Path:
        """Write `latents.json` into the folder; returns its path."""
        path = folder / LATENTS_FILE
        path.write_text(self.model_dump_json(), encoding="utf-8")
        return path
