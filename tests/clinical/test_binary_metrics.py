"""Metrics of a binary outcome: values by hand, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tenfold.clinical.binary_metrics import auc_pr, auc_roc, binary_metrics, brier, calibration_error

LABEL, PROBA = [1, 0, 1, 0], [0.9, 0.8, 0.4, 0.4]


def test_values_by_hand() -> None:
    assert auc_roc(LABEL, PROBA) == 2.5 / 4  # 0.9 beats both, 0.4 ties with one and loses to the other
    assert auc_pr(LABEL, PROBA) == 0.5 * 1 + 0.5 * 2 / 4
    assert brier(LABEL, PROBA) == pytest.approx((0.01 + 0.64 + 0.36 + 0.16) / 4)
    assert calibration_error(LABEL, PROBA) == pytest.approx((0.1 + 0.8 + 0.2) / 4)
    assert calibration_error([0, 1], [0.0, 1.0]) == 0
    assert binary_metrics(LABEL, PROBA)["auc_pr"] == auc_pr(LABEL, PROBA)


def test_ranking_knows_only_the_order() -> None:
    rng = np.random.default_rng(0)
    label, score = rng.random(200) < 0.3, rng.normal(size=200)
    assert auc_roc(label, np.exp(score)) == auc_roc(label, score) == pytest.approx(1 - auc_roc(label, -score))
    assert auc_pr(label, np.exp(score)) == auc_pr(label, score)
    assert auc_pr(label, np.zeros(200)) == label.mean() and auc_roc(label, np.zeros(200)) == 0.5


@pytest.mark.parametrize(
    ("label", "score", "message"),
    [
        ([1, 0], [0.5], "got shapes"),
        ([1, 0], [0.5, np.nan], "not finite"),
        ([1, 1], [0.5, 0.6], r"label: got values \[1\], need 0 and 1, both"),
        ([1, 2, 0], [0.5, 0.6, 0.7], "label: got values"),
        ([], [], "label: got values"),
    ],
)
def test_bad_input(label: Any, score: Any, message: str) -> None:
    for metric in (auc_roc, auc_pr, brier, calibration_error):
        with pytest.raises(ValueError, match=message):
            metric(label, score)
