"""Byte-fallback BPE, wrapped as a transformers tokenizer that loads offline (ours)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mosaic_mini.lexicon import TABLES
from mosaic_mini.meaning import OUTCOMES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


VOCABULARY = 1536

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<image>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }} "
    "{{ message['content'] }}<end_of_turn>{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model {% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the vocabulary; Chinese is shown word by word, for it has no spaces to learn from.

    Outcome tokens are always one token of their own, so a text never merges into its outcome.
    """
    import tokenizers as tk
    from transformers import PreTrainedTokenizerFast

    outcomes = list(dict.fromkeys(OUTCOMES.values()))
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    core = tk.Tokenizer(tk.models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = tk.pre_tokenizers.Sequence(
        [tk.pre_tokenizers.Metaspace(), tk.pre_tokenizers.Punctuation("isolated")]
    )
    core.decoder = tk.decoders.Sequence(
        [tk.decoders.ByteFallback(), tk.decoders.Metaspace(), tk.decoders.Fuse()]
    )
    trainer = tk.trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(outcomes),
        special_tokens=[*SPECIAL, *byte_tokens],
        show_progress=False,
    )
    chinese = {forms["zh"] for table in TABLES.values() for forms in table.values()}
    longest_first = sorted(chinese, key=lambda form: (-len(form), form))
    word = re.compile("|".join(map(re.escape, longest_first)))
    shown = re.compile("|".join(outcomes))
    core.train_from_iterator(
        (word.sub(lambda match: f" {match[0]} ", shown.sub(" ", text)) for text in texts), trainer
    )
    core.add_tokens([tk.AddedToken(token, normalized=False) for token in outcomes])
    core.post_processor = tk.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", core.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>", "<image>"],
        padding_side="left",
        model_max_length=256,
        chat_template=CHAT_TEMPLATE,
    )
