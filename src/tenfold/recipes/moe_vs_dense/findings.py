"""From the rows of all trained models to tables, figures and claims."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from tenfold.core.claims import Claim
from tenfold.core.run import Run
from tenfold.core.statistics import paired_t
from tenfold.lm.tasks import PAPER_TASKS, find_task
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Config

Row = dict[str, Any]
COLOURS = {
    "dense": "#444444",
    "dense-wide": "#9a9a9a",
    "moe-half": "#0b6fb8",
    "moe-full": "#d1682b",
    "moe-top1": "#2a9055",
    "moe-256": "#7a4fb0",
}
REPORTED = (
    {"figure": "dense to MoE step-time increase with 3D sharding", "paper": "below 20 % (reported)"},
    {"figure": "1.6B/256E against dense 6.4B: speed", "paper": "2.06x (reported)"},
    {"figure": "1.6B/256E against dense 6.4B: mean 0-shot accuracy", "paper": "+1.75 points (reported)"},
)


def select(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows with these values, in order of seed."""
    kept = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    return sorted(kept, key=lambda row: row["seed"])


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval over seeds; 0 for one seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    interval = paired_t(list(values))
    return mean, (interval.high - interval.low) / 2


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Every other family against the dense backbone at equal seconds, width by width: validation loss, paired by seed."""
    claims = []
    for width in config.widths:
        dense = [row["loss"] for row in select(rows, family="dense", width=width, protocol="seconds")]
        for family in config.families:
            if family == "dense":
                continue
            losses = [row["loss"] for row in select(rows, family=family, width=width, protocol="seconds")]
            ci95 = (math.nan, math.nan)
            if len(losses) > 1:
                interval = paired_t([a - b for a, b in zip(losses, dense, strict=True)])
                ci95 = (interval.low, interval.high)
            claims.append(
                Claim(
                    name=f"{FAMILIES[family].label}, width {width}: validation loss below dense at equal seconds",
                    value=statistics.fmean(losses),
                    baseline=statistics.fmean(dense),
                    better="lower",
                    ci95=ci95,
                    seeds=len(losses),
                    how=f"nats a token, mean over seeds {', '.join(map(str, config.seeds))}, paired by seed; {config.budget.clock} seconds",
                    paper="MoE better at 6.4B, 12.6B and 29.6B" if FAMILIES[family].experts else None,
                )
            )
    return claims


def protocol_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """One line a model: what it has, what it cost, and its loss under both protocols beside the dense model's."""
    lines = []
    for width in config.widths:
        for family in config.families:
            equal_seconds = select(rows, family=family, width=width, protocol="seconds")
            first = equal_seconds[0]
            reference = select(rows, family="dense", width=width, protocol="seconds")
            line = {
                "model": FAMILIES[family].label,
                "width": width,
                "parameters": first["params_total"],
                "active": first["params_active"],
                "step ms": 1e3 * first["step_s"],
                "step time / dense": first["step_s"] / reference[0]["step_s"],
                "budget s": first["budget_s"],
                "seconds used / dense": statistics.fmean(row["seconds"] for row in equal_seconds)
                / statistics.fmean(row["seconds"] for row in reference),
                "tokens / dense parameter": first["tokens"] / reference[0]["params_total"],
                "loss, equal seconds": _plus_minus([row["loss"] for row in equal_seconds]),
            }
            if "tokens" in config.protocols:
                # The dense model trains for its own tokens in its own seconds: one run serves both protocols.
                chosen = select(rows, family=family, width=width, protocol="tokens" if family != "dense" else "seconds")
                line["loss, equal tokens"] = _plus_minus([row["loss"] for row in chosen]) if chosen else None
            line["bits / byte"] = statistics.fmean(row["bits_per_byte"] for row in equal_seconds)
            if FAMILIES[family].experts:
                line["load entropy"] = statistics.fmean(row["load_entropy"] for row in equal_seconds)
            lines.append(line)
    return lines


def _plus_minus(values: Sequence[float]) -> str:
    mean, half = mean_and_half_width(values)
    return f"{mean:.4f} ± {half:.4f}" if half else f"{mean:.4f}"


def speed_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """How much faster than each dense model a family's curve reaches that model's loss (interpolated in log step time)."""
    lines = []
    for family in config.families:
        if family == "dense":
            continue
        curve = [_point(rows, family, width) for width in config.widths]
        for width in config.widths:
            step_s, loss = _point(rows, "dense", width)
            same = step_time_at_loss(curve, loss)
            lines.append(
                {
                    "family": FAMILIES[family].label,
                    "dense width": width,
                    "dense step ms": 1e3 * step_s,
                    "dense loss": loss,
                    "step ms at that loss": None if same is None else 1e3 * same,
                    "speed at equal loss": None if same is None else step_s / same,
                }
            )
    return lines


def _point(rows: Sequence[Row], family: str, width: int) -> tuple[float, float]:
    chosen = select(rows, family=family, width=width, protocol="seconds")
    return chosen[0]["step_s"], statistics.fmean(row["loss"] for row in chosen)


def step_time_at_loss(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Where a falling curve of (step seconds, loss) crosses `loss`, linear in log seconds; None outside its range."""
    for (time_a, loss_a), (time_b, loss_b) in pairwise(curve):
        if min(loss_a, loss_b) <= loss <= max(loss_a, loss_b) and loss_a != loss_b:
            share = (loss - loss_a) / (loss_b - loss_a)
            return math.exp(math.log(time_a) + share * (math.log(time_b) - math.log(time_a)))
    return None


def score_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The paper's thirteen tasks (and two more) at the largest width, accuracy over seeds; n/a with the reason."""
    width = config.widths[-1]
    names = [*PAPER_TASKS, *(name for name in ("openbookqa", "blimp") if name not in PAPER_TASKS)]
    lines = []
    for name in names:
        line: Row = {"task": name, "shots": find_task(name).paper_shots or 0}
        for family in config.families:
            found = [
                row["scores"].get(name, {}) for row in select(rows, family=family, width=width, protocol="seconds")
            ]
            if all("acc" in score for score in found) and found:
                line[FAMILIES[family].label] = _plus_minus([100 * score["acc"] for score in found])
                line["items"] = found[0]["n"]
            else:
                line[FAMILIES[family].label] = "n/a"
                line["why n/a"] = found[0].get("reason", "not asked for") if found else "not asked for"
        line["paper"] = "n/a"
        lines.append(line)
    return lines


def trade_off_figure(config: Config, rows: Sequence[Row]) -> Figure:
    """Step time against validation loss: a curve a family, a point a width, bars of 95 % over seeds."""
    protocols = [p for p in ("seconds", "tokens") if p in config.protocols]
    figure = Figure(figsize=(5.6 * len(protocols), 4.2), layout="constrained")
    axes = figure.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
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
                yerr=[half for _, half in points],
                marker="o" if FAMILIES[family].experts else "s",
                linestyle="-" if FAMILIES[family].experts else "--",
                color=COLOURS[family],
                capsize=3,
                label=FAMILIES[family].label,
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(ScalarFormatter())
        axis.tick_params(axis="x", which="both", labelsize=8)
        axis.set_xlabel("time of one training step, ms (log scale)")
        axis.set_title(f"equal {protocol}")
        axis.grid(alpha=0.3, which="both")
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
    axis.set_xlabel(f"{config.budget.clock} seconds of training")
    axis.set_ylabel("training loss, nats a token")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def _smoothed(values: Sequence[float], keep: float = 0.8) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else keep * out[-1] + (1 - keep) * value)
    return out


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


def summary(config: Config, rows: Sequence[Row], source: str) -> str:
    """What came out, in words, with the sign that was measured."""
    width = config.widths[-1]
    dense = statistics.fmean(row["loss"] for row in select(rows, family="dense", width=width, protocol="seconds"))
    best_name, best = "", math.inf
    for family in config.families:
        if FAMILIES[family].experts:
            loss = statistics.fmean(row["loss"] for row in select(rows, family=family, width=width, protocol="seconds"))
            if loss < best:
                best_name, best = family, loss
    sentence = f"Text: {source}. {len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}, {len(config.widths)} widths. "
    if not best_name:
        return sentence + "No sparse family was asked for."
    order = "below" if best < dense else "above"
    held = [c for c in make_claims(config, rows) if c.holds and "MoE" in c.name]
    asked = sum(1 for f in config.families if FAMILIES[f].experts) * len(config.widths)
    verdict = (
        "One seed: nothing is claimed."
        if len(config.seeds) == 1
        else f"MoE is better with its whole 95 % interval in {len(held)} of {asked} comparisons at equal seconds."
    )
    return (
        f"{sentence}At equal seconds and width {width} the best MoE ({FAMILIES[best_name].label}) ends {abs(best - dense):.4f} nats "
        f"{order} dense ({best:.4f} against {dense:.4f}). {verdict}"
    )
