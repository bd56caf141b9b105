"""The noise schedule and the noise-prediction loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.diffusion.ddpm import LINEAR, Schedule, ddpm_loss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Tensor:
        return self.function(*arguments)


def test_schedule_by_hand() -> None:
    schedule = Schedule(3, 0.1, 0.5)
    torch.testing.assert_close(schedule.alpha_bar, torch.tensor([0.9, 0.63, 0.315], dtype=torch.float64))
    assert Schedule(1000, 1e-4, 0.02) == LINEAR
    assert LINEAR.alpha_bar[0] == 1 - 1e-4
    assert math.isclose(LINEAR.alpha_bar[-1], 4.0358e-5, rel_tol=1e-4)


def test_noised_images() -> None:
    x0, noise = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 10.0)
    noisy = Schedule(3, 0.1, 0.5).noised(x0, noise, torch.tensor([0, 2]))
    expected = torch.tensor([math.sqrt(0.9) + 10 * math.sqrt(0.1), math.sqrt(0.315) + 10 * math.sqrt(0.685)])
    torch.testing.assert_close(noisy, expected[:, None, None, None].expand(2, 1, 2, 2))


def test_the_exact_noise_of_one_picture_has_no_loss() -> None:
    picture = torch.randn(3, 4, 4, dtype=torch.float64, generator=seeded(3))
    steps: list[Tensor] = []

    def model(x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        steps.append(t)
        alpha_bar = LINEAR.alpha_bar[t.long()][:, None, None, None]
        noise = (x - alpha_bar.sqrt() * picture) / (1 - alpha_bar).sqrt()
        return torch.cat([noise, torch.full_like(noise, 1e6)], dim=1)  # with a learned variance

    data = {"image": picture.expand(5000, -1, -1, -1), "text": torch.zeros(5000, 1, 2)}
    loss, metrics = ddpm_loss(Module(model), data, text_dropout=0, generator=seeded())
    assert loss < 1e-20
    assert metrics.keys() == {"weight", "ddpm_loss"} and metrics["weight"] == 5000
    (t,) = steps
    assert t.min() == 0 and t.max() == 999 and abs(t.mean() - 499.5) < 15
    assert torch.equal(t, t.round())


def test_a_model_that_answers_nothing_loses_the_variance_of_the_noise() -> None:
    data = {"image": torch.zeros(500, 3, 8, 8), "text": torch.zeros(500, 1, 2)}
    loss, _ = ddpm_loss(Module(lambda x, *_: 0 * x), data, text_dropout=0, generator=seeded())
    assert abs(loss - 1) < 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0,), "steps: got 0, need at least 1"),
        ((10, 0.0), "beta_start, beta_end: got 0.0, 0.02"),
        ((10, 0.1, 0.01), "beta_start, beta_end: got 0.1, 0.01"),
        ((10, 0.1, 1.0), "beta_start, beta_end: got 0.1, 1.0"),
    ],
)
def test_bad_schedules(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(*fields)


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (torch.tensor([0, 1000]), r"t: got values from 0 to 1000, need 0\.\.999"),
        (torch.tensor([-1, 5]), "t: got values from -1 to 5"),
        (torch.tensor([5]), r"t: got torch.int64 \(1,\), need integers \(2,\)"),
        (torch.tensor([0.5, 0.5]), r"t: got torch.float32 \(2,\), need integers"),
    ],
)
def test_bad_steps(t: Tensor, message: str) -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=message):
        LINEAR.noised(x, x, t)
    with pytest.raises(ValueError, match="noise: got shape"):
        LINEAR.noised(x, x[:1], torch.tensor([0, 1]))
