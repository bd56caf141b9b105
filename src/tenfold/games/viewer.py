"""Transcripts as one web page: who said what, what decided, and what each utterance earned."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.report import environment
from tenfold.games.credit import episode_rewards
from tenfold.games.game import Episode, Turn, about_game
from tenfold.games.store import TranscriptStore


@dataclass(frozen=True)
class _Line:
    """An utterance cut at its evidence."""

    role: str
    side: int
    before: str
    evidence: str
    after: str
    reward: float | None
    counted: bool
    finish: str


@dataclass(frozen=True)
class _Shown:
    """A game as the page has it; `side` is the place of the winner among the roles, -1 for none."""

    episode: Episode
    word: str
    lines: Sequence[_Line]
    players: str
    side: int


def view(
    store: TranscriptStore | str | Path | Iterable[Episode],
    path: str | Path = "games.html",
    *,
    limit: int = 1000,
    gamma: float = 0.8,
) -> Path:
    """Write games as one self-contained page with filters by outcome, player, role and word; nothing is loaded from elsewhere.

    Args:
        store: a store of transcripts, its file, or episodes.
        path: the page.
        limit: the first so many games.
        gamma: of the rewards that are shown.
    Returns:
        its path.
    Raises:
        UserError: no games.
    """
    episodes = TranscriptStore(store, read_only=True) if isinstance(store, str | Path) else store
    games = [_shown(episode, gamma) for episode in islice(episodes, limit)]
    if not games:
        raise UserError("games: got none to show; play some first")
    counts = Counter(game.episode.verdict.outcome for game in games)
    html = environment().from_string(_PAGE).render(
        title="Games",
        games=games,
        about=[text for name in sorted({game.episode.game for game in games}) if (text := about_game(name))],
        outcomes=sorted(counts.items()),
        players=sorted({name for game in games for name in game.episode.speakers.values()}),
        roles=sorted({role for game in games for role in game.episode.speakers}),
        visible=visible,
    )  # fmt: skip
    write_atomic(Path(path), html.encode("utf-8", "replace"))
    return Path(path)


def visible(text: str) -> str:
    """Text in which nothing hides: what cannot be seen, or steers the text around it, shows as its code."""
    return "".join(f"⟨U+{ord(letter):04X}⟩" if _hidden(letter) else letter for letter in text)


def _hidden(letter: str) -> bool:
    return letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _shown(episode: Episode, gamma: float) -> _Shown:
    winner = episode.verdict.winner
    rewards = dict(episode_rewards(episode, winner, gamma)) if winner else {}
    roles = list(episode.speakers)
    lines = [_line(episode, ply, turn, rewards.get(ply), roles) for ply, turn in enumerate(episode.turns)]
    names = dict.fromkeys(episode.speakers.values())
    players = ", ".join(f"{role}: {name}" for role, name in episode.speakers.items())
    if len(names) == 1:
        players = f"{next(iter(names))} against itself"
    word = str(episode.setup.get("target_word", ""))
    return _Shown(episode, word, lines, players, roles.index(winner) if winner in roles else -1)


def _line(episode: Episode, ply: int, turn: Turn, reward: float | None, roles: Sequence[str]) -> _Line:
    verdict = episode.verdict
    start, end = verdict.span if verdict.span and ply == verdict.length - 1 else (0, 0)
    before, evidence, after = (visible(part) for part in (turn.text[:start], turn.text[start:end], turn.text[end:]))
    side = roles.index(turn.role) if turn.role in roles else -1
    return _Line(turn.role, side, before, evidence, after, reward, ply < verdict.length, turn.finish)


_PAGE = """{% extends "page.html" %}
{% block content %}
<style>
:root { --side0: #1f5fbf; --side0-ground: #e4edfb; --side1: #96521a; --side1-ground: #f9ecdc; --mark: #ffe27a; }
@media (prefers-color-scheme: dark) {
  :root { --side0: #8fb8ff; --side0-ground: #1d2f4d; --side1: #f0b47a; --side1-ground: #40301c; --mark: #ffd54a; }
}
.game { border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: .8rem 1.1rem; margin: .9rem 0; }
.game h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
.game h2 .mark { margin-left: .5rem; color: var(--one); background: var(--one-ground); }
.game > p { margin: .1rem 0 .5rem; }
.side0 > .role, .mark.side0, h2 .mark.side0 { color: var(--side0); }
.side1 > .role, .mark.side1, h2 .mark.side1 { color: var(--side1); }
h2 .mark.side0 { background: var(--side0-ground); }
h2 .mark.side1 { background: var(--side1-ground); }
.turn { display: grid; grid-template-columns: 6rem 1fr 4.5rem; gap: .8rem; padding: .25rem 0; }
.turn .role { font-size: .9rem; font-weight: 600; overflow-wrap: anywhere; }
.turn .text { white-space: pre-wrap; overflow: auto; overflow-wrap: anywhere; max-height: 20rem; }
.turn .text bdi { unicode-bidi: isolate; }
mark { background: var(--mark); color: #1c1f23; border-radius: .2rem; padding: 0 .1rem; }
.turn .reward { text-align: right; font-variant-numeric: tabular-nums; }
.late { opacity: .5; }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; margin: 1.2rem 0; }
[hidden] { display: none !important; }
@media (max-width: 40rem) { .turn { grid-template-columns: 1fr 4rem; gap: 0 .8rem; } .turn .role { grid-column: 1 / 3; } }
</style>
<h1>{{ title }}</h1>
{% for text in about %}<p>{{ text }}</p>{% endfor %}
<p>{{ games | length }} games: {% for name, count in outcomes %}{{ count }} {{ visible(name) }}{{ ", " if not loop.last }}{% endfor %}.</p>
<p class="soft"><mark>Marked</mark>: the words that decided. Numbers: what an utterance of the winner earns in training.
Faded: said after the decision, not counted. (cut): ended by the limit of its length.</p>
<form id="filters">
<label>outcome <select name="outcome"><option value="">all</option>
{% for name, _ in outcomes %}<option value="{{ name }}">{{ visible(name) }}</option>{% endfor %}</select></label>
<label>player <select name="player"><option value="">all</option>
{% for name in players %}<option value="{{ name }}">{{ visible(name) }}</option>{% endfor %}</select></label>
<label>role <select name="role"><option value="">all</option>
{% for role in roles %}<option value="{{ role }}">{{ visible(role) }}</option>{% endfor %}</select></label>
<label>word <input name="word" type="search"></label>
<output name="count">{{ games | length }} games</output>
</form>
{% for game in games %}
<article class="game" data-outcome="{{ game.episode.verdict.outcome }}" data-word="{{ game.word }}" data-players="{{ game.episode.speakers.values() | list | tojson | forceescape }}">
<h2><span class="soft">word</span> {{ visible(game.word) or game.episode.id }}<span class="mark note{{ " side%d" | format(game.side) if game.side >= 0 }}">{{ visible(game.episode.verdict.outcome) }}</span></h2>
<p class="soft">{{ visible(game.episode.verdict.reason) }}; {{ visible(game.players) }}; game {{ game.episode.id[:8] }}</p>
{% for line in game.lines %}
<div class="turn{{ " side%d" | format(line.side) if line.side >= 0 }}{{ " late" if not line.counted }}" data-role="{{ line.role }}">
<span class="role">{{ visible(line.role) }}</span>
<span class="text"><bdi>{{ line.before }}{% if line.evidence %}<mark>{{ line.evidence }}</mark>{% endif %}{{ line.after }}</bdi>{% if not (line.before ~ line.evidence ~ line.after).strip() %}<span class="soft">(says nothing)</span>{% endif %}{% if line.finish == "length" %} <span class="soft">(cut)</span>{% endif %}</span>
<span class="reward soft">{% if line.reward is not none %}{{ "%+.3f" | format(line.reward) }}{% endif %}</span>
</div>
{% endfor %}
</article>
{% endfor %}
<script>
"use strict";
const form = document.getElementById("filters");
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", () => {
  const outcome = form.outcome.value, player = form.player.value, role = form.role.value;
  const word = form.word.value.trim().toLowerCase();
  let count = 0;
  for (const game of document.querySelectorAll(".game")) {
    const shown = (!outcome || game.dataset.outcome === outcome) && game.dataset.word.toLowerCase().includes(word)
      && (!player || JSON.parse(game.dataset.players).includes(player));
    game.hidden = !shown;
    count += shown;
    for (const turn of game.querySelectorAll(".turn")) turn.hidden = role !== "" && turn.dataset.role !== role;
  }
  form.count.value = `${count} games`;
});
</script>
{% endblock %}
"""
