"""Metrics of a binary outcome against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tenfold.clinical.binary_metrics import auc_pr, auc_roc, brier


@pytest.mark.parametrize("digits", [1, 2, 16])
@pytest.mark.parametrize("size", [5, 300])
def test_scikit_learn(size: int, digits: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        label = rng.random(size) < 0.3
        label[:2] = True, False
        score = rng.random(size).round(digits)
        assert auc_roc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
        assert auc_pr(label, score) == pytest.approx(average_precision_score(label, score), abs=1e-12)
        assert brier(label, score) == pytest.approx(brier_score_loss(label, score), abs=1e-12)
