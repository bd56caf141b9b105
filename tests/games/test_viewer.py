"""The page of transcripts: nothing of a player's text is markup, the evidence is marked, nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.games.game import Episode, Verdict, about_game
from tenfold.games.store import TranscriptStore
from tenfold.games.viewer import view, visible

EVIL = "</article><script>alert('x')</script>\"' onload=x <img src=http://evil.example/a.png> {{ 7*7 }}"


class Page(HTMLParser):
    """Tags and text of a page, the marked texts, and the attributes of its articles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.marked: list[str] = []
        self.articles: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "article":
            self.articles.append(dict(attrs))
        if tag == "mark":
            self.marked.append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.tags and self.tags[-1] == "mark" and self.marked and not self.marked[-1]:
            self.marked[-1] = data


def test_hostile_text_stays_text(tmp_path: Path, episode: Callable[..., Episode]) -> None:
    game = episode([EVIL, f"{EVIL} apple", "late"], "attacker wins", length=2, word=EVIL)
    game = replace(game, speakers={"attacker": EVIL, "defender": "\ud800"})
    game = replace(game, verdict=Verdict("attacker wins", 2, "said", (len(EVIL) + 1, len(EVIL) + 6)))
    html = view([game], tmp_path / "games.html").read_text()
    page = Page(html)
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert page.marked == ["Marked", "apple"]
    told = {"class": "game", "data-outcome": "attacker wins", "data-word": EVIL}
    (article,) = page.articles
    assert json.loads(article.pop("data-players") or "") == [EVIL, "\ud800"] and article == told
    assert "".join(page.words).count("alert('x')") == 5  # the word, a name and the choice of it, two utterances
    assert not {"src", "href"} & page.attributes and "{{ 7*7 }}" in "".join(page.words)


def test_rewards_and_late_words_are_shown(tmp_path: Path, episode: Callable[..., Episode]) -> None:
    games = [
        episode(["a", "b", "c", "apple", "late"], "attacker wins", length=4),
        episode(["x", "y"], "tied game", word="pear"),
    ]
    path = tmp_path / "games.jsonl"
    with TranscriptStore(path) as store:
        for game in games:
            store.add(game)
    html = view(path, tmp_path / "games.html").read_text()
    assert "+0.444" in html and "+0.556" in html and html.count('class="turn side0 late"') == 1
    assert html.count("<article") == 2
    assert view(games, tmp_path / "one.html", limit=1).read_text().count("<article") == 1
    assert all(f">{name}</option>" in html for name in ("attacker wins", "tied game", "attacker", "defender"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩"),
        ("nul \x00 del \x7f next line \x85", "nul ⟨U+0000⟩ del ⟨U+007F⟩ next line ⟨U+0085⟩"),
        ("\u202eelppa\u2066", "⟨U+202E⟩elppa⟨U+2066⟩"),
        ("ca\u200bt\u00ad\ufeff", "ca⟨U+200B⟩t⟨U+00AD⟩⟨U+FEFF⟩"),
        ("half \ud83d", "half ⟨U+D83D⟩"),
        ("\u2028\u2029", "⟨U+2028⟩⟨U+2029⟩"),
        ("two\nlines, a\ttab, café, 猫, 🙂", "two\nlines, a\ttab, café, 猫, 🙂"),
    ],
)
def test_nothing_hides_in_a_text(text: str, shown: str, tmp_path: Path, episode: Callable[..., Episode]) -> None:
    assert visible(text) == shown
    game = episode([text, "hm"], "tied game", word=f"w{text}")
    html = view([replace(game, verdict=Verdict(text, 2, text))], tmp_path / "games.html").read_text()
    said = "".join(Page(html).words)
    assert (
        said.count(shown) == 6
    )  # the utterance, the word, the reason; the outcome above, in the choice and at the game
    assert not set(said) & {letter for letter in text if letter not in shown}


def test_the_evidence_is_marked_where_codes_stand_in_it(tmp_path: Path, episode: Callable[..., Episode]) -> None:
    game = replace(episode(["x", "\x00 ca\u200bt!"], ""), verdict=Verdict("attacker wins", 2, "said", (2, 6)))
    assert Page(view([game], tmp_path / "games.html").read_text()).marked == ["Marked", "ca⟨U+200B⟩t"]


def test_a_newcomer_is_told_the_game_and_who_won(tmp_path: Path, episode: Callable[..., Episode]) -> None:
    games = [episode(["a", "apple"], "attacker wins"), episode(["a", ""], "tied game", word="pear")]
    games.append(replace(episode(["a"], "lost", word="oak"), game="nobody's"))
    html = view(games, tmp_path / "games.html").read_text()
    said = "".join(Page(html).words)
    assert about_game("adversarial_taboo") in said and about_game("twenty_questions") not in said
    assert "3 games: 1 attacker wins, 1 lost, 1 tied game." in said and "hand against itself" in said
    assert said.count("(says nothing)") == 1
    assert [html.count(f'class="mark note{side}"') for side in (" side0", " side1", "")] == [1, 0, 2]


def test_no_games(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="games: got none to show"):
        view([], tmp_path / "games.html")
