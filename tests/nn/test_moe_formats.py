"""Other libraries' layouts: round trips, and states that do not form a block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import MoE, MoEConfig, from_mixtral, to_mixtral, upcycle


def block() -> MoE:
    return MoE(MoEConfig(6, 10, 3, router="topk", dropless=True), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", ["mixtral", "qwen", "fused"])
@pytest.mark.parametrize("prefix", ["", "model.layers.3.block_sparse_moe.", "model.layers.3.mlp."])
def test_round_trip(layout: str, prefix: str) -> None:
    moe = block()
    state = to_mixtral(moe, layout, prefix)
    assert all(name.startswith(prefix) for name in state)
    assert all(tensor.is_contiguous() for tensor in state.values())
    # Either the whole prefix is named, or the block is found behind the layer's.
    back = from_mixtral({**state, "other.weight": torch.zeros(1)}, prefix[:15])
    for name, parameter in moe.named_parameters():
        assert torch.equal(parameter, back.get_parameter(name))
    assert back.config.dropless
    assert from_mixtral(state, prefix, router="top2", lb_weight=0.5).config.lb_weight == 0.5


def test_names_and_shapes() -> None:
    state = to_mixtral(block(), "mixtral")
    assert {n: tuple(t.shape) for n, t in state.items() if "experts.0" in n or "gate" in n} == {
        "gate.weight": (3, 6),
        "experts.0.w1.weight": (10, 6),
        "experts.0.w3.weight": (10, 6),
        "experts.0.w2.weight": (6, 10),
    }
    fused = to_mixtral(block(), "fused")
    assert fused["experts.gate_up_proj"].shape == (3, 20, 6)
    assert fused["experts.down_proj"].shape == (3, 6, 10)


def test_states_that_form_no_block() -> None:
    state = to_mixtral(block())
    for change, message in (
        ({"gate.weight": None}, "gate.weight: not in the state"),
        ({"gate.weight": torch.zeros(4, 6)}, "names 4 experts, but the state lacks experts.3.w1.weight"),
        ({"gate.weight": torch.zeros(2, 6)}, "holds more than 2 experts"),
        ({"gate.weight": torch.zeros(3, 5)}, "w0 has shape"),
        ({f"experts.0.{n}.weight": None for n in ("w1", "w2", "w3")}, "need w1/w3/w2"),
    ):
        broken = {n: t for n, t in {**state, **change}.items() if t is not None}
        with pytest.raises(ValueError, match=message):
            from_mixtral(broken)
    with pytest.raises(ValueError, match="layout: got 'jax'"):
        to_mixtral(block(), "jax")
    with pytest.raises(ValueError, match="need swiglu"):
        to_mixtral(MoE(MoEConfig(6, 10, 3, activation="gelu")))
    with pytest.raises(ValueError, match="need swiglu"):
        from_mixtral(state, bias=True)


def test_upcycle_knows_common_layers() -> None:
    plain = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
    moe = upcycle(plain, MoEConfig(6, 10, 3, router="topk", dropless=True, activation="gelu", bias=True))
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(moe(x), plain(x), atol=1e-5)
    assert not torch.equal(moe.gate_weight[:, 0], moe.gate_weight[:, 1])
    for config, message in (
        (MoEConfig(6, 12, 3, activation="gelu", bias=True), "got width 6 and hidden 10, need 6 and 12"),
        (MoEConfig(6, 10, 3, activation="gelu"), "bias: got False"),
        (MoEConfig(6, 10, 3, bias=True), "need gate_proj/up_proj/down_proj"),
    ):
        with pytest.raises(ValueError, match=message):
            upcycle(plain, config)


@pytest.mark.parametrize("key", ["shared_expert.gate_proj.weight", "gate.e_score_correction_bias", "experts.0.w1.bias"])
def test_weights_without_a_place_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: the layer has no place for it"):
        from_mixtral({**to_mixtral(block()), key: torch.zeros(3)})
    with pytest.raises(ValueError, match="router='topk_bias'"):
        to_mixtral(MoE(MoEConfig(6, 10, 3, router="topk_bias")))


def test_upcycling_keeps_the_activation() -> None:
    for own, wanted in (("swiglu", "gelu"), ("gelu", "relu")):
        with pytest.raises(ValueError, match="activation: got"):
            upcycle(FeedForward(6, 10, activation=own), MoEConfig(6, 10, 3, activation=wanted))  # type: ignore[arg-type]
    moe = upcycle(FeedForward(6, 10, activation="relu"), MoEConfig(6, 10, 3, activation="relu"))
    assert torch.equal(moe.w0[0], moe.w0[2])
