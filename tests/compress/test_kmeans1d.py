"""The best clusters against exhaustive search and Lloyd's iteration; the histogram against the best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.compress.kmeans1d import kmeans_1d, kmeans_1d_binned


def cost(x: Tensor, centroids: Tensor, index: Tensor, weights: Tensor | None = None) -> float:
    squares = (x.double() - centroids.double()[index]) ** 2
    return float((squares if weights is None else squares * weights).sum())


def exhaustive(x: NDArray[np.float64], k: int, weights: NDArray[np.float64]) -> float:
    """The least cost over all ways to cut the sorted values into k runs, empty ones allowed."""
    order = np.argsort(x)
    x, weights = x[order], weights[order]
    best = math.inf
    for cuts in itertools.combinations_with_replacement(range(len(x) + 1), k - 1):
        total = 0.0
        for part in map(slice, (0, *cuts), (*cuts, len(x))):
            mass = weights[part].sum()
            if mass > 0:
                mean = (weights[part] * x[part]).sum() / mass
                total += float((weights[part] * (x[part] - mean) ** 2).sum())
        best = min(best, total)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_exact_equals_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 10)), int(rng.integers(1, 5))
    x = rng.standard_normal(n) if seed % 3 else rng.integers(-2, 3, n).astype(float)  # ties
    weights = rng.exponential(size=n) * (rng.random(n) > 0.2) if seed % 2 else np.ones(n)  # and weights of 0
    if seed % 4 == 1:
        weights *= 10.0 ** rng.integers(-25, 1, n)  # lost beside the others
    weights[0] = max(weights[0], 0.1)
    centroids, index = kmeans_1d(torch.from_numpy(x), k, torch.from_numpy(weights))
    least = exhaustive(x, k, weights)
    assert cost(torch.from_numpy(x), centroids, index, torch.from_numpy(weights)) == pytest.approx(least, 1e-9, 1e-12)
    assert len(centroids) == k and (centroids.diff() >= 0).all()


def test_gold() -> None:
    x = torch.tensor([9.0, 1.0, 2.0, 10.0, 50.0, 11.0], dtype=torch.float64)
    centroids, index = kmeans_1d(x, 3)
    assert centroids.tolist() == [1.5, 10.0, 50.0] and index.tolist() == [1, 0, 0, 1, 2, 1]
    centroids, index = kmeans_1d(x, 3, torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0, 2.0]))
    assert centroids.tolist() == [1.25, 10.25, 50.0]
    centroids, index = kmeans_1d(torch.tensor([2.0, 2.0, 5.0]), 4)  # fewer values than clusters
    assert centroids.tolist() == [2.0, 5.0, 5.0, 5.0] and index.tolist() == [0, 0, 1]
    assert kmeans_1d(torch.tensor([3.0]), 1)[0].tolist() == [3.0]


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_never_worse_than_lloyd(k: int) -> None:
    rng = np.random.default_rng(k)
    for draw in (rng.standard_normal, rng.laplace):
        x = np.asarray(draw(size=500))
        least = cost(torch.from_numpy(x), *kmeans_1d(torch.from_numpy(x), k))
        for _ in range(5):
            centroids = np.sort(rng.choice(x, k, replace=False))
            for _ in range(100):
                index = np.abs(x[:, None] - centroids).argmin(1)
                centroids = np.array([x[index == c].mean() if (index == c).any() else centroids[c] for c in range(k)])
            assert least <= ((x - centroids[index]) ** 2).sum() * (1 + 1e-12)


def test_order_place_and_scale_of_the_numbers_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, generator=generator, dtype=torch.float64)
    centroids, index = kmeans_1d(x, 7)
    order = torch.randperm(200, generator=generator)
    assert torch.equal(kmeans_1d(x[order], 7)[1], index[order])
    moved, same = kmeans_1d(1e-3 * x + 1000, 7)
    torch.testing.assert_close(moved, 1e-3 * centroids + 1000, rtol=1e-12, atol=0)
    assert torch.equal(same, index)
    mirrored, other = kmeans_1d(-x, 7)
    torch.testing.assert_close(mirrored, -centroids.flip(0))
    assert torch.equal(other, 6 - index)


def test_a_weight_of_two_is_a_number_twice() -> None:
    x = torch.tensor([0.0, 1.0, 1.5, 4.0, 4.2, 9.0])
    weights = torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0, 2.0])
    twice = torch.repeat_interleave(x, weights.int())
    centroids, index = kmeans_1d(x, 3, weights)
    others, repeated = kmeans_1d(twice, 3)
    torch.testing.assert_close(centroids, others)
    assert torch.equal(torch.repeat_interleave(index, weights.int()), repeated)


def test_every_row_on_its_own() -> None:
    x = torch.randn(5, 3000, generator=torch.Generator().manual_seed(0))
    x[1] = x[1].round()  # fewer values than clusters
    x[3] = 7.0
    centroids, index = kmeans_1d(x, 16)
    for row, c, i in zip(x, centroids, index, strict=True):
        alone, at = kmeans_1d(row, 16)
        assert torch.equal(c, alone) and torch.equal(i, at)
    assert torch.equal(centroids.gather(1, index)[[1, 3]], x[[1, 3]])


def test_types_go_through() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert kmeans_1d(x.to(dtype), 3)[0].dtype == dtype
        assert kmeans_1d_binned(x.to(dtype).unsqueeze(0), 3)[0].dtype == dtype


HEAVY: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda rng: rng.standard_normal((4, 4096)),
    "laplace": lambda rng: rng.laplace(size=(4, 4096)),
    "student": lambda rng: rng.standard_t(3, (4, 4096)),
    "two crowds": lambda rng: rng.standard_normal((4, 4096)) * 0.1 + rng.choice([-1.0, 3.0], (4, 4096)),
}


@pytest.mark.parametrize("k", [4, 16])
@pytest.mark.parametrize("name", HEAVY)
def test_binned_costs_at_most_a_thousandth_more(name: str, k: int) -> None:
    x = torch.from_numpy(HEAVY[name](np.random.default_rng(1)))
    centroids, index = kmeans_1d_binned(x, k)
    for row, c, i in zip(x, centroids, index, strict=True):
        assert cost(row, c, i) <= cost(row, *kmeans_1d(row, k)) * 1.001
        assert (c.diff() >= 0).all()
        for cluster in range(k):  # each centroid is its cluster's mean
            torch.testing.assert_close(row[i == cluster].mean(), c[cluster])


@pytest.mark.parametrize("name", HEAVY)
def test_binned_with_weights_is_near_the_weighted_optimum(name: str) -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(HEAVY[name](rng))
    weights = torch.from_numpy(rng.lognormal(0, 1.5, x.shape))

    def weighed(row: torch.Tensor, w: torch.Tensor, centroids: torch.Tensor, index: torch.Tensor) -> float:
        return float((w * (row - centroids[index]).square()).sum())

    found = kmeans_1d_binned(x, 16, weights=weights)
    for row, w, c, i in zip(x, weights, *found, strict=True):
        assert weighed(row, w, c, i) <= weighed(row, w, *kmeans_1d(row, 16, w)) * 1.005
    assert all(
        torch.equal(a, b)
        for a, b in zip(kmeans_1d_binned(x, 16, weights=3 * torch.ones_like(x)), kmeans_1d_binned(x, 16), strict=True)
    )


def test_binned_takes_rows_of_any_kind() -> None:
    x = torch.tensor([[5.0, 5.0, 5.0, 5.0], [1.0, 1.0, 2.0, 2.0], [0.0, 1e-8, 1.0, 1e6]], dtype=torch.float64)
    centroids, index = kmeans_1d_binned(x, 3)
    found = centroids.gather(1, index)
    assert torch.equal(found[:2], x[:2])
    torch.testing.assert_close(found[2], x[2], rtol=0, atol=1e6 / 4096)
    many = torch.randn(70, 50, generator=torch.Generator().manual_seed(2))  # more than one batch of groups
    centroids, index = kmeans_1d_binned(many, 4)
    alone, at = kmeans_1d_binned(many[69:], 4)
    assert torch.equal(centroids[69], alone[0]) and torch.equal(index[69], at[0])


X = torch.arange(6.0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: kmeans_1d(X, 0), "k: got 0"),
        (lambda: kmeans_1d(X[:0], 2), "at least one number"),
        (lambda: kmeans_1d(X.view(1, 2, 3), 2), "2 axes"),
        (lambda: kmeans_1d(X.long(), 2), "need floats"),
        (lambda: kmeans_1d(X / 0, 2), "infinity or NaN"),
        (lambda: kmeans_1d(X, 2, X[:3]), r"weights: got shape \(1, 3\)"),
        (lambda: kmeans_1d(X, 2, -X), "none below 0"),
        (lambda: kmeans_1d(X, 2, 0 * X), "zeros alone"),
        (lambda: kmeans_1d_binned(X, 2), "2 axes"),
        (lambda: kmeans_1d_binned(X.view(1, 6), 5, bins=4), "bins: got 4"),
        (lambda: kmeans_1d_binned(X.view(1, 6), 2, weights=-X.view(1, 6)), "none below 0"),
    ],
)
def test_bad_input(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
