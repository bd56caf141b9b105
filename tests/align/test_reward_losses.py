"""Ranking with soft labels, margins and grades: laws of the loss, and what a model learns from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tenfold.align.preference_data import Pair, collate_pairs
from tenfold.align.reward_losses import MARGINS, SOFT_LABELS, grade_loss, reward_loss, soft_label_loss
from tenfold.align.reward_model import RewardModel

UNKNOWN = ((-100,) * 4, (-100,) * 4)


@pytest.fixture
def model(decoder) -> RewardModel:  # type: ignore[no-untyped-def]
    return RewardModel(decoder(), torch.Generator().manual_seed(1))


def pairs(samples, grades=UNKNOWN) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    rows = samples(16)
    return collate_pairs(
        [Pair(a, b, i % 4, grades) for i, (a, b) in enumerate(zip(rows[::2], rows[1::2], strict=True))]
    )


def test_the_gradient_is_zero_where_the_odds_are_those_of_the_label() -> None:
    """At d = ln(p / (1 - p)): 2.944, 1.735, 1.099, 0.619 for the four levels."""
    gap = torch.tensor([2.944, 1.735, 1.099, 0.619], dtype=torch.float64)
    label = torch.tensor(SOFT_LABELS, dtype=torch.float64)
    torch.testing.assert_close((label / (1 - label)).log(), gap, rtol=0, atol=5e-4)
    exact = (label / (1 - label)).log().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_label_loss(exact, label).sum(), exact)
    assert gradient.abs().max() < 1e-15


def test_swapping_the_pair_and_the_label_changes_nothing(generator: torch.Generator) -> None:
    gap = 5 * torch.randn(100, dtype=torch.float64, generator=generator)
    label = torch.rand(100, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(soft_label_loss(gap, label), soft_label_loss(-gap, 1 - label), rtol=1e-14, atol=0)
    plain = -label * gap.sigmoid().log() - (1 - label) * (-gap).sigmoid().log()
    torch.testing.assert_close(soft_label_loss(gap, label), plain)


def test_huge_gaps_stay_finite() -> None:
    gap = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = soft_label_loss(gap, torch.tensor([0.95, 0.95]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([500, 9500])
    assert gap.grad.tolist() == pytest.approx([0.05, -0.95])


@pytest.mark.parametrize("ranking", ["soft", "bradley_terry", "margin"])
def test_rankings_by_hand(model: RewardModel, samples, ranking) -> None:  # type: ignore[no-untyped-def]
    batch = pairs(samples)
    score = model(batch).score_B
    gap, level = (score[:8] - score[8:]), batch["level"]
    label = torch.tensor(SOFT_LABELS)[level].double()
    expected = {
        "soft": -label * F.logsigmoid(gap) - (1 - label) * F.logsigmoid(-gap),
        "bradley_terry": -F.logsigmoid(gap),
        "margin": -F.logsigmoid(gap - torch.tensor(MARGINS)[level].double()),
    }[ranking].mean()
    value, metrics = reward_loss(ranking=ranking)(model, batch)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert metrics["weight"] == 8
    assert metrics["accuracy"] == (gap > 0).float().mean()


def test_all_grades_unknown_is_exactly_the_ranking_loss(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    value, metrics = reward_loss(grade_weight=3.0)(model, pairs(samples))
    assert metrics["grades"] == 0
    assert value.item() == metrics["rank"]
    value.backward()
    assert all(head.down.weight.grad is None or not head.down.weight.grad.any() for head in model.grades.values())


def test_grades_are_summed_over_both_responses(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    batch = pairs(samples, ((2, -100, 0, -100), (-100, -100, 1, 1)))
    logits = model(batch).grades_BG3.log_softmax(-1)
    expected = -(logits[:8, 0, 2] + logits[:8, 2, 0] + logits[8:, 2, 1] + logits[8:, 3, 1]).mean()
    value, metrics = reward_loss(grade_weight=0.5)(model, batch)
    torch.testing.assert_close(metrics["grades"], expected.detach())
    torch.testing.assert_close(value.detach(), metrics["rank"] + 0.5 * expected.detach())
    assert grade_loss(torch.zeros(2, 4, 3), torch.full((2, 4), -100)).tolist() == [0, 0]


def test_micro_batches_add_up_to_the_whole(model: RewardModel, samples) -> None:  # type: ignore[no-untyped-def]
    rows = samples(10)
    whole = [Pair(a, b, 1, ((1,) * 4, (0,) * 4)) for a, b in zip(rows[::2], rows[1::2], strict=True)]
    loss = reward_loss()
    value, metrics = loss(model, collate_pairs(whole))
    parts = [loss(model, collate_pairs(part)) for part in (whole[:2], whole[2:])]
    joined = sum(part * own["weight"] for part, own in parts) / metrics["weight"]
    torch.testing.assert_close(joined, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranking": "hinge"}, "ranking: got 'hinge'"),
        ({"levels": (0.9,)}, "levels: got"),
        ({"levels": (1.1, 1, 1, 1)}, "levels: got"),
        ({"margins": (1, 1, 1, -1)}, "margins: got"),
        ({"grade_weight": -1}, "grade_weight: got -1"),
        ({"grade_weight": math.nan}, "grade_weight: got nan"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward_loss(**options)
