"""A vision-language model of PaliGemma's shape that captions digit images (ours).

Its text model continues the small base model; a tiny SigLIP tower and the connector start random.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL.Image import Image
    from sae_lens import SAE
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
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        SiglipVisionConfig,
    )

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
    rng = np.random.default_rng(seed)
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
    model.train()
    for step in range(N_STEPS):
        chosen = rng.integers(len(digits), size=BATCH)
        shifts = rng.integers(-2, 3, size=(BATCH, 2))
        dim = torch.from_numpy(rng.uniform(0.7, 1.0, size=(BATCH, 1, 1, 1))).float()
        batch = torch.stack(
            [
                torch.roll(pixels[i], tuple(shift), (1, 2))
                for i, shift in zip(chosen, shifts, strict=True)
            ]
        )
        ids, mask, suffix = caption_inputs(tokenizer, [WORDS[digits[i]] for i in chosen])
        labels = torch.where((suffix == 1) & (mask == 1), ids, -100)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(
                input_ids=ids,
                pixel_values=(batch + 1) * dim - 1,
                attention_mask=mask,
                token_type_ids=suffix,
                labels=labels,
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        progress(1 / N_STEPS)
        if (step + 1) % 20 == 0:
            history.append({"step": step + 1.0, "train_loss": float(np.mean(recent))})
            recent.clear()
    model.eval()
    return history


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
def caption_accuracy(
    model: PaliGemmaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    images: list[tuple[Image, int, int]],
) -> float:
    """Share of images whose own digit is the likeliest of the ten captions."""
    pixels = pixel_values([image for image, _, _ in images])
    scores = torch.zeros(len(images), len(WORDS))
    for k, word in enumerate(WORDS):
        ids, mask, suffix = caption_inputs(tokenizer, [word] * len(images))
        logits = model(
            input_ids=ids, pixel_values=pixels, attention_mask=mask, token_type_ids=suffix
        ).logits[:, N_IMAGE_TOKENS:-1]
        likelihood = logits.float().log_softmax(-1)
        target = ids[:, N_IMAGE_TOKENS + 1 :]
        scores[:, k] = likelihood.gather(-1, target[..., None])[..., 0].sum(-1)
    digits = torch.tensor([digit for _, digit, _ in images])
    return float((scores.argmax(-1) == digits).float().mean())


@torch.no_grad()
def image_token_sums(
    model: PaliGemmaForConditionalGeneration,
    sae: SAE,
    layer: int,
    images: list[tuple[Image, int, int]],
) -> np.ndarray:
    """Text SAE on the residual stream of the image tokens, summed: `[n_images, d_sae]`."""
    caught: list[torch.Tensor] = []
    handle = model.model.language_model.layers[layer].register_forward_hook(
        lambda _module, _inputs, output: caught.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    image_token, bos = model.config.image_token_index, model.config.bos_token_id
    sums = []
    try:
        for start in range(0, len(images), 256):
            pixels = pixel_values([image for image, _, _ in images[start : start + 256]])
            ids = torch.tensor([[image_token] * N_IMAGE_TOKENS + [bos]] * len(pixels))
            model(
                input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids),
                token_type_ids=torch.zeros_like(ids),
            )  # fmt: skip
            sums.append(sae.encode(caught.pop()[:, :N_IMAGE_TOKENS].float()).sum(1).numpy())
    finally:
        handle.remove()
    return np.concatenate(sums)
