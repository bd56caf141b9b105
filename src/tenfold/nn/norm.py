"""Root-mean-square norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight · x / sqrt(mean(x²) + eps) over the last axis; x of shape (..., d), weight (d,); see `RMSNorm`."""
    weight = weight.to(x.dtype)
    if x.dtype in (torch.float16, torch.bfloat16):
        wide = x.float()
        return (wide * _inverse_rms(wide, eps)).to(x.dtype) * weight
    if torch.compiler.is_compiling():
        return x * _inverse_rms(x, eps) * weight  # the compiler fuses this by itself
    if not torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight, eps)  # one call: generation is bound by calls, not by arithmetic
    return _RMSNorm.apply(x, weight, eps)[0]


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class _RMSNorm(torch.autograd.Function):
    """The formula with its gradient written out: a third of the time of what autograd strings together."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return (x * inverse).mul_(weight), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        x, weight, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            inverse = _inverse_rms(x, ctx.eps)  # a second derivative goes through it
        unit = x * inverse
        along = grad * unit
        shrink = (along @ weight).div(x.shape[-1]).unsqueeze(-1)
        grad_x = (grad * weight).addcmul_(unit, shrink, value=-1).mul_(inverse)
        return grad_x, along.reshape(-1, x.shape[-1]).sum(0), None


class RMSNorm(nn.Module):
    """y = weight · x / sqrt(mean(x²) + eps), over the last axis.

    16-bit inputs are normalised in float32 and cast back before the product with the weight (the order matters in
    bfloat16); float32 and float64 inputs stay in their type.

    Args:
        dim: size of the last axis.
        eps: added to the mean square.
    Raises:
        ValueError: dim below 1 or eps negative.
    Source: Zhang and Sennrich 2019, arXiv 1910.07467, Eq. 4.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: got {dim}, need at least 1")
        if eps < 0:
            raise ValueError(f"eps: got {eps}, need 0 or more")
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., dim). Returns: the same shape and type."""
        return rms_norm(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"
