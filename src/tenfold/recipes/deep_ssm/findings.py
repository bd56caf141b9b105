"""From the rows of all jobs to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, select
from tenfold.recipes.deep_ssm.config import AT_ONCE, SIMULATED, Config
from tenfold.recipes.deep_ssm.evaluation import METRICS

Row = dict[str, Any]
METHODS = {
    "dssm": "DSSM, joint",
    "dssm-single": "DSSM, single event",
    "lstm": "LSTM + hazard",
    "deephit": "DeepHit-style",
    "mlp": "MLP",
    "exponential": "exponential",
    "cox": "Cox (last value)",
    "boosting": "gradient boosting",
    "kaplan-meier": "Kaplan–Meier",
    "oracle": "oracle",
}
MEAN = "mean of events"
FAVOURABLE = "MIMIC-III: compares favourably with state-of-the-art baselines (abstract)"
DIGITS = {"mae": 1}


def mean_sd(numbers: Sequence[float], digits: int = 3) -> str:
    """Mean ± standard deviation over seeds; "—" where a seed has none."""
    if not numbers or not all(map(math.isfinite, numbers)):
        return "—"
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def methods_of(rows: Sequence[Row], cohort: str) -> list[str]:
    """Those that a cohort has rows of, ours first."""
    return [method for method in METHODS if any(row["method"] == method for row in select(rows, cohort=cohort))]


def result_table(rows: Sequence[Row], cohort: str, event: str | None = None) -> list[Row]:
    """A line for every method: its measures on the test part.

    Args:
        event: None takes the mean over events.
    """
    lines = []
    for method in methods_of(rows, cohort):
        own = select(rows, cohort=cohort, method=method)
        scores = [row["mean"] if event is None else row["events"][event] for row in own]
        line: Row = {"method": METHODS[method], "event": event or MEAN}
        for name, title in METRICS.items():
            if any(name in score for score in scores) and not (
                method == "kaplan-meier" and name.startswith(("c", "auc"))
            ):
                line[title] = mean_sd([score.get(name, math.nan) for score in scores], DIGITS.get(name, 3))
            elif any(name in score for row in select(rows, cohort=cohort) for score in row["events"].values()):
                line[title] = "—"
        if cohort in SIMULATED:
            line["mean |S - S*|"] = mean_sd([score["error"] for score in scores])
        lines.append(line)
    return lines  # fmt: skip


def forced_table(rows: Sequence[Row]) -> list[Row]:
    """What the joint model says of forced treatment, beside the simulator's law."""
    lines = []
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        own = [row["mean"] for row in select(rows, cohort=cohort, method="dssm") if "do_error" in row["mean"]]
        if own:
            lines.append(
                {
                    "cohort": cohort,
                    "mean |S - S*|, always or never treated": mean_sd([row["do_error"] for row in own]),
                    "of curves that ignore the plan": mean_sd([row["do_ignored"] for row in own]),
                    "survival gained by treatment": mean_sd([row["do_effect"] for row in own]),
                    "by the law": mean_sd([row["do_effect_true"] for row in own]),
                }
            )
    return lines


def cost_table(rows: Sequence[Row]) -> list[Row]:
    """Sizes and times of what was trained."""
    lines = []
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        for method in methods_of(rows, cohort):
            own = [row for row in select(rows, cohort=cohort, method=method) if "parameters" in row]
            if own:
                best = [statistics.fmean(row["best_step"]) for row in own]
                lines.append(
                    {"cohort": cohort, "method": METHODS[method], "parameters": own[0]["parameters"],
                     "seconds of training": f"{statistics.fmean(row['seconds'] for row in own):.1f}",
                     "best step": "—" if method in AT_ONCE else f"{statistics.fmean(best):.0f}",
                     "validation NLL": mean_sd([row["valid_nll"] for row in own])}
                )  # fmt: skip
    return lines


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """The comparisons that the methods at hand allow, paired by seed."""
    claims = []
    for cohort in config.cohorts:
        claims += _bars(rows, cohort)
        claims += _order(rows, cohort)
    return claims


# A bar: what is claimed, the measure, the better side, the rival (or a number), and the baseline made of its figure.
_Bar = tuple[str, str, str, str | float, Callable[[float], float]]


def _shift(by: float) -> Callable[[float], float]:
    return lambda rival: rival + by


def _of_oracle(share: float) -> Callable[[float], float]:
    return lambda oracle: 0.5 + share * (oracle - 0.5)


_BARS: dict[str, tuple[_Bar, ...]] = {
    "sim": (
        ("C-index at least .5 + .95 (oracle - .5)", "c", "higher", "oracle", _of_oracle(0.95)),
        ("C-index at least Cox + .015", "c", "higher", "cox", _shift(0.015)),
        ("C-index at least LSTM - .005", "c", "higher", "lstm", _shift(-0.005)),
        ("mean |S - S*| at most .035", "error", "lower", 0.035, _shift(0)),
        ("NLL at most oracle + .02 nat", "nll", "lower", "oracle", _shift(0.02)),
    ),
    "sim-300": (
        ("NLL at most LSTM - .03", "nll", "lower", "lstm", _shift(-0.03)),
        ("C-index at least LSTM + .02", "c", "higher", "lstm", _shift(0.02)),
        ("C-index at least Cox + .01", "c", "higher", "cox", _shift(0.01)),
        ("C-index at least .5 + .85 (oracle - .5)", "c", "higher", "oracle", _of_oracle(0.85)),
        ("C-index at least single-event + .02", "c", "higher", "dssm-single", _shift(0.02)),
    ),
    "icu12": (
        ("C-index at least Cox + .01", "c", "higher", "cox", _shift(0.01)),
        ("C-index at least LSTM - .005", "c", "higher", "lstm", _shift(-0.005)),
    ),
}
_ORDER = ("dssm", "dssm-single", "lstm", "cox")


def _bars(rows: Sequence[Row], cohort: str) -> list[Claim]:
    """What was set before: a claim holds where the whole interval lies beyond the bar."""
    claims = []
    mine = select(rows, cohort=cohort, method="dssm")
    for what, measure, better, rival, bar in _BARS.get(cohort, ()) if mine else ():
        name, how = f"{cohort}: joint DSSM, {what}", f"{cohort}, test patients, mean over events"
        values = [row["mean"][measure] for row in mine]
        if isinstance(rival, float):
            claims.append(_claim(name, values, [rival] * len(values), better, how, cohort))
        elif theirs := select(rows, cohort=cohort, method=rival):
            baseline = [bar(row["mean"][measure]) for row in theirs]
            claims.append(_claim(name, values, baseline, better, how, cohort))
    if mine and all("do_error" in row["mean"] for row in mine):
        values, baseline = ([row["mean"][name] for row in mine] for name in ("do_error", "do_ignored"))
        how = f"{cohort}, mean |S - S*| of test patients always or never treated, against curves that ignore the plan"
        claims.append(
            _claim(f"{cohort}: what-if nearer to the law than no plan", values, baseline, "lower", how, cohort)
        )
    if cohort == "icu12" and mine:
        claims += _icu_bars(rows, mine)
    return [claim for claim in claims if claim is not None]


def _icu_bars(rows: Sequence[Row], mine: Sequence[Row]) -> list[Claim | None]:
    """Death within 30 days, and every event's Brier score beside one curve for all."""
    claims = []
    for event in mine[0]["events"]:
        scores, how = [row["events"][event] for row in mine], f"icu12, test patients at risk of {event}"
        if event == "death30":
            values = [score["c"] for score in scores]
            claims.append(
                _claim("icu12: joint DSSM, C-index of death30 at least .75", values, [0.75] * len(values), "higher", how, "icu12")
            )  # fmt: skip
        if curve := select(rows, cohort="icu12", method="kaplan-meier"):
            values, baseline = ([row["events"][event]["ibs"] for row in each] for each in (mine, curve))
            name = f"icu12: joint DSSM, IBS of {event} below Kaplan–Meier"
            claims.append(_claim(name, values, baseline, "lower", how, "icu12"))
    return claims


def _order(rows: Sequence[Row], cohort: str) -> list[Claim]:
    """The order sought: joint, single, LSTM, Cox, each above the next that was trained; joint above boosting."""
    trained = [method for method in _ORDER if select(rows, cohort=cohort, method=method)]
    claims = []
    pairs = list(pairwise(trained))
    if "dssm" in trained and select(rows, cohort=cohort, method="boosting"):
        pairs.append(("dssm", "boosting"))
    for better, worse in pairs:
        values, baseline = (
            [row["mean"]["c"] for row in select(rows, cohort=cohort, method=method)] for method in (better, worse)
        )
        name = f"{cohort}: {METHODS[better]} above {METHODS[worse]}, C-index"
        how = f"{cohort}, test patients, Harrell's C of the risk within the horizon, mean over events"
        claims.append(_claim(name, values, baseline, "higher", how, cohort, FAVOURABLE if better == "dssm" else None))
    return [claim for claim in claims if claim is not None]


def _claim(
    name: str,
    values: Sequence[float],
    baseline: Sequence[float],
    better: Any,
    how: str,
    cohort: str,
    paper: str | None = None,
) -> Claim | None:
    """A claim over seeds; None where a figure is undefined, as on a handful of patients."""
    if not all(map(math.isfinite, [*values, *baseline])):
        return None
    ci95 = (math.nan, math.nan)
    if len(values) > 1:
        ci95 = paired_t([a - b for a, b in zip(values, baseline, strict=True)]).ci95
    seeds = len(values)
    mean = statistics.fmean
    return Claim(name, mean(values), mean(baseline), better, ci95, seeds, how, paper, cohort in SIMULATED)


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The run in words."""
    words = []
    for cohort in config.cohorts:
        what = "simulated patients" if cohort in SIMULATED else "patients"
        own = [
            f"{METHODS[method]} {mean_sd([row['mean']['c'] for row in select(rows, cohort=cohort, method=method)])}"
            for method in methods_of(rows, cohort)
            if method != "kaplan-meier"
        ]
        events = ", ".join(select(rows, cohort=cohort)[0]["events"])
        words.append(f"{cohort} ({what}; {events}), C-index, mean over events: {'; '.join(own)}.")
    seeds = f"± is the standard deviation over {len(config.seeds)} seeds." if len(config.seeds) > 1 else "One seed."
    return " ".join([*words, seeds, f"ELBO reduction: {config.network.elbo_reduction}."])


def note(config: Config, cohort: str) -> str:
    """The conditions of a cohort's tables."""
    words = [
        f"Mean ± standard deviation over {len(config.seeds)} seeds." if len(config.seeds) > 1 else "One seed.",
        "Patients at risk in the test part; weights of least validation NLL.",
        "C-indices (but Antolini's) rank by the risk within the horizon; censoring weights come from the training part.",
        "The curves of Cox and Kaplan–Meier stand still in slots without a training event; an event there costs them much NLL.",
        "D-calibration: censored patients are spread over the bins, so that its p is an upper bound; a small one refutes calibration, a large one proves nothing.",
        "MAE is over patients with the event alone, of the mean time within the horizon.",
    ]
    if cohort in SIMULATED:
        words.append("Simulator: S* is its own law given the history, and the oracle ranks by it.")
    return " ".join(words)
