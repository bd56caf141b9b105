"""From the rows of all jobs to tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from tenfold.clinical.planted_forecast import LOUD, NOISE, SIGNAL
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.recipes.meta_forecast.config import ALONE, shown
from tenfold.recipes.meta_forecast.evaluation import METRICS, Resampling, Row, by_seed

Line = dict[str, Any]
METHODS = {
    "first_order": "AutoSelect, first order",
    "first_order_unscaled": "AutoSelect, first order, losses unscaled",
    "unrolled": "AutoSelect, unrolled (exact)",
    "finite_diff": "AutoSelect, finite differences",
    "implicit": "AutoSelect, implicit",
    "hessian_fixed": "AutoSelect, chain of Hessians",
    "official_hessian": "AutoSelect, released code's Hessians",
    "official_approx": "AutoSelect, released code's approximation",
    "official_schedule": "the same, released code's 10 rounds",
    "transferred": "weights of the other outcome",
    "given_weights": "given weights",
    "top_k_of_weights": "the largest weights, alike",
    "oracle_subset": "pretrain (tasks 0 to 3)",
    "pretrain": "pretrain (all tasks)",
    "pretrain_subset": "pretrain (given tasks)",
    "random_subset": "pretrain (random tasks)",
    "random_draw": "random tasks, as many as weighed",
    "correlation_filter": "pretrain (best single variables)",
    "uncertainty_weighting": "uncertainty weighting",
    "grad_cosine": "gradient cosine",
    "cotrain": "co-training",
    "supervised": "supervised LSTM",
    "logistic": "logistic regression",
    "boosting": "gradient boosting",
    "oracle": "oracle",
}
USES = {
    "frozen": "frozen",
    "finetuned": "fine-tuned",
    "end_to_end": "end to end",
    "summaries": "none",
    "law": "the law",
}


def modes_of(rows: Sequence[Row]) -> list[str]:
    """Those that the rows are of, ours first."""
    return [mode for mode in METHODS if any(row["mode"] == mode for row in rows)]


def uses_of(rows: Sequence[Row]) -> list[str]:
    """What was made of the encoders."""
    return [use for use in USES if any(use in row["scores"] for row in rows)]


def percents_of(rows: Sequence[Row]) -> list[float]:
    """Shares of labels, the largest first."""
    return sorted({row["percent"] for row in rows}, reverse=True)


def labels_of(rows: Sequence[Row]) -> str:
    """How many labels were read, on average over seeds, as "49 + 9": to train and to choose weights."""
    known = [row["labels"] for row in rows if "labels" in row]
    return f"{fmean(each['train'] for each in known):.0f} + {fmean(each['valid'] for each in known):.0f}"


def score_table(rows: Sequence[Row]) -> list[Line]:
    """A line for every mode and use: its measures on the test part.

    Args:
        rows: of one cohort, target and share of labels.
    """
    lines = []
    for mode in modes_of(rows):
        own = select(rows, mode=mode)
        for use in uses_of(own):
            measures = {title: plus_minus(by_seed(own, use, name)) for name, title in METRICS.items()}
            lines.append({"method": METHODS[mode], "encoder": USES[use], **measures})
    return lines


def share_table(rows: Sequence[Row]) -> list[Line]:
    """AUC-ROC of every mode and use by share of the labels.

    Args:
        rows: of one cohort and target.
    """
    lines = []
    for mode in modes_of(rows):
        for use in uses_of(select(rows, mode=mode)):
            line: Line = {"method": METHODS[mode], "encoder": USES[use]}
            for percent in percents_of(rows):
                line[f"{shown(percent)} %"] = plus_minus(by_seed(select(rows, mode=mode, percent=percent), use))
            lines.append(line)
    return lines


def gap_table(rows: Sequence[Row], mode: str, resampling: Resampling | None) -> list[Line]:
    """AUC-ROC of one mode minus that of every other, paired by seed, and under other test subjects.

    Args:
        rows: of one cohort and target.
        resampling: None where the test subjects differ between seeds.
    """
    lines = []
    for percent in percents_of(rows):
        here = select(rows, percent=percent)
        mine = select(here, mode=mode)
        for use in uses_of(mine):
            for other in modes_of(here):
                theirs = select(here, mode=other)
                against = use if use in uses_of(theirs) else ALONE.get(other)
                if other in (mode, "oracle") or against is None or against not in uses_of(theirs):
                    continue
                gaps = np.subtract(by_seed(mine, use), by_seed(theirs, against))
                line: Line = {"labels": f"{shown(percent)} %", "encoder": USES[use], "against": METHODS[other],
                              "difference": f"{gaps.mean():+.3f}"}  # fmt: skip
                if len(gaps) > 1:
                    line["95 %, seeds"] = _span(*paired_t(gaps).ci95)
                if resampling is not None:
                    pair = [[(row["name"], each) for row in side] for side, each in ((mine, use), (theirs, against))]
                    line["95 %, test subjects"] = _span(*resampling.interval(*pair))
                lines.append(line)
    return lines


def _span(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"


def mass(weights: dict[str, float], tasks: Sequence[int]) -> float:
    """Sum of the weights of some tasks."""
    values = list(weights.values())
    return sum(values[task] for task in tasks)


def planted_table(rows: Sequence[Row]) -> list[Line]:
    """What weight every kind of planted task gets.

    Args:
        rows: of one simulated cohort and share of labels.
    """
    lines = []
    for mode in modes_of(rows):
        weights = [row["weights"] for row in select(rows, mode=mode) if row["weights"]]
        if weights:
            kinds = {
                "useful (0 to 2)": SIGNAL[:3],
                "decoy (3)": SIGNAL[3:],
                "loud (4 to 9)": LOUD,
                "noise (10 to 15)": NOISE,
            }
            line: Line = {"method": METHODS[mode]}
            line |= {kind: plus_minus([mass(w, tasks) for w in weights]) for kind, tasks in kinds.items()}
            line["useful above loud"] = plus_minus([useful_above_loud(w) for w in weights])
            line["furthest from alike"] = plus_minus(
                [max(abs(16 * w - 1) for w in each.values()) for each in weights], 2
            )
            lines.append(line)
    return lines


def useful_above_loud(weights: dict[str, float]) -> float:
    """The least weight of tasks 0 to 2 minus the largest of a loud one."""
    values = list(weights.values())
    return min(values[task] for task in SIGNAL[:3]) - max(values[task] for task in LOUD)


def top_table(rows: Sequence[Row], mode: str, count: int = 10) -> list[Line]:
    """The tasks of largest weight at the largest share of labels, and their weights at all shares.

    Args:
        rows: of one cohort and target.
    """
    own = select(rows, mode=mode)
    percents = percents_of(own)
    means = {percent: _mean_weights(select(own, percent=percent)) for percent in percents}
    order = sorted(means[percents[0]], key=lambda task: -means[percents[0]][task])[:count]
    lines: list[Line] = []
    for task in order:
        line: Line = {"task": task}
        for percent in percents:
            line[f"{shown(percent)} %"] = plus_minus([row["weights"][task] for row in select(own, percent=percent)])
        lines.append(line)
    return lines


def _mean_weights(rows: Sequence[Row]) -> dict[str, float]:
    return {task: fmean(row["weights"][task] for row in rows) for task in rows[0]["weights"]}


def cost_table(rows: Sequence[Row]) -> list[Line]:
    """Seconds of a training, on average, by mode and cohort."""
    lines = []
    for mode in modes_of(rows):
        line: Line = {"method": METHODS[mode]}
        for cohort in dict.fromkeys(row["cohort"] for row in rows):
            known = [row["seconds"] for row in select(rows, mode=mode, cohort=cohort) if "seconds" in row]
            line[f"{cohort}, s"] = f"{fmean(known):.1f}" if known else "–"
        lines.append(line)
    return lines
