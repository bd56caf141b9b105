"""The arena: counts by hand, intervals, paired differences, ratings, pages."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import UserError
from tenfold.games.self_play import Speaker
from tenfold.games.store import TranscriptStore
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.tournament import ArenaResult, Cell, arena
from tenfold.games.twenty_questions import TwentyQuestions
from tenfold.text.chat import ScriptedChatModel
from tenfold.text.endpoint_errors import EndpointError
from tenfold.text.messages import Message, Reply, Sampling


def says(text: str) -> ScriptedChatModel:
    return ScriptedChatModel(lambda messages, sampling, index: text, text)


class Dead:
    name = "dead"

    async def complete(self, messages: Sequence[Message], sampling: Sampling, n: int = 1) -> list[Reply]:
        raise EndpointError("no answer after 6 tries")


WORDS = ["apple", "pear", "oak"]
ATTACKERS: dict[str, Speaker] = {"quiet": says("hm"), "leaky": says("an apple")}
DEFENDERS: dict[str, Speaker] = {
    "guesser": says("I know the word! It is `apple`!"),
    "chatty": says("pear and oak"),
    "mute": says("ha"),
}


def test_cells_by_hand(tmp_path: Path) -> None:
    result = arena(ATTACKERS, DEFENDERS, WORDS, 0, folder=tmp_path)
    counts = {
        pair: (cell.count(1), cell.count(-1), cell.count(0), cell.invalid, cell.n)
        for pair, cell in result.cells.items()
    }
    assert counts == {
        ("quiet", "guesser"): (2, 1, 0, 0, 3),
        ("quiet", "chatty"): (2, 0, 1, 0, 3),
        ("quiet", "mute"): (0, 0, 3, 0, 3),
        ("leaky", "guesser"): (2, 1, 0, 1, 3),
        ("leaky", "chatty"): (2, 1, 0, 1, 3),
        ("leaky", "mute"): (0, 1, 2, 1, 3),
    }
    cell = result.cells["quiet", "mute"]
    assert cell.win_rate is None and cell.mean_return == 0
    assert result.cells["leaky", "mute"].mean_return == pytest.approx(-1 / 3)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {f"{a}--{d}.jsonl" for a in ATTACKERS for d in DEFENDERS}
    silent: dict[str, Speaker] = {"quiet": Dead()}
    assert (
        arena(silent, {"mute": Dead()}, WORDS, 0, folder=tmp_path).cells["quiet", "mute"] == cell
    )  # nothing is played again
    assert len(TranscriptStore(tmp_path / "quiet--mute.jsonl", read_only=True)) == 3


def test_a_foul_is_a_loss_whatever_the_policy() -> None:
    game = AdversarialTaboo(rules="official")  # whose returns discard it
    cell = arena({"leaky": says("an apple")}, {"mute": says("ha")}, WORDS, 0, game=game).cells["leaky", "mute"]
    assert (cell.count(-1), cell.invalid) == (1, 1)


def test_the_win_rate_has_wilson_s_interval() -> None:
    cell = Cell((1,) * 7 + (-1,) * 3 + (0,) * 5, (False,) * 15)
    assert cell.win_rate is not None
    z, p, n = 1.959963984540054, 0.7, 10
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert cell.win_rate.value == pytest.approx(0.7)
    assert cell.win_rate.ci95 == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert cell.mean_return == pytest.approx(4 / 15)


def test_words_that_come_several_times_are_drawn_with_all_their_games() -> None:
    """Ten words of which one side always wins five: ten games on each say no more than one."""
    alike = tuple(1 if word % 2 else -1 for word in range(10) for _ in range(10))
    one, ten = Cell(alike[::10], (False,) * 10), Cell(alike, (False,) * 100, 10)
    assert one.win_rate is not None and ten.win_rate is not None
    assert ten.win_rate.value == 0.5
    assert ten.win_rate.high - ten.win_rate.low == pytest.approx(one.win_rate.high - one.win_rate.low, abs=0.1)
    assert Cell((0,) * 4, (False,) * 4, 2).win_rate is None


def test_repeats_are_other_games_on_the_same_words_and_are_not_played_again(tmp_path: Path) -> None:
    def speak(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        return f"word {sampling.seed}"

    talker = ScriptedChatModel(speak, "talker")
    arguments: dict[str, Any] = {"game": AdversarialTaboo(1), "repeats": 3, "folder": tmp_path}
    cell = arena({"a": talker}, {"d": talker}, WORDS, 0, **arguments).cells["a", "d"]
    games = list(TranscriptStore(tmp_path / "a--d.jsonl", read_only=True))
    assert cell.repeats == 3 and cell.n == len(games) == 3 * len(WORDS)
    assert len({game.turns[0].text for game in games}) == len(games)
    assert arena({"a": Dead()}, {"d": Dead()}, WORDS, 0, **arguments).cells["a", "d"] == cell
    with pytest.raises(ValueError, match="repeats: got 0"):
        arena({"a": talker}, {"d": talker}, WORDS, 0, repeats=0)


def test_differences_are_paired_over_words() -> None:
    draw = np.random.default_rng(0)
    base = draw.choice([-1, 1], 200)
    better = np.where(draw.random(200) < 0.3, 1, base)
    cells = {
        ("old", "d"): Cell(tuple(base.tolist()), (False,) * 200),
        ("new", "d"): Cell((*better[:-1].tolist(), None), (False,) * 200),
    }
    result = ArenaResult(("attacker", "defender"), cells)
    found = result.difference("attacker", "new", "old")
    assert found.value == pytest.approx((better[:-1] - base[:-1]).mean())
    assert 0 < found.low < found.value < found.high
    flipped = ArenaResult(("attacker", "defender"), {(d, a): cell for (a, d), cell in cells.items()})
    mirrored = flipped.difference("defender", "new", "old")
    assert mirrored.value == pytest.approx(-found.value)
    with pytest.raises(ValueError, match="role: got 'judge'"):
        result.difference("judge", "new", "old")
    with pytest.raises(ValueError, match="need names that met the same opponents"):
        result.difference("attacker", "new", "none")


def test_ratings_find_the_strengths_again() -> None:
    strength = {"attacker": {"a": 1700.0, "b": 1500.0}, "defender": {"x": 1600.0, "y": 1200.0}}
    draw = np.random.default_rng(1)
    cells = {}
    for a, mine in strength["attacker"].items():
        for d, other in strength["defender"].items():
            won = draw.random(4000) < 1 / (1 + 10 ** ((other - mine) / 400))
            cells[a, d] = Cell(tuple(np.where(won, 1, -1).tolist()), (False,) * 4000)
    ratings = ArenaResult(("attacker", "defender"), cells).elo()
    for role, known in strength.items():
        assert ratings[role] == pytest.approx(known, abs=20)
    one_sided = ArenaResult(("attacker", "defender"), {("a", "d"): Cell((1,) * 50, (False,) * 50)}).elo()
    assert 1500 < one_sided["attacker"]["a"] < 2500


def test_tables_and_pages_escape_their_names(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    result = arena({evil: says("hm")}, {"guesser": says("I know the word! It is `apple`!")}, WORDS, 0)
    lines = result.table().splitlines()
    assert lines[0].startswith("| attacker | defender | attacker_wins |") and len(lines) == 3
    result.to_csv(tmp_path / "arena.csv")
    (row,) = csv.DictReader((tmp_path / "arena.csv").open())
    assert (row["attacker"], row["attacker_wins"], row["n"], float(row["win_rate"])) == (evil, "2", "3", pytest.approx(2 / 3))  # fmt: skip
    result.to_html(tmp_path / "arena.html")
    html = (tmp_path / "arena.html").read_text()
    assert evil not in html and "&lt;script&gt;alert" in html and "66.7" in html and "http" not in html


def test_another_game_meets_alike() -> None:
    guessers = {"sure": says("I know the word! It is `apple`!"), "unsure": says("Is it red?")}
    result = arena(guessers, {"yes": says("Yes.")}, WORDS, 0, game=TwentyQuestions(2))
    assert [cell.count(1) for cell in result.cells.values()] == [1, 0]
    assert "guesser_wins" in result.table()


def test_dead_games_are_no_ties() -> None:
    with pytest.raises(
        UserError, match="arena: dead against mute: 0 of 3 games came to an end; no answer after 6 tries"
    ):
        arena({"dead": Dead()}, {"mute": says("ha")}, WORDS, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": []}, "words: got 1, 1, 0"),
        ({"attackers": {}}, "attackers, defenders, words: got 0"),
        ({"words": ["a", "a"]}, "words: got one twice"),
        ({"attackers": {"a/b": says("hm")}, "folder": "x"}, "name: got 'a/b--mute'"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "attackers": {"a": says("hm")},
        "defenders": {"mute": says("ha")},
        "words": WORDS,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        arena(**{**arguments, **change})
