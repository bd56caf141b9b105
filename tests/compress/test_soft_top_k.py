"""Laws of the soft top-k mask, its gradient, and the iteration it replaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch.autograd import gradcheck

from tenfold.compress.soft_top_k import soft_top_k


def by_bisection(scores: np.ndarray, k: float, eps: float) -> np.ndarray:
    """λ_i = min(1, exp((s_i + a) / eps)) with a found by root search."""

    def mask(a: float) -> np.ndarray:
        return np.exp(np.minimum(0, (scores + a) / eps))

    low, high = -scores.max() - 800 * eps, -scores.min()
    return mask(brentq(lambda a: mask(a).sum() - k, low, high, xtol=1e-15, rtol=1e-15))


@settings(deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40),
    st.floats(0.001, 1),
    st.sampled_from([1e-3, 0.03, 0.5, 1.0, 40.0]),
)
def test_laws(values: list[float], share: float, eps: float) -> None:
    scores = torch.tensor(values, dtype=torch.float64)
    k = share * len(values)
    mask = soft_top_k(scores, k, eps)
    assert mask.sum().item() == pytest.approx(k, abs=1e-9)
    assert mask.min() >= 0 and mask.max() <= 1
    order = scores.argsort()
    assert (mask[order].diff() >= 0).all()  # monotone
    torch.testing.assert_close(soft_top_k(scores + 3, k, eps), mask, rtol=1e-7, atol=1e-9)  # a constant is free


@pytest.mark.parametrize("eps", [0.03, 0.3, 3.0])
@pytest.mark.parametrize("k", [0.01, 1, 2.5, 17, 39, 39.9])
def test_equals_root_search(k: float, eps: float) -> None:
    scores = np.random.default_rng(0).normal(size=40)
    mask = soft_top_k(torch.from_numpy(scores), k, eps).numpy()
    np.testing.assert_allclose(mask, by_bisection(scores, k, eps), rtol=1e-9, atol=1e-12)


def test_it_is_the_maximum_of_its_objective(generator: torch.Generator) -> None:
    scores = torch.randn(12, generator=generator, dtype=torch.float64)
    k, eps = 4, 0.5
    mask = soft_top_k(scores, k, eps)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return (scores * x).sum() - eps * torch.xlogy(x, x).sum()

    for _ in range(200):
        other = torch.rand(12, generator=generator, dtype=torch.float64)
        other = other * k / other.sum()
        if other.max() <= 1:
            assert objective(other) < objective(mask)


@pytest.mark.parametrize("eps", [1e-3, 1e-12, 1e-300, 5e-324])
def test_a_small_eps_gives_hard_top_k(eps: float) -> None:
    scores = torch.tensor([0.3, 2.0, -1.0, 0.7, 0.1], dtype=torch.float64)
    assert soft_top_k(scores, 2, eps).tolist() == pytest.approx([0, 1, 0, 1, 0], abs=1e-15)
    # Equals at the threshold share what is left, also where eps is below the resolution of the scores.
    tied = soft_top_k(torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64), 2, eps)
    torch.testing.assert_close(tied, torch.tensor([1, 1 / 3, 1 / 3, 0, 1 / 3], dtype=torch.float64))


def test_a_large_eps_gives_the_same_to_all(generator: torch.Generator) -> None:
    scores = torch.randn(8, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(soft_top_k(scores, 3, 1e12), torch.full((8,), 3 / 8, dtype=torch.float64))
    assert soft_top_k(scores, 3, math.inf).tolist() == pytest.approx([3 / 8] * 8)


def test_the_ends_of_k(generator: torch.Generator) -> None:
    scores = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    assert torch.equal(soft_top_k(scores, 8, 0.03), torch.ones(3, 8, dtype=torch.float64))
    assert torch.equal(soft_top_k(torch.zeros(6), 6, 0.03), torch.ones(6))
    torch.testing.assert_close(soft_top_k(scores, 1, 0.7), (scores / 0.7).softmax(-1))
    torch.testing.assert_close(soft_top_k(scores, 1e-9, 0.7), 1e-9 * (scores / 0.7).softmax(-1))
    assert soft_top_k(torch.tensor([-3.0]), 0.25, 1.0).tolist() == [0.25]


def test_float32_at_the_size_of_a_layer_sums_to_k(generator: torch.Generator) -> None:
    scores = 5 * torch.randn(352, generator=generator)
    mask = soft_top_k(scores, 176, 0.03)
    assert mask.dtype == torch.float32
    assert mask.double().sum().item() == pytest.approx(176, abs=1e-5)


def test_rows_are_independent(generator: torch.Generator) -> None:
    scores = torch.randn(2, 3, 10, generator=generator, dtype=torch.float64)
    mask = soft_top_k(scores, 4, 0.1)
    for i in range(2):
        for j in range(3):
            assert torch.equal(mask[i, j], soft_top_k(scores[i, j], 4, 0.1))


@pytest.mark.parametrize("eps", [0.03, 0.3, 5.0])
@pytest.mark.parametrize("k", [0.5, 1, 3, 5.5])
def test_gradient_equals_finite_differences(k: float, eps: float, generator: torch.Generator) -> None:
    scores = torch.randn(2, 6, generator=generator, dtype=torch.float64).requires_grad_()
    step = eps * 1e-6  # of the size of what is to be resolved
    assert gradcheck(lambda s: soft_top_k(s, k, eps), scores, eps=step, atol=1e-5 / eps, rtol=1e-4)


def test_gradient_of_saturated_entries_is_zero(generator: torch.Generator) -> None:
    scores = torch.tensor([5.0, 0.1, 0.0, -0.1], dtype=torch.float64, requires_grad=True)
    soft_top_k(scores, 2, 0.3)[1].backward()
    assert scores.grad[0] == 0 and (scores.grad[1:] != 0).all()
    assert scores.grad.sum().item() == pytest.approx(0, abs=1e-12)  # a constant added to all changes nothing
    whole = torch.randn(5, generator=generator).requires_grad_()
    soft_top_k(whole, 5, 0.3).sum().backward()
    assert torch.equal(whole.grad, torch.zeros(5))


def test_iteration_by_hand() -> None:
    # One round: a = -ln 2 + ln 1, b = min(-s - a, 0), λ = exp(s + b + a): the softmax, cut at 1.
    scores = torch.tensor([0.0, math.log(3)], dtype=torch.float64)
    assert soft_top_k(scores, 1, 1.0, n_iter=1).tolist() == pytest.approx([0.25, 0.75])
    # k = 1.8 of the same: a = ln 1.8 - ln 4, λ = min(1, (0.45, 1.35)).
    assert soft_top_k(scores, 1.8, 1.0, n_iter=1).tolist() == pytest.approx([0.45, 1.0])


def test_iteration_reaches_the_exact_mask_where_eps_is_large(generator: torch.Generator) -> None:
    scores = torch.randn(40, generator=generator, dtype=torch.float64).requires_grad_()
    exact, iterated = soft_top_k(scores, 10, 1.0), soft_top_k(scores, 10, 1.0, n_iter=300)
    torch.testing.assert_close(iterated, exact, rtol=1e-8, atol=1e-10)
    weights = torch.randn(40, generator=generator, dtype=torch.float64)
    first, second = (torch.autograd.grad((mask * weights).sum(), scores)[0] for mask in (exact, iterated))
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-7)


def test_iteration_is_far_off_where_eps_is_small(generator: torch.Generator) -> None:
    scores = torch.randn(352, generator=generator, dtype=torch.float64)
    assert soft_top_k(scores, 176, 0.03, n_iter=20).sum() < 100
    assert soft_top_k(scores, 176, 0.03).sum().item() == pytest.approx(176)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: got 0, need 0 < k <= 4"),
        ({"k": 4.5}, "k: got 4.5"),
        ({"k": math.nan}, "k: got nan"),
        ({"eps": 0.0}, "eps: got 0.0, need > 0"),
        ({"eps": math.nan}, "eps: got nan"),
        ({"n_iter": 0}, "n_iter: got 0, need at least 1 or None"),
        ({"scores": torch.arange(4)}, "scores: got torch.int64"),
        ({"scores": torch.tensor(1.0)}, "scores: got torch.float32"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_top_k(**{"scores": torch.zeros(4), "k": 2, "eps": 0.1, **arguments})
