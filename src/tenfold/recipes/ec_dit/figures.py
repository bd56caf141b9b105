"""Pictures of the experiment."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tenfold.recipes.ec_dit.config import Config
from tenfold.recipes.ec_dit.findings import of, rate_interval
from tenfold.vision.geneval import TASKS

Row = dict[str, Any]
LETTER = 0.062  # inches of a letter of 7 points, on average and a little more
COLOURS = {
    "ec": "#d62728", "tc": "#1f77b4", "random": "#7f7f7f", "dense": "#2ca02c", "dense-wide": "#17becf", "race": "#9467bd",
    "ec-2": "#fdae6b", "ec-4": "#fd8d3c", "ec-16": "#a63603", "ec-group": "#e377c2", "random-group": "#bcbd22",
}  # fmt: skip


def samples_figure(
    pictures: NDArray[np.uint8], asked: Sequence[Row], verdicts: Sequence[Sequence[bool | None]]
) -> Figure:
    """Pictures with what was asked for; the frame says whether the checker agrees.

    Args:
        pictures: (P, K, H, W, 3).
        asked: P rows with "prompt".
        verdicts: (P, K): right, wrong or not judged.
    """
    each = pictures.shape[1]
    across = max(1, min(3, len(asked)))
    lines, columns = -(-len(asked) // across), across * (each + 1) - 1  # a narrow empty column between captions
    side = max(0.8, 1.2 / each)  # inches of a picture
    letters = int(side * each / LETTER)
    titles = [textwrap.fill(textwrap.shorten(row["prompt"], 60, placeholder=" …"), letters) for row in asked]
    above = 0.12 * max(title.count("\n") + 1 for title in titles) + 0.12  # inches for a caption
    width, height = side * each * across + 0.2 * side * (across - 1) + 0.1, (side + above) * lines + 0.05
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        lines, columns, width_ratios=[0.2 if column % (each + 1) == each else 1 for column in range(columns)],
        left=0.05 / width, right=1 - 0.05 / width, bottom=0.05 / height, top=1 - above / height, wspace=0.04, hspace=above / side,
    )  # fmt: skip
    for number, title in enumerate(titles):
        line, start = number // across, number % across * (each + 1)
        for k in range(each):
            axis = figure.add_subplot(grid[line, start + k])
            axis.imshow(pictures[number, k], interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            verdict = verdicts[number][k]
            for spine in axis.spines.values():
                spine.set_color({True: "#2ca02c", False: "#d62728", None: "#999999"}[verdict])
                spine.set_linewidth(1.8)
            if k == 0:
                axis.set_title(title, fontsize=7, loc="left", parse_math=False)
    return figure


def rates_figure(config: Config, rows: Sequence[Row], floor: Mapping[str, float]) -> Figure:
    """Rate of every model by task, with 95 % intervals; over seeds, these are dots too."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    tasks = of(rows, config.models[0])[0]["tasks"]
    shown = [*(task for task in TASKS if task in tasks), "overall"]
    width = 0.8 / len(config.models)
    for index, model in enumerate(config.models):
        own = of(rows, model)
        places = np.arange(len(shown)) + (index - (len(config.models) - 1) / 2) * width
        bars = np.array([rate_interval(rows, model, group) for group in shown])
        ends = np.abs(bars[:, 1:] - bars[:, :1]).T
        axis.bar(places, bars[:, 0], width, label=model, color=COLOURS[model], yerr=ends, ecolor="#444444", capsize=2)
        for place, group in zip(places, shown, strict=True):
            rates = [
                row["overall"] if group == "overall" else row["tasks"][group][0] / row["tasks"][group][1] for row in own
            ]
            if len(rates) > 1:
                axis.plot([place] * len(rates), rates, "k.", markersize=3)
    axis.set_xticks(range(len(shown)), [name.replace("_", " ") for name in shown])
    for place, group in enumerate(shown):
        label = "pictures of other prompts" if place == 0 else ""
        axis.hlines(
            floor[group], place - 0.45, place + 0.45, color="black", linestyles="dotted", linewidth=1, label=label
        )
    axis.set_ylabel("share of pictures that are right")
    axis.set_ylim(0, 1)
    axis.legend(ncols=4, fontsize=8)
    return figure


def curves_figure(config: Config, curves: Mapping[str, Mapping[int, list[tuple[int, float]]]]) -> Figure:
    """Held-out loss over the steps, means over seeds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for model in config.models:
        steps = [step for step, _ in curves[model][config.seeds[0]]]
        losses = np.array([[loss for _, loss in curves[model][seed]] for seed in config.seeds])
        marker = "o" if len(steps) == 1 else None  # a line of one point shows nothing
        axis.plot(steps, losses.mean(0), label=model, color=COLOURS[model], marker=marker)
        if len(losses) > 1:
            axis.fill_between(steps, losses.min(0), losses.max(0), color=COLOURS[model], alpha=0.15, linewidth=0)
    low = min(curves[model][seed][-1][1] for model in config.models for seed in config.seeds)
    start = max(
        curves[model][seed][min(1, len(curves[model][seed]) - 1)][1] for model in config.models for seed in config.seeds
    )
    axis.set_ylim(low * 0.97, max(start, low * 1.03))
    axis.set_xlabel("steps")
    axis.set_ylabel("held-out loss")
    axis.legend(fontsize=8)
    return figure


def guidance_figure(config: Config, rows: Sequence[Row], floor: float) -> Figure:
    """Overall rate against the guidance scale."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for model in config.models:
        own = of(rows, model)
        scales = [float(scale) for scale in own[0]["sweep"]]
        rates = np.array([list(row["sweep"].values()) for row in own])
        axis.plot(scales, rates.mean(0), "o-", label=model, color=COLOURS[model], markersize=3)
        axis.fill_between(scales, rates.min(0), rates.max(0), color=COLOURS[model], alpha=0.12, linewidth=0)
    axis.axhline(floor, color="black", linestyle="dotted", linewidth=1, label="pictures of other prompts")
    axis.set_xlabel("guidance scale")
    axis.set_ylabel("overall rate")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def heat_figure(file: Path, layers: Sequence[int], most: int = 5) -> Figure:
    """Pictures beside the experts of their tokens at some steps, a row a picture and sparse block (`layers` numbers them, from 0)."""
    with np.load(file, allow_pickle=False) as held:
        times, experts, pictures, captions = (held[name] for name in ("times", "experts", "pictures", "captions"))
    picked = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)
    steps = np.linspace(0, len(times) - 1, min(5, len(times))).astype(int)
    blocks = experts.shape[1]
    figure = Figure(figsize=(1.5 * (1 + len(steps)) + 1, 1.35 * len(picked) * blocks), layout="constrained")
    grid = figure.subplots(len(picked) * blocks, 1 + len(steps), squeeze=False)
    for line, (number, block) in enumerate((n, b) for n in picked for b in range(blocks)):
        first = grid[line][0]
        if block == 0:
            first.imshow(pictures[number], interpolation="nearest")
            first.set_title(textwrap.fill(str(captions[number]), 20), fontsize=7, loc="left", parse_math=False)
        for column, step in enumerate(steps, 1):
            axis = grid[line][column]
            shades = axis.imshow(
                experts[step, block, number], vmin=0, vmax=int(experts.max()), cmap="magma", interpolation="nearest"
            )
            axis.set_title(f"block {layers[block] + 1}, t = {times[step]:.2f}", fontsize=6)
    for axis in grid.flat:
        axis.set_axis_off()
    figure.colorbar(shades, ax=grid, shrink=0.5).set_label("experts a token")
    return figure


def preference_figure(rows: Sequence[Row], models: Sequence[str], layers: Sequence[int]) -> Figure:
    """Experts of object and background tokens over the denoising steps, a panel a model, a colour a sparse block."""
    figure = Figure(figsize=(3.6 * len(models), 3.2), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for panel, model in zip(panels, models, strict=True):
        own = of(rows, model)
        times = own[0]["heat"]["times"]
        for name, style in (("objects", "-"), ("background", "--")):
            means = np.array([row["heat"][name] for row in own]).mean(0)
            for column, layer in enumerate(layers):
                label = f"block {layer + 1}" if name == "objects" else None
                panel.plot(times, means[:, column], style, color=f"C{column}", label=label)
        panel.invert_xaxis()
        panel.set_title(model)
        panel.set_xlabel("time of the flow, noise to picture")
    panels[0].set_ylabel("experts a token: object —, background - -")
    panels[0].legend(fontsize=8)
    return figure
