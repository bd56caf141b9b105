"""Laws of schedules, parameter groups and clipping; sharded clipping is in test_mesh.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tenfold.core.optim import Schedule, adamw, adamw_groups, clip_grad_norm


def test_schedule_gold_values() -> None:
    cosine = Schedule(warmup=10, total=110, final_fraction=0.1)
    assert cosine(1) == 0.1  # the first step is taken at a tenth, not at zero
    assert cosine(10) == 1.0
    assert cosine(60) == pytest.approx(0.55)  # half-way down
    assert cosine(110) == cosine(500) == 0.1
    linear = Schedule(warmup=0, total=100, final_fraction=0.0, kind="linear")
    assert [linear(t) for t in (0, 25, 100)] == [1.0, 0.75, 0.0]
    constant = Schedule(warmup=4, total=10, kind="constant")
    assert [constant(t) for t in (1, 4, 99)] == [0.25, 1.0, 1.0]


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]))
def test_schedule_is_a_share_of_steps_or_of_a_budget(warmup: float, at: float, kind: str) -> None:
    share = Schedule(warmup, 1.0, 0.1, kind)  # type: ignore[arg-type]
    steps = Schedule(warmup * 1000, 1000, 0.1, kind)  # type: ignore[arg-type]
    assert 0 <= share(at) <= 1
    assert share(at) == pytest.approx(steps(at * 1000), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": 5, "total": 0}, "total: got 0"),
        ({"warmup": 11, "total": 10}, "warmup: got 11, need 0..10"),
        ({"warmup": 1, "total": 10, "final_fraction": 2.0}, "final_fraction: got 2.0"),
        ({"warmup": 1, "total": 10, "kind": "step"}, "kind: got 'step'"),
    ],
)
def test_schedule_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


def test_groups_decay_matrices_only_and_each_parameter_once() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 7))
    model[2].weight = model[0].weight  # tied
    model[1].bias.requires_grad_(False)
    decayed, free = adamw_groups(model, 0.1)
    assert [p.shape for p in decayed["params"]] == [(7, 4)]
    assert decayed["weight_decay"] == 0.1
    assert [p.shape for p in free["params"]] == [(4,), (7,)]
    assert free["weight_decay"] == 0.0


def test_adamw_step_by_hand() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(2.0)
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    model.weight.grad = torch.full((1, 1), 3.0)
    model.bias.grad = torch.full((1,), 3.0)
    optimizer.step()
    # A first Adam step is lr in the gradient's direction; decay takes lr * 0.5 of the matrix first.
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.05) - 0.1)
    assert model.bias.item() == pytest.approx(2.0 - 0.1)


def test_adamw_refuses_a_model_without_parameters() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        adamw(nn.ReLU(), 1e-3)
    with pytest.raises(ValueError, match="weight_decay: got -1"):
        adamw_groups(nn.Linear(1, 1), -1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0.01, 100), st.integers(0, 2**31))
def test_clip_equals_torch(sizes: list[int], max_norm: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = [nn.Parameter(torch.zeros(size, 3)) for size in sizes]
    for parameter in ours:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for mine, other in zip(ours, theirs, strict=True):
        other.grad = mine.grad.clone()
    norm = clip_grad_norm(ours, max_norm)
    assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(theirs, max_norm).item(), rel=1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_clip_mixes_dtypes_and_passes_over_missing_gradients() -> None:
    parameters = [nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float64, torch.bfloat16, torch.float32)]
    parameters[0].grad = torch.tensor([3.0, 0.0], dtype=torch.float64)
    parameters[1].grad = torch.tensor([0.0, 4.0], dtype=torch.bfloat16)
    assert clip_grad_norm(params=parameters, max_norm=2.5).item() == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([1.5, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([0.0, 2.0])
    assert parameters[2].grad is None


def test_clip_measures_only_and_sees_infinity() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    assert clip_grad_norm([parameter], None).item() == 50.0
    assert parameter.grad.tolist() == [30.0, 40.0]
    assert clip_grad_norm([], 1.0).item() == 0.0
    parameter.grad[0] = math.inf
    assert math.isinf(clip_grad_norm([parameter], 1.0).item())
    with pytest.raises(ValueError, match="max_norm: got 0"):
        clip_grad_norm([parameter], 0)
