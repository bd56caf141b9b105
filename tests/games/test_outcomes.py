"""Counts of outcomes, by their own verdicts and by another referee."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tenfold.core.errors import UserError
from tenfold.games.game import Episode
from tenfold.games.outcomes import rejudged, tally


def test_both_referees_side_by_side(episode: Callable[..., Episode]) -> None:
    games = [
        episode(["school", "education", "", "hm"], "attacker wins", length=2, word="cat"),
        episode(["a", "b", "\u200b", "d"], "tied game", word="cat"),
        episode(["a"], "error", word="cat"),
    ]
    games[1] = replace(games[1], turns=(*games[1].turns[:3], replace(games[1].turns[3], finish="length")))
    own, strict = tally(games), tally(games, "strict")
    assert own.outcomes == {"attacker wins": 1, "tied game": 1, "error": 1}
    assert strict.outcomes == {"tied game": 2, "error": 1}
    assert (own.games, own.utterances, own.empty, own.cut) == (3, 7, 1, 1)
    assert own.empty_rate == pytest.approx(1 / 7) and own.mean_length == pytest.approx(7 / 3)
    assert strict.empty == 2 and own.reasons["error"] == 1
    assert strict.shares() == pytest.approx({"tied game": 2 / 3, "error": 1 / 3})
    assert rejudged(games[0], "official") == replace(games[0].verdict, reason="defender said the word", span=(3, 6))


def test_the_referees_judge_their_own_game_alone(episode: Callable[..., Episode]) -> None:
    game = episode(["a"], "tied game")
    for other in (
        replace(game, game="twenty_questions"),
        replace(game, setup={}),
        replace(game, setup={"max_turns": 5}),
    ):
        with pytest.raises(UserError, match="need adversarial_taboo with its target_word and max_turns"):
            rejudged(other, "strict")


def test_no_games() -> None:
    assert tally([]).empty_rate == tally([]).mean_length == 0
