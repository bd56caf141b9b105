"""Pictures of a finished run: the chain's losses, what pruning kept, losses by position, losses by learning rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.afm.chain import CHAIN
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.findings import Row

COLOURS = {"core": "#444444", "prune": "#d1682b", "distil": "#0b6fb8", "continued": "#2a9055", "context": "#7a4fb0"}
METHODS = {"prune": "soft top-k", "prune-magnitude": "magnitude", "prune-random": "random"}
PRUNING_CAPTION = (
    "Left: the learnt masks of the first seed, units in order of size; the dashed line is where the cut falls. Right: share "
    "of units kept among each tenth by weight norm, mean over layers."
)
POSITION_CAPTION = (
    "Left: validation loss by position in a long row. Right: the same, less that of the model before the stage. The dashed "
    "line is the end of the rows of earlier stages: before the stage no model has seen what lies right of it."
)
RATE_CAPTION = (
    "Shakespeare by characters. Optimizers: the line is the first seed, which tells the rate (ring) that the other seeds take "
    "(dots). Widths: means over seeds. With muP-simple the rate is the one at the first width; other widths divide it."
)


def learning_figure(config: Config, run: Run, rows: Sequence[Row]) -> Figure:
    """Training loss in nats a token against tokens seen, stage after stage."""
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axis = figure.subplots()
    seen = 0.0
    for name in CHAIN:
        for row in select(rows, name=name, seed=config.seeds[0]):
            logged = [entry for entry in run.rows(f"{name}-seed{row['seed']}") if "ce" in entry]
            tokens = getattr(config.stages, name).step_tokens
            axis.plot(
                [(seen + entry["step"] * tokens) / 1e6 for entry in logged],
                smoothed([entry["ce"] for entry in logged]),
                color=COLOURS[name],
                label=f"{name}: {row['loss']:.3f} on validation text",
            )
            seen += row["tokens"]
            axis.axvline(seen / 1e6, color="#cccccc", linewidth=0.8)
    axis.set_xlabel("million tokens")
    axis.set_ylabel("training loss on true tokens, nats")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def pruning_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """The learnt masks, and which units every method kept."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    (row,) = select(rows, name="prune", seed=config.seeds[0])
    for layer, sizes in enumerate(row["mask_sizes"]):
        left.plot(np.linspace(0, 100, len(sizes)), sizes, label=f"layer {layer + 1}")
    left.axvline(100 * config.model.ffn / config.model.wide_ffn, color="black", linestyle="--", linewidth=0.8)
    left.set_xlabel("units, % of the wide model's")
    left.set_ylabel("mask")
    if len(row["mask_sizes"]) <= 8:
        left.legend(frameon=False, fontsize=8)
    for (name, label), colour in zip(METHODS.items(), ("#d1682b", "#444444", "#9a9a9a"), strict=True):
        for chosen in select(rows, name=name, seed=config.seeds[0]):
            share = 100 * np.mean(chosen["kept_by_norm"], axis=0)
            right.plot(range(1, len(share) + 1), share, marker="o", color=colour, label=label)
    right.set_xlabel("tenth of the units by weight norm (1: largest)")
    right.set_ylabel("kept, %")
    right.set_ylim(-5, 105)
    right.grid(alpha=0.3)
    right.legend(frameon=False)
    return figure


def position_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Loss against position, and what the context stage changed of it; mean over seeds."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    before = binned([row["by_position_before"] for row in select(rows, name="context")])
    places = (np.arange(len(before)) + 0.5) * config.stages.context.length / len(before)
    left.plot(places, before, color="#9a9a9a", label="before the stage")
    right.axhline(0, color="#9a9a9a")
    for name, label, colour in (
        ("context-same-base", "after it, base unchanged", "#d1682b"),
        ("context", "after it, base by the rule", "#7a4fb0"),
    ):
        if chosen := select(rows, name=name):
            after = binned([row["by_position"] for row in chosen])
            left.plot(places, after, color=colour, label=label)
            right.plot(places, after - before, color=colour, label=label)
    for axis in (left, right):
        axis.axvline(config.stages.continued.length, color="black", linestyle="--", linewidth=0.8)
        axis.set_xlabel("position in the row, tokens")
        axis.grid(alpha=0.3)
    left.set_ylabel("validation loss, nats a token")
    right.set_ylabel("change by the stage, nats a token")
    left.legend(frameon=False)
    return figure


def binned(curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean of several curves over positions, in sixteen parts."""
    parts = np.array_split(np.mean(curves, axis=0), 16)
    return np.array([part.mean() for part in parts if len(part)])


def rate_figure(config: Config, race: Sequence[Row], sweep: Sequence[Row]) -> Figure:
    """Validation loss against peak rate: the two optimizers, and the widths with muP-simple and without."""
    panels = (1 if race else 0) + (2 if sweep else 0)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if race:
        axis = axes.pop(0)
        for kind, colour in (("adastar", "#0b6fb8"), ("adamw", "#444444")):
            tried = [row for row in race if row["optimizer"] == kind]
            _rate_line(axis, select(tried, seed=config.seeds[0]), colour, kind)
            others = [row for row in tried if row["seed"] != config.seeds[0]]
            axis.plot([row["lr"] for row in others], [row["loss"] for row in others], ".", color=colour, markersize=5)
        _rate_axis(axis, "optimizers", sorted({row["lr"] for row in race}))
    if sweep:
        axes[1].sharey(axes[0])
        for axis, mup, title in zip(axes, (True, False), ("muP-simple", "one rate for all widths"), strict=True):
            for width, colour in zip(config.sweep.widths, ("#2a9055", "#0b6fb8", "#7a4fb0"), strict=False):
                base = width == config.sweep.widths[0]
                chosen = [row for row in sweep if row["width"] == width and (base or bool(row["mup"]) == mup)]
                _rate_line(axis, chosen, colour, f"width {width}")
            _rate_axis(axis, title, config.sweep.rates)
    return figure


def _rate_line(axis: Axes, rows: Sequence[Row], colour: str, label: str) -> None:
    """Mean over seeds at each rate, and a ring around the lowest."""
    rates = sorted({row["lr"] for row in rows})
    means = [statistics.fmean(row["loss"] for row in rows if row["lr"] == lr) for lr in rates]
    axis.plot(rates, means, marker="o", color=colour, label=label)
    best = int(np.argmin(means))
    axis.plot(rates[best], means[best], "o", markersize=12, markerfacecolor="none", markeredgecolor=colour)


def _rate_axis(axis: Axes, title: str, rates: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45)
    axis.minorticks_off()
    axis.set_xlabel("peak learning rate")
    axis.set_ylabel("validation loss, nats a character")
    axis.set_title(title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def smoothed(values: Sequence[float], keep: float = 0.8) -> list[float]:
    """Exponential moving average."""
    out: list[float] = []
    for value in values:
        out.append(value if not out else keep * out[-1] + (1 - keep) * value)
    return out
