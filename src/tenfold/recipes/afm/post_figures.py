"""Pictures of what follows pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tenfold.align.reward_calibration import RewardReport
from tenfold.align.safety_report import SafetyReport, share
from tenfold.core.run import Run
from tenfold.recipes.afm.figures import smoothed

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0b6fb8", "#d1682b", "#2a9055", "#7a4fb0", "#9a9a9a"


def curve_figure(run: Run, name: str, fields: Mapping[str, str], x: str = "step") -> Figure:
    """Logged figures of a training over its steps, one panel a figure.

    Args:
        run: whose rows.
        name: of the training.
        fields: name of the figure in the rows to its label.
        x: what a step is.
    """
    figure = Figure(figsize=(4.4 * len(fields), 3.4), layout="constrained")
    axes = figure.subplots(1, len(fields), squeeze=False)[0]
    for axis, (field, label) in zip(axes, fields.items(), strict=True):
        rows = [row for row in run.rows(name) if field in row]
        steps, values = [row["step"] for row in rows], [row[field] for row in rows]
        axis.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        axis.plot(steps, smoothed(values), color=BLUE)
        axis.set_xlabel(x)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    return figure


def kinds_figure(columns: Mapping[str, Mapping[str, float]]) -> Figure:
    """Accuracy by kind of task, a bar a model.

    Args:
        columns: of each model what `material.accuracy` measured.
    """
    kinds = [name for name in next(iter(columns.values())) if name.startswith("accuracy of ")] or ["accuracy"]
    figure = Figure(figsize=(max(4.0, 1.1 * len(kinds) + 2), 3.4), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(columns)
    for i, (name, colour) in enumerate(zip(columns, (GREY, BLUE, ORANGE, GREEN, PURPLE), strict=False)):
        places = [j + (i - (len(columns) - 1) / 2) * width for j in range(len(kinds))]
        axis.bar(places, [columns[name][kind] for kind in kinds], width, color=colour, label=name)
    axis.set_xticks(range(len(kinds)), [kind.removeprefix("accuracy of ").replace("_", "\n") for kind in kinds])
    axis.set_ylim(0, 1)
    axis.set_ylabel("share of answers that are right")
    axis.grid(alpha=0.3, axis="y")
    axis.legend(frameon=False, fontsize=8)
    return figure


def calibration_figure(report: RewardReport) -> Figure:
    """How often a reward model is right by what it says of itself, and its accuracy by the preference's level."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=0.8)
    places = [b.confidence for b in report.bins], [b.accuracy for b in report.bins]
    left.plot(*places, color=BLUE, label=f"Brier score {report.brier:.3f}")
    left.scatter(*places, [8 + 200 * b.pairs / len(report.brier_P) for b in report.bins], color=BLUE)
    shares = list(report.by_level.values())
    errors = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
    right.errorbar(range(len(shares)), [s.value for s in shares], errors, color=BLUE, fmt="o", capsize=3)
    right.set_xticks(range(len(shares)), list(report.by_level))
    left.set_xlabel("what the model says: σ(|difference of rewards|)")
    left.set_ylabel("share of pairs it has right")
    left.legend(frameon=False, fontsize=8)
    right.axhline(0.5, color=GREY, linestyle="--", linewidth=0.8)
    right.set_xlabel("how much better the chosen response is")
    right.set_ylabel("share of pairs right, 95 % interval")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return figure


def post_figure(run: Run, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Figure:
    """Rewards of MDLOO and its rivals as they learn, the reward model's calibration, and loss by stage of compression."""
    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    lines = (("mdloo", BLUE, "MDLOO"), ("mdloo-clip", ORANGE, "PPO's clip"), ("mdloo-mean", GREY, "no leave-one-out"))
    for name, colour, label in lines:
        curves = [[row["reward"] for row in run.rows(f"{name}-seed{seed}")] for seed in seeds]
        if curves[0]:
            mean = np.mean(curves, axis=0)
            left.plot(range(1, len(mean) + 1), smoothed(mean.tolist()), color=colour, label=label)
    left.set_xlabel("iteration")
    left.set_ylabel("mean reward of the answers learned from")
    left.legend(frameon=False, fontsize=8)
    middle.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=0.8)
    for row in rows:
        if row["name"] == "reward" and "bins" in row:
            places = [each["confidence"] for each in row["bins"]], [each["accuracy"] for each in row["bins"]]
            sizes = [6 + 150 * each["pairs"] / row["pairs"] for each in row["bins"]]
            middle.plot(*places, color=PURPLE, alpha=0.5)
            middle.scatter(*places, sizes, color=PURPLE)
    middle.set_xlabel("what the reward model says: σ(|difference|)")
    middle.set_ylabel("share of held-out pairs it has right")
    stages = ["compressed", "recovered"]
    for seed in seeds:
        mine = {row["name"]: row for row in rows if row["seed"] == seed}
        losses = [mine[mine["compressed"]["of"]]["loss"], *(mine[name]["loss"] for name in stages)]
        right.plot(range(3), losses, color=GREEN, marker="o", label="chosen by cost" if seed == seeds[0] else None)
        chance = [row["loss"] for row in mine.values() if row["name"].startswith("chance-")]
        right.scatter(
            [1] * len(chance), chance, color=ORANGE, s=14, label="chosen at random" if seed == seeds[0] else None
        )
    right.set_xticks(
        range(3), ["dense", f"{mine['compressed']['bits']:.2f} bits\na weight", "with the\nrecovery adapter"]
    )
    right.set_ylabel("loss on text, nats a token")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    return figure


def safety_figure(report: SafetyReport) -> Figure:
    """Violations and over-refusals by category, with their intervals."""
    names = [row["category"] for row in report.rows()]
    parts = [
        SafetyReport(tuple(each for each in report.judged if each.request.category == name)) for name in names[:-1]
    ]
    figure = Figure(figsize=(9.0, 0.36 * len(names) + 1.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, words, colour, of in (
        (panels[0], "harmful requests not refused", ORANGE, lambda part: part.violations),
        (panels[1], "harmless requests refused", BLUE, lambda part: part.over_refusals),
    ):
        for place, part in enumerate([*parts, report]):
            if (found := share(of(part))) is None:
                axis.barh(place, 1, color=GREY, alpha=0.2)
                continue
            axis.barh(place, found.value, color=colour, alpha=0.8)
            axis.plot([found.low, found.high], [place, place], color="black", linewidth=1)
        axis.set_xlim(0, 1)
        axis.set_xlabel(f"share of {words}")
        axis.grid(alpha=0.3, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure
