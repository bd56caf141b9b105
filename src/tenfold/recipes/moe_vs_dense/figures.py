"""Pictures of a finished experiment: the trade-off curve, learning curves, loads of the experts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Config
from tenfold.recipes.moe_vs_dense.findings import Row, mean_and_half_width

COLOURS = {
    "dense": "#444444",
    "dense-wide": "#9a9a9a",
    "moe-half": "#0b6fb8",
    "moe-full": "#d1682b",
    "moe-top1": "#2a9055",
    "moe-256": "#7a4fb0",
}


def trade_off_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Step time against validation loss: a curve a family, a point a width, bars of 95 % over several seeds."""
    protocols = [p for p in ("seconds", "tokens") if p in config.protocols]
    figure = Figure(figsize=(5.6 * len(protocols), 4.2), layout="constrained")
    axes = figure.subplots(1, len(protocols), squeeze=False, sharex=True, sharey=True)[0]
    for axis, protocol in zip(axes, protocols, strict=True):
        for family in config.families:
            kind = "seconds" if family == "dense" else protocol  # dense trains for its own tokens in its own seconds
            found = [select(rows, family=family, width=w, protocol=kind) for w in config.widths]
            if not all(found):
                continue
            points = [mean_and_half_width([row["loss"] for row in chosen]) for chosen in found]
            axis.errorbar(
                [1e3 * chosen[0]["step_s"] for chosen in found],
                [mean for mean, _ in points],
                yerr=[half for _, half in points] if len(config.seeds) > 1 else None,
                marker="o" if FAMILIES[family].experts else "s",
                linestyle="-" if FAMILIES[family].experts else "--",
                color=COLOURS[family],
                capsize=3,
                label=FAMILIES[family].label,
            )
        axis.set_xscale("log")
        # Round numbers of milliseconds: a log scale's own ticks may all lie outside so narrow a range.
        axis.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.tick_params(labelleft=True)  # shared axes hide it on the right
        axis.set_xlabel("time of one training step, ms (log scale)")
        axis.set_title(f"equal {protocol}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation loss, nats a token (lower is better)")
    axes[0].legend(frameon=False)
    return figure


def learning_figure(config: Config, run: Run, rows: Sequence[Row]) -> Figure:
    """Training loss against seconds at the largest width, first seed."""
    width, seed = config.widths[-1], config.seeds[0]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for family in config.families:
        (row,) = select(rows, family=family, width=width, protocol="seconds", seed=seed)
        logged = [entry for entry in run.rows(row["name"]) if "ce" in entry]
        smooth = _smoothed([entry["ce"] for entry in logged])
        axis.plot(
            [entry["step"] * row["step_s"] for entry in logged],
            smooth,
            color=COLOURS[family],
            label=FAMILIES[family].label,
        )
    axis.set_xlabel("seconds of training, steps × median step time")
    axis.set_ylabel("training loss, nats a token")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def _smoothed(values: Sequence[float]) -> list[float]:
    """Means over the later half of what was logged so far: narrow where the curve falls, wide where it is flat."""
    return [statistics.fmean(values[(last + 1) // 2 : last + 1]) for last in range(len(values))]


def load_figure(config: Config, rows: Sequence[Row]) -> Figure | None:
    """Share of the validation tokens that each expert gets, layer by layer; the dashed line is a perfect balance."""
    families = [family for family in config.families if FAMILIES[family].experts]
    if not families:
        return None
    width, seed = config.widths[-1], config.seeds[0]
    found = [select(rows, family=family, width=width, protocol="seconds", seed=seed)[0] for family in families]
    layers = len(found[0]["load"])
    figure = Figure(figsize=(3.4 * len(families), 1.9 * layers), layout="constrained")
    axes = figure.subplots(layers, len(families), squeeze=False)
    for column, (family, row) in enumerate(zip(families, found, strict=True)):
        for line, load in enumerate(row["load"]):
            axis = axes[line][column]
            axis.bar(range(len(load)), load, color=COLOURS[family])
            axis.axhline(1 / len(load), color="black", linestyle="--", linewidth=0.8)
            axis.set_title(f"{FAMILIES[family].label}, sparse layer {line + 1}", fontsize=9)
            axis.set_xlabel("expert", fontsize=8)
    return figure
