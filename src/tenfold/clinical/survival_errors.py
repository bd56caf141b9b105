"""Errors of predicted curves under censoring: Brier score, its integral, binomial log-likelihood; error of times."""

# Shape legend: n subjects, T evaluation times

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from tenfold.clinical.survival_inputs import Floats, Values, as_array, evaluation_times, right_censored, scores
from tenfold.clinical.survival_nonparametric import Censoring

Normalize = Literal["subjects", "weights"]
LOG_CLIP = 1e-7  # probabilities are kept this far from 0 and 1 before a logarithm


def brier_score(
    train_time: Values,
    train_observed: Values,
    time: Values,
    observed: Values,
    survival: Values,
    times: Values,
    *,
    left_limit: bool = False,
    normalize: Normalize = "subjects",
) -> Floats:
    """Squared error of S(t), subjects weighted by the inverse probability of being uncensored.

    Args:
        train_time, train_observed: the data that the distribution of censoring is estimated from.
        time, observed: [n] the test data.
        survival: [n, T] predicted survival at `times`, in [0, 1].
        times: [T] increasing, from the first to before the last follow-up of the test data.
        left_limit: as in `Censoring`.
        normalize: divide by the number of "subjects" (scikit-survival), or by the sum of their "weights" (pycox).
    Returns:
        [T] scores, lower is better; 0.25 for S = 0.5 everywhere.
    Raises:
        ValueError: times outside the follow-up, or beyond the support of censoring.
    Source: Graf et al. 1999.
    """
    loss = _Weighted(train_time, train_observed, time, observed, survival, times, left_limit, normalize)
    return loss.mean(lambda alive: (1 - alive) ** 2)


def integrated_brier_score(
    train_time: Values,
    train_observed: Values,
    time: Values,
    observed: Values,
    survival: Values,
    times: Values,
    *,
    left_limit: bool = False,
    normalize: Normalize = "subjects",
) -> float:
    """Mean of `brier_score` over the time between the first and the last of `times` (trapezoids); same arguments.

    Raises:
        ValueError: as `brier_score`, and for fewer than two times.
    """
    points = as_array("times", times, ndim=1)
    if len(points) < 2:
        raise ValueError(f"times: got {len(points)}, need at least 2 to integrate")
    options: dict = {"left_limit": left_limit, "normalize": normalize}
    values = brier_score(train_time, train_observed, time, observed, survival, points, **options)
    return float(np.trapezoid(values, points) / (points[-1] - points[0]))


def nbll(
    train_time: Values,
    train_observed: Values,
    time: Values,
    observed: Values,
    survival: Values,
    times: Values,
    *,
    left_limit: bool = False,
    normalize: Normalize = "subjects",
) -> Floats:
    """Negative binomial log-likelihood of being alive at each time; arguments and weights as in `brier_score`.

    Returns:
        [T] nats, lower is better; probabilities are kept 1e-7 away from 0 and 1.
    Source: Graf et al. 1999; Kvamme et al. 2019.
    """
    loss = _Weighted(train_time, train_observed, time, observed, survival, times, left_limit, normalize)
    return loss.mean(lambda alive: -np.log(alive.clip(LOG_CLIP, 1 - LOG_CLIP)))


def event_time_error(time: Values, observed: Values, predicted: Values) -> float:
    """Mean absolute error of predicted times, over subjects with the event alone, in the unit of `time`.

    The censored, who lived longer, are left out: the figure flatters a model that predicts early. NaN without events.
    """
    times, flags = right_censored(time, observed)
    errors = np.abs(scores("predicted", predicted, len(times)) - times)[flags]
    return float(errors.mean()) if len(errors) else float("nan")


class _Weighted:
    """Subjects dead or alive at each time, with their weights; those censored before it have none."""

    def __init__(
        self,
        train_time: Values,
        train_observed: Values,
        time: Values,
        observed: Values,
        survival: Values,
        times: Values,
        left_limit: bool,
        normalize: Normalize,
    ) -> None:
        if normalize not in ("subjects", "weights"):
            raise ValueError(f"normalize: got {normalize!r}, need 'subjects' or 'weights'")
        self.normalize = normalize
        self.time, self.observed = right_censored(time, observed)
        self.times = evaluation_times(times, self.time)
        self.survival = as_array("survival", survival, ndim=2)
        if self.survival.shape != (len(self.time), len(self.times)):
            shapes = f"got shape {list(self.survival.shape)}, need {[len(self.time), len(self.times)]}"
            raise ValueError(f"survival: {shapes}, subjects by times")
        if self.survival.min() < 0 or self.survival.max() > 1:
            raise ValueError("survival: got values outside [0, 1], need probabilities")
        censoring = Censoring(train_time, train_observed, left_limit=left_limit)
        dead = self.observed & (self.time <= self.times[-1])
        # Where everybody is censored by then, G is 0 and nothing can be said: no weight, rather than an infinite one.
        self.at_event = np.nan_to_num(censoring.event_weights(self.time, dead), posinf=0.0)
        with np.errstate(divide="ignore"):
            self.at_time = np.nan_to_num(1 / censoring.survival(self.times), posinf=0.0)

    def mean(self, error: Callable[[Floats], Floats]) -> Floats:
        """[T] weighted means of an error of the probability given to what came true."""
        means = np.empty(len(self.times))
        for t, point in enumerate(self.times):
            alive, given = self.time > point, self.survival[:, t].astype(np.float64)
            weights = np.where(alive, self.at_time[t], self.at_event)  # an event yet to come is of one alive
            total = (weights * error(np.where(alive, given, 1 - given))).sum()
            means[t] = total / (len(weights) if self.normalize == "subjects" else weights.sum())
        return means
