"""Settings of the transformer: what is refused, where experts stand, and the published sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tenfold.core.config import from_json, to_json
from tenfold.diffusion.config import ROUTERS, SIZES, ECDiTConfig, paper_config

BAD = [
    ({"image_size": 30}, "image_size: got 30, need a multiple of patch_size = 4"),
    ({"image_size": 0}, "image_size: got 0, need at least 1"),
    ({"out_channels": 4}, "out_channels: got 4, need in_channels = 3 or twice that"),
    ({"dim": 130}, "dim: got 130, need a multiple of num_heads = 4"),
    ({"dim": 6, "num_heads": 2}, "dim: got 6, need a multiple of 4"),
    ({"num_kv_heads": 3}, "num_kv_heads: got 3, need a divisor of num_heads = 4"),
    ({"num_kv_heads": 0}, "num_kv_heads: got 0, need at least 1"),
    ({"text_dim": 0}, "text_dim: got 0"),
    ({"router": "topk"}, "router: got 'topk', need one of ec, tc, race, random, dense, dense-wide"),
    ({"num_experts": 0}, "num_experts: got 0, need at least 1"),
    ({"capacity_factor": 0.0}, "capacity_factor: got 0.0, need a number above 0"),
    ({"capacity_factor": -1.0, "router": "dense"}, "capacity_factor: got -1.0, need a number above 0"),
    ({"capacity_factor": 8.5}, "capacity_factor: got 8.5, need at most 8"),
    ({"top_k": 9, "router": "tc"}, "top_k: got 9, need 1..8"),
    ({"token_capacity": 1.25, "router": "tc"}, "token_capacity: got 1.25 without group_size"),
    ({"token_capacity": 0.0, "router": "tc", "group_size": 64}, "capacity_factor: got 0.0"),
    ({"renormalize": True, "router": "tc"}, "renormalize: got True"),
    ({"group_size": 0}, "group_size: got 0"),
    ({"eval_group_size": -64}, "eval_group_size: got -64"),
    ({"score": "tanh"}, "score: got 'tanh', need one of softmax, sigmoid"),
    ({"capacity_rounding": "round"}, "capacity_rounding: got 'round'"),
    ({"router_input": "raw"}, "router_input: got 'raw', need one of modulated, unmodulated"),
    ({"route_scale": float("nan")}, "route_scale: got nan, need a finite number"),
    ({"aux_coef": -0.1, "router": "tc"}, "lb_weight: got -0.1"),
    ({"moe_every": 0}, "moe_every: got 0, need at least 1"),
    ({"moe_offset": 2}, "moe_offset: got 2, need 0..1"),
    ({"moe_layers": (1, 6)}, "moe_layers: got 6, need 0..5"),
    ({"moe_layers": (-1,)}, "moe_layers: got -1, need 0..5"),
    ({"moe_layers": ()}, "moe_layers: got no sparse block of 6"),
    ({"num_layers": 1, "router": "dense-wide"}, "moe_layers: got no sparse block of 1"),
    ({"adaln": "zero"}, "adaln: got 'zero', need one of single, block"),
    ({"objective": "edm"}, "objective: got 'edm', need one of flow, ddpm"),
    ({"base_size": 0}, "base_size: got 0"),
    ({"interpolation_scale": 0.0}, "interpolation_scale: got 0.0, need a number above 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ECDiTConfig(**options)


def test_every_second_block_is_sparse() -> None:
    assert ECDiTConfig().sparse_layers == (1, 3, 5)
    assert ECDiTConfig(num_layers=7, moe_every=3, moe_offset=0).sparse_layers == (0, 3, 6)
    assert ECDiTConfig(moe_layers=(4, 0, 4)).sparse_layers == (0, 4)
    wide = ECDiTConfig(router="dense-wide", capacity_factor=1.5)
    assert wide.sparse_layers == ()
    assert [wide.hidden(layer) for layer in range(4)] == [512, 768, 512, 768]
    assert ECDiTConfig(router="dense", num_layers=1).sparse_layers == ()


def test_experts_a_token() -> None:
    means = {router: ECDiTConfig(router=router, capacity_factor=1.5, top_k=3).experts_per_token for router in ROUTERS}  # type: ignore[arg-type]
    assert means == {"ec": 1.5, "random": 1.5, "tc": 3.0, "race": 3.0, "dense": 1.0, "dense-wide": 1.0}


def test_experts_that_choose_need_no_k() -> None:
    assert ECDiTConfig(num_experts=1, capacity_factor=1.0).moe_config().num_experts == 1
    with pytest.raises(ValueError, match="router: got 'dense', need one of ec, tc, race, random"):
        ECDiTConfig(router="dense").moe_config()


def test_settings_survive_json() -> None:
    config = replace(SIZES["small"], moe_layers=(1, 2), token_capacity=1.25, group_size=64, router="tc")
    assert from_json(ECDiTConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("xl", (1152, 28, 18, 6, 32)),
        ("xxl", (1536, 38, 24, 6, 32)),
        ("3xl", (2304, 42, 36, 6, 32)),
        ("m", (3072, 38, 48, 12, 64)),
    ],
)
def test_paper_sizes(name: str, shape: tuple[int, ...]) -> None:
    config = paper_config(name)
    assert (config.dim, config.num_layers, config.num_heads, config.num_kv_heads, config.num_experts) == shape
    assert config.dim == 64 * config.num_heads
    assert (config.image_size // config.patch_size) ** 2 == 256
    assert config.placement == tuple(range(1, config.num_layers, 2))


def test_unknown_size_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="preset: got 'huge', need one of tiny, small, xl, xxl, 3xl, m"):
        paper_config("huge")
