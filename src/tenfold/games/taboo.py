"""Adversarial Taboo: the attacker wants the defender to say a word unawares, the defender wants to guess it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.games.game import InvalidPolicy, State, Turn, Verdict, register_game
from tenfold.games.prompts import DEFAULT_PACK, PromptPack
from tenfold.games.referee import ROLES, Rules, check_target, check_turns, judge
from tenfold.text.messages import Message


@register_game("adversarial_taboo")
class AdversarialTaboo:
    """Source: Cheng et al. 2024, arXiv 2404.10642 (after Yao et al. 2019, arXiv 1911.01622).

    A setup is `{"target_word"}`; "max_turns" and "rules" in it come before those given here.

    Args:
        max_turns: T0, utterances of each side.
        rules: of the referee, see `judge`.
        pack: the wording of the prompts: a pack or its file.
        form: "chat" tells a player the rules as system turn and the history as turns of a chat; "text" as one text,
            the form of the paper.
        invalid_policy: what an attacker who breaks the rules is worth: "discard" nothing to both, "defender_wins" a
            lost game. None takes "discard" under the official rules and "defender_wins" under the strict ones.
    """

    name = "adversarial_taboo"
    roles: tuple[str, ...] = ROLES
    zero_sum = True
    about = (
        "The attacker knows a secret word and wants the defender to say it unawares; an attacker who says it breaks the "
        "rules. The defender may guess the word once: right wins, wrong loses. With neither before the turns are used "
        "up the game is tied."
    )

    def __init__(
        self,
        max_turns: int = 5,
        rules: Rules = "official",
        pack: PromptPack | str | Path = DEFAULT_PACK,
        form: Literal["chat", "text"] = "chat",
        invalid_policy: InvalidPolicy | None = None,
    ) -> None:
        check_turns(max_turns)
        for name, value, known in (("rules", rules, get_args(Rules)), ("form", form, ("chat", "text"))):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, need one of {', '.join(known)}")
        if invalid_policy is not None and invalid_policy not in get_args(InvalidPolicy):
            raise ValueError(
                f"invalid_policy: got {invalid_policy!r}, need one of {', '.join(get_args(InvalidPolicy))}"
            )
        self.max_turns, self.rules = max_turns, rules
        self.form: Literal["chat", "text"] = form
        self.pack = pack if isinstance(pack, PromptPack) else PromptPack.load(pack)
        self.invalid_policy = invalid_policy or ("discard" if rules == "official" else "defender_wins")

    def reset(self, setup: Mapping[str, Any], seed: int = 0) -> State:
        """The state before the attacker's first word."""
        if unknown := set(setup) - {"target_word", "max_turns", "rules"}:
            raise ValueError(f"setup: got {', '.join(sorted(unknown))}, need target_word, max_turns, rules")
        check_target(setup.get("target_word"))
        whole = {"max_turns": self.max_turns, "rules": self.rules, **setup}
        judge((), **_of_judge(whole))  # checks the rest
        return State(whole, seed)

    def plies(self, s: State) -> int:
        return 2 * int(s.setup["max_turns"])

    def to_move(self, s: State) -> str:
        return ROLES[len(s.turns) % 2]

    def observe(self, s: State, role: str) -> list[Message]:
        """The rules, the history, and to the attacker the target word."""
        if role not in ROLES:
            raise ValueError(f"role: got {role!r}, need {' or '.join(ROLES)}")
        target = s.setup["target_word"] if role == "attacker" else None
        if self.form == "chat":
            return self.pack.chat(s.turns, role, s.setup["max_turns"], target)
        return [Message("user", self.pack.text(s.turns, role, s.setup["max_turns"], target))]

    def step(self, s: State, text: str) -> State:
        return replace(s, turns=(*s.turns, Turn(self.to_move(s), text)))

    def verdict(self, s: State) -> Verdict | None:
        verdict = judge(s.turns, **_of_judge(s.setup))
        return None if verdict.reason == "history ends early" else verdict

    def returns(self, v: Verdict) -> dict[str, float]:
        winner = v.winner or ("defender" if v.offender and self.invalid_policy == "defender_wins" else None)
        attacker = {"attacker": 1.0, "defender": -1.0}.get(winner or "", 0.0)
        return {"attacker": attacker, "defender": -attacker}


class TwoViews(AdversarialTaboo):
    """A game whose players are told of it in different wordings or forms, as each of them knows it.

    Args:
        views: role to the game as that player knows it; the attacker's decides all but the rules.
        rules: of the referee.
    """

    def __init__(self, views: Mapping[str, AdversarialTaboo], rules: Rules = "official") -> None:
        if set(views) != set(ROLES):
            raise ValueError(f"views: got {', '.join(sorted(views)) or 'none'}, need {', '.join(ROLES)}")
        first = views["attacker"]
        super().__init__(first.max_turns, rules, first.pack, first.form)
        self.views = dict(views)

    def observe(self, s: State, role: str) -> list[Message]:
        return self.views[role].observe(s, role) if role in ROLES else super().observe(s, role)


def _of_judge(setup: Mapping[str, Any]) -> dict[str, Any]:
    return {"target": setup["target_word"], "max_turns": setup["max_turns"], "rules": setup["rules"]}
