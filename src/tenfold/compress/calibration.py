"""What flows through a model's projections on sample text: how much an error of each of their weights costs."""

# Shape legend: B batch, T sequence, I inputs of a projection

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from tenfold.compress.palettize import projections
from tenfold.lm.decoder import Decoder


@torch.no_grad()
def input_squares(model: Decoder, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean square of every input of every projection, (I,) by the projection's name.

    An output y = Σ_i w_i x_i changes by Σ_i e_i x_i where the weights are off by e; with inputs that are not correlated
    its mean square is Σ_i e_i² E[x_i²].

    Args:
        model: a dense decoder.
        batches: token ids (B, T).
    Raises:
        ValueError: no batches.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2).double()
        sums[name] = sums.get(name, 0) + rows.square().sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in projections(model).items()]
    try:
        for ids in batches:
            model.hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError("batches: got none, need at least one")
    return {name: (total / counts[name]).float() for name, total in sums.items()}
