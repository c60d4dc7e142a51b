"""The command line: one verb per thing a reader does, none of which imports torch to say so."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import yaml

from mosaic import __version__
from mosaic.cli import verbs
from mosaic.config import choices
from mosaic.errors import MosaicError

EXIT_CODES = """exit codes:
  0 done   1 failed   2 wrong usage or settings   3 something could not be reached
  4 data that is not what it should be   5 no room (disk, memory)   130 interrupted
"""


def parameter(text: str) -> tuple[str, Any]:
    """`name=value` with the value read as YAML, as papermill's -p does."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not a YAML value") from error


def whole(text: str) -> int:
    """A whole number, not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _parser(make: Callable[..., argparse.ArgumentParser], **options: Any) -> Any:
    """A parser that takes no abbreviations, with its `examples` (command, what it does) as lines
    below its help."""
    examples = options.pop("examples", ())
    width = max((len(command) for command, _ in examples), default=0)
    lines = ["examples:", *(f"  {command:{width}}  {what}" for command, what in examples), ""]
    options["epilog"] = "\n".join([*(lines if examples else []), options.pop("after", "")])
    how = argparse.RawDescriptionHelpFormatter
    return make(allow_abbrev=False, formatter_class=how, **options)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs, each with what to type and the function that does it."""
    parser = _parser(
        argparse.ArgumentParser,
        prog="mosaic",
        description="Rerun, check and extend the MOSAIC paper's experiments.",
        examples=(
            ("mosaic doctor", "what this machine can run, and why not more"),
            ("mosaic run", "every notebook on the shipped mini models"),
            ("mosaic figure fig-layers -p 'tasks=[sentiment-en]'", "one figure, of another task"),
            ("mosaic fit --profile my.yaml --out probe", "a probe of your own texts"),
            ("mosaic predict probe new.txt", "its answers for new texts, and why"),
            ("mosaic book", "run every notebook, then build the book"),
        ),
        after=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"mosaic {__version__}")
    every = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, does: Any, parents: Any, *examples: Any, among: Any = every) -> Any:
        """A parser with the function that does it, whose first line is the help; with its help
        alone where the verb has steps."""
        about = does if isinstance(does, str) else (does.__doc__ or does.__name__).rstrip(".")
        about = about if about[1].isupper() else about[0].lower() + about[1:]
        made = _parser(
            partial(among.add_parser, name), help=about, parents=parents, examples=examples
        )
        made.set_defaults(action=does)
        return made

    plain = partial(argparse.ArgumentParser, add_help=False)
    build, profile, engine, params, packed = plain(), plain(), plain(), plain(), plain()
    about = "folder for everything made (%(default)s)"
    build.add_argument("--build-dir", default="_build", help=about)
    about = f"{', '.join(choices.PRICED_PROFILES)} or a YAML file (%(default)s)"
    profile.add_argument("--profile", default="mini", help=about)
    about = "where it runs (%(default)s)"
    engine.add_argument("--engine", choices=choices.ENGINES, default="local", help=about)
    about = "set a notebook parameter; may be repeated"
    listed: Any = {"action": "append", "default": [], "metavar": "NAME=VALUE"}
    params.add_argument("-p", dest="parameters", type=parameter, help=about, **listed)
    packed.add_argument("--out", required=True, metavar="FOLDER", help="folder that is written")
    common = [build, profile]

    run = verb(
        *("run", verbs.do_run, [*common, engine, params]),
        ("mosaic run", "all notebooks on the mini models"),
        ("mosaic run 02 04 --profile my.yaml", "two notebooks on own data or models"),
        ("mosaic run 04 -p 'tasks=[safety-en]'", "one parameter changed"),
    )
    run.add_argument("notebooks", nargs="*", help="names or leading parts; none means all")

    figure = verb(
        *("figure", verbs.do_figure, [*common, engine, params]),
        ("mosaic figure fig-baselines", "SVG, PNG and CSV below _build/runs/mini/figures"),
        ("mosaic figure fig-layers -p 'tasks=[sentiment-en]'", "of another task"),
        ("mosaic figure fig-layers --profile small", "of other models"),
    )
    figure.add_argument("figure", help="such as fig-baselines")

    sweep = verb(
        *("sweep", verbs.do_sweep, [*common, engine, packed]),
        ("mosaic sweep --profile encoder --out runs/tfidf", "TF-IDF on real text as a bundle"),
        ("mosaic sweep --tasks sentiment-en --feature length --out runs/length", "one task"),
    )
    sweep.add_argument("--tasks", nargs="+", metavar="KEY", help="default: the profile's tasks")
    sweep.add_argument("--feature", choices=choices.TEXT_BASELINES, default="tfidf")
    sweep.add_argument("--protocols", nargs="+", choices=choices.PROTOCOLS, default=["nested"])
    sweep.add_argument("--title", default="text baselines", help="what the bundle is called")

    transfer = verb(
        *("transfer", verbs.do_transfer, [*common, engine, packed]),
        ("mosaic transfer --task toxicity --out runs/transfer", "all pairs of its languages"),
    )
    transfer.add_argument("--task", required=True, help="name of a task in several languages")
    transfer.add_argument("--title", default="TF-IDF transfer", help="what the bundle is called")

    bundle = verb("bundle", verbs.do_bundle, [*common, packed])
    bundle.add_argument("--title", required=True, help="what the bundle is called")

    extract = verb(
        *("extract", verbs.do_extract, [*common, engine]),
        ("mosaic extract --profile paper --dry-run", "what the paper's extraction costs here"),
        ("mosaic extract --tasks sentiment-en --models mini-small", "one task, one model"),
    )
    extract.add_argument("--tasks", nargs="+", metavar="KEY", help="default: the profile's tasks")
    extract.add_argument(
        "--models", nargs="+", metavar="NAME", help="default: all readers of the tasks"
    )
    extract.add_argument("--dry-run", action="store_true", help="print the cost, load no weights")

    mini = verb(
        *("mini", "the mini world that ships with the repository", []),
        ("mosaic mini check", "what the shipped tasks and features show"),
        ("mosaic mini build world", "make them anew in the folder `world`"),
    )
    steps = mini.add_subparsers(dest="step", required=True, metavar="STEP")
    make = verb("build", verbs.do_mini_build, [], among=steps)
    make.add_argument("folder", help="an empty or new folder")
    check = verb("check", verbs.do_mini_check, [build], among=steps)
    check.add_argument("folder", nargs="?", help="a built world; none means the shipped one")

    model = verb(
        *("model", "language models from other formats", []),
        ("mosaic model from-gguf model.gguf --out models/own/model", "as a folder in safetensors"),
    )
    kinds = model.add_subparsers(dest="step", required=True, metavar="STEP")
    gguf = verb("from-gguf", verbs.do_model_from_gguf, [packed], among=kinds)
    gguf.add_argument("file", help="the GGUF file")
    gguf.add_argument("--sha256", metavar="HEX", help="what the file's checksum must be")

    book = verb(
        *("book", verbs.do_book, [*common, engine]),
        ("mosaic book", "run every notebook on mini and build the pages"),
        ("mosaic book --no-run", "build the pages from the notebooks already run"),
    )
    book.add_argument("--no-run", action="store_true", help="use the notebooks already executed")

    fit = verb(
        *("fit", verbs.do_fit, [*common, engine, packed]),
        ("mosaic fit --profile my.yaml --out probe", "the first task of an own file"),
        ("mosaic fit --task toxicity-en --models mini-small --out probe", "a shipped task"),
        ("mosaic fit --profile my.yaml --out probe --controls", "and what the SAE adds"),
    )
    fit.add_argument("--task", metavar="KEY", help="default: the profile's first task")
    fit.add_argument("--models", nargs="+", metavar="NAME", help="default: all text models")
    about = "compare with the mean hidden state and a random dictionary on the test part"
    fit.add_argument("--controls", action="store_true", help=about)
    fit.add_argument("--seed", type=whole, default=0, help="of the split and folds (%(default)s)")

    command = "mosaic predict probe --explain 0 --format csv < new.txt > answers.csv"
    predict = verb(
        *("predict", verbs.do_predict, [build]),
        ("mosaic predict probe new.csv --column body", "a column of a file"),
        (command, "one text a line"),
        ("mosaic predict probe new.jsonl --format jsonl | head", "as JSON, latents included"),
    )
    predict.add_argument("probe", help="folder that `mosaic fit` wrote")
    texts = "CSV, TSV, JSONL, or one text a line"
    predict.add_argument("texts", nargs="?", default="-", help=texts)
    predict.add_argument("--column", metavar="NAME", help="of the texts; default: as fitted")
    predict.add_argument(
        "--explain", type=whole, default=3, metavar="N", help="latents named per text"
    )
    predict.add_argument("--format", choices=choices.PREDICTION_FORMATS, default="table")
    predict.add_argument("--profile", help="where model and SAE are; default: as fitted")

    verb(
        *("doctor", verbs.do_doctor, [build]),
        ("mosaic doctor", "findings with their remedies; exit code 0 when `mini` can run"),
        ("mosaic doctor --build-dir scratch/build", "with the results in another folder"),
    )
    return parser


@contextmanager
def warnings_once() -> Iterator[None]:
    """Each warning of the package goes to standard error, and once however often it is met."""
    handler, seen = logging.StreamHandler(), set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        known = record.getMessage() in seen
        seen.add(record.getMessage())
        return not known

    handler.addFilter(is_new)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("mosaic")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def main(argv: list[str] | None = None) -> int:
    """Entry point; a MosaicError prints its sentence and returns its exit code."""
    args = build_parser().parse_args(argv)
    try:
        with warnings_once():
            code = args.action(args) or 0
        sys.stdout.flush()
    except MosaicError as error:
        print(f"mosaic: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mosaic: interrupted; what was computed is kept, run again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code
