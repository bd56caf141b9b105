"""The scripted players: legal games, draws of their own, any list of words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tenfold.games.experts import NOTHING_TO_SAY, scripted_attacker, scripted_defender, spelling_clues
from tenfold.games.files import Clues, load_lexicon, load_target_words
from tenfold.games.game import Episode
from tenfold.games.outcomes import tally
from tenfold.games.self_play import play
from tenfold.games.taboo import AdversarialTaboo


def games(
    lexicon: list[Clues], words: list[str], seed: int = 0, slip: float = 0.0, guess: float = 0.3
) -> list[Episode]:
    speakers = {"attacker": scripted_attacker(lexicon, slip=slip), "defender": scripted_defender(lexicon, guess=guess)}
    return list(play(AdversarialTaboo(), speakers, [{"target_word": word} for word in words], seed=seed))


def test_teachers_play_every_ending_and_no_foul_without_slips(lexicon: list[Clues]) -> None:
    words = [entry.word for entry in lexicon] * 50
    ended = tally(games(lexicon, words)).outcomes
    assert set(ended) == {"attacker wins", "defender wins", "tied game"}
    slipped = tally(games(lexicon, words, slip=0.03)).outcomes["attacker breaks the rules"] / len(words)
    assert 0.02 < slipped < 0.15
    assert tally(games(lexicon, words, slip=1.0)).outcomes == {"attacker breaks the rules": len(words)}
    guessing = tally(games(lexicon, words, guess=1.0)).outcomes
    assert set(guessing) == {"attacker wins", "defender wins"}
    assert guessing["defender wins"] / len(words) > 2 / len(lexicon)  # it listens to the clues


def test_clues_are_the_words_own_and_do_not_come_again_before_all_were_said(lexicon: list[Clues]) -> None:
    of = {entry.word: entry.clues for entry in lexicon}
    for game in games(lexicon, ["apple"] * 30, guess=0.0):
        said = [turn.text for turn in game.turns if turn.role == "attacker"]
        assert set(said) <= set(of["apple"])
        assert len(set(said)) == min(len(said), len(of["apple"]))


def test_a_clue_that_says_the_word_is_never_given() -> None:
    clues = [Clues("cat", ("cats", "education", "pet")), Clues("dog", ("dogs",)), Clues("pig", ("stye",))]
    texts = Counter(turn.text for game in games(clues, ["cat"] * 20) for turn in game.turns if turn.role == "attacker")
    assert set(texts) == {"pet"}
    assert games(clues, ["dog"])[0].turns[0].text == NOTHING_TO_SAY
    assert games(clues, ["horse"])[0].turns[0].text == NOTHING_TO_SAY


def test_draws_depend_on_the_seed(lexicon: list[Clues]) -> None:
    one, two, three = (
        [[turn.text for turn in game.turns] for game in games(lexicon, ["apple"] * 10, seed=seed)] for seed in (0, 0, 1)
    )
    assert sorted(one) == sorted(two) != sorted(three)


def test_any_list_of_words_can_be_played() -> None:
    words = ["one", "first", "letters", "a", "xylophone", "vowels"]
    made = games(spelling_clues(words), words * 20)
    assert "attacker breaks the rules" not in tally(made).outcomes
    assert spelling_clues(["apple"])[0].clues == ("5 letters", "a first", "e last", "2 vowels", "p in the middle")


def test_the_prepared_words(data_dir: Path) -> None:
    lexicon = load_lexicon(data_dir / "07-spag" / "lexicon.jsonl")
    assert len(lexicon) == 160 and len({clue for entry in lexicon for clue in entry.clues}) == 228
    assert set(tally(games(lexicon, [entry.word for entry in lexicon])).outcomes) <= {"attacker wins", "defender wins", "tied game"}  # fmt: skip
    words = load_target_words(data_dir / "07-spag" / "target_words.txt")
    assert len(words) == 47_591 and words[:3] == ["one", "like", "would"]
    assert len(load_target_words(data_dir / "07-spag" / "target_words.txt", top=30_000)) == 30_000
