"""From the rows of all trained models to tables, claims and a summary in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tenfold.core.catalogue import CATALOGUE
from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, select
from tenfold.lm.tasks import PAPER_TASKS, find_task
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Config

Row = dict[str, Any]


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % t interval over seeds; 0 for one seed."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    interval = paired_t(list(values))
    return mean, (interval.high - interval.low) / 2


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Validation loss of every other family against the dense backbone, paired by seed.

    At equal seconds width by width and on average over the widths; at equal tokens on average, where that was run.
    """
    claims = []
    for family in config.families:
        if family == "dense":
            continue
        paper = "MoE better at 6.4B, 12.6B and 29.6B" if FAMILIES[family].experts else None
        for width in config.widths:
            where = f"width {width}: validation loss below dense at equal seconds"
            claims.append(_claim(config, rows, family, "seconds", (width,), where, paper))
        if len(config.widths) > 1:
            where = "mean over widths: validation loss below dense at equal seconds"
            claims.append(_claim(config, rows, family, "seconds", config.widths, where, paper))
        if "tokens" in config.protocols and FAMILIES[family].same_active:
            where = "mean over widths: validation loss below dense at equal tokens"
            claims.append(_claim(config, rows, family, "tokens", config.widths, where, None))
    return claims


def _claim(
    config: Config,
    rows: Sequence[Row],
    family: str,
    protocol: str,
    widths: tuple[int, ...],
    where: str,
    paper: str | None,
) -> Claim:
    dense = _mean_over_widths(rows, "dense", "seconds", widths)  # its seconds hold its tokens
    losses = _mean_over_widths(rows, family, protocol, widths)
    ci95 = (math.nan, math.nan)
    if len(losses) > 1:
        interval = paired_t([a - b for a, b in zip(losses, dense, strict=True)])
        ci95 = (interval.low, interval.high)
    seeds = ", ".join(map(str, config.seeds))
    return Claim(
        name=f"{FAMILIES[family].label}, {where}",
        value=statistics.fmean(losses),
        baseline=statistics.fmean(dense),
        better="lower",
        ci95=ci95,
        seeds=len(losses),
        how=f"nats a token, seeds {seeds}, paired by seed; {config.budget.clock} seconds",
        paper=paper,
    )


def _mean_over_widths(rows: Sequence[Row], family: str, protocol: str, widths: Sequence[int]) -> list[float]:
    """Loss of each seed, averaged over widths."""
    per_width = [[row["loss"] for row in select(rows, family=family, width=w, protocol=protocol)] for w in widths]
    return [statistics.fmean(losses) for losses in zip(*per_width, strict=True)]


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
                "loss, equal seconds": _plus_minus([row["loss"] for row in equal_seconds]),
            }
            if "tokens" in config.protocols:
                # The dense model trains for its own tokens in its own seconds: one run serves both protocols.
                chosen = select(rows, family=family, width=width, protocol="tokens" if family != "dense" else "seconds")
                line["loss, equal tokens"] = _plus_minus([row["loss"] for row in chosen]) if chosen else None
            line |= {
                "step ms": 1e3 * first["step_s"],
                "step time / dense": first["step_s"] / reference[0]["step_s"],
                "parameters": first["params_total"],
                "active": first["params_active"],
                "budget s": first["budget_s"],
                "seconds used / dense": statistics.fmean(row["seconds"] for row in equal_seconds)
                / statistics.fmean(row["seconds"] for row in reference),
                "tokens / dense parameter": first["tokens"] / reference[0]["params_total"],
            }
            line["bits / byte"] = statistics.fmean(row["bits_per_byte"] for row in equal_seconds)
            if FAMILIES[family].experts:
                line["load entropy"] = statistics.fmean(row["load_entropy"] for row in equal_seconds)
            lines.append(line)
    return lines


def _plus_minus(values: Sequence[float], digits: int = 4) -> str:
    """The mean and its 95 % interval; seeds that all agree have none, and that is said."""
    mean, half = mean_and_half_width(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    agree = min(values) == max(values)
    return f"{mean:.{digits}f} (all seeds)" if agree else f"{mean:.{digits}f} ± {half:.{digits}f}"


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
    """The paper's thirteen tasks (and two more) at the largest width, accuracy over seeds.

    Tasks that no model has a score of stand together, one line a reason.
    """
    chosen = {
        family: select(rows, family=family, width=config.widths[-1], protocol="seconds") for family in config.families
    }
    lines: list[Row] = []
    missing: dict[str, list[str]] = {}
    for name in dict.fromkeys((*PAPER_TASKS, "openbookqa", "blimp")):
        scores = {family: [row["scores"].get(name, {}) for row in same] for family, same in chosen.items()}
        found = [score for same in scores.values() for score in same]
        reason = next((_how_to_get(name, score) for score in found if "acc" not in score), None)
        if not any("acc" in score for score in found):
            missing.setdefault(reason or "not asked for", []).append(name)
            continue
        cells = {
            FAMILIES[family].label: _plus_minus([100 * score["acc"] for score in same], 1)
            if all("acc" in score for score in same)
            else "n/a"
            for family, same in scores.items()
        }
        items = next(score["n"] for score in found if "acc" in score)
        lines.append(_score_line([name], items, cells, reason))
    absent = {FAMILIES[family].label: "n/a" for family in config.families}
    return lines + [_score_line(names, None, absent, reason) for reason, names in missing.items()]


def _score_line(names: Sequence[str], items: int | None, cells: dict[str, str], reason: str | None) -> Row:
    shots = ", ".join(map(str, dict.fromkeys(find_task(name).paper_shots or 0 for name in names)))
    return {"task": ", ".join(names), "shots": shots, "items": items, **cells, "paper": "n/a", "why n/a": reason}


def _how_to_get(task: str, score: Row) -> str:
    """Why a task has no score, and for want of data the command that brings them."""
    reason: str = score.get("reason", "not asked for")
    if reason != "no data":
        return reason
    public = any(row.file in find_task(task).paths() for row in CATALOGUE.values())
    return f"no data; {'tenfold data get evaluation' if public else 'bring your own in the folder TENFOLD_DATA'}"


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
    sentence = f"Text: {source}. {_counted(config.seeds, 'seed')}, {_counted(config.widths, 'width')}. "
    if not best_name:
        return sentence + "No sparse family was asked for."
    order = "below" if best < dense else "above"
    asked = [c for c in make_claims(config, rows) if "MoE" in c.name and "equal seconds" in c.name]
    held = [c for c in asked if c.holds]
    verdict = (
        "One seed: nothing is claimed."
        if len(config.seeds) == 1
        else f"MoE is better with its whole 95 % interval in {len(held)} of {len(asked)} comparisons at equal seconds."
    )
    return (
        f"{sentence}At equal seconds and width {width} the best MoE ({FAMILIES[best_name].label}) ends {abs(best - dense):.4f} nats "
        f"{order} dense ({best:.4f} against {dense:.4f}). {verdict}"
    )


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def beside_the_paper(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The paper's three headline figures, known from its summaries, beside the same quantities of this run."""
    sparse = [family for family in config.families if FAMILIES[family].experts]
    width = config.widths[-1]
    step = {family: _point(rows, family, width)[0] for family in ("dense", *sparse)}
    increases = [f"{FAMILIES[f].label} {step[f] / step['dense'] - 1:+.0%}" for f in sparse]
    speeds = [
        f"{line['family']} {line['speed at equal loss']:.2f}x"
        for line in (speed_table(config, rows) if len(config.widths) > 1 else [])
        if line["dense width"] == width and line["speed at equal loss"] and "MoE" in line["family"]
    ]
    points = []
    for family in sparse:
        mean, dense = (_mean_accuracy(config, rows, name) for name in (family, "dense"))
        if mean is not None and dense is not None:
            points.append(f"{FAMILIES[family].label} {100 * (mean - dense):+.2f}")
    return [
        {
            "figure": "step time, dense to MoE on the same backbone",
            "paper": "below +20 % with 3D sharding (reported)",
            "here": f"one device, width {width}: " + ", ".join(increases) if increases else None,
        },
        {
            "figure": "speed at the dense model's quality",
            "paper": "1.6B/256E 2.06x as fast as dense 6.4B (reported)",
            "here": f"at the loss of dense width {width}: {', '.join(speeds)}"
            if speeds
            else "no curve crosses that loss",
        },
        {
            "figure": "mean 0-shot accuracy, points",
            "paper": "1.6B/256E +1.75 over dense 6.4B (reported)",
            "here": f"equal seconds, width {width}: {', '.join(points)}" if points else "no evaluation data",
        },
    ]


def _mean_accuracy(config: Config, rows: Sequence[Row], family: str) -> float | None:
    """Mean over seeds and the paper's 0-shot tasks that have data."""
    chosen = select(rows, family=family, width=config.widths[-1], protocol="seconds")
    tasks = [name for name in PAPER_TASKS if find_task(name).paper_shots == 0]
    found = [row["scores"][name]["acc"] for row in chosen for name in tasks if "acc" in row["scores"].get(name, {})]
    return statistics.fmean(found) if found else None
