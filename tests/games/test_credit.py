"""Rewards by hand and by law, the balance of sides, what teaches nothing."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.games.credit import GameRow, assign_credit, side_weights, utterance_rewards
from tenfold.games.game import Episode

Make = Callable[..., Episode]
pytestmark = pytest.mark.filterwarnings("ignore:.*decisive games")


def query(episode: Episode, ply: int) -> str:
    return f"{episode.setup['target_word']} {ply}"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1.0]),
        (3, [0.26230, 0.32787, 0.40984]),
        (5, [0.12185, 0.15231, 0.19039, 0.23798, 0.29748]),
    ],
)
def test_rewards_of_the_paper(count: int, expected: list[float]) -> None:
    assert utterance_rewards(count) == pytest.approx(expected, abs=5e-6)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 1.0))
def test_laws_of_rewards(count: int, gamma: float) -> None:
    rewards = utterance_rewards(count, gamma)
    assert abs(math.fsum(rewards) - 1) < 1e-12
    assert all(b == pytest.approx(a / gamma) for a, b in itertools.pairwise(rewards))
    if gamma < 1:
        closed = [(1 - gamma) * gamma ** (count - k) / (1 - gamma**count) for k in range(1, count + 1)]
        assert rewards == pytest.approx(closed, rel=1e-9)


def test_gamma_one_is_uniform() -> None:
    assert utterance_rewards(4, 1.0) == [0.25] * 4


@settings(deadline=None)
@given(st.integers(1, 99), st.integers(1, 99))
def test_sides_weigh_alike(attacker: int, defender: int) -> None:
    weights = side_weights(Counter(attacker=attacker, defender=defender), ("attacker", "defender"))
    total = attacker * weights["attacker"]
    assert total == pytest.approx(defender * weights["defender"])
    assert 2 * total == pytest.approx(attacker + defender)
    assert weights["attacker"] == pytest.approx((attacker + defender) / (2 * attacker))


def games(episode: Make) -> list[Episode]:
    return [
        episode(["it grows", "apple", "late"], "attacker wins", length=2, word="one"),
        episode(["a", "b", "c", "I know the word! It is `two`"], "defender wins", word="two"),
        episode(["a", " ", "c", "I know the word! It is `x`"], "attacker wins", word="three"),
        episode(["a", "b"], "tied game", word="four"),
        episode(["five"], "attacker breaks the rules", word="five"),
        episode(["a"], "error", word="six"),
    ]


def test_winners_utterances_within_the_game(episode: Make) -> None:
    rows = assign_credit(games(episode), prompts=query)
    a, b = utterance_rewards(2)
    assert rows == [
        GameRow("one 0", "it grows", 1.0, "attacker", 0.75),
        GameRow("two 1", "b", a, "defender", 1.5),
        GameRow("two 3", "I know the word! It is `two`", b, "defender", 1.5),
        GameRow("three 0", "a", a, "attacker", 0.75),
        GameRow("three 2", "c", b, "attacker", 0.75),
    ]
    assert {row.weight for row in assign_credit(games(episode), prompts=query, balance=False)} == {1.0}
    assert max(row.weight for row in assign_credit(games(episode), prompts=query, max_weight=1.2)) == 1.2


def test_zero_sum_credit_cancels_in_every_game(episode: Make) -> None:
    with pytest.warns(UserWarning, match="1 utterances say nothing; they are left out"):
        rows = assign_credit(games(episode), credit="zero_sum", prompts=query)
    assert [row.query for row in rows] == ["one 0", "one 1", "two 0", "two 1", "two 2", "two 3", "three 0", "three 2", "three 3"]  # fmt: skip
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[str(row.query).split()[0]] += row.weight * row.reward
    assert totals["one"] == pytest.approx(0) and totals["two"] == pytest.approx(0)
    assert rows[1].reward == -1.0 and rows[1].weight == 0.75  # the loser's row weighs as its game


def test_fouls_and_ties_on_request(episode: Make) -> None:
    rows = assign_credit(games(episode)[3:5], invalid_policy="defender_wins", credit="zero_sum", prompts=query)
    assert rows == [GameRow("five 0", "five", -1.0, "attacker", 0.5)]
    rows = assign_credit(games(episode)[3:4], tie_reward=-0.5, prompts=query)
    assert rows == [GameRow("four 0", "a", -0.5, "attacker"), GameRow("four 1", "b", -0.5, "defender")]


def test_the_default_prompts_are_the_randomised_ones(episode: Make) -> None:
    (row,) = assign_credit(games(episode)[:1])
    assert isinstance(row.query, str) and "`one`" in row.query


def test_nothing_to_learn(episode: Make) -> None:
    with pytest.raises(UserError, match="0 of 3 games decisive: nothing to learn; ties 1, invalid 1"):
        assign_credit(games(episode)[3:])


def test_one_sided_games_warn(episode: Make) -> None:
    won = [episode(["a", "apple"], "attacker wins", repeat=i) for i in range(30)]
    with pytest.warns(UserWarning, match="defender won none of 30 decisive games") as told:
        assign_credit(won, prompts=query)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="attacker won 30 of 31 decisive games"):
        assign_credit([*won, games(episode)[1]], prompts=query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma: got 0"),
        ({"gamma": 1.5}, "gamma: got 1.5"),
        ({"credit": "loser"}, "credit, invalid_policy: got 'loser'"),
        ({"invalid_policy": "x"}, "credit, invalid_policy: got"),
        ({"max_weight": 0}, "max_weight: got 0"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str, episode: Make) -> None:
    with pytest.raises(ValueError, match=message):
        assign_credit(games(episode), **options)
