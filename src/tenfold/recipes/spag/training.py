"""One seed of the experiment: imitation, then epochs of play, credit and learning, each measured in the arena."""

from __future__ import annotations

import math
import random
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.core import checkpoint
from tenfold.core.fit import Every, Loss, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import device_type
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.games.batches import GameBatches, TokenRow, token_rows, with_reference
from tenfold.games.credit import Credit, GameRow, Prompts, assign_credit
from tenfold.games.experts import scripted_attacker, scripted_defender
from tenfold.games.game import TIED, Episode, keyed_seed
from tenfold.games.losses import imitation_loss, spag_loss
from tenfold.games.outcomes import tally
from tenfold.games.self_play import Setup, Speaker, play
from tenfold.games.store import TranscriptStore
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.training_prompts import PlayedPrompts, RandomisedPrompts
from tenfold.recipes.spag.config import ARMS, ArmName, Config
from tenfold.recipes.spag.players import Player, new_player, open_player, ready_to_learn, save_player
from tenfold.recipes.spag.world import World, fine_tuning, make_game, open_world
from tenfold.text.messages import Sampling

Row = dict[str, Any]
FIELDS = ("stage", "arm", "epoch", "seed", "cells")
BASE, IMITATION, SCRIPTED = "base", "imitation", "scripted"


@dataclass(frozen=True)
class Stage:
    """A model of the chain.

    Args:
        name: of it.
        epoch: of self-play; 0 is imitation, -1 the pretrained model as it is.
        arm: how it learned from self-play; None before that.
        start: the stage whose model it goes on with.
    """

    name: str
    epoch: int
    arm: ArmName | None = None
    start: str | None = None


@dataclass(frozen=True)
class Trial:
    """All that a stage works on."""

    config: Config
    run: Run
    world: World
    seed: int

    def model(self, stage: str) -> Path:
        """Where a stage leaves its model."""
        return model_folder(self.run.path, self.seed, stage)

    def games(self, players: str) -> Path:
        """The transcripts of the teachers, or of a stage's model against itself."""
        return self.run.path / "games" / f"seed{self.seed}-{players}.jsonl"

    def open(self, stage: str, *, adapted: bool = False) -> Player:
        """The player of a stage."""
        if stage == BASE:
            return replace(new_player(self.config.model, self.config.table, self.world, self.seed), name=BASE)
        return replace(open_player(self.model(stage), adapted=adapted), name=stage)


def model_folder(run_path: Path, seed: int, stage: str) -> Path:
    """Where a stage of a seed leaves its model."""
    return run_path / "models" / f"seed{seed}-{stage}"


def stages(config: Config) -> list[Stage]:
    """All stages of a seed in their order."""
    found = [Stage(BASE, -1)] if config.model.base else []
    found.append(Stage(IMITATION, 0, start=BASE))
    for arm in config.arms:
        for epoch in range(1, config.self_play.epochs + 1):
            start = IMITATION if epoch == 1 else f"{arm}-{epoch - 1}"
            found.append(Stage(f"{arm}-{epoch}", epoch, arm, start))
    return found


def train_seed(config: Config, run_path: str, seed: int) -> list[Row]:
    """All stages of one seed, or what a killed process left of them.

    Returns:
        a row a stage: what it is, its games, its learning and its arena; read back where it was finished before.
    """
    from tenfold.recipes.spag.evaluation import measure

    run = Run.open(run_path)
    trial = Trial(config, run, open_world(config.words), seed)
    rows = []
    with compute_threads(1 if config.model.base is None else torch.get_num_threads()):
        for stage in stages(config):
            name = f"seed{seed}-{stage.name}"
            if not run.done(name):
                row: Row = {"stage": stage.name, "arm": stage.arm, "epoch": stage.epoch, "seed": seed}
                if stage.epoch == 0:
                    row |= imitate(trial)
                elif stage.epoch > 0:
                    row |= play_and_learn(trial, stage)
                row |= measure(trial, stage)
                run.save_stage(name, row)
                shutil.rmtree(run.path / "checkpoints" / name, ignore_errors=True)  # a gigabyte for a pretrained model
            rows.append(run.load_stage(name, FIELDS))
            advance(1.0)
    run.close()
    return rows


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Compute on so many threads; for the small decoder's products a second one costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def imitate(trial: Trial) -> Row:
    """Learn from the winners among scripted teachers, and from as many fine-tuning rows."""
    config, settings = trial.config, trial.config.imitation
    player = trial.open(BASE)
    teachers: dict[str, Speaker] = {
        "attacker": scripted_attacker(trial.world.lexicon, slip=settings.slip),
        "defender": scripted_defender(trial.world.lexicon, guess=settings.guess),
    }
    setups = setups_of(trial.world.trained, settings.games, trial.seed, 0)
    hall = make_game(replace(config.table, form="chat"), player.card.pack)  # the teachers read turns of a chat
    episodes = played(trial, hall, teachers, setups, SCRIPTED, Sampling())
    rows = credited(config, player, episodes, "winner", trial.seed)
    fine = more_rows(trial, round(settings.dictionary * len(rows)), 0)
    tokens = encoded(config, player, [*rows, *fine])
    if settings.beta:
        tokens = with_reference(tokens, player.model.to(device_type()))
    else:
        tokens = [replace(row, ref_logprob=0.0) for row in tokens]  # whose weight is 0
    loss = partial(imitation_loss, beta=settings.beta)
    learned = learn(trial, IMITATION, player, tokens, loss, settings.steps, settings.batch, settings.lr)
    return {**outcomes(episodes), **learned}


def play_and_learn(trial: Trial, stage: Stage) -> Row:
    """One epoch: the model plays itself, and learns from those games against itself as it played."""
    assert stage.arm is not None and stage.start is not None
    config, settings, arm = trial.config, trial.config.self_play, ARMS[stage.arm]
    player = trial.open(stage.start)
    setups = setups_of(trial.world.targets, settings.games, trial.seed, stage.epoch)
    sampling = Sampling(
        temperature=settings.temperature, top_k=settings.top_k, max_tokens=config.table.max_tokens, min_tokens=1
    )
    with player.seat(stage.start) as chat:
        episodes = played(trial, player.game, {"attacker": chat, "defender": chat}, setups, stage.start, sampling)
    player = trial.open(stage.start, adapted=True)  # in float32 again
    rows = credited(config, player, episodes, arm.credit, trial.seed)
    tokens = with_reference(encoded(config, player, rows), player.model.to(device_type()))
    count = len(rows)
    if arm.matched:
        count = len(credited(config, player, episodes, "zero_sum", trial.seed))
    share = settings.sft if arm.sft else 0.0
    fine = more_rows(trial, round(share * len(rows)), stage.epoch)
    tokens += [replace(row, ref_logprob=0.0) for row in encoded(config, player, fine)]  # it has no ratio
    steps = math.ceil(settings.passes * count * (1 + share) / settings.batch)
    loss = partial(
        spag_loss,
        beta=settings.beta,
        alpha=settings.alpha,
        clip=settings.clip,
        ratio=settings.ratio,
        kl=settings.kl,
    )
    learned = learn(trial, stage.name, player, tokens, loss, steps, settings.batch, settings.lr)
    return {**outcomes(episodes), **learned}


def setups_of(words: Sequence[str], games: int, seed: int, epoch: int) -> list[Setup]:
    """So many games spread evenly over the words, in the order of (seed, epoch)."""
    order = random.Random(keyed_seed("words", seed, epoch)).sample(list(words), len(words))
    return [{"target_word": order[index % len(order)]} for index in range(games)]


def played(
    trial: Trial,
    game: AdversarialTaboo,
    speakers: Mapping[str, Speaker],
    setups: Sequence[Setup],
    players: str,
    sampling: Sampling,
) -> list[Episode]:
    """Play what their store lacks; all its games, in an order that does not depend on who ended first.

    Arms that start from one model learn from the same games.
    """
    path, seed = trial.games(players), keyed_seed(trial.seed, players)
    batch = trial.config.table.batch
    for _ in play(game, speakers, setups, seed=seed, sampling=sampling, store=path, concurrency=batch):
        pass
    return sorted(TranscriptStore(path, read_only=True), key=lambda episode: episode.id)


def credited(config: Config, player: Player, episodes: Sequence[Episode], credit: Credit, seed: int) -> list[GameRow]:
    """The utterances that count, with what their players were told."""
    settings = config.self_play
    return assign_credit(
        episodes,
        settings.gamma,
        credit,
        prompts=prompts_of(config, player, seed),
        tie_reward=settings.tie_reward if credit == "zero_sum" else 0.0,
        max_weight=settings.max_weight,
    )


def prompts_of(config: Config, player: Player, seed: int) -> Prompts:
    """As they were told it; to a pretrained model that reads text, in the paper's many wordings."""
    if config.table.form == "chat":
        return PlayedPrompts(player.game)
    if config.model.base is not None:
        return RandomisedPrompts(player.card.pack, seed)
    game = player.game
    return lambda episode, ply: game.observe(episode.state(ply), episode.turns[ply].role)[0].content


def more_rows(trial: Trial, count: int, epoch: int) -> list[GameRow]:
    """Fine-tuning rows of a stage."""
    config, seed = trial.config, keyed_seed(trial.seed, epoch)
    return fine_tuning(config.words, trial.world.lexicon, count, seed, chat=config.table.form == "chat")


def encoded(config: Config, player: Player, rows: Sequence[GameRow]) -> list[TokenRow]:
    """Rows in tokens, at most as long as the model reads."""
    return token_rows(rows, player.tokenizer, min(config.model.max_length, player.model.cfg.max_len))


def learn(
    trial: Trial,
    name: str,
    player: Player,
    rows: Sequence[TokenRow],
    loss: Loss,
    steps: int,
    batch: int,
    lr: float,
) -> Row:
    """Train a player, or go on from its last checkpoint, and keep it."""
    config, run, seed = trial.config, trial.run, trial.seed
    model = player.model if has_adapter(player) else ready_to_learn(player, config.model, seed)
    state = TrainState(
        model.to(device_type()),
        adamw(model, lr, weight_decay=0.0),
        Schedule(0.03 * steps, steps, final_fraction=0.0),
        GameBatches(rows, batch, seed=keyed_seed(seed, name) % 2**32),
        seed=seed,
    )
    label = f"seed{seed}-{name}"
    checkpoint.resume(run, state, name=label)

    def counted(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Any]]:
        value, metrics = loss(model, batch)
        return value, {name: value for name, value in metrics.items() if not name.startswith("n_")}

    every = Every(log=config.log_every, save=config.save_every)
    fit(state, counted, steps=steps, run=run, name=label, precision=config.precision, every=every, progress=False)
    save_player(replace(player, model=model), config.model, trial.model(name))
    late = [-row["kl_k1_sequence"] for row in run.rows(label)[-5:] if "kl_k1_sequence" in row]
    return {
        "rows": len(rows),
        "steps": steps,
        "seconds": state.seconds,
        "kl": statistics.fmean(late) if late else None,
    }


def has_adapter(player: Player) -> bool:
    """Whether the player has an adapter that learns on."""
    return player.card.base is not None


def outcomes(episodes: Sequence[Episode]) -> Row:
    """How the games that a stage learned from ended."""
    counts = tally(episodes)
    fouls = sum(count for outcome, count in counts.outcomes.items() if outcome.endswith("breaks the rules"))
    return {
        "games": counts.games,
        "outcomes": dict(counts.outcomes),
        "ties": counts.outcomes[TIED] / counts.games,
        "invalid": fouls / counts.games,
        "length": counts.mean_length,
        "empty": counts.empty_rate,
    }
