"""Figures of a reward model by hand, and on scores that are calibrated by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tenfold.align.reward_calibration import reward_report


def test_figures_by_hand() -> None:
    report = reward_report([1.0, 0.0, 2.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0, 0, 3, 3], bins=2)
    right, wrong = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    sure = 1 / (1 + math.exp(-2))
    assert report.accuracy.value == 0.5  # a tie is wrong
    assert {name: share.value for name, share in report.by_level.items()} == {"significantly": 0.5, "negligibly": 0.5}
    assert report.brier_P == pytest.approx([(1 - right) ** 2, (1 - wrong) ** 2, (1 - sure) ** 2, 0.25])
    assert report.brier == pytest.approx(np.mean(report.brier_P))
    assert report.log_loss == pytest.approx(-np.mean(np.log([right, wrong, sure, 0.5])))
    assert [(each.pairs, each.accuracy) for each in report.bins] == [(3, 1 / 3), (1, 1.0)]


def test_a_calibrated_model_has_a_small_error_and_a_boastful_one_has_not() -> None:
    generator = np.random.default_rng(0)
    gap = 2 * generator.standard_normal(20_000)
    sign = np.where(generator.random(20_000) < 1 / (1 + np.exp(-gap)), 1.0, -1.0)
    honest, boastful = reward_report(sign * gap, 0 * gap), reward_report(5 * sign * gap, 0 * gap)
    assert honest.calibration_error < 0.02
    assert boastful.calibration_error > 0.1
    assert boastful.brier > honest.brier
    assert boastful.accuracy == honest.accuracy


def test_huge_rewards_stay_finite() -> None:
    report = reward_report([1e5, -1e5], [0.0, 0.0])
    assert (report.brier, report.log_loss) == (0.5, 5e4)


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [([], [], "at least one pair"), ([1.0], [1.0, 2.0], "rejected: got shape"), ([math.inf], [0.0], "not finite")],
)
def test_bad_rewards(chosen: list, rejected: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward_report(chosen, rejected)
    with pytest.raises(ValueError, match="bins: got 0"):
        reward_report([1.0], [0.0], bins=0)
