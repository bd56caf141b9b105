"""Concordance: the sweep against pairs one by one, laws, memory, and data with nothing to compare."""

from __future__ import annotations

import tracemalloc
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tenfold.clinical.survival_concordance import (
    NoComparablePairs,
    concordance_index,
    concordance_ipcw,
    concordance_td,
    count_below,
)

METHODS: tuple[Literal["antolini", "adj_antolini"], ...] = ("antolini", "adj_antolini")


def pairwise(time: NDArray, observed: NDArray, risk: NDArray, weights: NDArray) -> float:
    concordant = total = 0.0
    for i in np.flatnonzero(observed):
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not observed[j]):
                total += weights[i]
                concordant += weights[i] * (0.5 if risk[i] == risk[j] else float(risk[i] > risk[j]))
    return concordant / total


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100])
def test_counts_below_a_bound(size: int) -> None:
    rng = np.random.default_rng(size)
    ranks = rng.permutation(size)
    prefix, bound = rng.integers(0, size + 1, (2, 200))
    expected = [(ranks[:p] < b).sum() for p, b in zip(prefix, bound, strict=True)]
    np.testing.assert_array_equal(count_below(ranks, prefix, bound), expected)


@pytest.mark.parametrize("seed", range(10))
def test_pairs_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, observed = rng.integers(1, 6, 40), rng.random(40) < 0.5
    risk = rng.integers(0, 4, 40)
    assert concordance_index(time, observed, risk) == pytest.approx(pairwise(time, observed, risk, np.ones(40)))


@pytest.mark.parametrize("method", METHODS)
def test_curves_that_do_not_cross_rank_as_their_risk(method: Literal["antolini", "adj_antolini"]) -> None:
    rng = np.random.default_rng(0)
    time, observed, risk = rng.exponential(5, 300), rng.random(300) < 0.5, rng.random(300)
    grid = np.linspace(0, 20, 8)
    survival = np.exp(-np.outer(0.1 + risk, 0.1 + grid))
    expected = concordance_index(time, observed, risk)
    assert concordance_td(time, observed, survival, grid, method) == pytest.approx(expected, abs=1e-12)
    assert concordance_td(time, observed, 1 - survival, grid, method) == pytest.approx(1 - expected, abs=1e-12)


def test_by_hand() -> None:
    """Four subjects; the censored at time 2 outlived the event at 2, and the one at 3 has nobody after it but 4."""
    time, observed, risk = [2, 2, 3, 4], [1, 0, 1, 0], [0.5, 0.5, 0.1, 0.2]
    assert concordance_index(time, observed, risk) == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    survival, grid = [[1, 0.5], [1, 0.5], [1, 0.9], [1, 0.8]], [0, 2]
    assert concordance_td(time, observed, survival, grid, "antolini") == pytest.approx(2 / 4)
    assert concordance_td(time, observed, survival, grid, "adj_antolini") == pytest.approx((2 * 0.5 + 2 + 0) / 5)


def test_reversal_monotone_maps_and_order() -> None:
    rng = np.random.default_rng(1)
    time, observed, risk = rng.integers(1, 20, 200), rng.random(200) < 0.4, rng.normal(size=200)
    value, order = concordance_index(time, observed, risk), rng.permutation(200)
    assert concordance_index(time, observed, -risk) == pytest.approx(1 - value, abs=1e-12)
    assert concordance_index(time, observed, np.exp(risk)) == value
    assert concordance_index(time[order], observed[order], risk[order]) == value
    assert concordance_index(time, observed, np.zeros(200)) == 0.5
    tensors = torch.tensor(time), torch.tensor(observed), torch.tensor(risk, requires_grad=True)
    assert concordance_index(*tensors) == value
    uncensored = np.ones_like(observed)
    assert concordance_ipcw(time, uncensored, time, observed, risk) == pytest.approx(value, abs=1e-12)


def test_weights_of_the_left_limit() -> None:
    """All leave at 1 or 2: G is 1 just before 1 and 1/2 from then on."""
    train = [1, 1, 2, 2], [0, 0, 1, 1]
    time, observed, risk = [1, 2, 2], [1, 1, 0], [2, 1, 0]
    weighted = concordance_ipcw(*train, time, observed, [1, 0, 2], left_limit=True)
    assert weighted == pytest.approx((1 + 0) / (2 + 4))
    assert concordance_ipcw(*train, time, observed, [1, 0, 2]) == pytest.approx((4 + 0) / (8 + 4))
    assert concordance_ipcw(*train, time, observed, risk) == 1


def test_memory_does_not_grow_with_pairs() -> None:
    rng = np.random.default_rng(0)
    subjects, slots = 50_000, 50  # a byte a pair would be 2.5 GB
    survival = np.sort(rng.random((subjects, slots), dtype=np.float32), axis=1)[:, ::-1]
    time, observed = rng.exponential(30, subjects), rng.random(subjects) < 0.5
    tracemalloc.start()
    concordance_td(time, observed, survival, np.arange(slots), "adj_antolini")
    concordance_index(time, observed, survival[:, -1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(("time", "observed"), [([1, 2, 3], [0, 0, 0]), ([2, 2, 2], [1, 1, 1]), ([1, 2, 3], [0, 0, 1])])
def test_nothing_to_compare(time: list[float], observed: list[int]) -> None:
    survival = np.full((3, 2), 0.5)
    with pytest.raises(NoComparablePairs, match="no comparable pairs"):
        concordance_index(time, observed, [1, 2, 3])
    with pytest.raises(NoComparablePairs):
        concordance_td(time, observed, survival, [0, 1])
    with pytest.raises(NoComparablePairs):
        concordance_ipcw([1, 2, 3], [1, 1, 1], time, observed, [1, 2, 3])


def test_events_beyond_the_support_of_censoring() -> None:
    test = [1, 5, 6], [1, 1, 0], [3, 2, 1]
    with pytest.raises(ValueError, match="tau: got a time of 5 beyond the support of censoring, need at most 4"):
        concordance_ipcw([1, 2, 4], [0, 1, 1], *test)
    with pytest.raises(ValueError, match="tau: got None, need at most 5, from where on everybody is censored"):
        concordance_ipcw([1, 2, 4], [0, 1, 0], *test)
    assert concordance_ipcw([1, 2, 4], [0, 1, 1], *test, tau=5) == 1
    with pytest.raises(NoComparablePairs):
        concordance_ipcw([1, 2, 4], [0, 1, 1], *test, tau=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": [1, -2, 3]}, "time: got -2 at row 1, need times of at least 0"),
        ({"time": [1, 2, np.nan]}, "time: got a value that is not finite at row 2"),
        ({"time": []}, r"observed: got shape \[3\], need \[0\]"),
        ({"time": [[1, 2, 3]]}, r"time: got shape \[1, 3\], need 1 axes"),
        ({"observed": [1, 2, 0]}, "observed: got 2 at row 1, need 0 or 1"),
        ({"observed": [1, 0]}, r"observed: got shape \[2\], need \[3\] as time"),
        ({"survival": np.ones((3, 3))}, r"survival: got shape \[3, 3\], need \[3, 2\], subjects by grid"),
        ({"survival": np.ones((2, 3))}, r"survival: got shape \[2, 3\], need \[3, 2\]"),
        ({"survival": np.full((3, 2), 1.5)}, r"survival: got values in \[1.5, 1.5\]"),
        ({"survival": np.full((3, 2), np.inf)}, "survival: got a value that is not finite at row 0"),
        ({"grid": [1, 0]}, "grid: got shape .* need one axis of strictly increasing times"),
        ({"method": "harrell"}, "method: got 'harrell', need 'antolini' or 'adj_antolini'"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    arguments = {"time": [1, 2, 3], "observed": [1, 0, 1], "survival": np.full((3, 2), 0.5), "grid": [0, 1]} | change
    with pytest.raises(ValueError, match=message):
        concordance_td(**arguments)  # type: ignore[arg-type]


def test_no_subject_and_risks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="time: got no subject"):
        concordance_index([], [], [])
    with pytest.raises(ValueError, match=r"risk: got shape \[2\], need \[3\], one a subject"):
        concordance_index([1, 2, 3], [1, 0, 1], [1, 2])
