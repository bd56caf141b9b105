"""Mean squares of inputs, and tables that go by them."""

from __future__ import annotations

import copy

import pytest
import torch

from tenfold.compress.calibration import input_squares
from tenfold.compress.palettize import PaletteConfig, palettize, projections
from tenfold.lm.decoder import Decoder, DecoderConfig

CFG = DecoderConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=40)
IDS = torch.randint(0, 50, (6, 20), generator=torch.Generator().manual_seed(1))


def decoder() -> Decoder:
    return Decoder(CFG, torch.Generator().manual_seed(0)).eval()


def test_they_are_those_of_the_inputs_however_the_text_is_cut() -> None:
    model = decoder()
    found = input_squares(model, [IDS])
    assert set(found) == set(projections(model))
    normed = model.layers[0].input_layernorm(model.embed_tokens(IDS)).flatten(0, 1)
    torch.testing.assert_close(found["layers.0.self_attn.q_proj"], normed.square().mean(0), rtol=1e-5, atol=1e-7)
    assert found["layers.1.mlp.down_proj"].shape == (48,)
    parts = input_squares(model, [IDS[:2], IDS[2:]])
    for name, squares in found.items():
        torch.testing.assert_close(parts[name], squares, rtol=1e-5, atol=1e-7)
    assert not model.layers[0].self_attn.q_proj._forward_pre_hooks  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="batches: got none"):
        input_squares(model, [])


def test_tables_by_inputs_change_outputs_less() -> None:
    model = decoder()
    with torch.no_grad():  # inputs of very different size, as large models have them
        for block in model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.mul_(torch.logspace(-1, 1, 32))  # type: ignore[union-attr, operator]
    squares = input_squares(model, [IDS])
    exact = model(IDS)
    errors = {}
    for name, importance in (("alike", None), ("by inputs", squares)):
        small = palettize(copy.deepcopy(model), PaletteConfig(bits=2, embedding_bits=16), importance=importance)
        errors[name] = float((small(IDS) - exact).detach().square().mean())
    assert errors["by inputs"] < 0.8 * errors["alike"]
