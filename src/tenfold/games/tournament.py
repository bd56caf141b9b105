"""Every attacker against every defender on the same words: win rates with intervals, differences, ratings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.atomic import checked_name, write_atomic
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval, paired_bootstrap, wilson
from tenfold.games.game import ERROR, Episode, Game, episode_id
from tenfold.games.self_play import Speaker, first_states, play
from tenfold.games.store import TranscriptStore
from tenfold.games.taboo import AdversarialTaboo
from tenfold.text.messages import Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=256)
PASSIVE = "ties are in neither: read the win rate beside them and the return"


@dataclass(frozen=True)
class Cell:
    """One pairing, seen from the first role.

    Args:
        scores: of each game in the order of the words: 1 won, -1 lost, 0 tied; None where a model gave no answer.
        fouls: of each game whether somebody broke the rules; such a game is lost for the one who did.
        repeats: games on each word, which stand together.
    """

    scores: tuple[int | None, ...]
    fouls: tuple[bool, ...]
    repeats: int = 1

    @property
    def n(self) -> int:
        """Games that came to an end."""
        return sum(score is not None for score in self.scores)

    @property
    def errors(self) -> int:
        return len(self.scores) - self.n

    @property
    def invalid(self) -> int:
        """Games that ended by a foul; they are among the wins and losses."""
        return sum(self.fouls)

    def count(self, score: int) -> int:
        return self.scores.count(score)

    @property
    def win_rate(self) -> Interval | None:
        """wins / (wins + losses); None where all games were tied.

        With Wilson's interval; where words come several times, with that of a bootstrap over words.
        """
        decided = self.count(1) + self.count(-1)
        if not decided:
            return None
        return wilson(self.count(1), decided) if self.repeats == 1 else _rate_over_words(self)

    @property
    def mean_return(self) -> float:
        """(wins - losses) / n."""
        return (self.count(1) - self.count(-1)) / self.n


@dataclass(frozen=True)
class ArenaResult:
    """The pairings of an arena.

    Attributes:
        roles: the two roles; rows of the matrix are the first's.
        cells: (first's name, second's name) to its cell.
    """

    roles: tuple[str, str]
    cells: Mapping[tuple[str, str], Cell]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a cell, its figures by name."""
        first, second = self.roles
        for (a, d), cell in self.cells.items():
            rate = cell.win_rate
            yield {
                first: a,
                second: d,
                f"{first}_wins": cell.count(1),
                f"{second}_wins": cell.count(-1),
                "ties": cell.count(0),
                "invalid": cell.invalid,
                "errors": cell.errors,
                "n": cell.n,
                "win_rate": None if rate is None else rate.value,
                "low": None if rate is None else rate.low,
                "high": None if rate is None else rate.high,
                "return": cell.mean_return,
            }

    def table(self) -> str:
        """The cells as a Markdown table."""
        rows = [{name: _shown(value) for name, value in row.items()} for row in self.rows()]
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_csv(self, path: str | Path) -> None:
        """Write the cells as CSV."""
        rows = list(self.rows())
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(Path(path), text.getvalue())

    def to_html(self, path: str | Path) -> None:
        """Write the matrix and the cells as one self-contained page."""
        from tenfold.core.report import environment

        seconds = list(dict.fromkeys(d for _, d in self.cells))
        matrix = [(a, [self.cells.get((a, d)) for d in seconds]) for a in dict.fromkeys(a for a, _ in self.cells)]
        rows = [{name: _shown(value) for name, value in row.items()} for row in self.rows()]
        page = environment().from_string(_PAGE)
        html = page.render(title="Arena", roles=self.roles, seconds=seconds, matrix=matrix, rows=rows, note=PASSIVE)
        write_atomic(Path(path), html)

    def difference(self, role: str, a: str, b: str, n: int = 10_000, seed: int = 0) -> Interval:
        """Mean return of model a less that of b in a role, over the same words and opponents; words are drawn anew.

        Raises:
            ValueError: an unknown role or name, or fewer than 30 games that both finished.
        """
        if role not in self.roles:
            raise ValueError(f"role: got {role!r}, need {' or '.join(self.roles)}")
        place = self.roles.index(role)
        opponents = [pair[1 - place] for pair in self.cells if pair[place] == a]
        first: list[int] = []
        second: list[int] = []
        words: list[int] = []
        for other in opponents:
            pairs = [(name, other) if place == 0 else (other, name) for name in (a, b)]
            if any(pair not in self.cells for pair in pairs):
                raise ValueError(f"{role}: got {a!r} and {b!r}, need names that met the same opponents")
            mine, theirs = (self.cells[pair] for pair in pairs)
            for game, (x, y) in enumerate(zip(mine.scores, theirs.scores, strict=True)):
                if x is not None and y is not None:
                    first.append(x)
                    second.append(y)
                    words.append(game // mine.repeats)
        sign = 1 - 2 * place
        return paired_bootstrap(sign * np.array(first), sign * np.array(second), n, clusters=words, seed=seed)

    def elo(self) -> dict[str, dict[str, float]]:
        """Ratings by role and name, of mean 1500: P(a beats d) = 1 / (1 + 10^((d - a) / 400)); a tie is half a win.

        One more tie in every cell keeps the ratings finite where one side always wins.
        Source: Bradley and Terry 1952, by maximum likelihood.
        """
        from scipy.optimize import minimize  # a second to import; most commands never need it

        names = [list(dict.fromkeys(pair[place] for pair in self.cells)) for place in (0, 1)]
        rows = np.array([names[0].index(a) for a, _ in self.cells])
        columns = np.array([len(names[0]) + names[1].index(d) for _, d in self.cells])
        won = np.array([cell.count(1) + 0.5 * cell.count(0) + 0.5 for cell in self.cells.values()])
        lost = np.array([cell.count(-1) + 0.5 * cell.count(0) + 0.5 for cell in self.cells.values()])

        def negative(strength: np.ndarray) -> tuple[float, np.ndarray]:
            gap = strength[rows] - strength[columns]
            value = (won * np.logaddexp(0, -gap) + lost * np.logaddexp(0, gap)).sum() + 1e-9 * (strength**2).sum()
            slope = (won + lost) / (1 + np.exp(-gap)) - won
            gradient = 2e-9 * strength
            np.add.at(gradient, rows, slope)
            np.add.at(gradient, columns, -slope)
            return float(value), gradient

        best = minimize(negative, np.zeros(len(names[0]) + len(names[1])), jac=True, method="BFGS", tol=1e-8).x
        ratings = 1500 + 400 / math.log(10) * (best - best.mean())
        found = iter(ratings.tolist())
        return {role: {name: next(found) for name in each} for role, each in zip(self.roles, names, strict=True)}


def arena(
    attackers: Mapping[str, Speaker],
    defenders: Mapping[str, Speaker],
    words: Sequence[str | Mapping[str, Any]],
    seed: int,
    *,
    game: Game | None = None,
    sampling: Sampling = GREEDY,
    repeats: int = 1,
    concurrency: int = 1024,
    folder: str | Path | None = None,
) -> ArenaResult:
    """Let every attacker meet every defender, on the same words with the same seed.

    Args:
        attackers, defenders: names and models of the game's first and second role.
        words: target words, or setups.
        seed: of all games.
        game: of two roles; None is Adversarial Taboo under the strict rules.
        sampling: greedy by default; games on one word are then all alike, so a word is one observation.
        repeats: games on each word of a cell, where the sampling makes them differ.
        concurrency: games under way at a time.
        folder: where the transcripts are kept, `<attacker>--<defender>.jsonl`; what it holds is not played again.
    Raises:
        ValueError: no players or words, the same word twice, names that make no file.
        UserError: a cell in which no game came to an end.
    """
    game = game or AdversarialTaboo(rules="strict")
    setups = [{"target_word": word} if isinstance(word, str) else word for word in words]
    if not (attackers and defenders and setups):
        raise ValueError(
            f"attackers, defenders, words: got {len(attackers)}, {len(defenders)}, {len(setups)}, need one each"
        )
    if repeats < 1:
        raise ValueError(f"repeats: got {repeats}, need at least 1")
    names = {episode_id(game.name, state.setup, seed) for _, state in first_states(game, setups, seed)}
    if len(names) < len(setups):
        raise ValueError("words: got one twice, need different ones: a word is one observation")
    setups = [setup for setup in setups for _ in range(repeats)]
    ids = [id for id, _ in first_states(game, setups, seed)]
    first, second = game.roles
    cells = {}
    for a, attacker in attackers.items():
        for d, defender in defenders.items():
            store = None if folder is None else Path(folder) / f"{checked_name(f'{a}--{d}')}.jsonl"
            players = {first: attacker, second: defender}
            new = play(game, players, setups, seed=seed, sampling=sampling, store=store, concurrency=concurrency)
            ended = {episode.id: episode for episode in new}
            if store is not None:
                ended |= {episode.id: episode for episode in TranscriptStore(store, read_only=True)}
            cells[a, d] = _cell(game, [ended.get(id) for id in ids], repeats, f"{a} against {d}")
    return ArenaResult((first, second), cells)


def _rate_over_words(cell: Cell, n: int = 10_000) -> Interval:
    """Share of the decided games that were won, words drawn anew with all their games."""
    scores = np.array([score or 0 for score in cell.scores]).reshape(-1, cell.repeats)
    won, lost = (scores == 1).sum(1), (scores == -1).sum(1)
    drawn = np.random.default_rng(0).integers(len(won), size=(n, len(won)))
    wins, losses = won[drawn].sum(1), lost[drawn].sum(1)
    decided = wins + losses > 0
    low, high = np.quantile(wins[decided] / (wins + losses)[decided], (0.025, 0.975))
    return Interval(float(won.sum() / (won.sum() + lost.sum())), float(low), float(high))


def _cell(game: Game, episodes: Sequence[Episode | None], repeats: int, name: str) -> Cell:
    scores: list[int | None] = []
    fouls = []
    for episode in episodes:
        verdict = None if episode is None or episode.verdict.outcome == ERROR else episode.verdict
        foul = verdict is not None and verdict.offender is not None
        fouls.append(foul)
        if verdict is None:
            scores.append(None)
        elif foul:
            scores.append(-1 if verdict.offender == game.roles[0] else 1)
        else:
            value = game.returns(verdict)[game.roles[0]]
            scores.append((value > 0) - (value < 0))
    cell = Cell(tuple(scores), tuple(fouls), repeats)
    if not cell.n:
        reason = next((e.verdict.reason for e in episodes if e is not None), "no game")
        raise UserError(f"arena: {name}: 0 of {len(episodes)} games came to an end; {reason}")
    return cell


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


_PAGE = """{% extends "page.html" %}
{% block content %}
<h1>{{ title }}</h1>
<p class="soft">Share of decided games that the {{ roles[0] }} (rows) won against the {{ roles[1] }} (columns), with its
95 % interval and the mean return; {{ note }}.</p>
<div class="scroll" tabindex="0"><table>
<tr><th></th>{% for name in seconds %}<th class="n">{{ name }}</th>{% endfor %}</tr>
{% for name, cells in matrix %}
<tr><th>{{ name }}</th>
{% for cell in cells %}
<td class="n">
{% if cell and cell.win_rate %}
{{ "%.1f" | format(100 * cell.win_rate.value) }} %
<span class="soft">{{ "%.1f" | format(100 * cell.win_rate.low) }}–{{ "%.1f" | format(100 * cell.win_rate.high) }} %</span>
{% else %}–{% endif %}
{% if cell %}<span class="soft">return {{ "%+.3f" | format(cell.mean_return) }}</span>{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
</table></div>
<h2>Games</h2>
<div class="scroll" tabindex="0"><table>
<tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endblock %}
"""
