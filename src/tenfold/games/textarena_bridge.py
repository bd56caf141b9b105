"""A bridge to TextArena: its environments of one or two players as games here, and games here as environments there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

from tenfold.core.errors import UserError
from tenfold.games.game import TIED, Game, State, Turn, Verdict
from tenfold.text.messages import Message

_GAME = -1  # who speaks where the environment itself does


class Environment(Protocol):
    """What TextArena's environments offer."""

    def reset(self, num_players: int, seed: int | None = None) -> Any: ...
    def get_observation(self) -> tuple[int, list[tuple[int, str, Any]]]: ...
    def step(self, action: str) -> tuple[bool, dict[str, Any]]: ...
    def close(self) -> tuple[dict[int, float], dict[int, dict[str, Any]]]: ...


class GameEnvironment:
    """A game with TextArena's methods: players are numbers, observations lists of (from, text, kind).

    Args:
        game: of two roles.
        setup: of every episode; None is for games that need none.
    """

    def __init__(self, game: Game, setup: Mapping[str, Any] | None = None) -> None:
        self.game, self.setup = game, dict(setup or {})

    def reset(self, num_players: int = 2, seed: int | None = None) -> None:
        """Begin an episode."""
        if num_players != len(self.game.roles):
            raise ValueError(f"num_players: got {num_players}, need {len(self.game.roles)} for {self.game.name}")
        self.state = self.game.reset(self.setup, 0 if seed is None else seed)
        self.told = [0] * num_players

    def get_observation(self) -> tuple[int, list[tuple[int, str, str]]]:
        """The player to move and what is new to it since it was asked last."""
        role = self.game.to_move(self.state)
        player = self.game.roles.index(role)
        messages = self.game.observe(self.state, role)
        news, self.told[player] = messages[self.told[player] :], len(messages)
        other = 1 - player
        sources = {
            "system": (_GAME, "PROMPT"),
            "user": (other, "PLAYER_ACTION"),
            "assistant": (player, "PLAYER_ACTION"),
        }
        return player, [(sources[m.role][0], m.content, sources[m.role][1]) for m in news]

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        """Say something for the player to move."""
        self.state = self.game.step(self.state, action)
        verdict = self.game.verdict(self.state)
        return verdict is not None, {} if verdict is None else {"outcome": verdict.outcome}

    def close(self) -> tuple[dict[int, float], dict[int, dict[str, Any]]]:
        """Rewards and what is known of each player."""
        verdict = self.game.verdict(self.state) or Verdict(TIED, len(self.state.turns))
        returns = self.game.returns(verdict)
        info = {
            player: {
                "role": role,
                "invalid_move": verdict.offender == role,
                "turn_count": sum(turn.role == role for turn in self.state.turns),
                "reason": verdict.reason,
            }
            for player, role in enumerate(self.game.roles)
        }
        return {player: returns[role] for player, role in enumerate(self.game.roles)}, info


def to_textarena(game: Game, setup: Mapping[str, Any] | None = None) -> GameEnvironment:
    """A game as an environment with TextArena's methods."""
    return GameEnvironment(game, setup)


class ArenaGame:
    """An environment of TextArena as a game; its states are made anew by playing their words again.

    Args:
        name: of the game.
        make: gives a fresh environment.
        players: one or two.
        plies: the most utterances.
    """

    zero_sum = False

    def __init__(self, name: str, make: Callable[[], Environment], players: int = 2, plies: int = 200) -> None:
        if players not in (1, 2):
            raise ValueError(f"players: got {players}, need 1 or 2")
        self.name, self._make, self._plies = name, make, plies
        self.roles = tuple(f"player {player}" for player in range(players))

    def reset(self, setup: Mapping[str, Any], seed: int) -> State:
        return State(dict(setup), seed)

    def plies(self, s: State) -> int:
        return self._plies

    def to_move(self, s: State) -> str:
        _, _, player, _ = self._replay(s)
        return self.roles[player]

    def observe(self, s: State, role: str) -> list[Message]:
        """Everything that the environment has shown to the role; its own words are left to the environment."""
        _, told, _, _ = self._replay(s)
        return [Message("user", "\n".join(told[self.roles.index(role)]) or "The game begins.")]

    def step(self, s: State, text: str) -> State:
        return replace(s, turns=(*s.turns, Turn(self.to_move(s), text)))

    def verdict(self, s: State) -> Verdict | None:
        environment, _, _, done = self._replay(s)
        if not done:
            return None
        rewards, info = environment.close()
        size = len(s.turns)
        for player, role in enumerate(self.roles):
            known = (info or {}).get(player, {})
            if known.get("invalid_move"):
                return Verdict(f"{role} breaks the rules", size, str(known.get("reason", "")))
        best = [role for player, role in enumerate(self.roles) if (rewards or {}).get(player, 0) > 0]
        return Verdict(
            f"{best[0]} wins" if len(best) == 1 else TIED, size, str((info or {}).get(0, {}).get("reason", ""))
        )

    def returns(self, v: Verdict) -> dict[str, float]:
        winner = v.winner or next((role for role in self.roles if v.offender and role != v.offender), None)
        return {role: 0.0 if winner is None else 1.0 if role == winner else -1.0 for role in self.roles}

    def _replay(self, s: State) -> tuple[Environment, list[list[str]], int, bool]:
        """The environment behind the state's words, what each player was told, who moves, and whether it is over."""
        told: list[list[str]] = [[] for _ in self.roles]
        with _random_numbers_kept():  # the environments seed and draw from Python's global generator
            environment = self._make()
            environment.reset(num_players=len(self.roles), seed=s.seed)
            player, done = self._hear(environment, told), False
            for turn in s.turns:
                done, _ = environment.step(turn.text)
                if done:
                    break
                player = self._hear(environment, told)
        return environment, told, player, done

    @staticmethod
    def _hear(environment: Environment, told: list[list[str]]) -> int:
        player, news = environment.get_observation()
        if isinstance(news, str):  # wrapped environments tell one text
            told[player] = [news]
        else:
            told[player] += [text for _, text, *_ in news]
        return player


def from_textarena(env_id: str, players: int = 2, plies: int = 200) -> ArenaGame:
    """An environment of the package textarena as a game, such as "Nim-v0-raw".

    Raises:
        UserError: textarena is not installed, or has no such environment for so many players.
    """
    try:
        textarena = import_module("textarena")
    except ImportError as error:
        raise UserError("textarena is not installed: pip install textarena") from error
    game = ArenaGame(env_id, lambda: textarena.make(env_id), players, plies)
    try:
        game.to_move(game.reset({}, 0))
    except Exception as error:  # its environments raise whatever they like
        raise UserError(f"textarena: {env_id}: {' '.join(str(error).split())[:200]}") from error
    return game


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
