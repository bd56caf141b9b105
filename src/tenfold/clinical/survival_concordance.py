"""Concordance of predicted risk and observed order: Harrell's C, Uno's C, and C over time after Antolini.

A pair (i, j) is comparable when i had the event and j was then still followed: t_j > t_i, or t_j = t_i with j censored.
Counting them pair by pair takes n² steps; here one sweep over the bits of the ranks counts for all subjects at once.
"""

# Shape legend: n subjects, q queries, e events, G grid points

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.survival_inputs import Bools, Floats, Values, curves, last_step, right_censored, scores
from tenfold.clinical.survival_nonparametric import Censoring

Ints = NDArray[np.int64]


class NoComparablePairs(ValueError):
    """Concordance is undefined: no subject had the event while another was still followed."""


def count_below(ranks: Ints, prefix: Ints, bound: Ints) -> Ints:
    """For every query, how many of the first `prefix` ranks lie below `bound`.

    A wavelet matrix: level by level from the highest bit the ranks are split into those without the bit and, behind
    them, those with it; a query follows its own bits, and takes along the lower half wherever its bit is set.

    Args:
        ranks: [n] a permutation of 0..n-1.
        prefix, bound: [q] in 0..n.
    Returns:
        [q] counts.
    Source: Claude, Navarro and Ordóñez 2015 (wavelet matrix).
    """
    count, start, stop = np.zeros_like(prefix), np.zeros_like(prefix), prefix
    for bit in reversed(range(len(ranks).bit_length())):
        high = (ranks >> bit & 1).astype(bool)
        lows = np.r_[0, np.cumsum(~high)]
        low_start, low_stop = lows[start], lows[stop]
        upper = (bound >> bit & 1).astype(bool)
        count = count + np.where(upper, low_stop - low_start, 0)
        start = np.where(upper, start - low_start + lows[-1], low_start)
        stop = np.where(upper, stop - low_stop + lows[-1], low_stop)
        ranks = np.concatenate([ranks[~high], ranks[high]])
    return count


class _Pairs(NamedTuple):
    """Subjects from the last to leave to the first, the censored before events of the same time."""

    order: Ints  # [n]
    event: Ints  # [e] subjects with the event
    later: Ints  # [e] how many left after each: so many of `order` from its start on
    comparable: Ints  # [e] those, and the censored of its own time


def _pairs(time: Floats, observed: Bools) -> _Pairs:
    order, event = np.lexsort((observed, -time)), np.flatnonzero(observed)
    everyone, censored, own = np.sort(time), np.sort(time[~observed]), time[event]
    later = len(time) - np.searchsorted(everyone, own, side="right")
    tied = np.searchsorted(censored, own, side="right") - np.searchsorted(censored, own, side="left")
    return _Pairs(order, event, later, later + tied)


def concordance_index(time: Values, observed: Values, risk: Values, *, tied_tol: float = 1e-8) -> float:
    """Harrell's C: the share of comparable pairs in which the earlier event had the higher risk.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        risk: [n] higher is worse. Risks within `tied_tol` of each other count one half.
    Returns:
        a number in [0, 1]; 0.5 is chance.
    Raises:
        NoComparablePairs: nothing to compare, as when all are censored.
    Source: Harrell et al. 1996.
    """
    times, flags = right_censored(time, observed)
    return _weighted(times, flags, scores("risk", risk, len(times)), np.ones(len(times)), tied_tol)


def concordance_ipcw(
    train_time: Values,
    train_observed: Values,
    time: Values,
    observed: Values,
    risk: Values,
    tau: float | None = None,
    *,
    tied_tol: float = 1e-8,
    left_limit: bool = False,
) -> float:
    """Uno's C: Harrell's, every pair weighted by 1 / G² at its event, so that it does not depend on the censoring.

    Args:
        train_time, train_observed: the data that the distribution of censoring G is estimated from.
        time, observed, risk: [n] the test data, as in `concordance_index`.
        tau: events from this time on are left out; needed when test events lie beyond the censoring of the training
            data.
        tied_tol: risks this close count one half.
        left_limit: as in `Censoring`.
    Raises:
        ValueError: an event beyond the support of censoring.
        NoComparablePairs: nothing to compare before `tau`.
    Source: Uno et al. 2011.
    """
    times, flags = right_censored(time, observed)
    used = flags if tau is None else flags & (times < tau)
    weights = Censoring(train_time, train_observed, left_limit=left_limit).event_weights(times, used)
    if not np.isfinite(weights).all():
        limit = times[~np.isfinite(weights)].min()
        raise ValueError(f"tau: got {tau}, need at most {limit:g}, from where on everybody is censored in training")
    return _weighted(times, flags, scores("risk", risk, len(times)), weights**2, tied_tol)


def _weighted(time: Floats, observed: Bools, risk: Floats, weights: Floats, tied_tol: float) -> float:
    pairs = _pairs(time, observed)
    weight, own = weights[pairs.event], risk[pairs.event]
    total = (weight * pairs.comparable).sum()
    if total == 0:
        raise NoComparablePairs("no comparable pairs: no subject with a weight outlived another one's event")
    by_risk = np.argsort(risk, kind="stable")
    place = np.empty_like(by_risk)
    place[by_risk] = np.arange(len(risk))
    bounds = (
        np.searchsorted(risk[by_risk], own - tied_tol, side="left"),
        np.searchsorted(risk[by_risk], own + tied_tol, side="right"),
    )
    lower, upto = (count_below(place[pairs.order], pairs.comparable, bound) for bound in bounds)
    return float((weight * (lower + upto)).sum() / (2 * total))


def concordance_td(
    time: Values,
    observed: Values,
    survival: Values,
    grid: Values,
    method: Literal["antolini", "adj_antolini"] = "antolini",
) -> float:
    """C over time: in a comparable pair, the one with the event should have the lower survival at its own time.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        survival: [n, G] in [0, 1], subjects by grid.
        grid: [G] increasing times; a curve holds its value from one of them up to the next.
        method: "antolini" counts only strictly lower survival; "adj_antolini" gives ties one half and also takes in
            pairs of equal times (two events agree fully when tied in survival too, else half), each of them in both
            of its orders.
    Returns:
        a number in [0, 1].
    Raises:
        NoComparablePairs: nothing to compare.
    Source: Antolini et al. 2005; Ishwaran et al. 2008, section 5.1 (ties).
    """
    if method not in ("antolini", "adj_antolini"):
        raise ValueError(f"method: got {method!r}, need 'antolini' or 'adj_antolini'")
    times, flags = right_censored(time, observed)
    matrix, points = curves(survival, grid, len(times))
    pairs, step = _pairs(times, flags), last_step(points, times)
    own = matrix[np.arange(len(times)), step]
    greater, equal = _beyond(pairs, step, matrix)
    if method == "antolini":
        above, _ = _within(pairs, step, own, pairs.comparable)
        concordant, total = float((greater + above).sum()), float(pairs.comparable.sum())
    else:
        every = _halves(*_within(pairs, step, own, pairs.comparable))
        later = _halves(*_within(pairs, step, own, pairs.later))
        same_time, same_both = _tied(times[flags]), _tied(times[flags], own[flags])
        concordant = float((_halves(greater, equal) + 2 * every - later).sum() + (same_time + same_both) / 2)
        total = float((2 * pairs.comparable - pairs.later).sum() + same_time)
    if total == 0:
        raise NoComparablePairs("no comparable pairs: no subject outlived another one's event")
    return concordant / total


def _halves(greater: Ints, equal: Ints) -> Floats:
    return greater + equal / 2


def _tied(*keys: Floats) -> int:
    """Ordered pairs of rows that are equal in all keys."""
    order = np.lexsort(keys)
    new = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    size = np.diff(np.r_[0, np.flatnonzero(new) + 1, len(order)])
    return int((size * (size - 1)).sum())


def _beyond(pairs: _Pairs, step: Ints, matrix: NDArray[np.floating]) -> tuple[Ints, Ints]:
    """For every event [e], the subjects of later grid steps whose survival at its step is greater, or equal.

    All events of a step read the same column, and all subjects of later steps left after them: one sort a step.
    """
    greater, equal = np.zeros_like(pairs.event), np.zeros_like(pairs.event)
    columns = np.take(matrix.T, pairs.order, axis=1)  # [G, n], last to leave first
    remaining = len(step) - np.cumsum(np.bincount(step, minlength=len(columns)))
    by_step = np.argsort(step[pairs.event], kind="stable")
    groups = np.split(by_step, np.cumsum(np.bincount(step[pairs.event], minlength=len(columns)))[:-1])
    for k, group in enumerate(groups):
        if len(group) and remaining[k]:
            others, mine = np.sort(columns[k, : remaining[k]]), matrix[pairs.event[group], k]
            upto = np.searchsorted(others, mine, side="right")
            greater[group] = len(others) - upto
            equal[group] = upto - np.searchsorted(others, mine, side="left")
    return greater, equal


def _within(pairs: _Pairs, step: Ints, own: NDArray[np.floating], prefix: Ints) -> tuple[Ints, Ints]:
    """The same among the subjects of the event's own step, the first `prefix` of `pairs.order`.

    Ranks go by step first. Of a prefix, nobody is of an earlier step, and who is of a later one ranks above all of
    the own step: what lies below a bound there is of the own step.
    """
    sort = np.lexsort((own, step))
    place = np.empty_like(sort)
    place[sort] = np.arange(len(sort))
    new = np.r_[True, (np.diff(step[sort]) > 0) | (np.diff(own[sort]) > 0)]
    first = np.flatnonzero(new)
    run = (np.cumsum(new) - 1)[place[pairs.event]]
    ranks = place[pairs.order]
    lower = count_below(ranks, prefix, first[run])
    upto = count_below(ranks, prefix, np.r_[first[1:], len(sort)][run])
    remaining = len(step) - np.cumsum(np.bincount(step))  # of later steps
    return prefix - remaining[step[pairs.event]] - upto, upto - lower
