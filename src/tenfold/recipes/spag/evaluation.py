"""What a stage shows: its games against the other stages, what it still knows of its words, how it reasons."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tenfold.core.mesh import device_type
from tenfold.games.reasoning import evaluate_reasoning, write_tasks
from tenfold.games.referee import ROLES
from tenfold.games.tournament import ArenaResult, Cell, arena
from tenfold.recipes.spag.config import Config
from tenfold.recipes.spag.players import Player
from tenfold.recipes.spag.training import BASE, IMITATION, Row, Stage, Trial, stages
from tenfold.recipes.spag.world import World, asked, make_game
from tenfold.text.chat import complete_all
from tenfold.text.messages import Message, Sampling

HELD_OUT, TRAINED = "held_out", "trained"
ASKED = 320  # questions to the dictionary


def measure(trial: Trial, stage: Stage) -> Row:
    """Fields of the row: "cells" of the arena, "dictionary" where it learned one, "reasoning" where asked for."""
    config = trial.config
    row: Row = {"cells": meet(trial, stage)}
    player = trial.open(stage.name)
    if config.model.base is None:
        row["dictionary"] = dictionary_accuracy(player, trial.world)
    if config.reasoning.tasks:
        tasks, model = config.reasoning.tasks, player.model.to(device_type())
        folder = write_tasks(tasks, trial.run.path / "reasoning")
        row["reasoning"] = evaluate_reasoning(
            model, player.tokenizer, tasks, config.reasoning.backend, config.reasoning.limit, data=folder
        )
    return row


def main_chain(config: Config) -> list[str]:
    """Stages that all meet one another: those of the first arm."""
    return [stage.name for stage in stages(config) if stage.arm in (None, config.arms[0])]


def pairings(config: Config, stage: Stage) -> list[tuple[str, str]]:
    """(attacker, defender) that are new with a stage."""
    chain = main_chain(config)
    if stage.name not in chain:
        return [(stage.name, IMITATION), (IMITATION, stage.name)]
    before = chain[: chain.index(stage.name)]
    return [
        (stage.name, stage.name),
        *((stage.name, other) for other in before),
        *((other, stage.name) for other in before),
    ]


def meet(trial: Trial, stage: Stage) -> list[Row]:
    """Play the pairings that are new with a stage: on held-out words, and against the imitation on trained ones."""
    config, world = trial.config, trial.world
    sampling = Sampling(temperature=config.arena.temperature, max_tokens=config.table.max_tokens, min_tokens=1)
    game = make_game(config.table)
    cells = []
    for attacker, defender in pairings(config, stage):
        with ExitStack() as stack:  # two models at a time: large ones would not all fit
            seats = {name: stack.enter_context(trial.open(name).seat()) for name in dict.fromkeys((attacker, defender))}
            for kind in word_sets(config, attacker, defender):
                found = arena(
                    {attacker: seats[attacker]},
                    {defender: seats[defender]},
                    world.held_out if kind == HELD_OUT else world.trained[: config.arena.words],
                    trial.seed,
                    game=game,
                    sampling=sampling,
                    repeats=config.arena.repeats,
                    concurrency=config.table.batch,
                    folder=arena_folder(trial.run.path, trial.seed, kind),
                ).cells[attacker, defender]
                cells.append(cell_row(attacker, defender, kind, found))
    return cells


def word_sets(config: Config, attacker: str, defender: str) -> list[str]:
    """Which words a pairing is played on: in the main chain trained ones too, where one side is the imitation."""
    pair = (attacker, defender)
    both = IMITATION in pair and BASE not in pair and set(pair) <= set(main_chain(config))
    return [HELD_OUT, TRAINED] if both and config.arena.words else [HELD_OUT]


def arena_folder(run_path: Path, seed: int, words: str) -> Path:
    """Where the games of the arena on a set of words lie."""
    return run_path / "arena" / f"seed{seed}" / words


def cell_row(attacker: str, defender: str, words: str, cell: Cell) -> Row:
    """A pairing as JSON."""
    return {
        "attacker": attacker,
        "defender": defender,
        "words": words,
        "scores": list(cell.scores),
        "fouls": [int(foul) for foul in cell.fouls],
        "repeats": cell.repeats,
    }


def arena_of(rows: Sequence[Row], words: str) -> ArenaResult:
    """The pairings of several stages of one seed as one arena."""
    cells = {
        (cell["attacker"], cell["defender"]): Cell(
            tuple(cell["scores"]), tuple(map(bool, cell["fouls"])), cell["repeats"]
        )
        for row in rows
        for cell in row["cells"]
        if cell["words"] == words
    }
    return ArenaResult(ROLES, cells)


def dictionary_accuracy(player: Player, world: World) -> float:
    """Share of words that the model finds from clues of them, greedily, as its dictionary rows ask."""
    draw = random.Random("asked")
    entries = [world.lexicon[index % len(world.lexicon)] for index in range(ASKED)]
    with player.seat() as chat:
        questions = [[Message("user", asked(entry, draw))] for entry in entries]
        replies = complete_all(chat, questions, Sampling(temperature=0.0, max_tokens=4))
    return sum(reply.text == entry.word for (reply,), entry in zip(replies, entries, strict=True)) / len(entries)


def scores_of(cell: Cell, role: str) -> dict[str, float]:
    """Win share, loss share, return and foul share of a role in a pairing."""
    sign = 1 if role == ROLES[0] else -1
    return {
        "won": cell.count(sign) / cell.n,
        "lost": cell.count(-sign) / cell.n,
        "return": sign * cell.mean_return,
        "invalid": cell.invalid / cell.n,
    }
