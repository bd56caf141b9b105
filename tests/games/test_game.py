"""The register of games, names of episodes, seeds, and what every game must keep to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.games.game import Game, State, Turn, Verdict, episode_id, keyed_seed, list_games, make_game, register_game
from tenfold.text.messages import Message

SETUP = {"target_word": "apple", "max_turns": 2}


def test_games_are_made_by_name() -> None:
    assert {"adversarial_taboo", "twenty_questions"} <= set(list_games())
    game = make_game("adversarial_taboo", max_turns=3, rules="strict")
    assert game.name == "adversarial_taboo" and game.reset({"target_word": "cat"}, 0).setup["max_turns"] == 3
    with pytest.raises(UserError, match="game: got 'taboo', need one of adversarial_taboo"):
        make_game("taboo")


def test_a_game_of_ones_own() -> None:
    @register_game("echo")
    class Echo:
        name, roles, zero_sum = "echo", ("only",), False

        def reset(self, setup: Mapping[str, Any], seed: int) -> State:
            return State(setup, seed)

        def plies(self, s: State) -> int:
            return 1

        def to_move(self, s: State) -> str:
            return "only"

        def observe(self, s: State, role: str) -> list[Message]:
            return [Message("user", "say")]

        def step(self, s: State, text: str) -> State:
            return State(s.setup, s.seed, (*s.turns, Turn("only", text)))

        def verdict(self, s: State) -> Verdict | None:
            return Verdict("only wins", 1) if s.turns else None

        def returns(self, v: Verdict) -> dict[str, float]:
            return {"only": 1.0}

    game: Game = make_game("echo")
    assert "echo" in list_games()
    assert game.verdict(game.step(game.reset({}, 0), "x")) == Verdict("only wins", 1)


@pytest.mark.parametrize("name", ["adversarial_taboo", "twenty_questions"])
@settings(deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12), min_size=4, max_size=4))
def test_what_every_game_keeps_to(name: str, texts: list[str]) -> None:
    game = make_game(name)
    state = game.reset(SETUP, 7)
    for text in texts:
        role = game.to_move(state)
        assert game.observe(state, role)[-1].role == "user"
        before = (state, game.verdict(state))
        after = game.step(state, text)
        assert (state, game.verdict(state)) == before  # pure
        assert after.turns[-1] == Turn(role, text)
        state = after
    verdict = game.verdict(state)
    assert verdict is not None, "all utterances are used up"
    returns = game.returns(verdict)
    assert set(returns) == set(game.roles)
    assert sum(returns.values()) == 0 or not game.zero_sum
    assert json.loads(json.dumps(dict(state.setup))) == dict(state.setup)


def test_ids_and_seeds_tell_games_apart() -> None:
    ids = {episode_id(game, setup, seed, repeat) for game in "ab" for setup in ({"x": 1}, {"x": 2}) for seed in (0, 1) for repeat in (0, 1)}  # fmt: skip
    assert len(ids) == 16
    assert episode_id("a", {"x": 1, "y": 2}, 0) == episode_id("a", {"y": 2, "x": 1}, 0)
    seeds = {keyed_seed(seed, id, ply) for seed in (0, 1) for id in ("a", "b") for ply in (0, 1)}
    assert len(seeds) == 8 and all(0 <= seed < 1 << 62 for seed in seeds)
    assert keyed_seed(1, "23") != keyed_seed(12, "3")
    assert keyed_seed("\ud800") >= 0
