"""fig-controls, fig-small-data and fig-ablation: what the SAE adds to its controls (chapter 10)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mosaic.evidence.claims import Finding
from mosaic.evidence.contrasts import effect_table
from mosaic.figures.panels import differences, interval_bars, lines_by_task, mark
from mosaic.figures.style import CYCLE, MEAN, PALE, SavedFigure, new_figure, save_figure
from mosaic.scores.names import in_source


def fig_controls(found: Mapping[str, Mapping[str, Finding]], folder: Path) -> SavedFigure:
    """The trained SAE minus each control: a panel per source, a row per control.

    Small markers are tasks, the large one is their mean with its interval where there is one.
    """
    sizes = [len(contrasts) for contrasts in found.values()]
    figure = new_figure(
        len(found), 1, height=1.6 + 0.42 * sum(sizes), height_ratios=sizes, sharex=True
    )
    parts = []
    for axes, (source, contrasts) in zip(figure.axes, found.items(), strict=True):
        differences(axes, contrasts, source)
        table = effect_table(contrasts, source)
        by_task = pd.DataFrame({key: finding.by_task for key, finding in contrasts.items()})
        for (_, marker, _), (task, values) in zip(CYCLE * 4, by_task.iterrows(), strict=False):
            look = (PALE, marker, "")
            mark(axes, values, np.arange(len(values)) + 0.16, look, 4.5, label=str(task))
        bars = interval_bars(table, ("effect", "low", "high"))
        at = np.arange(len(table)) - 0.1
        mark(axes, table["effect"], at, MEAN, 6.5, xerr=bars, width=1.6, label="mean of tasks")
        tasks = by_task.melt(var_name="contrast", value_name="difference", ignore_index=False)
        parts += [table, tasks.reset_index(names="task").assign(source=source)]
    figure.axes[-1].set_xlabel("macro-F1 of the trained SAE minus the control's")
    source, contrasts = next(iter(found.items()))
    effects = pd.Series({key: float(f.effect or 0) for key, f in contrasts.items()})
    finding = (
        f"In {source} the trained SAE scores higher than {(effects > 0).sum()} of {len(effects)} "
        f"controls and baselines, mean over tasks; the differences reach from {effects.min():+.3f} "
        f"({effects.idxmin()}) to {effects.max():+.3f} ({effects.idxmax()})."
    )
    return save_figure(figure, "fig-controls", pd.concat(parts), finding, folder, ncols=6)


def fig_small_data(curves: Sequence[pd.DataFrame], folder: Path) -> SavedFigure:
    """Mean macro-F1 over tasks by the number of training texts, a row per source.

    `curves` are those of `scores.controls.small_data_curve`.
    """
    drawn = [c.assign(label=f"mean of {c['n_tasks'].iloc[0]} tasks") for c in curves]
    bare = [c.assign(macro_f1_low=np.nan, macro_f1_high=np.nan) for c in drawn]
    figure = lines_by_task(bare, x="n_train")
    figure.axes[-1].set_xlabel("training texts")
    first = drawn[0]
    ends = [first[first["n_train"] == n] for n in (first["n_train"].min(), first["n_train"].max())]
    best = [part.loc[part["macro_f1"].astype(float).idxmax()] for part in ends]
    said = [f"{row['series']} ({row['macro_f1']:.3f})" for row in best]
    finding = (
        f"{in_source(first)}, {said[0]} is highest with {best[0]['n_train']:,} training texts and "
        f"{said[1]} with {best[1]['n_train']:,}, mean over {first['n_tasks'].max()} tasks."
    )
    return save_figure(figure, "fig-small-data", pd.concat(drawn), finding, folder)


def fig_ablation(table: pd.DataFrame, folder: Path) -> SavedFigure:
    """Margin lost to the top latents of a probe beyond matched ones, a row a task and number.

    `table` is that of `experiments.ablation.ablation_table`.
    """
    table = table.assign(
        label=[f"{t}, {k}" for t, k in zip(table["task"], table["k"], strict=True)]
    )
    top, drawn = (table[table["latents"] == kind] for kind in ("top", "matched"))
    labels = list(top["label"])
    figure = new_figure(1, 1, height=1.6 + 0.42 * len(labels))
    axes = figure.axes[0]
    differences(axes, labels, "top latents taken out, beyond matched ones")
    rows = np.asarray([labels.index(label) for label in drawn["label"]]) + 0.16
    mark(axes, drawn["difference"], rows, (PALE, "o", ""), 4.5, label="one draw of matched latents")
    bars = interval_bars(top, ("difference", "low", "high"))
    at = np.arange(len(top)) - 0.1
    mark(axes, top["difference"], at, MEAN, 6.5, xerr=bars, width=1.6, label="top latents")
    axes.set_xlabel("log-probability margin lost, minus the mean of the draws")
    clear = ((top["low"] > 0) | (top["high"] < 0)).sum()
    finding = "Nothing was ablated: no task has 2 classes with words, or the model cannot be asked."
    if len(top):
        finding = (
            f"{in_source(table)}, the margin lost to the top latents lies "
            f"{top['difference'].min():+.3f} to {top['difference'].max():+.3f} from that to others "
            f"as active; in {clear} of {len(top)} rows the interval leaves out zero."
        )
    return save_figure(figure, "fig-ablation", table, finding, folder)
