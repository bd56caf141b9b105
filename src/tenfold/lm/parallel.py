"""Tensor and expert parallelism of the decoder, laid over a finished model from outside."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from tenfold.lm.decoder import Block, Decoder
from tenfold.nn.moe import MoE
from tenfold.nn.moe_parallel import parallelize_moe
from tenfold.nn.norm import RMSNorm, rms_norm


def parallelize_decoder(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread heads and hidden columns over the mesh axis `model`, experts over `expert`; in place.

    Queries, keys, values, gate and up are split by output columns, o and down by input columns: one all-reduce after
    attention and one after the feed-forward layer, in the forward and in the backward. Embedding, output layer and
    the norms stay whole. Every rank of the `model` axis takes the same tokens and gets the same logits.

    Args:
        model: a `Decoder` with the same weights on every rank.
        mesh: with axes named `data`, `expert`, `model` (or `model` alone, for a dense decoder).
    Raises:
        ValueError: not a decoder; key-value heads or ffn_dim that the axis does not divide.
    Source: Shoeybi et al. 2019, arXiv 1909.08053, Section 3.
    """
    if not isinstance(model, Decoder):
        raise ValueError(f"model: got {type(model).__name__}, need a Decoder")
    axis = mesh["model"]
    for name in ("n_kv_heads", "ffn_dim"):
        if getattr(model.cfg, name) % axis.size():
            raise ValueError(
                f"{name}: got {getattr(model.cfg, name)}, need a multiple of {axis.size()} (mesh axis model)"
            )
    for block in model.layers:
        assert isinstance(block, Block)
        if axis.size() > 1:
            _split_columns(block, axis)
        if isinstance(block.mlp, MoE):
            parallelize_moe(block.mlp, mesh)


def _split_columns(block: Block, axis: DeviceMesh) -> None:
    plan: dict[str, ParallelStyle] = {f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"}
    plan["self_attn.o_proj"] = RowwiseParallel()
    if not isinstance(block.mlp, MoE):
        plan |= {
            "mlp.gate_proj": ColwiseParallel(),
            "mlp.up_proj": ColwiseParallel(),
            "mlp.down_proj": RowwiseParallel(),
        }
    parallelize_module(block, axis, plan)
    for norm in (block.self_attn.q_norm, block.self_attn.k_norm):
        if norm is not None:
            _sum_weight_gradient(norm, axis.get_group())


def _sum_weight_gradient(norm: RMSNorm, group: dist.ProcessGroup) -> None:
    """A norm whose weight is whole but sees only this rank's heads: its gradient is the sum over the group.

    Inside the forward, since a hook on the parameter would be lost when the parameter is sharded further.
    """

    def forward(x: Tensor) -> Tensor:
        return rms_norm(x, _SummedGradient.apply(norm.weight, group), norm.eps)

    norm.forward = forward  # type: ignore[method-assign]


class _SummedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None
