"""From the inputs of a task to batches: what a model is given, and which positions are pooled.

A reader turns the inputs of a shard into `Documents`; extraction asks nothing else of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL.Image import Image

from mosaic.config.profiles import Profile
from mosaic.data.images import to_rgb
from mosaic.errors import ConfigError
from mosaic.models.batches import Batch, Documents
from mosaic.models.hub import fitting, reachable
from mosaic.models.language_model import positions
from mosaic.models.resolve import ResolvedModel

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase


class Reader(Protocol):
    """What extraction asks of the inputs of a task, texts or images."""

    @property
    def identity(self) -> dict[str, Any]: ...
    def read(self, inputs: list[Any]) -> Documents: ...


@dataclass(frozen=True, eq=False)
class TextReader:
    """Texts through a tokenizer, as they are: no prompt and no chat template (protocol §2)."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    bos: str
    cut: str = "right"
    """Side at which a text longer than `max_length` loses tokens: what a prompt asks is at its end,
    so prompts are cut on the left."""
    n_embeddings: int | None = None
    """Tokens the model has an embedding for; a tokenizer may have been given more."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the model and the texts."""
        side = {} if self.cut == "right" else {"cut": self.cut}
        read = {"inputs": "text", "max_length": self.max_length, "bos": self.bos}
        return {**read, "template": None, **side}

    def _encode(self, texts: list[Any], max_length: int) -> Any:
        self.tokenizer.truncation_side = self.cut
        with fitting(self.tokenizer.name_or_path, "tokenizer"):
            return self.tokenizer(
                texts, truncation=True, max_length=max_length, return_special_tokens_mask=True
            )

    def read(self, inputs: list[Any]) -> Documents:
        """Tokenize; padding is on the right, where causal models cannot see it.

        Raises ConfigError for a token without an embedding.
        """
        encoded = self._encode(inputs, self.max_length + 1)  # one more shows what is too long
        cut = np.asarray([len(row) > self.max_length for row in encoded["input_ids"]], dtype=bool)
        if cut.any():
            shorter = self._encode([inputs[row] for row in np.flatnonzero(cut)], self.max_length)
            for name in ("input_ids", "special_tokens_mask"):
                for row, values in zip(np.flatnonzero(cut), shorter[name], strict=True):
                    encoded[name][row] = values
        ids = [np.asarray(row, dtype=np.int64) for row in encoded["input_ids"]]
        special = [np.asarray(row, dtype=bool) for row in encoded["special_tokens_mask"]]
        keep = [~row | (self.bos == "keep") for row in special]
        known = self.n_embeddings or len(self.tokenizer)
        for tokens in ids:
            if (strange := tokens[tokens >= known]).size:
                token = self.tokenizer.convert_ids_to_tokens(int(strange[0]))
                raise ConfigError(
                    f"A text holds the token {token!r}, number {strange[0]} of the tokenizer, and "
                    f"the model has embeddings for {known}: it never learnt that token. Take the "
                    f"tokenizer of the model itself, or the model that was trained with it."
                )
        pad = self.tokenizer.pad_token_id or 0
        pad = pad if pad < known else 0  # masked, whatever it is

        def collate(rows: np.ndarray) -> Batch:
            width = max(len(ids[row]) for row in rows)
            input_ids = np.full((len(rows), width), pad, dtype=np.int64)
            attention = np.zeros((len(rows), width), dtype=np.int64)
            kept = np.zeros((len(rows), width), dtype=bool)
            for i, row in enumerate(rows):
                size = len(ids[row])
                input_ids[i, :size], attention[i, :size] = ids[row], 1
                kept[i, :size] = keep[row]
            return Batch({"input_ids": input_ids, "attention_mask": attention}, kept)

        return Documents(
            lengths=np.asarray([len(row) for row in ids], dtype=np.int64),
            n_tokens=np.asarray([row.sum() for row in keep], dtype=np.int64),
            cut=cut,
            collate=collate,
        )


def text_reader(model: ResolvedModel, profile: Profile, cut: str = "right") -> TextReader:
    """The reader of a profile; a model that takes fewer positions than it sets the limit.

    `cut` is the side where long texts lose tokens; on either side the documents say which did.
    """
    tokenizer = model.tokenizer
    limit = min(
        profile.max_length,
        tokenizer.model_max_length,
        positions(model.config) or profile.max_length,
    )
    if limit <= tokenizer.num_special_tokens_to_add():
        raise ConfigError(
            f"{model.spec.name!r} reads {limit} tokens of a text, which leaves no room beside "
            f"special tokens: raise `max_length` in the profile, model_max_length of its "
            f"tokenizer or its positions, whichever is that low."
        )
    known = model.config.get_text_config().vocab_size
    return TextReader(tokenizer, limit, profile.bos, cut, known)


@dataclass(frozen=True)
class ImageLayout:
    """How a model lays an image out as tokens, read off its configuration."""

    n_tokens: int
    """Image tokens; they stand in front of everything else."""
    token_id: int
    size: int
    """Pixels of a side."""
    marks: tuple[int, ...] = ()
    """Tokens that open and close an image (Gemma 3); PaliGemma has none."""


def image_layout(config: PretrainedConfig) -> ImageLayout:
    """One token per patch: 256 at 224 pixels and 1,024 at 448, with patches of 14 (protocol §11),
    unless the model says how many it makes of them: Gemma 3 makes 256 of 4,096.

    Raises ConfigError for a model that is not laid out so.
    """
    vision = getattr(config, "vision_config", None)
    token_id = getattr(config, "image_token_id", None)
    size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if not (isinstance(size, int) and isinstance(patch, int) and isinstance(token_id, int)):
        raise ConfigError(
            f"A model of type {config.model_type!r} does not say how it lays out images (it needs "
            f"image_token_id, and image_size and patch_size of its vision_config, as PaliGemma "
            f"has); choose another model for image tasks."
        )
    n_tokens = getattr(config, "mm_tokens_per_image", None) or (size // patch) ** 2
    marks = (getattr(config, f"{mark}_token_index", None) for mark in ("boi", "eoi"))
    around = tuple(mark for mark in marks if isinstance(mark, int))
    return ImageLayout(n_tokens, token_id, size, around if len(around) == 2 else ())


@dataclass(frozen=True, eq=False)
class ImageReader:
    """Images in front of an empty prompt; only the image tokens are pooled (protocol §11)."""

    layout: ImageLayout
    processor: BaseImageProcessor
    after: tuple[int, ...]
    """Tokens behind the image: BOS and the newline that ends PaliGemma's prompt."""
    before: tuple[int, ...] = ()
    """Tokens in front of the image: BOS and what opens an image (Gemma 3)."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers besides the model and the images."""
        settings = json.dumps(self.processor.to_dict(), sort_keys=True, default=str)
        return {
            "inputs": "image",
            "n_image_tokens": self.layout.n_tokens,
            "after": list(self.after),
            **({"before": list(self.before)} if self.before else {}),
            "processor": hashlib.sha256(settings.encode()).hexdigest(),
        }

    def read(self, inputs: list[Any]) -> Documents:
        """Every image takes the same number of positions, so there is no padding."""
        n_image = self.layout.n_tokens
        image = [self.layout.token_id] * n_image
        ids = np.asarray([*self.before, *image, *self.after], dtype=np.int64)
        # PaliGemma sees all of a prompt (0) in both directions, Gemma 3 only its images (1).
        kinds = (ids == self.layout.token_id) & bool(self.layout.marks)

        def collate(rows: np.ndarray) -> Batch:
            input_ids = np.tile(ids, (len(rows), 1))
            arguments = {
                "input_ids": input_ids,
                "attention_mask": np.ones_like(input_ids),
                "token_type_ids": np.tile(kinds.astype(np.int64), (len(rows), 1)),
                "pixel_values": self.pixels([inputs[row] for row in rows]),
            }
            return Batch(arguments, keep=input_ids == self.layout.token_id, whole=True)

        return Documents(
            lengths=np.full(len(inputs), len(ids), dtype=np.int64),
            n_tokens=np.full(len(inputs), n_image, dtype=np.int64),
            cut=np.zeros(len(inputs), dtype=bool),
            collate=collate,
        )

    def pixels(self, images: Sequence[Image]) -> np.ndarray:
        """`[n_images, 3, size, size]` float32. Raises IntegrityError for pixels without a scale."""
        side = {"height": self.layout.size, "width": self.layout.size}
        rgb = [np.asarray(to_rgb(image, f"Image {i}")) for i, image in enumerate(images)]
        # Without a stated format an image 1 or 3 pixels high passes for one with its colours first.
        found = self.processor(
            rgb, size=side, input_data_format="channels_last", return_tensors="np"
        )
        return np.asarray(found["pixel_values"], dtype=np.float32)


def image_reader(model: ResolvedModel) -> ImageReader:
    """The reader of a model. Raises AccessError, ConfigError (a model without images)."""
    from transformers import AutoImageProcessor

    layout, tokenizer = image_layout(model.config), model.tokenizer
    with fitting(model.folder, "image processor"), reachable(str(model.folder)):
        # The same code, and so the same pixels, whether or not torchvision is installed.
        processor = AutoImageProcessor.from_pretrained(model.folder, backend="pil")
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    lines = "\n\n" if layout.marks else "\n"
    newline = tokenizer(lines, add_special_tokens=False)["input_ids"]
    if layout.marks:
        opens, closes = layout.marks
        return ImageReader(layout, processor, (closes, *newline), (*bos, *newline, opens))
    return ImageReader(layout, processor, (*bos, *newline))
