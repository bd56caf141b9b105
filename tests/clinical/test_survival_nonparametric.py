"""Kaplan–Meier and its kin: by hand, laws, censoring weights, bad input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tenfold.clinical.survival_inputs import survival_at
from tenfold.clinical.survival_nonparametric import Censoring, aalen_johansen, kaplan_meier, logrank, nelson_aalen

TIME, OBSERVED = [1, 2, 2, 3, 4], [1, 1, 0, 0, 1]


def test_curves_by_hand() -> None:
    curve = kaplan_meier(TIME, OBSERVED)
    np.testing.assert_array_equal(curve.time, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(curve.value, [1, 4 / 5, 4 / 5 * 3 / 4, 3 / 5, 0])
    np.testing.assert_allclose(nelson_aalen(TIME, OBSERVED).value, [0, 1 / 5, 9 / 20, 9 / 20, 29 / 20])
    tied = nelson_aalen([1, 1, 2], [1, 1, 0], ties="fleming_harrington").value
    np.testing.assert_allclose(tied, [0, 1 / 3 + 1 / 2, 5 / 6])
    np.testing.assert_allclose(nelson_aalen([1, 1, 2], [1, 1, 0]).value, [0, 2 / 3, 2 / 3])


def test_a_curve_read_between_its_times() -> None:
    curve = kaplan_meier(TIME, OBSERVED)
    np.testing.assert_allclose(curve.at([0, 0.5, 1, 1.5, 4, 9]), [1, 1, 0.8, 0.8, 0, 0])
    np.testing.assert_allclose(curve.at([0, 1, 2, 4.5], left=True), [1, 1, 0.8, 0])
    at_once = kaplan_meier([0, 1], [1, 1])
    np.testing.assert_allclose(at_once.at([0.0]), 0.5)
    np.testing.assert_allclose(at_once.at([0.0], left=True), 1.0)


def test_censoring_leaves_after_the_events_of_its_time() -> None:
    """At 2 one has the event and one is censored: of 3 left by then besides the event, one goes."""
    curve = kaplan_meier(TIME, OBSERVED, reverse=True)
    np.testing.assert_allclose(curve.value, [1, 1, 2 / 3, 1 / 3, 1 / 3])
    events = np.array(OBSERVED, dtype=bool)
    right, left = Censoring(TIME, OBSERVED), Censoring(TIME, OBSERVED, left_limit=True)
    np.testing.assert_allclose(right.event_weights(np.array(TIME, dtype=float), events), [1, 3 / 2, 0, 0, 3])
    np.testing.assert_allclose(left.event_weights(np.array(TIME, dtype=float), events), [1, 1, 0, 0, 3])


def test_weights_restore_the_size_of_the_cohort() -> None:
    """By the left limit the weights of the events estimate how many have the event at all: the drop of Kaplan–Meier."""
    rng = np.random.default_rng(0)
    time, observed = rng.integers(1, 10, 500), rng.random(500) < 0.5
    weights = Censoring(time, observed, left_limit=True).event_weights(time.astype(float), observed)
    assert weights.sum() / 500 == pytest.approx(1 - kaplan_meier(time, observed).value[-1], abs=1e-12)


def test_incidences_and_survival_make_one() -> None:
    rng = np.random.default_rng(1)
    time, cause = rng.integers(1, 15, 300), rng.integers(0, 4, 300)
    incidence, alive = aalen_johansen(time, cause), kaplan_meier(time, cause > 0)
    np.testing.assert_allclose(incidence.value.sum(1) + alive.value, 1, atol=1e-12)
    assert (np.diff(incidence.value, axis=0) >= 0).all()
    single = aalen_johansen(TIME, OBSERVED).value[:, 0]
    np.testing.assert_allclose(single, 1 - kaplan_meier(TIME, OBSERVED).value, atol=1e-12)


def test_groups_that_share_a_hazard() -> None:
    time, observed = np.repeat([3, 1, 2, 5], 2), np.repeat([1, 1, 0, 1], 2)
    same = logrank(time, observed, np.tile([0, 1], 4))
    assert same.statistic == pytest.approx(0, abs=1e-12) and same.p_value == pytest.approx(1)
    rng, values = np.random.default_rng(0), []
    for _ in range(200):
        times = rng.exponential(1, 60)
        values.append(logrank(times, rng.random(60) < 0.7, rng.integers(0, 3, 60)).p_value)
    assert 0.4 < np.mean(values) < 0.6
    differ = logrank(rng.exponential(np.repeat([1, 4], 50)), np.ones(100), np.repeat(["a", "b"], 50))
    assert differ.p_value < 1e-4


def test_curves_of_a_model_read_at_other_times() -> None:
    survival = [[1, 0.9, 0.5], [1, 0.8, 0.1]]
    np.testing.assert_allclose(survival_at(survival, [0, 1, 2], [0.5, 1, 7]), [[1, 0.9, 0.5], [1, 0.8, 0.1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kaplan_meier([1, np.inf], [1, 0]), "time: got a value that is not finite at row 1"),
        (lambda: kaplan_meier([-1], [1]), "time: got -1 at row 0"),
        (lambda: nelson_aalen([1], [1], ties="exact"), "ties: got 'exact'"),  # type: ignore[arg-type]
        (lambda: aalen_johansen([1, 2], [0, -1]), "cause: got other values, need integers from 0"),
        (lambda: aalen_johansen([1, 2], [0, 0.5]), "cause: got other values, need integers from 0"),
        (lambda: aalen_johansen([1, 2], [0, 0]), "cause: got other values, need integers from 0"),
        (lambda: logrank([1, 2], [1, 1], [0, 0]), "group: got 1 groups"),
        (lambda: logrank([1, 2], [1, 1], [0, 1, 2]), r"group: got 3 groups of shape \[3\]"),
        (lambda: Censoring([1, 2], [1, 3]), "train_observed: got 3 at row 1, need 0 or 1"),
        (lambda: Censoring([1, 2], [1, 1]).survival(np.array([2.5])), "tau: got a time of 2.5 beyond the support"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
