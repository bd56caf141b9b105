"""Play and training killed at twenty random moments and resumed: no game is lost, none is played twice, the result is the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.run import Run
from tenfold.recipes.spag.config import Arena, Config, Imitation, Model, SelfPlay, Table, Words
from tenfold.recipes.spag.training import stages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
KILLS = 20
WORDS = ["apple", "pear", "horse", "saddle", "cider", "oak", "stable", "barrel"]

PLAY = """
import torch
from tenfold.games.self_play import play
from tenfold.recipes.spag.players import new_player
from tenfold.recipes.spag.training import setups_of
from tenfold.recipes.spag.world import open_world
from tenfold.text.messages import Sampling
torch.set_num_threads(1)
world = open_world(CONFIG.words)
player = new_player(CONFIG.model, CONFIG.table, world, 0)
setups = setups_of(world.trained, GAMES, 0, 1)
sampling = Sampling(temperature=1.2, top_k=50, max_tokens=CONFIG.table.max_tokens, min_tokens=1)
with player.seat() as chat, open(ENDED, "a") as ended:
    both = {"attacker": chat, "defender": chat}
    for game in play(player.game, both, setups, seed=0, sampling=sampling, store=STORE, concurrency=16):
        ended.write(game.id + "\\n")
        ended.flush()
"""
TRAIN = """
import torch
from tenfold.core.run import Run
from tenfold.recipes.spag import train
torch.set_num_threads(1)
train(CONFIG, Run.open(PATH))
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    lexicon = tmp_path / "lexicon.jsonl"
    rows = ({"word": word, "clues": [f"clue{i}", f"clue{i + 1}", "thing"]} for i, word in enumerate(WORDS))
    lexicon.write_text("\n".join(map(json.dumps, rows)))
    return Config(
        words=Words(lexicon=lexicon, held_out=2),
        model=Model(dim=8, layers=1, heads=2, ffn=8),
        table=Table(max_turns=3, max_tokens=4, batch=16),
        imitation=Imitation(games=60, steps=12, batch=8),
        self_play=SelfPlay(games=120, batch=16),
        arena=Arena(repeats=4, words=2),
        log_every=1,
        save_every=3,
    )


def start(source: str, **names: Any) -> Any:
    """A process that runs `source` with these globals; forked where torch is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tenfold.recipes.spag.reporting", "tenfold.lm.chat", "tenfold.core.fit"])
    process = context.Process(target=exec, args=(source, {"__name__": "__main__", **names}))
    process.start()
    return process


def finish(source: str, **names: Any) -> None:
    child = start(source, **names)
    child.join()
    assert child.exitcode == 0


def kill_at_random_moments(begin: Callable[[], Any], progress: Callable[[], int], whole: int) -> None:
    """Twenty times: begin, wait until so much is done, then anywhere (in a line, a step, a file) SIGKILL.

    Args:
        begin: starts a child that goes on where the last one stood.
        progress: how much is done.
        whole: what `progress` says at the end.
    """
    chance = random.Random(seed := time.time_ns())
    for moment in sorted(chance.sample(range(whole - 5), KILLS)):
        child = begin()
        while child.is_alive() and progress() < moment:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"seed {seed}: ended by itself before moment {moment} of {whole}"


def lines(*paths: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def test_games_of_a_model_are_neither_lost_nor_played_twice(config: Config, tmp_path: Path) -> None:
    games = 400
    names = {
        name: {"STORE": str(tmp_path / f"{name}.jsonl"), "ENDED": str(tmp_path / f"{name}.txt")}
        for name in ("whole", "killed")
    }
    finish(PLAY, CONFIG=config, GAMES=games, **names["whole"])
    store, ended = tmp_path / "killed.jsonl", tmp_path / "killed.txt"
    kill_at_random_moments(
        lambda: start(PLAY, CONFIG=config, GAMES=games, **names["killed"]), lambda: lines(store), games
    )
    finish(PLAY, CONFIG=config, GAMES=games, **names["killed"])
    expected = (tmp_path / "whole.jsonl").read_bytes().splitlines()
    assert sorted(store.read_bytes().splitlines()) == sorted(expected) and len(expected) == games
    told = ended.read_text().split()  # a game that a kill kept from being told is in the store all the same
    assert len(told) == len(set(told)) >= games - KILLS


def test_a_training_ends_with_the_same_weights_games_and_claims(config: Config, tmp_path: Path) -> None:
    whole, killed = (Run.create("spag", "tiny", config, tmp_path / name) for name in ("whole", "killed"))
    finish(TRAIN, CONFIG=config, PATH=str(whole.path))

    def done(run: Run) -> int:
        return lines(run.path / "metrics.jsonl", *run.path.glob("games/*.jsonl"), *run.path.glob("arena/**/*.jsonl"))

    kill_at_random_moments(
        lambda: start(TRAIN, CONFIG=config, PATH=str(killed.path)), lambda: done(killed), done(whole)
    )
    finish(TRAIN, CONFIG=config, PATH=str(killed.path))
    for kind in ("models/**/*.safetensors", "games/*.jsonl", "arena/**/*.jsonl"):
        places = [sorted(path.relative_to(run.path) for path in run.path.glob(kind)) for run in (whole, killed)]
        assert places[0] == places[1] != []
        for place in places[0]:
            told, expected = ((run.path / place).read_bytes() for run in (killed, whole))
            if place.suffix == ".jsonl":  # games are written as they end
                assert sorted(told.splitlines()) == sorted(expected.splitlines())
            else:
                assert told == expected
    for stage in stages(config):
        name = f"seed0-{stage.name}"
        rows = [Run.open(run.path).load_stage(name) for run in (whole, killed)]
        assert rows[0].pop("seconds") > 0 and rows[1].pop("seconds") > 0
        assert rows[0] == rows[1]
        steps = [[(row["step"], row["loss"]) for row in run.rows(name)] for run in (whole, killed)]
        assert steps[0] == steps[1] and [step for step, _ in steps[0]] == list(range(1, rows[0]["steps"] + 1))
    claims = [json.loads((run.path / "result.json").read_text())["claims"] for run in (whole, killed)]
    assert claims[0] == claims[1] != []
