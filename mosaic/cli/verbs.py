"""What each verb of the command line does; nothing heavy is imported before it is needed.

The first line of a verb's docstring is its help."""

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mosaic.errors import ConfigError, MosaicError


def _workspace(args: argparse.Namespace, train: bool = True) -> Any:
    """The workspace; `train` makes the SAEs that its profile asks to be trained and lacks."""
    from mosaic.config.workspace import open_workspace

    workspace = open_workspace(args.profile, args.build_dir, getattr(args, "engine", "local"))
    models = workspace.profile.models
    if train and any(sae.train is not None for model in models for sae in model.saes):
        from mosaic.models.train_saes import train_missing

        train_missing(workspace)
    return workspace


def _write_bundle(args: argparse.Namespace, results: Any) -> None:
    """Write scored cells as a bundle, with the command as it was understood."""
    from mosaic.evidence.bundles import write_bundle
    from mosaic.evidence.pack import command_line
    from mosaic.sweep.results import to_scores

    options = {k: v for k, v in vars(args).items() if k not in ("verb", "action")}
    command = command_line(args.verb, [], options, {})
    print(write_bundle(Path(args.out), to_scores(results), args.title, command))


def do_run(args: argparse.Namespace) -> None:
    """Execute notebooks by papermill."""
    from mosaic.publish.run import run_chapters

    for path in run_chapters(args.notebooks, _workspace(args), dict(args.parameters)):
        print(path)


def do_figure(args: argparse.Namespace) -> None:
    """Execute the notebook that draws a figure."""
    from mosaic.figures import CHAPTER_OF_FIGURE
    from mosaic.publish.run import run_chapters

    if args.figure not in CHAPTER_OF_FIGURE:
        raise ConfigError(f"No figure {args.figure!r}; there are {sorted(CHAPTER_OF_FIGURE)}.")
    workspace = _workspace(args)
    run_chapters([CHAPTER_OF_FIGURE[args.figure]], workspace, dict(args.parameters))
    for ending in ("svg", "png", "csv"):
        print(workspace.figures / f"{args.figure}.{ending}")


def do_sweep(args: argparse.Namespace) -> None:
    """Score text baselines and write them as a bundle."""
    from mosaic.sweep.cells import Cell
    from mosaic.sweep.run import score_cells

    workspace = _workspace(args, train=False)
    cells = [
        Cell(task, args.feature, protocol=protocol, seed=seed)
        for task in args.tasks or workspace.profile.tasks
        for protocol in args.protocols
        # The published protocol knows one split and TF-IDF is deterministic: one seed says all.
        for seed in (workspace.profile.seeds if protocol == "nested" else (0,))
    ]
    _write_bundle(args, score_cells(cells, workspace))


def do_transfer(args: argparse.Namespace) -> None:
    """TF-IDF between all languages of a task, as a bundle."""
    from mosaic.experiments.transfer import languages_of, transfer_cells
    from mosaic.sweep.run import score_cells

    workspace = _workspace(args, train=False)
    profile = workspace.profile
    pairs = transfer_cells(profile, languages_of(args.task, profile), seeds=profile.seeds)
    _write_bundle(args, score_cells(pairs, workspace))


def do_bundle(args: argparse.Namespace) -> None:
    """Pack the scores and figures of a finished run."""
    from mosaic.evidence.pack import pack_run

    print(pack_run(_workspace(args, train=False), args.title, Path(args.out)))


def do_extract(args: argparse.Namespace) -> None:
    """Fill the feature store, or say what that would cost."""
    from mosaic.data.load import load_task
    from mosaic.extraction.cost import cost_table, estimate
    from mosaic.extraction.extract import extract_all, models_with_tasks
    from mosaic.sweep.cost import probe_seconds

    workspace = _workspace(args, train=not args.dry_run)
    profile = workspace.profile
    work = models_with_tasks(profile, args.models, args.tasks)
    if args.dry_run:
        print(cost_table(estimate(profile, work)))
        hours = sum(probe_seconds(profile, model, tasks) for model, tasks in work) / 3600
        print(f"Probes of the paper's grid on these features: about {hours:.1f} CPU hours a seed.")
        return
    load = cache(lambda key: load_task(key, profile))
    for model, tasks in work:
        data = [load(task.key) for task in tasks]
        found = extract_all(model, data, profile, store=workspace.store, engine=args.engine)
        for task, features in zip(tasks, found, strict=True):
            print(f"{task.key}\t{model.name}\t{features.n_docs} documents")


def do_model_from_gguf(args: argparse.Namespace) -> None:
    """A GGUF file as a folder in safetensors, dequantized."""
    from mosaic.models.gguf import convert_gguf

    print(convert_gguf(Path(args.file), Path(args.out), args.sha256))


def do_mini_build(args: argparse.Namespace) -> None:
    """Make tasks, models and SAEs anew from their seed."""
    from mosaic_mini.build import build_world

    build_world(args.folder)


def do_mini_check(args: argparse.Namespace) -> None:
    """What its tasks and features show, as a table."""
    from mosaic.storage.manifest import MINI
    from mosaic_mini.check import check_world, format_table, open_world

    rows = check_world(open_world(args.build_dir, Path(args.folder or MINI)))
    print(format_table(rows), end="")
    if failed := [row.what for row in rows if row.holds is False]:
        raise MosaicError(f"{len(failed)} demands do not hold: {', '.join(failed)}.")


def do_book(args: argparse.Namespace) -> None:
    """Run every notebook and build the book."""
    from mosaic.publish.build import build_book
    from mosaic.publish.run import run_chapters

    workspace = _workspace(args, train=not args.no_run)
    if not args.no_run:
        run_chapters([], workspace, {})
    print("building the book ...", flush=True)
    index = build_book(workspace)
    print(f"The book is ready. Open it in a browser: {index.resolve().as_uri()}")


def _say(line: str) -> None:
    """What is not the result goes to standard error, and steers no terminal."""
    from mosaic.cli.predictions import printable

    print(printable(line), file=sys.stderr)


def do_fit(args: argparse.Namespace) -> None:
    """Choose a probe by cross-validation and save it."""
    from mosaic.experiments.own_data import controls_report, fit_probe, fit_report
    from mosaic.probes.saved import save_probe

    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise ConfigError(f"{args.out} is a file; name a folder for the probe.")
    workspace = _workspace(args)
    saved = fit_probe(workspace, args.task, args.models, args.seed, _say)
    print(fit_report(saved))
    if args.controls:
        print(controls_report(workspace, saved))
    print(save_probe(Path(args.out), saved))


def do_predict(args: argparse.Namespace) -> None:
    """Apply a saved probe to new texts, and say why."""
    from mosaic.cli.predictions import prediction_lines, printable
    from mosaic.data.own_files import read_texts
    from mosaic.experiments import own_data
    from mosaic.probes.saved import load_probe

    saved = load_probe(Path(args.probe))
    texts = read_texts(args.texts, args.column or saved.card["task"]["input_field"])
    if blank := sum(not text.strip() for text in texts):
        _say(f"warning: {blank} of {len(texts)} texts are blank; their answers say nothing")
    steers = sys.stdout.isatty()  # a file keeps every character, a terminal must not obey them
    found = own_data.predict(saved, texts, args.profile, args.explain, args.build_dir, _say)
    for line in prediction_lines(found, args.format):
        print(printable(line) if steers else line)


def do_doctor(args: argparse.Namespace) -> int:
    """What this machine can run, and why."""
    from mosaic.cli.doctor import report

    return report(args.build_dir)
