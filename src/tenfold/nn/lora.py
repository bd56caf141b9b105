"""Low-rank adapters (LoRA): a frozen model plus small learnt products, in the files of the package PEFT.

    add_lora(model, rank=16)                      # only the adapter learns from here on
    optimizer = AdamW(lora_parameters(model), lr=1e-4)
    with disabled(model): ...                     # the model as it was: the reference of DPO or MDLOO
    save(model, folder); merge(model)             # a folder that PEFT opens; the adapter inside the weights

The layers, and models with several adapters: `nn.lora_layer`.
"""

# Shape legend: I inputs, O outputs, R rank

from __future__ import annotations

import itertools
import json
import math
import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tenfold.core.atomic import replacing, sync
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import FLOATS, listed, read_tensors
from tenfold.nn.attention import Attention
from tenfold.nn.linear import draw_normal, init_generator
from tenfold.nn.lora_layer import (
    DEFAULT,
    LoraLinear,
    Model,
    activate,
    active_of,
    adapter_pairs,
    insert,
    linear_layers,
    widths,
)
from tenfold.nn.rotary import half_to_interleaved, interleaved_to_half

__all__ = ["LoraLinear", "add_lora", "disabled", "load", "lora_parameters", "merge", "save", "unload"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model"
_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Options of PEFT that change the numbers, and the values under which they do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
}


def add_lora(
    model: Model,
    rank: int,
    *,
    alpha: float | None = None,
    targets: Literal["all-linear"] | Sequence[str] = "all-linear",
    name: str = DEFAULT,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> Model:
    """Give a model an adapter, in place; all its other weights are frozen. A is drawn from N(0, 1/I), B is 0.

    Args:
        model: its linear layers are wrapped in `LoraLinear`.
        rank: R, at least 1.
        alpha: the adapter's product is scaled by alpha / rank; None takes the rank.
        targets: "all-linear" (all but the output layer `lm_head`), or last parts of layer names, such as "q_proj".
        name: of the adapter.
        dtype: of its weights.
        generator: where A is drawn from (see `init_generator`).
    Returns:
        the model; the new adapter is the one that works.
    Raises:
        ValueError: an argument out of range, targets that are not there, a name in use.
    """
    if rank < 1:
        raise ValueError(f"rank: got {rank}, need at least 1")
    alpha = float(rank) if alpha is None else alpha
    layers = linear_layers(model)
    if targets != "all-linear":
        leaves = {layer.rpartition(".")[2] for layer in layers}
        if isinstance(targets, str) or not targets or (unknown := sorted(set(targets) - leaves)):
            said = targets if isinstance(targets, str) or not targets else ", ".join(unknown)
            raise ValueError(f"targets: got {said!r}, need 'all-linear' or some of {', '.join(sorted(leaves))}")
        layers = {layer: module for layer, module in layers.items() if layer.rpartition(".")[2] in targets}
    generator = init_generator(generator)
    pairs = {}
    for layer, module in layers.items():
        device = _device(module)
        inputs, outputs = widths(module)
        a_RI = torch.empty(rank, inputs, dtype=dtype, device=device)
        draw_normal(a_RI, a_RI.shape[1] ** -0.5, generator)
        pairs[layer] = a_RI, torch.zeros(outputs, rank, dtype=dtype, device=device)
    insert(model, name, pairs, alpha / rank)
    return activate(model, name)


def lora_parameters(model: nn.Module, name: str = DEFAULT) -> list[nn.Parameter]:
    """The weights of an adapter, for an optimizer."""
    return [
        weight for pair in adapter_pairs(model, name).values() for weight in pair if isinstance(weight, nn.Parameter)
    ]


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """In the block the model runs without adapters, as it was before training: the reference model.

    Raises:
        ValueError: a model without adapters, which would be its own reference.
    """
    active = active_of(model)
    if active is None:
        raise ValueError("model: has no adapter; the block would run the model itself (see add_lora)")
    before, active.adapters = active.adapters, ()
    try:
        yield
    finally:
        active.adapters = before


@torch.no_grad()
def merge(model: Model, name: str = DEFAULT) -> Model:
    """Add an adapter's product to the weights, in place, and take all adapters away. The weights stay frozen.

    Raises:
        ValueError: no adapter of that name, or a layer whose weights are not plain numbers (palettized: see
            `compress.palettize.materialize`).
    """
    pairs = adapter_pairs(model, name)
    active = active_of(model)
    assert active is not None
    bases: dict[str, nn.Linear] = {}
    for layer in pairs:
        base = model.get_submodule(f"{layer}.base")
        if not isinstance(base, nn.Linear):
            raise ValueError(f"model: {layer} is {type(base).__name__}, need plain linear layers to merge into")
        bases[layer] = base
    for layer, (a_RI, b_OR) in pairs.items():
        bases[layer].weight += (active.scales[name] * b_OR @ a_RI).to(bases[layer].weight.dtype)
    return unload(model)


def unload(model: Model) -> Model:
    """Take all adapters away, in place; the weights are what they were, and stay frozen."""
    for layer, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            model.set_submodule(layer, module.base)
    return model


def save(
    model: nn.Module,
    folder: str | Path,
    name: str = DEFAULT,
    *,
    dtype: torch.dtype | None = None,
    prefix: str = "model.",
) -> None:
    """Write adapter_config.json and adapter_model.safetensors as PEFT does.

    Args:
        model: with the adapter.
        folder: made if missing; an older adapter in it is replaced.
        name: of the adapter; it is not part of the files.
        dtype: of the weights in the file; None keeps theirs.
        prefix: what stands before a layer's name in the model that PEFT wraps: Hugging Face's decoders have "model.".
    Raises:
        ValueError: no adapter of that name.
    """
    pairs, active, folder = adapter_pairs(model, name), active_of(model), Path(folder)
    assert active is not None
    rank = next(iter(pairs.values()))[0].shape[0]
    leaves = sorted({layer.rpartition(".")[2] for layer in pairs})
    whole = set(pairs) == {layer for layer in linear_layers(model) if layer.rpartition(".")[2] in leaves}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": active.scales[name] * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": leaves if whole else [f"{prefix}{layer}" for layer in pairs],
        "inference_mode": True,
    }
    tensors = {}
    for layer, (a_RI, b_OR) in pairs.items():
        heads = _interleaved_heads(model, layer)
        b_OR = interleaved_to_half(b_OR.detach(), heads) if heads else b_OR.detach()
        for letter, tensor in (("A", a_RI.detach()), ("B", b_OR)):
            key = f"base_model.model.{prefix}{layer}.lora_{letter}.weight"
            tensors[key] = tensor.to(dtype or tensor.dtype).contiguous().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG) as new_config:
        new_config.write_text(json.dumps(config, indent=1), encoding="utf-8")
        with replacing(folder / f"{WEIGHTS}.safetensors") as new_weights:
            save_file(tensors, new_weights, metadata={"format": "pt"})
            sync(new_weights)
            (folder / CONFIG).unlink(missing_ok=True)  # until the new one stands, the folder counts as incomplete


def load(
    model: Model,
    folder: str | Path,
    name: str = DEFAULT,
    *,
    dtype: torch.dtype = torch.float32,
    prefix: str = "model.",
) -> Model:
    """Read an adapter written by `save` or by PEFT, in place.

    Args:
        model: of the shape that the adapter was made for; it may be palettized.
        folder: with adapter_config.json and adapter_model.safetensors.
        name: to give the adapter.
        dtype: of its weights in memory.
        prefix: as in `save`.
    Returns:
        the model; the adapter works, and its weights alone learn.
    Raises:
        UserError: missing or damaged files, an option that is not computed here, tensors that do not fit the model.
        ValueError: a name in use.
    """
    folder = Path(folder)
    rank, alpha = _read_config(folder / CONFIG)
    layers = linear_layers(model)
    given: dict[str, dict[str, Tensor]] = {}
    faults = []
    for key, tensor in read_tensors(folder, stem=WEIGHTS).items():
        match = _NAME.fullmatch(key)
        layer = match[1].removeprefix(prefix) if match else key
        if match is None or layer not in layers or not match[1].startswith(prefix):
            faults.append(f"{key} has no place in the model")
            continue
        inputs, outputs = widths(layers[layer])
        shape = (rank, inputs) if match[2] == "A" else (outputs, rank)
        if tensor.dtype not in FLOATS or tensor.shape != shape:
            faults.append(f"{key} is {tensor.dtype} {tuple(tensor.shape)}, need floats {shape}")
        elif not bool(tensor.isfinite().all()):
            faults.append(f"{key} is not finite")
        given.setdefault(layer, {})[match[2]] = tensor
    faults += [f"{layer} has one of its two tensors" for layer, pair in given.items() if len(pair) != 2]
    if faults or not given:
        raise UserError(f"{folder}: the adapter does not fit: {listed(faults, 5) if faults else 'it has no tensors'}")
    pairs = {}
    for layer, pair in given.items():
        module, heads = layers[layer], _interleaved_heads(model, layer)
        b_OR = half_to_interleaved(pair["B"], heads) if heads else pair["B"]
        device = _device(module)
        pairs[layer] = pair["A"].to(device, dtype), b_OR.to(device, dtype)
    insert(model, name, pairs, alpha / rank)
    return activate(model, name)


def _read_config(path: Path) -> tuple[int, float]:
    """Rank and alpha."""
    if not path.is_file():
        raise UserError(f"adapter not found: {path} (need a folder with {CONFIG} and {WEIGHTS}.safetensors)")
    config = read_object(path)
    for option, plain in _PLAIN.items():
        value = config.get(option, plain[-1])
        if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in plain):
            raise UserError(f"{path}: {option} {reprlib.repr(value)} is not supported, need {plain[0]}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UserError(f"{path}: r: got {reprlib.repr(rank)}, need a whole number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha: got {reprlib.repr(alpha)}, need a finite number")
    return rank, float(alpha)


def _interleaved_heads(model: nn.Module, layer: str) -> int:
    """Heads whose rows files hold in another order than the model, 0 for layers whose rows they hold as they are."""
    parent, _, leaf = layer.rpartition(".")
    attention = model.get_submodule(parent)
    if not isinstance(attention, Attention) or attention.rope_layout != "interleaved":
        return 0
    return {"q_proj": attention.n_heads, "k_proj": attention.n_kv_heads}.get(leaf, 0)


def _device(module: nn.Module) -> torch.device:
    return next(itertools.chain(module.parameters(), module.buffers())).device
