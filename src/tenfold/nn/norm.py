"""Root-mean-square norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight · x / sqrt(mean(x²) + eps) over the last axis; x of shape (..., d), weight (d,); see `RMSNorm`."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return unit.to(x.dtype) * weight.to(x.dtype)


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
