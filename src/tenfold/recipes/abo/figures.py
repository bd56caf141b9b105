"""Pictures of a comparison."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from tenfold.core.panels import panels
from tenfold.core.statistics import select
from tenfold.recipes.abo.config import Config
from tenfold.recipes.abo.findings import Scores, expected
from tenfold.recipes.abo.searches import Row


def scores_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Test scores of every method with Wilson's interval over all items, seeds as dots."""
    scores = Scores(config, rows)
    figure, axes = panels(len(config.data.tasks), width=4.6, height=0.5 + 0.34 * len(config.methods), most=2)
    for axis, task in zip(axes, config.data.tasks, strict=True):
        methods = scores.methods(task)[::-1]
        start = statistics.fmean(scores.means(task, "given"))
        axis.axvline(start, color="0.6", linewidth=1, linestyle="--")
        for place, method in enumerate(methods):
            interval = scores.pooled(task, method)
            colour = "tab:green" if method == "abo" else "tab:blue"
            axis.plot(
                [interval.low, interval.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round"
            )
            axis.plot(
                scores.means(task, method), [place] * len(config.seeds), "o", color=colour, markersize=4, alpha=0.6
            )
        axis.set_yticks(range(len(methods)), methods)
        axis.set(title=task, xlim=(0, 1.02), xlabel="right on test")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def curves_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Best val over calls to the target, of the first seed."""
    figure, axes = panels(len(config.data.tasks), width=4.6, height=3.0, most=2)
    scores = Scores(config, rows)
    for axis, task in zip(axes, config.data.tasks, strict=True):
        for method in scores.methods(task):
            curve = scores.row(task, method, config.seeds[0])["curve"]
            points = [(point["target_calls"], point["best_val"]) for point in curve if point["best_val"] is not None]
            if method in ("given", "few-shot-cot") or not points:
                continue
            axis.step(*zip(*points, strict=True), where="post", marker="o", markersize=3, label=method, linewidth=1.4)
        axis.set(title=task, xlabel="calls to the target", ylabel="best on val", ylim=(0, 1.02))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
    return figure


def probe_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Correctness and prior bias over the prior's weight, with what the simulator's construction gives."""
    figure, axes = panels(len(config.data.tasks), width=4.0, height=3.0, most=2)
    for axis, task in zip(axes, config.data.tasks, strict=True):
        probes = [row for row in rows if row["kind"] == "reflections" and row["task"] == task]
        betas = sorted({row["beta"] for row in probes})
        for name, label, colour in (("correctness", "reflections correct", "tab:blue"), ("prior_bias", "prior bias", "tab:red"), ("nmi", "NMI with the truth", "tab:purple")):  # fmt: skip
            for seed in config.seeds:
                values = [select(probes, seed=seed, beta=beta)[0][name] for beta in betas]
                axis.plot(
                    betas,
                    values,
                    "-o",
                    color=colour,
                    markersize=3,
                    linewidth=1.2,
                    alpha=0.8,
                    label=label if seed == config.seeds[0] else None,
                )
        truth = [statistics.fmean(expected(row) for row in select(probes, beta=beta)) for beta in betas]
        axis.plot(betas, truth, "k--", linewidth=1, label="1 − β (1 − hit rate)")
        axis.set(title=task, xlabel="weight β of the optimizer's prior", ylim=(-0.02, 1.02))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
    return figure
