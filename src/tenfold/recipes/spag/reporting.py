"""The report of a run: summary, curves, arena, tables, games before and after, claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenfold.core.run import Run
from tenfold.games.game import Episode
from tenfold.games.outcomes import tally
from tenfold.games.store import TranscriptStore
from tenfold.games.viewer import view, visible
from tenfold.recipes.spag import figures, findings
from tenfold.recipes.spag.config import Config
from tenfold.recipes.spag.evaluation import HELD_OUT, arena_folder, main_chain
from tenfold.recipes.spag.training import IMITATION, Row, stages

GAMES = 4  # shown in the report, of each of two or three models
VIEWED = 60  # in the page of games, of each of them
LONGEST = 300  # characters of an utterance in the report


def report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    run.text("summary", findings.summary(config, rows))
    run.figure("stages", figures.stages_figure(config, rows), caption=_stages_caption(config))
    run.figure("arena", figures.arena_figure(config, rows), caption=findings.arena_note(config))
    run.figure(
        "divergence",
        figures.kl_figure(config, _curves(config, run)),
        caption="KL(the model that played, the model), estimated: the mean of ln p_played - ln p over the played utterances of a step. "
        "Training makes the rewarded ones among them likelier, so it may go below 0.",
    )
    over = "± is the 95 % t interval over seeds." if len(config.seeds) > 1 else "One seed, no interval."
    against = "Against the imitation on held-out words, in per cent"
    run.table("stages", findings.stage_table(config, rows), note=f"{against}. {over}")
    run.table("games", findings.games_table(config, rows), note=f"What each stage learned from. {over}")
    run.table("arena", findings.arena_table(config, rows), note=findings.arena_note(config))
    run.table("referees", _referees(config, run), note="The same games under both referees, in per cent: the official rules look for letters, the strict ones for words.")  # fmt: skip
    if config.words.held_out * config.arena.repeats >= findings.FEWEST:
        gains = "; ".join(f"{arm}: {findings.paired_words(config, rows, arm)}" for arm in config.arms)
        run.text("gain of the defender", f"Over imitation, a bootstrap over words for every seed. {gains}.")
    _show_games(config, run)
    if config.reasoning.tasks:
        run.table(
            "published",
            findings.PUBLISHED,
            note="Axis maxima of the paper's radar plots, in per cent, by its own protocol. By eye from them, LLaMA-2-7B reasons "
            "better after each of three epochs but on WinoGrande.",
        )
    for claim in findings.make_claims(config, rows):
        run.claim(claim)


def _stages_caption(config: Config) -> str:
    words = "Returns on held-out words against the imitation. "
    return words + ("Lines: means over seeds; dots: seeds." if len(config.seeds) > 1 else "One seed.")


def _curves(config: Config, run: Run) -> dict[str, list[figures.Curve]]:
    return {
        stage.name: [
            [
                (row["step"], -row["kl_k1_sequence"])
                for row in run.rows(f"seed{seed}-{stage.name}")
                if "kl_k1_sequence" in row
            ]
            for seed in config.seeds
        ]
        for stage in stages(config)
        if stage.arm is not None
    }


def _store(config: Config, run: Run, attacker: str, defender: str) -> list[Episode]:
    """The games of a pairing of the first seed on held-out words."""
    folder = arena_folder(run.path, config.seeds[0], HELD_OUT)
    store = TranscriptStore(folder / f"{attacker}--{defender}.jsonl", read_only=True)
    return sorted(store, key=lambda episode: episode.id)


def _referees(config: Config, run: Run) -> list[Row]:
    """How the games of each stage against itself end under both referees."""
    lines = []
    for name in main_chain(config):
        games = _store(config, run, name, name)
        for rules in ("official", "strict"):
            counts = tally(games, rules)
            shares = {outcome: f"{100 * share:.1f}" for outcome, share in sorted(counts.shares().items())}
            lines.append({"stage": name, "rules": rules, "games": counts.games, **shares})
    return [{**dict.fromkeys(_columns(lines), "0.0"), **line} for line in lines]


def _columns(lines: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line))


def _show_games(config: Config, run: Run) -> None:
    """Games of the first, the imitating and the last model against themselves, each word and its random numbers together.

    A few in the report, more in a page of their own.
    """
    chain = main_chain(config)
    names = list(dict.fromkeys((chain[0], IMITATION, chain[-1])))
    stores = {name: {game.id: game for game in _store(config, run, name, name)} for name in names}
    ids = [id for id in stores[names[0]] if all(id in games for games in stores.values())]
    ids.sort(key=lambda id: (stores[names[0]][id].setup["target_word"], id))
    first = {stores[names[0]][id].setup["target_word"]: id for id in reversed(ids)}  # one game of each word
    lines = [_line(name, stores[name][id]) for id in sorted(first.values())[:GAMES] for name in names]
    note = (
        "The same words and random numbers in every stage. More, with the evidence marked: games.html in the run folder"
    )
    run.table("sample games", lines, note=f"{note} (at most {VIEWED} of each stage).")
    shown = [stores[name][id] for id in ids[:VIEWED] for name in names]
    view(shown, run.path / "games.html", gamma=config.self_play.gamma)


def _line(stage: str, episode: Episode) -> dict[str, Any]:
    turns = episode.turns[: episode.verdict.length]
    said = " / ".join(f"{turn.role[0].upper()}: {_short(turn.text)}" for turn in turns)
    return {
        "word": episode.setup["target_word"],
        "stage": stage,
        "talk (A attacker, D defender)": said,
        "outcome": episode.verdict.outcome,
        "because": episode.verdict.reason,
    }


def _short(text: str) -> str:
    """An utterance on one line, bounded, with nothing hidden in it."""
    words = visible(" ".join(text[: 2 * LONGEST].split()))
    return words if len(words) <= LONGEST else words[:LONGEST] + " …"
