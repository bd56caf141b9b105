"""Nested state as plain JSON beside named tensors, and optimizer state by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_TENSOR = "$tensor"
_ARRAY = "$array"


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Take the tensors and arrays out of nested dicts and lists.

    Returns:
        The tree as JSON data, with the name of a tensor in its place; and the tensors by name, contiguous, each alone
        in its memory. A tensor that stands in several places (tied weights) is kept once. Names are the keys on the
        way to the tensor, joined by "/".
    Raises:
        TypeError: a dict key that is no string, or a value that neither JSON nor a tensor can hold.
        ValueError: two tensors of one name, as of {"a/b": x, "a": {"b": y}}.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}

    def put(path: tuple[str, ...], tensor: Tensor) -> str:
        name = "/".join(path)
        if name in tensors:
            raise ValueError(f"state {name}: got two tensors of this name, need one; rename a key that holds a /")
        tensors[name] = tensor
        return name

    def visit(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            place = _place(value)
            if place is None:
                return {_TENSOR: put(path, value.detach())}
            if place not in names:
                names[place] = put(path, _alone(value.detach()))
            return {_TENSOR: names[place]}
        if isinstance(value, np.ndarray):
            return {_ARRAY: put(path, torch.from_numpy(np.array(value)))}
        if isinstance(value, Mapping):
            if any(not isinstance(key, str) for key in value):
                raise TypeError(f"state {'/'.join(path)}: got keys {list(value)[:3]}, need strings")
            return {key: visit(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [visit(item, (*path, str(index))) for index, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(
            f"state {'/'.join(path)}: got {type(value).__name__}, need tensors, numbers, strings, dicts, lists"
        )

    return visit(tree, ()), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`; tuples come back as lists."""
    if isinstance(plain, dict):
        if plain.keys() == {_TENSOR}:
            return tensors[plain[_TENSOR]]
        if plain.keys() == {_ARRAY}:
            return tensors[plain[_ARRAY]].numpy()
        return {key: unflatten(item, tensors) for key, item in plain.items()}
    if isinstance(plain, list):
        return [unflatten(item, tensors) for item in plain]
    return plain


def _place(tensor: Tensor) -> tuple[Any, ...] | None:
    """Where a tensor lies in memory; None where it has no elements, hence no place of its own."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if local.numel() == 0:
        return None
    return (local.device, local.data_ptr(), tensor.shape, local.shape, local.stride(), local.dtype)


def _alone(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        return tensor
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with parameter names for its numbers, so that other groupings can load it."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in flat):
        raise ValueError("optimizer: it holds a parameter that is not the model's, so it cannot be saved by name")
    packed = dict(optimizer.state_dict())
    groups = packed.pop("param_groups")
    # The packed numbers follow the order of the groups.
    by_number = dict(zip([n for group in groups for n in group["params"]], [names[id(p)] for p in flat], strict=True))
    return {
        "state": {by_number[number]: value for number, value in packed.pop("state").items()},
        "groups": [{**group, "params": [by_number[n] for n in group["params"]]} for group in groups],
        "extra": packed,
        "class": type(optimizer).__name__,
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load what `optimizer_state` gave; parameters may be grouped otherwise, as long as options agree in a group.

    Raises:
        ValueError: the saved state is of another kind of optimizer, of other parameters or of groups that do not fit.
    """
    if saved["class"] != type(optimizer).__name__:
        raise ValueError(f"optimizer: got {type(optimizer).__name__}, need {saved['class']} as when it was saved")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    options = {
        name: {k: v for k, v in group.items() if k != "params"} for group in saved["groups"] for name in group["params"]
    }
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    missing = {names[id(parameter)] for parameter in flat} ^ options.keys()
    if missing:
        raise ValueError(
            f"optimizer: it and the saved one do not hold the same parameters, such as {sorted(missing)[:3]}"
        )
    groups: list[dict[str, Any]] = []
    number = 0
    for group in optimizer.param_groups:
        members = [names[id(parameter)] for parameter in group["params"]]
        if any(options[name] != options[members[0]] for name in members):
            raise ValueError(f"optimizer: a group joins parameters saved with different options, such as {members[:3]}")
        # JSON has no tuples.
        own = {k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in options[members[0]].items()}
        groups.append({**own, "params": list(range(number, number + len(members)))})
        number += len(members)
    state = {
        n: {k: v.clone() if isinstance(v, Tensor) else v for k, v in saved["state"][names[id(p)]].items()}
        for n, p in enumerate(flat)
        if names[id(p)] in saved["state"]
    }
    optimizer.load_state_dict({**saved["extra"], "state": state, "param_groups": groups})
    for n, parameter in enumerate(flat):
        for key, value in state.get(n, {}).items():
            # torch rounds state to the parameter's dtype: bfloat16 weights would lose their float32 moments.
            if isinstance(value, Tensor) and optimizer.state[parameter][key].dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(parameter.device)
