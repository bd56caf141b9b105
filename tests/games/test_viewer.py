"""The page of transcripts: nothing of a player's text is markup, the evidence is marked, nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.games.game import Episode, Verdict
from tenfold.games.store import TranscriptStore
from tenfold.games.viewer import view

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
    assert page.marked == ["apple"]
    assert page.articles == [{"class": "game", "data-outcome": "attacker wins", "data-word": EVIL}]
    assert "".join(page.words).count("alert('x')") == 4  # the word, a name, two utterances
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
    assert "+0.444" in html and "+0.556" in html and html.count('class="turn late"') == 1
    assert html.count("<article") == 2
    assert view(games, tmp_path / "one.html", limit=1).read_text().count("<article") == 1
    assert all(f"<option>{name}</option>" in html for name in ("attacker wins", "tied game", "attacker", "defender"))


def test_no_games(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="games: got none to show"):
        view([], tmp_path / "games.html")
