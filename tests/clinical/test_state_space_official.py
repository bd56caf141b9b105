"""The official switches against a transcription of the released code's formulas in numpy, one patient and step at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.clinical.curves import predicted_time, window_probability
from tenfold.clinical.events import EventSpec
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss

Array = NDArray[np.float64]
B, T, D, U, Z, K = 3, 5, 4, 2, 3, 6
EVENTS = (EventSpec("a", 2.0, K), EventSpec("b", 2.0, 4, weight=0.5))
OFFICIAL = {"cov": "tril", "head": "official", "feed_mask": False, "combine": "official", "align_backward": False}


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def softplus(v: Array) -> Array:
    return np.log1p(np.exp(v))


def dense(v: Array, layer: nn.Module) -> Array:
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    return weight @ v + bias


def network(v: Array, net: nn.Module) -> Array:
    *hidden, last = [layer for layer in net.children() if list(layer.parameters())]
    for layer in hidden:
        v = np.maximum(dense(v, layer), 0)
    return dense(v, last)


def gated(v: Array, module: nn.Module) -> Array:
    gate = sigmoid(network(v, module.get_submodule("gate")))
    linear, nonlinear = dense(v, module.get_submodule("linear")), network(v, module.get_submodule("nonlinear"))
    return (1 - gate) * linear + gate * nonlinear


def lstm(rows: Array, rnn: nn.Module) -> list[Array]:
    w, r, bw, br = (p.detach().numpy() for p in rnn.parameters())
    h, c, out = np.zeros(Z), np.zeros(Z), []
    for row in rows:
        i, f, g, o = np.split(w @ row + bw + r @ h + br, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return out


def posterior(model: DeepStateSpace, x: Array, u: Array) -> tuple[Array, Array]:
    """Mean (T, Z) and triangular scale (T, Z, Z) of one patient."""
    net, kind = model.inference, model.config.infer_model
    rows = np.concatenate([x, u], 1)
    forward = lstm(rows, net.forward_rnn) if net.forward_rnn is not None else []
    backward = lstm(rows[::-1], net.backward_rnn) if net.backward_rnn is not None else []
    mus, scales = [], []
    for t in range(T):
        if kind == "lr":
            (ml, sl), (mr, sr) = (
                (dense(h[t], head.get_submodule("mean")), softplus(dense(h[t], head.get_submodule("spread"))))
                for h, head in zip((forward, backward), net.heads, strict=True)
            )
            mu, sigma = (ml * sr + mr * sl) / (sl + sr), sl * sr / (sl + sr)
            scale = np.tile(sigma, Z).reshape(Z, Z)
        else:
            h = forward[t] if kind == "basic" else forward[t] + backward[t]
            mu = dense(h, net.heads[0].get_submodule("mean"))
            scale = softplus(dense(h, net.heads[0].get_submodule("spread"))).reshape(Z, Z)
        if model.config.use_jitter:
            scale = scale + 1e-2 * np.eye(Z)
        mus.append(mu)
        scales.append(np.tril(scale))
    return np.array(mus), np.array(scales)


def log_normal(residual: Array) -> float:
    return float(-0.5 * (residual @ residual + len(residual) * math.log(2 * math.pi)))


def elbo(model: DeepStateSpace, x: Array, mask: Array, u: Array, noise: Array) -> float:
    """The four means of the released code, over a batch."""
    dynamics = model.dynamics
    assert dynamics.control is not None
    trans, emis, init, ent = [], [], [], []
    for row in range(B):
        mu, scale = posterior(model, x[row], u[row])
        z = [mu[t] + scale[t] @ noise[row, t] for t in range(T)]
        init.append(log_normal(z[0]))
        for t in range(T):
            emitted = network(z[t], model.emission)
            if model.config.em_act == "sigmoid":
                emitted = sigmoid(emitted)
            emis.append(log_normal(mask[row, t] * (x[row, t] - emitted)))
            ent.append(-log_normal(np.linalg.solve(scale[t], z[t] - mu[t])) + np.log(np.diag(scale[t])).sum())
            if t:
                trans.append(log_normal(z[t] - gated(z[t - 1], dynamics.state) - gated(u[row, t], dynamics.control)))
    keep = [trans, init, ent] if model.config.state_only_loss else [trans, emis, init, ent]
    return float(sum(np.mean(part) for part in keep))


def hazards(model: DeepStateSpace, encoding: Array, event: int) -> list[float]:
    """Roll-out of one event from its own start state; transition and hazard network are those of all events."""
    dynamics, head = model.forecast or model.dynamics, model.hazard_head
    state = dense(encoding, head.get_submodule("start"))[event * Z : (event + 1) * Z]
    last, found = 0.0, []
    for _ in range(EVENTS[event].n_slots):
        after = gated(state, dynamics.state)
        if model.config.forecast_interv:
            assert dynamics.interv is not None and dynamics.control is not None
            after = after + gated(sigmoid(network(state, dynamics.interv)), dynamics.control)
        state = after
        hazard = float(sigmoid(network(state, head.get_submodule("networks").get_submodule("0")))[0])
        last = hazard + last if model.config.forecast_delta else hazard
        found.append(min(max(last, 1e-20), 0.99999))
    return found


def data() -> dict[str, Tensor]:
    seed = torch.Generator().manual_seed(11)
    return {
        "x": torch.randn(B, T, D, generator=seed, dtype=torch.float64),
        "mask": (torch.rand(B, T, D, generator=seed) < 0.7).double(),
        "u": torch.rand(B, T, U, generator=seed, dtype=torch.float64),
        "length": torch.full((B,), T),
        "slot": torch.tensor([[1, 4], [6, 2], [3, 3]]),
        "observed": torch.tensor([[1, 0], [0, 1], [1, 0]], dtype=torch.bool),
        "at_risk": torch.ones(B, 2, dtype=torch.bool),
        "tail": torch.tensor([[0, 3], [2, 0], [0, 0]]),
    }


def official(**switches: object) -> DeepStateSpace:
    settings = OFFICIAL | {"elbo_reduction": "official", "pretrain_interv": False} | switches
    return DeepStateSpace(D, U, EVENTS, Z, generator=torch.Generator().manual_seed(2), **settings).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("infer_model", ["basic", "lr", "st"])
@pytest.mark.parametrize("use_jitter", [False, True])
def test_posterior(infer_model: str, use_jitter: bool) -> None:
    model, batch = official(infer_model=infer_model, use_jitter=use_jitter), data()
    mu, scale = model.posterior(batch["x"], batch["mask"], batch["u"], batch["length"])
    for row in range(B):
        wanted = posterior(model, batch["x"][row].numpy(), batch["u"][row].numpy())
        assert np.allclose(mu[row].detach(), wanted[0], atol=1e-12)
        assert np.allclose(scale[row].detach(), wanted[1], atol=1e-12)


@pytest.mark.parametrize(
    "switches",
    [{}, {"em_act": "sigmoid"}, {"state_only_loss": True}, {"infer_model": "st"}, {"infer_model": "lr"}],
    ids=lambda switches: "-".join(switches) or "default",
)
def test_elbo(switches: dict[str, object]) -> None:
    model, batch = official(**switches), data()
    args = (batch["x"], batch["mask"], batch["u"], batch["length"])
    found, _ = model.elbo(*args, generator=torch.Generator().manual_seed(4))
    noise = torch.randn(B, T, Z, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    wanted = elbo(model, *(batch[name].numpy() for name in ("x", "mask", "u")), noise.numpy())
    assert float(found.detach()) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("forecast_interv", [False, True])
@pytest.mark.parametrize("forecast_delta", [False, True])
@pytest.mark.parametrize("reuse_encoding", [False, True])
def test_hazards(forecast_interv: bool, forecast_delta: bool, reuse_encoding: bool) -> None:
    switches = {"forecast_interv": forecast_interv, "forecast_delta": forecast_delta, "reuse_encoding": reuse_encoding}
    model, batch = official(**switches), data()
    assert (model.forecast is None) == reuse_encoding
    found = model.hazards(batch)
    for row in range(B):
        mu, _ = posterior(model, batch["x"][row].numpy(), batch["u"][row].numpy())
        for index, event in enumerate(EVENTS):
            assert np.allclose(found[event.name][row].detach(), hazards(model, mu[-1], index), atol=1e-12)


@pytest.mark.parametrize("last_slot_loss", [False, True])
def test_loss(last_slot_loss: bool) -> None:
    model, batch = official(last_slot_loss=last_slot_loss), data()
    loss, metrics = dssm_loss(model, batch, generator=torch.Generator().manual_seed(4))
    noise = torch.randn(B, T, Z, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    total = -elbo(model, *(batch[name].numpy() for name in ("x", "mask", "u")), noise.numpy())
    for index, event in enumerate(EVENTS):
        values = []
        for row in range(B):
            mu, _ = posterior(model, batch["x"][row].numpy(), batch["u"][row].numpy())
            lam, slot = np.array(hazards(model, mu[-1], index)), int(batch["slot"][row, index])
            seen = bool(batch["observed"][row, index])
            value = np.log(1 - lam[: slot - seen]).sum() + (np.log(lam[slot - 1]) if seen else 0.0)
            values.append(value + last_slot_loss * int(batch["tail"][row, index]) * np.log(1 - lam[-1]))
        assert float(metrics[f"nll/{event.name}"]) == pytest.approx(-np.mean(values), abs=1e-9)
        total -= event.weight * np.mean(values)
    assert float(loss.detach()) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("last_slot_loss", [False, True])
def test_expected_time_and_windows(last_slot_loss: bool) -> None:
    lam, slot_hours = np.array([0.1, 0.3, 0.05, 0.2]), 2.0

    def survival(hours: float) -> float:
        """S with one slot too many, as the code counts them."""
        index = int(hours / slot_hours)
        slots, beyond = (len(lam), index - len(lam) + 1) if index >= len(lam) else (index + 1, 0)
        return float(np.prod(1 - lam[:slots]) * (1 - lam[-1]) ** (beyond if last_slot_loss else 0))

    curve = torch.from_numpy(np.concatenate([[1], np.cumprod(1 - lam)]))[None]
    wanted = slot_hours * sum(survival((j + 1) * slot_hours) for j in range(480))
    assert float(predicted_time(curve, slot_hours, last_slot_loss=last_slot_loss)) == pytest.approx(wanted, rel=1e-12)
    if not last_slot_loss:
        for start, end in ((0.0, 2.0), (0.0, 3.0), (2.0, 6.0), (1.0, 8.0), (4.0, 9.0)):
            first = 1.0 if start == 0 else survival(start)
            last = 0.0 if end > len(lam) * slot_hours else survival(end)
            found = window_probability(curve, slot_hours, start, end, official=True)
            assert float(found) == pytest.approx(first - last, abs=1e-12)
