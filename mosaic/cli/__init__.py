"""The command line: one verb per thing a reader does, none of which imports torch to say so."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import yaml

from mosaic import __version__
from mosaic.cli.examples import EXAMPLES, EXIT_CODES, epilog
from mosaic.cli.verbs import (
    _book,
    _bundle,
    _doctor,
    _extract,
    _figure,
    _fit,
    _mini_build,
    _mini_check,
    _predict,
    _run,
    _sweep,
    _transfer,
)
from mosaic.config import choices
from mosaic.errors import MosaicError


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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mosaic",
        description="Rerun, check and extend the MOSAIC paper's experiments.",
        epilog=f"{epilog('mosaic')}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mosaic {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    build = argparse.ArgumentParser(add_help=False)
    build.add_argument(
        "--build-dir", default="_build", help="folder for everything made (%(default)s)"
    )
    common = argparse.ArgumentParser(add_help=False, parents=[build])
    common.add_argument(
        "--profile",
        default="mini",
        help=f"{', '.join(choices.PRICED_PROFILES)} or a YAML file (%(default)s)",
    )
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument(
        "--engine", choices=choices.ENGINES, default="local", help="where it runs (%(default)s)"
    )
    params = argparse.ArgumentParser(add_help=False)
    params.add_argument(
        "-p",
        dest="parameters",
        type=parameter,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a notebook parameter; may be repeated",
    )

    run = verbs.add_parser("run", parents=[common, params], help="execute notebooks by papermill")
    run.add_argument("notebooks", nargs="*", help="names or leading parts; none means all")
    run.set_defaults(action=_run)

    figure = verbs.add_parser(
        "figure", parents=[common, params], help="execute the notebook that draws a figure"
    )
    figure.add_argument("figure", help="such as fig-baselines")
    figure.set_defaults(action=_figure)

    sweep = verbs.add_parser(
        "sweep", parents=[common, engine], help="score text baselines and write them as a bundle"
    )
    sweep.add_argument("--tasks", nargs="+", metavar="KEY", help="default: the profile's tasks")
    sweep.add_argument("--feature", choices=choices.TEXT_BASELINES, default="tfidf")
    sweep.add_argument("--protocols", nargs="+", choices=choices.PROTOCOLS, default=["nested"])
    sweep.add_argument("--title", default="text baselines", help="what the bundle is called")
    sweep.add_argument("--out", required=True, metavar="FOLDER", help="folder of the bundle")
    sweep.set_defaults(action=_sweep)

    transfer = verbs.add_parser(
        "transfer", parents=[common], help="TF-IDF between all languages of a task, as a bundle"
    )
    transfer.add_argument("--task", required=True, help="name of a task in several languages")
    transfer.add_argument("--title", default="TF-IDF transfer", help="what the bundle is called")
    transfer.add_argument("--out", required=True, metavar="FOLDER", help="folder of the bundle")
    transfer.set_defaults(action=_transfer)

    bundle = verbs.add_parser(
        "bundle", parents=[common], help="pack the scores and figures of a finished run"
    )
    bundle.add_argument("--title", required=True, help="what the bundle is called")
    bundle.add_argument("--out", required=True, metavar="FOLDER", help="folder of the bundle")
    bundle.set_defaults(action=_bundle)

    extract = verbs.add_parser(
        "extract",
        parents=[common, engine],
        help="fill the feature store, or say what that would cost",
    )
    extract.add_argument("--tasks", nargs="+", metavar="KEY", help="default: the profile's tasks")
    extract.add_argument("--models", nargs="+", metavar="NAME", help="default: all text models")
    extract.add_argument("--dry-run", action="store_true", help="print the cost, load no weights")
    extract.set_defaults(action=_extract)

    mini = verbs.add_parser("mini", help="the mini world that ships with the repository")
    steps = mini.add_subparsers(dest="step", required=True, metavar="STEP")
    make = steps.add_parser("build", help="make tasks, models and SAEs anew from their seed")
    make.add_argument("folder", help="an empty or new folder")
    make.set_defaults(action=_mini_build)
    check = steps.add_parser(
        "check", parents=[build], help="what its tasks and features show, as a table"
    )
    check.add_argument("folder", nargs="?", help="a built world; none means the shipped one")
    check.set_defaults(action=_mini_check)

    book = verbs.add_parser("book", parents=[common], help="run every notebook and build the book")
    book.add_argument("--no-run", action="store_true", help="use the notebooks already executed")
    book.set_defaults(action=_book)

    fit = verbs.add_parser(
        "fit", parents=[common], help="choose a probe by cross-validation and save it"
    )
    fit.add_argument("--task", metavar="KEY", help="default: the profile's first task")
    fit.add_argument("--models", nargs="+", metavar="NAME", help="default: all text models")
    fit.add_argument("--seed", type=whole, default=0, help="of the split and folds (%(default)s)")
    fit.add_argument("--out", required=True, metavar="FOLDER", help="folder of the probe")
    fit.set_defaults(action=_fit)

    predict = verbs.add_parser(
        "predict", parents=[build], help="apply a saved probe to new texts, and say why"
    )
    predict.add_argument("probe", help="folder that `mosaic fit` wrote")
    predict.add_argument(
        "texts", nargs="?", default="-", help="CSV, TSV, JSONL, or one text a line"
    )
    predict.add_argument("--column", metavar="NAME", help="of the texts; default: as fitted")
    predict.add_argument(
        "--explain", type=whole, default=3, metavar="N", help="latents named per text"
    )
    predict.add_argument("--format", choices=choices.PREDICTION_FORMATS, default="table")
    predict.add_argument("--profile", help="where model and SAE are; default: as fitted")
    predict.set_defaults(action=_predict)

    doctor = verbs.add_parser("doctor", parents=[build], help="what this machine can run, and why")
    doctor.set_defaults(action=_doctor)

    for name, verb in verbs.choices.items():
        if name in EXAMPLES:
            verb.epilog = epilog(name)
            verb.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; a MosaicError prints its sentence and returns its exit code."""
    args = build_parser().parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    try:
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
