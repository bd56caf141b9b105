"""Brier score, its integral and log-likelihood, error of times: by hand, laws, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tenfold.clinical.simulator import EVENTS, HmmIcuSim
from tenfold.clinical.survival_errors import brier_score, event_time_error, integrated_brier_score, nbll
from tenfold.clinical.survival_nonparametric import kaplan_meier


def test_without_censoring_it_is_the_squared_error() -> None:
    rng = np.random.default_rng(0)
    time, survival, times = (
        rng.exponential(1, 80),
        rng.random((80, 3)),
        np.quantile(rng.exponential(1, 80), [0.2, 0.5, 0.7]),
    )
    data = time, np.ones(80), time, np.ones(80)
    alive = time[:, None] > times
    np.testing.assert_allclose(brier_score(*data, survival, times), ((alive - survival) ** 2).mean(0), atol=1e-12)
    log_likelihood = np.log(np.where(alive, survival, 1 - survival)).mean(0)
    np.testing.assert_allclose(nbll(*data, survival, times), -log_likelihood, atol=1e-6)
    np.testing.assert_allclose(brier_score(*data, np.full((80, 3), 0.5), times), 0.25)
    np.testing.assert_allclose(nbll(*data, np.full((80, 3), 0.5), times), math.log(2))


def test_by_hand() -> None:
    """One event at 1, one censored at 2, one left at 4; G is 1, then 1/2 from 2 on. At 3 the censored one drops out."""
    time, observed = [1, 2, 4], [1, 0, 1]
    survival = [[0.2, 0.1], [0.9, 0.8], [0.9, 0.6]]
    data = time, observed, time, observed, survival, [1, 3]
    np.testing.assert_allclose(brier_score(*data), [(0.04 + 0.01 + 0.01) / 3, (0.01 + 2 * 0.16) / 3])
    np.testing.assert_allclose(brier_score(*data, normalize="weights"), [0.06 / 3, 0.33 / 3])
    assert integrated_brier_score(*data) == pytest.approx((0.02 + 0.11) / 2)
    np.testing.assert_allclose(
        nbll(*data), [-math.log(0.8 * 0.9 * 0.9) / 3, -(math.log(0.9) + 2 * math.log(0.6)) / 3], atol=1e-12
    )
    assert np.isfinite(nbll(time, observed, time, observed, np.array([[1.0], [0], [0]]), [1])).all()


def test_where_everybody_was_censored_nothing_is_said() -> None:
    """In training G falls to 0 at 2: at 3 only the event at 1 has a weight."""
    survival = [[0.2, 0.1], [0.9, 0.8], [0.9, 0.6]]
    value = brier_score([1, 2], [1, 0], [1, 3, 4], [1, 1, 0], survival, [1, 3])
    np.testing.assert_allclose(value, [0.06 / 3, 0.01 / 3])


def test_the_true_curves_score_best() -> None:
    """Under censoring the weights keep the score proper: the law scores below any change of it and the cohort's mean."""
    sim = HmmIcuSim()
    drawn = sim.sample(8000, 0)
    curves = sim.true_survival(drawn.x, drawn.mask, drawn.u)
    times = np.arange(4, 24, 4)
    for e, name in enumerate(EVENTS):
        data = drawn.slot[:, e], drawn.observed[:, e], drawn.slot[:, e], drawn.observed[:, e]
        true = curves[name][:, times]
        marginal = np.broadcast_to(kaplan_meier(*data[:2]).at(times), true.shape)
        for score in (brier_score, nbll):
            scores = [score(*data, s, times, left_limit=True).mean() for s in (true, true**0.5, true**2, marginal)]
            assert min(scores) == scores[0]


def test_errors_of_times_are_of_events() -> None:
    assert event_time_error([1, 5, 9], [1, 0, 1], [2, 100, 6]) == 2
    assert math.isnan(event_time_error([1, 2], [0, 0], [1, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [3, 1]}, r"times: got shape \[2\], need one axis of strictly increasing times"),
        ({"times": [0.5, 3]}, r"times: got 0.5 to 3, need the follow-up \[1, 4\)"),
        ({"times": [1, 4]}, r"times: got 1 to 4, need the follow-up \[1, 4\)"),
        ({"times": [2]}, "times: got 1, need at least 2 to integrate"),
        ({"survival": np.full((3, 1), 0.5)}, r"survival: got shape \[3, 1\], need \[3, 2\], subjects by times"),
        ({"survival": np.full((3, 2), -0.5)}, r"survival: got values outside \[0, 1\]"),
        ({"normalize": "n"}, "normalize: got 'n', need 'subjects' or 'weights'"),
        (
            {"train_time": [1, 2, 2.5], "train_observed": [1, 0, 1]},
            "tau: got a time of 3 beyond the support of censoring",
        ),
        ({"train_time": [-1, 2, 4]}, "train_time: got -1 at row 0"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    time, observed = [1, 2, 4], [1, 0, 1]
    arguments = {"train_time": time, "train_observed": observed, "time": time, "observed": observed}
    arguments |= {"survival": np.full((3, 2), 0.5), "times": [1, 3]} | change
    with pytest.raises(ValueError, match=message):
        integrated_brier_score(**arguments)
