"""Differentiable training against TorchOpt and higher: the same hypergradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both use names that torch has moved since
    import higher
    import torchopt

from tenfold.clinical.hypergradient import hypergradient

RATE, STEPS = 0.02, 5


@pytest.fixture(autouse=True)
def float64() -> Any:
    torch.set_default_dtype(torch.float64)  # TorchOpt rounds Adam's corrections of the bias to the default type
    yield
    torch.set_default_dtype(torch.float32)


class Problem:
    """Three regression tasks of one small network; validation is something else."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        with torch.no_grad():
            for p in self.net.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=g))
        self.x = torch.randn(20, 5, generator=g)
        self.y = torch.randn(20, 3, generator=g)
        self.kappa = torch.randn(3, generator=g)

    def aux(self, out: Tensor, kappa: Tensor) -> Tensor:
        return (kappa.softmax(0) * (out - self.y).square().mean(0)).sum()

    def val(self, out: Tensor) -> Tensor:
        return F.mse_loss(out[:, 0] * out[:, 1], self.y[:, 2])

    def ours(self, **kw: Any) -> Tensor:
        return hypergradient(
            "unrolled",
            aux_loss=lambda p, k: self.aux(functional_call(self.net, p, (self.x,)), k),
            val_loss=lambda p: self.val(functional_call(self.net, p, (self.x,))),
            params=dict(self.net.named_parameters()),
            kappa=self.kappa,
            steps=STEPS,
            lr=RATE,
            **kw,
        )


@pytest.mark.parametrize("opt", ["sgd", "adam"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_torchopt(opt: Any, chunk: int | None) -> None:
    problem = Problem()
    kappa = problem.kappa.clone().requires_grad_()
    make = torchopt.MetaSGD if opt == "sgd" else torchopt.MetaAdam
    optimizer = make(problem.net, lr=RATE)
    for _ in range(STEPS):
        optimizer.step(problem.aux(problem.net(problem.x), kappa))
    (expected,) = torch.autograd.grad(problem.val(problem.net(problem.x)), kappa)
    torch.testing.assert_close(Problem().ours(opt=opt, unroll_chunk=chunk), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_higher(opt: Any) -> None:
    problem = Problem()
    kappa = problem.kappa.clone().requires_grad_()
    parameters = problem.net.parameters()
    # higher adds eps before the correction of the bias: both formulas meet as eps goes to 0.
    optimizer = torch.optim.SGD(parameters, RATE) if opt == "sgd" else torch.optim.Adam(parameters, RATE, eps=1e-14)
    with higher.innerloop_ctx(problem.net, optimizer) as (net, inner):
        for _ in range(STEPS):
            inner.step(problem.aux(net(problem.x), kappa))
        (expected,) = torch.autograd.grad(problem.val(net(problem.x)), kappa)
    torch.testing.assert_close(Problem().ours(opt=opt, eps=1e-14), expected, rtol=1e-8, atol=0)
