"""Advantage estimators by hand and against their definitions."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.games.advantages import gae, group_normalised, returns_to_go, role_conditioned

numbers = st.lists(st.floats(-2, 2), min_size=1, max_size=8)


def test_returns_to_go_by_hand() -> None:
    assert returns_to_go([1.0, 0.0, 2.0], 0.5) == [1.5, 1.0, 2.0]


@settings(deadline=None)
@given(numbers, st.floats(0, 1))
def test_gae_between_its_limits(rewards: list[float], gamma: float) -> None:
    values = [0.5 * r + 0.1 for r in rewards]
    following = [*values[1:], 0.0]
    deltas = [r + gamma * b - a for r, a, b in zip(rewards, values, following, strict=True)]
    assert gae(rewards, values, gamma, 0.0) == pytest.approx(deltas)
    lifted = [g - v for g, v in zip(returns_to_go(rewards, gamma), values, strict=True)]
    assert gae(rewards, values, gamma, 1.0) == pytest.approx(lifted)
    summed = [sum((gamma * 0.9) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]
    assert gae(rewards, values, gamma, 0.9) == pytest.approx(summed)


def test_groups_are_normalised_apart() -> None:
    found = group_normalised([1, -1, 1, 5, 7, 3], ["a", "a", "a", "b", "b", "c"])
    assert found[:2] == pytest.approx([(1 - 1 / 3) / (statistics.stdev([1, -1, 1]) + 1e-4), (-4 / 3) / (statistics.stdev([1, -1, 1]) + 1e-4)])  # fmt: skip
    assert found[3] == pytest.approx(-found[4])
    assert found[5] == 0.0


def test_baselines_of_roles_follow_their_returns() -> None:
    keys = [("taboo", "attacker"), ("taboo", "defender"), ("taboo", "attacker")]
    found, baselines = role_conditioned([1.0, -1.0, 1.0], keys)
    assert found == pytest.approx([1.0, -1.0, 0.95])
    assert baselines == pytest.approx({keys[0]: 0.0975, keys[1]: -0.05})
    more, _ = role_conditioned([1.0], keys[:1], baselines=baselines)
    assert more == pytest.approx([1 - 0.0975])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="values: got 1 for 2 rewards"):
        gae([1, 2], [0])
    with pytest.raises(ValueError, match=r"gamma, lam: got 1\.5"):
        gae([1], [0], 1.5)
    with pytest.raises(ValueError, match="groups: got 1 for 2 returns"):
        group_normalised([1, 2], ["a"])
    with pytest.raises(ValueError, match="keys: got 0 for 1 returns"):
        role_conditioned([1], [])
    with pytest.raises(ValueError, match="decay: got 1"):
        role_conditioned([1], ["a"], decay=1)
