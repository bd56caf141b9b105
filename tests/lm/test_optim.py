"""muP-simple factors against the widths they come from, and the two optimizer settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tenfold.core.adastar import AdaStar
from tenfold.core.fit import TrainState, train_step
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.lm.optim import OPTIMIZERS, OptimizerConfig, mup_groups
from tenfold.nn.moe import MoEConfig


def model(tie: bool = True, **fields: Any) -> Decoder:
    """D 32, H·d 16, F 96: every kind of fan-in differs."""
    cfg = DecoderConfig(11, 32, 2, 2, 1, 8, 96, max_len=8, tie_embeddings=tie, **fields)
    return Decoder(cfg, torch.Generator().manual_seed(0))


def factors(decoder: Decoder, groups: list[dict[str, Any]]) -> dict[str, float]:
    of = {id(parameter): group["lr_mult"] for group in groups for parameter in group["params"]}
    named = list(decoder.named_parameters())
    assert len(of) == len(named)
    return {name: of[id(parameter)] for name, parameter in named}


@pytest.mark.parametrize("tie", [True, False])
def test_width_scales_every_matrix_of_the_blocks_alike(tie: bool) -> None:
    decoder = model(tie)
    found = factors(decoder, mup_groups(decoder, base_width=8))
    for name, factor in found.items():
        assert factor == (0.25 if name.endswith("_proj.weight") else 1.0), name
    assert set(factors(decoder, mup_groups(decoder)).values()) == {1.0}  # never above 1
    assert found.get("lm_head.weight", 1.0) == 1.0


def test_fan_in_goes_layer_by_layer() -> None:
    decoder = model()
    found = factors(decoder, mup_groups(decoder, rule="fan_in", base_width=64))
    kinds = {"q_proj": 2.0, "k_proj": 2.0, "v_proj": 2.0, "o_proj": 4.0, "gate_proj": 2.0, "up_proj": 2.0}
    kinds["down_proj"] = 2.0  # 3 · 64 over 96
    for name, factor in found.items():
        assert factor == kinds.get(name.split(".")[-2], 1.0), name


def test_both_rules_are_1_at_the_papers_base_model() -> None:
    with torch.device("meta"):
        decoder = Decoder(DecoderConfig(16, 768, 1, 12, 6, 64, 2304))
    for rule in ("width", "fan_in", None):
        (group,) = mup_groups(decoder, rule=rule)  # type: ignore[arg-type]
        assert group["lr_mult"] == 1.0


def test_frozen_parameters_stay_out() -> None:
    decoder = model()
    decoder.embed_tokens.requires_grad_(False)
    members = [p for group in mup_groups(decoder, base_width=8) for p in group["params"]]
    assert all(p is not decoder.embed_tokens.weight for p in members)
    assert len(members) == len(list(decoder.parameters())) - 1


def test_presets_are_the_papers() -> None:
    core, baseline = OPTIMIZERS["adastar"], OPTIMIZERS["adamw"]
    optimizer = core.build(model())
    assert isinstance(optimizer, AdaStar)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.01, 3.16e-4, (0.95, 0.95))
    assert core.lr * core.schedule(10_000)(10_000) == pytest.approx(0.01 * 0.005)
    assert core.schedule(10_000)(1) == 1 / 5000
    adamw = baseline.build(model())
    assert isinstance(adamw, torch.optim.AdamW) and adamw.defaults["betas"] == (0.9, 0.95)
    assert baseline.lr * baseline.schedule(10_000)(10_000) == pytest.approx(1e-4)
    # A step at the peak takes 1e-4 of each weight, norms and embeddings too.
    assert {group["lr"] * group["weight_decay"] for group in adamw.param_groups} == {1e-4}


@pytest.mark.parametrize("kind", ["adastar", "adamw"])
def test_build_scales_the_rate_and_not_the_decay(kind: Any) -> None:
    decoder, score = model(), torch.nn.Parameter(torch.zeros(3))
    config = OptimizerConfig(kind, lr=0.02, weight_decay=1e-3, base_width=8)
    optimizer = config.build(decoder, [{"params": [score], "lr_mult": 10.0, "weight_decay": 0.0}])
    found = {}
    for group in optimizer.param_groups:
        rate = group["lr"] * group.get("lr_mult", 1.0)
        decay = group["weight_decay"] * (1 if kind == "adastar" else group["lr"])
        found |= {id(parameter): (rate, decay) for parameter in group["params"]}
    assert found[id(decoder.norm.weight)] == pytest.approx((0.02, 1e-3))
    assert found[id(decoder.layers[1].mlp.down_proj.weight)] == pytest.approx((0.005, 1e-3))
    assert found[id(score)] == pytest.approx((0.2, 0.0))


@pytest.mark.parametrize("kind", ["adastar", "adamw"])
def test_both_learn_in_the_loop(kind: Any) -> None:
    decoder = model()
    config = OptimizerConfig(kind, lr=0.02, warmup=3, base_width=32)
    state = TrainState(decoder, config.build(decoder), config.schedule(30))
    ids = torch.arange(9).expand(2, 9)
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}
    losses = [train_step(state, lm_loss(), [batch])["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mup_groups(model(), rule="depth"), "rule: got 'depth', need 'width', 'fan_in' or None"),  # type: ignore[arg-type]
        (lambda: mup_groups(model(), base_width=0), "base_width: got 0, need at least 1"),
        (lambda: mup_groups(model(moe=MoEConfig(32, 12, num_experts=2))), "model: has experts"),
        (lambda: OptimizerConfig("sgd"), "kind: got 'sgd', need 'adastar' or 'adamw'"),  # type: ignore[arg-type]
        (lambda: OptimizerConfig(lr=0.0), "lr: got 0.0"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "weight_decay: got -1.0"),
        (lambda: OptimizerConfig().schedule(100), "warmup: got 5000, need 0..100"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
