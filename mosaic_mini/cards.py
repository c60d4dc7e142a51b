"""Cards: a README.md beside every model and SAE set, and the parts of the book's page (ours).

Every figure is read from the `metrics.json` that the build wrote; none is typed in.
"""

import csv
import json
import random
from pathlib import Path
from typing import Any

from mosaic.scores.markdown import markdown_table
from mosaic_mini.corpus import documents
from mosaic_mini.grammar import draw, write
from mosaic_mini.lexicon import LANGUAGES
from mosaic_mini.meaning import outcome

NOT = (
    "Not a language model in any useful sense: it knows a toy grammar of a few hundred words, "
    "invented people and nothing else. It stands in for a large model so that software can be "
    "run and tested anywhere; it is a toy, and what it shows is no evidence about real models."
)

STANDS_FOR = {
    "mini-small": "the 2B base model",
    "mini-large": "the 9B base model",
    "mini-large-it": "the 9B instruction-tuned model",
    "mini-vlm": "the vision-language model",
}

TRAINED_ON = {
    "mini-vlm": "500 digit images of scikit-learn (UCI ML Repository, CC BY 4.0), captioned with "
    "their names. The other images are the `digits` task.",
    "mini-large-it": "Questions and requests in the chat template, and a quarter of the corpus.",
}

LOSSES = {
    "mini-vlm": "of captions; held out are the images of the task",
    "mini-large-it": "on conversations of another seed",
}

SAE_HEADER = ("layer", "width", "L0", "explained variance", "dead share", "held-out tokens")

EXAMPLES = ("toxicity", "safety", "sentiment")


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


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return f"{size / 1e6:.2f} MB"


def _model_card(folder: Path) -> str:
    metrics, name = _metrics(folder), folder.name
    rows = [(k.replace("_", " "), str(value)) for k, value in metrics.items() if k != "toy"]
    rows.append(("weights", f"{_size(folder)}, bfloat16, safetensors"))
    corpus = "The mini corpus: a seeded grammar in " + ", ".join(LANGUAGES) + "."
    losses = LOSSES.get(name, "on documents of another seed")
    before = metrics.get("continues")
    start = f"Training continues from {before}." if before else "Trained from scratch."
    return (
        f"# {name}\n\n"
        f"Stands in for {STANDS_FOR[name]}. {TRAINED_ON.get(name, corpus)} {start} "
        f"Losses are nats per token {losses}. `history.csv` is the loss curve.\n\n"
        f"{markdown_table(('what', 'value'), rows)}\n{NOT}\n"
    )


def _sae_rows(folder: Path) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for path in sorted(folder.glob("layer_*/width_*")):
        metrics = _metrics(path)
        place = path.parent.name.removeprefix("layer_"), path.name.removeprefix("width_")
        shares = f"{metrics['explained_variance']:.3f}", f"{metrics['dead_share']:.3f}"
        rows.append((*place, f"{metrics['l0']:.1f}", *shares, str(int(metrics["n_states"]))))
    return rows


def _sae_card(folder: Path) -> str:
    table = markdown_table(SAE_HEADER, _sae_rows(folder))
    return (
        f"# SAEs of {folder.name}\n\n"
        f"JumpReLU SAEs on the residual stream after each block (0-based), trained as BatchTopK, "
        f"saved by sae-lens with float16 weights and unit decoder norms. Activations are in raw "
        f"residual units. Figures are on held-out text without `<bos>`; a latent is dead when it "
        f"fires on none of these tokens.\n\n{table}\n{NOT}\n"
    )


def _summary(out: Path) -> str:
    models: list[tuple[str, ...]] = []
    saes: list[tuple[str, ...]] = []
    for name, real in STANDS_FOR.items():
        folder = out / "models" / name
        metrics = _metrics(folder)
        right = metrics.get("outcome_accuracy", metrics.get("caption_accuracy", "-"))
        row = [name, real, metrics["parameters"], _size(folder), metrics.get("tokens", "-")]
        row += [metrics.get("held_out_loss", "-"), right, f"{metrics['minutes']:.1f}"]
        models.append(tuple(map(str, row)))
    for folder in sorted((out / "saes").iterdir()):
        saes += [(folder.name, *row) for row in _sae_rows(folder)]
    header = ("model", "stands for", "parameters", "weights", "tokens", "held-out loss",
              "outcome or caption accuracy", "minutes")  # fmt: skip
    return f"{markdown_table(header, models)}\n{markdown_table(('model', *SAE_HEADER), saes)}"


def _examples() -> str:
    """Two corpus sentences of every kind in every language, with their outcome; documents."""
    rng = random.Random("examples")
    rows: list[tuple[str, ...]] = []
    drawn = [draw(kind, rng, level=level) for kind in EXAMPLES for level in ("simple", "hard")]
    for meaning in (*drawn, draw("intents", rng)):
        for language in ("en",) if meaning.kind == "intents" else LANGUAGES:
            text = write(meaning, language) + outcome(meaning.label)
            rows.append((meaning.kind, meaning.label, language, text))
    rows += [("document", "", "", document.text) for document in documents(4, 77)]
    return markdown_table(("kind", "label", "language", "text"), rows)
