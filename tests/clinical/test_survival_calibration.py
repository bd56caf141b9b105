"""D-calibration: even shares under the true law, by hand, and what it must find out."""

from __future__ import annotations

import numpy as np
import pytest

from tenfold.clinical.survival_calibration import d_calibration


def test_shares_by_hand() -> None:
    """Deaths at S = 0.25 and 1 fall into one bin each; one censored at S = 0.75 is spread evenly below it."""
    value = d_calibration([1, 0, 2], [1, 1, 0], [[1, 0.25, 0], [1, 0.5, 0], [1, 0.8, 0.75]], [0, 1, 2], bins=2)
    below = 0.5 / 0.75
    np.testing.assert_allclose(value.share, [(1 + below) / 3, (1 + 1 - below) / 3])
    assert value.statistic == pytest.approx(2 * (1 + below - 1.5) ** 2 / 1.5)
    edge = d_calibration([1], [1], [[1, 0.5]], [0, 1], bins=2)
    np.testing.assert_array_equal(edge.share, [0, 1])
    slots = d_calibration([1], [1], [[0.9, 0.3]], [0, 1], bins=2, slots=True)
    np.testing.assert_allclose(slots.share, [0.2 / 0.6, 0.4 / 0.6])


def test_the_true_law_passes_and_a_wrong_one_fails() -> None:
    rng = np.random.default_rng(0)
    grid, p_values = np.linspace(0, 12, 4001), []
    for _ in range(20):
        rate = rng.uniform(0.5, 2, 300)
        event, censored = rng.exponential(1 / rate), rng.exponential(2, 300)
        time, observed = np.minimum(event, censored), event <= censored
        curves = np.exp(-np.outer(rate, grid))
        p_values.append(d_calibration(time, observed, curves, grid).p_value)
        assert d_calibration(time, observed, curves**2, grid).p_value < 1e-3
    assert 0.2 < np.mean(p_values) < 0.95 and min(p_values) > 1e-3


def test_shares_of_censored_subjects_sum_to_one() -> None:
    rng = np.random.default_rng(1)
    survival = np.sort(rng.random((50, 6)), axis=1)[:, ::-1]
    value = d_calibration(rng.integers(0, 9, 50), np.zeros(50), survival, np.arange(6), bins=7)
    assert value.share.sum() == pytest.approx(1) and len(value.share) == 7
    dead = d_calibration([5], [0], [[1, 0.0]], [0, 1])
    assert dead.share[0] == 1  # survival 0: all that is left lies in the lowest bin


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="bins: got 1, need at least 2"):
        d_calibration([1], [1], [[1, 0.5]], [0, 1], bins=1)
    with pytest.raises(ValueError, match=r"survival: got shape \[1, 2\], need \[1, 3\]"):
        d_calibration([1], [1], [[1, 0.5]], [0, 1, 2])
