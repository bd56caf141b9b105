"""How a set of games ended, by their own verdicts or by another referee."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tenfold.core.errors import UserError
from tenfold.games.game import ERROR, Episode, Verdict
from tenfold.games.referee import Rules, is_blank, judge


@dataclass
class Tally:
    """Counts over episodes.

    Attributes:
        outcomes: games by outcome.
        reasons: games by the rule that decided.
        games, utterances, empty, cut: in all; utterances within the games' lengths, those that say nothing, and those that
            were cut off at the most tokens.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    games: int = 0
    utterances: int = 0
    empty: int = 0
    cut: int = 0

    def add(self, episode: Episode, verdict: Verdict) -> None:
        """Count one game."""
        counted = episode.turns[: verdict.length]
        self.games += 1
        self.outcomes[verdict.outcome] += 1
        self.reasons[ERROR if verdict.outcome == ERROR else verdict.reason] += 1
        self.utterances += len(counted)
        self.empty += sum(is_blank(turn.text) for turn in counted)
        self.cut += sum(turn.finish == "length" for turn in counted)

    @property
    def empty_rate(self) -> float:
        """Share of utterances that say nothing."""
        return self.empty / max(1, self.utterances)

    @property
    def mean_length(self) -> float:
        """Utterances of a game."""
        return self.utterances / max(1, self.games)

    def shares(self) -> dict[str, float]:
        """Share of games by outcome, most frequent first."""
        return {outcome: count / self.games for outcome, count in self.outcomes.most_common()}


def tally(episodes: Iterable[Episode], rules: Rules | None = None) -> Tally:
    """Count games by outcome.

    Args:
        rules: judge games of Adversarial Taboo anew by these; None takes the verdicts as they are.
    """
    total = Tally()
    for episode in episodes:
        total.add(episode, episode.verdict if rules is None else rejudged(episode, rules))
    return total


def rejudged(episode: Episode, rules: Rules) -> Verdict:
    """The verdict of other rules on the same words; a game that broke down stays one.

    Raises:
        UserError: another game than Adversarial Taboo.
    """
    if episode.game != "adversarial_taboo" or not {"target_word", "max_turns"} <= set(episode.setup):
        raise UserError(
            f"game {episode.id}: got {episode.game}, need adversarial_taboo with its target_word and max_turns"
        )
    if episode.verdict.outcome == ERROR:
        return episode.verdict
    return judge(episode.turns, episode.setup["target_word"], episode.setup["max_turns"], rules)
