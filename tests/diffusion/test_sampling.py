"""Sampling: guidance and what it costs, halves that share nothing, and settings that are refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.diffusion.ddpm import LINEAR
from tenfold.diffusion.sampling import sample
from tenfold.nn.moe import TokenChoiceMoE, moe_layers

IMAGES, LENGTH, WIDTH = 3, 4, 5
SHAPE = (2, 4, 4)


class Field(nn.Module):
    """The exact velocity of a single picture, the mean of the unmasked text, in all places; counts its calls."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.calls: list[tuple[int, float]] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
        self.calls.append((len(x), float(t[0])))
        self.modes.append(self.training)
        assert t.shape == x.shape[:1] and t.dtype in (torch.float32, torch.float64) and x.dtype == text.dtype
        mask = torch.ones(text.shape[:2]) if text_mask is None else text_mask
        picture = (text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return (x - picture.mean(1)[:, None, None, None]) / t[:, None, None, None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts() -> tuple[Tensor, Tensor]:
    """Three captions that ask for 1, 2 and 3, and a null text that asks for −1."""
    return torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(-1, LENGTH, WIDTH), torch.full((2, WIDTH), -1.0)


def draw(model: Any = None, **options: Any) -> Tensor:
    text, null_text = texts()
    options = {"shape": SHAPE, "steps": 4, "generator": seeded(), "null_text": null_text} | options
    return sample(Field() if model is None else model, options.pop("text", text), **options)


# Guidance.


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp2m"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("apart", [False, True])
def test_guidance_by_hand(solver: str, scale: float, apart: bool) -> None:
    """Each text has one picture; guided, the picture is u + w·(c − u)."""
    x = draw(Field(group_size=8 if apart else None), guidance_scale=scale, solver=solver)
    expected = torch.tensor([-1 + scale * (c + 1) for c in (1.0, 2.0, 3.0)])
    torch.testing.assert_close(x, expected[:, None, None, None].expand_as(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "scale", "sizes"),
    [
        ({}, 1.0, [3]),
        ({}, 0.0, [3]),
        ({}, 3.0, [6]),
        ({"group_size": None, "eval_group_size": None}, 3.0, [6]),
        ({"group_size": 32}, 3.0, [3, 3]),
        ({"eval_group_size": 32}, 3.0, [3, 3]),
        ({"group_size": 32}, 1.0, [3]),
    ],
)
def test_forwards_a_step(config: dict[str, Any], scale: float, sizes: list[int]) -> None:
    model = Field(**config)
    draw(model, guidance_scale=scale)
    assert [size for size, _ in model.calls] == sizes * 4
    assert [t for _, t in model.calls[:: len(sizes)]] == [1, 0.75, 0.5, 0.25]


def test_scale_1_reads_no_null_text() -> None:
    torch.testing.assert_close(draw(guidance_scale=1.0, null_text=None), draw(guidance_scale=1.0))


def test_masks_reach_both_halves() -> None:
    text, null_text = (text.clone() for text in texts())
    text[:, 2:], null_text[1:] = math.nan, 100  # what stands there must not be read
    text = text.nan_to_num(50)
    masks = {
        "text_mask": torch.tensor([True, True, False, False]).expand(3, -1),
        "null_mask": torch.tensor([True, False]),
    }
    for config in ({}, {"group_size": 8}):
        found = draw(Field(**config), text=text, null_text=null_text, guidance_scale=2.0, **masks)
        torch.testing.assert_close(found, draw(guidance_scale=2.0), rtol=0, atol=1e-5)
    alone = draw(text=text, null_text=null_text, guidance_scale=0.0, **masks)
    torch.testing.assert_close(alone, torch.full_like(alone, -1.0), rtol=0, atol=1e-5)


def test_one_null_text_or_one_an_image() -> None:
    _, null_text = texts()
    each = null_text.expand(3, -1, -1)
    longer = null_text[:1].expand(9, -1)  # longer than the captions
    for other in (each, longer):
        torch.testing.assert_close(draw(null_text=other), draw(), rtol=0, atol=1e-5)
    mask = torch.tensor([True, True]).expand(3, -1)
    torch.testing.assert_close(draw(null_text=each, null_mask=mask), draw(), rtol=0, atol=1e-5)


# The run.


def test_noise_comes_from_the_generator_alone() -> None:
    state = torch.get_rng_state()

    def zero(x: Tensor, *rest: Any) -> Tensor:
        return 0 * x

    first, again, other = (draw(zero, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, torch.randn(3, *SHAPE, generator=seeded()))
    noise = torch.randn(3, *SHAPE, generator=seeded(2))
    assert torch.equal(draw(zero, generator=None, noise=noise), noise)


def test_shapes_with_and_without_the_batch() -> None:
    assert torch.equal(draw(shape=(3, *SHAPE)), draw(shape=list(SHAPE)))


def test_steps_and_their_alias() -> None:
    for options, count in (
        ({"steps": None}, 50),
        ({"steps": None, "num_inference_steps": 3}, 3),
        ({"steps": 3, "num_inference_steps": 3}, 3),
    ):
        model = Field()
        draw(model, guidance_scale=1.0, **options)
        assert len(model.calls) == count


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp2m", "ddim"])
def test_callback_sees_every_point_with_its_time(solver: str) -> None:
    seen: list[tuple[int, float, Tensor]] = []
    x = draw(solver=solver, callback=lambda step, t, x: seen.append((step, t, x)))
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == ([749, 499, 249, -1] if solver == "ddim" else [0.75, 0.5, 0.25, 0])
    assert torch.equal(seen[-1][2], x)
    assert not torch.equal(seen[0][2], x)


def test_ddim_through_a_noise_model() -> None:
    """The exact noise of one picture a text, with a learned variance that must not count."""

    def model(x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        share = LINEAR.alpha_bar[t.long()].float()[:, None, None, None]
        noise = (x - share.sqrt() * text[:, 0, 0, None, None, None]) / (1 - share).sqrt()
        return torch.cat([noise, torch.full_like(noise, 1e6)], dim=1)

    x = draw(model, solver="ddim", steps=20, guidance_scale=1.0)
    torch.testing.assert_close(x, torch.tensor([1.0, 2.0, 3.0])[:, None, None, None].expand_as(x), rtol=0, atol=1e-4)


def test_modules_run_in_eval_mode_without_gradient() -> None:
    model, text = Field(), texts()[0].clone().requires_grad_()
    for training in (True, False):
        model.train(training)
        assert not draw(model, text=text).requires_grad
        assert model.training == training
    assert not any(model.modes)
    with pytest.raises(RuntimeError, match="stop"):
        draw(model.train(), callback=lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    assert model.training


def test_an_image_does_not_depend_on_its_batch() -> None:
    """Also with experts whose capacity would drop tokens, which images of a batch would compete for."""

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe = TokenChoiceMoE(2, 8, 4, 1, capacity_factor=0.3, generator=seeded(4)).double()

        def forward(self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2) + text.mean(1, keepdim=True)[..., :2]
            return self.moe(tokens).transpose(1, 2).unflatten(2, x.shape[2:])

    model = Sparse()
    text, null_text = (text.double() for text in texts())
    noise = torch.randn(3, *SHAPE, dtype=torch.float64, generator=seeded())
    together = draw(model, text=text, null_text=null_text, noise=noise, guidance_scale=3.0)
    alone = draw(model, text=text[1:2], null_text=null_text, noise=noise[1:2], guidance_scale=3.0)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-12)
    assert not any(layer.config.dropless for _, layer in moe_layers(model))


def test_16_bit_models_are_integrated_in_32() -> None:
    text, null_text = (text.bfloat16() for text in texts())
    x = draw(Field(), text=text, null_text=null_text.float(), steps=30)
    assert x.dtype == torch.float32
    assert draw(Field(), text=text.double(), null_text=null_text).dtype == torch.float64


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0, need at least 1"),
        ({"steps": None, "num_inference_steps": -1}, "steps: got -1, need at least 1"),
        ({"num_inference_steps": 5}, "steps, num_inference_steps: got 4 and 5, need one of the two"),
        ({"solver": "rk4"}, "solver: got 'rk4', need one of euler, heun, dpmpp2m, ddim"),
        ({"grid": "karras"}, "grid: got 'karras', need one of uniform, diffusers"),
        ({"shift": -1.0}, "shift: got -1.0, need above 0"),
        ({"solver": "ddim", "shift": 3.0}, "shift: got 3.0, need 1 with ddim"),
        ({"solver": "ddim", "steps": 1001}, "steps: got 1001, need at most 1000"),
        ({"null_text": None}, r"null_text: got none, need one with guidance_scale 7\.5 \(only 1 does without\)"),
        ({"null_text": None, "guidance_scale": 0}, "null_text: got none, need one with guidance_scale 0"),
        ({"null_text": torch.zeros(2, 9)}, r"null_text: got shape \(3, 2, 9\), need 3 texts of width 5"),
        ({"null_text": torch.zeros(2, 4, 5)}, r"null_text: got shape \(2, 4, 5\), need 3 texts"),
        ({"guidance_scale": math.nan}, "guidance_scale: got nan, need a finite number"),
        ({"shape": (4, 4)}, r"shape: got \(4, 4\), need \(c, H, W\) or \(3, c, H, W\) for 3 texts"),
        ({"shape": (2, 2, 4, 4)}, r"shape: got \(2, 2, 4, 4\), need"),
        ({"noise": torch.zeros(3, 2, 4, 5)}, r"noise: got shape \(3, 2, 4, 5\), need \(3, 2, 4, 4\)"),
        ({"generator": None}, "generator: got none, need one, or the noise itself"),
        ({"model": Field(objective="ddpm")}, r"solver: got 'euler', need ddim \(the model's objective is ddpm\)"),
        ({"model": Field(objective="flow"), "solver": "ddim"}, "solver: got 'ddim', need euler, heun, dpmpp2m"),
        ({"model": lambda x, *_: x[:, :1]}, "model: gave 1 channels, need 2 or, with a learned variance, 4"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**options)
