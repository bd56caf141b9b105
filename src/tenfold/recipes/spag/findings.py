"""From the rows of all stages to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.games.game import about_game
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.tournament import PASSIVE, Cell
from tenfold.recipes.spag.config import ARMS, ArmName, Config
from tenfold.recipes.spag.evaluation import HELD_OUT, TRAINED, arena_of, main_chain, scores_of
from tenfold.recipes.spag.training import BASE, IMITATION, Row, stages

Figure = Callable[[int, str], float]  # (seed, stage) -> a figure
ATTACKER_ROOM, DICTIONARY_ROOM, MOST_INVALID = 0.04, 0.02, 0.02  # what a claim of "no worse" allows
FEWEST = 30  # games of a bootstrap
PAPER = "no win rates at hand"
# The axis maxima of the paper's radar plots, read by eye: in per cent, of epoch 3 but for Baichuan's ARC-e.
PUBLISHED = (
    {"model": "LLaMA-2-7B, SPAG", "BBH": 34.94, "PIQA": 79.38, "WinoGrande": 69.93, "LogiQA2": 30.98, "ARC-c": 47.53, "ARC-e": 78.54, "Mutual": 55.30},
    {"model": "Baichuan-2-13B, SPAG", "BBH": 40.30, "PIQA": 79.05, "WinoGrande": 71.43, "LogiQA2": 36.26, "ARC-c": 50.00, "ARC-e": 78.32, "Mutual": 57.79},
)  # fmt: skip


class Scores:
    """The arena of every seed, by stage and role."""

    def __init__(self, config: Config, rows: Sequence[Row]) -> None:
        self.config, self.rows = config, rows
        self._arenas = {
            (seed, words): arena_of(select(rows, seed=seed), words)
            for seed in config.seeds
            for words in (HELD_OUT, TRAINED)
        }

    def cell(self, seed: int, attacker: str, defender: str, words: str = HELD_OUT) -> Cell:
        """One pairing."""
        return self._arenas[seed, words].cells[attacker, defender]

    def of(self, role: str, figure: str, words: str = HELD_OUT) -> Figure:
        """A figure of a stage in a role, against the imitation."""

        def read(seed: int, stage: str) -> float:
            pair = (stage, IMITATION) if role == "attacker" else (IMITATION, stage)
            return scores_of(self.cell(seed, *pair, words), role)[figure]

        return read

    def field(self, name: str) -> Figure:
        """A field of the rows."""

        def read(seed: int, stage: str) -> float:
            (row,) = select(self.rows, seed=seed, stage=stage)
            return float(row[name])

        return read

    def over_seeds(self, figure: Figure, stage: str) -> list[float]:
        """The figure of a stage for every seed."""
        return [figure(seed, stage) for seed in self.config.seeds]


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Every comparison that was run, paired by seed."""
    scores, last = Scores(config, rows), config.self_play.epochs
    games = f"{config.words.held_out} words x {config.arena.repeats} games against the imitation, {config.table.rules} rules"
    made = _Claims(scores, games, simulator=config.model.base is None)
    defends, wins = scores.of("defender", "return"), scores.of("defender", "won")
    for arm in config.arms:
        name = f"{arm}-{last}"
        made.add(
            f"{arm}: defender's return on held-out words, epoch {last} above imitation",
            defends,
            name,
            IMITATION,
            paper=PAPER,
        )
        made.add(f"{arm}: defender's wins on held-out words, epoch {last} above imitation", wins, name, IMITATION)
    main = config.arms[0]
    for epoch in range(2, last + 1):
        made.add(f"{main}: defender's return on held-out words, epoch {epoch} above epoch {epoch - 1}", defends, f"{main}-{epoch}", f"{main}-{epoch - 1}")  # fmt: skip
    for arm in config.arms[1:]:
        made.add(f"{main} above {arm}: defender's return on held-out words, epoch {last}", defends, f"{main}-{last}", f"{arm}-{last}")  # fmt: skip
    if config.arena.words:
        trained = scores.of("defender", "return", TRAINED)
        made.add(f"{main}: defender's return on trained words above imitation", trained, f"{main}-{last}", IMITATION)
    made.add(f"{main}: attacker's wins on held-out words less than {100 * ATTACKER_ROOM:g} points below imitation", scores.of("attacker", "won"), f"{main}-{last}", IMITATION, room=ATTACKER_ROOM)  # fmt: skip
    if config.model.base is None:
        made.add(f"{main}: dictionary accuracy less than {100 * DICTIONARY_ROOM:g} points below imitation", scores.field("dictionary"), f"{main}-{last}", IMITATION, room=DICTIONARY_ROOM, how="words found from three clues")  # fmt: skip
    else:
        own = _itself(scores)
        made.add("imitation: games without a foul above those of the model as it is", own, IMITATION, BASE, how="games of a model against itself on held-out words")  # fmt: skip
    made.limit(f"{main}: games that break the rules below {100 * MOST_INVALID:g} %", scores.of("attacker", "invalid"), f"{main}-{last}", MOST_INVALID)  # fmt: skip
    return made.claims


def _itself(scores: Scores) -> Figure:
    """Share of valid games of a stage against itself."""

    def read(seed: int, stage: str) -> float:
        cell = scores.cell(seed, stage, stage)
        return 1 - cell.invalid / cell.n

    return read


class _Claims:
    """Gathers claims."""

    def __init__(self, scores: Scores, how: str, *, simulator: bool) -> None:
        self.scores, self.how, self.simulator = scores, how, simulator
        self.claims: list[Claim] = []

    def add(
        self,
        name: str,
        figure: Figure,
        stage: str,
        rival: str,
        *,
        room: float = 0.0,
        how: str | None = None,
        paper: str | None = None,
    ) -> None:
        """A stage's figure above a rival's less some room."""
        theirs = [value - room for value in self.scores.over_seeds(figure, rival)]
        self._claim(name, self.scores.over_seeds(figure, stage), theirs, "higher", how, paper)

    def limit(self, name: str, figure: Figure, stage: str, most: float) -> None:
        """A stage's figure below a limit."""
        values = self.scores.over_seeds(figure, stage)
        self._claim(name, values, [most] * len(values), "lower", None, None)

    def _claim(
        self, name: str, values: list[float], rival: list[float], better: Any, how: str | None, paper: str | None
    ) -> None:
        ci95 = (math.nan, math.nan)
        if len(values) > 1:
            ci95 = paired_t([a - b for a, b in zip(values, rival, strict=True)]).ci95
        value, baseline = statistics.fmean(values), statistics.fmean(rival)
        self.claims.append(
            Claim(name, value, baseline, better, ci95, len(values), how or self.how, paper, self.simulator)
        )


def stage_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a stage: its games, its learning, its figures against the imitation on held-out words, in per cent."""
    scores, lines = Scores(config, rows), []
    for stage in stages(config):
        own = select(rows, stage=stage.name)
        line: Row = {"stage": stage.name, "learned from": ARMS[stage.arm].what if stage.arm else ""}
        line["learned from"] = line["learned from"] or ("scripted teachers" if stage.epoch == 0 else "as it is")
        for role in ("defender", "attacker"):
            for figure in ("won", "lost"):
                line[f"{role} {figure}"] = _percent(scores.over_seeds(scores.of(role, figure), stage.name))
        line["return of the defender"] = plus_minus(scores.over_seeds(scores.of("defender", "return"), stage.name), 2)
        if all("dictionary" in row for row in own):
            line["dictionary"] = _percent([row["dictionary"] for row in own])
        for task in config.reasoning.tasks:
            line[task] = _percent([row["reasoning"][task]["acc"] for row in own])
        lines.append(line)
    return lines


def games_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a stage: the games that it learned from."""
    lines = []
    for stage in stages(config):
        own = select(rows, stage=stage.name)
        if stage.epoch < 0:
            continue
        who = "scripted teachers" if stage.epoch == 0 else f"{stage.start} against itself"
        line: Row = {"stage": stage.name, "players": who, "games": own[0]["games"]}
        for name, title in (("ties", "ties, %"), ("invalid", "broken rules, %"), ("empty", "empty utterances, %")):
            line[title] = _percent([row[name] for row in own])
        line["utterances a game"] = plus_minus([row["length"] for row in own], 2)
        line["rows"] = round(statistics.fmean(row["rows"] for row in own))
        line["steps"] = round(statistics.fmean(row["steps"] for row in own))
        line["KL, nats an utterance"] = plus_minus([row["kl"] for row in own], 4) if stage.epoch else ""
        lines.append(line)
    return lines


def arena_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a pairing of the main chain, on held-out words: the first seed's games with their intervals over words."""
    scores, chain, seed = Scores(config, rows), main_chain(config), config.seeds[0]
    lines = []
    for attacker in chain:
        for defender in chain:
            cell = scores.cell(seed, attacker, defender)
            rate = cell.win_rate
            lines.append(
                {
                    "attacker": attacker,
                    "defender": defender,
                    "games": cell.n,
                    "attacker won": cell.count(1),
                    "defender won": cell.count(-1),
                    "tied": cell.count(0),
                    "of these by a foul": cell.invalid,
                    "win rate of the attacker": "–" if rate is None else f"{100 * rate.value:.0f} %",
                    "95 %": "–" if rate is None else f"{100 * rate.low:.0f}–{100 * rate.high:.0f} %",
                    "return of the attacker": round(cell.mean_return, 3),
                }
            )
    return lines


def arena_note(config: Config) -> str:
    """The conditions of the arena."""
    words = f"{config.words.held_out} held-out words, {config.arena.repeats} games on each at temperature {config.arena.temperature:g}"
    return (
        f"{words}; {config.table.rules} rules, a foul of the attacker is lost. Win rate: won / (won + lost), its interval by "
        f"a bootstrap over words; {PASSIVE}."
    )


def paired_words(config: Config, rows: Sequence[Row], arm: ArmName) -> str:
    """The gain of the defender over all epochs of an arm, with a bootstrap over words for every seed."""
    found = []
    for seed in config.seeds:
        gain = arena_of(select(rows, seed=seed), HELD_OUT).difference("defender", f"{arm}-{config.self_play.epochs}", IMITATION)  # fmt: skip
        found.append(f"{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})")
    return ", ".join(found)


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The run in words."""
    scores, last = Scores(config, rows), config.self_play.epochs
    defends = scores.of("defender", "return")
    who = config.model.base or f"A decoder of {config.model.dim} x {config.model.layers} over the lexicon's words"
    words = [
        about_game(AdversarialTaboo.name),
        f"{who} learns this game, Adversarial Taboo, from scripted teachers, then plays itself for {last} epochs of "
        f"{config.self_play.games} games.",
    ]
    before = plus_minus(scores.over_seeds(defends, IMITATION), 2)
    for arm in config.arms:
        after = plus_minus(scores.over_seeds(defends, f"{arm}-{last}"), 2)
        words.append(
            f"{arm} credit: the defender's return on {config.words.held_out} held-out words goes from {before} to {after}."
        )
    words.append(
        "Both against the imitation as attacker; a return is the share of games won less the share lost, from -1 to 1."
    )
    return " ".join(words)


def _percent(values: Sequence[float]) -> str:
    return plus_minus([100 * value for value in values], 1)
