"""Estimates without a model: Kaplan–Meier, Nelson–Aalen, Aalen–Johansen, the log-rank test, censoring weights."""

# Shape legend: n subjects, m distinct times, C causes, G groups

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.survival_inputs import Bools, Floats, Values, as_array, right_censored


class StepCurve(NamedTuple):
    """A curve that is constant between its times and takes its new value at each of them.

    Args:
        time: [m + 1], 0 first, then the distinct follow-up times, censored ones included.
        value: [m + 1] or [m + 1, C]; the value at and after each time.
    """

    time: Floats
    value: Floats

    def at(self, times: Values, *, left: bool = False) -> Floats:
        """The curve at any times; with `left` the value just before them. Held after the last time."""
        side: Literal["left", "right"] = "left" if left else "right"
        index = np.searchsorted(self.time, as_array("times", times), side=side) - 1
        return self.value[index.clip(0)]


class LogRank(NamedTuple):
    """Chi-squared statistic on `groups - 1` degrees of freedom, and its p-value."""

    statistic: float
    p_value: float


class _Counts(NamedTuple):
    time: Floats  # [m] distinct, increasing
    events: Floats  # [m]
    leaving: Floats  # [m] events and censorings
    at_risk: Floats  # [m] still followed just before each time


def _counts(time: Floats, observed: Bools) -> _Counts:
    distinct, row = np.unique(time, return_inverse=True)
    leaving = np.bincount(row).astype(np.float64)
    at_risk = len(time) - np.r_[0.0, leaving[:-1].cumsum()]
    return _Counts(distinct, np.bincount(row[observed], minlength=len(distinct)).astype(np.float64), leaving, at_risk)


def _curve(time: Floats, value: NDArray[np.floating], start: float) -> StepCurve:
    return StepCurve(np.r_[0.0, time], np.concatenate([np.full((1, *value.shape[1:]), start), value]))


def kaplan_meier(time: Values, observed: Values, *, reverse: bool = False) -> StepCurve:
    """Survival by the product of 1 - events / at risk.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        reverse: the distribution of censoring instead, P(C > t). Events leave before censorings of the same time, as
            a subject with an event at t was not censored up to t.
    Source: Kaplan and Meier 1958.
    """
    counts = _counts(*right_censored(time, observed))
    deaths, at_risk = counts.events, counts.at_risk
    if reverse:
        deaths, at_risk = counts.leaving - counts.events, counts.at_risk - counts.events
    # Nobody is left at risk of censoring where all the last ones had the event: the curve stays.
    return _curve(counts.time, np.cumprod(1 - deaths / np.maximum(at_risk, 1)), 1.0)


def nelson_aalen(
    time: Values, observed: Values, *, ties: Literal["nelson_aalen", "fleming_harrington"] = "nelson_aalen"
) -> StepCurve:
    """Cumulative hazard by the sum of events / at risk.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        ties: d events at one time among r at risk add d / r, or ("fleming_harrington") 1/r + 1/(r-1) + ... as if they
            had come one after the other.
    Source: Nelson 1972; Aalen 1978; Fleming and Harrington 1984.
    """
    if ties not in ("nelson_aalen", "fleming_harrington"):
        raise ValueError(f"ties: got {ties!r}, need 'nelson_aalen' or 'fleming_harrington'")
    counts = _counts(*right_censored(time, observed))
    steps = counts.events / counts.at_risk
    if ties == "fleming_harrington":
        harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, counts.at_risk[0] + 1))]
        left = (counts.at_risk - counts.events).astype(np.int64)
        steps = harmonic[counts.at_risk.astype(np.int64)] - harmonic[left]
    return _curve(counts.time, np.cumsum(steps), 0.0)


def aalen_johansen(time: Values, cause: Values) -> StepCurve:
    """Cumulative incidence of competing causes; their sum and the survival of all causes make 1.

    Args:
        time: [n] follow-up times, at least 0.
        cause: [n] integers, 0 for censored, 1..C for the cause of the event.
    Returns:
        a curve whose value is [m + 1, C].
    Source: Aalen and Johansen 1978.
    """
    causes = as_array("cause", cause, ndim=1)
    if (causes < 0).any() or (causes != np.round(causes)).any() or not causes.any():
        raise ValueError("cause: got other values, need integers from 0 (censored) on, and an event")
    times, observed = right_censored(time, causes > 0)
    counts = _counts(times, observed)
    before = np.r_[1.0, np.cumprod(1 - counts.events / counts.at_risk)[:-1]]
    row = np.searchsorted(counts.time, times)
    events = np.stack([np.bincount(row, weights=causes == c) for c in range(1, int(causes.max()) + 1)], axis=1)
    return _curve(counts.time, np.cumsum(events * (before / counts.at_risk)[:, None], axis=0), 0.0)


def logrank(time: Values, observed: Values, group: Values) -> LogRank:
    """Do groups share one hazard? Observed less expected events of each, over their hypergeometric covariance.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        group: [n] labels of at least two groups.
    Source: Mantel 1966; Peto and Peto 1972.
    """
    from scipy import special  # slow to import; most uses never need it

    times, flags = right_censored(time, observed)
    labels, member = np.unique(np.asarray(group), return_inverse=True)
    if member.shape != times.shape or len(labels) < 2:
        raise ValueError(
            f"group: got {len(labels)} groups of shape {list(member.shape)}, need 2 or more, one a subject"
        )
    counts = _counts(times, flags)
    row = np.searchsorted(counts.time, times)
    shape = len(counts.time), len(labels)
    left, dead = np.zeros(shape), np.zeros(shape)
    np.add.at(left, (row, member), 1.0)
    np.add.at(dead, (row, member), flags)
    share = left[::-1].cumsum(0)[::-1] / counts.at_risk[:, None]  # of each group among those at risk
    excess = (dead - counts.events[:, None] * share).sum(0)
    spread = counts.events * (counts.at_risk - counts.events) / np.maximum(counts.at_risk - 1, 1)
    covariance = np.diag(spread @ share) - (share * spread[:, None]).T @ share
    # The excesses sum to 0, so one group says nothing that the others have not said.
    statistic = float(excess[:-1] @ np.linalg.pinv(covariance[:-1, :-1]) @ excess[:-1])
    return LogRank(statistic, float(special.chdtrc(len(labels) - 1, statistic)))


class Censoring:
    """The distribution of censoring, G(t) = P(C > t), from which subjects get their weights 1 / G.

    Pass the training data, as is usual; or the test data, when the model was trained under another censoring.

    Args:
        time, observed: [n], as in `kaplan_meier`.
        left_limit: an event at t weighs 1 / G(t-), which is exact where events come before censorings of the same
            time (slots); otherwise 1 / G(t), the convention of scikit-survival. The two agree without ties.
    """

    def __init__(self, time: Values, observed: Values, *, left_limit: bool = False) -> None:
        self.curve = kaplan_meier(*right_censored(time, observed, "train_"), reverse=True)
        self.left_limit = left_limit

    def survival(self, times: Floats, *, left: bool = False) -> Floats:
        """G at times within the support.

        Raises:
            ValueError: a time beyond the last of the training data while some are still uncensored there.
        """
        last = self.curve.time[-1]
        if self.curve.value[-1] > 0 and times.size and times.max() > last:
            raise ValueError(
                f"tau: got a time of {times.max():g} beyond the support of censoring, need at most {last:g}, "
                "the last training time (pass tau or times within it)"
            )
        return np.where(times > last, 0.0, self.curve.at(times, left=left))

    def event_weights(self, time: Floats, used: Bools) -> Floats:
        """1 / G at the events that are used, 0 elsewhere; an event where G is 0 weighs infinitely much."""
        weights = np.zeros(len(time))
        with np.errstate(divide="ignore"):
            weights[used] = 1 / self.survival(time[used], left=self.left_limit)
        return weights
