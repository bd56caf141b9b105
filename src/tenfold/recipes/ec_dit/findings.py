"""From the rows of all trainings to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, wilson
from tenfold.recipes.ec_dit.config import GROUP, Config
from tenfold.vision.geneval import TASKS

Row = dict[str, Any]

# GenEval rates of the paper's models and of others, quoted second-hand, in the order of TASKS and overall; None where not given.
PAPER_RATES: dict[str, tuple[float | None, ...]] = {
    "EC-DiT-M-64E (paper, 256 px)": (None, 0.8867, None, None, 0.2133, 0.6080, 0.7168),
    "EC-DiT-3XL-32E (paper)": (None, None, None, None, None, None, 0.7091),
    "PixArt-α (from memory)": (0.98, 0.50, 0.44, 0.80, 0.08, 0.07, 0.48),
    "SDXL (GenEval's page)": (0.98, 0.74, 0.39, 0.85, 0.15, 0.23, 0.55),
}
PAPER_NOTE = (
    "GenEval's own figures are of photographs found by a detector; ours are of a simulated world with a checker that is "
    "exact on renders and takes a blurred shape for the nearest template. They share the tasks and the scoring rule, not the difficulty."
)
MODELS = {
    "ec": "experts choose tokens",
    "tc": "tokens choose 2 experts",
    "race": "best token-expert pairs win",
    "random": "experts choose by a frozen random router",
    "dense": "one feed-forward layer, half the sparse block's compute",
    "dense-wide": "one layer of twice the width, equal compute",
    "ec-2": "2 experts",
    "ec-4": "4 experts",
    "ec-16": "16 experts",
    "ec-group": f"experts choose among {GROUP} pictures",
    "random-group": f"random router over {GROUP} pictures",
}


def of(rows: Sequence[Row], model: str) -> list[Row]:
    """Rows of a model, by seed."""
    return sorted((row for row in rows if row["model"] == model), key=lambda row: row["seed"])


def values(rows: Sequence[Row], model: str, read: Callable[[Row], float]) -> list[float]:
    """A figure of a model, one a seed."""
    return [read(row) for row in of(rows, model)]


def overall(row: Row) -> float:
    """Mean of the tasks' rates."""
    return float(row["overall"])


def rate_table(config: Config, rows: Sequence[Row], floor: Mapping[str, float]) -> list[Row]:
    """Rates by task, a line a model, with the floor and published figures below."""
    lines = []
    for model in config.models:
        own = of(rows, model)
        line: Row = {
            "model": model,
            "what differs": MODELS[model],
            "overall": plus_minus([overall(row) for row in own]),
        }
        for task in TASKS:
            if all(task in row["tasks"] for row in own):
                line[task] = plus_minus([row["tasks"][task][0] / row["tasks"][task][1] for row in own], 2)
        lines.append(line)
    low: Row = {
        "model": "floor",
        "what differs": "pictures of other training prompts",
        "overall": f"{floor['overall']:.3f}",
    }
    lines.append(low | {task: f"{floor[task]:.2f}" for task in TASKS if task in floor})
    for name, figures in PAPER_RATES.items():
        texts = ["n/a" if figure is None else f"{figure:.2f}" for figure in figures]
        lines.append(
            {"model": name, "what differs": "published", "overall": texts[-1], **dict(zip(TASKS, texts, strict=False))}
        )
    return lines


def rate_note(config: Config, rows: Sequence[Row]) -> str:
    """How sure a rate of one model is."""
    model = config.models[0]
    first = of(rows, model)[0]
    right, total = (sum(column) for column in zip(*first["tasks"].values(), strict=True))
    interval = wilson(right, total)
    seeds = "± is the 95 % t interval over seeds. " if len(config.seeds) > 1 else "One seed, no interval over seeds. "
    return (
        f"{seeds}Right pictures of {model}, seed {first['seed']}: {right} of {total} ({interval.low:.2f} to "
        f"{interval.high:.2f} by Wilson). {PAPER_NOTE}"
    )


def model_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """Size, cost and losses of every model."""
    dense = of(rows, "dense")
    base = dense[0]["step_gflop"] if dense else None
    lines = []
    for model in config.models:
        own = of(rows, model)
        line: Row = {
            "model": model,
            "parameters": own[0]["parameters"],
            "operations of a step, 1e9": round(own[0]["step_gflop"], 1),
            "learning rate": own[0]["lr"],
            "held-out loss": plus_minus([row["loss"] for row in own], 4),
            "rise with wrong captions": plus_minus([row["text_gain"] for row in own], 4),
            "seconds": round(statistics.fmean(row["seconds"] for row in own)),
        }
        if base:
            line["operations / dense"] = round(own[0]["step_gflop"] / base, 2)
        if all("frechet" in row for row in own):
            line["Fréchet (our classifier)"] = plus_minus([row["frechet"] for row in own], 2)
        lines.append(line)
    return lines


def make_claims(
    config: Config,
    rows: Sequence[Row],
    curves: Mapping[str, Mapping[int, list[tuple[int, float]]]],
    floor: Mapping[str, float],
) -> list[Claim]:
    """Every comparison that was run, paired by seed.

    Args:
        curves: model -> seed -> (step, held-out loss).
        floor: of the corpus.
    """
    own = config.model.router
    claims = []
    shapes = config.data.source == "shapes"
    pictures = f"{len(config.seeds)} seeds, shapes prompts never trained on, checker exact on renders"
    if shapes:
        claims.append(
            paired("overall rate above the floor", values(rows, own, overall), [floor["overall"]] * len(config.seeds), "higher",
                   f"{pictures}; the floor: pictures of other training prompts, same checker", simulator=True)
        )  # fmt: skip
    for rival, paper in (
        ("dense", "better than dense at equal activated compute (GenEval, FID, loss)"),
        ("dense-wide", None),
        ("tc", "better than token choice"),
        ("random", None),
        ("race", None),
    ):
        if own != "ec" or rival not in config.rivals:
            continue
        if shapes:
            claims.append(
                paired(f"ec above {rival}: overall rate", values(rows, own, overall), values(rows, rival, overall), "higher",
                       f"{pictures}; {MODELS[rival]}", paper=paper, simulator=True)
            )  # fmt: skip
        claims.append(
            paired(f"ec below {rival}: held-out loss", values(rows, own, loss_of), values(rows, rival, loss_of), "lower",
                   f"mean squared error of the velocity; {MODELS[rival]}", simulator=shapes)
        )  # fmt: skip
        if shapes and config.measure:
            claims.append(
                paired(f"ec below {rival}: Fréchet distance by a small classifier", values(rows, own, frechet),
                       values(rows, rival, frechet), "lower", "from held-out renders; the classifier is trained here",
                       simulator=True)
            )  # fmt: skip
    if own == "ec" and shapes:
        claims += scaling_claims(config, rows)
        if config.measure:
            claims += routing_claims(config, rows)
    if "dense" in config.rivals and own == "ec":
        claims += convergence_claims(config, curves)
    if config.data.source == "emoji":
        hits = [row["retrieval"]["hits"] / row["retrieval"]["pictures"] for row in of(rows, own)]
        claims.append(
            paired("held-out emoji retrieved above chance", hits, [0.05] * len(hits), "higher",
                   "share of pictures nearest to their own drawing among 20 of its style, pairs of style and name never trained on")
        )  # fmt: skip
    return claims


def routing_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Where learnt routing sends the compute, beside the random router's."""
    compared: list[tuple[str, str, str, Callable[[Row], float], str, str]] = [
        (
            "experts prefer objects more than a random router does", "ec", "random", preference,
            "last sparse block, last denoising step: experts of an object token over those of a background token",
            "late layers concentrate on named objects",
        ),
        (
            "experts follow naming words more than a random router does", "ec", "random", word_ratio,
            "experts of tokens that attend to words of kinds and colours, over those of tokens that attend to other words",
            "tokens of important text get more experts",
        ),
        (
            "pictures of more objects get more experts than under a random router", "ec-group", "random-group", slope,
            f"experts a token for one object more, experts choosing among {GROUP} pictures",
            "complex prompts get more compute",
        ),
    ]  # fmt: skip
    claims = []
    for name, model, control, read, how, paper in compared:
        if {model, control} <= set(config.models):
            mine, others = values(rows, model, read), values(rows, control, read)
            if all(map(math.isfinite, (*mine, *others))):  # a model that drew no object has no preference
                claims.append(paired(name, mine, others, "higher", how, paper=paper, simulator=True))
    return claims


def scaling_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """More experts against fewer, equal steps."""
    counts: dict[int, str] = {
        int(name.split("-")[1]): name for name in config.rivals if name in ("ec-2", "ec-4", "ec-16")
    }
    counts[config.model.num_experts] = "ec"
    if len(counts) < 2:
        return []
    few, many = counts[min(counts)], counts[max(counts)]
    return [
        paired(f"{max(counts)} experts below {min(counts)}: held-out loss", values(rows, many, loss_of), values(rows, few, loss_of),
               "lower", "equal steps and activated compute", paper="more experts, better, almost monotonically", simulator=True)
    ]  # fmt: skip


def convergence_claims(config: Config, curves: Mapping[str, Mapping[int, list[tuple[int, float]]]]) -> list[Claim]:
    """Steps until the dense model's final loss, as a share of the dense model's."""
    shares = []
    for seed in config.seeds:
        target = curves["dense"][seed][-1][1]
        reached = steps_until(curves["ec"][seed], target)
        shares.append((config.training.steps if reached is None else reached) / config.training.steps)
    return [
        paired("ec reaches dense's final loss in fewer steps", shares, [1.0] * len(shares), "lower",
               "share of the steps, between measured points by a straight line; 1 where it is not reached",
               paper="200 K steps for the dense model's 400 K", simulator=config.data.source == "shapes")
    ]  # fmt: skip


def steps_until(curve: Sequence[tuple[int, float]], target: float) -> float | None:
    """The first step at which a curve is at or below a loss, by straight lines between its points; None if never."""
    before: tuple[int, float] | None = None
    for step, loss in curve:
        if loss <= target:
            if before is None or before[1] == loss:
                return float(step)
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (step - before[0])
        before = (step, loss)
    return None


def rate_interval(rows: Sequence[Row], model: str, task: str) -> tuple[float, float, float]:
    """Rate of a model in a task, or "overall", with its 95 % interval: t over seeds, Wilson's over pictures for one.

    Source for "overall" of one seed, a mean of independent shares: Zou and Donner 2008, "Construction of confidence
    limits about effect measures" (MOVER).
    """
    own = of(rows, model)
    if len(own) > 1:
        rates = [overall(row) if task == "overall" else row["tasks"][task][0] / row["tasks"][task][1] for row in own]
        over_seeds = paired_t(rates)
        return over_seeds.value, max(0.0, over_seeds.low), min(1.0, over_seeds.high)
    if task != "overall":
        share = wilson(*own[0]["tasks"][task])
        return share.value, share.low, share.high
    shares = [wilson(*counts) for counts in own[0]["tasks"].values()]
    value = statistics.fmean(share.value for share in shares)
    below = math.hypot(*(share.value - share.low for share in shares)) / len(shares)
    above = math.hypot(*(share.high - share.value for share in shares)) / len(shares)
    return value, value - below, value + above


def loss_of(row: Row) -> float:
    """Held-out loss."""
    return float(row["loss"])


def frechet(row: Row) -> float:
    """Fréchet distance from held-out renders."""
    return float(row["frechet"])


def preference(row: Row) -> float:
    """Experts of an object token over those of a background token, last block, last step."""
    heat = row["heat"]
    return float(heat["objects"][-1][-1] / max(heat["background"][-1][-1], 1e-9))


def word_ratio(row: Row) -> float:
    """Experts of tokens that attend to naming words over those that attend to others."""
    return float(row["words"]["content"] / row["words"]["function"])


def slope(row: Row) -> float:
    """Experts a token for one object more."""
    return float(row["complexity"]["slope"])


def paired(
    name: str,
    mine: Sequence[float],
    baseline: Sequence[float],
    better: Literal["higher", "lower"],
    how: str,
    *,
    paper: str | None = None,
    simulator: bool = False,
) -> Claim:
    """Means over seeds with the paired t interval of their difference; none for one seed."""
    ci95 = (math.nan, math.nan)
    if len(mine) > 1:
        ci95 = paired_t([a - b for a, b in zip(mine, baseline, strict=True)]).ci95
    return Claim(
        name, statistics.fmean(mine), statistics.fmean(baseline), better, ci95, len(mine), how, paper, simulator
    )


def heat_sentence(rows: Sequence[Row], model: str, layers: Sequence[int]) -> str:
    """What the heat-maps show, from the numbers; `layers` are the sparse blocks', from 0, which are told from 1."""
    own = of(rows, model)
    objects, background = (np.array([row["heat"][name] for row in own]).mean(0) for name in ("objects", "background"))
    times = own[0]["heat"]["times"]
    first, last = (
        f"{o:.2f} against {b:.2f}"
        for o, b in ((objects[0, -1], background[0, -1]), (objects[-1, -1], background[-1, -1]))
    )
    steepest = int(np.abs(objects - background).mean(0).argmax())
    more = "more" if objects[-1, -1] > background[-1, -1] else "fewer"
    return (
        f"{model}: in block {layers[-1] + 1} a token on an object gets {first} experts of a background token after the first "
        f"step (t = {times[0]:.2f}) and {last} after the last, {more} for the object; over all steps the difference is "
        f"largest in block {layers[steepest] + 1} ({objects[:, steepest].mean():.2f} against "
        f"{background[:, steepest].mean():.2f}). Means over {len(own)} seed{'s' if len(own) > 1 else ''} and all pictures drawn."
    )
