"""Weights that are not learned by hypergradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tenfold.clinical.task_weighting import (
    FixedWeights,
    UncertaintyWeights,
    correlation_scores,
    cosine_weights,
    random_weights,
    subset_weights,
    top_weights,
)

NAMES = ("a", "b", "c", "d")


def test_subsets() -> None:
    assert subset_weights(NAMES, include=["b", 3]).tolist() == [0, 1, 0, 1]
    assert subset_weights(NAMES, exclude=["b"]).tolist() == [1, 0, 1, 1]
    assert top_weights(torch.tensor([0.1, 0.4, 0.4, 0.1]), 3).tolist() == [1, 1, 1, 0]
    drawn = [random_weights(50, 5, seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert all(w.sum() == 5 for w in drawn)
    assert FixedWeights(subset_weights(NAMES, include=["a", "b"]))().tolist() == [0.5, 0.5, 0, 0]


def test_uncertainty_is_kendalls_loss() -> None:
    weights = UncertaintyWeights(2)
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([0.0, 1.0]))
    loss = weights.total(torch.tensor([2.0, 3.0]))
    assert loss.item() == pytest.approx((2 + 3 / 2.718281828 + 1) / 2)
    # At the best s the loss of a task is its variance.
    weights.zero_grad()
    with torch.no_grad():
        weights.log_variance.copy_(torch.tensor([2.0, 3.0]).log())
    weights.total(torch.tensor([2.0, 3.0])).backward()
    assert weights.log_variance.grad is not None and weights.log_variance.grad.abs().max() < 1e-6
    assert weights().sum().item() == pytest.approx(1)


def test_correlation_ranks_variables_by_what_they_tell() -> None:
    g = torch.Generator().manual_seed(0)
    label = (torch.rand(300, generator=g) < 0.5).float()
    x = torch.randn(300, 4, 3, generator=g)
    x[:, :, 1] -= label[:, None]
    x[:, -1, 2] += 0.5 * label
    score = correlation_scores({"x": x, "mask": torch.ones_like(x, dtype=torch.bool), "label": label})
    assert score.argsort(descending=True).tolist() == [1, 2, 0]
    assert score[1] > 0.4


def test_cosine_weights_follow_tasks_that_agree() -> None:
    p = torch.zeros(2, requires_grad=True)
    towards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    w = cosine_weights(lambda: towards @ p, lambda: 3 * p[0], [p])
    torch.testing.assert_close(w, torch.tensor([1.0, 0.5**0.5, 0.0, 0.0]) / (1 + 0.5**0.5))
    even = cosine_weights(lambda: towards[2:3].expand(2, 2) @ p, lambda: 3 * p[0], [p])
    assert even.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subset_weights(NAMES, include=["a"], exclude=["b"]), "include, exclude: got .*, need one of them"),
        (lambda: subset_weights(NAMES), "include, exclude"),
        (lambda: subset_weights(NAMES, include=[4]), r"subset: got task 4, need 0\.\.3"),
        (lambda: subset_weights(NAMES, exclude=[-1]), "subset: got task -1"),
        (lambda: subset_weights(NAMES, include=["e"]), "subset: got task 'e', need one of a, b, c, d"),
        (lambda: subset_weights(NAMES, exclude=NAMES), "exclude: got all 4 tasks"),
        (lambda: top_weights(torch.ones(3), 4), r"top_k: got 4, need 1\.\.3"),
        (lambda: FixedWeights(torch.zeros(3)), "w: got"),
        (lambda: FixedWeights(torch.tensor([1.0, -1.0])), "w: got"),
        (lambda: FixedWeights(torch.tensor([1.0, torch.inf])), "w: got"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
