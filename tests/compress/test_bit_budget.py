"""Budgets: what a matrix costs, who is chosen, and that the target is met by one matrix and no more."""

from __future__ import annotations

import pytest
import torch

from tenfold.compress.bit_budget import bits_by_sensitivity, random_bits, sensitivities
from tenfold.compress.palette_linear import PaletteLinear
from tenfold.compress.palettize import (
    PaletteConfig,
    bits_per_weight,
    palettize,
    planned_bits_per_weight,
    projections,
)
from tenfold.lm.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=16)
CONFIG = PaletteConfig(target_bpw=4.6)


def decoder() -> Decoder:
    return Decoder(CFG, torch.Generator().manual_seed(0))


def squared_change(model: Decoder) -> float:
    """A loss that is known: each matrix's squared change, the first block's ten times."""
    total = 0.0
    for (name, before), after in zip(projections(decoder()).items(), _matrices(model), strict=True):
        total += float((after - before.weight.detach()).square().sum()) * (10 if name.startswith("layers.0") else 1)
    return total


def _matrices(model: Decoder) -> list[torch.Tensor]:
    found = [m for m in model.layers.modules() if isinstance(m, torch.nn.Linear | PaletteLinear)]
    return [module.weight.detach() for module in found]


def test_sensitivities_are_what_each_alone_costs_and_leave_the_model_alone() -> None:
    model = decoder()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    increases = sensitivities(model, CONFIG, squared_change)
    for name, layer in projections(decoder()).items():
        low = PaletteLinear.from_linear(layer, bits=2, group=16, axis=0)
        change = float((low.dense() - layer.weight.detach()).square().sum())
        assert increases[name] == pytest.approx(change * (10 if name.startswith("layers.0") else 1), rel=1e-6)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_the_model_is_whole_again_after_a_loss_that_fails() -> None:
    model, calls = decoder(), []

    def loss(model: Decoder) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no")
        return 0.0

    with pytest.raises(RuntimeError):
        sensitivities(model, CONFIG, loss)
    assert len(projections(model)) == 14  # refused, were one palettized


def test_cheapest_per_bit_first_until_the_target_and_no_further() -> None:
    model = decoder()
    layers = projections(model)
    increases = {name: float(i) * layer.weight.numel() for i, (name, layer) in enumerate(layers.items())}
    bits = bits_by_sensitivity(model, CONFIG, increases)
    low = [name for name in layers if bits[name] == 2]
    assert low == list(layers)[: len(low)] and 0 < len(low) < 14
    assert planned_bits_per_weight(model, CONFIG, bits) <= 4.6
    assert planned_bits_per_weight(model, CONFIG, bits | {low[-1]: 4}) > 4.6
    assert bits_per_weight(palettize(model, CONFIG, bits=bits)) <= 4.6
    # The same cost counts for less where it saves more.
    equal = bits_by_sensitivity(decoder(), CONFIG, dict.fromkeys(layers, 1.0))
    largest = max(layer.weight.numel() for layer in layers.values())
    assert {layers[name].weight.numel() for name in equal if equal[name] == 2} == {largest}


def test_random_bits_depend_on_the_seed_alone() -> None:
    drawn = [random_bits(decoder(), CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for bits in drawn:
        assert planned_bits_per_weight(decoder(), CONFIG, bits) <= 4.6
        assert set(bits.values()) == {2, 4}


def test_a_target_that_is_met_already_changes_nothing() -> None:
    bits = random_bits(decoder(), PaletteConfig(target_bpw=9.0), torch.Generator().manual_seed(0))
    assert set(bits.values()) == {4}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (PaletteConfig(), "target_bpw, bits: got None, 4"),
        (PaletteConfig(bits=2, target_bpw=3.0), "more bits than 2"),
        (PaletteConfig(target_bpw=1.5), r"target_bpw: got 1\.5, need at least 2\.\d+"),
    ],
)
def test_bad_input(config: PaletteConfig, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        random_bits(decoder(), config, torch.Generator())
