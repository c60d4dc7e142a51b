"""A vision-language model of PaliGemma's shape that captions digit images (ours).

Its text model continues the small base model; a tiny SigLIP tower and the connector start random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import (
        Gemma2ForCausalLM,
        PaliGemmaForConditionalGeneration,
        PreTrainedTokenizerFast,
        SiglipImageProcessor,
    )


PIXELS, PATCH = 16, 4

N_IMAGE_TOKENS = (PIXELS // PATCH) ** 2

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

N_STEPS, BATCH = 400, 64


def new_vlm(
    language_model: Gemma2ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PaliGemmaForConditionalGeneration:
    """The language model behind an untrained vision tower and connector."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(seed)
    text = deepcopy(language_model.config)  # PaliGemmaConfig writes into the config it is given
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        vision_use_head=False,
    )
    ids: dict[str, Any] = {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = PaliGemmaConfig(
        vision_config=vision, text_config=text, projection_dim=text.hidden_size, **ids
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    return model


def new_image_processor() -> SiglipImageProcessor:
    """Resizes to 16 x 16 pixels and scales to -1..1."""
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(
        size={"height": PIXELS, "width": PIXELS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )
    # PaliGemma's processor reads it to know how many image tokens to put before the text.
    processor.image_seq_length = N_IMAGE_TOKENS  # type: ignore[attr-defined]
    return processor


def train_captions(
    model: PaliGemmaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: list[tuple[Image, int, int]],
    seed: int,
    progress: Callable[[float], None],
) -> list[dict[str, float]]:
    """Learn to write the digit's name after the image; returns the loss curve.

    Images are shifted by up to two pixels and dimmed at random, for there are only 500 of them.
    """
    pixels = pixel_values([image for image, _, _ in images])
    digits = np.asarray([digit for _, digit, _ in images])
    vision = [p for n, p in model.named_parameters() if "language_model" not in n]
    text = [p for n, p in model.named_parameters() if "language_model" in n]
    optimizer = torch.optim.AdamW(
        [{"params": vision, "lr": 2e-3}, {"params": text, "lr": 3e-4}], weight_decay=0.0
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    history: list[dict[str, float]] = []
    recent: list[float] = []
    seen = 0
    model.train()
    for step, (chosen, shifts, dim) in enumerate(draws(len(digits), seed), start=1):
        moved = zip(chosen, shifts, strict=True)
        batch = torch.stack([torch.roll(pixels[i], tuple(by), (1, 2)) for i, by in moved])
        ids, mask, suffix = caption_inputs(tokenizer, [WORDS[digits[i]] for i in chosen])
        written = (suffix == 1) & (mask == 1)
        labels = torch.where(written, ids, -100)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(
                input_ids=ids,
                pixel_values=(batch + 1) * torch.from_numpy(dim).float() - 1,
                attention_mask=mask,
                token_type_ids=suffix,
                labels=labels,
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        seen += int(written.sum())
        recent.append(loss.item())
        progress(1 / N_STEPS)
        if step % 20 == 0:
            history.append({"tokens": seen, "train_loss": float(np.mean(recent))})
            recent.clear()
    model.eval()
    return history


def draws(n_images: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Which images every step takes `[BATCH]`, how far they move `[BATCH, 2]`, how dim they are."""
    rng = np.random.default_rng(seed)
    for _ in range(N_STEPS):
        yield (
            rng.integers(n_images, size=BATCH),
            rng.integers(-2, 3, size=(BATCH, 2)),
            rng.uniform(0.7, 1.0, size=(BATCH, 1, 1, 1)),
        )


def pixel_values(images: list[Image]) -> torch.Tensor:
    """`[n_images, 3, 16, 16]`."""
    rgb = [image.convert("RGB") for image in images]
    return new_image_processor()(rgb, return_tensors="pt")["pixel_values"]


def caption_inputs(
    tokenizer: PreTrainedTokenizerFast, captions: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and token types (0 prefix, 1 caption), `[n, 16 + 1 + longest]`."""
    image = tokenizer.convert_tokens_to_ids("<image>")
    prefix = [image] * N_IMAGE_TOKENS + [tokenizer.bos_token_id]
    ends = [
        tokenizer(word, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for word in captions
    ]
    longest = max(map(len, ends))
    shape = (len(captions), len(prefix) + longest)
    ids = torch.full(shape, tokenizer.pad_token_id)
    mask = torch.zeros(shape, dtype=torch.long)
    suffix = torch.zeros(shape, dtype=torch.long)
    for i, end in enumerate(ends):
        stop = len(prefix) + len(end)
        ids[i, :stop] = torch.tensor(prefix + end)
        mask[i, :stop] = 1
        suffix[i, len(prefix) :] = 1
    return ids, mask, suffix


@torch.no_grad()
def measure_captions(
    model: PaliGemmaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: list[tuple[Image, int, int]],
) -> dict[str, float]:
    """`held_out_loss` of the right captions (nats per token), and `caption_accuracy`.

    That is the share of images whose own digit is the likeliest of the ten captions.
    """
    pixels = pixel_values([image for image, _, _ in images])
    digits = torch.tensor([digit for _, digit, _ in images])
    scores = torch.zeros(len(images), len(WORDS))
    n_tokens = torch.zeros(len(WORDS))
    for k, word in enumerate(WORDS):
        ids, mask, suffix = caption_inputs(tokenizer, [word] * len(images))
        logits = model(
            input_ids=ids, pixel_values=pixels, attention_mask=mask, token_type_ids=suffix
        ).logits[:, N_IMAGE_TOKENS:-1]
        likelihood = logits.float().log_softmax(-1)
        target = ids[:, N_IMAGE_TOKENS + 1 :]
        scores[:, k] = likelihood.gather(-1, target[..., None])[..., 0].sum(-1)
        n_tokens[k] = target.shape[1]
    right = scores.gather(1, digits[:, None]).sum()
    return {
        "held_out_loss": float(-right / n_tokens[digits].sum()),
        "caption_accuracy": float((scores.argmax(-1) == digits).float().mean()),
    }
