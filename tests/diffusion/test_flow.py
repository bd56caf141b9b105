"""Rectified flow: paths, times, and the loss with its dropped captions, masked tokens and balance term."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.diffusion.ddpm import ddpm_loss
from tenfold.diffusion.embed import patchify
from tenfold.diffusion.flow import interpolate, rectified_flow_loss, sample_t, velocity
from tenfold.nn.moe import TokenChoiceMoE

IMAGES, LENGTH, WIDTH = 64, 3, 5


class Recorder(nn.Module):
    """Answers a fixed multiple of the image, times `channels` copies, and keeps what it was called with."""

    def __init__(self, factor: float = 0.5, channels: int = 1) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=2)
        self.factor = nn.Parameter(torch.tensor(factor))
        self.copies = channels
        self.calls: list[dict[str, Any]] = []

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None = None, *, keep: Any = None
    ) -> Tensor:
        self.calls.append({"x": x, "t": t, "text": text, "mask": text_mask, "keep": keep})
        # Further channels, a learned variance, must not count.
        out = torch.cat([self.factor * x] + [torch.full_like(x, 1e6)] * (self.copies - 1), dim=1)
        if keep is None:
            return out
        return patchify(out, 2).gather(1, keep[..., None].expand(-1, -1, 4 * out.shape[1]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(images: int = IMAGES, side: int = 8) -> dict[str, Tensor]:
    generator = seeded(1)
    return {
        "image": torch.randn(images, 3, side, side, generator=generator),
        "text": torch.randn(images, LENGTH, WIDTH, generator=generator),
        "text_mask": torch.tensor([True, True, False]).expand(images, -1),
        "null_text": torch.full((1, WIDTH), 9.0),
        "null_mask": torch.tensor([True]),
    }


# Paths and times.


def test_a_path_goes_straight_from_data_to_noise() -> None:
    x0, x1 = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[5.0], [5.0], [5.0]])
    assert interpolate(x0, x1, torch.tensor([0.0, 0.25, 1.0])).flatten().tolist() == [1, 2, 5]
    assert velocity(x0, x1).flatten().tolist() == [4, 4, 4]


def test_velocity_is_the_derivative_of_the_path() -> None:
    x0, x1 = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=seeded())
    t = torch.rand(4, dtype=torch.float64, generator=seeded())
    _, slope = torch.func.jvp(lambda t: interpolate(x0, x1, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(slope, velocity(x0, x1), rtol=0, atol=1e-14)


def test_times_are_logit_normal() -> None:
    t = sample_t(100_000, generator=seeded())
    assert t.min() > 0 and t.max() < 1
    assert abs(t.mean() - 0.5) <= 0.01
    assert abs((t < 0.25).float().mean() - 0.136) <= 0.005  # Φ(−log 3)
    skewed = sample_t(100_000, mu=1.0, sigma=0.5, generator=seeded())
    logit = torch.logit(skewed.double())
    assert abs(logit.mean() - 1) <= 0.01 and abs(logit.std() - 0.5) <= 0.01


def test_times_are_uniform() -> None:
    t = sample_t(100_000, t_dist="uniform", generator=seeded())
    assert abs(t.mean() - 0.5) <= 0.005 and abs((t < 0.25).float().mean() - 0.25) <= 0.005


# The loss.


def test_loss_by_hand() -> None:
    model, data = Recorder(), batch()
    loss, metrics = rectified_flow_loss(model, data, text_dropout=0, generator=seeded())
    (call,) = model.calls
    t = call["t"][:, None, None, None]
    x1 = (call["x"] - (1 - t) * data["image"]) / t
    expected = (0.5 * call["x"] - (x1 - data["image"])).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    assert abs(x1.mean()) < 0.02 and abs(x1.std() - 1) < 0.02
    assert call["t"].shape == (IMAGES,) and call["t"].min() > 0 and call["t"].max() < 1
    assert torch.equal(call["text"], data["text"]) and torch.equal(call["mask"], data["text_mask"])
    assert metrics["weight"] == IMAGES
    assert metrics.keys() == {"weight", "flow_loss"}
    assert metrics["flow_loss"] == loss and not metrics["flow_loss"].requires_grad
    loss.backward()
    assert model.factor.grad != 0


def test_the_exact_velocity_of_one_picture_has_no_loss() -> None:
    picture = torch.randn(3, 8, 8, dtype=torch.float64, generator=seeded(3))
    data = {"image": picture.expand(IMAGES, -1, -1, -1), "text": torch.zeros(IMAGES, 1, WIDTH)}

    def model(x: Tensor, t: Tensor, *text: Tensor | None) -> Tensor:
        return (x - picture) / t[:, None, None, None]

    module = nn.Module()
    module.forward = model  # type: ignore[method-assign]
    loss, _ = rectified_flow_loss(module, data, text_dropout=0, generator=seeded())
    assert loss.dtype == torch.float64 and loss < 1e-12


def test_a_learned_variance_is_left_out() -> None:
    for options in ({}, {"mask_ratio": 0.5}):
        losses = [
            rectified_flow_loss(Recorder(channels=copies), batch(), generator=seeded(), **options)[0]
            for copies in (1, 2)
        ]
        assert torch.equal(*losses)


def test_draws_come_from_the_generator_alone() -> None:
    for loss in (rectified_flow_loss, ddpm_loss):
        state = torch.get_rng_state()
        values = [loss(Recorder(), batch(), mask_ratio=0.5, generator=seeded(seed))[0] for seed in (0, 0, 1)]
        assert torch.equal(state, torch.get_rng_state())
        assert values[0] == values[1] != values[2]


def test_times_and_noise_do_not_depend_on_dropped_captions_and_tokens() -> None:
    models = [Recorder() for _ in range(2)]
    rectified_flow_loss(models[0], batch(), text_dropout=0, generator=seeded())
    rectified_flow_loss(models[1], batch(), text_dropout=0.5, mask_ratio=0.5, generator=seeded())
    for name in ("x", "t"):
        assert torch.equal(models[0].calls[0][name], models[1].calls[0][name])


def test_times_stay_fine_beside_16_bits() -> None:
    data = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch().items()}
    model = Recorder().bfloat16()
    loss, _ = rectified_flow_loss(model, data, generator=seeded())
    assert loss.dtype == torch.float32
    assert model.calls[0]["x"].dtype == torch.bfloat16
    assert model.calls[0]["t"].dtype == torch.float32
    assert not torch.equal(model.calls[0]["t"], model.calls[0]["t"].bfloat16().float())


@pytest.mark.parametrize("loss", [rectified_flow_loss, ddpm_loss])
def test_dropped_captions_become_the_null_text(loss: Any) -> None:
    data, model = batch(2000, side=2), Recorder()
    loss(model, data, text_dropout=0.1, generator=seeded())
    (call,) = model.calls
    dropped = (call["text"][:, 0] == 9).all(-1)
    assert abs(dropped.float().mean() - 0.1) < 0.02
    assert call["mask"][dropped].tolist() == [[True, False, False]] * int(dropped.sum())
    assert torch.equal(call["text"][~dropped], data["text"][~dropped])
    assert torch.equal(call["mask"][~dropped], data["text_mask"][~dropped])


def test_a_null_text_longer_than_the_captions() -> None:
    data = batch() | {"null_text": torch.full((5, WIDTH), 9.0)}
    del data["text_mask"], data["null_mask"]
    model = Recorder()
    rectified_flow_loss(model, data, text_dropout=0.5, generator=seeded())
    (call,) = model.calls
    dropped = (call["text"][:, 0] == 9).all(-1)
    assert 0 < dropped.sum() < IMAGES
    assert call["mask"][dropped].all()
    assert call["mask"][~dropped].sum(1).tolist() == [LENGTH] * int((~dropped).sum())
    assert not call["text"][~dropped][:, LENGTH:].any()
    rectified_flow_loss(model, data, text_dropout=1, generator=seeded())
    assert (model.calls[1]["text"] == 9).all()


def test_gradients_reach_captions_and_null_text() -> None:
    """A text encoder is trained through both."""
    data = batch()
    for name in ("text", "null_text"):
        data[name].requires_grad_()

    class Reader(Recorder):
        def forward(self, x: Tensor, t: Tensor, text: Tensor, *rest: Any, **options: Any) -> Tensor:
            return x * text.mean((1, 2))[:, None, None, None]

    rectified_flow_loss(Reader(), data, text_dropout=0.5, generator=seeded())[0].backward()
    assert data["text"].grad is not None and data["null_text"].grad is not None
    untouched = data["text"].grad.abs().sum((1, 2)) == 0
    assert 0 < untouched.sum() < IMAGES
    assert data["null_text"].grad.abs().sum() > 0


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 8), (0.25, 12), (0.99, 1)])
def test_masked_tokens_are_neither_seen_nor_counted(ratio: float, kept: int) -> None:
    data, model = batch(), Recorder()
    loss, _ = rectified_flow_loss(model, data, text_dropout=0, mask_ratio=ratio, generator=seeded())
    (call,) = model.calls
    keep = call["keep"]
    assert keep.shape == (IMAGES, kept) and keep.dtype == torch.int64
    assert (keep.diff(dim=1) > 0).all() and keep.min() >= 0 and keep.max() < 16
    assert len(keep.flatten().unique()) == 16  # every place is kept somewhere
    t = call["t"][:, None, None, None]
    x1 = (call["x"] - (1 - t) * data["image"]) / t
    error = patchify((0.5 * call["x"] - (x1 - data["image"])).square(), 2)
    expected = torch.stack([error[image, keep[image]] for image in range(IMAGES)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


def test_the_balance_of_experts_is_added() -> None:
    class Sparse(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.moe = TokenChoiceMoE(3, 4, 4, aux_coef=0.5, generator=seeded())

        def forward(self, x: Tensor, *rest: Any, **options: Any) -> Tensor:
            tokens = self.moe(x.flatten(2).transpose(1, 2))
            return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    model = Sparse()
    loss, metrics = rectified_flow_loss(model, batch(), generator=seeded())
    assert metrics["aux"] >= 0.4  # 0.5 in balance
    torch.testing.assert_close(loss.detach(), metrics["flow_loss"] + metrics["aux"])
    loss.backward()
    assert model.moe.gate_weight.grad.abs().sum() > 0


def test_the_mean_field_has_the_least_loss() -> None:
    """Over Gaussian data the conditional mean of the velocity beats its neighbours."""
    mean, std = 0.7, 0.3
    data = {"image": mean + std * torch.randn(20_000, 1, 1, 1, generator=seeded(5)), "text": torch.zeros(20_000, 1, 1)}

    class Exact(nn.Module):
        def __init__(self, off: float) -> None:
            super().__init__()
            self.off = off

        def forward(self, x: Tensor, t: Tensor, *text: Any) -> Tensor:
            t = t[:, None, None, None]
            rest = (x - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2)
            return t * rest - (mean + (1 - t) * std**2 * rest) + self.off

    losses = {
        off: float(rectified_flow_loss(Exact(off), data, text_dropout=0, generator=seeded())[0])
        for off in (-0.1, 0, 0.1)
    }
    for off in (-0.1, 0.1):
        assert math.isclose(losses[off] - losses[0], 0.01, rel_tol=0.25)


# Bad input.


def call_loss(**options: Any) -> None:
    data = batch() | options.pop("data", {})
    rectified_flow_loss(options.pop("model", Recorder()), data, generator=seeded(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_dist": "normal"}, "t_dist: got 'normal', need one of logit_normal, uniform"),
        ({"sigma": 0}, "sigma: got 0, need above 0"),
        ({"text_dropout": 1.5}, r"text_dropout: got 1.5, need a share in \[0, 1\]"),
        ({"text_dropout": math.nan}, "text_dropout: got nan"),
        ({"mask_ratio": 1}, r"mask_ratio: got 1, need a share in \[0, 1\)"),
        ({"model": Recorder(channels=3)}, "model: gave 9 channels, need 3 or, with a learned variance, 6"),
        ({"model": Recorder(channels=3), "mask_ratio": 0.5}, "model: gave 9 channels, need 3"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call_loss(**options)


def test_dropping_captions_needs_a_null_text() -> None:
    data = batch()
    del data["null_text"]
    with pytest.raises(ValueError, match=r"batch: no null_text, need one with text_dropout 0\.1"):
        rectified_flow_loss(Recorder(), data, generator=seeded())


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (torch.tensor([0.5, 1.01]), r"t: got values from 0\.5 to 1\.01, need \[0, 1\]"),
        (torch.tensor([-0.1, 0.5]), r"t: got values from -0\.1"),
        (torch.tensor([0.5, math.nan]), "t: got values from nan"),
        (torch.tensor([0.5]), r"t: got shape \(1,\), need \(2,\), one time an image"),
        (torch.tensor(0.5), r"t: got shape \(\)"),
    ],
)
def test_bad_times(t: Tensor, message: str) -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=message):
        interpolate(x, x, t)
    with pytest.raises(ValueError, match=r"x1: got shape \(2, 3, 4\), need that of x0"):
        interpolate(x, x[..., 0], torch.zeros(2))
