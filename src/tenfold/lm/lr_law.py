"""The learning rate that a model of some size wants, by a power law fitted on smaller ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MM1_LAW = (-0.4214, -0.5535)  # ln η = a ln N + b, fitted on 9M, 85M, 302M and 1.2B


def learning_rate(parameters: float, law: tuple[float, float] = MM1_LAW) -> float:
    """η(N) = exp(a ln N + b).

    Args:
        parameters: N, without embeddings, above 0.
        law: (a, b).
    Source: MM1, arXiv 2403.09611, Section 3.4, Eq. 1.
    """
    if not parameters > 0:
        raise ValueError(f"parameters: got {parameters}, need > 0")
    return math.exp(law[0] * math.log(parameters) + law[1])


def fit_lr_law(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, b) by least squares of ln η on ln N.

    Args:
        points: (N, best learning rate), two or more different N.
    Raises:
        ValueError: fewer than two sizes, numbers that are not above 0.
    Source: MM1, Section 3.4.
    """
    if len({n for n, _ in points}) < 2:
        raise ValueError(f"points: got {len(points)}, need at least two different sizes")
    if not all(n > 0 and rate > 0 and math.isfinite(n * rate) for n, rate in points):
        raise ValueError(f"points: got {list(points)}, need numbers above 0")
    x = np.log([n for n, _ in points])
    y = np.log([rate for _, rate in points])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slope, float(y.mean() - slope * x.mean())
