"""The nouns of turn-based language games, and the register of the games that are known.

A game is a set of pure functions of a `State`: its setup, its seed and what was said. Whoever plays, stores, compares or
shows games (`self_play`, `store`, `tournament`, `viewer`) knows this protocol only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError
from tenfold.text.messages import Message

TIED = "tied game"
ERROR = "error"

InvalidPolicy = Literal["discard", "defender_wins"]  # what a game that ends by a foul is worth

G = TypeVar("G", bound=type)


@dataclass(frozen=True)
class Turn:
    """One utterance.

    Args:
        role: who spoke.
        text: what was said.
        n_prompt, n_new: tokens read and made for it, where a model made it.
        logprob_sum: Σ ln p of its tokens at temperature 1, where asked for.
        finish: why it ended ("stop", "length", …).
        token_ids, logprobs: its tokens and ln p of each, where asked for.
    """

    role: str
    text: str
    n_prompt: int = 0
    n_new: int = 0
    logprob_sum: float | None = None
    finish: str = "stop"
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class State:
    """Where a game stands. `setup` is JSON: what is fixed before the first word, such as the target and the rules."""

    setup: Mapping[str, Any]
    seed: int = 0
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """How a game ended.

    Args:
        outcome: "<role> wins", "<role> breaks the rules", "tied game", "error", or a game's own word.
        length: utterances up to and with the decisive one; later ones do not count.
        reason: the rule that decided.
        span: characters of the decisive utterance that are the evidence, [start, end).
    """

    outcome: str
    length: int
    reason: str = ""
    span: tuple[int, int] | None = None

    @property
    def winner(self) -> str | None:
        """The role that wins, by the rules of the game and not by a foul of another."""
        return self.outcome.removesuffix(" wins") if self.outcome.endswith(" wins") else None

    @property
    def offender(self) -> str | None:
        """The role that breaks the rules."""
        foul = " breaks the rules"
        return self.outcome.removesuffix(foul) if self.outcome.endswith(foul) else None


class Game(Protocol):
    """A turn-based text game; all methods are pure."""

    name: str
    roles: tuple[str, ...]
    zero_sum: bool

    def reset(self, setup: Mapping[str, Any], seed: int) -> State:
        """The state before the first word, with every choice of the game written into its setup."""
        ...

    def plies(self, s: State) -> int:
        """The most utterances that a game has."""
        ...

    def to_move(self, s: State) -> str:
        """The role that speaks next."""
        ...

    def observe(self, s: State, role: str) -> list[Message]:
        """What a role is told before it speaks: only what it may know."""
        ...

    def step(self, s: State, text: str) -> State:
        """The state after the role to move has said `text`."""
        ...

    def verdict(self, s: State) -> Verdict | None:
        """How the game ended; None while it goes on."""
        ...

    def returns(self, v: Verdict) -> dict[str, float]:
        """What the verdict is worth to each role, in -1..1; they sum to 0 where `zero_sum`."""
        ...


@dataclass(frozen=True)
class Episode:
    """A finished game.

    Args:
        id: of game, setup, seed and repeat, see `episode_id`.
        game: its registered name.
        setup, seed: of its first state.
        speakers: role to the name of the model that played it.
        turns: what was said.
        verdict: how it ended.
    """

    id: str
    game: str
    setup: Mapping[str, Any]
    seed: int
    speakers: Mapping[str, str]
    turns: tuple[Turn, ...]
    verdict: Verdict

    def state(self, ply: int | None = None) -> State:
        """The state before utterance `ply`; without one, after the last."""
        return State(self.setup, self.seed, self.turns[:ply])


def episode_id(game: str, setup: Mapping[str, Any], seed: int, repeat: int = 0) -> str:
    """The name of an episode: a hash of what decides it, but for the speakers.

    Args:
        repeat: which of several games with the same setup and seed.
    """
    key = json.dumps([game, setup, seed, repeat], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def keyed_seed(*parts: object) -> int:
    """A seed of 62 bits that depends on the parts' text alone, such as (seed, id, ply)."""
    digest = hashlib.blake2b("\0".join(map(repr, parts)).encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 2


def as_turn(turn: Turn | Mapping[str, Any], where: str = "history") -> Turn:
    """A turn, also from `{"role", "content"}` as official files write it.

    Raises:
        ValueError: other fields.
    """
    if isinstance(turn, Turn):
        return turn
    if not isinstance(turn, Mapping) or not all(isinstance(turn.get(name), str) for name in ("role", "content")):
        raise ValueError(f"{where}: got {str(turn)[:80]!r}, need role and content, both text")
    return Turn(turn["role"], turn["content"])


def in_order(turns: Sequence[Turn], roles: Sequence[str], where: str = "history") -> None:
    """Check that roles speak in turn. Raises ValueError naming the first utterance where they do not."""
    for index, turn in enumerate(turns):
        wanted = roles[index % len(roles)]
        if turn.role != wanted:
            raise ValueError(f"{where}: utterance {index + 1}: got role {turn.role!r}, need {wanted!r}")


_GAMES: dict[str, Callable[..., Game]] = {}
_BUILT_IN = {"adversarial_taboo": "taboo", "twenty_questions": "twenty_questions"}


def register_game(name: str) -> Callable[[G], G]:
    """Class decorator: make a game known by `name`, under which its episodes are stored."""

    def register(cls: G) -> G:
        cls.name = name  # type: ignore[attr-defined]
        _GAMES[name] = cast(Callable[..., Game], cls)
        return cls

    return register


def make_game(name: str, **options: Any) -> Game:
    """A registered game with its options.

    Raises:
        UserError: unknown name.
    """
    made = _registered(name)
    if made is None:
        known = list_games()
        raise UserError(f"game: got {name!r}, need one of {', '.join(known)}{did_you_mean(name, known)}")
    return made(**options)


def about_game(name: str) -> str:
    """What a game is about, for someone who has never seen it: the `about` of its class, or nothing."""
    return str(getattr(_registered(name), "about", ""))


def _registered(name: str) -> Callable[..., Game] | None:
    if name in _BUILT_IN and name not in _GAMES:
        from importlib import import_module

        import_module(f"tenfold.games.{_BUILT_IN[name]}")  # registers it
    return _GAMES.get(name)


def list_games() -> list[str]:
    """Names of all registered games."""
    return sorted({*_GAMES, *_BUILT_IN})
