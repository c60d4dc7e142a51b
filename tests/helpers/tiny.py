"""Random models, tokenizers and SAEs on disk: the same classes and formats as the real ones, tiny.

Everything is seeded, so two calls with the same arguments write the same numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaic.config.profiles import ModelSpec, Profile, SAESpec
from mosaic.config.tasks import Task
from mosaic.data.load import TaskData

D_MODEL, N_BLOCKS, MAX_POSITIONS = 32, 5, 128
FAMILIES = ("gemma2", "llama", "gpt2", "bert")
TEXTS = (
    "You are a pest and I wish you gone.",
    "Thank you so much, the garden is lovely!",
    "",
    "a",
    "Du bist ein Ärgernis, geh weg.",
    "Eres muy amable, muchas gracias por todo lo que haces aquí.",
    "Ты очень добрый человек",
    "你真是个好人，谢谢",
    "short",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
)


def write_tokenizer(folder: Path, family: str) -> None:
    """A byte-level tokenizer with the special tokens of its family (none are added for GPT-2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = {"gpt2": "$A", "bert": "<bos> $A <eos>"}.get(family, "<bos> $A")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    names = dict(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    if family == "gpt2":
        names.pop("pad_token")  # GPT-2 has none
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)


def model_config(family: str, **changes: Any) -> Any:
    """A configuration of the family's own class."""
    import transformers

    if family == "gpt2":
        sizes = dict(n_embd=D_MODEL, n_layer=N_BLOCKS, n_head=4, n_positions=MAX_POSITIONS)
        kind = transformers.GPT2Config
    else:
        sizes = dict(
            hidden_size=D_MODEL,
            num_hidden_layers=N_BLOCKS,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=MAX_POSITIONS,
        )
        if family != "bert":
            sizes |= dict(num_key_value_heads=2, head_dim=8)
        kind = {
            "gemma2": transformers.Gemma2Config,
            "gemma3": transformers.Gemma3TextConfig,
            "llama": transformers.LlamaConfig,
            "bert": transformers.BertConfig,
        }[family]
    return kind(**{"vocab_size": 300, "pad_token_id": 0, **sizes, **changes})


def write_model(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """`save_pretrained` folder of a random model with LM head, and its tokenizer."""
    import transformers

    torch.manual_seed(seed)
    if family == "gemma3-vision":
        tower = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, patch_size=14)
        tower |= dict(num_hidden_layers=2, image_size=changes.pop("image_size", 56))
        config = transformers.Gemma3Config(
            text_config=model_config("gemma3", **changes).to_dict(),
            vision_config={**tower, "model_type": "siglip_vision_model"},
            mm_tokens_per_image=256 if tower["image_size"] > 56 else 4,
            image_token_index=299,
            boi_token_index=298,
            eoi_token_index=297,
        )
        model = transformers.Gemma3ForConditionalGeneration(config)
    elif family == "paligemma":
        image_size = changes.pop("image_size", 28)
        text = model_config("gemma2", **changes)
        vision = dict(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=N_BLOCKS,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=14,
            projection_dim=text.hidden_size,
        )
        config = transformers.PaliGemmaConfig(
            text_config=text.to_dict(),
            vision_config={**vision, "model_type": "siglip_vision_model"},
            image_token_index=299,
            projection_dim=text.hidden_size,
            hidden_size=text.hidden_size,
        )
        model = transformers.PaliGemmaForConditionalGeneration(config)
    else:
        config = model_config(family, **changes)
        kind = {
            "gemma2": transformers.Gemma2ForCausalLM,
            "gemma3": transformers.Gemma3ForCausalLM,
            "llama": transformers.LlamaForCausalLM,
            "gpt2": transformers.GPT2LMHeadModel,
            "bert": transformers.BertForMaskedLM,
        }[family]
        model = kind(config)
    spread(model)
    model.save_pretrained(folder)
    write_tokenizer(folder, "gemma2" if family in ("paligemma", "gemma3-vision") else family)
    return folder


def spread(model: Any) -> None:
    """Larger random weights: with the default scale every document looks nearly the same."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)


def write_sae(
    folder: Path,
    d_sae: int = 96,
    architecture: str = "jumprelu",
    seed: int = 0,
    d_in: int = D_MODEL,
    **changes: Any,
) -> Path:
    """A random SAE in the folder format of sae-lens, with about a tenth of its latents active."""
    from sae_lens import SAE

    torch.manual_seed(seed)
    config = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, **changes}
    if "topk" in architecture:
        config.setdefault("k", 8)
    sae = SAE.from_dict({"dtype": "float32", "device": "cpu", "metadata": {}, **config})
    for name, parameter in sae.named_parameters():
        parameter.data.normal_(std={"W_enc": 0.3, "W_dec": 0.3}.get(name, 0.1))
    if architecture in ("standard", "jumprelu"):
        sae.b_enc.data -= 1.5
    if architecture == "jumprelu":
        sae.threshold.data.uniform_(0.1, 0.8)
    folder.mkdir(parents=True, exist_ok=True)
    sae.save_model(folder)
    return folder


def model_spec(root: Path, family: str = "gemma2", widths: tuple[int, ...] = (96,)) -> ModelSpec:
    """A model of three layers with one SAE per layer and width, all written below `root`."""
    layers = {"early": 0, "middle": 2, "late": 3}
    saes = [
        SAESpec(
            layer=layer,
            width=str(width),
            folder=str(write_sae(root / f"layer_{layer}" / f"width_{width}", width, seed=layer)),
        )
        for layer in layers.values()
        for width in widths
    ]
    source = str(write_model(root / family, family))
    kind = "vision" if family == "paligemma" else "text"
    return ModelSpec(name=family, source=source, layers=layers, saes=tuple(saes), kind=kind)


def write_profile(path: Path, spec: ModelSpec) -> Path:
    """A profile file of one model of local folders, so that another process can load it."""
    saes = [{"layer": s.layer, "width": s.width, "folder": s.folder} for s in spec.saes]
    model = {"name": spec.name, "source": spec.source, "layers": spec.layers, "saes": saes}
    path.write_text(
        json.dumps({"name": "run", "catalogue": "mini", "tasks": [], "models": [model]})
    )
    return path


def extract_in_process(profile_file: str, store: str, log: str) -> None:
    """Body of a process of its own: a line goes to `log` for every shard that is computed."""
    from mosaic.config.profiles import load_profile
    from mosaic.extraction.extract import extract
    from mosaic.extraction.forward import Pass

    real = Pass.shard

    def logged(self: Any, *arguments: Any) -> Any:
        with Path(log).open("a") as handle:
            handle.write("shard\n")
        return real(self, *arguments)

    Pass.shard = logged  # type: ignore[method-assign]
    spec = load_profile(profile_file).models[0]
    extract(spec, task_data(TEXTS * 30), profile(spec), store=store)


def task_data(texts: Any = TEXTS, modality: str = "text") -> TaskData:
    """A task of these inputs with alternating labels."""
    task = Task(
        name="tiny",
        role="toxicity",
        dataset="nobody/tiny",
        split="train",
        input_field="text",
        label_field="label",
        licence="MIT",
        section="4",
        modality=modality,
    )
    return TaskData(
        task=task,
        ids=np.asarray([f"{i:07d}" for i in range(len(texts))]),
        inputs=list(texts),
        labels=np.arange(len(texts), dtype=np.int64) % 2,
        label_names=("clean", "toxic"),
    )


def profile(*models: ModelSpec, **changes: Any) -> Profile:
    """A profile small enough that several shards and batches are needed."""
    settings: dict[str, Any] = dict(
        name="tiny",
        catalogue="mini",
        models=tuple(models),
        tasks=(),
        max_length=64,
        top_n=(3, 8),
        token_budget=128,
        shard_docs=4,
    )
    return Profile(**{**settings, **changes})


def mixed_bundle(root: Path) -> Path:
    """A bundle below `root` of all that chapters 02 to 07 leave, with macro-F1 made up."""
    from mosaic.evidence.bundles import write_bundle
    from mosaic.scores.table import make_scores

    cell = dict(
        source="run", protocol="nested", profile="mine", model="small", layer=3, depth="middle",
        width="1k", feature="sae", pooling="sum", threshold=1.0, selection="all", scaling="auto",
        bos="drop", train_fraction=1.0, kind="text", toy=False, probe="linear",
        seed=0, n_train=100, n_test=50,
        macro_f1=0.6, macro_f1_low=0.5, macro_f1_high=0.7, cv_accuracy=0.6,
    )  # fmt: skip
    hidden = cell | dict(feature="hidden", pooling="last", width=None, threshold=None)
    hidden |= dict(selection=None, macro_f1=0.65)
    alone = hidden | dict(model=None, layer=None, depth=None, pooling=None)
    words = alone | dict(feature="tfidf", macro_f1=0.55)
    guess = alone | dict(feature="base_rate", cv_accuracy=None, macro_f1=0.5)
    rows = []
    for here in ("en", "de"):
        for there in ("en", "de"):
            both = dict(task="sentiment", train_language=here, language=there)
            topk = cell | dict(selection="topk", k=8)
            last = cell | dict(pooling="last", threshold=None, macro_f1=0.62, cv_accuracy=0.9)
            rows += [row | both for row in (cell, topk, last, hidden, words)]
            rows.append(cell | both | dict(train_fraction=0.1, macro_f1=0.69, cv_accuracy=0.9))
            rows.append(cell | both | dict(scaling="none", macro_f1=0.69, cv_accuracy=0.9))
    asked = dict(task="pubmedqa", label_model="large", kind="behaviour")
    lucky = dict(layer=1, depth="early", macro_f1=0.7, cv_accuracy=0.5)
    rows += [row | asked for row in (cell, cell | lucky, hidden, words, guess)]
    seen = dict(task="flowers", model="eye", kind="image")
    tower = hidden | dict(feature="vision_tower", layer=None, depth=None, pooling="mean")
    rows += [row | seen for row in (cell, cell | lucky, hidden, tower)]
    rows += [cell | seen | dict(model="eye-untrained"), guess | dict(task="flowers", kind="image")]
    rows += [row | seen | dict(task="my-pictures") for row in (cell, hidden, tower)]
    table = make_scores(rows)
    model = dict(name="small", source="someone/small", sha256={}, saes={})
    return write_bundle(root / "mine", table, "mine", "mosaic run all", "cpu", [model])
