"""Cards: a README.md beside every model and SAE set, and the parts of the book's page (ours).

Every figure is read from the `metrics.json` that the build wrote; none is typed in.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from mosaic_mini.corpus import documents
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import LANGUAGES
from mosaic_mini.meaning import outcome

NOT = (
    "Not a language model in any useful sense: it knows a toy grammar of a few hundred words, "
    "invented people and nothing else. It stands in for a large model so that software can be "
    "run and tested anywhere; what it shows is built in and is no evidence about real models."
)

STANDS_FOR = {
    "mini-small": "the 2B base model",
    "mini-large": "the 9B base model",
    "mini-large-it": "the 9B instruction-tuned model",
    "mini-vlm": "the vision-language model",
}


def write_cards(out: Path) -> None:
    """Cards for all models and SAE sets of the world in `out`, and `pages/` for the book."""
    cards = {folder: _model_card(folder) for folder in sorted((out / "models").iterdir())}
    cards |= {folder: _sae_card(folder) for folder in sorted((out / "saes").iterdir())}
    for folder, card in cards.items():
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n\n{card}", encoding="utf-8")
    pages = out / "pages"
    pages.mkdir(exist_ok=True)
    _draw_loss_curves(out, pages / "loss.svg")
    demoted = "\n".join(card.replace("# ", "### ", 1) for card in cards.values())
    for name, text in (
        ("summary", _summary(out)), ("examples", _examples()), ("cards", demoted)
    ):  # fmt: skip
        (pages / f"{name}.md").write_text(text, encoding="utf-8")


def _draw_loss_curves(out: Path, target: Path) -> None:
    """Loss against tokens: held-out documents of the language models, captions in training."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    texts, captions = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, style in (("mini-small", "-"), ("mini-large", "--"), ("mini-large-it", ":")):
        tokens, losses = _curve(out / "models" / name, "held_out_loss")
        texts.plot([n / 1e6 for n in tokens], losses, style, color="black", label=name)
    texts.set(xlabel="tokens of training (millions)", ylabel="held-out loss (nats per token)")
    tokens, losses = _curve(out / "models" / "mini-vlm", "train_loss")
    captions.plot([n / 1e3 for n in tokens], losses, "-.", color="black", label="mini-vlm")
    captions.set(xlabel="caption tokens (thousands)", ylabel="training loss (nats per token)")
    for axes in (texts, captions):
        axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "mini", "svg.fonttype": "none"}):
        figure.savefig(target, metadata={"Date": None})


def _curve(folder: Path, column: str) -> tuple[list[float], list[float]]:
    """Tokens and a column of a model's `history.csv`."""
    with (folder / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [float(row["tokens"]) for row in rows], [float(row[column]) for row in rows]


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return f"{size / 1e6:.2f} MB"


def _model_card(folder: Path) -> str:
    metrics = _metrics(folder)
    rows = [(name.replace("_", " "), value) for name, value in metrics.items()]
    rows.append(("weights", f"{_size(folder)}, bfloat16, safetensors"))
    losses = "Losses are nats per token on documents of another seed."
    if folder.name == "mini-vlm":
        trained_on = (
            "500 digit images of scikit-learn (UCI ML Repository, CC BY 4.0), captioned with "
            "their names. The other images are the `digits` task."
        )
        losses = "Losses are nats per token of captions; held out are the images of the task."
    elif folder.name == "mini-large-it":
        trained_on = "Questions and requests in the chat template, and a quarter of the corpus."
        losses = "Losses are nats per token on conversations of another seed."
    else:
        trained_on = "The mini corpus: a seeded grammar in " + ", ".join(LANGUAGES) + "."
    before = metrics.get("continues")
    start = f"Training continues from {before}." if before else "Trained from scratch."
    return (
        f"# {folder.name}\n\n"
        f"Stands in for {STANDS_FOR[folder.name]}. {trained_on} {start} {losses} "
        f"`history.csv` is the loss curve.\n\n"
        f"{_table(('what', 'value'), rows)}\n{NOT}\n"
    )


def _sae_rows(folder: Path) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for path in sorted(folder.glob("layer_*/width_*")):
        metrics = _metrics(path)
        rows.append(
            (
                path.parent.name.removeprefix("layer_"),
                path.name.removeprefix("width_"),
                f"{metrics['l0']:.1f}",
                f"{metrics['explained_variance']:.3f}",
                f"{metrics['dead_share']:.3f}",
                int(metrics["n_states"]),
            )
        )
    return rows


SAE_HEADER = ("layer", "width", "L0", "explained variance", "dead share", "held-out tokens")


def _sae_card(folder: Path) -> str:
    return (
        f"# SAEs of {folder.name}\n\n"
        f"JumpReLU SAEs on the residual stream after each block (0-based), trained as BatchTopK, "
        f"saved by sae-lens with float16 weights and unit decoder norms. Activations are in raw "
        f"residual units. Figures are on held-out text without `<bos>`; a latent is dead when it "
        f"fires on none of these tokens.\n\n{_table(SAE_HEADER, _sae_rows(folder))}\n{NOT}\n"
    )


def _summary(out: Path) -> str:
    models = []
    for name, real in STANDS_FOR.items():
        folder = out / "models" / name
        metrics = _metrics(folder)
        models.append(
            (
                name,
                real,
                metrics["parameters"],
                _size(folder),
                metrics.get("tokens", "-"),
                metrics.get("held_out_loss", "-"),
                metrics.get("outcome_accuracy", metrics.get("caption_accuracy", "-")),
                f"{metrics['minutes']:.1f}",
            )
        )
    header = ("model", "stands for", "parameters", "weights", "tokens", "held-out loss",
              "outcome or caption accuracy", "minutes")  # fmt: skip
    sae_rows = [
        (folder.name, *row)
        for folder in sorted((out / "saes").iterdir())
        for row in _sae_rows(folder)
    ]
    return f"{_table(header, models)}\n{_table(('model', *SAE_HEADER), sae_rows)}"


def _examples() -> str:
    """Two corpus sentences of every kind in every language, with their outcome."""
    import random

    rng = random.Random("examples")
    rows: list[tuple[Any, ...]] = []
    for kind in ("toxicity", "safety", "sentiment"):
        for level in ("simple", "hard"):
            meaning = draw(kind, rng, level=level)
            shown = outcome(meaning.label)
            for language in LANGUAGES:
                text = write(meaning, language)
                rows.append((kind, meaning.label, language, f"{text}{shown}"))
    meaning = draw("intents", rng)
    rows.append(("intents", meaning.label, "en",
                 write(meaning, "en") + outcome(meaning.label)))  # fmt: skip
    rows += [("document", "", "", document.text) for document in documents(4, 77)]
    return _table(("kind", "label", "language", "text"), rows)
