"""Grids and solvers beside the schedulers of diffusers: times, and whole trajectories of one model."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from tenfold.diffusion.ddpm import LINEAR
from tenfold.diffusion.sampling import sample
from tenfold.diffusion.solvers import dpmpp2m, flow_times, schedule_times


def model(x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
    """Some smooth function of image, time and text."""
    mixed = torch.tanh(x.flip(1) - 0.5 * x.roll(1, -1) + text.mean((1, 2))[:, None, None, None])
    return mixed + torch.cos(3 * t)[:, None, None, None] * x


TEXT = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def trajectory(**options: object) -> list[Tensor]:
    points: list[Tensor] = []

    def keep(step: int, t: float, x: Tensor) -> None:
        points.append(x)

    sample(model, TEXT, shape=(3, 4, 4), guidance_scale=1, noise=NOISE, callback=keep, **options)
    return points


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_of_the_flow(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = torch.tensor(flow_times(steps, "diffusers", shift))
    assert (ours - scheduler.sigmas).abs().max() <= 1e-6


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_trajectory_of_euler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    ours = trajectory(steps=10, solver="euler", grid="diffusers", shift=shift)
    x = NOISE
    for point, t in zip(ours, scheduler.timesteps, strict=True):
        x = scheduler.step(model(x, (t / 1000).expand(2), TEXT), t, x).prev_sample
        assert (point - x).abs().max() <= 1e-5


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [3, 10, 20])
def test_trajectory_of_dpmpp2m(steps: int, shift: float) -> None:
    """Their flow times start a little below 1, so ours are set to theirs."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(steps)
    times = scheduler.sigmas.tolist()
    ours = list(dpmpp2m(lambda x, t: model(x, torch.full((2,), t), TEXT), NOISE, times))
    x = NOISE
    for point, sigma, t in zip(ours, times, scheduler.timesteps, strict=False):
        x = scheduler.step(model(x, torch.full((2,), sigma), TEXT), t, x).prev_sample
        assert (point - x).abs().max() <= 1e-5
    assert len(ours) == steps


@pytest.mark.parametrize(("grid", "spacing"), [("uniform", "trailing"), ("diffusers", "leading")])
def test_trajectory_of_ddim(grid: str, spacing: str) -> None:
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, timestep_spacing=spacing
    )
    assert (LINEAR.alpha_bar - scheduler.alphas_cumprod).abs().max() <= 1e-6
    scheduler.set_timesteps(20)
    assert schedule_times(20, grid) == [*scheduler.timesteps.tolist(), -1]
    ours = trajectory(steps=20, solver="ddim", grid=grid)
    x = NOISE.double()
    for point, t in zip(ours, scheduler.timesteps, strict=True):
        x = scheduler.step(model(x.float(), t.expand(2).float(), TEXT).double(), int(t), x).prev_sample
        # Their ᾱ is a product in float32, which the first steps divide by.
        assert (point - x).abs().max() <= 2e-5 * x.abs().max()


@pytest.mark.parametrize("steps", [1, 3, 7, 30, 999, 1000])
def test_times_of_the_noise_schedule(steps: int) -> None:
    for grid, spacing in (("uniform", "trailing"), ("diffusers", "leading")):
        scheduler = DDIMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        times = schedule_times(steps, grid)
        theirs = scheduler.timesteps.tolist()
        assert len(times) == steps + 1 and times[-1] == -1
        assert all(a > b for a, b in pairwise(times))
        # Where a stride ends in one half, theirs rounds a sum, with its error.
        assert max(abs(a - b) for a, b in zip(times, theirs, strict=False)) <= 1
