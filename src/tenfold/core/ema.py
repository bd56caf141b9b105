"""Exponential moving average of a model's trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Ema:
    """Average of the parameters over training steps, with a warm-up: decay min(decay, (1 + n) / (10 + n)) at update n.

    Args:
        model: its trainable parameters are averaged; sharded ones stay sharded.
        decay: weight of the past in the long run, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema: got {decay}, need 0 <= decay < 1")
        self.decay = decay
        self.updates = 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = [_local(tensor) for tensor in self.average.values()]
        torch._foreach_lerp_(average, [_local(p.detach()) for p in self.parameters.values()], 1.0 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context the model holds the average; after it, its own parameters again, bit for bit."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._put(self.average)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates, "average": dict(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["average"].keys() != self.average.keys():
            raise ValueError("ema: the saved average is of other parameters than the model's trainable ones")
        self.decay, self.updates = state["decay"], state["updates"]
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
