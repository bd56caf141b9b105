"""Figures of draws equal those of the patients written out one by one; intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest

from tenfold.clinical.survival_bootstrap import (
    concordance_of_draws,
    correlation_of_draws,
    draws,
    mean_of_draws,
    spread,
    survival_of_draws,
)
from tenfold.clinical.survival_metrics import concordance_index, kaplan_meier


@pytest.fixture
def patients() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, flags and risks with ties in each; half a slot more for the censored."""
    rng = np.random.default_rng(0)
    observed = rng.random(40) < 0.4
    time = rng.integers(1, 7, 40) + np.where(observed, 0.0, 0.5)
    return time, observed, rng.integers(0, 6, 40) / 5


def written_out(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts.astype(int))


def test_every_draw_has_as_many_patients() -> None:
    counts = draws(17, 2000, np.random.default_rng(0))
    assert (counts.sum(1) == 17).all() and (counts >= 0).all()
    assert abs(counts.mean(0) - 1).max() < 0.15 and counts.var() == pytest.approx(1 - 1 / 17, abs=0.03)


def test_concordance_of_a_draw_is_that_of_its_patients(
    patients: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    time, observed, risk = patients
    counts = draws(len(time), 30, np.random.default_rng(1))
    expected = [concordance_index(time[rows], observed[rows], risk[rows]) for rows in map(written_out, counts)]
    np.testing.assert_allclose(concordance_of_draws(time, observed, risk, counts), expected, atol=1e-12)
    monkeypatch.setattr("tenfold.clinical.survival_bootstrap.BLOCK", 50)  # one patient with the event at a time
    np.testing.assert_allclose(concordance_of_draws(time, observed, risk, counts), expected, atol=1e-12)


def test_survival_of_a_draw_is_that_of_its_patients(patients: tuple[np.ndarray, ...]) -> None:
    time, observed, _ = patients
    counts = draws(len(time), 30, np.random.default_rng(2))
    for at in (0.5, 3.0, 6.0, 99.0):
        expected = [kaplan_meier(time[rows], observed[rows]).at(at).item() for rows in map(written_out, counts)]
        np.testing.assert_allclose(survival_of_draws(time, observed, counts, at), expected, atol=1e-12)


def test_correlation_of_a_draw_is_that_of_its_patients() -> None:
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(3, 25)) + 1e6  # far from 0: digits must not be lost
    columns[1] += columns[0]
    counts = draws(25, 20, rng)
    expected = [np.corrcoef(columns[:, rows]) for rows in map(written_out, counts)]
    np.testing.assert_allclose(correlation_of_draws(list(columns), counts), expected, atol=1e-9)
    constant = correlation_of_draws([columns[0], np.ones(25)], counts)
    assert np.isnan(constant[:, 0, 1]).all() and constant[:, 0, 0] == pytest.approx(1)


def test_means_leave_out_what_is_undefined() -> None:
    counts = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = mean_of_draws(np.array([[1.0, 5.0], [np.nan, 7.0], [4.0, np.nan]]), counts)
    np.testing.assert_array_equal(found, [[2.0, 5.0], [np.nan, 7.0]])


def test_nothing_comparable_is_nan() -> None:
    assert np.isnan(concordance_of_draws([1.0, 2.0], [0, 0], [0.1, 0.2], np.ones((3, 2)))).all()


def test_intervals_by_hand() -> None:
    drawn = np.stack([np.arange(1.0, 101.0), np.full(100, np.nan), np.r_[np.full(90, 2.0), np.full(10, np.inf)]], 1)
    found = spread([7.0, np.nan, 2.0], drawn, confidence=0.9)
    assert found.value[0] == 7.0 and (found.low[0], found.high[0]) == (5.0, 95.0)
    assert np.isnan(found.low[1]) and np.isnan(found.high[1])
    assert (found.low[2], found.high[2]) == (2.0, np.inf)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        values = rng.normal(size=60)
        found = spread(values.mean(), mean_of_draws(values, draws(60, 400, rng)))
        covered += bool(found.low <= 0 <= found.high)
    assert 0.90 <= covered / 300 <= 0.98


def test_bad_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="patients: got 0"):
        draws(0, 5, rng)
    with pytest.raises(ValueError, match="count: got 0"):
        draws(5, 0, rng)
    with pytest.raises(ValueError, match="confidence: got 1"):
        spread(0.0, np.zeros(3), confidence=1.0)
