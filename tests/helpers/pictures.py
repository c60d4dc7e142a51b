"""Random pictures, and the processor that a random vision-language model reads them with."""

from __future__ import annotations

import numpy as np
import PIL.Image
import transformers


def picture(seed: int, size: tuple[int, int] = (20, 30), mode: str = "RGB") -> PIL.Image.Image:
    """A random picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def add_processor(folder: str, size: int) -> None:
    side = {"height": size, "width": size}
    processor = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(
        size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.save_pretrained(folder)
