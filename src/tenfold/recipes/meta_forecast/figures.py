"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from tenfold.clinical.planted_forecast import LOUD, NOISE, SIGNAL
from tenfold.core.panels import panels
from tenfold.core.statistics import paired_t, select
from tenfold.recipes.meta_forecast.config import ALONE, shown
from tenfold.recipes.meta_forecast.evaluation import Row, by_seed
from tenfold.recipes.meta_forecast.tables import METHODS, USES, modes_of, percents_of, uses_of

Floats = NDArray[np.floating[Any]]
COLOURS = {"first_order": "#d62728", "unrolled": "#ff9896", "finite_diff": "#e377c2", "official_approx": "#9467bd",
           "official_schedule": "#c5b0d5", "transferred": "#ff7f0e", "top_k_of_weights": "#8c564b", "oracle_subset": "#bcbd22",
           "pretrain": "#1f77b4", "cotrain": "#17becf", "random_subset": "#aec7e8", "random_draw": "#aec7e8", "supervised": "#2ca02c",
           "logistic": "#7f7f7f", "boosting": "#000000", "oracle": "#000000"}  # fmt: skip
BANDED = ("first_order", "pretrain", "supervised", "logistic", "transferred")
USE_MARKS = {"frozen": "o", "finetuned": "^", "end_to_end": "s", "summaries": "D", "law": "*"}
SHOWN = 8  # tasks of a real cohort that get a colour


def score_figure(rows: Sequence[Row]) -> Figure:
    """AUC-ROC of every mode at the largest and the smallest share of labels: marks are seeds, bars their mean.

    Args:
        rows: of one cohort and target.
    """
    percents = list(dict.fromkeys((percents_of(rows)[0], percents_of(rows)[-1])))
    entries = [(mode, use) for mode in modes_of(rows) for use in uses_of(select(rows, mode=mode))][::-1]
    figure, axes = panels(len(percents), 5.6, 1.2 + 0.19 * len(entries), most=2)
    for axis, percent in zip(axes, percents, strict=True):
        for place, (mode, use) in enumerate(entries):
            values = by_seed(select(rows, mode=mode, percent=percent), use)
            if values:
                colour = COLOURS.get(mode, "#c7c7c7")
                axis.plot([np.mean(values)] * 2, [place - 0.4, place + 0.4], color=colour, linewidth=2.5, alpha=0.5)
                axis.plot(values, [place] * len(values), USE_MARKS[use], color=colour, markersize=5,
                          markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
        names = [METHODS[mode] + ("" if use in ("law", "summaries") else f" ({USES[use]})") for mode, use in entries]
        axis.set_yticks(range(len(entries)), names if axis is axes[0] else [""] * len(entries), fontsize=7)
        axis.set(title=f"{shown(percent)} % of labels", xlabel="AUC-ROC")
        axis.grid(axis="x", alpha=0.3)
    uses = uses_of(rows)
    marks = [Line2D([], [], marker=USE_MARKS[use], color="grey", linestyle="", markersize=5) for use in uses]
    words = [{"law": "the law", "summaries": "no encoder"}.get(use, f"encoder {USES[use]}") for use in uses]
    figure.legend(marks, words, loc="outside lower center", fontsize=7, ncols=len(uses))
    return figure


def share_figure(rows: Sequence[Row]) -> Figure:
    """AUC-ROC by share of the labels, a panel each use of the encoder: means over seeds; bands are 95 % t intervals.

    Args:
        rows: of one cohort and target.
    """
    uses = [use for use in uses_of(rows) if use in ("frozen", "finetuned")]
    figure, axes = panels(max(len(uses), 1), 5.4, 4.2, most=2)
    percents = percents_of(rows)
    seen: list[float] = []
    for axis, use in zip(axes, uses or ["end_to_end"], strict=True):
        for mode in modes_of(rows):
            own = ALONE.get(mode, use)
            if not any(own in row["scores"] for row in select(rows, mode=mode)):
                continue
            values = [by_seed(select(rows, mode=mode, percent=percent), own) for percent in percents]
            known = [(percent, each) for percent, each in zip(percents, values, strict=True) if each]
            seen += [value for _, each in known for value in each]
            x, mean = [percent for percent, _ in known], [np.mean(each) for _, each in known]
            colour = COLOURS.get(mode, "#c7c7c7")
            bold = mode in BANDED
            axis.plot(x, mean, "o-", color=colour, label=METHODS[mode], markersize=3, linewidth=2 if bold else 0.9)
            if bold and all(len(each) > 1 for _, each in known):
                low, high = zip(*(paired_t(each).ci95 for _, each in known), strict=True)
                axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        axis.set(xscale="log", xlabel="share of the labels", title=f"encoder {USES[use]}")
        axis.set_xticks(percents)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{shown(value)} %"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    for axis in axes:  # by what was seen: the interval of two seeds is wider than any figure
        axis.set_ylim(min(seen) - 0.02, max(seen) + 0.02)
    axes[0].set_ylabel("AUC-ROC, test subjects")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=7)
    return figure


def gap_figure(rows: Sequence[Row], mode: str) -> Figure:
    """AUC-ROC of a mode minus that of its rivals, with the 95 % t interval over seeds, by share of labels.

    Args:
        rows: of one cohort and target, of two seeds or more.
    """
    percents = [percent for percent in percents_of(rows) if select(rows, mode=mode, percent=percent)]
    rivals = [other for other in modes_of(rows) if other not in (mode, "oracle")][::-1]
    figure, axes = panels(len(percents), 2.6, 1.1 + 0.24 * len(rivals), most=5)
    for axis, percent in zip(axes, percents, strict=True):
        mine = select(rows, mode=mode, percent=percent)
        for use, shift, colour in (("frozen", 0.15, "#d62728"), ("finetuned", -0.15, "#1f77b4")):
            for place, other in enumerate(rivals):
                ours, theirs = (
                    by_seed(mine, use),
                    by_seed(select(rows, mode=other, percent=percent), ALONE.get(other, use)),
                )
                if len(ours) < 2 or len(ours) != len(theirs):
                    continue
                found = paired_t(np.subtract(ours, theirs))
                label = USES[use] if place == 0 else None
                axis.plot([found.low, found.high], [place + shift] * 2, color=colour, linewidth=1.5, label=label)
                axis.plot(found.value, place + shift, USE_MARKS[use], color=colour, markersize=4)
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_yticks(
            range(len(rivals)),
            [METHODS[other] for other in rivals] if axis is axes[0] else [""] * len(rivals),
            fontsize=7,
        )
        axis.set_title(f"{shown(percent)} % of labels", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", fontsize=7, ncols=2)
    figure.supxlabel(f"AUC-ROC: {METHODS[mode]} minus the other (right: better)", fontsize=8)
    return figure


def rounds_figure(histories: Mapping[str, Sequence[Floats]], names: Sequence[str], *, planted: bool) -> Figure:
    """Task weights over rounds, a panel each history: lines are means over seeds, bands all of them.

    Args:
        histories: title -> [rounds + 1, F] of each seed.
        names: of the F tasks.
        planted: whether tasks are those of the simulator.
    """
    figure, axes = panels(len(histories), 4.2, 3.3)
    for axis, (title, several) in zip(axes, histories.items(), strict=True):
        stacked = np.stack(several)
        mean, low, high = stacked.mean(0), stacked.min(0), stacked.max(0)
        chosen = planted_colours(names) if planted else top_colours(names, mean[-1])
        rounds = np.arange(len(mean))
        for task, (colour, label) in chosen.items():
            axis.plot(rounds, mean[:, task], color=colour, linewidth=1.4 if label or planted else 0.7, label=label)
            if len(stacked) > 1 and (label or planted):
                axis.fill_between(rounds, low[:, task], high[:, task], color=colour, alpha=0.08, linewidth=0)
        axis.axhline(1 / len(names), color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="round", ylim=(0, 1.05 * max(np.stack(each).max() for each in histories.values())))
        axis.set_title(title, fontsize=9)
        if axis is axes[0] or not planted:
            axis.legend(fontsize=6, loc="upper left", ncols=1 if planted else 2, reverse=planted)
    axes[0].set_ylabel("weight")
    return figure


def planted_colours(names: Sequence[str]) -> dict[int, tuple[str, str | None]]:
    """A colour for each kind of task, named once."""
    found: dict[int, tuple[str, str | None]] = {}
    for tasks, colour, label in (
        (NOISE, "#c7c7c7", "noise (10 to 15)"),
        (LOUD, "#1f77b4", "loud (4 to 9)"),
        (SIGNAL[3:], "#ff7f0e", "decoy (3)"),
        (SIGNAL[:3], "#d62728", "useful (0 to 2)"),
    ):
        found |= {task: (colour, label if task == tasks[0] else None) for task in tasks}
    return found


def top_colours(names: Sequence[str], last: Floats) -> dict[int, tuple[str, str | None]]:
    """Colours for the tasks of the largest last weights, grey for the others."""
    order = np.argsort(-last)[:SHOWN].tolist()
    grey: dict[int, tuple[str, str | None]] = dict.fromkeys(range(len(names)), ("#d9d9d9", None))
    return {**{task: grey[task] for task in grey if task not in order},
            **{task: (f"C{place}", names[task]) for place, task in enumerate(order)}}  # fmt: skip
