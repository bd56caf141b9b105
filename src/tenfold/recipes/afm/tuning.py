"""One training after pre-training each: fine-tuning, reward model, preferences, reinforcement; a killed one goes on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from tenfold.align.logprobs import Reference
from tenfold.align.policy_gradient import mdloo_loss, policy_batch
from tenfold.align.preference_data import Pair, preference_batches, with_references
from tenfold.align.preference_losses import dpo_loss, ipo_loss
from tenfold.align.reward_losses import reward_loss
from tenfold.align.reward_model import RewardModel
from tenfold.align.rollout import respond
from tenfold.align.samples import Sample
from tenfold.align.sft import sft_batches, sft_loss
from tenfold.align.verifiers import Scorer, Task
from tenfold.core import checkpoint
from tenfold.core.errors import UserError
from tenfold.core.fit import Every, Loss, TrainState, fit, train_step
from tenfold.core.interrupt import Interrupt
from tenfold.core.jobs import advance
from tenfold.core.mesh import device_type
from tenfold.core.optim import Schedule
from tenfold.core.run import Run
from tenfold.core.stream import Stream
from tenfold.lm.decoder import Block, Decoder, DecoderConfig
from tenfold.nn.lora import lora_parameters
from tenfold.recipes.afm.chain import save_model
from tenfold.recipes.afm.post_config import DPO, MDLOO, SFT, Reward, Tuning
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer

HEADS_SEED = 1  # of a reward model's heads
BETAS = (0.9, 0.95)


def tune(
    settings: Tuning, run: Run, name: str, module: nn.Module, loss: Loss, stream: Stream, seed: int, bar: bool = True
) -> None:
    """Train what learns in a module, in place, or do what a killed process left of it.

    Args:
        settings: steps and rates.
        run: takes log rows and checkpoints.
        name: of this training in the run.
        module: its parameters that require gradients are trained.
        loss, stream: as in `core.fit.fit`.
        seed: of dropout.
        bar: whether to show progress.
    """
    state = _state(settings.lr, settings.warmup, settings.steps, settings.final_fraction, module, seed)
    state.stream = stream
    checkpoint.resume(run, state, name)
    every = Every(log=max(1, settings.steps // 100), save=settings.save_every)
    fit(state, loss, steps=settings.steps, run=run, name=name, every=every, progress=bar)


def once(run: Run, stage: str, measure: Callable[[], Any]) -> Any:
    """What was measured (JSON data), by this process or by a killed one."""
    if not run.done(stage):
        run.save_stage(stage, measure())
    return run.load_stage(stage)


def made_once(
    run: Run, job: str, folder: Path, start: Decoder, tokenizer: Tokenizer, train: Callable[[str, Decoder], object]
) -> Decoder:
    """What a training makes of a copy of `start`, read back from its folder: trained here, or before.

    Args:
        run: remembers that it was done.
        job: of the training in the run; the first argument of `train`, the copy is the second.
        folder: for the model and its tokenizer.
    """
    if not run.done(job):
        model = copy.deepcopy(start).requires_grad_(True)
        train(job, model)
        save_model(model, tokenizer, folder)
        run.save_stage(job)
    return open_decoder(folder)


def open_decoder(folder: Path) -> Decoder:
    """A model that was saved by this run, ready to answer."""
    return Decoder.from_pretrained(folder, dtype=torch.float32).to(device_type()).eval()


def _state(lr: float, warmup: int, steps: int, final: float, module: nn.Module, seed: int) -> TrainState:
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr, betas=BETAS, weight_decay=0.0)
    return TrainState(module, optimizer, Schedule(min(warmup, steps), steps, final), seed=seed)


def fine_tune(
    settings: SFT, run: Run, name: str, model: Decoder, samples: Sequence[Sample], seed: int, bar: bool = True
) -> None:
    """Train a model in place on what the samples teach; of rows that are too long the end is left out."""
    stream = sft_batches(fitting(samples, settings.length, name), settings.length, settings.rows, seed=seed)
    with dropping(model, settings.dropout):
        tune(settings, run, name, model.to(device_type()), sft_loss, stream, seed, bar)


def fitting(samples: Sequence[Sample], length: int, what: str) -> list[Sample]:
    """The first `length` tokens of each sample, where those have something to learn: answers that were sampled may be longer.

    Raises:
        UserError: none has; `what` opens the message.
    """
    rows = [row for sample in samples if (row := sample.cut(length)).targets]
    if not rows:
        raise UserError(
            f"{what}: of {len(samples)} samples none has a token to learn among its first {length}; give longer rows"
        )
    return rows


@contextmanager
def dropping(model: Decoder, share: float) -> Iterator[None]:
    """In the block training leaves out that share of a decoder's activations; afterwards what it did before."""
    before = model.cfg
    try:
        _set_dropout(model, replace(before, dropout=share))
        yield
    finally:
        _set_dropout(model, before)


def _set_dropout(model: Decoder, cfg: DecoderConfig) -> None:
    model.cfg = cfg
    for block in model.layers:
        cast(Block, block).dropout = cfg.dropout


class Adapted(nn.Module):
    """A frozen model of which a checkpoint holds one adapter alone."""

    def __init__(self, model: Decoder, adapter: str) -> None:
        super().__init__()
        self.weights = nn.ParameterList(lora_parameters(model, adapter))
        self.whole = (model,)  # in a tuple: no submodule, or its weights would be saved

    def of_model(self, loss: Loss) -> Loss:
        """A loss of the model as one of this module."""
        return lambda _, batch: loss(self.whole[0], batch)


def tune_adapter(
    settings: Tuning,
    run: Run,
    name: str,
    model: Decoder,
    adapter: str,
    loss: Loss,
    stream: Stream,
    seed: int,
    bar: bool = True,
) -> None:
    """Train one adapter of a model, in place; it is the one that works."""
    adapted = Adapted(model.eval(), adapter)
    tune(settings, run, name, adapted, adapted.of_model(loss), stream, seed, bar)


def train_reward(
    settings: Reward, run: Run, name: str, backbone: Decoder, pairs: Sequence[Pair], seed: int, bar: bool = True
) -> RewardModel:
    """A reward model on a copy of a language model."""
    generator = torch.Generator().manual_seed(HEADS_SEED + seed)
    model = RewardModel(copy.deepcopy(backbone), generator).requires_grad_(True).to(device_type())
    loss = reward_loss(grade_weight=settings.grade_weight, ranking=settings.ranking)
    tune(settings, run, name, model, loss, preference_batches(pairs, settings.rows, seed=seed), seed, bar)
    return model.eval()


def open_reward(folder: Path) -> RewardModel:
    """A reward model that was trained before, ready to score."""
    return RewardModel.from_pretrained(folder, dtype=torch.float32).to(device_type()).eval()


def prefer(
    settings: DPO, run: Run, name: str, model: Decoder, pairs: Sequence[Pair], seed: int, bar: bool = True
) -> None:
    """Train a model in place on preferences; it is its own reference, as it was."""
    known = with_references(pairs, model.to(device_type()))
    loss = dpo_loss(settings.beta) if settings.objective == "dpo" else ipo_loss(settings.beta, per_token=True)
    tune(settings, run, name, model, loss, preference_batches(known, settings.rows, seed=seed), seed, bar)


def reinforce(
    settings: MDLOO,
    run: Run,
    name: str,
    model: Decoder,
    reference: Reference,
    tokenizer: Tokenizer,
    tasks: Callable[[int], Sequence[Task]],
    scorer: Scorer,
    seed: int,
    bar: bool = True,
) -> None:
    """Train a model in place by MDLOO, or do what a killed process left of it.

    Args:
        settings: of the method.
        run: takes a row an iteration, and checkpoints.
        name: of this training in the run.
        model: the policy.
        reference: what the reward's penalty is measured from.
        tokenizer: of the policy.
        tasks: iteration to its prompts.
        scorer: rewards.
        seed: of answers and orders; an iteration depends on (seed, iteration) and the weights alone.
        bar: whether to show progress.
    """
    model = model.to(device_type())
    state = _state(settings.lr, 0, settings.iterations, 1.0, model, seed)
    checkpoint.resume(run, state, name)
    steps_each = -(-settings.prompts * settings.k // settings.rows) * settings.passes
    done = state.step // steps_each
    run.rewind(done, name=name)  # its rows are iterations, of several steps each
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Interrupt() as interrupt, Progress(*columns, disable=not bar) as progress:
        shown = progress.add_task(name, total=settings.iterations, completed=done)
        for iteration in range(done, settings.iterations):
            row = _iteration(settings, state, reference, tokenizer, tasks(iteration), scorer, seed, iteration)
            run.log(iteration + 1, model=name, **row)
            advance(1.0)
            last = iteration + 1 == settings.iterations
            if last or interrupt.requested or (iteration + 1) % settings.save_every == 0:
                checkpoint.save(run, state, name)
            if interrupt.requested:
                raise KeyboardInterrupt
            progress.update(shown, advance=1, description=f"{name}: reward {row['reward']:.3f}")


def _iteration(
    settings: MDLOO,
    state: TrainState,
    reference: Reference,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    scorer: Scorer,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """Answers, rewards, and a few steps on them."""
    model = state.model
    assert isinstance(model, Decoder)
    draw = (seed << 20) + iteration
    sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens, seed=draw)
    answers = respond(model, tokenizer, [task.messages for task in tasks], settings.k, sampling)
    batch = policy_batch(
        model,
        [answer.sample for group in answers for answer in group],
        torch.tensor(scorer(tasks, answers)),
        reference=reference,
        beta=settings.beta,
        baseline=settings.baseline,
        temperature=settings.temperature,
    )
    loss = mdloo_loss(settings.gamma, old_head=batch.old_head, trust=settings.trust, temperature=settings.temperature)
    rows: list[dict[str, float]] = []
    for part in batch.minibatches(settings.rows, settings.passes, seed=draw):
        taken = train_step(state, loss, [part])
        rows.append({key: float(taken[key]) for key in ("policy", "kl", "ratio", "capped", "grad_norm")})
    finished = sum(answer.finished for group in answers for answer in group) / (len(answers) * settings.k)
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    return {**batch.metrics, "finished": finished, **means}
