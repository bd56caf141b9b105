"""RMSNorm against its formula."""

from __future__ import annotations

import pytest
import torch

from tenfold.nn.norm import RMSNorm, rms_norm


def test_gold_values() -> None:
    norm = RMSNorm(2, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0])
    # mean square of (3, 4) is 12.5
    expected = torch.tensor([3 / 12.5**0.5, 8 / 12.5**0.5])
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), expected)


def test_float64_stays_exact() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = RMSNorm(7).double()(x)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=1e-14)


def test_bfloat16_is_normalised_in_float32_and_weighted_after_the_cast() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    norm = RMSNorm(64)
    norm.weight.data = torch.linspace(0.5, 1.5, 64)
    norm.bfloat16()
    unit = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(norm(x), unit.bfloat16() * norm.weight)
    assert not torch.equal(norm(x), (unit * norm.weight.float()).bfloat16())  # the order is visible


def test_large_half_precision_values_do_not_overflow() -> None:
    x = torch.full((1, 8), 3e4, dtype=torch.float16)
    torch.testing.assert_close(RMSNorm(8).half()(x), torch.ones(1, 8, dtype=torch.float16))


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(size, dtype=torch.float64, generator=generator, requires_grad=True) for size in ((3, 5), (5,))
    )
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-2), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, weight: rms_norm(x, weight, 1e-2), (x, weight))


def test_gradients_of_each_sample() -> None:
    x = torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)

    def loss(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, 1e-5).sin().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    torch.testing.assert_close(together, torch.stack([torch.func.grad(loss)(weight, row) for row in x]))


def test_compiled_path_agrees() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, torch.ones(8), 1e-5), rms_norm(x, torch.ones(8), 1e-5))


def test_scale_invariance() -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    norm = RMSNorm(6, eps=0.0).double()
    torch.testing.assert_close(norm(7 * x), norm(x))


@pytest.mark.parametrize(("dim", "eps"), [(0, 1e-5), (4, -1.0)])
def test_refuses(dim: int, eps: float) -> None:
    with pytest.raises(ValueError, match="got"):
        RMSNorm(dim, eps)
