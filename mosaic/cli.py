"""The command line: one verb per thing a reader does, none of which imports torch to say so."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any

import yaml

from mosaic import __version__
from mosaic.cli_examples import EXAMPLES, EXIT_CODES, epilog
from mosaic.engines import ENGINES
from mosaic.errors import ConfigError, MosaicError


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
        "--profile", default="mini", help="mini, encoder, small, paper or a YAML file (%(default)s)"
    )
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument(
        "--engine", choices=ENGINES, default="local", help="where it runs (%(default)s)"
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
    sweep.add_argument("--feature", choices=("tfidf", "length", "base_rate"), default="tfidf")
    protocols = ("published", "nested")
    sweep.add_argument("--protocols", nargs="+", choices=protocols, default=["nested"])
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
    predict.add_argument("--format", choices=("table", "csv", "jsonl"), default="table")
    predict.add_argument("--profile", help="where model and SAE are; default: as fitted")
    predict.set_defaults(action=_predict)

    doctor = verbs.add_parser("doctor", parents=[build], help="what this machine can run, and why")
    doctor.set_defaults(action=_doctor)

    for name, verb in verbs.choices.items():
        if name in EXAMPLES:
            verb.epilog = epilog(name)
            verb.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _workspace(args: argparse.Namespace) -> Any:
    from mosaic.workspace import open_workspace

    return open_workspace(args.profile, args.build_dir, getattr(args, "engine", "local"))


def _command(args: argparse.Namespace) -> str:
    """The command line as a manifest records it: without the folder it happened to build in."""
    words = list(args.argv)
    if "--build-dir" in words:
        at = words.index("--build-dir")
        del words[at : at + 2]
    return "mosaic " + shlex.join(words)


def _ready_workspace(args: argparse.Namespace) -> Any:
    """The workspace with every SAE that its profile asks to be trained."""
    workspace = _workspace(args)
    if any(sae.train is not None for model in workspace.profile.models for sae in model.saes):
        from mosaic.trained import train_missing

        train_missing(workspace)
    return workspace


def _run(args: argparse.Namespace) -> None:
    from mosaic import runner

    workspace = _ready_workspace(args)
    for path in runner.run(args.notebooks, workspace, dict(args.parameters)):
        print(path)


def _figure(args: argparse.Namespace) -> None:
    from mosaic import runner
    from mosaic.figures import CHAPTER_OF_FIGURE

    if args.figure not in CHAPTER_OF_FIGURE:
        raise ConfigError(f"No figure {args.figure!r}; there are {sorted(CHAPTER_OF_FIGURE)}.")
    workspace = _ready_workspace(args)
    runner.run([CHAPTER_OF_FIGURE[args.figure]], workspace, dict(args.parameters))
    for ending in ("svg", "png", "csv"):
        print(workspace.figures / f"{args.figure}.{ending}")


def _sweep(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic import bundles
    from mosaic.grids import Spec
    from mosaic.results import to_table
    from mosaic.sweep import score

    workspace = _workspace(args)
    specs = [
        Spec(task, args.feature, protocol=protocol, seed=seed)
        for task in args.tasks or workspace.profile.tasks
        for protocol in args.protocols
        # The published protocol knows one split and TF-IDF is deterministic: one seed says all.
        for seed in (workspace.profile.seeds if protocol == "nested" else (0,))
    ]
    table = to_table(score(specs, workspace))
    command = _command(args)
    print(bundles.write_bundle(Path(args.out), table, args.title, command))


def _transfer(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic import bundles
    from mosaic.results import to_table
    from mosaic.transfer import cells, languages_of, score

    workspace = _workspace(args)
    profile = workspace.profile
    pairs = cells(profile, languages_of(args.task, profile), seeds=profile.seeds)
    table = to_table(score(pairs, workspace))
    command = _command(args)
    print(bundles.write_bundle(Path(args.out), table, args.title, command))


def _bundle(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.packing import pack

    print(pack(_workspace(args), args.title, Path(args.out)))


def _extract(args: argparse.Namespace) -> None:
    from mosaic import plan
    from mosaic.extract import extract
    from mosaic.tasks import load_task

    workspace = _workspace(args)
    profile = workspace.profile
    if args.dry_run:
        print(plan.table(plan.dry_run(profile, args.models, args.tasks)))
        return
    _ready_workspace(args)
    models = [profile.model(n) for n in args.models] if args.models else profile.text_models
    for key in args.tasks or profile.tasks:
        data = load_task(key, profile)
        for model in models if data.task.modality == "text" else ():
            store = workspace.cache / "features"
            features = extract(model, data, profile, store=store, engine=args.engine)
            print(f"{key}\t{model.name}\t{features.n_docs} documents")


def _mini_build(args: argparse.Namespace) -> None:
    from mosaic.mini.build import build

    build(args.folder)


def _mini_check(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.integrity import MINI
    from mosaic.mini.check import check, format_table, open_world

    rows = check(open_world(args.build_dir, Path(args.folder or MINI)))
    print(format_table(rows), end="")
    if failed := [row.what for row in rows if row.holds is False]:
        raise MosaicError(f"{len(failed)} demands do not hold: {', '.join(failed)}.")


def _book(args: argparse.Namespace) -> None:
    from mosaic import runner

    workspace = _workspace(args) if args.no_run else _ready_workspace(args)
    if not args.no_run:
        runner.run([], workspace, {})
    print("building the book ...", flush=True)
    index = runner.build_book(workspace)
    print(f"The book is ready. Open it in a browser: {index.resolve().as_uri()}")


def _fit(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic import saved_probe
    from mosaic.predict import fit_probe, summary

    saved = fit_probe(_ready_workspace(args), args.task, args.models, args.seed)
    print(summary(saved))
    print(saved_probe.save(Path(args.out), saved))


def _predict(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic import saved_probe
    from mosaic.predict import predict
    from mosaic.predictions import lines, printable
    from mosaic.text_files import read_texts

    saved = saved_probe.load(Path(args.probe))
    texts = read_texts(args.texts, args.column or saved.card["task"]["input_field"])
    steers = sys.stdout.isatty()  # a file keeps every character, a terminal must not obey them
    found = predict(saved, texts, args.profile, args.explain, args.build_dir)
    for line in lines(found, args.format):
        print(printable(line) if steers else line)


def _doctor(args: argparse.Namespace) -> int:
    from mosaic import doctor

    return doctor.report(args.build_dir)


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
