"""Does the mini world mean anything: the table of what its tasks and features show (ours).

Every number is made by the code behind the chapters, on more documents: the paper's recipe with the
wide SAE (middle layer of the small model, sums over tokens, above 1) beside the best TF-IDF, both
chosen by inner cross-validation, mean over three splits.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mosaic.config.profiles import ModelSpec, Profile
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.data.questions import load_questions
from mosaic.experiments.behaviour import correctness, question_tasks, score_behaviour
from mosaic.experiments.images import image_tasks, vision_model, with_untrained_connector
from mosaic.experiments.transfer import languages_of
from mosaic.scores.intervals import bootstrap_interval
from mosaic.scores.markdown import markdown_table
from mosaic.storage.manifest import MINI
from mosaic.sweep.cells import Cell, recipe_cells
from mosaic.sweep.results import ScoredCell
from mosaic.sweep.run import score_cells

SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}

Demand = tuple[str, float]

BEYOND_WORDS = ("safety", "toxicity", "sentiment")
"""Roles of the tasks on which SAE features must beat TF-IDF."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    n_docs: int
    """Test documents of a split; all questions where nothing is fitted."""
    demands: tuple[Demand, ...] = ()
    """Sign and bound of each; none where the value is only shown."""

    @property
    def holds(self) -> bool | None:
        """Whether all demands are met; None where there is none."""
        met = [SIGNS[sign](self.value, bound) for sign, bound in self.demands]
        return all(met) if met else None


def open_world(
    build_dir: str | Path, folder: Path = MINI, seeds: tuple[int, ...] = (0, 1, 2)
) -> Workspace:
    """The profile `mini` with 1,200 training and test texts, read from the world in `folder`.

    Features and scored cells are kept in `build_dir`, as those of all runs are.
    """
    workspace = open_workspace(
        "mini", str(build_dir), max_docs=None, n_train=1200, n_test=1200, seeds=seeds
    )
    profile = workspace.profile

    def there(path: str | None) -> str:
        return str(folder.resolve() / Path(str(path)).relative_to(MINI))

    models = []
    for model in profile.models:
        saes = tuple(replace(sae, folder=there(sae.folder)) for sae in model.saes)
        models.append(replace(model, source=there(model.source), saes=saes))
    moved = replace(profile, models=tuple(models), data_dir=there(profile.data_dir))
    return replace(workspace, profile=moved)


def check_world(workspace: Workspace) -> list[Row]:
    """All rows of the table. Raises what extraction and probes raise."""
    about = {key: workspace.profile.task(key) for key in workspace.profile.tasks}
    texts = [k for k, t in about.items() if t.modality == "text" and t.role != "behaviour"]
    return [
        *text_rows(workspace, texts),
        *language_rows(workspace, "toxicity"),
        *question_rows(workspace),
        *digit_rows(workspace),
    ]


def text_rows(workspace: Workspace, tasks: Sequence[str]) -> list[Row]:
    """SAE features and TF-IDF on each task."""
    results = score_cells([c for t in tasks for c in _both(workspace.profile, t)], workspace)
    table = []
    for task in tasks:
        role = workspace.profile.task(task).role
        hard = (("<=", 0.98),) if role == "intent" else ()
        words = _row(f"{task}, TF-IDF", _of(results, task, "tfidf"), "macro_f1", *hard)
        beyond = ((">=", words.value + 0.05),) if role in BEYOND_WORDS else ()
        demands = (*beyond, *(hard or (("<", 0.995),)))
        table += [_row(f"{task}, SAE", _of(results, task, "sae"), "macro_f1", *demands), words]
    return table


def language_rows(workspace: Workspace, task: str) -> list[Row]:
    """Probes trained on the first language of a task (English), tested on every other."""
    profile = workspace.profile
    origin, *others = languages_of(task, profile)
    native = [cell for key in others for cell in _wide(profile, key, profile.text_models[0])]
    moved = [replace(c, train_task=origin, kept_out=tuple(others)) for c in native]
    results = score_cells(moved, workspace)
    table = [_row(f"{origin} to {k}, SAE", _of(results, k, "sae"), "accuracy") for k in others]
    second = sorted(table, key=lambda row: row.value)[-2]
    return [*table, replace(second, what="second best of these", demands=((">=", 0.7),))]


def question_rows(workspace: Workspace) -> list[Row]:
    """Right answers of the small model, from the rarest to the most frequent people; foreseen."""
    profile = workspace.profile
    key = question_tasks(profile)[0][0]
    data = correctness(profile.text_models[0], load_questions(key, profile), workspace)
    order = np.argsort(data.annotations["frequency"], kind="stable")
    fifths = np.array_split(data.labels[order], 5)
    rarest, *_, frequent = shares = [float(part.mean()) for part in fifths]
    bounds = ((">=", 0.25), ("<=", 0.75))
    table = [Row("questions answered right", float(data.labels.mean()), len(data), bounds)]
    table += [Row(f"frequency fifth {i}", s, len(fifths[0])) for i, s in enumerate(shares, 1)]
    both = len(fifths[0]) + len(fifths[-1])
    table.append(Row("most minus least frequent", frequent - rarest, both, ((">=", 0.15),)))
    key = data.task.key
    results = score_behaviour(_both(profile, key), {key: data}, workspace)
    words = _row("right on unseen people, TF-IDF", _of(results, key, "tfidf"), "auc")
    demands = ((">=", 0.65), (">", words.value))
    sae = _row("right on unseen people, SAE", _of(results, key, "sae"), "auc", *demands)
    return [*table, sae, words]


def digit_rows(workspace: Workspace) -> list[Row]:
    """Text SAEs on image tokens, with the trained and with an untrained connector."""
    profile = replace(workspace.profile, n_train=297, n_test=1000)  # of 1,297 images
    trained = vision_model(profile)
    workspace, untrained = with_untrained_connector(replace(workspace, profile=profile), trained)
    (key,) = image_tasks(workspace.profile)
    models = (trained, untrained)
    with_, without = (score_cells(_wide(workspace.profile, key, m), workspace) for m in models)
    floor = _row(f"{key}, untrained connector", without, "accuracy")
    demand = (">=", floor.value + 0.1)
    return [_row(f"{key}, trained connector", with_, "accuracy", demand), floor]


def format_table(table: Sequence[Row]) -> str:
    """The table as Markdown."""
    holds = {True: "yes", False: "**no**", None: ""}
    rows = []
    for row in table:
        demand = " and ".join(f"{sign} {bound:.3f}" for sign, bound in row.demands)
        rows.append((row.what, f"{row.value:.3f}", f"{row.n_docs:,}", demand, holds[row.holds]))
    return markdown_table(("what", "value", "test documents", "demand", "holds"), rows)


def _wide(profile: Profile, task: str, model: ModelSpec) -> list[Cell]:
    """The paper's cell of a task with the wide SAE, for every seed."""
    cells = [recipe_cells(profile, task, model, seed)[0] for seed in profile.seeds]
    return [replace(cell, width=model.widths[-1]) for cell in cells]


def _both(profile: Profile, task: str) -> list[Cell]:
    """The wide cells of the small model, and TF-IDF, for every seed."""
    words = [Cell(task, "tfidf", seed=seed) for seed in profile.seeds]
    return [*_wide(profile, task, profile.text_models[0]), *words]


def _of(results: Sequence[ScoredCell], task: str, feature: str) -> list[ScoredCell]:
    return [r for r in results if (r.cell.task, r.cell.feature) == (task, feature)]


def _row(what: str, results: Sequence[ScoredCell], score: str, *demands: Demand) -> Row:
    """Mean over seeds of `macro_f1`, `accuracy` or `auc`."""
    if score == "auc":
        value = bootstrap_interval(results, "auc").value
    else:
        value = float(np.mean([result.row[score] for result in results]))
    name = {"macro_f1": "macro-F1", "auc": "AUC"}.get(score, score)
    return Row(f"{what}, {name}", value, len(results[0].ids), demands)
