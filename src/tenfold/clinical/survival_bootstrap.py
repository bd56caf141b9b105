"""Bootstrap over patients: how far would these figures move, had other patients like them come?

A draw with replacement is a count of each patient. Written with counts, concordance and correlations are products of
matrices, and Kaplan–Meier's curve sums of columns, so that a thousand draws cost little more than one.
"""

# Shape legend: n patients, R draws, e patients with the event, m distinct times, E events

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.survival_inputs import Floats, Values, as_array, right_censored, scores

BLOCK = 4_000_000  # pairs in memory at once


class Spread(NamedTuple):
    """A figure, or an array of them, with its interval; NaN where it is undefined."""

    value: Floats
    low: Floats
    high: Floats


def draws(patients: int, count: int, generator: np.random.Generator) -> Floats:
    """How often each patient is drawn, [R, n]; every row adds up to n."""
    for name, given in (("patients", patients), ("count", count)):
        if given < 1:
            raise ValueError(f"{name}: got {given}, need at least 1")
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=count).astype(np.float64)


def spread(value: Values, drawn: Values, confidence: float = 0.95) -> Spread:
    """The percentile interval of a figure.

    Args:
        value: of the patients themselves, any shape.
        drawn: [R, ...] of each draw; NaN where a draw leaves it undefined, which is left out.
        confidence: in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, need a number in (0, 1)")
    figures = np.asarray(drawn, dtype=np.float64)
    undefined = np.isnan(figures).all(0)  # a figure that no draw defines has no interval
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    # Values are picked, not averaged, since some are infinite.
    found = np.nanquantile(np.where(undefined, 0.0, figures), ends, axis=0, method="inverted_cdf")
    low, high = np.where(undefined, np.nan, found)
    return Spread(np.asarray(value, dtype=np.float64), low, high)


def concordance_of_draws(
    time: Values, observed: Values, risk: Values, counts: Floats, *, tied_tol: float = 1e-8
) -> Floats:
    """Harrell's C of each draw [R], as `concordance_index` gives it; NaN where nothing is comparable.

    Args:
        time, observed, risk: [n].
        counts: [R, n].
        tied_tol: risks this close count one half.
    """
    times, flags = right_censored(time, observed)
    risks = scores("risk", risk, len(times))
    events = np.flatnonzero(flags)
    concordant, comparable = np.zeros(len(counts)), np.zeros(len(counts))
    for part in np.array_split(events, -(-len(events) * len(times) // BLOCK) or 1):
        own = times[part, None]
        pairs = (times > own) | ((times == own) & ~flags)
        ahead = risks[part, None] - risks
        won = pairs * np.where(np.abs(ahead) <= tied_tol, 0.5, ahead > 0)
        concordant += ((counts[:, part] @ won) * counts).sum(1)
        comparable += ((counts[:, part] @ pairs) * counts).sum(1)
    return np.divide(concordant, comparable, out=np.full(len(counts), np.nan), where=comparable > 0)


def survival_of_draws(time: Values, observed: Values, counts: Floats, at: float) -> Floats:
    """Kaplan–Meier's survival at a time, of each draw [R].

    Args:
        time, observed: [n].
        counts: [R, n].
    """
    times, flags = right_censored(time, observed)
    order = np.argsort(times)
    distinct, starts = np.unique(times[order], return_index=True)
    leaving, deaths = (np.add.reduceat(each[:, order], starts, axis=1) for each in (counts, counts * flags))
    at_risk = counts.sum(1, keepdims=True) - np.cumsum(leaving, axis=1) + leaving
    return np.prod(1 - (deaths / np.maximum(at_risk, 1))[:, distinct <= at], axis=1)


def correlation_of_draws(columns: Sequence[Values], counts: Floats) -> Floats:
    """Pearson's correlation over patients of each pair of columns, of each draw [R, E, E]; NaN where one does not vary.

    Args:
        columns: E arrays [n].
        counts: [R, n].
    """
    x: NDArray[np.float64] = np.stack([as_array("columns", each, ndim=1) for each in columns]).astype(np.float64)
    x = x - x.mean(1, keepdims=True)  # the moments of centred numbers keep their digits
    total, events = counts.sum(1), len(x)
    mean = counts @ x.T / total[:, None]
    product = (x[:, None] * x[None]).reshape(events * events, -1)
    covariance = (counts @ product.T / total[:, None]).reshape(-1, events, events) - mean[:, :, None] * mean[:, None]
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).clip(0))
    scale = sd[:, :, None] * sd[:, None]
    return np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=scale > 0).clip(-1, 1)


def mean_of_draws(values: Values, counts: Floats) -> Floats:
    """The mean over patients of each draw [R, ...]; NaN among the values is left out.

    Args:
        values: [n, ...].
        counts: [R, n].
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    weight = np.tensordot(counts, known.astype(np.float64), 1)
    total = np.tensordot(counts, np.where(known, array, 0.0), 1)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
