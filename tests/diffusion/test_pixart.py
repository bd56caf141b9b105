"""PixArt's weights in, and dense models turned into mixtures. Parity with diffusers stands in tests/parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.core.errors import UserError
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.pixart import pixart_config, save_pixart, to_pixart, upcycle_model
from tenfold.diffusion.transformer import ECDiT
from tenfold.nn.moe import ExpertRouting, moe_layers

DENSE = ECDiTConfig(
    image_size=8, patch_size=2, dim=16, num_layers=4, num_heads=2, text_dim=12, router="dense", objective="ddpm"
)


def make(config: ECDiTConfig = DENSE) -> ECDiT:
    """A dense model all of whose weights are random."""
    model = ECDiT(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    return x, torch.tensor([10.0, 700.0]), text


def test_weights_pass_through_their_names() -> None:
    model = make(replace(DENSE, base_size=2, interpolation_scale=2.0, out_channels=6))
    back = ECDiT.from_pixart(to_pixart(model), config=pixart_config(model.config))
    assert torch.equal(back(*inputs()), model(*inputs()))
    # The size that positions are scaled to is all that their config says of sizes.
    assert back.config == replace(model.config, image_size=4, base_size=None)


def test_upcycled_experts_are_copies() -> None:
    model = make()
    moe = {"num_experts": 4, "capacity_factor": 4.0}
    sparse = ECDiT.from_pixart(
        to_pixart(model), moe, config=pixart_config(model.config), generator=torch.Generator().manual_seed(3)
    )
    assert sparse.config == replace(DENSE, router="ec", num_experts=4, capacity_factor=4.0, renormalize=True)
    ffn = model.get_submodule("blocks.3.ffn")
    experts = sparse.get_submodule("blocks.3.ffn")
    for expert in range(4):
        assert torch.equal(experts.get_parameter("w0")[expert].T, ffn.get_parameter("up_proj.weight"))
        assert torch.equal(experts.get_parameter("b2")[expert], ffn.get_parameter("down_proj.bias"))
    # Where every expert takes every token, nothing has changed.
    assert torch.allclose(sparse(*inputs()), model(*inputs()), atol=1e-5)
    # Else a token gets the dense layer's output or none at all.
    half = upcycle_model(model, {**moe, "capacity_factor": 1.0, "moe_layers": (3,)})
    _, routings = half(*inputs(), return_routing=True)
    picked = routings[0].experts_per_token > 0
    assert isinstance(routings[0], ExpertRouting)
    assert 0 < int(picked.sum()) < picked.numel()
    layer = next(layer for _, layer in moe_layers(half))
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(4))
    y, routing = layer(x, return_routing=True)
    picked = routing.experts_per_token[..., None] > 0
    assert torch.allclose(y, torch.where(picked, ffn(x), 0.0), atol=1e-5)


def test_noise_is_relative_to_the_matrix_and_from_the_generator() -> None:
    model = make(replace(DENSE, dim=64))
    state = torch.get_rng_state()

    def draw(seed: int) -> Tensor:
        sparse = upcycle_model(model, {}, noise=0.1, generator=torch.Generator().manual_seed(seed))
        return sparse.get_parameter("blocks.1.ffn.w0").detach()

    up = model.get_parameter("blocks.1.ffn.up_proj.weight").detach()
    noise = draw(0) - up.T
    assert float(noise.std()) == pytest.approx(0.1 * float(up.std()), rel=0.02)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert torch.equal(state, torch.get_rng_state())


def test_upcycling_keeps_type_and_may_change_the_objective() -> None:
    model = make().bfloat16()
    sparse = upcycle_model(model, {"router": "tc", "objective": "flow", "moe_layers": (0,)})
    assert sparse.config.renormalize is False
    assert sparse.config.objective == "flow"
    assert {p.dtype for p in sparse.parameters()} == {torch.bfloat16}
    assert [name for name, _ in moe_layers(sparse)] == ["blocks.0.ffn"]


BAD_UPCYCLING = [
    ({"router": "dense"}, 0.0, "router: got 'dense', need one of ec, tc, race, random"),
    ({"router": "dense-wide"}, 0.0, "router: got 'dense-wide', need one of ec"),
    ({"experts": 4}, 0.0, "moe: got experts, need some of router, num_experts"),
    ({"dim": 32}, 0.0, "moe: got dim, need some of"),
    ({"num_experts": 4, "capacity_factor": 5.0}, 0.0, "capacity_factor: got 5.0, need at most 4"),
    ({}, -0.1, "noise: got -0.1, need 0 or more"),
]


@pytest.mark.parametrize(("moe", "noise", "message"), BAD_UPCYCLING)
def test_bad_upcycling(moe: dict[str, Any], noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upcycle_model(make(), moe, noise=noise)


def test_only_dense_models_are_upcycled() -> None:
    with pytest.raises(ValueError, match="model: got router 'ec', need 'dense'"):
        upcycle_model(ECDiT(replace(DENSE, router="ec")), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "ec"}, "router: got 'ec', need 'dense' in PixArt's architecture"),
        ({"router": "dense-wide"}, "router: got 'dense-wide'"),
        ({"adaln": "block"}, "adaln: got 'block', need 'single'"),
        ({"qk_norm": True}, "qk_norm: got True, need False"),
        ({"num_kv_heads": 1}, "num_kv_heads: got 1, need 2"),
        ({"ffn_ratio": 2}, "ffn_ratio: got 2, need 4"),
    ],
)
def test_what_pixart_cannot_express(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pixart(ECDiT(replace(DENSE, **options)))


BAD_CONFIGS = [
    (
        {"_class_name": "SD3Transformer2DModel"},
        "_class_name: got 'SD3Transformer2DModel', need 'PixArtTransformer2DModel'",
    ),
    ({"activation_fn": "geglu"}, "activation_fn: got 'geglu', need 'gelu-approximate'"),
    ({"caption_channels": None}, "caption_channels: got None, need a whole number"),
    ({"num_layers": 0}, "num_layers: got 0, need a whole number, at least 1"),
    ({"num_layers": 10**9}, "num_layers: got 1000000000, need at least 1, at most 4096"),
    ({"num_layers": 4096}, "num_layers: got 4096, need at most 4"),
    ({"sample_size": "8"}, "sample_size: got '8', need a whole number"),
    ({"interpolation_scale": -1}, "interpolation_scale: got -1, need a number above 0"),
    ({"out_channels": 5}, "out_channels: got 5, need in_channels = 3 or twice that"),
    ({"attention_head_dim": 4}, r"wrong shape .*_table \(2, 16\) \(need \(2, 8\)\), .* and \d+ more"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS)
def test_bad_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^state_dict: .*{message}"):
        ECDiT.from_pixart(to_pixart(make()), config={**pixart_config(DENSE), **changes})


def test_first_five_names_of_what_does_not_fit() -> None:
    state = to_pixart(make())
    for name in [name for name in state if name.startswith("transformer_blocks.2.attn1.")]:
        state[name.replace("attn1", "attn3")] = state.pop(name)
    names = ", ".join(
        f"transformer_blocks\\.2\\.attn1\\.to_{p}" for p in ("q.weight", "q.bias", "k.weight", "k.bias", "v.weight")
    )
    with pytest.raises(UserError, match=f"missing {names} and 3 more; unexpected transformer_blocks.2.attn3") as error:
        ECDiT.from_pixart(state, config=pixart_config(DENSE))
    assert str(error.value).count("attn3") == 5


def test_a_state_dict_needs_a_config() -> None:
    with pytest.raises(ValueError, match="config: got None, need diffusers' config"):
        ECDiT.from_pixart(to_pixart(make()))


def test_folder_of_a_pipeline_and_of_something_else(tmp_path: Path) -> None:
    model = make()
    save_pixart(model, tmp_path / "transformer")
    assert torch.equal(ECDiT.from_pixart(tmp_path)(*inputs()), model(*inputs()))
    with pytest.raises(UserError, match=r"model not found: .*nowhere"):
        ECDiT.from_pixart(tmp_path / "nowhere")
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=r"weights not found: .*diffusion_pytorch_model\.safetensors"):
        ECDiT.from_pixart(tmp_path / "ours")
