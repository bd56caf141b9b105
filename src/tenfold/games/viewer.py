"""Transcripts as one web page: who said what, what decided, and what each utterance earned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.report import environment
from tenfold.games.credit import episode_rewards
from tenfold.games.game import Episode, Turn
from tenfold.games.store import TranscriptStore


@dataclass(frozen=True)
class _Line:
    """An utterance cut at its evidence."""

    role: str
    before: str
    evidence: str
    after: str
    reward: float | None
    counted: bool
    finish: str


def view(
    store: TranscriptStore | str | Path | Iterable[Episode],
    path: str | Path = "games.html",
    *,
    limit: int = 1000,
    gamma: float = 0.8,
) -> Path:
    """Write games as one self-contained page with filters by outcome, role and word; nothing is loaded from elsewhere.

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
    outcomes = sorted({game["episode"].verdict.outcome for game in games})
    roles = sorted({role for game in games for role in game["episode"].speakers})
    html = environment().from_string(_PAGE).render(title="Games", games=games, outcomes=outcomes, roles=roles)
    write_atomic(Path(path), html.encode("utf-8", "replace"))
    return Path(path)


def _shown(episode: Episode, gamma: float) -> Mapping[str, Any]:
    rewards = dict(episode_rewards(episode, episode.verdict.winner, gamma)) if episode.verdict.winner else {}
    lines = [_line(episode, ply, turn, rewards.get(ply)) for ply, turn in enumerate(episode.turns)]
    word = str(episode.setup.get("target_word", ""))
    return {"episode": episode, "word": word, "lines": lines}


def _line(episode: Episode, ply: int, turn: Turn, reward: float | None) -> _Line:
    verdict = episode.verdict
    start, end = verdict.span if verdict.span and ply == verdict.length - 1 else (0, 0)
    text = turn.text
    return _Line(turn.role, text[:start], text[start:end], text[end:], reward, ply < verdict.length, turn.finish)


_PAGE = """{% extends "page.html" %}
{% block content %}
<style>
.game { border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: .8rem 1.1rem; margin: .9rem 0; }
.game h2 { font-size: 1rem; margin: 0 0 .4rem; }
.turn { display: grid; grid-template-columns: 7rem 1fr 4.5rem; gap: .8rem; padding: .25rem 0; }
.turn .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.turn .reward { text-align: right; font-variant-numeric: tabular-nums; }
.late { opacity: .5; }
form { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
[hidden] { display: none !important; }
</style>
<h1>{{ title }}</h1>
<form id="filters">
<label>outcome <select name="outcome"><option value="">all</option>
{% for outcome in outcomes %}<option>{{ outcome }}</option>{% endfor %}</select></label>
<label>role <select name="role"><option value="">all</option>
{% for role in roles %}<option>{{ role }}</option>{% endfor %}</select></label>
<label>word <input name="word" type="search"></label>
<output name="count">{{ games | length }} games</output>
</form>
{% for game in games %}
<article class="game" data-outcome="{{ game.episode.verdict.outcome }}" data-word="{{ game.word }}">
<h2>{{ game.word or game.episode.id }} <span class="mark note">{{ game.episode.verdict.outcome }}</span></h2>
<p class="soft">{{ game.episode.verdict.reason }}; {% for role, name in game.episode.speakers.items() %}{{ role }}: {{ name }}{{ ", " if not loop.last }}{% endfor %}; {{ game.episode.id }}</p>
{% for line in game.lines %}
<div class="turn{{ " late" if not line.counted }}" data-role="{{ line.role }}">
<span class="soft">{{ line.role }}</span>
<span class="text">{{ line.before }}{% if line.evidence %}<mark>{{ line.evidence }}</mark>{% endif %}{{ line.after }}{% if line.finish == "length" %} <span class="soft">(cut)</span>{% endif %}</span>
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
  const outcome = form.outcome.value, role = form.role.value, word = form.word.value.trim().toLowerCase();
  let count = 0;
  for (const game of document.querySelectorAll(".game")) {
    const shown = (!outcome || game.dataset.outcome === outcome) && game.dataset.word.toLowerCase().includes(word);
    game.hidden = !shown;
    count += shown;
    for (const turn of game.querySelectorAll(".turn")) turn.hidden = role !== "" && turn.dataset.role !== role;
  }
  form.count.value = `${count} games`;
});
</script>
{% endblock %}
"""
