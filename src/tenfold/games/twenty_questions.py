"""Twenty questions: one side asks about a word that the other knows, which answers yes or no."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tenfold.games.game import State, Turn, Verdict, register_game
from tenfold.games.prompts import GUESS
from tenfold.games.referee import check_target, check_turns, strict_finding
from tenfold.text.messages import Message

NOT_FOUND = "word not found"

_ANSWER = re.compile(r"\W*(?:yes|no|maybe|sometimes|unknown)\b", re.IGNORECASE)


@register_game("twenty_questions")
class TwentyQuestions:
    """The guesser wins by naming the word; a wrong guess, or no guess in time, leaves it unfound.

    Both sides want the word to be found, since no referee of texts could tell a false answer. A setup is
    `{"target_word"}`, and "max_turns" before what is given here.

    Args:
        max_turns: utterances of each side.
    """

    name = "twenty_questions"
    roles: tuple[str, ...] = ("guesser", "answerer")
    zero_sum = False
    about = (
        "The answerer knows a secret word and answers with yes or no; the guesser asks, and may name the word once. Both "
        "want it to be found."
    )

    def __init__(self, max_turns: int = 20) -> None:
        check_turns(max_turns)
        self.max_turns = max_turns

    def reset(self, setup: Mapping[str, Any], seed: int = 0) -> State:
        """The state before the first question."""
        if unknown := set(setup) - {"target_word", "max_turns"}:
            raise ValueError(f"setup: got {', '.join(sorted(unknown))}, need target_word, max_turns")
        whole = {"max_turns": self.max_turns, **setup}
        check_target(whole.get("target_word"))
        check_turns(whole["max_turns"])
        return State(whole, seed)

    def plies(self, s: State) -> int:
        return 2 * int(s.setup["max_turns"])

    def to_move(self, s: State) -> str:
        return self.roles[len(s.turns) % 2]

    def observe(self, s: State, role: str) -> list[Message]:
        """The rules and the talk so far; to the answerer also the word."""
        if role == "guesser":
            told = (
                f"Find a secret word with at most {s.setup['max_turns']} questions that can be answered by yes or no. "
                f'When you are sure, say "{GUESS.format(word="target word")}"; a wrong guess ends the game.'
            )
        elif role == "answerer":
            told = (
                f"Somebody asks about the secret word `{s.setup['target_word']}`. Answer every question truthfully, "
                "beginning with yes, no, maybe, sometimes or unknown, and never say the word."
            )
        else:
            raise ValueError(f"role: got {role!r}, need {' or '.join(self.roles)}")
        messages = [Message("system", told)]
        if not s.turns or s.turns[0].role == role:
            messages.append(Message("user", "The game begins."))
        return messages + [Message("assistant" if turn.role == role else "user", turn.text) for turn in s.turns]

    def step(self, s: State, text: str) -> State:
        return replace(s, turns=(*s.turns, Turn(self.to_move(s), text)))

    def verdict(self, s: State) -> Verdict | None:
        for index, turn in enumerate(s.turns):
            found = strict_finding(turn.text, s.setup["target_word"])
            if turn.role == "guesser" and found.guess is not None:
                outcome = "guesser wins" if found.correct else NOT_FOUND
                return Verdict(outcome, index + 1, f"guessed {'right' if found.correct else 'wrong'}", found.guess)
            if turn.role == "answerer" and found.mention is not None:
                return Verdict("answerer breaks the rules", index + 1, "answerer said the word", found.mention)
            if turn.role == "answerer" and not _ANSWER.match(turn.text):
                evidence = (0, len(turn.text))
                return Verdict("answerer breaks the rules", index + 1, "no yes or no", evidence)
        return Verdict(NOT_FOUND, len(s.turns), "turns used up") if len(s.turns) >= self.plies(s) else None

    def returns(self, v: Verdict) -> dict[str, float]:
        if v.offender == "answerer":
            return {"guesser": 0.0, "answerer": -1.0}
        shared = {"guesser wins": 1.0, NOT_FOUND: -1.0}.get(v.outcome, 0.0)
        return {"guesser": shared, "answerer": shared}
