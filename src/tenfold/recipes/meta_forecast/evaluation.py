"""Scores by seed, and how far the test subjects themselves could move a difference."""

# Shape legend: N test subjects, R resamples

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError

Row = Mapping[str, Any]
METRICS = {"auc_roc": "AUC-ROC", "auc_pr": "AUC-PR", "brier": "Brier", "ece": "ECE"}
RESAMPLES = 1000


def by_seed(rows: Sequence[Row], use: str, metric: str = "auc_roc") -> list[float]:
    """A metric in order of the seeds; several rows of a seed (random draws) are averaged."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if use in row["scores"]:
            found.setdefault(row["seed"], []).append(row["scores"][use][metric])
    return [fmean(found[seed]) for seed in sorted(found)]


def resampled_auc(label: NDArray[np.bool_], score: NDArray[np.floating], weight: NDArray[np.float32]) -> NDArray[Any]:
    """AUC-ROC of every resample, ties count half.

    Args:
        label: [N].
        score: [N].
        weight: how often each subject was drawn, [R, N].
    Returns:
        [R]; NaN where one outcome was not drawn.
    """
    values, group = np.unique(score, return_inverse=True)
    starts = np.searchsorted(np.sort(group), np.arange(len(values)))
    order = np.argsort(group, kind="stable")
    sorted_weight, positive = weight[:, order], label[order]
    up, down = (np.add.reduceat(sorted_weight * kind, starts, axis=1) for kind in (positive, ~positive))
    below = np.cumsum(down, axis=1, dtype=np.float64) - down / 2
    with np.errstate(invalid="ignore"):
        return (up * below).sum(1) / (up.sum(1) * down.sum(1))


class Resampling:
    """Differences of AUC-ROC under other test subjects, drawn from those there are.

    Args:
        models: the folder of the jobs' folders.
    """

    def __init__(self, models: Path) -> None:
        self.models = models

    def interval(self, first: Sequence[tuple[str, str]], second: Sequence[tuple[str, str]]) -> tuple[float, float]:
        """95 % percentile interval of the mean AUC of some models minus that of others, on the same test subjects.

        Args:
            first, second: (job, use) of each model.
        """
        gap = np.mean([self._auc(*one) for one in first], 0) - np.mean([self._auc(*one) for one in second], 0)
        low, high = np.nanquantile(gap, [0.025, 0.975])
        return float(low), float(high)

    @lru_cache(maxsize=4096)  # noqa: B019  one object a report
    def _auc(self, job: str, use: str) -> NDArray[Any]:
        path = self.models / job / "predictions.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                label, score = file["label"], file[use]
            if label.dtype != bool or label.shape != score.shape or not np.isfinite(score).all():
                raise ValueError("arrays do not fit together")
        except (OSError, EOFError, KeyError, TypeError, ValueError, BadZipFile) as error:
            raise UserError(f"{path}: no whole predictions of {use!r}; train the job again") from error
        return resampled_auc(label, score, _drawn(len(label)))


@lru_cache(maxsize=2)
def _drawn(count: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float32)
