"""Selectors: formulas by hand, budgets kept to the last trial, and how often they find the best arm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tenfold.prompts.selectors import (
    UCB,
    BruteForce,
    Pull,
    Selector,
    SuccessiveHalving,
    SuccessiveRejects,
    halving_trials,
    rejects_official,
    rejects_schedule,
    select,
    ucb_scores,
)

ALL: list[Selector] = [
    BruteForce(),
    UCB(),
    UCB(rounds=32, examples_per_round=8, c=0.5),
    UCB(rule="ucb-e"),
    SuccessiveHalving(),
    SuccessiveHalving(sh_rule="mean"),
    SuccessiveRejects(),
]


def bandit(selector: Selector, seed: int, arms: int = 40) -> tuple[bool, bool]:
    """Whether the best arm (0.7, the others below 0.65) came first, and among the first three."""
    generator = np.random.default_rng(seed)
    chance = generator.uniform(0.3, 0.65, arms)
    best = int(generator.integers(arms))
    chance[best] = 0.7

    def pull(asked: Pull) -> np.ndarray:
        return (generator.random((len(asked.arms), len(asked.examples))) < chance[list(asked.arms)][:, None]).astype(
            float
        )

    found = select(selector, arms, 2048, 1, pull, seed)
    assert found.spent <= selector.budget
    return found.order[0] == best, best in found.order[:3]


@pytest.mark.parametrize(
    ("selector", "bar"),
    [(UCB(), 0.52), (SuccessiveHalving(), 0.69), (UCB(rounds=32, examples_per_round=8, c=0.5), 0.69)],
)
def test_they_find_the_best_of_forty_arms(selector: Selector, bar: float) -> None:
    trials = 150  # benchmarks/prompts.py takes 400
    hits = sum(bandit(selector, seed)[0] for seed in range(trials))
    assert hits / trials >= bar - 0.04
    brute = sum(bandit(BruteForce(), seed)[0] for seed in range(trials))
    assert hits > brute


def test_ucb_bounds_by_hand() -> None:
    means, counts = np.array([0.5, 0.25, 0.0]), np.array([32, 64, 0])
    for t in (1, 2, 5):
        expected = [q + 1.5 * math.sqrt(math.log(t) / (n + 1e-3)) for q, n in zip(means, counts, strict=True)]
        assert np.allclose(ucb_scores(means, counts, t, 1.5), expected, rtol=0, atol=1e-12)
    expected = [q + 2.0 * math.sqrt(2.0 / (n + 1e-3)) for q, n in zip(means, counts, strict=True)]
    assert np.allclose(ucb_scores(means, counts, 3, 2.0, "ucb-e"), expected, rtol=0, atol=1e-12)


def test_rejects_schedules_by_hand() -> None:
    # 4 arms, keep 1, B = 130: logbar = 1/2 + 1/2 + 1/3 + 1/4, c = 130 / logbar = 82.105…
    assert rejects_schedule(4, 1, 130) == [20, 27, 41]
    assert 20 * 4 + 7 * 3 + 14 * 2 <= 130
    # The published code: K = 3, logbar = 1/2 + 1/2 + 1/3.
    assert rejects_official(4, 1, 130) == [
        int(127 / (4 / 3 * 3)),
        int(127 / (4 / 3 * 2) - 127 / 4),
        int(127 / (4 / 3) - 127 / (8 / 3)),
    ]
    assert halving_trials(2048, 40, 40) == 2048 // (40 * 6) and halving_trials(100, 5, 20) == 4


@pytest.mark.parametrize("selector", ALL, ids=lambda s: f"{type(s).__name__}-{vars(s)}"[:60])
@pytest.mark.parametrize(("arms", "examples", "keep"), [(1, 1, 1), (2, 5, 1), (7, 50, 4), (40, 2048, 4), (100, 30, 3)])
def test_every_arm_is_ranked_and_the_budget_is_kept(selector: Selector, arms: int, examples: int, keep: int) -> None:
    def pull(asked: Pull) -> np.ndarray:
        assert len(set(asked.arms)) == len(asked.arms) and len(set(asked.examples)) == len(asked.examples)
        assert all(0 <= arm < arms for arm in asked.arms) and all(0 <= e < examples for e in asked.examples)
        return np.tile(np.array(asked.arms, dtype=float)[:, None] / arms, (1, len(asked.examples)))

    found = select(selector, arms, examples, keep, pull)
    assert sorted(found.order) == list(range(arms)) and found.spent <= selector.budget
    again = select(selector, arms, examples, keep, pull)
    assert again == found
    if not isinstance(selector, UCB):
        assert found.order[0] == arms - 1


def test_excluded_examples_count_as_tried_but_not_as_scores() -> None:
    found = select(BruteForce(8), 2, 4, 1, lambda asked: np.array([[1.0, math.nan, 1, 1], [1, 0, 1, 1.0]]))
    assert found.means == (1.0, 0.75) and found.counts == (4, 4)


def test_ties_go_to_the_earlier_arm() -> None:
    assert select(BruteForce(), 5, 3, 1, lambda asked: np.ones((5, 3))).order == (0, 1, 2, 3, 4)


def test_a_budget_below_one_trial_an_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="got 3 trials for 4 arms"):
        select(BruteForce(3), 4, 5, 1, lambda asked: np.ones((4, 1)))
