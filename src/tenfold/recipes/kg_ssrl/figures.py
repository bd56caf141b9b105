"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tenfold.core.statistics import select
from tenfold.graph.explain import plot_paths
from tenfold.graph.reasoner import Answer
from tenfold.recipes.kg_ssrl.config import Config

Row = dict[str, Any]
Curve = list[tuple[float, float]]  # CPU seconds, validation MRR
COLOURS = {"ssrl": "#d62728", "rl": "#1f77b4", "sl": "#2ca02c", "ssrl-shaped": "#ff9896", "rl-shaped": "#aec7e8"}


def learning_figure(
    config: Config,
    curves: Mapping[tuple[str, str, str], Sequence[Curve]],
    handover: Mapping[tuple[str, str, str], float],
) -> Figure:
    """Validation MRR over CPU seconds, a panel for each graph and base: the mean over seeds, the band all of them.

    Args:
        curves: (graph, base, arm) -> a curve a seed.
        handover: (graph, base, arm) -> mean seconds at which reinforcement takes over.
    """
    figure = Figure(figsize=(4.6 * len(config.bases) + 0.6, 3.4 * len(config.graphs)), layout="constrained")
    panels = figure.subplots(len(config.graphs), len(config.bases), squeeze=False)
    for line, graph in enumerate(config.graphs):
        for column, base in enumerate(config.bases):
            axis = panels[line][column]
            for arm in config.arms:
                seconds, scores = _on_one_axis(curves[graph, base, arm])
                axis.plot(seconds, scores.mean(0), "o-", markersize=3, color=COLOURS[arm], label=arm)
                if len(scores) > 1:
                    axis.fill_between(
                        seconds, scores.min(0), scores.max(0), color=COLOURS[arm], alpha=0.15, linewidth=0
                    )
                if (graph, base, arm) in handover:
                    axis.axvline(handover[graph, base, arm], color=COLOURS[arm], linestyle="dotted", linewidth=1)
            axis.set(title=f"{graph}, {base}", xlabel="CPU seconds", ylabel="validation MRR")
            axis.set_ylim(bottom=0)
            axis.legend(fontsize=8)
    return figure


def _on_one_axis(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Mean seconds of the points, and the scores [seeds, points]; curves are read off at the same share of their length."""
    most = max(map(len, curves))
    shares = np.linspace(0, 1, most)
    seconds, scores = [], []
    for curve in curves:
        x, y = np.array(curve).T
        own = np.linspace(0, 1, len(curve))
        seconds.append(np.interp(shares, own, x))
        scores.append(np.interp(shares, own, y))
    return np.mean(seconds, 0), np.array(scores)


def answers_figure(groups: Sequence[tuple[str, Sequence[Answer]]]) -> Figure:
    """The paths to the answers of a few queries, a panel each.

    Args:
        groups: a panel's title and its answers, best first.
    """
    figure = Figure(figsize=(9, sum(0.42 * len(answers) + 0.55 for _, answers in groups)), layout="constrained")
    panels = figure.subplots(
        len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": [len(answers) + 0.8 for _, answers in groups]}
    )
    steps = max(len(answer.path) for _, answers in groups for answer in answers)  # one scale for all panels
    for (title, answers), axis in zip(groups, panels[:, 0], strict=True):
        plot_paths(answers, axis, steps)
        axis.set_title(title, loc="left", fontsize=9, parse_math=False)
    return figure


def sweep_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Test MRR over the values of the swept field, a panel a graph."""
    figure = Figure(figsize=(5.4 * len(config.graphs), 3.4), layout="constrained")
    panels = figure.subplots(1, len(config.graphs), squeeze=False)[0]
    values = config.sweep.values
    for axis, graph in zip(panels, config.graphs, strict=True):
        for base in config.bases:
            for arm in config.arms:
                lines = [[row["mrr"] for row in select(rows, value=v, graph=graph, base=base, arm=arm)] for v in values]
                places = np.arange(len(values))
                label = arm if len(config.bases) == 1 else f"{base}, {arm}"
                (line,) = axis.plot(places, [float(np.mean(scores)) for scores in lines], "o-", label=label)
                for place, scores in zip(places, lines, strict=True):
                    axis.plot([place] * len(scores), scores, ".", color=line.get_color(), markersize=4, alpha=0.6)
        axis.set_xticks(range(len(values)), values)
        axis.set_xlabel(config.sweep.field)
        axis.set_title(graph)
        axis.legend(fontsize=8)
    panels[0].set_ylabel("test MRR")
    return figure
