"""A language model loaded up to the deepest block wanted and no further; its residual stream."""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from mosaic.errors import ConfigError, IntegrityError, ResourceError
from mosaic.models.hub import fitting, reachable
from mosaic.models.resolve import ResolvedModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model cut off after the deepest block wanted; for text models `text` is `whole`."""

    whole: PreTrainedModel
    text: PreTrainedModel
    blocks: torch.nn.ModuleList

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.device


def float32_residual(model: PreTrainedModel) -> None:
    """Make a float16 model add up its residual stream in float32 (ours); others stay as they are.

    Gemma models overflow in float16 because the sum over blocks passes 65504, not because a single
    product does. Embeddings are made float32, so every sum after them is; autocast then takes the
    products of the linear layers in float16. A product that overflows all the same leaves values
    that are not finite, which extraction refuses.
    """
    if model.dtype != torch.float16:
        return
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _module, _arguments, output: output.float())
    for part in {model, model.base_model, find_blocks(model)[0]}:
        # One of its own for each: they nest, and autocast remembers only one way back.
        part.forward = torch.autocast(model.device.type, dtype=torch.float16)(part.forward)


def truncated(config: PretrainedConfig, n_blocks: int) -> PretrainedConfig:
    """A copy of `config` whose text model has only its first `n_blocks` blocks.

    Raises ConfigError when the model has fewer.
    """
    config = copy.deepcopy(config)
    text = config.get_text_config()
    there = getattr(text, "num_hidden_layers", None)
    if not isinstance(there, int):
        raise ConfigError(
            f"A model of type {config.model_type!r} does not say of how many blocks it is built; "
            f"name one of a single stack of blocks in the profile."
        )
    if not 1 <= n_blocks <= there:
        raise ConfigError(
            f"There is no layer {n_blocks - 1}: the model has {there} blocks, "
            f"layers 0 to {there - 1}. Correct `layers` in the profile."
        )
    text.num_hidden_layers = n_blocks
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == there:  # one entry a block, as `layer_types`
            setattr(text, name, value[:n_blocks])
    text.use_cache = False
    return config


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The model of that configuration without weights: its shapes, and the attention it picks."""
    from transformers import AutoModel

    with fitting(config.name_or_path, "configuration", config), torch.device("meta"):
        return AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)


def positions(config: PretrainedConfig) -> int | None:
    """Positions a model takes, None where nothing limits them.

    RoBERTa and its kin number them from behind the id of padding, so of 514 only 512 are of use.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = limit if isinstance(limit, int) else None  # not every type checks its settings
    for name, module in find_blocks(skeleton(truncated(config, 1)))[0].named_modules():
        padding = module.padding_idx if isinstance(module, torch.nn.Embedding) else None
        if padding is not None and "position" in name:
            limit = module.num_embeddings - padding - 1
    return limit


def find_blocks(model: PreTrainedModel) -> tuple[PreTrainedModel, torch.nn.ModuleList]:
    """The text model and its list of blocks, found by structure and not by name.

    The text model is the outermost module with the text configuration; the blocks are its outermost
    ModuleList of `num_hidden_layers` entries. Raises ConfigError when there is none.
    """
    from transformers import PreTrainedModel

    config = model.config.get_text_config()
    text = next(
        (m for m in model.modules() if isinstance(m, PreTrainedModel) and m.config is config), model
    )
    lists = [
        (name.count("."), module)
        for name, module in text.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not lists:
        raise ConfigError(
            f"{type(model).__name__} has no list of {config.num_hidden_layers} blocks; only models "
            f"built of one stack of transformer blocks can be read."
        )
    return text, min(lists, key=lambda entry: entry[0])[1]


def load_model(model: ResolvedModel, n_blocks: int) -> LanguageModel:
    """Load the first `n_blocks` blocks; later blocks and the LM head are never read from disk.

    Raises AccessError, ConfigError (fewer blocks), IntegrityError, ResourceError (memory).
    """
    from transformers import AutoModel

    whole = load_weights(AutoModel, model, truncated(model.config, n_blocks))
    return LanguageModel(whole, *find_blocks(whole))


def load_weights(
    auto_class: Any, model: ResolvedModel, config: PretrainedConfig
) -> PreTrainedModel:
    """A transformers model on its device, every weight of it read from the folder.

    Raises AccessError, ResourceError (memory of the device), and IntegrityError where the folder
    lacks a weight, which transformers would draw at random, or holds one that belongs elsewhere.
    """
    try:
        place = fitting(model.folder, "model", config)
        with quiet_loading(), place, reachable(model.spec.source):
            loaded, found = auto_class.from_pretrained(
                model.folder,
                config=config,
                dtype=model.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
        _check_weights(loaded, found, model)
        if left := unstated(model):
            log.warning(
                "config.json of %s does not state %s: transformers takes its default, by which the "
                "numbers may be others", model.spec.name, ", ".join(left)
            )  # fmt: skip
        loaded = loaded.to(model.device).eval().requires_grad_(False)
        float32_residual(loaded)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model.spec.name!r} with {config.get_text_config().num_hidden_layers} blocks does "
            f"not fit on {model.device}; use a smaller model, fewer layers, or a device with more "
            f"memory."
        ) from error
    return loaded


HEADS = ("lm_head", "embed_out", "score", "classifier", "qa_outputs")
"""Modules that checkpoints hold beside the model itself; transformers renames some of them."""


def _check_weights(loaded: PreTrainedModel, found: Mapping[str, Any], model: ResolvedModel) -> None:
    """Refuse weights that lack, that do not fit, or that nothing in the model is made of.

    Blocks cut off on purpose and `HEADS` may be left over; what the named
    architecture lacks (BERT's pooler beside a masked-LM head) may be missing.
    """
    blocks = find_blocks(loaded)[1]
    name = next(name for name, module in loaded.named_modules() if module is blocks)
    cut_off = re.compile(rf"(^|\.){re.escape(name)}\.(\d+)\.")
    known = _weight_names(model.config)

    def strange(key: str) -> bool:
        block = cut_off.search(key)
        head = headless and key.split(".")[0] in HEADS
        cut = block is not None and int(block[2]) >= len(blocks)
        return not (cut or head) and _bare(key, loaded) not in known

    headless = loaded.get_output_embeddings() is None
    for what, keys in (
        ("lacks", [k for k in found["missing_keys"] if not headless or _bare(k, loaded) in known]),
        ("has another shape for", [key for key, *_ in found["mismatched_keys"]]),
        ("holds the unknown", list(filter(strange, found["unexpected_keys"]))),
    ):
        if keys:
            raise IntegrityError(
                f"{model.folder} {what} {sorted(keys)[0]} ({len(keys)} such weights): it is not a "
                f"whole {type(loaded).__name__}, and would compute with random numbers or the "
                f"wrong ones. Fetch or save the model again."
            )


def unstated(model: ResolvedModel) -> list[str]:
    """Numbers and activations of a configuration that its config.json leaves to their default.

    Switches are not looked for: those that are off are not stated in older files.
    """
    config = model.config
    said = config.get_config_dict(model.folder)[0]
    said |= said.get("rope_parameters") or {}  # in older files they stand beside the rest
    rope = getattr(config, "rope_parameters", None) or {}
    older = {own: name for name, own in config.attribute_map.items()} | OLDER
    numbers = [field.name for field in fields(config) if type(field.default) in (int, float, str)]
    numbers += [name for name, value in rope.items() if isinstance(value, float)]
    left = [name for name in numbers if not {name, older.get(name)} & {*said}]
    return [name for name in left if not OF_NO_NUMBER.search(name)]


OLDER = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}

OF_NO_NUMBER = re.compile("drop|_token_id|initializer|_tp$|summary|_std$|loss|hidden_size|chunk_")
"""Fields of training, of heads and of tokens, on which no hidden state depends, and a size."""


def _weight_names(config: PretrainedConfig) -> set[str]:
    """Weights of the architecture that a configuration names, without the prefix of its base."""
    import transformers

    with fitting(config.name_or_path, "configuration"), torch.device("meta"):
        kind = getattr(transformers, (config.architectures or [""])[0], None)
        whole = kind(copy.deepcopy(config)) if kind else skeleton(config)
    return {_bare(key, whole) for key in whole.state_dict()}


def _bare(key: str, model: PreTrainedModel) -> str:
    return key.removeprefix(f"{model.base_model_prefix}.")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No list of the blocks left out, and no progress bar where nobody watches."""
    from transformers import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def residual_stream(
    model: LanguageModel, layers: Iterable[int]
) -> Iterator[dict[int, torch.Tensor]]:
    """Outputs of the wanted blocks, filled by each forward pass inside the context.

    Yields layer to `[n_docs, n_positions, d_model]`. A block's output is taken by a hook because
    the last entry of `output_hidden_states` is after the final norm (protocol §3).
    """
    outputs: dict[int, torch.Tensor] = {}
    handles = []
    for layer in layers:

        def keep(_module: Any, _args: Any, output: Any, layer: int = layer) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        handles.append(model.blocks[layer].register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
