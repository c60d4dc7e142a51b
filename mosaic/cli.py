"""The command line: one verb per thing a reader does, none of which imports torch to say so."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from mosaic import __version__
from mosaic.errors import ConfigError, MosaicError

EXAMPLES = """examples:
  mosaic run                               every notebook on the shipped mini models
  mosaic run 04 -p "tasks=[safety]"        one notebook, one parameter changed
  mosaic figure fig-baselines              the notebook that draws one figure
  mosaic book                              run every notebook, then build the book
"""


def parameter(text: str) -> tuple[str, Any]:
    """`name=value` with the value read as YAML, as papermill's -p does."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, yaml.safe_load(value)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mosaic",
        description="Rerun, check and extend the MOSAIC paper's experiments.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mosaic {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--profile", default="mini", help="mini, encoder, small, paper or a YAML file (%(default)s)"
    )
    common.add_argument(
        "--build-dir", default="_build", help="folder for everything made (%(default)s)"
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
        "sweep", parents=[common], help="score text baselines and write them as a bundle"
    )
    sweep.add_argument("--tasks", nargs="+", metavar="KEY", help="default: the profile's tasks")
    sweep.add_argument("--feature", choices=("tfidf", "length", "base_rate"), default="tfidf")
    sweep.add_argument("--protocols", nargs="+", choices=("published", "nested"), default=["nested"])
    sweep.add_argument("--title", default="text baselines", help="what the bundle is called")
    sweep.add_argument("--out", required=True, metavar="FOLDER", help="folder of the bundle")
    sweep.set_defaults(action=_sweep)

    book = verbs.add_parser("book", parents=[common], help="run every notebook and build the book")
    book.add_argument("--no-run", action="store_true", help="use the notebooks already executed")
    book.set_defaults(action=_book)
    return parser


def _workspace(args: argparse.Namespace) -> Any:
    from mosaic.workspace import open_workspace

    return open_workspace(args.profile, args.build_dir)


def _run(args: argparse.Namespace) -> None:
    from mosaic import runner

    for path in runner.run(args.notebooks, _workspace(args), dict(args.parameters)):
        print(path)


def _figure(args: argparse.Namespace) -> None:
    from mosaic import runner
    from mosaic.figures import CHAPTER_OF_FIGURE

    if args.figure not in CHAPTER_OF_FIGURE:
        raise ConfigError(f"No figure {args.figure!r}; there are {sorted(CHAPTER_OF_FIGURE)}.")
    workspace = _workspace(args)
    runner.run([CHAPTER_OF_FIGURE[args.figure]], workspace, dict(args.parameters))
    for ending in ("svg", "png", "csv"):
        print(workspace.figures / f"{args.figure}.{ending}")


def _sweep(args: argparse.Namespace) -> None:
    import shlex
    from pathlib import Path

    from mosaic import bundles
    from mosaic.sweep import Spec, score, to_table

    workspace = _workspace(args)
    specs = [
        Spec(task, args.feature, protocol=protocol, seed=seed)
        for task in args.tasks or workspace.profile.tasks
        for protocol in args.protocols
        # The published protocol knows one split and TF-IDF is deterministic: one seed says all.
        for seed in (workspace.profile.seeds if protocol == "nested" else (0,))
    ]
    table = to_table(score(specs, workspace))
    command = "mosaic " + shlex.join(args.argv)
    print(bundles.write_bundle(Path(args.out), table, args.title, command))


def _book(args: argparse.Namespace) -> None:
    from mosaic import runner

    workspace = _workspace(args)
    if not args.no_run:
        runner.run([], workspace, {})
    print("building the book ...", flush=True)
    index = runner.build_book(workspace)
    print(f"The book is ready. Open it in a browser: {index.resolve().as_uri()}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; a MosaicError prints its sentence and returns its exit code."""
    args = build_parser().parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    try:
        args.action(args)
    except MosaicError as error:
        print(f"mosaic: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mosaic: interrupted; what was computed is kept, run again to go on", file=sys.stderr)
        return 130
    return 0
