"""The second game: its ends, and what each side is told."""

from __future__ import annotations

import pytest

from tenfold.games.game import State
from tenfold.games.twenty_questions import NOT_FOUND, TwentyQuestions


def played(*texts: str, max_turns: int = 2) -> State:
    game = TwentyQuestions(max_turns)
    state = game.reset({"target_word": "apple"})
    for text in texts:
        state = game.step(state, text)
    return state


@pytest.mark.parametrize(
    ("texts", "outcome", "length"),
    [
        (("Is it alive?", "No."), None, None),
        (("Is it alive?", "No.", "I know the word! It is `apple`!"), "guesser wins", 3),
        (("I know the word! It is an apple",), "guesser wins", 1),
        (("Is it a fruit, an apple?", "Yes, I think so."), None, None),  # naming is no guess
        (("I know the word! It is `pear`!",), NOT_FOUND, 1),
        (("Is it alive?", "the apple tree is"), "answerer breaks the rules", 2),
        (("Is it alive?", "Well…"), "answerer breaks the rules", 2),
        (("Is it alive?", "«no»", "Is it red?", "MAYBE"), NOT_FOUND, 4),
    ],
)
def test_ends(texts: tuple[str, ...], outcome: str | None, length: int | None) -> None:
    verdict = TwentyQuestions().verdict(played(*texts))
    assert (verdict and verdict.outcome) == outcome
    assert (verdict and verdict.length) == length


def test_both_sides_want_the_word_found() -> None:
    game = TwentyQuestions()
    for text, worth in (("I know the word! It is `apple`!", 1.0), ("I know the word! It is `fig`!", -1.0)):
        verdict = game.verdict(played(text))
        assert verdict is not None and game.returns(verdict) == {"guesser": worth, "answerer": worth}
    foul = game.verdict(played("Is it red?", "An apple is."))
    assert foul is not None and game.returns(foul) == {"guesser": 0.0, "answerer": -1.0}


def test_only_the_answerer_is_told_the_word() -> None:
    game = TwentyQuestions()
    state = played("Is it red?", "Yes.")
    assert "apple" not in str(game.observe(state, "guesser"))
    assert "`apple`" in game.observe(state, "answerer")[0].content
    assert [message.role for message in game.observe(state, "guesser")] == ["system", "user", "assistant", "user"]
    with pytest.raises(ValueError, match="role: got 'attacker', need guesser or answerer"):
        game.observe(state, "attacker")


def test_bad_setups() -> None:
    with pytest.raises(ValueError, match="target: got 'None'"):
        TwentyQuestions().reset({})
    with pytest.raises(ValueError, match="setup: got rules"):
        TwentyQuestions().reset({"target_word": "a", "rules": "strict"})
    with pytest.raises(ValueError, match="max_turns: got 0"):
        TwentyQuestions().reset({"target_word": "a", "max_turns": 0})
