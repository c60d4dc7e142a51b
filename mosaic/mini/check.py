"""Does the mini world mean anything: the table of what its tasks and features show (ours).

Plain scikit-learn on the shipped files. Middle layer, widest SAE, sum over tokens, binarized at 1,
scaled logistic regression with C by inner cross-validation, mean over three splits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from tqdm import tqdm

from mosaic.mini import lexicon

SEEDS = (0, 1, 2)
N_TRAIN, N_TEST = 1200, 1200
GRID = {"logisticregression__C": [0.003, 0.03, 0.3, 3.0]}
MIDDLE = 3
"""Middle layer of the small model; the widest SAE there is 1,024 wide."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    bound: str
    """Demand on the value, such as ">= 0.65"; empty where it is only shown."""

    @property
    def holds(self) -> bool:
        """Whether the demand is met."""
        if not self.bound:
            return True
        sign, number = self.bound.split()
        return self.value >= float(number) if sign == ">=" else self.value <= float(number)


@dataclass(frozen=True, eq=False)
class World:
    """The small model, its widest middle SAE and the data folder."""

    folder: Path
    model: Any
    tokenizer: Any
    sae: Any

    def rows(self, name: str, config: str = "default") -> Any:
        """Rows of one task as a pandas frame."""
        import pandas as pd

        return pd.read_parquet(self.folder / f"data/mosaic-mini/{name}/{config}.parquet")


def open_world(folder: Path) -> World:
    """Load what the check needs from the shipped folder."""
    from sae_lens import SAE
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = folder / "models/mini-small"
    return World(
        folder,
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(source),
        SAE.load_from_disk(str(folder / f"saes/mini-small/layer_{MIDDLE}/width_1k")),
    )


@torch.no_grad()
def sae_sums(world: World, texts: list[str]) -> np.ndarray:
    """SAE activations summed over the tokens of each text, `<bos>` left out: `[n, d_sae]`."""
    caught: list[torch.Tensor] = []
    handle = world.model.model.layers[MIDDLE].register_forward_hook(
        lambda _module, _inputs, output: caught.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    sums = np.zeros((len(texts), world.sae.cfg.d_sae), dtype=np.float32)
    order = np.argsort([len(text) for text in texts])
    try:
        for index in np.array_split(order, max(1, len(texts) // 100)):
            batch = world.tokenizer(
                [texts[i] for i in index],
                return_tensors="pt",
                padding=True,
                padding_side="right",
            )
            world.model.model(input_ids=batch["input_ids"], use_cache=False)
            latents = world.sae.encode(caught.pop())
            kept = batch["attention_mask"].bool() & (
                batch["input_ids"] != world.tokenizer.bos_token_id
            )
            sums[index] = (latents * kept[..., None]).sum(1).numpy()
    finally:
        handle.remove()
    return sums


def probe() -> GridSearchCV:
    """Scaled logistic regression, C by inner cross-validation."""
    model = make_pipeline(
        MaxAbsScaler(), LogisticRegression(max_iter=500, tol=1e-3, class_weight="balanced")
    )
    return GridSearchCV(model, GRID, cv=3, scoring="f1_macro")


def tfidf(texts: list[str], train: np.ndarray) -> list[Any]:
    """Word 1-2-grams and character 2-5-grams, fitted on the training texts."""
    kinds = (
        TfidfVectorizer(ngram_range=(1, 2), max_features=20000),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), max_features=20000),
    )
    return [kind.fit([texts[i] for i in train]).transform(texts) for kind in kinds]


def classification(features: Any, labels: np.ndarray, train: Any, test: Any) -> float:
    """Macro-F1 on the test part."""
    fitted = probe().fit(features[train], labels[train])
    return float(f1_score(labels[test], fitted.predict(features[test]), average="macro"))


def text_task(world: World, name: str, config: str) -> tuple[float, float]:
    """Mean macro-F1 of SAE features and of the better TF-IDF."""
    rows = world.rows(name, config)
    texts, labels = list(rows["text"]), rows["label"].to_numpy()
    sums = (sae_sums(world, texts) > 1).astype(np.float32)
    scores = []
    for seed in SEEDS:
        train, test = train_test_split(
            np.arange(len(labels)),
            train_size=N_TRAIN,
            test_size=N_TEST,
            stratify=labels,
            random_state=seed,
        )
        words, characters = tfidf(texts, train)
        scores.append([classification(x, labels, train, test) for x in (sums, words, characters)])
    sae, words_score, characters_score = np.mean(scores, axis=0)
    return float(sae), float(max(words_score, characters_score))


def transfer(world: World) -> dict[str, float]:
    """Accuracy in every language of toxicity probes trained on English."""
    english = world.rows("toxicity", "en")
    features = (sae_sums(world, list(english["text"])) > 1).astype(np.float32)
    probes = []
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).permutation(len(english))[:N_TRAIN]
        probes.append(probe().fit(features[chosen], english["label"].to_numpy()[chosen]))
    found = {}
    for language in lexicon.LANGUAGES[1:]:
        rows = world.rows("toxicity", language)
        there = (sae_sums(world, list(rows["text"])) > 1).astype(np.float32)
        right = [accuracy_score(rows["label"], fitted.predict(there)) for fitted in probes]
        found[language] = float(np.mean(right))
    return found


@torch.no_grad()
def answered_right(world: World, rows: Any) -> np.ndarray:
    """Whether the right option has the highest summed log-probability after the prompt."""
    prompts = world.tokenizer(list(rows["prompt"]))["input_ids"]
    right = []
    for prompt, options, answer in zip(prompts, rows["options"], rows["answer_index"], strict=True):
        ends = [
            world.tokenizer(option, add_special_tokens=False)["input_ids"] for option in options
        ]
        width = max(map(len, ends))
        ids = torch.tensor([prompt + end + [0] * (width - len(end)) for end in ends])
        logits = world.model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1]
        each = logits.log_softmax(-1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
        scores = [float(row[: len(end)].sum()) for row, end in zip(each, ends, strict=True)]
        right.append(int(np.argmax(scores)) == answer)
    return np.asarray(right)


def behaviour(world: World) -> list[Row]:
    """Accuracy by frequency, and how well correctness on unseen people is predicted."""
    rows = world.rows("questions", "none")
    right = answered_right(world, rows)
    fifth = np.argsort(np.argsort(rows["frequency"].to_numpy())) * 5 // len(rows)
    texts = list(rows["prompt"])
    sums = (sae_sums(world, texts) > 1).astype(np.float32)
    scores = []
    splitter = GroupShuffleSplit(len(SEEDS), test_size=0.45, random_state=0)
    for train, test in splitter.split(texts, right, rows["entity"]):
        each = []
        for features in (sums, *tfidf(texts, train)):
            search = probe().set_params(scoring="roc_auc").fit(features[train], right[train])
            each.append(roc_auc_score(right[test], search.predict_proba(features[test])[:, 1]))
        scores.append(each)
    sae, words, characters = np.mean(scores, axis=0)
    table = [Row("questions answered right", right.mean(), ">= 0.25")]
    table.append(Row("questions answered right", right.mean(), "<= 0.75"))
    table += [Row(f"  frequency fifth {i + 1}", right[fifth == i].mean(), "") for i in range(5)]
    table.append(
        Row("  most minus least frequent", right[fifth == 4].mean() - right[fifth == 0].mean(),
            ">= 0.15")
    )  # fmt: skip
    table.append(Row("correctness, SAE AUC", sae, ">= 0.65"))
    best = max(words, characters)
    return [*table, Row("correctness, TF-IDF AUC", best, f"<= {sae:.4f}")]


def digits(world: World) -> list[Row]:
    """Digits from image tokens through the text SAE, trained connector against untrained."""
    from transformers import PaliGemmaForConditionalGeneration

    from mosaic.mini.tasks import digit_images
    from mosaic.mini.vision import image_token_sums, new_vlm

    images = digit_images(captioned=False)
    labels = np.asarray([digit for _, digit, _ in images])
    trained = PaliGemmaForConditionalGeneration.from_pretrained(
        world.folder / "models/mini-vlm", dtype=torch.float32
    )
    untrained = new_vlm(world.model, world.tokenizer, seed=0)
    features = [
        (image_token_sums(vlm.eval(), world.sae, MIDDLE, images) > 1).astype(np.float32)
        for vlm in (trained, untrained)
    ]
    scores = []
    for seed in SEEDS:
        train, test = train_test_split(
            np.arange(len(labels)), test_size=1000, stratify=labels, random_state=seed
        )
        each = []
        for values in features:
            fitted = probe().fit(values[train], labels[train])
            each.append(accuracy_score(labels[test], fitted.predict(values[test])))
        scores.append(each)
    with_training, without = np.mean(scores, axis=0)
    return [
        Row("digits, trained connector, accuracy", with_training, f">= {without + 0.1:.4f}"),
        Row("digits, untrained connector, accuracy", without, ""),
    ]


def check(folder: Path) -> list[Row]:
    """All rows of the table, for the mini world in `folder`."""
    world = open_world(folder)
    table: list[Row] = []
    tasks = [("safety", "default"), ("intents", "default"), ("scenarios", "default")]
    tasks += [*itertools.product(("toxicity", "sentiment"), lexicon.LANGUAGES)]
    for name, config in tqdm(tasks, desc="check", unit="task", disable=None):
        sae, best = text_task(world, name, config)
        gain = f">= {best + 0.05:.4f}"
        label = name if config == "default" else f"{name} {config}"
        demanded = name not in ("intents", "scenarios") and config in ("default", "en")
        table.append(Row(f"{label}, SAE macro-F1", sae, gain if demanded else ""))
        table.append(
            Row(f"{label}, SAE macro-F1", sae, "<= 0.98" if name == "intents" else "<= 0.995")
        )
        table.append(Row(f"{label}, TF-IDF macro-F1", best, "<= 0.98" if name == "intents" else ""))
    reached = transfer(world)
    second = sorted(reached.values())[-2]
    table += [Row(f"English probe on toxicity {k}, accuracy", v, "") for k, v in reached.items()]
    table.append(Row("  second best of these", second, ">= 0.7"))
    return [*table, *behaviour(world), *digits(world)]


def format_table(table: list[Row]) -> str:
    """The table as Markdown."""
    lines = ["| what | value | demand | holds |", "|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.value:.3f} | {row.bound} | {'yes' if row.holds else '**no**'} |"
        for row in table
    ]
    return "\n".join(lines) + "\n"
