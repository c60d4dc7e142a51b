"""What `--help` teaches: a few lines a reader can copy, for the command and for each verb."""

from __future__ import annotations

EXAMPLES = {
    "mosaic": (
        ("mosaic doctor", "what this machine can run, and why not more"),
        ("mosaic run", "every notebook on the shipped mini models"),
        ("mosaic figure fig-layers -p 'tasks=[sentiment-en]'", "one figure, of another task"),
        ("mosaic fit --profile my.yaml --out probe", "a probe of your own texts"),
        ("mosaic predict probe new.txt", "its answers for new texts, and why"),
        ("mosaic book", "run every notebook, then build the book"),
    ),
    "run": (
        ("mosaic run", "all notebooks on the mini models"),
        ("mosaic run 02 04 --profile my.yaml", "two notebooks on own data or models"),
        ("mosaic run 04 -p 'tasks=[safety-en]'", "one parameter changed"),
    ),
    "figure": (
        ("mosaic figure fig-baselines", "SVG, PNG and CSV below _build/runs/mini/figures"),
        ("mosaic figure fig-layers -p 'tasks=[sentiment-en]'", "of another task"),
        ("mosaic figure fig-layers --profile small", "of other models"),
    ),
    "sweep": (
        ("mosaic sweep --profile encoder --out runs/tfidf", "TF-IDF on real text as a bundle"),
        ("mosaic sweep --tasks sentiment-en --feature length --out runs/length", "one task"),
    ),
    "transfer": (
        ("mosaic transfer --task toxicity --out runs/transfer", "all pairs of its languages"),
    ),
    "extract": (
        ("mosaic extract --profile paper --dry-run", "what the paper's extraction costs here"),
        ("mosaic extract --tasks sentiment-en --models mini-small", "one task, one model"),
    ),
    "mini": (
        ("mosaic mini check", "what the shipped tasks and features show"),
        ("mosaic mini build world", "make them anew in the folder `world`"),
    ),
    "book": (
        ("mosaic book", "run every notebook on mini and build the pages"),
        ("mosaic book --no-run", "build the pages from the notebooks already run"),
    ),
    "fit": (
        ("mosaic fit --profile my.yaml --out probe", "the first task of an own file"),
        ("mosaic fit --task toxicity-en --models mini-small --out probe", "a shipped task"),
    ),
    "predict": (
        ("mosaic predict probe new.csv --column body", "a column of a file"),
        (
            "mosaic predict probe --explain 0 --format csv < new.txt > answers.csv",
            "one text a line",
        ),
        ("mosaic predict probe new.jsonl --format jsonl | head", "as JSON, latents included"),
    ),
    "doctor": (
        ("mosaic doctor", "findings with their remedies; exit code 0 when `mini` can run"),
        ("mosaic doctor --build-dir scratch/build", "with the results in another folder"),
    ),
}

EXIT_CODES = """exit codes:
  0 done   1 failed   2 wrong usage or settings   3 something could not be reached
  4 data that is not what it should be   5 no room (disk, memory)   130 interrupted
"""


def epilog(verb: str) -> str:
    """The examples of a verb as aligned lines."""
    examples = EXAMPLES[verb]
    width = max(len(command) for command, _ in examples)
    rows = (f"  {command:{width}}  {what}" for command, what in examples)
    return "\n".join(["examples:", *rows, ""])
