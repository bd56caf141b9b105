"""AdaStar against its equations written out in NumPy, against Adam, and in the training loop."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tenfold.core.adastar as adastar_file
from tenfold.core import checkpoint
from tenfold.core.adastar import AdaStar, plain_groups
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import Schedule, adamw
from tenfold.core.stream import ArrayStream

SHAPES = [(6, 5), (5,), (3, 2, 4), ()]
OFF: dict[str, Any] = {"clip_norm": None, "drop_norm": None, "update_clip": None}


def by_the_book(
    weights: list[np.ndarray],
    gradients: list[list[np.ndarray]],
    *,
    lr: float,
    mult: list[float],
    betas: tuple[float, float] = (0.95, 0.95),
    weight_decay: float = 3.16e-4,
    schedule: Any = lambda t: 1.0,
    clip_norm: float | None = 1.0,
    drop_norm: float | None = 100.0,
    update_clip: float | None = 1.0,
    momentum_on: str = "update",
    debias_momentum: bool = False,
    eps: float = 0.0,
) -> tuple[list[np.ndarray], int]:
    """Tensor by tensor, as the equations stand. Returns the weights and the number of skipped steps."""
    weights = [w.copy() for w in weights]
    m, v = ([np.zeros_like(w) for w in weights] for _ in range(2))
    t = skipped = 0
    for step in gradients:
        norm = math.sqrt(sum(float((g**2).sum()) for g in step))
        if not math.isfinite(norm) or (drop_norm is not None and norm >= drop_norm):
            skipped += 1
            continue
        t += 1
        for i, g in enumerate(step):
            if clip_norm is not None:
                g = g * min(1, clip_norm / (norm + 1e-8))
            v[i] = betas[1] * v[i] + (1 - betas[1]) * (g**2 + 1e-30)
            root = np.sqrt(v[i] / (1 - betas[1] ** t)) + eps
            m_scale = 1 / (1 - betas[0] ** t) if debias_momentum else 1.0
            if momentum_on == "gradient":
                m[i] = betas[0] * m[i] + (1 - betas[0]) * g
                u = m[i] * m_scale / root
            else:
                u = g / root
            if update_clip is not None:
                u = u / max(1, math.sqrt((u**2).mean()) / update_clip)
            if momentum_on == "update":
                m[i] = betas[0] * m[i] + (1 - betas[0]) * u
                u = m[i] * m_scale
            weights[i] = weights[i] - schedule(t) * (lr * mult[i] * u + weight_decay * weights[i])
    return weights, skipped


def gradients(steps: int, scale: float = 1.0, seed: int = 0) -> list[list[np.ndarray]]:
    """Of very different sizes, some rows 0, so that every clip and the 1e-30 count."""
    draw = np.random.default_rng(seed)
    out = []
    for step in range(steps):
        row = [np.asarray(draw.normal(size=shape) * scale * 10.0 ** draw.integers(-3, 1)) for shape in SHAPES]
        if step % 3 == 0:
            row[0][1] = 0.0
        out.append(row)
    return out


def parameters(seed: int = 1) -> list[nn.Parameter]:
    draw = np.random.default_rng(seed)
    return [nn.Parameter(torch.from_numpy(np.asarray(draw.normal(size=shape)))) for shape in SHAPES]


def run(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: list[list[np.ndarray]]) -> None:
    for step in steps:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": Schedule(5, 18, 0.005)},
        {"betas": (0.9, 0.99), "weight_decay": 0.1, "eps": 1e-3, "update_clip": 0.3},
        {"momentum_on": "gradient"},
        {"momentum_on": "gradient", "debias_momentum": True, "eps": 1e-8},
        {"debias_momentum": True, "clip_norm": 0.01, "drop_norm": 30.0},
        {**OFF, "weight_decay": 0.0},
        {**dict.fromkeys(OFF, math.inf), "betas": (0.0, 0.5)},
    ],
    ids=str,
)
def test_equals_the_equations_with_skipped_steps(options: dict[str, Any]) -> None:
    steps = gradients(20)
    steps[4] = [g * 1e6 for g in steps[4]]  # a norm far above 100
    steps[7][2][0, 0, 0] = np.nan
    steps[8][1][3] = np.inf
    weights = parameters()
    expected, skipped = by_the_book(
        [w.detach().numpy() for w in weights], steps, lr=0.02, mult=[1, 1, 0.25, 1], **options
    )
    groups = [{"params": weights[:2]}, {"params": weights[2:3], "lr_mult": 0.25}, {"params": weights[3:]}]
    optimizer = AdaStar(groups, 0.02, **options)
    run(optimizer, weights, steps)
    assert optimizer.skipped == skipped == (2 if options.get("drop_norm", 100) in (None, math.inf) else 3)
    assert optimizer.steps == 20 - skipped
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), value, rtol=1e-12, atol=1e-12)


def test_first_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -2.0], dtype=torch.float64))
    weight.grad = torch.tensor([0.3, -0.4], dtype=torch.float64)
    AdaStar([weight], lr=0.1).step()
    # v is debiased, so u = ±1 whatever the gradient; m is not, so the step is a twentieth; the decay knows no lr.
    assert weight.tolist() == pytest.approx([2 * (1 - 3.16e-4) - 0.1 * 0.05, -2 * (1 - 3.16e-4) + 0.1 * 0.05])


def test_the_limit_of_the_norm_itself_is_skipped() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = AdaStar([weight], drop_norm=100)
    for norm, skipped in ((100.0, 1), (99.0, 1), (math.inf, 2)):
        weight.grad = torch.tensor([norm])
        optimizer.step()
        assert optimizer.skipped == skipped


@pytest.mark.parametrize("momentum_on", ["update", "gradient"])
def test_the_scale_of_the_gradients_does_not_matter(momentum_on: Any) -> None:
    first, second = parameters(), parameters()
    options: dict[str, Any] = {"clip_norm": None, "drop_norm": None, "momentum_on": momentum_on}
    for weights, scale in ((first, 1.0), (second, 7.0)):
        run(AdaStar(weights, **options), weights, gradients(10, scale))
    for mine, other in zip(first, second, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_on_the_gradient_without_clips_it_is_adam_with_decoupled_decay() -> None:
    ours, theirs = parameters(), parameters()
    options: dict[str, Any] = {"momentum_on": "gradient", "debias_momentum": True, "eps": 1e-8, **OFF}
    run(AdaStar(ours, 0.01, betas=(0.9, 0.95), weight_decay=1e-3, **options), ours, gradients(20))
    adam = torch.optim.AdamW(theirs, 0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    run(adam, theirs, gradients(20))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_gradients_are_left_as_they_are_and_missing_ones_passed_over() -> None:
    weights = parameters()
    optimizer = AdaStar(weights)
    before = weights[1].detach().clone()
    (step,) = gradients(1, scale=50)
    for i in (0, 2):
        weights[i].grad = torch.from_numpy(step[i].copy())
    optimizer.step()
    np.testing.assert_array_equal(weights[0].grad.numpy(), step[0])
    assert torch.equal(weights[1], before) and weights[1] not in optimizer.state
    # A tensor that comes in late takes a first step of its own: u = ±1.
    weights[0].grad = weights[2].grad = None
    weights[1].grad = torch.full((5,), 1e-3, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(weights[1].detach(), before * (1 - 3.16e-4) - 0.01 * 0.05)


def test_the_closures_value_is_returned_also_by_a_skipped_step() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = AdaStar([weight])
    losses = []
    for factor in (1.0, 1e4):

        def closure(factor: float = factor) -> Any:
            optimizer.zero_grad()
            loss = factor * weight.square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    assert losses[0] == 9.0 and losses[1] == pytest.approx(1e4 * 9.0, rel=0.01)
    assert optimizer.skipped == 1


def test_tensors_updated_together_or_alone_are_bit_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    together, alone = parameters(), parameters()
    run(AdaStar(together), together, gradients(5))
    monkeypatch.setattr(adastar_file, "_IN_CACHE", 1)
    run(AdaStar(alone), alone, gradients(5))
    for mine, other in zip(together, alone, strict=True):
        assert torch.equal(mine, other)


# State


def test_state_round_trip_is_exact() -> None:
    straight, stopped = parameters(), parameters()
    steps = gradients(10)
    steps[2][0][0, 0] = np.nan
    schedule = Schedule(3, 10)
    run(AdaStar(straight, schedule=schedule), straight, steps)
    optimizer = AdaStar(stopped, schedule=schedule)
    run(optimizer, stopped, steps[:5])
    fresh = AdaStar(stopped, lr=0.5, schedule=schedule)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (fresh.steps, fresh.skipped) == (4, 1)
    run(fresh, stopped, steps[5:])
    for mine, other in zip(stopped, straight, strict=True):
        assert torch.equal(mine, other)


def test_a_deep_copy_goes_on_like_the_original() -> None:
    weights = parameters()
    optimizer = AdaStar(weights, schedule=Schedule(3, 10), clip_norm=0.5)
    run(optimizer, weights, gradients(4))
    twin = copy.deepcopy({"weights": weights, "optimizer": optimizer})
    for w, o in ((weights, optimizer), (twin["weights"], twin["optimizer"])):
        run(o, w, gradients(3, seed=5))
    for mine, other in zip(weights, twin["weights"], strict=True):
        assert mine is not other and torch.equal(mine, other)


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, step: int, **metrics: Any) -> None: ...

    def rewind(self, step: int, name: str | None = None) -> None: ...


def make(schedule: Schedule | None, own: Schedule | None = None) -> TrainState:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    groups = [{"params": list(model[0].parameters()), "lr_mult": 0.5}, {"params": list(model[2].parameters())}]
    x = torch.randn(32, 4, generator=generator, dtype=torch.float64)
    stream = ArrayStream({"x": x, "y": x.sum(1)}, 8, seed=2)
    return TrainState(model, AdaStar(groups, schedule=own), schedule, stream)


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
    error = model(batch["x"])[:, 0] - batch["y"]
    return error.square().mean(), {"weight": len(error)}


def train(state: TrainState, steps: int) -> None:
    batches = iter(state.stream)
    for _ in range(steps):
        train_step(state, loss, [next(batches)])


def test_the_schedule_of_the_loop_equals_its_own() -> None:
    schedule = Schedule(3, 10, 0.005)
    outside, inside = make(schedule), make(None, schedule)
    for state in (outside, inside):
        train(state, 10)
    assert outside.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.005)
    for mine, other in zip(outside.model.parameters(), inside.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-13)


def test_two_schedules_at_a_time_are_refused() -> None:
    state = make(Schedule(3, 10), Schedule(3, 10))
    before = copy.deepcopy(state.optimizer.state_dict())
    with pytest.raises(ValueError, match=r"schedule: got one of AdaStar's own and a learning rate changed from 0.01"):
        train(state, 1)
    assert state.optimizer.state_dict()["state"] == before["state"] == {}


def test_the_loop_leaves_clipping_to_it_and_lives_through_a_bad_gradient() -> None:
    state = make(None)

    def poisoned(model: nn.Module, batch: Any) -> Any:
        value, metrics = loss(model, batch)
        # A finite loss whose gradient is not.
        return value + (model[0].weight.sum() * 0).sqrt(), metrics

    before = [w.detach().clone() for w in state.model.parameters()]
    metrics = train_step(state, poisoned, [next(iter(state.stream))])
    assert not math.isfinite(metrics["grad_norm"]) and state.optimizer.skipped == 1
    for weight, value in zip(state.model.parameters(), before, strict=True):
        assert torch.equal(weight, value)


def test_resume_from_a_checkpoint_is_bit_equal(tmp_path: Path) -> None:
    straight, stopped, resumed = (make(Schedule(3, 10)) for _ in range(3))
    train(straight, 8)
    train(stopped, 4)
    stopped.optimizer.skipped = 2
    checkpoint.save(Folder(tmp_path), stopped)
    assert checkpoint.resume(Folder(tmp_path), resumed)
    assert (resumed.optimizer.steps, resumed.optimizer.skipped) == (4, 2)
    train(resumed, 4)
    for mine, other in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_another_optimizers_checkpoint_is_refused(tmp_path: Path) -> None:
    state = make(None)
    train(state, 1)
    checkpoint.save(Folder(tmp_path), state)
    other = TrainState(state.model, adamw(state.model, 0.01), None, state.stream)
    with pytest.raises(ValueError, match="got AdamW, need AdaStar"):
        checkpoint.resume(Folder(tmp_path), other)


SHARDED = """
import torch
from torch import nn
from tenfold.core.adastar import AdaStar
from tenfold.core.fit import TrainState, train_step
from tenfold.core.mesh import batch_coordinate, build_mesh, shard
from tenfold.core.optim import Schedule
from torch.distributed.tensor import Shard, distribute_tensor

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.scale = nn.Parameter(torch.ones(1, 6))  # one row: some ranks hold nothing of it
    def forward(self, x):
        for block in self.blocks:
            x = x + block(x).tanh()
        return x * self.scale

def loss(model, batch):
    error = model(batch) - batch.flip(1)
    return error.square().mean(), {"weight": error.numel()}

generator = torch.Generator().manual_seed(0)
values = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in Model().parameters()]
x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
mesh = build_mesh(data=2)
rank, world = batch_coordinate(mesh)
states = []
for spread in (False, True):
    model = Model().double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    if spread:
        shard(model, mesh)
    # A clip far below 1 acts in every step.
    optimizer = AdaStar(model.parameters(), 0.05, update_clip=0.2, betas=(0.5, 0.9))
    state = TrainState(model, optimizer, Schedule(2, 6))
    for step in range(6):
        rows = x[rank * 4 : rank * 4 + 4] if spread else x
        train_step(state, loss, [rows * (1e4 if step == 3 else 1)], mesh=mesh if spread else None)
    states.append(state)
alone, together = states
assert alone.optimizer.skipped == together.optimizer.skipped == 1
for mine, theirs in zip(together.model.parameters(), alone.model.parameters(), strict=True):
    torch.testing.assert_close(mine.full_tensor(), theirs, rtol=1e-12, atol=1e-12)

# A gradient placed otherwise than its weight.
weight = nn.Parameter(distribute_tensor(values[1], mesh["data"], [Shard(0)]))
weight.grad = distribute_tensor(values[3], mesh["data"], [Shard(1)])
whole = nn.Parameter(values[1].clone())
whole.grad = values[3].clone()
for parameter in (weight, whole):
    AdaStar([parameter], update_clip=0.1).step()
torch.testing.assert_close(weight.full_tensor(), whole, rtol=1e-12, atol=1e-12)
torch.distributed.barrier()
"""


def test_sharded_tensors_take_the_step_of_whole_ones(processes) -> None:
    processes.run(SHARDED, world=2)


# Options


def test_plain_groups_give_adamw_the_same_decay() -> None:
    weights, same = parameters(), parameters()
    groups = [{"params": weights[:2]}, {"params": weights[2:], "lr_mult": 0.25, "weight_decay": 0.02}]
    plain = plain_groups(groups, lr=0.1, weight_decay=0.01)
    assert [group["lr"] for group in plain] == [0.1, 0.025]
    assert all("lr_mult" not in group for group in plain) and "lr_mult" in groups[1]
    run(torch.optim.AdamW(plain), weights, [[np.zeros(shape) for shape in SHAPES]])
    for weight, old, kept in zip(weights, same, (0.99, 0.99, 0.98, 0.98), strict=True):
        torch.testing.assert_close(weight, old * kept)
    with pytest.raises(ValueError, match="lr · lr_mult: got 0"):
        plain_groups([{"params": weights, "lr_mult": 0.0}], 0.1, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr: got 0.0, need > 0"),
        ({"lr": math.nan}, "lr: got nan"),
        ({"betas": (0.9, 1.0)}, r"betas: got \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, "betas: got"),
        ({"weight_decay": -1e-4}, "weight_decay: got -0.0001, need >= 0"),
        ({"eps": -1.0}, "eps: got -1.0"),
        ({"clip_norm": 0.0}, "clip_norm: got 0.0, need > 0 or None"),
        ({"drop_norm": -1.0}, "drop_norm: got -1.0"),
        ({"update_clip": 0.0}, "update_clip: got 0.0"),
        ({"momentum_on": "weights"}, "momentum_on: got 'weights', need 'update' or 'gradient'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaStar(parameters(), **options)


def test_refuses_groups_and_types() -> None:
    with pytest.raises(ValueError, match="lr_mult: got -1"):
        AdaStar([{"params": parameters(), "lr_mult": -1}])
    with pytest.raises(ValueError, match=r"params: got torch\.bfloat16, need float32 or float64"):
        AdaStar([nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))])
