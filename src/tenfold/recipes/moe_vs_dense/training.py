"""One model of the experiment: build it, time its steps, train it for a number of steps, measure it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit, train_step
from tenfold.core.flops import measure_peak
from tenfold.core.jobs import advance
from tenfold.core.mesh import batch_coordinate, build_mesh, device_type, is_main, maximum, shard
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import lm_loss
from tenfold.lm.parallel import parallelize_decoder
from tenfold.lm.score import evaluate
from tenfold.lm.steptime import StepMeter
from tenfold.lm.tasks import PAPER_TASKS, NotAvailable, find_task
from tenfold.nn.moe import collect_aux
from tenfold.nn.moe_parallel import gather_state, load_full_state
from tenfold.recipes.moe_vs_dense.config import Config
from tenfold.recipes.moe_vs_dense.text import Text, load_text
from tenfold.text.corpus import TokenWindows

TURNS = 25  # slices of a training; a slice of the laptop preset takes a second or two
CLOCKS: dict[str, Callable[[], float]] = {"process": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True)
class Job:
    """One training run.

    Args:
        family, width, seed: which model.
        protocol: "seconds" or "tokens".
        steps: optimizer steps, fixed before the start.
        step_s: measured seconds of one step of this model.
        budget_s: seconds that the dense model of this width trains.
        attempt: 0, or the how-manieth repeat of a run that missed the budget.
        profile: steps to trace; 0 is none.
    """

    family: str
    width: int
    seed: int
    protocol: str
    steps: int
    step_s: float
    budget_s: float
    attempt: int = 0
    profile: int = 0

    @property
    def run_name(self) -> str:
        """What it is; a repeat has the same."""
        return f"{self.family}-{self.width}-{self.protocol}-seed{self.seed}"

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.run_name + (f"-again{self.attempt}" if self.attempt else "")

    @property
    def expected_s(self) -> float:
        return self.steps * self.step_s


def build_state(
    config: Config, family: str, width: int, seed: int, steps: int, text: Text, mesh: DeviceMesh | None = None
) -> TrainState:
    """Model, AdamW, schedule and stream of one training run; weights and order of the text follow from the seed."""
    model = Decoder(config.decoder(family, width, text.tokenizer.vocab_size), torch.Generator().manual_seed(seed))
    model.to(device_type())
    if mesh is not None:
        shard(model, mesh, parallelize_decoder)
    rank, world = batch_coordinate(mesh)
    scale = min(1.0, config.optimizer.reference_width / width)
    rate = config.optimizer.learning_rate * scale
    return TrainState(
        model=model,
        optimizer=adamw(model, rate, weight_decay=config.optimizer.weight_decay),
        schedule=Schedule(max(1, round(config.optimizer.warmup * steps)), steps, config.optimizer.final),
        stream=TokenWindows(text.train, config.data.sequence, config.data.rows, seed, rank=rank, world=world),
        seed=seed,
    )


def time_steps(config: Config, width: int) -> dict[str, float]:
    """Median seconds of one training step of every family at one width, measured in turn on the same batches."""
    text = load_text(config.data)
    mesh = device_mesh(config)
    loss = lm_loss(z_loss=0.0)
    steps: dict[str, Callable[[], object]] = {}
    for family in config.families:
        state = build_state(config, family, width, config.seeds[0], 1_000_000, text, mesh)
        assert state.stream is not None
        batches = iter(state.stream)

        def step(state: TrainState = state, batches: Any = batches) -> None:
            batch = {name: value.to(device_type()) for name, value in next(batches).items()}
            train_step(
                state, loss, [batch], clip_norm=config.optimizer.clip_norm, precision=config.precision, mesh=mesh
            )

        steps[family] = step
    meter = StepMeter(clock=CLOCKS[config.budget.clock])
    measured = meter.measure_interleaved(steps, config.budget.timing_steps, config.data.step_tokens)
    medians = torch.tensor([figures["median"] for figures in measured.values()], dtype=torch.float64)
    slowest = maximum(medians.to(device_type()), mesh).tolist()  # all ranks must plan the same number of steps
    return dict(zip(measured, slowest, strict=True))


def device_mesh(config: Config) -> DeviceMesh | None:
    """The mesh of a run under torchrun; None for one process."""
    axes = asdict(config.mesh)
    return build_mesh(**axes) if math.prod(axes.values()) > 1 else None


def train_together(config: Config, run_path: str, jobs: list[Job]) -> list[dict[str, Any]]:
    """Train rival models in turns, a slice of each at a time, so that a machine that slows down slows all of them alike.

    Returns:
        a row of results for each job; those that an interrupted run finished are read back.
    """
    run = Run.open(run_path)
    text = load_text(config.data)
    mesh = device_mesh(config)
    states: dict[str, TrainState] = {}
    for job in jobs:
        if run.done(job.name):
            advance(job.expected_s)
            continue
        states[job.name] = build_state(config, job.family, job.width, job.seed, job.steps, text, mesh)
        checkpoint.resume(run, states[job.name], name=job.name)
        advance(states[job.name].step * job.step_s)
    for turn in range(1, TURNS + 1):
        for job in jobs:
            if job.name in states:
                step = math.ceil(job.steps * turn / TURNS)
                if job.profile:  # a trace lies within one turn, behind its three untraced steps
                    step = min(job.steps, max(step, job.profile + 4))
                train_until(config, run, job, states[job.name], step, text, mesh)
    return [finish(config, run, job, states.get(job.name), text) for job in jobs]


def train_until(
    config: Config, run: Run, job: Job, state: TrainState, step: int, text: Text, mesh: DeviceMesh | None
) -> None:
    """One turn of a model: train up to `step` and save."""
    if state.step >= step:
        return
    fit(
        state,
        lm_loss(z_loss=0.0),
        steps=step,
        run=run,
        name=job.name,
        clip_norm=config.optimizer.clip_norm,
        precision=config.precision,
        mesh=mesh,
        every=Every(log=max(1, job.steps // 50), save=config.save_every),
        after_step=lambda _: advance(job.step_s),
        flops_per_step=flops_per_step(config, job, text),
        peak_flops=peak_flops(config.precision) * (1 if mesh is None else mesh.size()),
        profile=job.profile or None if state.step == 0 else None,
        progress=False,  # the bar over all models is enough
        clock=CLOCKS[config.budget.clock],
    )


def finish(config: Config, run: Run, job: Job, state: TrainState | None, text: Text) -> dict[str, Any]:
    """Measure and save a trained model; without a state, read back what was measured.

    Returns:
        the job, parameter counts, tokens, seconds really used, losses, scores, loads of the experts.
    """
    if state is None:
        row: dict[str, Any] = run.load_stage(job.name, (*asdict(job), "name", "tokens", "seconds", "loss", "scores"))
        return row
    model = whole_model(config, job, state, text)
    if is_main():
        folder = run.path / "models" / job.name
        model.save_pretrained(folder)
        text.tokenizer.save(folder)
    row = {
        **asdict(job),
        "name": job.name,
        "params_total": model.num_params(embedding=True),
        "params_active": model.num_active_params(embedding=True),
        "tokens": job.steps * config.data.step_tokens,
        "seconds": state.seconds,
        **measure(config, model, text),
        "scores": score(config, model, text) if job.protocol == "seconds" and job.width == config.widths[-1] else {},
    }
    run.save_stage(job.name, row)
    return row


def flops_per_step(config: Config, job: Job, text: Text) -> float:
    """Operations of one training step, forward and backward, of all processes."""
    with torch.device("meta"):
        model = Decoder(config.decoder(job.family, job.width, text.tokenizer.vocab_size), torch.Generator())
    return 3 * model.flops_per_token(config.data.sequence) * config.data.step_tokens


@cache
def peak_flops(precision: str) -> float:
    """Operations a second of this device's matrix products, measured once a process."""
    device, dtype = device_type(), torch.bfloat16 if precision == "bf16" else torch.float32
    return measure_peak(device, dtype, size=1024 if device == "cpu" else 8192)


def whole_model(config: Config, job: Job, state: TrainState, text: Text) -> Decoder:
    """The trained model in one piece on every rank."""
    model = Decoder(config.decoder(job.family, job.width, text.tokenizer.vocab_size), torch.Generator())
    load_full_state(model, gather_state(state.model))
    return model.to(device_type())


@torch.no_grad()
def measure(config: Config, model: Decoder, text: Text) -> dict[str, Any]:
    """Validation loss in nats a token and bits a byte; share of tokens of each expert and its entropy (1: balanced)."""
    loss = lm_loss(z_loss=0.0)
    rows = torch.from_numpy(text.validation).to(next(model.parameters()).device)
    counts: list[torch.Tensor] = []
    nats = 0.0
    model.eval()
    for part in rows.split(config.data.rows):
        _, metrics = loss(model, {"ids": part[:, :-1], "targets": part[:, 1:]})
        nats += float(metrics["ce"]) * len(part) / len(rows)
        stats = collect_aux(model)[1]
        layers = (
            torch.stack([torch.as_tensor(layer["tokens_per_expert"]) for layer in stats.values()]) if stats else None
        )
        if layers is not None:
            counts.append(layers.double())
    model.train()
    found: dict[str, Any] = {"loss": nats, "bits_per_byte": nats / math.log(2) / text.bytes_per_token}
    if counts:
        share = torch.stack(counts).sum(0)
        share /= share.sum(1, keepdim=True)
        entropy = -(share * share.clamp_min(1e-30).log()).sum(1) / math.log(share.shape[1])
        found |= {"load": share.tolist(), "load_entropy": float(entropy.mean())}
    return found


def score(config: Config, model: Decoder, text: Text) -> dict[str, Any]:
    """Zero-shot scores on the paper's tasks and two more, on the first `eval_items` rows of each.

    Tasks with demonstrations do not fit into the short context of these models: they are left out, with that reason.
    """
    scores: dict[str, Any] = {}
    if not config.eval_items:
        return scores
    for name in (*PAPER_TASKS, "openbookqa", "blimp"):
        if find_task(name).paper_shots:
            scores[name] = {"reason": f"{find_task(name).paper_shots}-shot prompts exceed {model.cfg.max_len} tokens"}
            continue
        try:
            found = evaluate(model, text.tokenizer, [name], limit=config.eval_items)[name]
        except NotAvailable:
            scores[name] = {"reason": "no data"}
        else:
            scores[name] = {key: found[key] for key in ("acc", "acc_norm", "ppl", "stderr", "n")}
    model.train()
    return scores
