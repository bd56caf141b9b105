"""Areas over time, in windows and of labels: by hand, laws, one class only, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tenfold.clinical.survival_auc import cumulative_dynamic_auc, roc_auc, window_auc


def test_without_censoring_it_is_the_plain_area() -> None:
    rng = np.random.default_rng(0)
    time, risk, times = rng.exponential(1, 90), rng.normal(size=(90, 2)).round(1), [0.4, 1.0]
    areas = cumulative_dynamic_auc(time, np.ones(90), time, np.ones(90), risk, times).auc
    np.testing.assert_allclose(areas, [roc_auc(time <= t, risk[:, k]) for k, t in enumerate(times)], atol=1e-12)


def test_weights_by_hand() -> None:
    """G is 1, then 3/4 from 2 on: by 3 the event at 1 weighs 1 and that at 3 weighs 4/3; control is the one at 4."""
    data = [1, 2, 3, 4], [1, 0, 1, 0]
    value = cumulative_dynamic_auc([1, 2, 3, 4, 5], [1, 0, 1, 1, 1], *data, [5, 0, 1, 3], [3])
    assert value.auc[0] == pytest.approx(1 / (1 + 4 / 3)) and value.mean == value.auc[0]


def test_times_before_any_event_are_nan() -> None:
    data = [1, 2, 3, 4], [0, 1, 1, 0]
    with pytest.warns(RuntimeWarning, match="AUC is NaN at 1: no event by then"):
        value = cumulative_dynamic_auc(*data, *data, [1, 4, 3, 2], [1, 2])
    assert math.isnan(value.auc[0]) and value.auc[1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": np.zeros((4, 3))}, r"risk: got shape \[4, 3\], need \[4, 2\] or one axis"),
        ({"risk": np.zeros(3)}, r"risk: got shape \[3, 2\], need \[4, 2\]"),
        ({"times": [2, 4]}, r"times: got 2 to 4, need the follow-up \[1, 4\)"),
        ({"train_time": [1, 2], "train_observed": [0, 1]}, "tau: got a time of 3 beyond the support of censoring"),
        ({"train_time": [1, 2], "train_observed": [0, 0]}, "tau: got times to 3, need times before 2"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    time, observed = [1, 2, 3, 4], [1, 1, 1, 0]
    arguments = {"train_time": time, "train_observed": observed, "time": time, "observed": observed}
    with pytest.raises(ValueError, match=message):
        cumulative_dynamic_auc(**(arguments | {"risk": [1, 2, 3, 4], "times": [2, 3]} | change))


def test_area_of_labels() -> None:
    assert roc_auc([0, 1, 1, 0], [0.1, 0.9, 0.5, 0.5]) == pytest.approx((2 + 1.5) / 4)
    with pytest.warns(RuntimeWarning, match="all labels are of one class"):
        assert math.isnan(roc_auc([1, 1], [0.1, 0.2]))
    with pytest.raises(ValueError, match="label: got other values, need 0 or 1"):
        roc_auc([0, 2], [1, 1])
    with pytest.raises(ValueError, match=r"score: got shape \[1\], need \[2\]"):
        roc_auc([0, 1], [1])


# Events at 10, 24 and 40; censored at 12 (inside the first window), at 24 (its end), at 30 (inside the second), at 60.
TIME, OBSERVED = [10, 24, 40, 12, 24, 30, 60], [1, 1, 1, 0, 0, 0, 0]


def test_windows_leave_out_who_was_not_followed_through_them() -> None:
    probability = np.array([0.9, 0.3, 0.6, 0.99, 0.5, 0.2, 0.1])
    first = roc_auc([1, 1, 0, 0, 0, 0], probability[[0, 1, 2, 4, 5, 6]])
    assert window_auc(TIME, OBSERVED, probability, [0, 24]) == first
    second = roc_auc([1, 0], probability[[2, 6]])
    assert window_auc(TIME, OBSERVED, probability, [24, 48]) == second == 1
    official = roc_auc([0, 0, 1, 0], probability[[0, 1, 2, 6]])
    assert window_auc(TIME, OBSERVED, probability, [24, 48], official=True) == official < 1
    pooled = np.stack([probability, probability / 2], axis=1)
    labels = [1, 1, 0, 0, 0, 0, 1, 0]
    values = np.r_[probability[[0, 1, 2, 4, 5, 6]], probability[[2, 6]] / 2]
    assert window_auc(TIME, OBSERVED, pooled, [0, 24, 48]) == roc_auc(labels, values)
    assert window_auc([0, 5], [1, 0], [0.2, 0.1], [0, 5]) == 1


def test_windows_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"probability: got shape \[7, 1\], need \[7, 2\]"):
        window_auc(TIME, OBSERVED, np.zeros(7), [0, 24, 48])
    with pytest.warns(RuntimeWarning, match="one class"):
        assert math.isnan(window_auc(TIME, OBSERVED, np.zeros(7), [48, 60]))
