"""The linear product by oneDNN equals torch's own, in values and in gradients of every order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tenfold.nn import linear as module
from tenfold.nn.linear import Linear, cast_once, linear


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_ONEDNN", 0)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 24, generator=generator, requires_grad=True)
    return x, torch.randn(10, 24, generator=generator, requires_grad=True)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4)])
def test_values_and_gradients(shape: tuple[int, ...]) -> None:
    x, weight = pair(*shape)
    assert module._for_onednn(x, weight, None)
    y, expected = linear(x, weight), F.linear(x, weight)
    assert (y - expected).abs().max() <= 1e-5
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    mine, theirs = torch.autograd.grad(y, (x, weight), upstream), torch.autograd.grad(expected, (x, weight), upstream)
    for a, b in zip(mine, theirs, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5


def test_only_the_gradients_asked_for() -> None:
    x, weight = pair(6)
    linear(x.detach(), weight).sum().backward()
    assert weight.grad is not None
    linear(x, weight.detach()).sum().backward()
    assert x.grad is not None


def test_second_derivatives() -> None:
    x, weight = pair(6)
    for function in (linear, F.linear):
        y = function(x, weight).square().sum()
        grad_x, grad_w = torch.autograd.grad(y, (x, weight), create_graph=True)
        second = torch.autograd.grad(grad_x.square().sum() + grad_w.square().sum(), (x, weight))
        if function is linear:
            mine = second
    for a, b in zip(mine, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_other_cases_take_torchs_own_product() -> None:
    x, weight = pair(6)
    assert not module._for_onednn(x.double(), weight.double(), None)
    assert not module._for_onednn(x, weight, torch.zeros(10))
    with torch.autocast("cpu", torch.bfloat16):
        assert not module._for_onednn(x, weight, None)
        assert linear(x, weight).dtype == torch.bfloat16
    assert torch.func.vmap(lambda row: linear(row, weight))(x).shape == (6, 10)
    torch.testing.assert_close(torch.compile(linear, backend="eager")(x, weight), F.linear(x, weight))


def test_small_products_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    layer = Linear(24, 10, generator=torch.Generator().manual_seed(0))
    x, _ = pair(6)
    assert "Product" not in type(layer(x).grad_fn).__name__
    large = Linear(1024, 1024, generator=torch.Generator().manual_seed(0))
    assert "Product" in type(large(torch.ones(64, 1024)).grad_fn).__name__


def test_an_input_is_cast_once_under_autocast_only() -> None:
    x, _ = pair(6)
    assert cast_once(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert cast_once(x).dtype == torch.bfloat16
        assert cast_once(x.double()).dtype == torch.float64
