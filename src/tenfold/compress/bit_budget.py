"""Which matrices get fewer bits, so that a model fits a budget: those that bear it best, or chance as the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tenfold.compress.palettize import PaletteConfig, palettized, planned_bits_per_weight, projections
from tenfold.lm.decoder import Decoder

LOW_BITS = 2  # what a matrix that must save goes to


@torch.no_grad()
def sensitivities(
    model: Decoder,
    config: PaletteConfig,
    loss: Callable[[Decoder], float],
    importance: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """What each projection alone costs at 2 bits, all others as they are.

    Args:
        model: a dense decoder; it is left as it was.
        config: how matrices are palettized; its `bits` and `target_bpw` play no part.
        loss: of the model on calibration text, say nats a token; called once, and once a projection.
        importance: as in `palettize`.
    Returns:
        loss with that projection at 2 bits, less the loss without, by name.
    """
    before = loss(model)
    increases = {}
    for name, layer in projections(model).items():
        counts = None if importance is None else importance[name]
        model.set_submodule(name, palettized(layer, config, LOW_BITS, counts))
        try:
            increases[name] = loss(model) - before
        finally:
            model.set_submodule(name, layer)
    return increases


def bits_by_sensitivity(model: Decoder, config: PaletteConfig, increases: Mapping[str, float]) -> dict[str, int]:
    """2 bits for the projections that cost least for each bit saved, until config.target_bpw is reached.

    Args:
        model: the dense decoder.
        config: with `bits` for the others and `target_bpw`.
        increases: of `sensitivities`.
    Returns:
        bits of each projection, for `palettize`.
    Raises:
        ValueError: no target, or one that 2 bits everywhere do not reach.
    """
    saved = {name: layer.weight.numel() for name, layer in projections(model).items()}
    return _fill(model, config, sorted(saved, key=lambda name: increases[name] / saved[name]))


def random_bits(model: Decoder, config: PaletteConfig, generator: torch.Generator) -> dict[str, int]:
    """2 bits for projections drawn without regard to what they cost; arguments and result as in `bits_by_sensitivity`."""
    names = list(projections(model))
    return _fill(model, config, [names[i] for i in torch.randperm(len(names), generator=generator)])


def _fill(model: Decoder, config: PaletteConfig, order: Sequence[str]) -> dict[str, int]:
    """2 bits from the first on, until the target is met."""
    target = config.target_bpw
    if target is None or config.bits <= LOW_BITS:
        raise ValueError(f"target_bpw, bits: got {target}, {config.bits}, need a target, and more bits than {LOW_BITS}")
    bits = dict.fromkeys(order, config.bits)
    for name in order:
        if planned_bits_per_weight(model, config, bits) <= target:
            return bits
        bits[name] = LOW_BITS
    if (least := planned_bits_per_weight(model, config, bits)) > target:
        raise ValueError(f"target_bpw: got {target}, need at least {least:.3f} ({LOW_BITS} bits everywhere)")
    return bits
