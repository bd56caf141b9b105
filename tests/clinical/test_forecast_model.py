"""The forecast network, its losses and the weights of its tasks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.clinical.forecast_model import (
    ForecastModel,
    ForecastTasks,
    TaskWeights,
    forecast_losses,
    normalize_weights,
    task_scale,
    weighted_forecast_loss,
)

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def keras_lstm(x: Array, kernel: Array, recurrent: Array, bias: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """One step as Keras writes it: kernel (inputs, 4S), gates i, f, c, o."""
    z = x @ kernel + h @ recurrent + bias
    i, f, g, o = np.split(z, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("use_mask_feature", [False, True])
def test_encoder_and_decoder_are_keras_lstms(use_mask_feature: bool, generator: torch.Generator) -> None:
    net = ForecastModel(4, 3, 5, use_mask_feature, generator).double()
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x = torch.randn(6, 7, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 7, 4, generator=generator) < 0.6
    weights = {name: p.detach().numpy() for name, p in net.named_parameters()}
    inputs = np.concatenate([x.numpy(), mask.numpy()], -1) if use_mask_feature else x.numpy()
    h = c = np.zeros((6, 3))
    for t in range(7):
        encoder = [weights[f"encoder.lstm.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih")]
        h, c = keras_lstm(inputs[:, t], encoder[0].T, encoder[1].T, encoder[2], h, c)
    state = net.encoder(x, mask)
    np.testing.assert_allclose(state[0].detach(), h, atol=1e-12)
    np.testing.assert_allclose(state[1][1].detach(), c, atol=1e-12)
    logits = h @ weights["head.weight"].T + weights["head.bias"]
    fed, steps = h, []
    for _ in range(5):
        h, c = keras_lstm(
            fed, weights["decoder.weight_ih"].T, weights["decoder.weight_hh"].T, weights["decoder.bias"], h, c
        )
        fed = h
        steps.append(h @ weights["decoder.out.weight"].T + weights["decoder.out.bias"])
    forecast, found = net(x, mask)
    np.testing.assert_allclose(forecast.detach(), np.stack(steps, 1), atol=1e-12)
    np.testing.assert_allclose(found.detach(), logits[:, 0], atol=1e-12)
    assert torch.equal(net.forecast(x, mask), forecast) and torch.equal(net.classify(x, mask), found)


def test_initial_weights_are_those_of_keras() -> None:
    net = ForecastModel(50, 16, generator=torch.Generator().manual_seed(0))
    lstm = net.encoder.lstm
    limit = (6 / (100 + 64)) ** 0.5
    assert 0.98 * limit < lstm.weight_ih_l0.abs().max() <= limit
    torch.testing.assert_close(lstm.weight_hh_l0.T @ lstm.weight_hh_l0, torch.eye(16), atol=1e-5, rtol=0)
    assert torch.equal(lstm.bias_ih_l0, torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(16))
    assert not lstm.bias_hh_l0.any() and not lstm.bias_hh_l0.requires_grad


def test_the_generator_alone_decides_the_weights() -> None:
    state = torch.get_rng_state()
    nets = [ForecastModel(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    flat = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(flat[0], flat[1]) and not torch.equal(flat[0], flat[2])


def future(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    pred, y = (torch.randn(6, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    my = torch.rand(6, 5, 4, generator=generator) < 0.5
    my[..., 2] = False
    my[:, 1:, 3] = False  # rare
    return pred.requires_grad_(), torch.where(my, y, torch.nan), my


@pytest.mark.parametrize("kind", ["square", "abs"])
def test_losses_are_means_of_what_was_observed(kind: Any, generator: torch.Generator) -> None:
    pred, y, my = future(generator)
    losses = forecast_losses(pred, y, my, kind)
    plain = losses.tolist()
    for i in range(4):
        error = (pred - y)[..., i][my[..., i]]
        error = error.square() if kind == "square" else error.abs()
        assert plain[i] == pytest.approx(error.mean().item() if len(error) else 0.0)
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    loss = weighted_forecast_loss(pred, y, my, w, kind=kind)
    assert loss.item() == pytest.approx((w * losses).sum().item())
    of_pred, of_w = torch.autograd.grad(loss, [pred, w])
    assert of_pred.isfinite().all() and not of_pred[..., 2].any() and of_w[2] == 0
    assert torch.equal(forecast_losses(pred, y, my.double(), kind), losses)


@pytest.mark.parametrize("kind", ["square", "abs"])
def test_power_two_is_the_official_expression(kind: Any, generator: torch.Generator) -> None:
    pred, y, my = future(generator)
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    error = (w * y - w * pred)[my]
    expected = (error.square() if kind == "square" else error.abs()).mean()
    torch.testing.assert_close(weighted_forecast_loss(pred, y, my, w, weight_power=2, kind=kind), expected)


def test_a_batch_without_any_future_warns_and_costs_nothing(generator: torch.Generator) -> None:
    pred, y, my = future(generator)
    w = torch.full((4,), 0.25, dtype=torch.float64)
    for power in (1, 2):
        with pytest.warns(UserWarning, match="no observed future"):
            loss = weighted_forecast_loss(pred, y, torch.zeros_like(my), w, power)
        assert loss == 0
        assert not torch.autograd.grad(loss, pred)[0].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighted_forecast_loss(pred, y, my, w)


@pytest.mark.parametrize("normalization", ["softmax", "linear"])
def test_weights_lie_on_the_simplex(normalization: Any, generator: torch.Generator) -> None:
    weights = TaskWeights(7, normalization, generator=generator)
    w = weights()
    assert w.sum().item() == pytest.approx(1) and (w > 0).all() and weights.kappa.abs().max() <= 0.05
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(normalize_weights(weights.kappa[order], normalization), w[order])
    assert torch.equal(normalize_weights(torch.zeros(5), normalization), torch.full((5,), 0.2))


def test_given_weights_start_there() -> None:
    softmax = TaskWeights(2, init=[0.0, np.log(3)])()
    linear = TaskWeights(2, "linear", init=[0.0, 1.0])()
    torch.testing.assert_close(softmax, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(linear, torch.tensor([np.log(2), np.log1p(np.e)]).float() / np.log(2 + 2 * np.e))


def test_scales_make_loud_and_quiet_variables_alike(generator: torch.Generator) -> None:
    pred, y, my = future(generator)
    gain = torch.tensor([1.0, 30.0, 1.0, 0.01], dtype=torch.float64)
    tasks = [ForecastTasks("abcd", scale=task_scale(g * y, my)) for g in (torch.ones(4), gain)]
    plain, scaled = (
        t.losses(g * pred, {"y": g * y, "y_mask": my}) for t, g in zip(tasks, (torch.ones(4), gain), strict=True)
    )
    torch.testing.assert_close(plain, scaled)
    values = y[..., 1][my[..., 1]]
    scale = task_scale(y, my)
    assert scale is not None and scale[1] == pytest.approx(float(values.var(correction=0)))
    assert scale[2] == 1 and task_scale(y, my, "none") is None


def test_tasks_read_the_steps_that_were_forecast(generator: torch.Generator) -> None:
    pred, y, my = future(generator)
    batch = {"y": y, "y_mask": my}
    torch.testing.assert_close(
        ForecastTasks("abcd").losses(pred[:, :2], batch), forecast_losses(pred[:, :2], y[:, :2], my[:, :2])
    )
    filled = {"y": y.nan_to_num(), "y_mask": my}
    everything = ForecastTasks("abcd", only_observed=False).losses(pred, filled)
    torch.testing.assert_close(everything, (pred - filled["y"]).square().mean((0, 1)))
    w = torch.full((4,), 0.25, dtype=torch.float64)
    scaled = ForecastTasks("abcd", scale=torch.full((4,), 2.0))
    for power in (1, 2):
        expected = weighted_forecast_loss(pred, y, my, w, power) / 2
        torch.testing.assert_close(scaled.total(pred, batch, w, power), expected)


BATCH = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ForecastModel(0), "n_features: got 0"),
        (lambda: ForecastModel(3, horizon=0), "horizon: got 0"),
        (lambda: ForecastModel(3)(BATCH, BATCH), r"x: got shape \(2, 3, 4\), need \(B, T, 3\)"),
        (lambda: ForecastModel(4)(BATCH), "mask: got None"),
        (lambda: ForecastModel(4)(BATCH, BATCH[:1]), r"mask: got \(1, 3, 4\)"),
        (lambda: TaskWeights(0), "n_tasks: got 0"),
        (lambda: TaskWeights(3, "hard"), "normalization: got 'hard', need one of softmax, linear"),  # type: ignore[arg-type]
        (lambda: TaskWeights(3, init=[0.0, 1.0]), "init: got .*, need 3 finite numbers"),
        (lambda: TaskWeights(2, init=[0.0, float("nan")]), "init: got .*, need 2 finite numbers"),
        (lambda: weighted_forecast_loss(BATCH, BATCH, BATCH, torch.ones(3)), r"w: got shape \(3,\), need \[4\]"),
        (lambda: weighted_forecast_loss(BATCH, BATCH, BATCH, torch.ones(4), 3), "weight_power: got 3, need 1 or 2"),
        (lambda: forecast_losses(BATCH, BATCH[:, :2], BATCH), "pred, y, my: got shapes"),
        (lambda: forecast_losses(BATCH, BATCH, BATCH, "cube"), "kind: got 'cube', need one of square, abs"),  # type: ignore[arg-type]
        (lambda: ForecastTasks("ab", "cube"), "kind: got 'cube'"),  # type: ignore[arg-type]
        (lambda: task_scale(BATCH, BATCH, "range"), "task_scale: got 'range', need one of variance, none"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
