"""Encoders and heads without a generative model: laws, gold values, learning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tenfold.clinical.events import EventSpec
from tenfold.clinical.history import read_history
from tenfold.clinical.survival_baselines import SurvivalBaseline, baseline_loss, last_values
from tenfold.clinical.survival_losses import deephit_rank_loss

B, T, D, U, G = 5, 4, 3, 2, 1
EVENTS = (EventSpec("a", 2.0, 4), EventSpec("b", 1.0, 3, weight=0.5))
KINDS = [
    (encoder, head)
    for encoder in ("mri", "mlp", "lstm_ds")
    for head in ("hazard", "pmf", "state", "exponential", "cox")
]


def baseline(encoder: str, head: str, **settings: object) -> SurvivalBaseline:
    given = {"n_static": G, "z_dim": 6, "generator": torch.Generator().manual_seed(0)} | settings
    return SurvivalBaseline(D, U, EVENTS, encoder, head, **given).double().eval()  # type: ignore[arg-type]


def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(B, T, D, generator=draw, dtype=torch.float64),
        "mask": torch.rand(B, T, D, generator=draw) < 0.6,
        "u": torch.rand(B, T, U, generator=draw, dtype=torch.float64),
        "length": torch.tensor([4, 2, 0, 1, 3]),
        "static": torch.randn(B, G, generator=draw, dtype=torch.float64),
        "slot": torch.tensor([[1, 1], [2, 3], [4, 2], [4, 1], [3, 3]]),
        "observed": torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.bool),
        "at_risk": torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool),
    }


@pytest.mark.parametrize(("encoder", "head"), KINDS)
def test_laws_of_every_kind(encoder: str, head: str) -> None:
    net, data = baseline(encoder, head), batch()
    padded = (torch.arange(T) >= data["length"][:, None])[..., None]
    changed = data | {
        "x": torch.where(~data["mask"] | padded, math.nan, data["x"]),
        "u": data["u"].masked_fill(padded, 7.0),
    }
    order = torch.tensor([4, 2, 0, 1, 3])
    survival, other = net.survival(data), net.survival(changed)
    shuffled = net.survival({name: part[order] for name, part in data.items()})
    for event in EVENTS:
        curve = survival[event.name]
        assert curve.shape == (B, event.n_slots + 1) and (curve.diff(dim=1) <= 0).all()
        assert torch.equal(curve, other[event.name])
        assert torch.allclose(curve[order], shuffled[event.name], atol=1e-14)
    loss, metrics = baseline_loss(net, data)
    loss.backward()
    # One network serves all events of a state head; the LSTM's second bias has the gradient of the first.
    assert [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert float(metrics["weight"]) == B and ("rank" in metrics) == (head == "pmf")
    assert ("forecast" in metrics) == (encoder == "lstm_ds")


def test_last_values() -> None:
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]]).expand(3, -1, -1)
    mask = torch.tensor([[[1, 1], [1, 0], [0, 0]]], dtype=torch.bool).expand(3, -1, -1)
    u = torch.tensor([[[5.0], [6.0], [7.0]]]).expand(3, -1, -1)
    static = torch.tensor([[9.0], [8.0], [7.0]])
    given = {"x": x, "mask": mask, "u": u, "length": torch.tensor([3, 1, 0]), "static": static}
    assert last_values(read_history(given, 2, 1, 1)).tolist() == [[2, 10, 7, 9], [1, 10, 5, 8], [0, 0, 0, 7]]


def test_official_rates() -> None:
    net, data = baseline("mri", "exponential"), batch()
    logit = net.head.get_submodule("rate")(last_values(read_history(data, D, U, G)))[:, 0]
    hours = 2.0 * torch.arange(5)
    wanted = torch.exp(-torch.exp(logit - 13)[:, None] * 3600 * hours)
    assert torch.allclose(net.survival(data)["a"], wanted, atol=1e-14)
    net = baseline("mri", "cox")
    rate = net.head.get_submodule("rate")
    assert isinstance(rate.weight, Tensor) and isinstance(rate.bias, Tensor)
    assert rate.weight.abs().max() <= 0.02 and (rate.bias - 0.01).abs().max() <= 0.02 and rate.weight.std() > 0
    logit = rate(last_values(read_history(data, D, U, G)))[:, 0]
    assert torch.allclose(net.survival(data)["a"], torch.exp(-logit.exp()[:, None] * torch.arange(5)), atol=1e-14)


def test_delay_feeds_interventions_late() -> None:
    data = batch() | {"length": torch.full((B,), T)}
    changed = data | {"u": data["u"].clone()}
    changed["u"][:, -2:] += 1.0
    for delay, same in ((0, False), (1, False), (2, True)):
        net = baseline("lstm_ds", "hazard", lstm_interv_delay=delay)
        assert torch.equal(net.survival(data)["a"], net.survival(changed)["a"]) == same


def test_rank_and_forecast_parts() -> None:
    net, data = baseline("lstm_ds", "pmf", rank_weight=2.0, sys_id_weight=3.0), batch()
    loss, metrics = baseline_loss(net, data)
    encoding, outputs = net._encode(net._history(data))
    assert outputs is not None and net.emission is not None
    logits = net.head.get_submodule("outputs")(encoding).split([4, 3], -1)
    ranks = [
        deephit_rank_loss(part, data["slot"][:, i], data["observed"][:, i], at_risk=data["at_risk"][:, i])
        for i, part in enumerate(logits)
    ]
    assert metrics["rank"].item() == pytest.approx((ranks[0] + 0.5 * ranks[1]).item(), rel=1e-9)
    seen = data["mask"] & (torch.arange(T) < data["length"][:, None])[..., None]
    missed = (net.emission(outputs[:, :-1]) - data["x"][:, 1:])[seen[:, 1:]]
    assert metrics["forecast"].item() == pytest.approx(missed.square().mean().item())
    total = metrics["nll/a"] + 0.5 * metrics["nll/b"] + 3 * metrics["forecast"] + 2 * metrics["rank"]
    assert loss.item() == pytest.approx(total.item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "gru"}, "encoder: got 'gru', need one of mri, mlp, lstm_ds"),
        ({"head": "weibull"}, "head: got 'weibull', need one of hazard, pmf, state, exponential, cox"),
        ({"lstm_interv_delay": -1}, "lstm_interv_delay: got -1"),
        ({"events": ()}, "events: got none"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SurvivalBaseline(**({"n_obs": D, "n_interv": U, "events": EVENTS} | settings))  # type: ignore[arg-type]
