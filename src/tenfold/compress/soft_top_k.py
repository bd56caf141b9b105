"""Soft top-k: a mask of k units in all, whole for the best, fractional around the threshold, with exact gradients."""

# Shape legend: ... any leading axes, F scores

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def soft_top_k(scores: Tensor, k: float, eps: float, n_iter: int | None = None) -> Tensor:
    """λ that maximises ⟨s, λ⟩ + eps · H(λ) over 0 <= λ <= 1 with Σλ = k, H(λ) = -Σ λ ln λ.

    λ_i = min(1, exp((s_i + a) / eps)), with a such that the sum is k: hard top-k as eps → 0, k/F everywhere as eps → ∞.

    Args:
        scores: (..., F), finite; each row of the last axis has a mask of its own.
        k: size of the mask, 0 < k <= F; need not be whole.
        eps: temperature, > 0, in units of the scores.
        n_iter: None solves for a exactly. A number takes as many rounds of the coordinate ascent of Lei et al. 2023;
            with a small eps these are far from the solution (20 rounds at F 352, k 176, eps 0.03: Σλ ≈ 44).
    Returns:
        λ (..., F), of the scores' type; worked out in float64.
    Raises:
        ValueError: k, eps or n_iter out of range, scores of an integer type or without an axis.
    Source: Lei et al. 2023, arXiv 2304.04947; used for pruning in AFM, arXiv 2407.21075.
    """
    if scores.ndim < 1 or not scores.is_floating_point():
        raise ValueError(f"scores: got {scores.dtype} {tuple(scores.shape)}, need floats (..., F)")
    if not 0 < k <= scores.shape[-1]:
        raise ValueError(f"k: got {k}, need 0 < k <= {scores.shape[-1]} (the number of scores)")
    if not eps > 0:
        raise ValueError(f"eps: got {eps}, need > 0")
    if n_iter is None:
        return _SoftTopK.apply(scores, float(k), float(eps))
    if n_iter < 1:
        raise ValueError(f"n_iter: got {n_iter}, need at least 1 or None")
    s = scores.double()
    b = torch.zeros_like(s)
    for _ in range(n_iter):
        a = eps * (math.log(k) - ((s + b) / eps).logsumexp(-1, keepdim=True))
        b = (-s - a).clamp(max=0)
    return ((s + b + a) / eps).exp().to(scores.dtype)


class _SoftTopK(torch.autograd.Function):
    """∂λ_i/∂s_j = (λ_i / eps) (δ_ij - λ_j / Σ_U λ) on the entries U below 1; entries at 1 stand still."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: float, eps: float) -> Tensor:
        mask = _solve(scores.double(), k, eps)
        ctx.eps = eps
        ctx.save_for_backward(mask)
        return mask.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        free = mask.where(mask < 1, 0)
        total = free.sum(-1, keepdim=True)
        mean = (grad * free).sum(-1, keepdim=True) / total.where(total > 0, 1)
        return (free * (grad - mean) / ctx.eps).to(grad.dtype), None, None


def _solve(scores: Tensor, k: float, eps: float) -> Tensor:
    """The exact mask.

    With the m best entries at 1, the others share k - m in proportion to exp(s / eps). The smallest m at which none of
    these passes 1 is the solution.
    """
    ranked = scores.sort(-1, descending=True).values
    last = math.ceil(k) - 1  # the most entries that can be at 1 while something is left for another
    # Numbers near the threshold are exact whatever eps; beside them e^700 is as good as infinity.
    pivot = ranked[..., last : last + 1]
    z = ((scores - pivot) / eps).clamp(max=700)
    ranked_z = ((ranked - pivot) / eps).clamp(max=700)
    tail = ranked_z.flip(-1).logcumsumexp(-1).flip(-1)[..., : last + 1]  # ln Σ_{i >= m} exp(z_i)
    left = (k - torch.arange(last + 1, dtype=z.dtype, device=z.device)).log()
    fits = ranked_z[..., : last + 1] + left <= tail  # at the last m always: 0 plus at most 0, the tail at least 0
    m = fits.int().argmax(-1, keepdim=True)
    return (z + left[m] - tail.gather(-1, m)).clamp(max=0).exp()
