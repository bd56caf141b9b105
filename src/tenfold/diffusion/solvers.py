"""From noise to data: grids of times, and the solvers that step along them.

A solver takes a field (what a model predicts at a point and a time), a first point and the times, and yields the point
at every later time. Flow time falls from 1 (noise) to 0 (data); steps of a noise schedule fall to −1, which is the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

from tenfold.diffusion.ddpm import Schedule

Grid = Literal["uniform", "diffusers"]
Field = Callable[[Tensor, float], Tensor]
Solver = Callable[[Field, Tensor, Sequence[float]], Iterator[Tensor]]


def flow_times(steps: int, grid: Grid = "uniform", shift: float = 1.0) -> list[float]:
    """Times of a flow, from 1 down to 0.

    Args:
        steps: n, at least 1.
        grid: "uniform", t_i = 1 − i/n; or "diffusers", that of its FlowMatchEulerDiscreteScheduler, which spreads n
            times evenly down to 1/1000 and then jumps to 0.
        shift: s > 0 in t ← s·t / (1 + (s − 1)·t); above 1 spends more steps near the noise. With "diffusers" also the
            last time above 0 is shifted twice, since that scheduler shifts its training times before it spreads them.
    Returns:
        n + 1 times.
    Raises:
        ValueError: a setting out of range.
    Source: Esser et al. 2024, arXiv 2403.03206, Eq. 23 (shift).
    """
    _check(steps, grid)
    if not 0 < shift < math.inf:
        raise ValueError(f"shift: got {shift}, need above 0")

    def shifted(t: float) -> float:
        return shift * t / (shift * t + (1 - t))  # 1 + (s − 1)·t, summed so that 1 stays 1 in floating point

    if grid == "uniform":
        return [shifted(1 - i / steps) for i in range(steps + 1)]
    last = shifted(1 / 1000)
    return [shifted(1 - (1 - last) * i / max(steps - 1, 1)) for i in range(steps)] + [0.0]


def schedule_times(steps: int, grid: Grid = "uniform", *, total: int = 1000) -> list[int]:
    """Steps of a noise schedule, downwards, and −1 for the data.

    Args:
        steps: n in 1..total.
        grid: "uniform", from the last step in even strides, the flow's grid scaled up; or "diffusers", its DDIM
            scheduler's own, even strides that end at step 0.
        total: T.
    Returns:
        n + 1 numbers.
    Raises:
        ValueError: a setting out of range.
    Source: Lin et al. 2023, arXiv 2305.08891, Table 2 ("trailing" and "leading").
    """
    _check(steps, grid)
    if steps > total:
        raise ValueError(f"steps: got {steps}, need at most {total} (the schedule's)")
    if grid == "uniform":
        return [round(total * (1 - i / steps)) - 1 for i in range(steps + 1)]
    return [total // steps * i for i in reversed(range(steps))] + [-1]


def euler(velocity: Field, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """x ← x + (t' − t)·v(x, t): one evaluation a step, first order."""
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * velocity(x, t)
        yield x


def heun(velocity: Field, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """Euler's step with the mean of the velocities at both of its ends: two evaluations a step, second order.

    The step to t = 0 is Euler's: models are not trained at the data itself.
    """
    for t, t_next in pairwise(times):
        slope = velocity(x, t)
        if t_next > 0:
            slope = (slope + velocity(x + (t_next - t) * slope, t_next)) / 2
        x = x + (t_next - t) * slope
        yield x


def dpmpp2m(velocity: Field, x: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """DPM-Solver++(2M): steps in λ = log((1 − t)/t) that extrapolate the predicted data x_0 = x − t·v.

    One evaluation a step, second order; first order where λ is infinite (after t = 1, and to t = 0).
    Source: Lu et al. 2022, arXiv 2211.01095, Algorithm 2, for the flow's α = 1 − t and σ = t.
    """
    before: tuple[float, Tensor] | None = None
    for t, t_next in pairwise(times):
        data = estimate = x - t * velocity(x, t)
        if before is not None and t_next > 0:
            t_before, data_before = before
            ratio = (_log_snr(t_next) - _log_snr(t)) / (_log_snr(t) - _log_snr(t_before))
            estimate = data + ratio / 2 * (data - data_before)
        x = estimate + t_next / t * (x - estimate)  # α' − α·σ'/σ is 1 − t'/t
        before = t, data
        yield x


def ddim(noise: Field, x: Tensor, times: Sequence[int], schedule: Schedule) -> Iterator[Tensor]:
    """DDIM with η = 0: to the predicted data, and back along the predicted noise to the next step's share of it.

    Args:
        noise: the predicted ε at a point and a step.
        x: the first point.
        times: as `schedule_times` gives them.
        schedule: of the noise.
    Source: Song et al. 2020, arXiv 2010.02502, Eq. 12.
    """
    alpha_bar = [*schedule.alpha_bar.tolist(), 1.0]  # times[-1] = −1 finds the last
    for t, t_next in pairwise(times):
        epsilon = noise(x, t)
        data = (x - math.sqrt(1 - alpha_bar[t]) * epsilon) / math.sqrt(alpha_bar[t])
        x = math.sqrt(alpha_bar[t_next]) * data + math.sqrt(1 - alpha_bar[t_next]) * epsilon
        yield x


FLOW_SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "dpmpp2m": dpmpp2m}


def _log_snr(t: float) -> float:
    return -math.inf if t == 1 else math.log((1 - t) / t)


def _check(steps: int, grid: str) -> None:
    if steps < 1:
        raise ValueError(f"steps: got {steps}, need at least 1")
    if grid not in get_args(Grid):
        raise ValueError(f"grid: got {grid!r}, need one of {', '.join(get_args(Grid))}")
