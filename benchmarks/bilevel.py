"""Hypergradients: what a step of the task weights costs in time and memory, beside TorchOpt and higher.

python benchmarks/bilevel.py --threads 1 --out bilevel.json
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rows import Row, clock, milliseconds, parser, row, time_of, write
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from tenfold.clinical.forecast_model import ForecastModel, weighted_forecast_loss
from tenfold.clinical.hypergradient import hypergradient
from tenfold.core.timing import interleaved, ratio

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both use names that torch has moved since
    import higher
    import torchopt

SERIES, HISTORY, HORIZON, STATE, STEPS, RATE = 64, 24, 10, 32, 10, 1e-2


class Problem:
    """Forecast pretraining of random series."""

    def __init__(self, variables: int = 16) -> None:
        g = torch.Generator().manual_seed(0)
        self.net = ForecastModel(variables, STATE, HORIZON, generator=g)
        self.x = torch.randn(SERIES, HISTORY, variables, generator=g)
        self.mask = torch.rand(self.x.shape, generator=g) < 0.7
        self.y = torch.randn(SERIES, HORIZON, variables, generator=g)
        self.my = torch.rand(self.y.shape, generator=g) < 0.7
        self.label = (torch.rand(SERIES, generator=g) < 0.3).float()
        self.kappa = torch.zeros(variables, requires_grad=True)
        self.adam = torch.optim.Adam(self.net.parameters(), RATE)

    def aux(self, forecast: Tensor, kappa: Tensor) -> Tensor:
        return weighted_forecast_loss(forecast, self.y, self.my, kappa.softmax(0))

    def val(self, logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, self.label)

    def forecast_step(self) -> None:
        self.adam.zero_grad()
        self.aux(self.net.forecast(self.x, self.mask), self.kappa.detach()).backward()
        self.adam.step()

    def hypergradient(self, mode: Any, steps: int, **kw: Any) -> Tensor:
        parts = ("encoder", "decoder")
        params = {p: {n: q for n, q in getattr(self.net, p).named_parameters() if q.requires_grad} for p in parts}

        def encode(p: Any) -> Any:
            return functional_call(self.net.encoder, p["encoder"], (self.x, self.mask))

        return hypergradient(
            mode,
            aux_loss=lambda p, k: self.aux(functional_call(self.net.decoder, p["decoder"], encode(p)), k),
            val_loss=lambda p: self.val(self.net.logits(encode(p)[0])),
            params=params,
            kappa=self.kappa,
            steps=steps,
            lr=RATE,
            **kw,
        )


def step_rows(repeats: int) -> list[Row]:
    """A first-order step of the weights beside a forecast step, for few and for many tasks."""
    small, large = Problem(16), Problem(96)
    calls = {
        "forecast": small.forecast_step,
        "outer": lambda: small.hypergradient("first_order", 1),
        "differences": lambda: small.hypergradient("finite_diff", 1),
        "forecast of 96": large.forecast_step,
        "outer of 96": lambda: large.hypergradient("first_order", 1),
    }
    timings = interleaved(calls, repeats, clock=clock)
    note = (
        f"{milliseconds(timings['outer'])} against {milliseconds(timings['forecast'])}; torch's LSTM has a fused backward "
        "pass, but none that can be differentiated again: there it takes its steps one by one"
    )
    cheap = f"{milliseconds(timings['differences'])}: no second derivative, values within a hundredth of first_order's"
    growth = ratio(timings, "forecast of 96", "forecast") / ratio(timings, "outer of 96", "outer")
    return [
        row("forecast step / first_order step", ratio(timings, "forecast", "outer"), note, 1 / 3),
        row("forecast step / finite_diff step", ratio(timings, "forecast", "differences"), cheap, 1 / 3),
        row(
            "growth from 16 to 96 tasks: forecast step / first_order step",
            growth,
            f"the step of 96 takes {ratio(timings, 'outer of 96', 'outer'):.2f} times that of 16; no loop over tasks",
            1 / 1.3,
        ),
    ]


def peak(call: Callable[[], object]) -> int:
    """Most bytes of tensors held at once beyond those before the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return int(np.cumsum([e.nbytes() for e in events]).max())


def memory_rows() -> list[Row]:
    """Peak memory of ten unrolled steps beside one."""
    rows, problem = [], Problem()

    def used(opt: str, steps: int, **kw: int) -> int:
        return peak(lambda: problem.hypergradient("unrolled", steps, opt=opt, **kw))

    for opt in ("sgd", "adam"):
        one = used(opt, 1)
        chunked = used(opt, STEPS, unroll_chunk=2)
        for name, bar, ten in (("whole", 1 / 12, used(opt, STEPS)), ("unroll_chunk=2", 1 / 5, chunked)):
            note = f"{ten / one:.1f} times {one / 1e6:.1f} MB"
            rows.append(row(f"memory, {opt}, {name}: one step / ten steps", one / ten, note, bar))
    return rows


def peer_rows(repeats: int) -> list[Row]:
    """Ten unrolled steps of a perceptron; neither peer differentiates through the forecast network as it is."""
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 16))
    x, y = torch.randn(256, 64, generator=g), torch.randn(256, 16, generator=g)
    kappa = torch.zeros(16, requires_grad=True)

    def aux(out: Tensor, weights: Tensor) -> Tensor:
        return (weights.softmax(0) * (out - y).square().mean(0)).sum()

    def val(out: Tensor) -> Tensor:
        return (out[:, 0] * out[:, 1]).square().mean()

    def ours(opt: Any) -> Tensor:
        return hypergradient(
            "unrolled",
            aux_loss=lambda p, k: aux(functional_call(net, p, (x,)), k),
            val_loss=lambda p: val(functional_call(net, p, (x,))),
            params=dict(net.named_parameters()),
            kappa=kappa,
            steps=STEPS,
            lr=RATE,
            opt=opt,
        )

    def of_torchopt(opt: str) -> Tensor:
        optimizer = (torchopt.MetaSGD if opt == "sgd" else torchopt.MetaAdam)(net, lr=RATE)
        start = torchopt.extract_state_dict(net)
        for _ in range(STEPS):
            optimizer.step(aux(net(x), kappa))
        (g,) = torch.autograd.grad(val(net(x)), kappa)
        torchopt.recover_state_dict(net, start)
        return g

    def of_higher(opt: str) -> Tensor:
        optimizer = (torch.optim.SGD if opt == "sgd" else torch.optim.Adam)(net.parameters(), lr=RATE)
        with higher.innerloop_ctx(net, optimizer) as (copy, inner):
            for _ in range(STEPS):
                inner.step(aux(copy(x), kappa))
            return torch.autograd.grad(val(copy(x)), kappa)[0]

    rows = []  # tests/parity holds the values equal
    for opt in ("sgd", "adam"):
        calls = {
            "ours": lambda opt=opt: ours(opt),
            "TorchOpt": lambda opt=opt: of_torchopt(opt),
            "higher": lambda opt=opt: of_higher(opt),
        }
        timings = interleaved(calls, repeats, clock=clock)
        for name in ("TorchOpt", "higher"):
            note = f"{milliseconds(timings['ours'])} against {milliseconds(timings[name])}"
            rows.append(row(f"ten unrolled steps, {opt}: {name} / ours", ratio(timings, name, "ours"), note, 0.8))
    return rows


def encoder_row(repeats: int) -> Row:
    """torch's LSTM beside a cell in a Python loop, forward and backward; the sizes of the authors' code."""
    series, steps, state = 32, 48, 10
    lstm = nn.LSTM(32, state, batch_first=True)
    cell = nn.LSTMCell(32, state)
    with torch.no_grad():
        for a, b in zip(cell.parameters(), lstm.parameters(), strict=True):
            a.copy_(b)
    x = torch.randn(series, steps, 32, generator=torch.Generator().manual_seed(0))

    def loop() -> Tensor:
        h = c = x.new_zeros(series, state)
        for t in range(steps):
            h, c = cell(x[:, t], (h, c))
        return h

    def fused() -> Tensor:
        return lstm(x)[1][0][0]

    torch.testing.assert_close(fused(), loop(), rtol=1e-4, atol=1e-5)
    calls = {"fused": lambda: fused().sum().backward(), "loop": lambda: loop().sum().backward()}
    timings = interleaved(calls, repeats, clock=clock)
    times = f"{milliseconds(timings['fused'])} against {milliseconds(timings['loop'])}, forward and backward"
    note = f"{times}; {series} series of {steps} steps, state {state}"
    return row("encoder: cell in a Python loop / nn.LSTM", ratio(timings, "loop", "fused"), note, 3.0)


def main() -> None:
    arguments = parser("hypergradients", repeats=15).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [
        *step_rows(arguments.repeats),
        *memory_rows(),
        *peer_rows(arguments.repeats),
        encoder_row(arguments.repeats),
    ]
    what = (
        f"{SERIES} series of {HISTORY} steps, {HORIZON} to forecast, state {STATE}; {time_of(arguments.threads)}. Bars on time and memory "
        "that must not be passed stand as the inverse ratio."
    )
    write(arguments.out, "Hypergradients", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
