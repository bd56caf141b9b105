"""Contrastive losses of pictures and texts, over one process or gathered over several."""

# Shape legend: N pairs of this process, M pairs of all, E joint width

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

CLIP_INIT, CLIP_MAX = math.log(1 / 0.07), math.log(100)
SIGLIP_INIT, SIGLIP_BIAS = math.log(10), -10.0

Losses = tuple[Tensor, dict[str, Tensor]]


def clip_loss(
    u: Tensor, v: Tensor, log_scale: Tensor | float, *, dedup: bool | Tensor = False, gather: bool = False
) -> Losses:
    """½ [CE(Z, own text) + CE(Zᵀ, own picture)], Z = e^s u vᵀ.

    Args:
        u, v: (N, E) unit vectors of pictures and of their texts.
        log_scale: s.
        dedup: leave equal captions out of each other's negatives: True compares the rows of `v`; or (N,) int64, the
            number of each pair's caption.
        gather: contrast with the pairs of every process; the mean is over this process's pairs.
    Returns:
        the loss, and "weight" N, "accuracy" (share of pictures whose own text is nearest).
    Raises:
        ValueError: shapes that differ.
    Source: Radford et al. 2021, arXiv 2103.00020, Figure 3.
    """
    _check(u, v)
    u_all, v_all, start = _everyone(u, v, gather)
    scale = torch.as_tensor(log_scale, device=u.device).float().exp()
    own = torch.arange(start, start + len(u), device=u.device)
    by_picture = scale * (u.float() @ v_all.float().T)
    by_text = scale * (v.float() @ u_all.float().T)
    same = _false_negatives(v, dedup, gather, own)
    if same is not None:
        by_picture, by_text = (z.masked_fill(same, float("-inf")) for z in (by_picture, by_text))
    loss = (F.cross_entropy(by_picture, own) + F.cross_entropy(by_text, own)) / 2
    accuracy = (by_picture.argmax(1) == own).float().mean()
    return loss, {"weight": torch.tensor(len(u), device=u.device), "accuracy": accuracy.detach()}


def siglip_loss(
    u: Tensor,
    v: Tensor,
    log_scale: Tensor | float,
    bias: Tensor | float,
    *,
    dedup: bool | Tensor = False,
    gather: bool = False,
) -> Losses:
    """-(1/N) Σ_ij ln σ(y_ij (e^t u_i·v_j + b)), y = +1 for pairs, else -1; arguments as in `clip_loss`, t `log_scale`, b `bias`.

    Source: Zhai et al. 2023, arXiv 2303.15343, Algorithm 1.
    """
    _check(u, v)
    _, v_all, start = _everyone(u, v, gather)
    own = torch.arange(start, start + len(u), device=u.device)
    logits = torch.as_tensor(log_scale, device=u.device).float().exp() * (u.float() @ v_all.float().T) + bias
    pair = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)
    terms = F.logsigmoid(torch.where(pair, logits, -logits))
    same = _false_negatives(v, dedup, gather, own)
    if same is not None:
        terms = terms.masked_fill(same, 0.0)
    accuracy = (logits.argmax(1) == own).float().mean()
    return -terms.sum() / len(u), {"weight": torch.tensor(len(u), device=u.device), "accuracy": accuracy.detach()}


def _check(u: Tensor, v: Tensor) -> None:
    if u.ndim != 2 or u.shape != v.shape or not len(u):
        raise ValueError(f"u, v: got shapes {tuple(u.shape)} and {tuple(v.shape)}, need two equal (pairs, width)")


def _everyone(u: Tensor, v: Tensor, gather: bool) -> tuple[Tensor, Tensor, int]:
    """Vectors of all processes, and where this process's pairs stand among them."""
    if not gather or not dist.is_initialized() or dist.get_world_size() == 1:
        return u, v, 0
    return _Gathered.apply(u), _Gathered.apply(v), dist.get_rank() * len(u)


def _false_negatives(v: Tensor, dedup: bool | Tensor, gather: bool, own: Tensor) -> Tensor | None:
    """(N, M) True at other pairs with the same caption."""
    if dedup is False:
        return None
    if isinstance(dedup, Tensor):
        groups = dedup.to(v.device)
        everyone = torch.cat(_gather(groups)) if gather and dist.is_initialized() else groups
    else:
        rows = torch.cat(_gather(v.detach())) if gather and dist.is_initialized() else v.detach()
        everyone = torch.unique(rows, dim=0, return_inverse=True)[1]
    same = everyone[own, None] == everyone[None]
    return same.scatter(1, own[:, None], False)


def _gather(x: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return parts


class _Gathered(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is the sum of what every process's loss says of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return torch.cat(_gather(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows]
