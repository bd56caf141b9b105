"""Counts of parameters and FLOPs against the model itself, and against the paper's figures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tenfold.diffusion.config import SIZES, ECDiTConfig, paper_config
from tenfold.diffusion.reports import ParamReport, expert_rows, flop_report, param_report
from tenfold.diffusion.transformer import ECDiT


@cache
def report_of(name: str) -> ParamReport:
    return param_report(paper_config(name))


@pytest.mark.parametrize("name", list(SIZES))
def test_counts_are_those_of_the_model(name: str) -> None:
    report = report_of(name)
    with torch.device("meta"):
        model = ECDiT(paper_config(name))
    assert report.total == sum(report.parts.values()) == sum(p.numel() for p in model.parameters())


def test_a_dense_model_is_its_own_dense_model() -> None:
    report = param_report(replace(SIZES["tiny"], router="dense"))
    assert report.total == report.dense == report.activated == report_of("tiny").dense
    assert report.expert_law == report.activated_law == 0


@pytest.mark.parametrize(
    ("name", "difference", "printed", "increment"),
    [
        ("xl", 4.61e9, 6.08e9 - 1.47e9, 0.149e9),
        ("xxl", 11.12e9, 13.47e9 - 2.35e9, 0.360e9),
        ("3xl", 27.65e9, 32.15e9 - 4.50e9, 0.893e9),
        ("m", 90.37e9, None, 1.44e9),
    ],
)
def test_the_papers_law(name: str, difference: float, printed: float | None, increment: float) -> None:
    config = paper_config(name)
    report = report_of(name)
    sparse, experts, dim = len(config.sparse_layers), config.num_experts, config.dim
    assert report.expert_law == pytest.approx(difference, rel=1e-3)
    if printed is not None:
        assert report.expert_law == pytest.approx(printed, rel=2e-3)
    # Exact once biases and routers are counted.
    assert report.total - report.dense == report.expert_law + sparse * ((experts - 1) * 5 * dim + experts * dim)
    assert report.activated_law == pytest.approx(increment, rel=3e-3)
    assert report.activated - report.dense == report.activated_law + sparse * 5 * dim


def test_the_paper_stands_beside() -> None:
    text = str(report_of("3xl"))
    assert "total 32.15 B, dense 4.50 B" in text
    assert "activated by its formula 5.39 B, printed 5.18 B, 1.199 of dense" in text
    assert "dense 8.03 B (46 layers)" in str(report_of("m"))
    assert "1.031 of dense" in str(report_of("m"))
    assert "paper" not in str(report_of("tiny"))
    assert "paper" not in str(param_report(replace(paper_config("xl"), num_experts=8)))


def test_activated_parameters_of_token_choice() -> None:
    config = ECDiTConfig(router="tc", top_k=3, shared_expert=True)
    report = param_report(config)
    expert = report.parts["experts"] // config.num_experts
    assert report.activated == report.total - 5 * expert
    assert report.parts["shared expert"] == expert


SMALL = ECDiTConfig(
    image_size=8, patch_size=2, dim=16, num_layers=4, num_heads=4, num_kv_heads=2, text_dim=12, num_experts=4
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"router": "dense"},
        {"router": "dense-wide", "capacity_factor": 1.3},
        {"shared_expert": True},
        {"capacity_factor": 1.1, "adaln": "block"},
        {"capacity_factor": 1.1, "capacity_rounding": "floor", "out_channels": 6},
        {"group_size": 32},
    ],
)
def test_flops_are_those_that_torch_counts(options: dict[str, Any]) -> None:
    config = replace(SMALL, **options)
    model = ECDiT(config)
    side = 8 if config.group_size else 12
    # The plain kernel, since the counter knows no fused one on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(torch.zeros(2, 3, side, side), torch.zeros(2), torch.zeros(2, 7, 12))
    assert 2 * flop_report(config, side, text_tokens=7).total == counter.get_total_flops()


def test_theoretical_ratio() -> None:
    config = SIZES["tiny"]
    report = flop_report(config)
    # Three of six feed-forward layers doubled, and the routers.
    doubled = 3 * 2 * 2 * 128 * 512 * 64
    assert report.total - report.dense == doubled + 3 * 2 * 64 * 128 * 8
    assert report.ratio == pytest.approx(1.21, abs=0.005)
    assert flop_report(replace(config, router="dense")).ratio == 1
    assert report.tokens == 64
    assert "ratio                1.210" in str(report)
    wide = flop_report(replace(config, router="dense-wide"))
    assert wide.total == report.total - report.parts["router"]


@pytest.mark.parametrize(
    ("options", "tokens", "rows"),
    [
        ({}, 64, 128),
        ({"num_experts": 10, "capacity_factor": 1.1}, 100, 110),
        ({"num_experts": 5, "capacity_factor": 1.0, "group_size": 16}, 64, 80),
        ({"num_experts": 5, "capacity_factor": 1.0, "group_size": 16, "capacity_rounding": "floor"}, 64, 60),
        ({"router": "tc", "top_k": 3}, 64, 192),
    ],
)
def test_rows_of_the_experts(options: dict[str, Any], tokens: int, rows: int) -> None:
    assert expert_rows(ECDiTConfig(**options), tokens) == rows


@pytest.mark.parametrize(
    ("size", "text", "message"),
    [
        (30, 7, "image_size: got 30, need a multiple of patch_size = 4"),
        (0, 7, "image_size: got 0"),
        (32, 0, "text_tokens: got 0"),
    ],
)
def test_bad_sizes(size: int, text: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flop_report(ECDiTConfig(), size, text_tokens=text)
