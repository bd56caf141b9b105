"""What a user does with trained players: play, compare, judge, score; and the report of a run anew."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from typing import Literal

from tenfold.core.atomic import write_atomic
from tenfold.core.config import need
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.games.files import load_official_games, load_target_words, read_rows
from tenfold.games.game import ERROR, Episode
from tenfold.games.outcomes import rejudged, tally
from tenfold.games.reasoning import PAPER_TASKS, Backend, evaluate_reasoning, write_tasks
from tenfold.games.referee import ROLES, Rules
from tenfold.games.self_play import play as play_games
from tenfold.games.store import TranscriptStore
from tenfold.games.taboo import TwoViews
from tenfold.games.tournament import ArenaResult, Cell
from tenfold.games.tournament import arena as meet
from tenfold.games.viewer import view
from tenfold.recipes.spag.config import Words
from tenfold.recipes.spag.reporting import report as write_report
from tenfold.recipes.spag.seats import find_player, plain, run_config, seated, talk
from tenfold.recipes.spag.training import FIELDS, SCRIPTED, setups_of, stages
from tenfold.recipes.spag.world import open_world
from tenfold.text.messages import ChatModel


def play(
    model: str,
    /,
    me: Literal["attacker", "defender"] | None = None,
    against: str | None = None,
    words: Path | None = None,
    games: int = 100,
    out: Path = Path("games.jsonl"),
    html: Path | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Play: a person against the model in the terminal (--me), or many games of the model against itself or another.

    Args:
        model: a run folder, a model folder of one, a pretrained model, URL#MODEL of an endpoint, or scripted.
        me: your role; the model takes the other.
        against: the defender of many games; none: the model itself.
        words: target words, one a line; none: those that the shipped lexicon holds out.
        games: how many, spread over the words; those that --out holds are not played again.
        out: transcripts, JSON Lines.
        html: also a page of them.
        temperature: of the sampling.
        seed: of all draws; with --me also of the word.
    """
    need("--games", games, 1)
    need("--temperature", temperature, 0)
    targets = _targets(words)
    with ExitStack() as stack:
        seat = stack.enter_context(seated(model, temperature))
        if me is not None:
            if against is not None:
                raise UserError("--me, --against: got both, need one of them")
            talk(seat, me, random.Random(seed).choice(targets), seed, ask=input, tell=print)
            return
        other = seat if against is None else stack.enter_context(seated(against, temperature))
        speakers = {"attacker": seat.speakers["attacker"], "defender": other.speakers["defender"]}
        setups = setups_of(targets, games, seed, 0)
        game = TwoViews({"attacker": seat.game, "defender": other.game}, seat.game.rules)
        _check_players(out, speakers)
        made = play_games(
            game, speakers, setups, seed=seed, sampling=seat.sampling, store=out, concurrency=seat.concurrency
        )
        dead = [plain(episode.verdict.reason) for episode in made if episode.verdict.outcome == ERROR]
    told = list(TranscriptStore(out, read_only=True))
    left = f"{len(dead)} of {games} games came to no end: {dead[0]}; the same command plays them again" if dead else ""
    if not told:
        raise UserError(left)
    _print_outcomes(told, None)
    if left:
        print(left)
    if html is not None:
        print(view(told, html))
    print(out)


def arena(
    models: tuple[str, ...],
    /,
    defenders: tuple[str, ...] = (),
    words: Path | None = None,
    repeats: int = 1,
    temperature: float = 0.0,
    rules: Rules = "strict",
    out: Path = Path("arena"),
    seed: int = 0,
) -> None:
    """Let every attacker meet every defender: win rates with intervals, as a table, a CSV file and a page.

    Args:
        models: attackers: run folders, model folders, pretrained models, URL#MODEL, or scripted.
        defenders: the same; none: the attackers.
        words: target words, one a line; none: those that the shipped lexicon holds out.
        repeats: games of a pairing on each word; more than one needs a temperature.
        temperature: of the sampling; 0 takes the likeliest utterance.
        rules: of the referee.
        out: a folder for arena.csv, arena.html and the transcripts; games that it holds are not played again.
        seed: of all draws.
    """
    need("--repeats", repeats, 1)
    need("--temperature", temperature, 0)
    if repeats > 1 and temperature == 0:
        raise UserError(
            "--repeats: got more than 1 at temperature 0, need a temperature: games on a word would be all alike"
        )
    if len(set(models)) < len(models) or len(set(defenders)) < len(defenders):
        raise UserError("models, --defenders: got one twice, need different ones")
    targets = _targets(words)
    with ExitStack() as stack:
        seats = {
            place: stack.enter_context(seated(place, temperature)) for place in dict.fromkeys((*models, *defenders))
        }
        names = _names(list(seats))
        cells: dict[tuple[str, str], Cell] = {}
        for first in models:
            for second in defenders or models:
                attacker, defender = seats[first], seats[second]
                speakers = {"attacker": attacker.speakers["attacker"], "defender": defender.speakers["defender"]}
                _check_players(out / "games" / f"{names[first]}--{names[second]}.jsonl", speakers)
                cells |= meet(
                    {names[first]: speakers["attacker"]},
                    {names[second]: speakers["defender"]},
                    targets,
                    seed,
                    game=TwoViews({"attacker": attacker.game, "defender": defender.game}, rules),
                    sampling=attacker.sampling,
                    repeats=repeats,
                    concurrency=min(attacker.concurrency, defender.concurrency),
                    folder=out / "games",
                ).cells
    result = ArenaResult(ROLES, cells)
    result.to_csv(out / "arena.csv")
    result.to_html(out / "arena.html")
    print(result.table())
    print(out / "arena.html")


def judge(games: Path, /, rules: Rules = "strict", out: Path | None = None) -> None:
    """Judge games anew: how they end under these rules, beside the verdicts that they have.

    Args:
        games: transcripts of tenfold (JSON Lines), or the paper's form: a list of history, target_word, max_turns.
        rules: official looks for letters, strict for words.
        out: a JSON Lines file of the new verdicts with their evidence.
    """
    episodes = _episodes(games)
    _print_outcomes(episodes, rules)
    if out is not None:
        verdicts = [(episode, rejudged(episode, rules)) for episode in episodes]
        lines = [
            json.dumps(
                {
                    "id": episode.id,
                    "target_word": episode.setup["target_word"],
                    "outcome": verdict.outcome,
                    "length": verdict.length,
                    "reason": verdict.reason,
                    "span": verdict.span,
                },
                ensure_ascii=False,
            )
            for episode, verdict in verdicts
        ]
        write_atomic(out, "\n".join(lines) + "\n")
        print(out)


def eval_(
    model: str,
    /,
    tasks: tuple[str, ...] = (),
    backend: Backend = "lm_eval",
    limit: int | None = None,
    local: bool = False,
) -> None:
    """Score a model on reasoning tasks.

    Args:
        model: a run folder, a model folder of one, or a pretrained model.
        tasks: names; none: the paper's. With --local also bbh_ and a task of BIG-Bench Hard.
        backend: lm_eval (extra eval), or builtin.
        limit: the first so many rows of each.
        local: take the data of `tenfold data`, without demonstrations; otherwise lm-eval fetches its own.
    """
    need("--limit", limit, 1)
    player = find_player(model)
    names = tasks or PAPER_TASKS
    folder = None
    if local:
        from tenfold.core.data import cache_dir

        folder = write_tasks(names, cache_dir() / "spag-tasks")
    scored = player.model.to(device_type())
    found = evaluate_reasoning(scored, player.tokenizer, names, backend, limit, data=folder)
    for task, scores in found.items():
        print(f"{task:<24}" + "".join(f"  {name} {value:.4f}" for name, value in scores.items() if value is not None))


def report(run: Path, /) -> None:
    """Write the report of a run anew, and its page of games.

    Args:
        run: a run folder whose stages are done.
    """
    opened = Run.open(run)
    config = run_config(opened)
    names = [f"seed{seed}-{stage.name}" for seed in config.seeds for stage in stages(config)]
    left = [name for name in names if not opened.done(name)]
    if left:
        raise UserError(f"{run}: {len(left)} of {len(names)} stages are not done; tenfold spag train --resume {run}")
    write_report(config, opened, [opened.load_stage(name, FIELDS) for name in names])
    opened.finish()
    print(run / "report.html")
    print(run / "games.html")


def _targets(words: Path | None) -> list[str]:
    return list(open_world(Words()).held_out) if words is None else load_target_words(words)


def _check_players(path: Path, speakers: Mapping[str, ChatModel]) -> None:
    """Refuse a file of others' games: those would not be played again, and theirs would pass for new ones."""
    names = {role: model.name for role, model in speakers.items()}
    for episode in TranscriptStore(path, read_only=True) if path.is_file() else ():
        if episode.speakers != names:
            held, new = (plain(", ".join(each.values())) for each in (episode.speakers, names))
            raise UserError(f"--out: {path} holds games of {held}, not of {new}; take another place")


def _episodes(path: Path) -> list[Episode]:
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path}: no games in it")
    if "turns" in rows[0][1]:
        return list(TranscriptStore(path, read_only=True))
    return load_official_games(path)


def _print_outcomes(episodes: Sequence[Episode], rules: Rules | None) -> None:
    """Shares by outcome, as they were judged and as the rules judge them."""
    columns = {"as judged": tally(episodes)} | ({} if rules is None else {rules: tally(episodes, rules)})
    names = sorted({name for counts in columns.values() for name in counts.outcomes})
    print(f"{len(episodes)} games".ljust(28) + "".join(f"{title:>12}" for title in columns))
    for name in names:
        print(
            plain(name).ljust(28) + "".join(f"{counts.shares().get(name, 0.0):>12.1%}" for counts in columns.values())
        )
    print("utterances a game".ljust(28) + "".join(f"{counts.mean_length:>12.2f}" for counts in columns.values()))
    print("empty utterances".ljust(28) + "".join(f"{counts.empty_rate:>12.1%}" for counts in columns.values()))


def _names(places: Sequence[str]) -> dict[str, str]:
    """A name for every seat that makes a file's name: the end of its place, numbered where two would be alike."""
    found: dict[str, str] = {}
    for place in places:
        end = place.partition("#")[2] or Path(place).name or SCRIPTED
        name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in end).strip(".-") or "model"
        tries = chain([name], (f"{name}-{number}" for number in count(2)))
        found[place] = next(name for name in tries if name not in found.values())
    return found


VERBS = {"play": play, "arena": arena, "judge": judge, "eval": eval_, "report": report}
