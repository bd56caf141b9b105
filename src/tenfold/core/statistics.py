"""Intervals and tests for the figures we report: across seeds, over items, for shares and for paired decisions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Args:
        value: the figure.
        low, high: ends of the interval.
        p_value: two-sided, of "the figure is 0"; None where no such test belongs to the interval.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None

    @property
    def ci95(self) -> tuple[float, float]:
        """(low, high), named for the usual confidence."""
        return self.low, self.high


@dataclass(frozen=True)
class McNemar:
    """Exact test on two classifiers' disagreements: `b` items only the first had right, `c` only the second."""

    b: int
    c: int
    p_value: float


def paired_t(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of paired differences across seeds, with Student's t interval on n - 1 degrees of freedom.

    Args:
        differences: one a seed, at least 2, finite; five or more where a claim hangs on it.
        confidence: in (0, 1).
    """
    from scipy import stats  # a second to import; most commands never need it

    values = _finite(differences, "differences")
    _check_confidence(confidence)
    if len(values) < 2:
        raise ValueError(f"differences: got {len(values)}, need at least 2")
    mean = float(values.mean())
    # All equal but for the rounding of the mean: no spread to judge by.
    if np.ptp(values) <= np.finfo(np.float64).eps * abs(mean):
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half, float(stats.ttest_1samp(values, 0.0).pvalue))


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    n: int = 10_000,
    clusters: Sequence[object] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Mean of `a - b` over items, with the percentile interval of a paired bootstrap.

    Args:
        a, b: scores of the same items, at least 30 of them (below that the interval is too narrow: take `paired_t`).
        n: resamples.
        clusters: group of each item, such as its document; whole groups are drawn, at least 2 of them.
        seed: of the resampling.
        confidence: in (0, 1).
    """
    first, second = _finite(a, "a"), _finite(b, "b")
    _check_confidence(confidence)
    if len(first) != len(second):
        raise ValueError(f"a, b: got {len(first)} and {len(second)} items, need the same ones")
    if len(first) < 30:
        raise ValueError(f"a, b: got {len(first)} items, need at least 30 for a bootstrap; use paired_t")
    if n < 100:
        raise ValueError(f"n: got {n}, need at least 100 resamples")
    differences = first - second
    labels = np.arange(len(differences)) if clusters is None else _labels(clusters, len(differences))
    sums = np.bincount(labels, weights=differences)
    sizes = np.bincount(labels).astype(np.float64)
    if len(sums) < 2:
        raise ValueError("clusters: got 1, need at least 2")
    generator = np.random.default_rng(seed)
    means = np.empty(n)
    block = max(1, 1_000_000 // len(sums))  # resamples held in memory at once
    for start in range(0, n, block):
        drawn = generator.integers(len(sums), size=(min(block, n - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def wilson(k: int, n: int, confidence: float = 0.95) -> Interval:
    """Share k / n with Wilson's score interval.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy import stats  # a second to import; most commands never need it

    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"k, n: got {k}, {n}, need 0 <= k <= n and n >= 1")
    _check_confidence(confidence)
    interval = stats.binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(k / n, float(interval.low), float(interval.high))


def mcnemar(b: int, c: int) -> McNemar:
    """Exact two-sided McNemar test: are the disagreements even?

    Args:
        b, c: items that only the first, only the second of two systems had right.
    """
    from scipy import stats  # a second to import; most commands never need it

    if b < 0 or c < 0:
        raise ValueError(f"b, c: got {b}, {c}, need counts >= 0")
    return McNemar(b, c, 1.0 if b + c == 0 else float(stats.binomtest(b, b + c, 0.5).pvalue))


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got shape {array.shape}, need one dimension and finite values")
    return array


def _labels(clusters: Sequence[object], items: int) -> np.ndarray:
    if len(clusters) != items:
        raise ValueError(f"clusters: got {len(clusters)}, need one for each of {items} items")
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, need 0 < confidence < 1")


def select(rows: Sequence[Mapping[str, Any]], **fields: Any) -> list[Any]:
    """The rows of trainings that have these values, in order of their seed."""
    kept = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    return sorted(kept, key=lambda row: row["seed"])


def plus_minus(numbers: Sequence[float], digits: int = 3) -> str:
    """A figure over seeds as text: mean ± half its 95 % t interval; the mean of one seed; n/a where one is not finite."""
    if not all(map(math.isfinite, numbers)):
        return "n/a"
    mean = statistics.fmean(numbers)
    if len(numbers) < 2:
        return f"{mean:.{digits}f}"
    interval = paired_t(list(numbers))
    return f"{mean:.{digits}f} ± {(interval.high - interval.low) / 2:.{digits}f}"
