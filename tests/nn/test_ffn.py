"""FeedForward against its formulas, and the initial weights of `Linear`."""

from __future__ import annotations

import math

import pytest
import torch

from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import Linear


def reference(ffn: FeedForward, x: torch.Tensor) -> torch.Tensor:
    up = x @ ffn.up_proj.weight.T
    if ffn.up_proj.bias is not None:
        up = up + ffn.up_proj.bias
    if ffn.activation == "swiglu":
        gate = x @ ffn.gate_proj.weight.T
        if ffn.gate_proj.bias is not None:
            gate = gate + ffn.gate_proj.bias
        inner = gate / (1 + torch.exp(-gate)) * up
    elif ffn.activation == "relu":
        inner = up * (up > 0)
    elif ffn.activation == "gelu":
        inner = up * (1 + torch.erf(up / math.sqrt(2))) / 2
    else:
        inner = up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2
    y = inner @ ffn.down_proj.weight.T
    return y if ffn.down_proj.bias is None else y + ffn.down_proj.bias


@pytest.mark.parametrize("activation", ["swiglu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_formula(activation: str, bias: bool, generator: torch.Generator) -> None:
    ffn = FeedForward(6, 10, activation=activation, bias=bias, generator=generator).double()
    for weight in ffn.parameters():
        weight.data = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    x = torch.randn(2, 3, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(ffn(x), reference(ffn, x), rtol=1e-12, atol=1e-12)


def test_dropout_only_in_training(generator: torch.Generator) -> None:
    ffn = FeedForward(4, 64, dropout=0.5, generator=generator)
    x = torch.randn(2, 4, generator=generator)
    assert not torch.equal(ffn(x), ffn(x))
    ffn.eval()
    assert torch.equal(ffn(x), ffn(x))


def test_initial_weights_have_fan_in_variance_and_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    one = Linear(400, 300, generator=torch.Generator().manual_seed(3))
    two = Linear(400, 300, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(one.weight.std().item() * 20 - 1) < 0.01


def test_initial_weights_follow_torchs_seed_and_layers_differ() -> None:
    torch.manual_seed(11)
    one, two = Linear(8, 8), Linear(8, 8)
    torch.manual_seed(11)
    again = Linear(8, 8)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, two.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "dim, hidden"),
        ({"activation": "tanh"}, "activation: got 'tanh'"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeedForward(**{"dim": 4, "hidden": 8, **options})
