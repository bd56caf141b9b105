"""Palettized decoders: their numbers are those of a dense decoder with the same weights, their size is what was planned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tenfold.compress.palette_linear import Int8Embedding, Int8Linear, PaletteLinear
from tenfold.compress.palettize import (
    PaletteConfig,
    bits_per_weight,
    materialize,
    palettize,
    planned_bits_per_weight,
    projections,
)
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.generate import generate
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.nn.lora import add_lora
from tenfold.nn.moe import MoEConfig

# Column counts that fill no byte at 2 or 3 bits, rows that fill no group of 16.
CFG = DecoderConfig(vocab_size=50, dim=30, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=10, ffn_dim=37, max_len=40)
BITS = {"packed": 8, "codes": 8, "tables": 16, "kept": 16, "line_steps": 16, "steps": 32}
IDS = torch.randint(0, 50, (2, 11), generator=torch.Generator().manual_seed(1))


def decoder(**fields: Any) -> Decoder:
    cfg = DecoderConfig(**(vars(CFG) | fields))
    return Decoder(cfg, torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        PaletteConfig(),
        PaletteConfig(bits=2, axis=1),
        PaletteConfig(bits=3, group=7),
        PaletteConfig(embedding_bits=16, bins=4096),
        PaletteConfig(method="uniform"),
        PaletteConfig(block=8, axis=1),
        PaletteConfig(block=0),
        PaletteConfig(block=8, block_bits=6, offsets=True),
        PaletteConfig(block=8, block_bits=4, axis=1),
    ],
    ids=str,
)
def test_logits_are_those_of_the_dense_decoder_with_these_weights(config: PaletteConfig, tied: bool) -> None:
    dense = decoder(tie_embeddings=tied)
    exact = dense(IDS)
    small = palettize(copy.deepcopy(dense), config)
    assert len([m for m in small.modules() if isinstance(m, PaletteLinear)]) == 14
    for name, module in small.named_modules():
        if isinstance(module, PaletteLinear | Int8Embedding | Int8Linear):
            dense.get_submodule(name).weight.data.copy_(module.weight)
    for name, weight in small.named_parameters():
        dense.get_parameter(name).data.copy_(weight)
    torch.testing.assert_close(small(IDS), dense(IDS), rtol=1e-5, atol=1e-5)
    # An untrained model is a random function: four bits change its logits by a tenth or two of their spread.
    assert (small(IDS) - exact).std() < (1.0 if config.bits < 4 else 0.5) * exact.std()


def test_materialized_is_dense_and_gives_the_same_logits() -> None:
    for tied in (True, False):
        small = palettize(decoder(tie_embeddings=tied))
        dense = materialize(copy.deepcopy(small))
        assert type(dense.layers[0].mlp.up_proj) is type(decoder().layers[0].mlp.up_proj)
        assert dense.num_params(embedding=True) == decoder(tie_embeddings=tied).num_params(embedding=True)
        torch.testing.assert_close(dense(IDS), small(IDS), rtol=1e-6, atol=1e-6)
        assert len(dense.layers[0].self_attn.q_proj.weight[:16].unique()) <= 16


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("embedding_bits", "blocks"),
    [(8, {}), (16, {}), (8, {"block": 8}), (8, {"block": 8, "block_bits": 6, "offsets": True})],
)
def test_planned_and_real_size_agree(embedding_bits: int, blocks: dict[str, Any], tied: bool) -> None:
    config = PaletteConfig(embedding_bits=embedding_bits, **blocks)
    model = decoder(tie_embeddings=tied)
    bits = {name: (2, 4, 6)[i % 3] for i, name in enumerate(projections(model))}
    planned = planned_bits_per_weight(model, config, bits)
    weights = model.num_params(embedding=True)
    held = 16.0 * sum(w.numel() for name, w in model.named_parameters() if "norm" in name)
    small = palettize(model, config, bits=bits)
    for name, tensor in small.state_dict().items():
        if name.endswith((".packed", ".codes", ".tables", ".kept", ".line_steps", ".steps")):
            held += tensor.numel() * BITS[name.rpartition(".")[2]]
        elif "norm" not in name:
            held += 16 * tensor.numel()
    assert bits_per_weight(small) == planned == pytest.approx(held / weights)
    assert (bits_per_weight(small, embeddings=False) < planned) or embedding_bits == 4


def test_the_paper_s_shape() -> None:
    """3B: 4.22 bits a weight with four-bit projections and a byte for the embedding; 3.7 with 27 % of them at 2 bits."""
    with torch.device("meta"):
        model = Decoder(DecoderConfig(49152, 3072, 26, 24, 8, 128, 8064))
    layers = projections(model)
    everything = planned_bits_per_weight(model, PaletteConfig(), dict.fromkeys(layers, 4))
    assert everything == pytest.approx(4.22, abs=0.01)
    total = sum(layer.weight.numel() for layer in layers.values())
    low, saved = {}, 0
    for name, layer in layers.items():
        low[name] = 2 if saved < 0.27 * total else 4
        saved += layer.weight.numel() if low[name] == 2 else 0
    assert planned_bits_per_weight(model, PaletteConfig(), low) == pytest.approx(3.7, abs=0.02)


def test_a_dense_model_counts_sixteen_and_adapters_count_nothing() -> None:
    assert bits_per_weight(decoder()) == 16
    small = palettize(decoder())
    before = bits_per_weight(small)
    assert bits_per_weight(add_lora(small, 4)) == before


def test_weights_are_frozen_and_norms_have_sixteen_bits() -> None:
    model = decoder()
    model.norm.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    small = palettize(model)
    assert not any(weight.requires_grad for weight in small.parameters())
    assert torch.equal(small.norm.weight.half().float(), small.norm.weight)


def test_it_generates_with_and_without_the_engine() -> None:
    small = palettize(decoder())
    tokens = generate(small, [[3, 4, 5]], max_new_tokens=12, temperature=0).ids[0]
    dense = materialize(copy.deepcopy(small))
    assert generate(dense, [[3, 4, 5]], max_new_tokens=12, temperature=0).ids[0] == tokens
    with Engine(small, compiled="off") as engine:
        stream = engine.submit(Request([3, 4, 5], 12, SamplingRule(temperature=0)))
        assert [token.id for token in stream] == tokens


def test_rounded_activations_change_the_logits_a_little() -> None:
    plain, rounded = palettize(decoder()), palettize(decoder(), PaletteConfig(activation_bits=8))
    change = (rounded(IDS) - plain(IDS)).abs().max()
    assert 0 < change < 0.1 * plain(IDS).std()


def broken(name: str, value: float) -> Decoder:
    model = decoder()
    model.get_parameter(name).data[0] = value
    return model


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: PaletteConfig(bits=5), "bits: got 5, need one of 1, 2, 3, 4, 6, 8"),
        (lambda: PaletteConfig(group=0), "group: got 0"),
        (lambda: PaletteConfig(axis=2), "axis: got 2"),
        (lambda: PaletteConfig(embedding_bits=4), "embedding_bits: got 4"),
        (lambda: PaletteConfig(activation_bits=4), "activation_bits: got 4"),
        (lambda: PaletteConfig(method="lloyd"), "method: got 'lloyd'"),
        (lambda: PaletteConfig(bins=8), "bins: got 8, need at least 16"),
        (lambda: PaletteConfig(block=-1), "block: got -1"),
        (lambda: PaletteConfig(block=8, block_bits=5), "block_bits: got 5"),
        (lambda: PaletteConfig(offsets=True), "block: got None with offsets"),
        (lambda: palettize(palettize(decoder())), "palettized already"),
        (lambda: palettize(add_lora(decoder(), 2)), "has adapters"),
        (lambda: palettize(decoder(moe=MoEConfig(30, 16, 4, router="topk", dropless=True))), "has experts"),
        (lambda: palettize(decoder(), PaletteConfig(target_bpw=4)), "without bits"),
        (lambda: palettize(decoder(), bits={"layers.0.mlp.up_proj": 4}), "need each of the 14"),
        (lambda: palettize(decoder(), bits=dict.fromkeys(projections(decoder()), 7)), "need each of the 14"),
        (
            lambda: palettize(broken("layers.1.mlp.up_proj.weight", float("nan"))),
            "not finite in 16 bits: layers.1.mlp.up",
        ),
        (lambda: palettize(broken("norm.weight", 1e5)), "not finite in 16 bits: norm.weight"),
    ],
)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
