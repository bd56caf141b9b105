"""Layers with adapters: what a model's adapters share, and how they are put in, chosen and taken out.

A model may hold several adapters by name; they share its weights and a switch that says which of them work on which
rows of a batch. Training and files of one adapter: `nn.lora`; a bank of many: `compress.adapters`.
"""

# Shape legend: ... any leading axes, I inputs, O outputs, R rank

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEFAULT = "default"  # name of an adapter, as in PEFT
Pairs = Mapping[str, tuple[Tensor, Tensor]]  # A (R, I) and B (O, R) of each layer, by the layer's name
Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Active:
    """Which adapters of a model work: one object that all its layers hold, also those of shallow copies of the model.

    Args:
        adapters: names, each with the rows of the batch it works on, int64; None for all rows.
        scales: alpha / rank of every adapter there is.
        held: a batch is running (see `working`): nobody else may switch.
        users: how many requests that are not over began with each adapter (see `enter`): such an adapter stays.
        changes: how often adapters came and went: what was computed with one of a name is void when another takes it.
    """

    adapters: tuple[tuple[str, Tensor | None], ...] = ()
    scales: dict[str, float] = field(default_factory=dict)
    held: bool = False
    users: Counter[str] = field(default_factory=Counter)
    changes: int = 0

    def enter(self, name: str | None) -> None:
        """A request of several batches begins with an adapter; None, the model alone, needs no keeping.

        Raises:
            ValueError: no adapter of that name.
        """
        if name is not None:
            if name not in self.scales:
                raise ValueError(f"adapter: got {name!r}, need one of {', '.join(self.scales) or 'none'}")
            self.users[name] += 1

    def leave(self, name: str | None) -> None:
        """That request is over."""
        if name is not None:
            self.users[name] -= 1

    def check_free(self) -> None:
        """Raises ValueError: a batch is running."""
        if self.held:
            raise ValueError("adapters: a batch is running with its own; switch when it has ended")


class LoraLinear(nn.Module):
    """y = base(x) + (alpha / rank) B A x, for each adapter that works and has a part in this layer.

    Args:
        base: any layer with `in_features` and `out_features`: dense, palettized, …
        active: shared with the model's other layers.
    Source: Hu et al. 2022, arXiv 2106.09685.
    """

    def __init__(self, base: nn.Module, active: Active) -> None:
        super().__init__()
        self.base, self.active = base, active
        self.in_features, self.out_features = widths(base)
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., I). Returns: (..., O)."""
        y = self.base(x)
        for name, rows in self.active.adapters:
            if name in self.lora_A:
                a_RI, b_OR = self.lora_A[name], self.lora_B[name]
                part = (x if rows is None else x[rows]).to(a_RI.dtype)
                change = F.linear(F.linear(part, a_RI), b_OR * self.active.scales[name]).to(y.dtype)
                y = y + change if rows is None else y.index_add(0, rows, change)
        return y


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that an adapter can have a part in, by name, wrapped ones as their wrapper; not `lm_head`."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = name.rpartition(".")[0]
        linear = isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")
        if linear and name and name.rpartition(".")[2] != "lm_head" and inside not in found:
            found[name] = module
    return found


def widths(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a layer of `linear_layers`."""
    return layer.in_features, layer.out_features  # type: ignore[return-value]


def adapter_pairs(model: nn.Module, name: str = DEFAULT) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every layer of an adapter, the parameters themselves.

    Raises:
        ValueError: no adapter of that name.
    """
    pairs = {
        layer: (module.lora_A[name], module.lora_B[name])
        for layer, module in model.named_modules()
        if isinstance(module, LoraLinear) and name in module.lora_A
    }
    if not pairs:
        known = ", ".join(adapters(model)) or "none"
        raise ValueError(f"adapter: got {name!r}, need one of the model's: {known}")
    return pairs


def adapters(model: nn.Module) -> list[str]:
    """Names of the adapters of a model, in the order they were added."""
    active = active_of(model)
    return [] if active is None else list(active.scales)


def active_of(model: nn.Module) -> Active | None:
    """What the model's layers share; None for a model without adapters."""
    return next((module.active for module in model.modules() if isinstance(module, LoraLinear)), None)


def insert(model: nn.Module, name: str, pairs: Pairs, scale: float) -> None:
    """Give a model an adapter made elsewhere, which does not work yet (see `activate`).

    Raises:
        ValueError: a name in use, or one that cannot be part of a parameter's name.
    """
    if not name or "." in name or name in adapters(model):
        raise ValueError(f"name: got {name!r}, need one without dots that no adapter has: {', '.join(adapters(model))}")
    if hasattr(nn.ParameterDict(), name):
        raise ValueError(f"name: got {name!r}, which torch's dictionary of parameters keeps for itself, need another")
    active = active_of(model) or Active()
    active.check_free()
    active.scales[name] = scale
    active.changes += 1
    for layer, (a_RI, b_OR) in pairs.items():
        module = model.get_submodule(layer)
        if not isinstance(module, LoraLinear):
            module = LoraLinear(module, active)
            model.set_submodule(layer, module)
        module.lora_A[name], module.lora_B[name] = nn.Parameter(a_RI), nn.Parameter(b_OR)


def remove(model: nn.Module, name: str) -> None:
    """Take an adapter away; the layers stay wrapped (see `unload`).

    Raises:
        ValueError: no adapter of that name, a batch is running, or requests that began with it are not over.
    """
    pairs, active = adapter_pairs(model, name), active_of(model)
    assert active is not None
    active.check_free()
    if active.users[name]:
        raise ValueError(
            f"adapter: {active.users[name]} running requests began with {name!r}; remove it when they are over"
        )
    for layer in pairs:
        module = model.get_submodule(layer)
        assert isinstance(module, LoraLinear)
        del module.lora_A[name], module.lora_B[name]
    del active.scales[name]
    active.changes += 1
    active.adapters = tuple(each for each in active.adapters if each[0] != name)


def activate(model: Model, name: str | None) -> Model:
    """Let one adapter work on all rows, or none, and let its weights alone learn.

    Raises:
        ValueError: no adapter of that name, or a batch is running.
    """
    chosen = {} if name is None else adapter_pairs(model, name)
    active = active_of(model)
    if active is not None:
        active.check_free()
        active.adapters = () if name is None else ((name, None),)
    model.requires_grad_(False)
    for pair in chosen.values():
        for weight in pair:
            weight.requires_grad_(True)
    return model


@contextmanager
def working(model: nn.Module, rows: str | Sequence[str | None] | None) -> Iterator[None]:
    """In the block an adapter works, or one for each row of the batch, and nobody can switch it.

    Args:
        model: with or without adapters.
        rows: one name, or None, for all rows; or a list of them, as many as the batch has rows.
    Raises:
        ValueError: no adapter of that name, or another batch is running.
    """
    active = active_of(model) or Active()
    active.check_free()
    names = [rows] if rows is None or isinstance(rows, str) else list(rows)
    places = {name: [i for i, row in enumerate(names) if row == name] for name in names if name is not None}
    if unknown := sorted(set(places) - set(active.scales)):
        raise ValueError(f"adapter: got {unknown[0]!r}, need one of {', '.join(active.scales) or 'none'}, or None")
    before, active.held = active.adapters, True
    if rows is None or isinstance(rows, str):
        active.adapters = tuple((name, None) for name in places)
    else:
        device = next(model.parameters()).device
        active.adapters = tuple((name, torch.tensor(place, device=device)) for name, place in places.items())
    try:
        yield
    finally:
        active.adapters, active.held = before, False
