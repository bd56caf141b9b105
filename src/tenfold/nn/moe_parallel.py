"""Data, expert and model parallelism of the mixture of experts, laid over a finished layer from outside.

Axes of the mesh (Du et al. 2024, arXiv 2405.15052, Table 1): tokens are split over `data` x `expert`, experts over
`expert`, hidden columns over `model`; router and dense weights are whole everywhere. Rows travel to their experts and
back within an `expert` group, so never across `data`.

Shape legend: T tokens of this rank, M model width, E experts, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from tenfold.core.errors import UserError
from tenfold.core.mesh import AXES, build_mesh, maximum
from tenfold.nn.expert_choice import ExpertRouting
from tenfold.nn.experts import ExpertWeights
from tenfold.nn.moe import MoE, Routing, moe_layers
from tenfold.nn.moe_capacity import layer_capacity
from tenfold.nn.moe_config import MoEConfig
from tenfold.nn.moe_exchange import ExpertGroups, portion, run_sharded_experts, sum_over
from tenfold.nn.moe_stats import Counts, Stats, finish_stats
from tenfold.nn.routing import TokenRouting

__all__ = ["ShardedMoE", "build_mesh", "gather_state", "load_full_state", "parallelize_moe"]

# Dimension of each expert parameter that holds its hidden columns; the experts themselves are dimension 0.
_COLUMNS = {"w0": 2, "w1": 2, "w2": 1, "b0": 1, "b1": 1, "b2": None}


@dataclass(frozen=True)
class _GlobalTokenRouting(TokenRouting):
    """This rank's routing, with the statistics of all ranks."""

    total: Callable[[Counts], Counts]

    @cached_property
    def stats(self) -> Stats:
        """Statistics of all ranks by name. The first read is a collective operation: all ranks read, or none."""
        return finish_stats(self.total(self.counts))


@dataclass(frozen=True)
class _GlobalExpertRouting(ExpertRouting):
    """This rank's routing, with the statistics of all ranks."""

    total: Callable[[Counts], Counts]

    @cached_property
    def stats(self) -> Stats:
        """Statistics of all ranks by name. The first read is a collective operation: all ranks read, or none."""
        return finish_stats(self.total(self.counts))


def _batch_groups(mesh: DeviceMesh) -> tuple[ProcessGroup, ...]:
    return tuple(mesh.get_group(axis) for axis in ("data", "expert") if mesh[axis].size() > 1)


def _all_sum(x: Tensor, mesh: DeviceMesh) -> Tensor:
    return sum_over(x, _batch_groups(mesh))


def _sum_counts(counts: Counts, mesh: DeviceMesh) -> Counts:
    """Counts of all ranks' tokens: integers in one flat tensor, so that the sums are exact, and the rest in another."""
    summed: Counts = {}
    for exact in (True, False):
        names = [name for name, count in counts.items() if count.is_floating_point() != exact]
        flat = torch.cat([counts[name].reshape(-1) for name in names])
        for group in _batch_groups(mesh):
            dist.all_reduce(flat, group=group)
        parts = flat.split([counts[name].numel() for name in names])
        summed |= {name: part.view_as(counts[name]) for name, part in zip(names, parts, strict=True)}
    return summed


def _local(tensor: Tensor | None) -> Tensor | None:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class ShardedMoE(MoE):
    """A `MoE` after `parallelize_moe`; all ranks of its mesh call it together.

    Each rank brings its own sequences; ranks that differ only on the `model` axis bring the same ones. Losses and
    statistics are those of all ranks' tokens together. Ranks in the order of `core.mesh.batch_coordinate` hold
    consecutive parts of the batch; then outputs, losses, gradients and statistics are those of one process.

    A layer with capacity needs the same number of tokens on every rank, since its rows travel in fixed shapes;
    `debug_routing` makes it check that. Dropless layers take any numbers.
    """

    mesh: DeviceMesh

    def weights(self) -> ExpertWeights:
        """This rank's experts and columns; b2, which has no columns, divided among the ranks that add it up."""
        whole = super().weights()
        parts = [_local(t) for t in (whole.w0, whole.w1, whole.w2, whole.b0, whole.b1, whole.b2)]
        if parts[-1] is not None and self.mesh["model"].size() > 1:
            parts[-1] = portion(parts[-1], self.mesh["model"].size())
        return ExpertWeights(whole.activation, *parts)  # type: ignore[arg-type]

    def _groups(self, batch: int, tokens: int) -> int:
        """Groups of this rank's tokens; outer·groups of the settings counts those of all ranks."""
        config = self.config
        if config.dropless or tokens == 0:
            return 1
        if config.group_size is not None and tokens % config.group_size:
            raise ValueError(
                f"group_size: got {config.group_size}, need a divisor of the {tokens} tokens of each rank; "
                "no group may span ranks"
            )
        if config.group_size is not None or (config.picks_tokens and config.groups == config.outer == 1):
            return super()._groups(batch, tokens)
        ranks = self.mesh.size(0) * self.mesh.size(1)
        groups = config.outer * config.groups // ranks
        if groups < 1 or tokens % groups:
            raise ValueError(
                f"outer·groups: got {config.outer}·{config.groups} over {ranks} ranks, "
                f"need a divisor of the {tokens} tokens of each rank"
            )
        return groups

    def route(self, x: Tensor, router_input: Tensor | None = None, mask: Tensor | None = None) -> Routing:
        """As `MoE.route`, for this rank's tokens; losses and `stats` are of all ranks."""
        routing = super().route(x, router_input, mask)
        values: dict[str, Any] = {f.name: getattr(routing, f.name) for f in fields(routing)}
        values["total"] = partial(_sum_counts, mesh=self.mesh)
        if isinstance(routing, TokenRouting):
            return _GlobalTokenRouting(**values)
        tokens = routing.logits.shape[0] if routing.valid is None else routing.valid.sum()
        z, count = _all_sum(torch.stack([routing.z_loss * tokens, torch.ones_like(routing.z_loss) * tokens]), self.mesh)
        return _GlobalExpertRouting(**values | {"z_loss": z / count.clamp_min(1)})

    def forward(
        self,
        x: Tensor,
        router_input: Tensor | None = None,
        mask: Tensor | None = None,
        return_routing: bool = False,
    ) -> Tensor | tuple[Tensor, Routing]:
        """As `MoE.forward`, for this rank's tokens; a collective operation of all ranks."""
        if self.config.dropless and x.shape[:-1].numel() == 0:
            self._check_input(x, router_input, mask)
            y, routing = self._forward_without_tokens(x)
            return (y, routing) if return_routing else y
        return super().forward(x, router_input, mask, return_routing)

    def _run_experts(self, x_TM: Tensor, routing: Routing, weights: ExpertWeights) -> Tensor:
        groups = ExpertGroups(*(self.mesh.get_group(a) if self.mesh[a].size() > 1 else None for a in AXES[1:]))
        width = self._width(routing)
        self._check_width(width, groups)
        return run_sharded_experts(x_TM, routing.rows(), weights, self.config.backend, groups, width)

    def _forward_without_tokens(self, x: Tensor) -> tuple[Tensor, Routing]:
        """Take part in what the other ranks do, with one token of padding; x stays in the graph."""
        padded = torch.cat([x.reshape(0, self.config.dim), x.new_zeros(1, self.config.dim)])
        y, routing = self.forward(padded, mask=padded.new_zeros(1, dtype=torch.bool), return_routing=True)
        assert isinstance(y, Tensor) and not isinstance(routing, Tensor)
        return y[:0].view(x.shape), routing

    def _width(self, routing: Routing) -> int | None:
        """Places of every expert for this rank's tokens, where the settings fix them."""
        if isinstance(routing, ExpertRouting):
            return routing.pairs.width if routing.pairs.even else None
        if routing.capacity is None:
            return None
        # Padding lowers the capacity of some groups; this is that of a full one.
        return layer_capacity(self.config, len(routing.indices) // routing.groups, self.training) * routing.groups

    def _check_width(self, width: int | None, groups: ExpertGroups) -> None:
        if self.debug_name is None or groups.expert is None:
            return
        own = torch.tensor(-1 if width is None else width, device=self.mesh.device_type)
        widths = [torch.empty_like(own) for _ in range(groups.expert.size())]
        dist.all_gather(widths, own, group=groups.expert)
        if len(set(torch.stack(widths).tolist())) > 1:
            raise ValueError(
                f"{self.debug_name}: ranks of the expert axis have {torch.stack(widths).tolist()} places an expert; "
                "give every rank the same number of tokens, or set dropless=True"
            )

    @torch.no_grad()
    def update_bias(self, rate: float = 1e-3) -> None:
        """As `MoE.update_bias`, by the choices of all ranks' tokens; a collective operation."""
        if self.config.router == "topk_bias":
            for group in _batch_groups(self.mesh):
                dist.all_reduce(self.choice_counts, group=group)
        super().update_bias(rate)


def parallelize_moe(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spread every `MoE` layer of a model over the mesh, in place; layer code and parameter names stay as they are.

    Each rank keeps E/expert experts and H/model hidden columns, as DTensors over those axes of more than one rank,
    and shared experts' columns likewise. Sums of gradients over the ranks that hold different tokens are left to
    `core.mesh.shard` or `core.mesh.reduce_gradients`.

    A layer with capacity and the default outer = groups = 1 gets outer = data and groups = expert: a group cannot span
    ranks. Then one process with those settings gives the same numbers.

    Args:
        module: a layer or a model that holds layers; the same weights on every rank.
        mesh: with the axes data, expert, model, as from `build_mesh`.
    Returns:
        The same module.
    Raises:
        ValueError: num_experts, hidden, shared_hidden or outer·groups that the axes do not divide; a module that is
            sharded already, or whose weights differ between ranks; other axes. Nothing is changed then.
    """
    if mesh.mesh_dim_names != AXES:
        raise ValueError(f"mesh: got axes {mesh.mesh_dim_names}, need {AXES} (see build_mesh)")
    layers = list(moe_layers(module))
    for name, layer in layers:
        _check_layer(name, layer, mesh)
    if mesh.size() > 1:
        _check_same(layers, mesh)
        for _, layer in layers:
            _shard_layer(layer, mesh)
    return module


def _check_layer(name: str, layer: MoE, mesh: DeviceMesh) -> None:
    where, config = f"{name}." if name else "", layer.config
    if isinstance(layer, ShardedMoE) or any(isinstance(p, DTensor) for p in layer.parameters()):
        raise ValueError(f"module: layer {name!r} is sharded already, need a plain one")
    for field, axis in (("num_experts", "expert"), ("hidden", "model"), ("shared_hidden", "model")):
        if getattr(config, field) % mesh[axis].size():
            raise ValueError(
                f"{where}{field}: got {getattr(config, field)}, need a multiple of {mesh[axis].size()} "
                f"(mesh axis {axis})"
            )
    groups, ranks = config.outer * config.groups, mesh.size(0) * mesh.size(1)
    if groups > 1 and groups % ranks and not config.dropless:
        raise ValueError(
            f"{where}outer·groups: got {config.outer}·{config.groups}, need a multiple of {ranks} "
            f"(mesh axes data x expert): no group may span ranks"
        )


def _check_same(layers: list[tuple[str, MoE]], mesh: DeviceMesh) -> None:
    """Refuse weights that each rank has drawn for itself: nothing would fail, and nothing would be right."""
    names = [f"{name}.{part}" if name else part for name, layer in layers for part, _ in layer.named_parameters()]
    sums = [_checksum(parameter) for _, layer in layers for parameter in layer.parameters()]
    if not sums or any(total.is_meta for total in sums):
        return
    total = torch.stack(sums)
    high, low = maximum(torch.stack([total, -total]).to(mesh.device_type), mesh).tolist()
    different = [name for name, most, least in zip(names, high, low, strict=True) if most != -least]
    if different:
        raise ValueError(
            f"module: {different[0]} differs between ranks, need the same weights on all; give the model a generator "
            "with the same seed everywhere, or load a checkpoint"
        )


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of the bits read as integers: exact, so that equal tensors agree on every machine."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(integers).sum(dtype=torch.int64)


def _rank_groups(config: MoEConfig, mesh: DeviceMesh) -> MoEConfig:
    """Settings whose groups lie within ranks; those of a layer that groups its tokens otherwise stay."""
    if config.picks_tokens or config.group_size is not None or config.outer * config.groups > 1:
        return config
    return replace(config, outer=mesh.size(0), groups=mesh.size(1))


def _shard_layer(layer: MoE, mesh: DeviceMesh) -> None:
    # Axes of one rank are left out: a parameter that nobody splits over `expert` is free for data-parallel sharding.
    axes = tuple(axis for axis in AXES[1:] if mesh[axis].size() > 1)
    for name, columns in _COLUMNS.items() if axes else ():
        weight = getattr(layer, name)
        if weight is not None:
            split = {"expert": Shard(0), "model": Replicate() if columns is None else Shard(columns)}
            setattr(layer, name, _own_part(weight, mesh[axes], [split[axis] for axis in axes]))
    if layer.shared is not None and mesh["model"].size() > 1:
        plan: dict[str, ParallelStyle] = {"up_proj": ColwiseParallel(), "down_proj": RowwiseParallel()}
        if layer.shared.gate_proj is not None:
            plan["gate_proj"] = ColwiseParallel()
        parallelize_module(layer.shared, mesh["model"], plan)
    layer.config = _rank_groups(layer.config, mesh)
    layer.all_sum = partial(_all_sum, mesh=mesh)
    layer.__class__ = ShardedMoE
    assert isinstance(layer, ShardedMoE)
    layer.mesh = mesh


def _own_part(weight: nn.Parameter, mesh: DeviceMesh, placements: list[Any]) -> nn.Parameter:
    local = distribute_tensor(weight.detach(), mesh, placements, src_data_rank=None).to_local()
    # A copy, or the slice would keep the whole weight in memory.
    shard = DTensor.from_local(local.clone(), mesh, placements, run_check=False)
    return nn.Parameter(shard, requires_grad=weight.requires_grad)


def gather_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a sharded module as the plain one would have it, on every rank; a collective operation.

    Works for all that is sharded as DTensors: experts, tensor-parallel layers, FSDP.

    Returns:
        state dict by the plain module's names, whole tensors on the CPU that share no memory with the module.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        whole = tensor.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        state[name] = torch.empty_like(whole, device="cpu").copy_(whole)
    return state


@torch.no_grad()
def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state of a plain module into a sharded one (or a plain one); each rank keeps its part of `state`.

    Args:
        state: whole tensors, the same on every rank, as from `gather_state` or a safetensors file.
    Raises:
        UserError: another number of experts, other names or shapes; nothing is changed then.
    """
    own = module.state_dict()
    for name, layer in moe_layers(module):
        gate = state.get(f"{name}.gate_weight" if name else "gate_weight")
        if gate is not None and gate.ndim == 2 and gate.shape[1] != layer.config.num_experts:
            raise UserError(
                f"checkpoint: {name or 'its layer'} has {gate.shape[1]} experts, the model {layer.config.num_experts}; "
                "make the model with the checkpoint's num_experts"
            )
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise UserError(
            f"checkpoint: its layout is another one (missing {_few(missing)}; unknown {_few(unexpected)}); "
            "convert it to this library's names first"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"checkpoint: {name} has shape {tuple(state[name].shape)}, the model needs {tuple(tensor.shape)}; "
                "its layout or size is another one"
            )
    for name, tensor in own.items():
        whole = state[name].detach()
        if isinstance(tensor, DTensor):
            part = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.to_local().copy_(part.to_local())
        else:
            tensor.copy_(whole)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"
