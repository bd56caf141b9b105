"""From verdicts to what is learned: rewards of utterances, and weights that balance the sides."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from tenfold.core.errors import UserError
from tenfold.games.game import ERROR, Episode, InvalidPolicy, make_game
from tenfold.games.training_prompts import PlayedPrompts, RandomisedPrompts
from tenfold.text.messages import Message

Credit = Literal["winner", "zero_sum"]
Query = str | tuple[Message, ...]
Prompts = Callable[[Episode, int], Query]

LOPSIDED = 0.95


@dataclass(frozen=True)
class GameRow:
    """One utterance to learn from.

    Args:
        query: what the player was told, as text or as a chat.
        target: what it said.
        reward: of the utterance.
        role: who said it; "" for rows of supervised fine-tuning.
        weight: of the row in the loss.
        sft: a row of supervised fine-tuning, which has no reward.
    """

    query: Query
    target: str
    reward: float = 0.0
    role: str = ""
    weight: float = 1.0
    sft: bool = False


def utterance_rewards(count: int, gamma: float = 0.8) -> list[float]:
    """r_k = γ^(K-k) / Σ_j γ^(K-j) for k = 1..K: the last utterances count most, together 1.

    Source: Cheng et al. 2024; equals (1-γ) γ^(K-k) / (1-γ^K).
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma: got {gamma}, need a number in (0, 1]")
    powers = [gamma ** (count - k) for k in range(1, count + 1)]
    total = sum(powers)
    return [power / total for power in powers]


def side_weights(wins: Counter[str], roles: Sequence[str]) -> dict[str, float]:
    """N / (R · N_role): every role that won weighs as much in all; 0 for one that never did.

    Args:
        wins: games won by each role.
        roles: all R roles.
    """
    total = sum(wins[role] for role in roles)
    return {role: total / (len(roles) * wins[role]) if wins[role] else 0.0 for role in roles}


def assign_credit(
    episodes: Iterable[Episode],
    gamma: float = 0.8,
    credit: Credit = "winner",
    balance: bool = True,
    *,
    prompts: Prompts | None = None,
    invalid_policy: InvalidPolicy = "discard",
    tie_reward: float = 0.0,
    max_weight: float | None = None,
) -> list[GameRow]:
    """The utterances that count, with their rewards.

    Args:
        episodes: finished games; what was said behind the verdict is left out.
        gamma: γ of `utterance_rewards`.
        credit: "winner" learns from the winner alone; "zero_sum" also from the loser, with -r_k.
        balance: weigh a game by the side that won it, so that both sides' wins count alike.
        prompts: the query of (episode, ply). None: `RandomisedPrompts` for Adversarial Taboo, else `PlayedPrompts`.
        invalid_policy: games that end by a foul: "discard" leaves them out, "defender_wins" gives them to the other side.
        tie_reward: both sides of a tied game get this times r_k; 0 leaves ties out.
        max_weight: the most that a row may weigh.
    Raises:
        ValueError: settings out of range. UserError: no game that teaches anything.
    """
    if credit not in get_args(Credit) or invalid_policy not in get_args(InvalidPolicy):
        raise ValueError(f"credit, invalid_policy: got {credit!r}, {invalid_policy!r}, need known ones")
    if max_weight is not None and not max_weight > 0:
        raise ValueError(f"max_weight: got {max_weight}, need a number > 0")
    utterance_rewards(0, gamma)  # checks
    tally = _Tally()
    games = [
        (episode, winner)
        for episode in episodes
        if (winner := tally.read(episode, invalid_policy, tie_reward)) is not None
    ]
    if not games:
        raise UserError(
            f"0 of {tally.games} games decisive: nothing to learn; ties {tally.ties}, invalid {tally.invalid}"
        )
    weights = side_weights(tally.wins, tally.roles) if balance else {}
    tally.warn()
    rows, empty = [], 0
    for episode, winner in games:
        weight = weights.get(winner, 1.0)
        for ply, reward in episode_rewards(episode, winner, gamma, credit, tie_reward):
            said = episode.turns[ply]
            if not said.text.strip():
                empty += 1
                continue
            query = (prompts or default_prompts(episode.game))(episode, ply)
            rows.append(GameRow(query, said.text.strip(), reward, said.role, min(weight, max_weight or weight)))
    if empty:
        warnings.warn(f"{empty} utterances say nothing; they are left out", stacklevel=2)
    return rows


@lru_cache
def default_prompts(game: str) -> Prompts:
    """What a game learns from unless told otherwise."""
    return RandomisedPrompts() if game == "adversarial_taboo" else PlayedPrompts(make_game(game))


@dataclass
class _Tally:
    games: int = 0
    ties: int = 0
    invalid: int = 0
    wins: Counter[str] = field(default_factory=Counter)
    roles: tuple[str, ...] = ()

    def read(self, episode: Episode, invalid_policy: InvalidPolicy, tie_reward: float) -> str | None:
        """The role that wins the episode, "" for a tie that counts, None where nothing is learned."""
        verdict = episode.verdict
        self.games += 1
        self.roles = tuple(episode.speakers)
        winner = verdict.winner
        if verdict.offender is not None:
            self.invalid += 1
            if invalid_policy == "defender_wins":
                (winner,) = (role for role in self.roles if role != verdict.offender)
        elif winner is None and verdict.outcome != ERROR:
            self.ties += 1
            return "" if tie_reward else None
        if winner is not None:
            self.wins[winner] += 1
        return winner

    def warn(self) -> None:
        total = sum(self.wins.values())
        for role in self.roles:
            if total and self.wins[role] == 0:
                warnings.warn(
                    f"{role} won none of {total} decisive games: nothing is learned from its side", stacklevel=3
                )
            elif LOPSIDED * total < self.wins[role] < total:
                warnings.warn(
                    f"{role} won {self.wins[role]} of {total} decisive games: the few others weigh much; see max_weight",
                    stacklevel=3,
                )


def episode_rewards(
    episode: Episode, winner: str, gamma: float = 0.8, credit: Credit = "winner", tie_reward: float = 0.0
) -> list[tuple[int, float]]:
    """(ply, reward) of every utterance that counts, in their order; winner "" is a tie."""
    counted = episode.turns[: episode.verdict.length]
    found = []
    for role in episode.speakers:
        plies = [ply for ply, turn in enumerate(counted) if turn.role == role]
        sign = tie_reward if not winner else 1.0 if role == winner else -1.0
        if role == winner or credit == "zero_sum" or not winner:
            found += [(ply, sign * r) for ply, r in zip(plies, utterance_rewards(len(plies), gamma), strict=True)]
    return sorted(found)
