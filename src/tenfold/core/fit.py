"""The training loop: one for all gradient training, made of parts that a nested loop can drive itself."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from tenfold.core import checkpoint, memory
from tenfold.core.ema import Ema
from tenfold.core.errors import UserError
from tenfold.core.interrupt import Interrupt
from tenfold.core.mesh import batch_coordinate, is_main, maximum, reduce_gradients, sum_over_batch
from tenfold.core.meter import Meter, Tracer
from tenfold.core.optim import Schedule, clip_grad_norm
from tenfold.core.progress import TrainingProgress
from tenfold.core.stream import Stream
from tenfold.core.tree import load_optimizer_state, optimizer_state

Precision = Literal["fp32", "bf16"]
Loss = Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Any]]]


class RunFolder(Protocol):
    """What the loop needs of a run."""

    @property
    def path(self) -> Path: ...
    def log(self, step: int, **metrics: Any) -> None: ...


class NonFiniteError(UserError):
    """The loss or the gradient norm became infinite or NaN; the weights are those before the step."""


@dataclass(frozen=True)
class Every:
    """Steps between log rows, evaluations and checkpoints; None: only after the last step."""

    log: int | None = 10
    eval: int | None = None
    save: int | None = None

    def __post_init__(self) -> None:
        for name, steps in dataclasses.asdict(self).items():
            if steps is not None and steps < 1:
                raise ValueError(f"{name}: got {steps}, need at least 1 or None")


@dataclass
class TrainState:
    """All that changes while a model is trained: what a checkpoint holds.

    Args:
        model: the module; sharded already where it is to be.
        optimizer: over parameters of the model. With `handles_clipping = True` it gets raw gradients and decides
            itself what a non-finite norm means.
        schedule: multiplier of the optimizer's learning rates; its argument is the number of steps done once the
            current one is finished, or the share of the budget used so far when training stops at a number of seconds.
            None keeps the rates. A restored checkpoint brings back its own `Schedule`.
        stream: micro-batches; None where the caller hands them to `train_step` itself.
        step: steps done.
        seed: of all random numbers drawn in the model's forward passes.
        progress: share of the time budget used, in [0, 1]; None where training is counted in steps.
        seconds: time spent in training steps.
        ema: moving average of the parameters, if one is kept.
        last_loss: of the latest step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float], float] | None = None
    stream: Stream | None = None
    step: int = 0
    seed: int = 0
    progress: float | None = None
    seconds: float = 0.0
    ema: Ema | None = None
    last_loss: float | None = None

    def __post_init__(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of tensors, numbers and strings; optimizer state goes by parameter name."""
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "schedule": dataclasses.asdict(self.schedule) if isinstance(self.schedule, Schedule) else None,
            "stream": None if self.stream is None else self.stream.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            **{name: getattr(self, name) for name in ("step", "seed", "progress", "seconds", "last_loss")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        if state["schedule"] is not None:
            self.schedule = Schedule(**state["schedule"])
        if self.stream is not None and state["stream"] is not None:
            self.stream.load_state_dict(state["stream"])
        self.ema = None
        if state["ema"] is not None:
            self.ema = Ema(self.model, state["ema"]["decay"])
            self.ema.load_state_dict(state["ema"])
        for name in ("step", "seed", "progress", "seconds", "last_loss"):
            setattr(self, name, state[name])


def forward_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """Seed of one forward pass: dropout and jitter depend on these four numbers and on nothing else."""
    packed = struct.pack("<qqqq", seed, step, micro_batch, rank)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def train_step(
    state: TrainState,
    loss: Loss,
    batches: Sequence[Any],
    *,
    clip_norm: float | None = 1.0,
    precision: Precision = "fp32",
    mesh: DeviceMesh | None = None,
) -> dict[str, Any]:
    """One optimizer step over the micro-batches of one batch; depends on its arguments alone and changes `state`.

    Each micro-batch counts by its weight, its number of targets: one batch of 128 equals eight of 16 equals two ranks
    with 64 each. Other metrics are averaged with the same weights. Without any target all of them are 0.

    Args:
        loss: `loss(model, batch)` gives the mean over the batch's targets, and metrics (numbers or tensors without
            dimensions) with "weight", the number of those targets.
        batches: this rank's micro-batches, on the model's device.
        clip_norm: largest 2-norm of the gradient; None leaves it.
        precision: "bf16" runs the forward pass under autocast; parameters and their sums stay as they are.
        mesh: over which the other parts of the batch lie.
    Returns:
        "loss", "grad_norm" (before clipping), "lr", "weight" (of the whole batch) as floats, and the other metrics.
    Raises:
        NonFiniteError: a loss or gradient norm that is infinite or NaN; the weights are untouched.
    """
    if not batches:
        raise ValueError("batches: got none, need at least one micro-batch")
    optimizer = state.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rank, world = batch_coordinate(mesh)
    device = parameters[0].device
    alone = world == 1 and len(batches) == 1
    lr = _set_learning_rate(state)
    optimizer.zero_grad()
    totals: dict[str, Any] = {}
    for index, batch in enumerate(batches):
        _seed_torch(device, forward_seed(state.seed, state.step, index, rank))
        with _autocast(device, precision):
            value, metrics = loss(state.model, batch)
        if "weight" not in metrics:
            raise ValueError('loss: its metrics lack "weight", the number of targets of the batch')
        # Sums over targets, so that parts add up, divided at the end; a lone part is a mean already, 0 without any.
        share = metrics["weight"] != 0 if alone else metrics["weight"]
        (value * share).backward()
        _add(totals, {**metrics, "loss": value.detach()}, share)
    if not alone:
        totals = _average(totals, mesh)
        reduce_gradients(parameters, mesh)
        _scale_gradients(parameters, totals["weight"])
    raw = getattr(optimizer, "handles_clipping", False)
    norm = clip_grad_norm(parameters, None if raw else clip_norm)
    loss_value, norm_value = torch.stack([totals["loss"].to(norm), norm]).tolist()  # the step's one wait for the device
    _check_finite(state, "loss", loss_value, lr)
    if not raw:
        _check_finite(state, "gradient norm", norm_value, lr)
    optimizer.step()
    if state.ema is not None:
        state.ema.update()
    state.step += 1
    state.last_loss = loss_value
    return {**totals, "loss": loss_value, "grad_norm": norm_value, "lr": lr, "weight": float(totals["weight"])}


def _set_learning_rate(state: TrainState) -> float:
    if state.schedule is not None:
        multiplier = state.schedule(state.step + 1 if state.progress is None else state.progress)
        for group in state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * multiplier
    return float(state.optimizer.param_groups[0]["lr"])


def _seed_torch(device: torch.device, seed: int) -> None:
    """`torch.manual_seed` for the devices in use; on the others it would format a stack trace on every call."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _autocast(device: torch.device, precision: Precision) -> Any:
    if precision == "fp32":
        return nullcontext()
    if precision != "bf16":
        raise ValueError(f"precision: got {precision!r}, need 'fp32' or 'bf16'")
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _add(totals: dict[str, Any], metrics: Mapping[str, Any], weight: Any) -> None:
    for name, value in metrics.items():
        value = value.detach() if isinstance(value, Tensor) else value
        part = value if name == "weight" else value * weight
        totals[name] = totals[name] + part if name in totals else part


def _average(totals: dict[str, Any], mesh: DeviceMesh | None) -> dict[str, Any]:
    """Weighted sums of this rank -> weighted means over all ranks; "weight" becomes the total."""
    names = sorted(totals)
    device = totals["loss"].device
    values = [torch.as_tensor(totals[name], dtype=torch.float64, device=device) for name in names]
    summed = dict(zip(names, sum_over_batch(torch.stack(values), mesh), strict=True))
    weight = summed.pop("weight")
    return {**{name: value / _divisor(weight) for name, value in summed.items()}, "weight": weight}


def _scale_gradients(parameters: Sequence[nn.Parameter], weight: Tensor) -> None:
    grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in parameters if p.grad is not None]
    if grads:
        torch._foreach_div_(grads, _divisor(weight).to(grads[0].dtype))


def _divisor(weight: Tensor) -> Tensor:
    """The weight of a batch; 1 where it has no target, so that its mean is 0 and not NaN."""
    return weight.where(weight != 0, 1)


def _check_finite(state: TrainState, what: str, value: float, lr: float) -> None:
    if not math.isfinite(value):
        last = "none" if state.last_loss is None else f"{state.last_loss:.6g}"
        raise NonFiniteError(
            f"{what} is {value} at step {state.step + 1} (learning rate {lr:.3g}, last finite loss {last}): "
            "the last checkpoint is kept; lower the learning rate or lengthen its warm-up"
        )


def fit(
    state: TrainState,
    loss: Loss,
    *,
    run: RunFolder,
    steps: int | None = None,
    seconds: float | None = None,
    name: str = "main",
    clip_norm: float | None = 1.0,
    accumulate: int = 1,
    precision: Precision = "fp32",
    ema: float | None = None,
    mesh: DeviceMesh | None = None,
    every: Every = Every(),
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    after_step: Callable[[TrainState], None] | None = None,
    flops_per_step: float | None = None,
    peak_flops: float | None = None,
    profile: int | None = None,
    progress: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainState:
    """Train until `state.step` is `steps`, or until `seconds` are spent in training steps.

    A state restored by `checkpoint.resume` goes on where it stood: with the same arguments the weights after the
    last step are bit-equal to those of a run that was never stopped. Ctrl-C finishes the step, saves a checkpoint and
    raises KeyboardInterrupt.

    Args:
        loss: as in `train_step`.
        run: folder that takes log rows, checkpoints and traces.
        steps: steps in all, counted from the first; or
        seconds: the time budget. Evaluation, logging and saving do not count. The share each step used is kept in the
            checkpoint, and the schedule goes by it.
        name: of this training within the run; its checkpoints and log rows carry it.
        accumulate: micro-batches of the stream that make one step.
        ema: decay of a moving average of the parameters; None keeps none.
        every: steps between log rows, evaluations and checkpoints; each also comes after the last step.
        evaluate: of the model in evaluation mode, without gradients, with averaged parameters if `ema` is on; its
            figures are logged under the names it gives.
        after_step: called after each optimizer step, such as for the bias of a router.
        flops_per_step, peak_flops: operations of one step (forward and backward) and of the machine in a second (see
            `flops.measure_peak`); given both, "mfu", the share of the peak, is logged.
        profile: steps to trace, after three untraced ones; the trace goes to `profiles/` in the run folder.
        progress: show a bar, or lines in a log file; False where the caller shows progress of its own.
        clock: seconds.
    Returns:
        The state, trained.
    Raises:
        NonFiniteError: as in `train_step`; the last checkpoint stays as it is.
        UserError: no more data, or no room for a checkpoint.
    """
    if (steps is None) == (seconds is None):
        raise ValueError(f"steps, seconds: got {steps}, {seconds}, need exactly one of them")
    if steps is not None and steps < 1:
        raise ValueError(f"steps: got {steps}, need at least 1")
    if accumulate < 1:
        raise ValueError(f"accumulate: got {accumulate}, need at least 1")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds: got {seconds}, need > 0")
    if state.stream is None:
        raise ValueError("stream: got None, need a stream of batches")
    state.progress = None if seconds is None else state.progress or 0.0
    if ema is not None and state.ema is None:
        state.ema = Ema(state.model, ema)

    def done() -> float:
        return state.step / steps if steps else state.progress or 0.0

    main = is_main()
    device = next(state.model.parameters()).device
    micro_batches = _endless(state.stream)
    meter = Meter(flops_per_step, peak_flops)
    state.model.train()
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        bar = stack.enter_context(TrainingProgress(name, shown=main and progress))
        trace = run.path / "profiles" / f"{name}-step-{state.step:08d}.json"
        tracer = stack.enter_context(Tracer(trace, profile if main else None))
        while done() < 1:
            start = clock()
            batches = [_to_device(next(micro_batches), device) for _ in range(accumulate)]
            metrics = train_step(state, loss, batches, clip_norm=clip_norm, precision=precision, mesh=mesh)
            if after_step is not None:
                after_step(state)
            spent, stop = _agree(clock() - start, interrupt.requested, mesh)
            state.seconds += spent
            if seconds is not None:
                state.progress = min(1.0, (state.progress or 0.0) + spent / seconds)
            meter.add(metrics["weight"], spent)
            tracer.step()
            last = done() >= 1
            bar.update(done(), state.step, metrics["loss"], meter.rate)
            if main and (last or stop or _due(state, every.log)):
                run.log(state.step, model=name, **_floats(metrics), seconds=state.seconds, **meter.read())
            if evaluate is not None and (last or _due(state, every.eval)):
                figures = _evaluate(state, evaluate)
                if main:
                    run.log(state.step, model=name, **figures)
            if last or stop or _due(state, every.save):
                checkpoint.save(run, state, name)
            memory.give_back()
            if stop or (last and interrupt.requested):  # asked for during the last evaluation: the caller must hear it
                raise KeyboardInterrupt
    return state


def _due(state: TrainState, every: int | None) -> bool:
    return every is not None and state.step % every == 0


def _endless(stream: Stream) -> Iterator[Any]:
    """Micro-batches; a stream that ends after a pass, as loaders do, is started again."""
    while True:
        empty = True
        for batch in stream:
            empty = False
            yield batch
        if empty:
            raise UserError("data: the stream has no batch left; give it more epochs, or train for fewer steps")


def _to_device(batch: Any, device: torch.device) -> Any:
    """Copy of a batch (tensors in dicts, lists, tuples and dataclasses) on the device; the batch itself on a CPU."""
    if device.type == "cpu":
        return batch
    return tree_map(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)


def _agree(spent: float, stop: bool, mesh: DeviceMesh | None) -> tuple[float, bool]:
    """The slowest rank's seconds, and whether any rank was asked to stop: all ranks must take the same turns."""
    if mesh is None or mesh.size() == 1:
        return spent, stop
    slowest, asked = maximum(torch.tensor([spent, float(stop)], dtype=torch.float64), mesh).tolist()
    return slowest, asked > 0


def _evaluate(state: TrainState, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> Mapping[str, float]:
    state.model.eval()
    with torch.no_grad(), nullcontext() if state.ema is None else state.ema.applied():
        figures = evaluate(state.model)
    state.model.train()
    return figures


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
