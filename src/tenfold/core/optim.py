"""Optimizer groups, learning-rate schedules and a gradient clip that holds on every mesh."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Schedule:
    """Learning-rate multiplier: linear warm-up from 0, then decay to `final_fraction` at `total`, constant after it.

    `warmup` and `total` share one unit: steps, or shares of a time budget (`total=1.0`) where training stops at a
    number of seconds. The argument counts what is done once the current step is finished, so with steps it runs from
    1 to `total`: the first step is not lost at rate 0 and the last one is taken at exactly `final_fraction`.

    Args:
        warmup: length of the warm-up, 0 <= warmup <= total.
        total: where the decay ends, > 0.
        final_fraction: multiplier at `total`, in [0, 1]; without meaning for kind "constant".
        kind: shape of the decay.
    """

    warmup: float
    total: float
    final_fraction: float = 0.1
    kind: Literal["cosine", "linear", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if not self.total > 0:
            raise ValueError(f"total: got {self.total}, need > 0")
        if not 0 <= self.warmup <= self.total:
            raise ValueError(f"warmup: got {self.warmup}, need 0..{self.total} (total)")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction: got {self.final_fraction}, need 0..1")
        if self.kind not in ("cosine", "linear", "constant"):
            raise ValueError(f"kind: got {self.kind!r}, need 'cosine', 'linear' or 'constant'")

    def __call__(self, step: float) -> float:
        if step < self.warmup:
            return step / self.warmup
        if self.kind == "constant":
            return 1.0
        if step >= self.total:
            return self.final_fraction
        progress = (step - self.warmup) / (self.total - self.warmup)
        falling = 1.0 - progress if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_fraction + (1.0 - self.final_fraction) * falling


def adamw_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices only, none on norms, biases and other one-dimensional parameters.

    Sharded parameters of different meshes come in groups of their own, since the fused and foreach kernels refuse a
    list that mixes them; so call it after `shard`.

    Args:
        model: its trainable parameters are taken, tied ones once.
        weight_decay: decoupled decay of parameters with two or more dimensions, >= 0.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay: got {weight_decay}, need >= 0")
    groups: dict[tuple[bool, int | None], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2
        mesh = hash(parameter.device_mesh) if isinstance(parameter, DTensor) else None
        group = groups.setdefault((decays, mesh), {"params": [], "weight_decay": weight_decay if decays else 0.0})
        group["params"].append(parameter)
    return list(groups.values())


def adamw(
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over `adamw_groups`, with the fused kernel: on a CPU it is several times the speed of the plain loop.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    groups = adamw_groups(model, weight_decay)
    if not groups:
        raise ValueError("model: has no trainable parameter")
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def clip_grad_norm(params: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients so that their joint 2-norm is at most `max_norm`, in place.

    Plain tensors and DTensors of any mixture of meshes may stand side by side (torch's own function refuses that).
    A value held by several ranks counts once; squares of shards are summed by one all-reduce for each mesh axis.

    Args:
        params: those without a gradient are passed over.
        max_norm: > 0; None measures the norm and changes nothing.
    Returns:
        The norm before clipping, a tensor without dimensions, the same on every rank of the meshes involved.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm: got {max_norm}, need > 0")
    # (dtype, None) for whole gradients, (dtype, mesh, the axes it is sharded over) for parts of one.
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in params:
        grad = parameter.grad
        if grad is None:
            continue
        if not isinstance(grad, DTensor):
            kinds.setdefault((grad.dtype, None), []).append(grad)
            continue
        if any(placement.is_partial() for placement in grad.placements):
            # The sum over ranks is still owed: its norm is not that of the parts.
            parameter.grad = grad = grad.redistribute(placements=cast(DTensor, parameter).placements)
        split = [axis for axis, placement in enumerate(grad.placements) if not placement.is_replicate()]
        key = (grad.dtype, grad.device_mesh, *split) if split else (grad.dtype, None)
        kinds.setdefault(key, []).append(grad.to_local())
    if not kinds:
        return torch.zeros(())
    squares = []
    for (dtype, mesh, *axes), grads in kinds.items():
        norms = torch._foreach_norm(grads, 2, dtype=torch.promote_types(dtype, torch.float32))
        square = torch.stack(norms).square().sum()
        for axis in axes:
            torch.distributed.all_reduce(square, group=mesh.get_group(axis))
        squares.append(square)
    norm = torch.stack(squares).sum().sqrt()
    if max_norm is not None:
        # min(1, max_norm / norm) on the device: no wait for the value. A non-finite norm spreads and is seen there.
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for grads in kinds.values():
            torch._foreach_mul_(grads, factor)
    return norm
