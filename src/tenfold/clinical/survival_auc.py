"""Areas under ROC curves: over follow-up time with censoring weights, in windows of time, and of plain labels."""

# Shape legend: n subjects, T evaluation times, W windows

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from tenfold.clinical.survival_inputs import (
    Floats,
    Values,
    as_array,
    evaluation_times,
    increasing,
    right_censored,
    scores,
)
from tenfold.clinical.survival_nonparametric import Censoring, kaplan_meier


class DynamicAuc(NamedTuple):
    """Area at each time [T], and their mean weighted by the drop of survival between the times."""

    auc: Floats
    mean: float


def cumulative_dynamic_auc(
    train_time: Values,
    train_observed: Values,
    time: Values,
    observed: Values,
    risk: Values,
    times: Values,
    *,
    tied_tol: float = 1e-8,
    left_limit: bool = False,
) -> DynamicAuc:
    """At each time, how often one with the event by then has a higher risk than one still without it.

    Args:
        train_time, train_observed: the data that the distribution of censoring is estimated from.
        time, observed: [n] the test data.
        risk: [n], or [n, T] when the risk depends on the time; higher is worse.
        times: [T] increasing, from the first to before the last follow-up of the test data.
        tied_tol: risks this close count one half.
        left_limit: as in `Censoring`.
    Returns:
        areas in [0, 1], and NaN (with a warning) where nobody has had the event.
    Raises:
        ValueError: times outside the follow-up, or beyond the support of censoring.
    Source: Uno et al. 2007; Hung and Chiang 2010; Lambert and Chevret 2016 (the mean).
    """
    test_time, flags = right_censored(time, observed)
    points, matrix = evaluation_times(times, test_time), as_array("risk", risk).astype(np.float64)
    if matrix.ndim == 1:
        matrix = np.broadcast_to(matrix[:, None], (len(matrix), len(points)))
    if matrix.shape != (len(test_time), len(points)):
        raise ValueError(f"risk: got shape {list(matrix.shape)}, need {[len(test_time), len(points)]} or one axis")
    censoring = Censoring(train_time, train_observed, left_limit=left_limit)
    weights = censoring.event_weights(test_time, flags & (test_time <= points[-1]))
    if not np.isfinite(weights).all():
        limit = test_time[~np.isfinite(weights)].min()
        raise ValueError(f"tau: got times to {points[-1]:g}, need times before {limit:g}: from there on G is 0")
    areas = np.full(len(points), np.nan)
    for t, point in enumerate(points):
        case, control = flags & (test_time <= point), np.sort(matrix[test_time > point, t])
        mine, weight = matrix[case, t], weights[case]
        if len(mine):
            order = np.argsort(mine)  # searches of rising values stay near each other in memory
            mine, weight = mine[order], weight[order]
            lower = np.searchsorted(control, mine - tied_tol, side="left")
            upto = np.searchsorted(control, mine + tied_tol, side="right")
            areas[t] = (weight * (lower + upto)).sum() / (2 * weight.sum() * len(control))
    if np.isnan(areas).any():
        warnings.warn(f"AUC is NaN at {points[np.isnan(areas)][0]:g}: no event by then", RuntimeWarning, stacklevel=2)
    drop = -np.diff(np.r_[1.0, kaplan_meier(test_time, flags).at(points)])
    mean = areas[0] if len(points) == 1 else areas @ drop / drop.sum() if drop.any() else np.nan
    return DynamicAuc(areas, float(mean))


def roc_auc(label: Values, score: Values) -> float:
    """Probability that a positive scores above a negative, ties one half; NaN (with a warning) for a single class.

    Args:
        label: [n] of 0 and 1.
        score: [n] higher is more likely positive.
    """
    labels = as_array("label", label, ndim=1)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("label: got other values, need 0 or 1")
    values, positive = scores("score", score, len(labels)), labels.astype(bool)
    negatives, positives = np.sort(values[~positive]), values[positive]
    if not len(negatives) or not len(positives):
        warnings.warn("AUC is NaN: all labels are of one class", RuntimeWarning, stacklevel=2)
        return float("nan")
    lower, upto = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
    return float((lower + upto).mean() / (2 * len(negatives)))


def window_auc(time: Values, observed: Values, probability: Values, edges: Values, *, official: bool = False) -> float:
    """Area of event probabilities in windows of time (a, b], the windows pooled.

    A subject counts in a window it entered, and whose end it saw or in which it had the event: one censored inside is
    left out.

    Args:
        time: [n] follow-up times, at least 0.
        observed: [n] whether each ended with the event.
        probability: [n, W] of the event in each window, or [n] for one.
        edges: [W + 1] increasing; the windows lie between them.
        official: subjects with the event before a window stay in it as negatives, as in the published code.
    Returns:
        the area; NaN (with a warning) where all that count are of one class.
    """
    times, flags = right_censored(time, observed)
    bounds, matrix = increasing("edges", edges), as_array("probability", probability)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.shape != (len(times), len(bounds) - 1):
        raise ValueError(f"probability: got shape {list(matrix.shape)}, need {[len(times), len(bounds) - 1]}")
    # A window from 0 takes in its start: an event at once belongs to no other.
    after_start = (times[:, None] > bounds[:-1]) | (bounds[:-1] == 0)
    event, until_end = flags[:, None], times[:, None] <= bounds[1:]
    positive = event & after_start & until_end
    negative = (times[:, None] >= bounds[1:]) & ~positive
    if official:
        negative |= event & ~after_start
    counted = positive | negative
    return roc_auc(positive[counted], matrix[counted])
