"""Folders of palettized decoders: config.json beside safetensors that hold tables, packed indices and bytes.

The config names a quantization of its own, so that readers which do not know it refuse the folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.compress.bit_packing import WIDTHS
from tenfold.compress.block_numbers import BLOCK_WIDTHS
from tenfold.compress.palette_linear import TABLE_TYPE, Int8Embedding, Int8Linear, PaletteLinear
from tenfold.compress.palettize import materialize, projections
from tenfold.core.config import from_json, read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, read_tensors, write_folder
from tenfold.lm.config_json import config_from_json, config_to_json
from tenfold.lm.decoder import Decoder
from tenfold.nn.lora_layer import LoraLinear

KIND = "tenfold_palettes"


@dataclass(frozen=True)
class _Layout:
    """What stands under "quantization_config"."""

    quant_method: str
    bits: dict[str, int]
    group: int
    axis: int
    embedding_bits: int
    activation_bits: int
    block: int | None = None
    block_bits: int = 16
    offsets: bool = False

    def __post_init__(self) -> None:
        if self.quant_method != KIND:
            raise ValueError(f"quant_method: got {self.quant_method!r}, need {KIND!r}")
        if not self.bits or not set(self.bits.values()) <= set(WIDTHS):
            raise ValueError(f"bits: need one of {', '.join(map(str, WIDTHS))} for every projection")
        if self.group < 1 or self.axis not in (0, 1):
            raise ValueError(f"group, axis: got {self.group}, {self.axis}, need at least 1, and 0 or 1")
        if self.block is not None and self.block < 0:
            raise ValueError(f"block: got {self.block}, need 0 or more, or null")
        if self.block_bits not in BLOCK_WIDTHS:
            raise ValueError(f"block_bits: got {self.block_bits}, need one of {', '.join(map(str, BLOCK_WIDTHS))}")
        if self.block is None and self.offsets:
            raise ValueError("offsets: need a block, got null")
        if self.embedding_bits not in (8, 16) or self.activation_bits not in (8, 16):
            raise ValueError("embedding_bits, activation_bits: need 8 or 16")


def save_palettized(model: Decoder, folder: str | Path) -> None:
    """Write a palettized decoder, atomically; other files in the folder, say a tokenizer's, stay.

    Args:
        model: of `palettize`, without adapters: these have folders of their own.
        folder: made if missing; an older model in it is replaced.
    Raises:
        ValueError: a model that is not palettized, or has adapters.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, PaletteLinear)}
    if not layers:
        raise ValueError("model: is not palettized; save it with save_pretrained")
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ValueError("model: has adapters; save them on their own (nn.lora.save), then unload them")
    first = next(iter(layers.values()))
    layout = _Layout(
        quant_method=KIND,
        bits={name: layer.bits for name, layer in layers.items()},
        group=first.group,
        axis=first.axis,
        embedding_bits=8 if isinstance(model.embed_tokens, Int8Embedding) else 16,
        activation_bits=first.activation_bits,
        block=first.block,
        block_bits=first.block_bits,
        offsets=first.offsets is not None,
    )
    config = config_to_json(model.cfg) | {"quantization_config": asdict(layout)}
    tensors = {name: tensor.to(_file_type(name, tensor)) for name, tensor in model.state_dict().items()}
    write_folder(Path(folder), config, tensors)


def load_palettized(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, materialize_weights: bool = False
) -> Decoder:
    """Read a decoder of `save_palettized`.

    Args:
        folder: with config.json and safetensors.
        dtype: that it computes in.
        materialize_weights: dense layers of the same numbers: more memory, less time a token (see `materialize`).
    Raises:
        UserError: missing or damaged files, a config that makes no sense, tensors that do not fit it (all are listed).
    """
    folder = Path(folder)
    where = str(folder / CONFIG)
    if not (folder / CONFIG).is_file():
        raise UserError(f"model not found: {where} (need a folder of save_palettized)")
    config = read_object(folder / CONFIG)
    stated = config.pop("quantization_config", None)
    if not isinstance(stated, dict) or stated.get("quant_method") != KIND:
        raise UserError(f"{where}: is not of a palettized model; open it with Decoder.from_pretrained")
    layout = from_json(_Layout, stated, where=where)
    cfg = config_from_json(config, where)
    tensors = read_tensors(folder)
    # Before the model is built: a config of a few bytes can ask for any number of layers.
    layers = {match[1] for name in tensors if (match := re.match(r"layers\.(\d+)\.", name))}
    if cfg.n_layers > len(layers) or cfg.moe is not None:
        raise UserError(f"{where}: got {cfg.n_layers} layers, need at most {len(layers)} (in the tensors), all dense")
    with torch.device("meta"):
        model = _empty(Decoder(cfg), layout, where)
    _check(tensors, model.state_dict(), where)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    return materialize(model) if materialize_weights else model


def _empty(model: Decoder, layout: _Layout, where: str) -> Decoder:
    """The decoder with layers of the layout in place, for tensors to come."""
    layers = projections(model)
    if set(layout.bits) != set(layers):
        odd = sorted(set(layout.bits) ^ set(layers))
        raise UserError(f"{where}: bits: need one of every projection and no other: {listed(odd)}")
    for name, layer in layers.items():
        kept = PaletteLinear(
            layer.in_features,
            layer.out_features,
            bits=layout.bits[name],
            group=layout.group,
            axis=layout.axis,
            block=layout.block,
            block_bits=layout.block_bits,
            offsets=layout.offsets,
            activation_bits=layout.activation_bits,
        )
        model.set_submodule(name, kept)
    if layout.embedding_bits == 8:
        model.set_submodule("embed_tokens", Int8Embedding(*model.embed_tokens.weight.shape))
        if model.lm_head is not None:
            model.set_submodule("lm_head", Int8Linear(*model.lm_head.weight.shape))
    return model


def _file_type(name: str, tensor: Tensor) -> torch.dtype:
    """Steps of bytes keep 32 bits, all other numbers with a fraction have 16."""
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.float32 if name.endswith(".steps") else TABLE_TYPE


def _check(given: Mapping[str, Tensor], wanted: Mapping[str, Any], where: str) -> None:
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} has no place" for name in given if name not in wanted]
    for name, slot in wanted.items():
        if name in given:
            tensor, kind = given[name], _file_type(name, slot)
            if tensor.shape != slot.shape or tensor.dtype != kind:
                shown = f"{tensor.dtype} {tuple(tensor.shape)}"
                faults.append(f"{name} is {shown}, need {kind} {tuple(slot.shape)}".replace("torch.", ""))
            elif not bool(tensor.isfinite().all()):
                faults.append(f"{name} is not finite")
    if faults:
        raise UserError(f"{where}: tensors do not fit the config: {listed(faults)}")
