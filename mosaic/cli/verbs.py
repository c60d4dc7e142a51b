"""What each verb of the command line does; nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from mosaic.errors import ConfigError, MosaicError


def _workspace(args: argparse.Namespace) -> Any:
    from mosaic.config.workspace import open_workspace

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
        from mosaic.models.train_saes import train_missing

        train_missing(workspace)
    return workspace


def _run(args: argparse.Namespace) -> None:
    from mosaic.publish.run import run_chapters

    workspace = _ready_workspace(args)
    for path in run_chapters(args.notebooks, workspace, dict(args.parameters)):
        print(path)


def _figure(args: argparse.Namespace) -> None:
    from mosaic.figures import CHAPTER_OF_FIGURE
    from mosaic.publish.run import run_chapters

    if args.figure not in CHAPTER_OF_FIGURE:
        raise ConfigError(f"No figure {args.figure!r}; there are {sorted(CHAPTER_OF_FIGURE)}.")
    workspace = _ready_workspace(args)
    run_chapters([CHAPTER_OF_FIGURE[args.figure]], workspace, dict(args.parameters))
    for ending in ("svg", "png", "csv"):
        print(workspace.figures / f"{args.figure}.{ending}")


def _sweep(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.evidence.bundles import write_bundle
    from mosaic.sweep.cells import Cell
    from mosaic.sweep.results import to_scores
    from mosaic.sweep.run import score_cells

    workspace = _workspace(args)
    specs = [
        Cell(task, args.feature, protocol=protocol, seed=seed)
        for task in args.tasks or workspace.profile.tasks
        for protocol in args.protocols
        # The published protocol knows one split and TF-IDF is deterministic: one seed says all.
        for seed in (workspace.profile.seeds if protocol == "nested" else (0,))
    ]
    table = to_scores(score_cells(specs, workspace))
    command = _command(args)
    print(write_bundle(Path(args.out), table, args.title, command))


def _transfer(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.evidence.bundles import write_bundle
    from mosaic.experiments.transfer import languages_of, transfer_cells
    from mosaic.sweep.results import to_scores
    from mosaic.sweep.run import score_cells

    workspace = _workspace(args)
    profile = workspace.profile
    pairs = transfer_cells(profile, languages_of(args.task, profile), seeds=profile.seeds)
    table = to_scores(score_cells(pairs, workspace))
    command = _command(args)
    print(write_bundle(Path(args.out), table, args.title, command))


def _bundle(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.evidence.pack import pack_run

    print(pack_run(_workspace(args), args.title, Path(args.out)))


def _extract(args: argparse.Namespace) -> None:
    from mosaic.data.load import load_task
    from mosaic.extraction.cost import cost_table, estimate
    from mosaic.extraction.extract import extract

    workspace = _workspace(args)
    profile = workspace.profile
    if args.dry_run:
        print(cost_table(estimate(profile, args.models, args.tasks)))
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
    from mosaic_mini.build import build_world

    build_world(args.folder)


def _mini_check(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.storage.manifest import MINI
    from mosaic_mini.check import check_world, format_table, open_world

    rows = check_world(open_world(args.build_dir, Path(args.folder or MINI)))
    print(format_table(rows), end="")
    if failed := [row.what for row in rows if row.holds is False]:
        raise MosaicError(f"{len(failed)} demands do not hold: {', '.join(failed)}.")


def _book(args: argparse.Namespace) -> None:
    from mosaic.publish.build import build_book
    from mosaic.publish.run import run_chapters

    workspace = _workspace(args) if args.no_run else _ready_workspace(args)
    if not args.no_run:
        run_chapters([], workspace, {})
    print("building the book ...", flush=True)
    index = build_book(workspace)
    print(f"The book is ready. Open it in a browser: {index.resolve().as_uri()}")


def _fit(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.experiments.own_data import fit_probe, fit_report
    from mosaic.probes.saved import save_probe

    saved = fit_probe(_ready_workspace(args), args.task, args.models, args.seed)
    print(fit_report(saved))
    print(save_probe(Path(args.out), saved))


def _predict(args: argparse.Namespace) -> None:
    from pathlib import Path

    from mosaic.cli.predictions import prediction_lines, printable
    from mosaic.data.own_files import read_texts
    from mosaic.experiments.own_data import predict
    from mosaic.probes.saved import load_probe

    saved = load_probe(Path(args.probe))
    texts = read_texts(args.texts, args.column or saved.card["task"]["input_field"])
    steers = sys.stdout.isatty()  # a file keeps every character, a terminal must not obey them
    found = predict(saved, texts, args.profile, args.explain, args.build_dir)
    for line in prediction_lines(found, args.format):
        print(printable(line) if steers else line)


def _doctor(args: argparse.Namespace) -> int:
    from mosaic.cli.doctor import report

    return report(args.build_dir)
