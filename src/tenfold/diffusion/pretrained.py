"""Folders of diffusion transformers: config.json beside safetensors, in shards where the weights are large."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.core.atomic import replacing, sync
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.diffusion.config import ECDiTConfig

if TYPE_CHECKING:
    from tenfold.diffusion.transformer import ECDiT

CONFIG = "config.json"
CLASS_NAME = "_class_name"  # diffusers' key for the architecture
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def write_model(model: ECDiT, folder: Path, *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write a model so that `read_model` gives it back.

    Args:
        model: weights keep their type.
        folder: made if missing; an older model in it is replaced.
        max_shard_bytes: most bytes of tensors in one file; above, numbered shards and their index are written.
    Raises:
        ValueError: weights that are spread over processes.
    """
    from torch.distributed.tensor import DTensor  # here, since it takes a while to import

    state = model.state_dict()
    if any(isinstance(tensor, DTensor) for tensor in state.values()):
        raise ValueError(
            "model: got weights sharded over processes, need whole ones: load nn.moe_parallel.gather_state(model) into "
            "a plain ECDiT and save that"
        )
    config = {CLASS_NAME: "ECDiT", **to_json(model.config)}
    write_folder(folder, config, state, max_shard_bytes=max_shard_bytes)


def read_model(folder: Path, *, dtype: torch.dtype | None = None) -> ECDiT:
    """Read a folder that `write_model` wrote.

    Args:
        folder: with config.json and safetensors.
        dtype: type of the weights; None keeps the stored one.
    Raises:
        UserError: missing or damaged files, a setting out of range, tensors that do not fit.
    """
    from tenfold.diffusion.transformer import ECDiT

    content, tensors = read_folder(folder)
    if content.pop(CLASS_NAME, None) != "ECDiT":
        raise UserError(f"{folder / CONFIG}: {CLASS_NAME}: need 'ECDiT'; weights of PixArt are read with from_pixart")
    config = from_json(ECDiTConfig, content, where=str(folder / CONFIG))
    check_depth(config.num_layers, "blocks.", tensors, str(folder))
    with torch.device("meta"):
        model = ECDiT(config)
    check_tensors(model.state_dict(), tensors, str(folder))
    model.load_state_dict(dict(tensors), assign=True)
    return model if dtype is None else model.to(dtype)


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


def read_folder(folder: Path, *, stem: str = "model") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder, whole or in shards.

    Raises:
        UserError: missing or damaged files; an index that names files outside the folder.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"model not found: {folder / CONFIG} (need a folder with config.json and safetensors)")
    config = read_object(folder / CONFIG)
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return config, _load(single)
    if not index.is_file():
        raise UserError(f"weights not found: {single} (pickled .bin weights are not read; convert them first)")
    where = read_object(index, weight_map=dict)["weight_map"]
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(where.values()):
        # A bare name: what another folder holds is not this model.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: weight_map: got {reprlib.repr(name)}, need the name of a .safetensors file beside it"
            )
        if not (folder / name).is_file():
            raise UserError(f"weights not found: {folder / name}, a shard that {index.name} names")
        tensors |= _load(folder / name)
    if lacking := sorted(set(where) - set(tensors)):
        raise UserError(f"{folder}: the shards lack tensors of {index.name}: {listed(lacking)}")
    return config, tensors


def check_depth(layers: int, prefix: str, tensors: Mapping[str, Tensor], where: str) -> None:
    """UserError where a config asks for more blocks than the tensors hold: a few bytes could ask for any number."""
    found = {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    if layers > len(found):
        raise UserError(f"{where}: num_layers: got {layers}, need at most {len(found)}, the blocks among the tensors")


def check_tensors(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """UserError naming up to five tensors that are missing, unexpected, of a wrong shape or no floating-point numbers."""
    shared = [name for name in wanted if name in given]
    faults = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "wrong shape": [
            f"{name} {tuple(given[name].shape)} (need {tuple(wanted[name].shape)})"
            for name in shared
            if given[name].shape != wanted[name].shape
        ],
        "wrong type": [f"{name} {given[name].dtype}" for name in shared if given[name].dtype not in FLOATS],
    }
    if any(faults.values()):
        found = "; ".join(f"{kind} {listed(names)}" for kind, names in faults.items() if names)
        raise UserError(f"{where}: tensors do not fit the model: {found}")


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
