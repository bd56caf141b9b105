"""The bridge to TextArena, both ways, with an environment of its kind."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.games.self_play import play
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.textarena_bridge import ArenaGame, from_textarena, to_textarena
from tenfold.text.chat import ScriptedChatModel


class Highest:
    """Each player names a number below a limit drawn from Python's global generator; the higher one wins, a word is a foul."""

    def reset(self, num_players: int, seed: int | None = None) -> None:
        random.seed(seed)
        self.limit = random.randrange(10, 100)
        self.news: dict[int, list[tuple[int, str, str]]] = {p: [(-1, f"limit {self.limit}, you are {p}", "PROMPT")] for p in (0, 1)}  # fmt: skip
        self.player, self.said, self.foul = 0, [], False

    def get_observation(self) -> tuple[int, list[tuple[int, str, str]]]:
        news, self.news[self.player] = self.news[self.player], []
        return self.player, news

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        self.foul = not action.isdecimal()
        self.said.append(0 if self.foul else int(action))
        for news in self.news.values():
            news.append((self.player, action, "PLAYER_ACTION"))
        if not self.foul and self.player == 0:
            self.player = 1
            return False, {}
        return True, {}

    def close(self) -> tuple[dict[int, float], dict[int, dict[str, Any]]]:
        info: dict[int, dict[str, Any]] = {
            p: {"invalid_move": self.foul and p == self.player, "reason": "over"} for p in (0, 1)
        }
        if self.foul:
            return {self.player: -1, 1 - self.player: 1}, info
        won = (self.said[0] > self.said[1]) - (self.said[0] < self.said[1])
        return {0: won, 1: -won}, info


@pytest.mark.parametrize(
    ("first", "second", "outcome", "returns"),
    [
        ("9", "3", "player 0 wins", {"player 0": 1, "player 1": -1}),
        ("3", "9", "player 1 wins", {"player 0": -1, "player 1": 1}),
        ("3", "3", "tied game", {"player 0": 0, "player 1": 0}),
        ("x", "3", "player 0 breaks the rules", {"player 0": -1, "player 1": 1}),
    ],
)
def test_an_environment_is_played_as_a_game(first: str, second: str, outcome: str, returns: dict[str, float]) -> None:
    game = ArenaGame("highest", Highest)
    before = random.getstate()
    players = {
        "player 0": ScriptedChatModel(lambda m, s, i: first),
        "player 1": ScriptedChatModel(lambda m, s, i: second),
    }
    (episode,) = play(game, players, [{}], seed=3)
    assert episode.verdict.outcome == outcome and episode.verdict.reason == "over"
    assert game.returns(episode.verdict) == returns
    assert random.getstate() == before  # the global generator is as it was


def test_states_are_pure_and_hide_the_other_s_prompt() -> None:
    game = ArenaGame("highest", Highest)
    state = game.reset({}, 3)
    (told,) = game.observe(state, "player 0")
    after = game.step(state, "5")
    assert game.observe(state, "player 0") == [told] and "you are 0" in told.content
    (other,) = game.observe(after, "player 1")
    assert "you are 1" in other.content and "5" in other.content and "you are 0" not in other.content
    assert game.to_move(after) == "player 1" and game.verdict(after) is None
    assert len({game.observe(game.reset({}, seed), "player 0")[0].content for seed in range(9)}) > 3


def test_a_game_is_played_as_an_environment() -> None:
    environment = to_textarena(AdversarialTaboo(max_turns=2), {"target_word": "apple"})
    environment.reset(num_players=2, seed=0)
    player, news = environment.get_observation()
    assert player == 0 and news[0][0] == -1 and "`apple`" in news[0][1]
    assert environment.step("a fruit") == (False, {})
    player, news = environment.get_observation()
    assert player == 1 and news[-1] == (0, "a fruit", "PLAYER_ACTION") and "`apple`" not in str(news)
    assert environment.step("a pear") == (False, {})
    player, news = environment.get_observation()
    assert player == 0 and news[-1] == (1, "a pear", "PLAYER_ACTION") and "apple" not in str(news)  # only what is new
    assert environment.step("red, in cider") == (False, {})
    assert environment.step("an apple!") == (True, {"outcome": "attacker wins"})
    rewards, info = environment.close()
    assert rewards == {0: 1.0, 1: -1.0}
    assert info[1] == {"role": "defender", "invalid_move": False, "turn_count": 2, "reason": "defender said the word"}
    with pytest.raises(ValueError, match="num_players: got 3, need 2 for adversarial_taboo"):
        environment.reset(num_players=3)


def test_environments_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(env_id: str) -> Highest:
        if env_id != "Highest-v0":
            raise ValueError(f"Environment {env_id} not found\nin the registry")
        return Highest()

    monkeypatch.setitem(sys.modules, "textarena", SimpleNamespace(make=make))
    assert from_textarena("Highest-v0").name == "Highest-v0"
    with pytest.raises(UserError, match="textarena: X-v0: Environment X-v0 not found in the registry"):
        from_textarena("X-v0")
    with pytest.raises(ValueError, match="players: got 3, need 1 or 2"):
        from_textarena("Highest-v0", players=3)
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(UserError, match="textarena is not installed"):
        from_textarena("Highest-v0")
