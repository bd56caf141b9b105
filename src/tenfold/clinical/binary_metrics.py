"""How good probabilities of a binary outcome are: ranking, precision, squared error, calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]


def binary_metrics(label: ArrayLike, proba: ArrayLike) -> dict[str, float]:
    """auc_roc, auc_pr, brier and ece in one dict; the arguments as below."""
    names = {"auc_roc": auc_roc, "auc_pr": auc_pr, "brier": brier, "ece": calibration_error}
    return {name: metric(label, proba) for name, metric in names.items()}


def auc_roc(label: ArrayLike, score: ArrayLike) -> float:
    """Chance that a positive has a higher score than a negative; ties count half.

    Args:
        label: [N], 0 or 1, with both among them.
        score: [N], finite.
    """
    y, s = _checked(label, score)
    positives = int(y.sum())
    above = rankdata(s)[y].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(y) - positives)))


def auc_pr(label: ArrayLike, score: ArrayLike) -> float:
    """Average precision, Σ (R_k - R_(k-1)) P_k over the distinct scores from above; arguments as `auc_roc`."""
    y, s = _checked(label, score)
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))  # of each group of equal scores
    true = np.cumsum(y[order])[last]
    return float((np.diff(true, prepend=0) * true / (last + 1)).sum() / y.sum())


def brier(label: ArrayLike, proba: ArrayLike) -> float:
    """Mean squared error of probabilities in [0, 1]; arguments as `auc_roc`."""
    y, p = _checked(label, proba)
    return float(np.mean((p - y) ** 2))


def calibration_error(label: ArrayLike, proba: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |share of positives - mean probability| over equal bins of [0, 1], weighed by count."""
    y, p = _checked(label, proba)
    index = np.minimum((p * bins).astype(int), bins - 1)
    gap = np.bincount(index, y - p, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def _checked(label: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    y, s = np.asarray(label), np.asarray(score, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"label, score: got shapes {y.shape}, {s.shape}, need [N] both")
    if not np.isfinite(s).all():
        raise ValueError("score: got a value that is not finite")
    if not np.isin(y, (0, 1)).all() or len(np.unique(y)) != 2:
        raise ValueError(f"label: got values {np.unique(y)[:3].tolist()}, need 0 and 1, both of them")
    return y.astype(bool), s
