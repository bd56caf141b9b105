"""The device mesh: start of the process group, its three axes, data-parallel sharding and the reduction of gradients.

Axes: `data` and `expert` hold different tokens, `model` holds columns of the same tokens. A plan of a higher floor
leaves the parameters it shards as DTensors over its own axis; what is left over is this file's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

AXES = ("data", "expert", "model")
_BATCH_AXES = ("data", "expert")
_BATCH = "data_expert"  # the two batch axes seen as one

Plan = Callable[[nn.Module, DeviceMesh], object]


def data_mesh() -> DeviceMesh | None:
    """All processes of torchrun along the data axis; None for one process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return build_mesh(data=world) if world > 1 else None


def on_main(work: Callable[..., object], *arguments: Any) -> None:
    """Let the main rank of torchrun do something, such as write a file, while the others wait for it."""
    data_mesh()  # starts the process group, where there are several
    if is_main():
        work(*arguments)
    if dist.is_initialized():
        dist.barrier()


def is_main() -> bool:
    """Whether this process writes files and speaks to the terminal: rank 0, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def device_type() -> str:
    """The accelerator of this machine, or "cpu"."""
    accelerator = torch.accelerator.current_accelerator()
    return accelerator.type if accelerator is not None else "cpu"


def init_distributed() -> None:
    """Join the process group that `torchrun` describes in the environment; alone, make a group of one.

    gloo carries CPU tensors, the accelerator's own library (nccl on CUDA) carries the rest.
    """
    if dist.is_initialized():
        return
    device = device_type()
    backend = "gloo" if device == "cpu" else f"cpu:gloo,{device}:{dist.get_default_backend_for_device(device)}"
    if device != "cpu":
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def build_mesh(data: int = 1, expert: int = 1, model: int = 1) -> DeviceMesh:
    """The mesh (data, expert, model) over all processes; starts the process group if needed.

    Raises:
        ValueError: an axis below 1, or axes whose product is not the number of processes.
    """
    for name, size in zip(AXES, (data, expert, model), strict=True):
        if size < 1:
            raise ValueError(f"{name}: got {size}, need at least 1")
    init_distributed()
    world = dist.get_world_size()
    if data * expert * model != world:
        raise ValueError(
            f"mesh: data {data} x expert {expert} x model {model} = {data * expert * model}, need {world} "
            f"(the number of processes; start with torchrun --nproc-per-node {data * expert * model})"
        )
    return init_device_mesh(device_type(), (data, expert, model), mesh_dim_names=AXES)


def batch_coordinate(mesh: DeviceMesh | None) -> tuple[int, int]:
    """(rank, world) among the processes that hold different tokens: what a stream needs to take its share."""
    if mesh is None:
        return 0, 1
    experts = mesh.size(1)
    return mesh.get_local_rank("data") * experts + mesh.get_local_rank("expert"), mesh.size(0) * experts


def sum_over_batch(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """Sum `value` in place over the processes that hold different tokens."""
    for axis in _BATCH_AXES if mesh is not None else ():
        _all_reduce(value, mesh, axis)
    return value


def maximum(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """Largest `value` over all processes of the mesh, in place."""
    for axis in AXES if mesh is not None else ():
        _all_reduce(value, mesh, axis, dist.ReduceOp.MAX)
    return value


def _all_reduce(
    value: Tensor, mesh: DeviceMesh | None, axis: str, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> None:
    if mesh is not None and mesh[axis].size() > 1:
        dist.all_reduce(value, op=op, group=mesh.get_group(axis))


def shard(model: nn.Module, mesh: DeviceMesh, plan: Plan | None = None) -> nn.Module:
    """Spread a model over the mesh, in place; build the optimizer afterwards.

    First `plan(model, mesh)` places experts and tensor-parallel layers. Then FSDP2 shards all other parameters over
    `data` x `expert`, each block of the outermost `ModuleList`s as a unit of its own. Parameters that the plan has
    sharded over `expert` hold the gradient of every expert rank's tokens already: they stay whole over `data`, and
    `reduce_gradients` sums them there.

    Gradients come out as sums over ranks, not means: the training step divides once by the weight of the whole batch.

    Returns:
        The same model.
    """
    if plan is not None:
        plan(model, mesh)
    batch = mesh.size(0) * mesh.size(1)
    if batch == 1:
        return model
    if mesh.size(1) == 1:
        axis = mesh["data"]
    elif mesh.size(0) == 1:
        axis = mesh["expert"]
    else:
        axis = mesh["data", "expert"]._flatten(_BATCH)
    placed = {parameter for parameter in model.parameters() if _owned_axes(parameter) & set(_BATCH_AXES)}
    for unit in [*_units(model), model]:
        fully_shard(unit, mesh=axis, ignored_params=placed)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
    return model


def _units(model: nn.Module) -> Iterable[nn.Module]:
    """Blocks of the outermost module lists: the granularity at which FSDP gathers and frees weights."""
    for child in model.children():
        yield from child if isinstance(child, nn.ModuleList) else _units(child)


def _owned_axes(parameter: nn.Parameter) -> set[str]:
    """Mesh axes over which a parameter's owner (FSDP, a plan) sums its gradient itself."""
    if not isinstance(parameter, DTensor):
        return set()
    names = set(parameter.device_mesh.mesh_dim_names or ())
    return names | set(_BATCH_AXES) if _BATCH in names else names


def reduce_gradients(parameters: Iterable[nn.Parameter], mesh: DeviceMesh | None) -> None:
    """Sum the gradients that nobody has summed yet over the batch axes: whole parameters, and experts over `data`.

    Each group of equal axes and dtype travels as one flat tensor.
    """
    if mesh is None or mesh.size(0) * mesh.size(1) == 1:
        return
    waiting: dict[tuple[str, ...], list[Tensor]] = {}
    for parameter in parameters:
        owned = _owned_axes(parameter)
        axes = tuple(axis for axis in _BATCH_AXES if axis not in owned and mesh[axis].size() > 1)
        if not axes or not parameter.requires_grad:
            continue
        if parameter.grad is None:
            # Every rank must bring the same tensors; a rank whose tokens missed this parameter brings zeros.
            parameter.grad = torch.zeros_like(parameter)
        grad = parameter.grad
        waiting.setdefault(axes, []).append(grad.to_local() if isinstance(grad, DTensor) else grad)
    for axes, grads in waiting.items():
        for dtype in sorted({grad.dtype for grad in grads}, key=str):
            same = [grad for grad in grads if grad.dtype == dtype]
            flat = torch.cat([grad.reshape(-1) for grad in same])
            for axis in axes:
                _all_reduce(flat, mesh, axis)
            parts = flat.split([grad.numel() for grad in same])
            torch._foreach_copy_(same, [part.view_as(grad) for part, grad in zip(parts, same, strict=True)])
