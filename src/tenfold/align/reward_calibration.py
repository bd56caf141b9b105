"""How good a reward model is on held-out pairs: accuracy by level, and whether its confidence means what it says."""

# Shape legend: P pairs

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.align.preference_data import LEVELS
from tenfold.core.statistics import Interval, wilson


@dataclass(frozen=True)
class Bin:
    """Pairs of like confidence: the mean of what the model said, the share it had right, and how many they are."""

    confidence: float
    accuracy: float
    pairs: int


@dataclass(frozen=True)
class RewardReport:
    """A reward model on pairs whose better response is known.

    Attributes:
        accuracy: share of pairs whose chosen response scores higher, with Wilson's 95 % interval; ties are wrong.
        by_level: the same of the pairs of each level that occurs.
        brier: mean of (1 - σ(r_c - r_r))², 0 at best, 0.25 for a model that says 1/2 of every pair.
        brier_P: the squares themselves, for a paired test between two models.
        log_loss: mean of -ln σ(r_c - r_r), in nats.
        calibration_error: mean over pairs of |confidence - accuracy| of their bin.
        bins: equally wide, by the confidence max(σ, 1 - σ) in [1/2, 1]; empty ones are left out.
    """

    accuracy: Interval
    by_level: dict[str, Interval]
    brier: float
    brier_P: NDArray[np.float64]
    log_loss: float
    calibration_error: float
    bins: list[Bin]


def reward_report(
    chosen: ArrayLike, rejected: ArrayLike, levels: Sequence[int] | None = None, *, bins: int = 10
) -> RewardReport:
    """Judge the rewards of held-out pairs.

    Args:
        chosen, rejected: rewards of the two responses of each pair, (P,).
        levels: of each pair, an index into `LEVELS`.
        bins: of the confidence.
    Raises:
        ValueError: no pairs, other lengths, rewards that are not finite.
    """
    first, second = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    if first.ndim != 1 or not len(first) or first.shape != second.shape:
        raise ValueError(f"rejected: got shape {second.shape} beside {first.shape}, need the same, at least one pair")
    gap = first - second
    if not np.isfinite(gap).all():
        raise ValueError("chosen, rejected: got rewards that are not finite")
    if bins < 1:
        raise ValueError(f"bins: got {bins}, need at least 1")
    right = gap > 0
    loss_P = np.logaddexp(0, -gap)
    brier_P = (1 - np.exp(-loss_P)) ** 2
    by_level: dict[str, Interval] = {}
    if levels is not None:
        index = np.asarray(levels)
        for i, name in enumerate(LEVELS):
            if (index == i).any():
                by_level[name] = wilson(int(right[index == i].sum()), int((index == i).sum()))
    confidence = np.exp(-np.logaddexp(0, -np.abs(gap)))
    place = np.minimum((2 * (confidence - 0.5) * bins).astype(int), bins - 1)
    table = [
        Bin(float(confidence[place == i].mean()), float(right[place == i].mean()), int((place == i).sum()))
        for i in range(bins)
        if (place == i).any()
    ]
    error = sum(each.pairs * abs(each.confidence - each.accuracy) for each in table) / len(gap)
    return RewardReport(
        wilson(int(right.sum()), len(right)),
        by_level,
        float(brier_P.mean()),
        brier_P,
        float(loss_P.mean()),
        error,
        table,
    )
