"""Images made fit for a vision tower: converted to RGB, or refused with a sentence (ours)."""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from PIL import ImageOps
from PIL.Image import Image

from mosaic.errors import IntegrityError

if TYPE_CHECKING:
    from datasets import Dataset

MAX_PIXELS = 100_000_000
"""More than any photograph has; beyond it a small file can fill the memory."""

MAX_SIDE = 1024
"""Longest side that is kept: towers take 224 to 448 pixels, and a task's images stay in memory."""

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What PIL's decoders raise on damaged files."""


def read_images(table: Dataset, field: str, where: str) -> list[Image]:
    """The images of a column, decoded. Raises IntegrityError, naming the row that is no image."""
    from datasets import Image as ImageFeature

    if not isinstance(table.features[field], ImageFeature):
        raise IntegrityError(
            f"{where}: field {field!r} holds {table.features[field]!r} where images were expected. "
            f"Correct `input_field` or `modality` of the task."
        )
    # `datasets` would decode by itself, and stop at a damaged image with PIL's own message.
    encoded = table.cast_column(field, ImageFeature(decode=False))[field]
    missing = {"bytes": b"", "path": None}
    return [decode(cell or missing, f"{where}, row {row}") for row, cell in enumerate(encoded)]


def decode(cell: dict[str, Any], where: str) -> Image:
    """One encoded image, upright, at most MAX_SIDE pixels long. Raises IntegrityError."""
    source: Any = cell["path"] if cell["bytes"] is None else io.BytesIO(cell["bytes"])
    image: Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(source)
            if image.width * image.height > MAX_PIXELS:
                raise IntegrityError(
                    f"{where}: the image has {image.width} x {image.height} pixels, more than "
                    f"{MAX_PIXELS:,}; shrink it, or leave the row out."
                )
            image.load()
    except (*UNREADABLE, PIL.Image.DecompressionBombError) as error:
        raise IntegrityError(
            f"{where}: this is not a readable image ({error}). Fetch the dataset again, or leave "
            f"the row out."
        ) from error
    image = ImageOps.exif_transpose(image)
    if max(image.size) > MAX_SIDE:
        image = to_rgb(image, where)  # some modes cannot be resized
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image


def to_rgb(image: Image, where: str) -> Image:
    """8-bit RGB: grey is repeated, transparency lies on white, 16-bit grey loses its low byte.

    Raises IntegrityError for pixels that are numbers without a known scale.
    """
    if image.mode.startswith("I;16"):
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise IntegrityError(
            f"{where}: the image holds numbers without a scale (mode {image.mode!r}); save it with "
            f"8 or 16 bits per pixel."
        )
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        white = PIL.Image.new("RGBA", over.size, "white")
        image = PIL.Image.alpha_composite(white, over)
    return image.convert("RGB")
