"""Cost model: reference ratios, hand-computed terms, laws, and what it refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.lm.cost import (
    SHAPES,
    Mesh,
    MoEPlacement,
    Shape,
    activation_bytes,
    compute_ratio,
    explain_speedup,
    forward_flops,
    overhead_bound,
    parameters,
    step_cost,
)
from tenfold.lm.hardware import HARDWARE, Hardware, find_hardware

TOY = Shape("toy", layers=4, dim=8, hidden=16, heads=2, vocab=32, sequence=10)
TOY_MOE = MoEPlacement(num_experts=4, every=2, capacity_factor=2.0)
# 100 FLOP/s at MFU 1 and 1 byte/s everywhere: seconds are FLOPs / 100 and bytes.
UNIT = Hardware(
    "unit", peak_flops=100, memory_bytes=1e6, node_devices=8, node_bandwidth=1, network_bandwidth=0.5, mfu=1
)


@pytest.mark.parametrize(
    ("shape", "every4", "every2", "half_width", "einsum"),
    [
        ("6.4B", 1.1422, 1.3048, 1.0023, 1.1597),
        ("12.6B", 1.1435, 1.3029, 1.0019, 1.1577),
        ("29.6B", 1.1528, 1.3174, 1.0015, 1.1644),
        ("1.6B", 1.1426, 1.2852, 1.0042, 1.1759),
    ],
)
def test_reference_ratios(shape: str, every4: float, every2: float, half_width: float, einsum: float) -> None:
    half = MoEPlacement(every=2, hidden=SHAPES[shape].hidden // 2)
    assert compute_ratio(shape, MoEPlacement(every=4)) == pytest.approx(every4, abs=1e-4)
    assert compute_ratio(shape, MoEPlacement(every=2)) == pytest.approx(every2, abs=1e-4)
    assert compute_ratio(shape, half) == pytest.approx(half_width, abs=1e-4)
    assert compute_ratio(shape, MoEPlacement(every=4, einsum_group=1024)) == pytest.approx(einsum, abs=1e-4)


def test_headline_speedup_and_what_explains_the_reported_one() -> None:
    gap = explain_speedup()
    assert gap.computed == pytest.approx(3.331, abs=1e-3)
    assert gap.reported == 2.06
    assert gap.mfu_factor == pytest.approx(0.6185, abs=1e-3)
    assert gap.communication_share == pytest.approx(0.3815, abs=1e-3)
    assert gap.communication_to_compute == pytest.approx(0.617, abs=1e-3)
    assert "3.331x" in str(gap)
    assert "2.06x" in str(gap)
    assert "38.2%" in str(gap)
    # Each cause alone brings the computed figure to the reported one.
    assert gap.computed * gap.mfu_factor == pytest.approx(gap.reported)
    assert gap.computed * (1 - gap.communication_share) == pytest.approx(gap.reported)
    assert gap.computed / (1 + gap.communication_to_compute) == pytest.approx(gap.reported)


def test_the_all_to_all_bandwidth_that_explains_the_gap() -> None:
    gap, moe = explain_speedup(), MoEPlacement()
    cost = step_cost("1.6B", moe, HARDWARE["h100"], Mesh(1, 256, 1), batch_tokens=2**22)
    bandwidth = gap.all_to_all_bandwidth(cost)
    seconds = cost.all_to_all_bytes / bandwidth
    dense = step_cost("6.4B", None, HARDWARE["h100"], Mesh(256, 1, 1), batch_tokens=2**22)
    assert dense.compute_s / (cost.compute_s + seconds) == pytest.approx(2.06)


@pytest.mark.parametrize("reported", [0.0, -1.0, 3.4])
def test_a_speedup_no_loss_explains_is_refused(reported: float) -> None:
    with pytest.raises(ValueError, match=r"reported: got .*, need a speed-up in \(0, 3.331\]"):
        explain_speedup(reported=reported)


@pytest.mark.parametrize("name", list(SHAPES))
def test_presets_have_their_names_size(name: str) -> None:
    assert parameters(name).total == pytest.approx(float(name[:-1]) * 1e9, rel=0.01)


def test_bounds_of_the_placement() -> None:
    assert overhead_bound(2) == pytest.approx(1 / 3)  # top-2 in every second layer: +33 %
    assert overhead_bound(4) == pytest.approx(1 / 6)  # every fourth: +17 %
    assert overhead_bound(2, width=0.5) == 0  # half-width experts cost nothing extra
    assert overhead_bound(2, slots=1.0) == 0  # nor does one slot a token
    assert overhead_bound(3) > 0.20 > overhead_bound(4)


def test_flops_by_hand() -> None:
    # Dense: 4 layers x (8·64 + 2·10·8 + 6·8·16) + 2·8·32 = 4 x (512 + 160 + 768) + 512.
    assert forward_flops(TOY) == 6272
    # Two of the layers: 768 becomes 2·768 + 2·8·4 (router).
    assert forward_flops(TOY, TOY_MOE) == 6272 + 2 * (768 + 64)
    # One-hot dispatch in groups of 5 adds 4·5·2·8 a sparse layer.
    assert forward_flops(TOY, dataclasses.replace(TOY_MOE, einsum_group=5)) == 6272 + 2 * (768 + 64 + 320)
    # Dropless: k = 1 slots, whatever the capacity factor.
    top1 = dataclasses.replace(TOY_MOE, top_k=1, dropless=True)
    assert forward_flops(TOY, top1) == 6272 + 2 * 64


def test_parameters_by_hand() -> None:
    # Dense: 4 x (4·64 + 3·8·16) + 2·32·8 = 4 x (256 + 384) + 512.
    assert parameters(TOY).total == 3072
    sparse = parameters(TOY, TOY_MOE)
    assert (sparse.dense, sparse.experts, sparse.router) == (3072 - 2 * 384, 2 * 4 * 384, 2 * 8 * 4)
    assert sparse.active == sparse.dense + sparse.router + 2 * 2 * 384
    grouped = dataclasses.replace(TOY, kv_heads=1)
    assert parameters(grouped).total == 3072 - 4 * 64  # key and value halve: 128 → 64 each... one head of two
    half = parameters(TOY, dataclasses.replace(TOY_MOE, hidden=8))
    assert half.experts == sparse.experts / 2


def test_step_terms_by_hand() -> None:
    mesh, tokens = Mesh(data=2, expert=2, model=2), 400
    cost = step_cost(TOY, TOY_MOE, UNIT, mesh, batch_tokens=tokens, overlap=0.75)
    device_tokens = 100  # 400 / (2·2)
    assert cost.compute_s == pytest.approx(3 * 7936 * tokens / (8 * 100))
    # Four all-to-alls, 2 sparse layers, 2 slots, 100 tokens of 8/2 numbers of 2 bytes, half leaves the device.
    assert cost.all_to_all_s == 4 * 2 * 2 * device_tokens * (8 / 2) * 2 * 0.5 == cost.all_to_all_bytes
    # Four all-reduces a layer of 2·100·8·2 bytes, half of it.
    assert cost.model_axis_s == 4 * 4 * 2 * device_tokens * 8 * 2 * 0.5
    dense = (3072 - 768) / 2 + 64  # over the model axis; the router is whole everywhere
    experts = 3072 / (2 * 2)
    assert cost.data_axis_s == pytest.approx(2 * 2 * dense * 3 / 4 + 2 * 2 * experts * 1 / 2)
    assert cost.total_s == pytest.approx(
        cost.compute_s + cost.all_to_all_s + cost.model_axis_s + 0.25 * cost.data_axis_s
    )
    # A layer's input each (4·8·2), the widest layer ((8·8 + 3·2·16)·2/2), logits (4·32/2), for 100 tokens.
    activations = device_tokens * (64 + 160 + 64)
    assert activation_bytes(TOY, TOY_MOE, mesh, device_tokens, 2) == activations
    assert cost.memory_bytes == pytest.approx(14 * (dense + experts) + activations)
    assert cost.fits


def test_full_sharding_by_hand() -> None:
    mesh = Mesh(data=2, expert=2, model=1)
    plain = step_cost(TOY, TOY_MOE, UNIT, mesh, batch_tokens=400)
    sharded = step_cost(TOY, TOY_MOE, UNIT, mesh, batch_tokens=400, fully_sharded=True)
    assert sharded.data_axis_s == pytest.approx(1.5 * plain.data_axis_s)  # two gathers and one scatter against two
    dense, experts = 3072 - 768 + 64, 3072 / 2
    assert plain.memory_bytes - sharded.memory_bytes == pytest.approx(14 * (dense * 3 / 4 + experts / 2))


def test_dense_has_no_all_to_all_and_one_device_no_communication() -> None:
    dense = step_cost(TOY, None, UNIT, Mesh(data=4), batch_tokens=400)
    assert dense.all_to_all_s == dense.model_axis_s == 0 < dense.data_axis_s
    alone = step_cost(TOY, TOY_MOE, UNIT, Mesh(), batch_tokens=400)
    assert alone.all_to_all_s == alone.model_axis_s == alone.data_axis_s == 0
    assert alone.total_s == alone.compute_s


def test_slow_links_serve_what_spans_nodes() -> None:
    inside = step_cost(TOY, TOY_MOE, UNIT, Mesh(expert=4, model=2), batch_tokens=400)
    across = step_cost(
        TOY, TOY_MOE, dataclasses.replace(UNIT, node_devices=4), Mesh(expert=4, model=2), batch_tokens=400
    )
    assert across.all_to_all_s == 2 * inside.all_to_all_s  # the expert axis now spans two nodes
    assert across.model_axis_s == inside.model_axis_s  # the model axis does not


def test_memory_verdict() -> None:
    small = dataclasses.replace(UNIT, memory_bytes=1000)
    assert not step_cost(TOY, None, small, Mesh(), batch_tokens=10).fits


@given(
    slots=st.floats(0.5, 4), every=st.integers(1, 4), experts=st.integers(2, 64), data=st.integers(1, 8),
    expert=st.integers(1, 8), tokens=st.integers(100, 10_000),
)  # fmt: skip
def test_laws(slots: float, every: int, experts: int, data: int, expert: int, tokens: int) -> None:
    moe = MoEPlacement(num_experts=experts, every=every, capacity_factor=slots)
    cost = step_cost(TOY, moe, UNIT, Mesh(data, expert), batch_tokens=tokens)
    # Twice the tokens: twice the compute and all-to-all, the same gradients.
    double = step_cost(TOY, moe, UNIT, Mesh(data, expert), batch_tokens=2 * tokens)
    assert double.compute_s == pytest.approx(2 * cost.compute_s)
    assert double.all_to_all_s == pytest.approx(2 * cost.all_to_all_s)
    assert double.data_axis_s == cost.data_axis_s
    # Total compute does not depend on the mesh; more slots never cost less.
    alone = step_cost(TOY, moe, UNIT, Mesh(), batch_tokens=tokens)
    assert alone.compute_s == pytest.approx(cost.compute_s * data * expert)
    more = dataclasses.replace(moe, capacity_factor=slots + 1)
    assert forward_flops(TOY, more) > forward_flops(TOY, moe)
    assert parameters(TOY, more) == parameters(TOY, moe)
    # Full overlap leaves compute and all-to-all.
    hidden = step_cost(TOY, moe, UNIT, Mesh(data, expert), batch_tokens=tokens, overlap=1.0)
    assert math.isclose(hidden.total_s, cost.compute_s + cost.all_to_all_s)


@pytest.mark.parametrize("name", list(HARDWARE))
def test_hardware_presets_say_their_source(name: str) -> None:
    assert find_hardware(name).source
    assert find_hardware(name.upper(), mfu=0.5).mfu == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shape("x", 0, 8, 16, 2), "layers: got 0"),
        (lambda: Shape("x", 4, 8, 16, 6, kv_heads=4), r"kv_heads: got 4, need a divisor of heads \(6\)"),
        (lambda: MoEPlacement(num_experts=0), "num_experts: got 0"),
        (lambda: MoEPlacement(every=0), "every: got 0"),
        (lambda: MoEPlacement(num_experts=2, top_k=3), r"top_k: got 3, need 1..num_experts \(2\)"),
        (lambda: MoEPlacement(capacity_factor=0), "capacity_factor: got 0"),
        (lambda: MoEPlacement(hidden=0), "hidden: got 0"),
        (lambda: MoEPlacement(einsum_group=0), "einsum_group: got 0"),
        (lambda: forward_flops(TOY, MoEPlacement(every=5)), r"every: got 5, need at most the layers of toy \(4\)"),
        (lambda: Mesh(data=0), "data: got 0"),
        (lambda: overhead_bound(0), "every: got 0"),
        (lambda: step_cost(TOY, None, UNIT, Mesh(), batch_tokens=0), "batch_tokens: got 0"),
        (lambda: step_cost(TOY, None, UNIT, Mesh(), batch_tokens=1, overlap=1.1), "overlap: got 1.1"),
        (lambda: dataclasses.replace(UNIT, mfu=0), "mfu: got 0"),
        (lambda: dataclasses.replace(UNIT, peak_flops=0), "peak_flops: got 0"),
        (lambda: dataclasses.replace(UNIT, bytes_per_element=3), "bytes_per_element: got 3"),
    ],
)
def test_bad_values(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_unknown_presets_list_the_known() -> None:
    with pytest.raises(UserError, match=r"shape: got '7B', need one of 1.6B, 6.4B"):
        forward_flops("7B")
    with pytest.raises(UserError, match=r"hardware: got 'h1000', need one of h100, h200"):
        find_hardware("h1000")
