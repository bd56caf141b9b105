"""Model folders: config.json beside safetensors, in shards where the weights are large; every model here is kept so."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.core.atomic import replacing, sync
from tenfold.core.config import read_object
from tenfold.core.errors import UserError

CONFIG = "config.json"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model that lies on one process.

    Raises:
        ValueError: weights that are spread over processes.
    """
    from torch.distributed.tensor import DTensor  # here, since it takes a while to import

    state = model.state_dict()
    if any(isinstance(tensor, DTensor) for tensor in state.values()):
        raise ValueError(
            "model: got weights sharded over processes, need whole ones: load nn.moe_parallel.gather_state(model) into "
            f"a plain {type(model).__name__} and save that"
        )
    return state


def check_finite(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights that a training that went astray, or a bad copy, left behind.

    Args:
        folder: whence they come, for the message.
        tensors: with their names.
    Raises:
        UserError: numbers that are not finite.
    """
    if odd := sorted(name for name, tensor in tensors if not bool(tensor.isfinite().all())):
        raise UserError(f"{folder}: weights that are not finite: {listed(odd)}; train it again, or copy it anew")


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    stem: str = "model",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json and STEM.safetensors, or numbered shards and STEM.safetensors.index.json.

    All new files stand whole beside an older model before they take its place; config.json comes last, so a folder with
    one is complete.

    Args:
        folder: made if missing; other files in it stay.
        config: plain JSON data.
        tensors: by name.
        stem: of the files' names.
        max_shard_bytes: most bytes of tensors in one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    names = [f"{stem}.safetensors"]
    if len(shards) > 1:
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    index = folder / f"{stem}.safetensors.index.json"
    older = {folder / f"{stem}.safetensors", index, *folder.glob(f"{stem}-?????-of-?????.safetensors")}
    with replacing(folder / CONFIG) as new_config:
        new_config.write_text(json.dumps(config, indent=1), encoding="utf-8")
        with ExitStack() as stack:
            for name, shard in zip(names, shards, strict=True):
                temporary = stack.enter_context(replacing(folder / name))
                save_file({key: t.contiguous() for key, t in shard.items()}, temporary, metadata={"format": "pt"})
                sync(temporary)  # now, so that only renames remain for the end
            if len(shards) > 1:
                where = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
                content = {"metadata": {"total_size": sum(map(_bytes, tensors.values()))}, "weight_map": where}
                stack.enter_context(replacing(index)).write_text(json.dumps(content, indent=1), encoding="utf-8")
                names.append(index.name)
            # From here until the new config stands, the folder counts as incomplete: it holds files of both models.
            (folder / CONFIG).unlink(missing_ok=True)
        for stale in older - {folder / name for name in names}:
            stale.unlink(missing_ok=True)


def read_tensors(folder: Path, *, stem: str = "model") -> dict[str, Tensor]:
    """The tensors of a folder, whole or in shards.

    Raises:
        UserError: missing or damaged files; an index that names files outside the folder.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return _load(single)
    if not index.is_file():
        raise UserError(f"weights not found: {single} (pickled .bin weights are not read; convert them first)")
    where = read_object(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{index}: weight_map: got {reprlib.repr(where)}, need a shard's name for every tensor")
    for name in where.values():
        # A bare name: what another folder holds is not this model.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: weight_map: got {reprlib.repr(name)}, need the name of a .safetensors file beside it"
            )
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        if not (folder / name).is_file():
            raise UserError(f"weights not found: {folder / name}, a shard that {index.name} names")
        tensors |= _load(folder / name)
    if lacking := sorted(set(where) - set(tensors)):
        raise UserError(f"{folder}: the shards lack tensors of {index.name}: {listed(lacking)}")
    return tensors


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error


def _shards(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += _bytes(tensor)
        if shards[-1] and size > most:
            shards.append({})
            size = _bytes(tensor)
        shards[-1][name] = tensor
    return shards


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
