"""Folders of survival models: config.json beside safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, check_finite, listed, read_tensors, whole_state, write_folder

if TYPE_CHECKING:
    from tenfold.clinical.state_space import DeepStateSpace

KIND = "DeepStateSpace"
Model = TypeVar("Model", bound=nn.Module)


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
    nets = ["obs", "stran", "hazard", *["ctran"] * (config.n_interv > 0), *["interv"] * config.forecast_interv]
    layers = max(config.ds_nrl, *(getattr(config, f"{net}_nmlp") for net in nets))
    return with_weights(folder, lambda: DeepStateSpace.from_config(config), layers)


def with_weights(folder: Path, build: Callable[[], Model], layers: int) -> Model:
    """The model that `build` makes, with the weights of its folder.

    Nothing is built in memory first: the settings of a damaged file may ask for any size.

    Args:
        folder: of the model.
        build: makes it of its settings.
        layers: that the settings ask for.
    Raises:
        UserError: weights that are missing, not finite, or do not fit the settings.
    """
    tensors = finite_tensors(folder)
    if layers > len(tensors):
        raise UserError(f"{folder / CONFIG}: got more layers than the weights hold; the file is damaged")
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, TypeError, OverflowError) as error:  # more than 2 to the 63rd bytes or entries
        raise UserError(f"{folder / CONFIG}: got sizes that no weights have; the file is damaged") from error
    wanted, given = _kinds(model.state_dict()), _kinds(tensors)
    if wanted != given:
        wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise UserError(f"{folder}: tensors do not fit {CONFIG}: {listed(wrong)}")
    model.load_state_dict(tensors, assign=True)
    return model


def finite_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder.

    Raises:
        UserError: missing or damaged files, numbers that are not finite.
    """
    tensors = read_tensors(folder)
    check_finite(folder, tensors.items())
    return tensors


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (tensor.shape, tensor.dtype.is_floating_point) for name, tensor in tensors.items()}
