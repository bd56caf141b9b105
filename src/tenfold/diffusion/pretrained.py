"""Folders of diffusion transformers: config.json beside safetensors, in shards where the weights are large."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, FLOATS, listed, read_tensors, whole_state, write_folder
from tenfold.diffusion.config import ECDiTConfig

if TYPE_CHECKING:
    from tenfold.diffusion.transformer import ECDiT

CLASS_NAME = "_class_name"  # diffusers' key for the architecture


def write_model(model: ECDiT, folder: Path, *, max_shard_bytes: int = 5_000_000_000) -> None:
    """Write a model so that `read_model` gives it back.

    Args:
        model: weights keep their type.
        folder: made if missing; an older model in it is replaced.
        max_shard_bytes: most bytes of tensors in one file; above, numbered shards and their index are written.
    Raises:
        ValueError: weights that are spread over processes.
    """
    state = whole_state(model)
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


def read_folder(folder: Path, *, stem: str = "model") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder, whole or in shards.

    Raises:
        UserError: missing or damaged files.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"model not found: {folder / CONFIG} (need a folder with config.json and safetensors)")
    config = read_object(folder / CONFIG)
    return config, read_tensors(folder, stem=stem)


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
