"""Adversarial Taboo: who is told what, when it ends, what it is worth."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tenfold.games.game import TIED, State, Verdict
from tenfold.games.taboo import AdversarialTaboo, TwoViews


def played(game: AdversarialTaboo, word: str, *texts: str) -> State:
    state = game.reset({"target_word": word})
    for text in texts:
        state = game.step(state, text)
    return state


@pytest.mark.parametrize("form", ["chat", "text"])
def test_the_defender_is_told_nothing_of_the_target(form: Any) -> None:
    """10 000 states in all: what the defender sees is the same whatever the word is."""
    game = AdversarialTaboo(form=form)
    draw = random.Random(0)
    for _ in range(2500):
        texts = ["".join(draw.choices("abc `{}\n", k=draw.randrange(12))) for _ in range(draw.randrange(10))]
        one, two = (played(game, word, *texts) for word in ("xylophone", "quixotic"))
        assert game.observe(one, "defender") == game.observe(two, "defender")
        assert "xylophone" not in str(game.observe(one, "defender"))
        assert "xylophone" in str(game.observe(one, "attacker"))


def test_a_chat_has_ones_own_words_as_the_assistants() -> None:
    game = AdversarialTaboo(max_turns=3)
    state = played(game, "apple", "a fruit", "pears?")
    attacker, defender = game.observe(state, "attacker"), game.observe(state, "defender")
    assert [message.role for message in attacker] == ["system", "user", "assistant", "user"]
    assert [message.role for message in defender] == ["system", "user", "assistant"]
    assert [message.content for message in defender[1:]] == ["a fruit", "pears?"]
    assert "`apple`" in attacker[0].content and "3 turns" in attacker[0].content


def test_the_paper_s_form_of_a_prompt() -> None:
    game = AdversarialTaboo(form="text")
    (start,) = game.observe(played(game, "apple"), "attacker")
    rules, asked = start.content.split("\nThe game has just started.")
    assert asked == f"\n\n### Instruction: {game.pack.asked('attacker', 'apple')}\n\n### Response:"
    (later,) = game.observe(played(game, "apple", "a {role}"), "defender")
    history = "\n### Game History:\n  - attacker: a {role}"
    assert later.content == f"{rules}{history}\n\n### Instruction: {game.pack.asked('defender', None)}\n\n### Response:"


def test_it_ends_at_the_verdict_or_the_last_turn() -> None:
    game = AdversarialTaboo(max_turns=2)
    assert game.verdict(played(game, "apple")) is None
    assert game.verdict(played(game, "apple", "a", "b", "c")) is None
    tied = game.verdict(played(game, "apple", "a", "b", "c", "d"))
    assert tied is not None and (tied.outcome, tied.length) == (TIED, 4)
    won = game.verdict(played(game, "apple", "a", "an apple"))
    assert won is not None and won.winner == "attacker"


@pytest.mark.parametrize(
    ("options", "outcome", "attacker"),
    [
        ({}, "attacker wins", 1),
        ({}, "defender wins", -1),
        ({}, "tied game", 0),
        ({}, "error", 0),
        ({}, "attacker breaks the rules", 0),
        ({"rules": "strict"}, "attacker breaks the rules", -1),
        ({"rules": "strict", "invalid_policy": "discard"}, "attacker breaks the rules", 0),
        ({"invalid_policy": "defender_wins"}, "attacker breaks the rules", -1),
    ],
)
def test_returns(options: dict[str, Any], outcome: str, attacker: float) -> None:
    assert AdversarialTaboo(**options).returns(Verdict(outcome, 1)) == {"attacker": attacker, "defender": -attacker}


@pytest.mark.parametrize(
    ("options", "setup", "message"),
    [
        ({"max_turns": 0}, {}, "max_turns: got 0"),
        ({"rules": "own"}, {}, "rules: got 'own'"),
        ({"form": "poem"}, {}, "form: got 'poem', need one of chat, text"),
        ({"invalid_policy": "x"}, {}, "invalid_policy: got 'x'"),
        ({}, {}, "target: got 'None'"),
        ({}, {"target_word": "a", "word": "b"}, "setup: got word"),
        ({}, {"target_word": "a", "max_turns": "5"}, "max_turns: got '5'"),
        ({}, {"target_word": "a", "rules": "x"}, "rules: got 'x'"),
    ],
)
def test_bad_settings(options: dict[str, Any], setup: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialTaboo(**options).reset(setup)


def test_only_its_own_roles_are_told_something() -> None:
    game = AdversarialTaboo()
    with pytest.raises(ValueError, match="role: got 'judge', need attacker or defender"):
        game.observe(played(game, "apple"), "judge")


def test_players_may_be_told_in_different_forms() -> None:
    chat, text = AdversarialTaboo(3), AdversarialTaboo(3, form="text")
    game = TwoViews({"attacker": chat, "defender": text}, "strict")
    state = game.step(game.reset({"target_word": "apple"}), "hm")
    assert game.observe(state, "attacker") == chat.observe(state, "attacker")
    assert game.observe(state, "defender") == text.observe(state, "defender")
    assert state.setup == {"max_turns": 3, "rules": "strict", "target_word": "apple"}
    assert game.returns(Verdict("attacker breaks the rules", 1)) == {"attacker": -1.0, "defender": 1.0}
    with pytest.raises(ValueError, match="role: got 'judge'"):
        game.observe(state, "judge")
    with pytest.raises(ValueError, match="views: got attacker, need attacker, defender"):
        TwoViews({"attacker": chat})
