"""Prompts to learn from: their layouts, their variety, their independence of order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tenfold.games.game import Episode
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.training_prompts import PlayedPrompts, RandomisedPrompts


def test_every_layout_has_rules_history_and_instruction(episode: Callable[..., Episode]) -> None:
    prompts = RandomisedPrompts()
    names: Counter[str] = Counter()
    starts: Counter[str] = Counter()
    for repeat in range(600):
        game = episode(["it grows", "a plant?", "on trees", "apple"], "attacker wins", repeat=repeat)
        for ply, turn in enumerate(game.turns):
            text = prompts(game, ply)
            assert text == prompts(game, ply)
            assert ("apple" in text) == (turn.role == "attacker")
            assert "5 t" in text and "{" not in text  # "5 turns", "5 times"
            said = [text.index(before.text) for before in game.turns[:ply]]
            assert said == sorted(said)
            assert all(later.text not in text for later in game.turns[ply:-1])
            assert text.endswith(": ")
            names[text.removesuffix(": ").rsplit("\n", 1)[-1].lstrip(" -#*")] += 1
            starts["rules" if text.split("\n\n")[0] else "prefix"] += 1
    assert {"attacker", "defender", "Assistant", "Answer", "Response", "A"} <= set(names)
    assert 0.05 < sum(count for name, count in names.items() if len(name) > 12) / 2400 < 0.09  # 1/3 x 1/5
    assert 0.3 < starts["rules"] / 2400 < 0.37  # alpaca is a third


def test_wordings_depend_on_seed_and_place(episode: Callable[..., Episode]) -> None:
    game = episode(["a", "b", "c", "d"], "tied game")
    assert RandomisedPrompts(seed=0)(game, 3) != RandomisedPrompts(seed=1)(game, 3)
    openings = {RandomisedPrompts()(episode(["a"], "tied game", repeat=i), 0) for i in range(50)}
    assert len(openings) > 40


def test_played_prompts_are_what_the_player_saw(episode: Callable[..., Episode]) -> None:
    game = episode(["a", "b", "c"], "tied game")
    taboo = AdversarialTaboo()
    assert PlayedPrompts(taboo)(game, 2) == tuple(taboo.observe(game.state(2), "attacker"))
