"""A bank of named adapters on one frozen model: recovered accuracy, one task, another; switched without touching weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from tenfold.lm.decoder import Decoder
from tenfold.nn import lora
from tenfold.nn.lora_layer import activate, active_of, adapter_pairs, adapters, insert, remove, working


class AdapterBank:
    """Named adapters of a model, of which one works at a time, or one for each row of a batch.

        bank = AdapterBank(palettize(model)).add("recovery", rank=16)
        ...train bank.parameters("recovery") on the pre-training loss...
        bank.copy("recovery", "summaries").use("summaries")       # a task starts from what was recovered
        with bank.using(["summaries", None, "recovery"]): ...      # a batch of three requests

    The weights of the model never change; memory grows by those of the adapters alone.

    Args:
        model: a decoder, palettized or dense; it may have adapters already.
    Source: Gunter et al. 2024, arXiv 2407.21075, section 5; per-row batches as in Sheng et al. 2023, arXiv 2311.03285.
    """

    def __init__(self, model: Decoder) -> None:
        self.model = model.requires_grad_(False)

    @property
    def names(self) -> list[str]:
        """All adapters, in the order they came."""
        return adapters(self.model)

    @property
    def active(self) -> str | None:
        """The adapter that works on all rows; None for the model alone."""
        active = active_of(self.model)
        return active.adapters[0][0] if active is not None and active.adapters else None

    def add(
        self,
        name: str,
        rank: int = 16,
        *,
        alpha: float | None = None,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> AdapterBank:
        """A new adapter on all projections that changes nothing yet; it works and learns. Arguments as in `add_lora`."""
        lora.add_lora(self.model, rank, alpha=alpha, name=name, dtype=dtype, generator=generator)
        return self

    def copy(self, source: str, name: str) -> AdapterBank:
        """A new adapter that begins as another is: a task adapter from the recovery adapter. It does not work yet.

        Raises:
            ValueError: no such source, a name in use.
        """
        active = active_of(self.model)
        pairs = adapter_pairs(self.model, source)
        assert active is not None
        copies = {layer: (a.detach().clone(), b.detach().clone()) for layer, (a, b) in pairs.items()}
        insert(self.model, name, copies, active.scales[source])
        return self

    def load(self, name: str, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> AdapterBank:
        """Read an adapter of `nn.lora.save` or PEFT; the one that works stays. Raises: as `nn.lora.load`."""
        before = self.active
        lora.load(self.model, folder, name, dtype=dtype)
        return self.use(before)

    def save(self, name: str, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write an adapter as PEFT does; arguments as in `nn.lora.save`."""
        lora.save(self.model, folder, name, dtype=dtype)

    def remove(self, name: str) -> AdapterBank:
        """Forget an adapter. Raises ValueError: no adapter of that name, a batch is running, or requests still need it."""
        remove(self.model, name)
        return self

    def use(self, name: str | None) -> AdapterBank:
        """Let an adapter work, and learn, from the next forward on; None is the model alone.

        Raises:
            ValueError: no adapter of that name, or a batch is running (`using`): its rows keep what they began with.
        """
        activate(self.model, name)
        return self

    @contextmanager
    def using(self, rows: str | Sequence[str | None] | None) -> Iterator[Decoder]:
        """In the block the model works with an adapter, or with one for each row of the batch; others cannot switch it.

        Args:
            rows: one name, or None, for all rows; or a list of them, as many as the batch has rows.
        Raises:
            ValueError: no adapter of that name, or another batch is running.
        """
        with working(self.model, rows):
            yield self.model

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The weights of an adapter, for an optimizer."""
        return lora.lora_parameters(self.model, name)

    def num_bytes(self, name: str) -> int:
        """Memory of an adapter's weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.parameters(name))
