"""Solvers against flows whose end is known, and the grids they step along."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.diffusion.ddpm import LINEAR, Schedule
from tenfold.diffusion.solvers import FLOW_SOLVERS, Field, ddim, dpmpp2m, euler, flow_times, heun, schedule_times

NOISE = torch.linspace(-2, 2, 9, dtype=torch.float64)


def gaussian(mean: float, std: float) -> Field:
    """E[x_1 | x] − E[x_0 | x] of data N(mean, std²)."""

    def velocity(x: Tensor, t: float) -> Tensor:
        rest = (x - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2)
        return t * rest - (mean + (1 - t) * std**2 * rest)

    return velocity


def end(solver: Any, field: Field, times: list[float], *rest: Any) -> Tensor:
    *_, x = solver(field, NOISE, times, *rest)
    return x


def errors(solver: Any, mean: float, std: float, steps: list[int], **grid: Any) -> list[float]:
    """Largest distance from where the exact flow brings the noise: mean + std·z."""
    exact = mean + std * NOISE
    return [float((end(solver, gaussian(mean, std), flow_times(n, **grid)) - exact).abs().max()) for n in steps]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.3), (-1.0, 1.5), (0.2, 0.5)])
def test_order_of_the_solvers(mean: float, std: float, shift: float) -> None:
    for solver, factor, tolerance in ((euler, 2, 0.15), (heun, 4, 0.2)):
        for coarse, fine in pairwise(errors(solver, mean, std, [64, 128, 256], shift=shift)):
            assert abs(coarse / fine / factor - 1) <= tolerance, solver.__name__


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.3), (-1.0, 1.5), (0.2, 0.5)])
def test_order_of_dpmpp2m(mean: float, std: float) -> None:
    """In even steps of λ, away from the ends, where λ is infinite: the path is (1 − t)·mean + √V·z."""

    def on_path(t: float) -> Tensor:
        return (1 - t) * mean + math.sqrt((1 - t) ** 2 * std**2 + t**2) * NOISE

    found = []
    for steps in (64, 128, 256):
        times = torch.sigmoid(torch.linspace(3, -3, steps + 1, dtype=torch.float64)).tolist()
        *_, x = dpmpp2m(gaussian(mean, std), on_path(times[0]), times)
        found.append(float((x - on_path(times[-1])).abs().max()))
    for coarse, fine in pairwise(found):
        assert abs(coarse / fine / 4 - 1) <= 0.2


@pytest.mark.parametrize(("mean", "std"), [(0.7, 0.3), (-1.0, 1.5)])
def test_dpmpp2m_beats_euler_on_the_usual_grid(mean: float, std: float) -> None:
    """There its order is between one and two: the steps at both ends are long in λ."""
    coarse, fine = errors(dpmpp2m, mean, std, [64, 512])
    assert coarse / fine > 2.5**3
    assert coarse < errors(euler, mean, std, [64])[0] / 5


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", FLOW_SOLVERS)
@pytest.mark.parametrize("grid", ["uniform", "diffusers"])
def test_one_picture_is_reached_exactly(name: str, steps: int, grid: Any) -> None:
    """All paths to a single point are straight: one step is enough."""
    x = end(FLOW_SOLVERS[name], lambda x, t: (x - 0.3) / t, flow_times(steps, grid))
    torch.testing.assert_close(x, torch.full_like(x, 0.3), rtol=0, atol=1e-14)


def test_evaluations_of_each_solver() -> None:
    counts = {}
    for name, solver in FLOW_SOLVERS.items():
        seen: list[float] = []
        points = list(solver(lambda x, t: seen.append(t) or 0 * x, NOISE, flow_times(5)))  # noqa: B023
        assert len(points) == 5 and min(seen) > 0
        counts[name] = len(seen)
    assert counts == {"euler": 5, "heun": 9, "dpmpp2m": 5}


def test_two_steps_of_heun_by_hand() -> None:
    """v = x on t = 1, 1/2, 0: x (1 − ½·(1 + ½)/2) = ⅝ x, then Euler's ½."""
    points = list(heun(lambda x, t: x, torch.tensor([1.0]), [1.0, 0.5, 0.0]))
    assert [float(x) for x in points] == [0.625, 0.3125]


def test_dpmpp2m_by_hand() -> None:
    """Times 4/5, 1/2, 1/5, so that λ grows by log 4 twice; the data predicted are 1, 2, 3 in turn."""
    data = iter([1.0, 2.0, 3.0])
    field: Field = lambda x, t: (x - next(data)) / t  # noqa: E731
    points = [float(x) for x in dpmpp2m(field, torch.tensor([0.0], dtype=torch.float64), [0.8, 0.5, 0.2, 0.0])]
    first = 1 - 0.5 / 0.8  # of an estimate of 1
    second = 0.4 * first + 0.6 * 2.5  # 2 + (2 − 1)/2
    assert points == pytest.approx([first, second, 3])


# DDIM.


def gaussian_noise(mean: float, std: float) -> Field:
    """E[ε | x] of data N(mean, std²)."""

    def noise(x: Tensor, t: float) -> Tensor:
        share = float(LINEAR.alpha_bar[int(t)])
        return math.sqrt(1 - share) * (x - math.sqrt(share) * mean) / (share * std**2 + 1 - share)

    return noise


@pytest.mark.parametrize("grid", ["uniform", "diffusers"])
def test_ddim_converges_to_the_exact_map(grid: Any) -> None:
    mean, std, found = 0.7, 0.3, []
    for steps in (125, 250, 500):
        times = schedule_times(steps, grid)
        first = float(LINEAR.alpha_bar[times[0]])
        unit = (NOISE - math.sqrt(first) * mean) / math.sqrt(first * std**2 + 1 - first)
        x = end(ddim, gaussian_noise(mean, std), times, LINEAR)
        found.append(float((x - (mean + std * unit)).abs().max()))
    for coarse, fine in pairwise(found):
        assert abs(coarse / fine / 2 - 1) <= 0.15


def test_ddim_recovers_one_picture() -> None:
    schedule = Schedule(3, 0.1, 0.5)

    def noise(x: Tensor, t: float) -> Tensor:
        share = float(schedule.alpha_bar[int(t)])
        return (x - math.sqrt(share) * 0.3) / math.sqrt(1 - share)

    for steps in (1, 2, 3):
        x = end(ddim, noise, schedule_times(steps, total=3), schedule)
        torch.testing.assert_close(x, torch.full_like(x, 0.3), rtol=0, atol=1e-14)


# Grids.


def test_grids_by_hand() -> None:
    assert flow_times(4) == [1, 0.75, 0.5, 0.25, 0]
    assert flow_times(1) == flow_times(1, "diffusers") == [1, 0]
    assert flow_times(3, "diffusers") == pytest.approx([1, 0.5005, 0.001, 0])
    assert flow_times(2, shift=3) == pytest.approx([1, 0.75, 0])
    assert schedule_times(4) == [999, 749, 499, 249, -1]
    assert schedule_times(4, "diffusers") == [750, 500, 250, 0, -1]
    assert schedule_times(2, total=2) == [1, 0, -1]


@pytest.mark.parametrize("grid", ["uniform", "diffusers"])
@pytest.mark.parametrize("shift", [0.3, 1.0, 1.7, 3.0, 1e3])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 257])
def test_times_fall_from_1_to_0(grid: Any, shift: float, steps: int) -> None:
    times = flow_times(steps, grid, shift)
    assert len(times) == steps + 1
    assert times[0] == 1 and times[-1] == 0
    assert all(a > b for a, b in pairwise(times))
    assert torch.isfinite(end(dpmpp2m, gaussian(0.7, 0.3), times)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow_times(0), "steps: got 0, need at least 1"),
        (lambda: flow_times(-3, "diffusers"), "steps: got -3"),
        (lambda: schedule_times(0), "steps: got 0"),
        (lambda: schedule_times(1001), "steps: got 1001, need at most 1000"),
        (lambda: flow_times(4, "karras"), "grid: got 'karras', need one of uniform, diffusers"),
        (lambda: schedule_times(4, "karras"), "grid: got 'karras', need one of uniform, diffusers"),
        (lambda: flow_times(4, shift=0.0), "shift: got 0.0, need above 0"),
        (lambda: flow_times(4, shift=math.nan), "shift: got nan"),
    ],
)
def test_bad_grids(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
