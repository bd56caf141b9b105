"""Folders of state-space models: config.json beside safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, read_tensors, whole_state, write_folder

if TYPE_CHECKING:
    from tenfold.clinical.state_space import DeepStateSpace

KIND = "DeepStateSpace"


def write_model(model: DeepStateSpace, folder: Path) -> None:
    """Write a model so that `read_model` gives it back; an older one in the folder is replaced."""
    write_folder(folder, {"kind": KIND, **to_json(model.config)}, whole_state(model))


def read_model(folder: Path) -> DeepStateSpace:
    """Read a folder that `write_model` wrote.

    Raises:
        UserError: missing or damaged files, settings out of range, weights that do not fit them.
    """
    from tenfold.clinical.state_space import DeepStateSpace

    content = read_object(folder / CONFIG, kind=str)
    if (kind := content.pop("kind")) != KIND:
        raise UserError(f"{folder / CONFIG}: kind: got {kind!r}, need {KIND!r}")
    config = from_json(StateSpaceConfig, content, where=str(folder / CONFIG))
    tensors = read_tensors(folder)
    if max(config.ds_nrl, *(getattr(config, f"{net}_nmlp") for net in ("obs", "stran", "hazard"))) > len(tensors):
        raise UserError(f"{folder / CONFIG}: got more layers than the weights hold; the file is damaged")
    # Without memory: the settings of a damaged file may ask for any size.
    with torch.device("meta"):
        model = DeepStateSpace.from_config(config)
    wanted = {name: (tensor.shape, tensor.dtype.is_floating_point) for name, tensor in model.state_dict().items()}
    given = {name: (tensor.shape, tensor.dtype.is_floating_point) for name, tensor in tensors.items()}
    if wanted != given:
        wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise UserError(f"{folder}: tensors do not fit {CONFIG}: {listed(wrong)}")
    model.load_state_dict(tensors, assign=True)
    return model
