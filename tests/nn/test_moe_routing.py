"""Token choice by hand: queues, capacities, ties, losses and statistics worked out on paper."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tenfold.nn.moe import MoE, MoEConfig, TokenRouting, dispatch_plan
from tenfold.nn.moe_capacity import expert_capacity, group_capacities, layer_capacity
from tenfold.nn.moe_losses import aux_losses
from tenfold.nn.routing import route_tokens, router_logits, top_choices


def route(config: MoEConfig, logits: Tensor, **options: Any) -> TokenRouting:
    return route_tokens(config, logits, **{"training": True, "groups": 1, "sequences": 1, **options})


def log(rows: list[list[float]]) -> Tensor:
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


# Four tokens, three experts. First choices: 0, 0, 0, 1. Second choices: 1, 1, 2, 0.
PROBABILITIES = [[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]]


def test_top2_by_hand() -> None:
    # Room for int(4·2/3) = 2: the third first choice finds expert 0 full, and so does token 3's second choice.
    routing = route(MoEConfig(4, 4, 3, capacity_factor=2.0), log(PROBABILITIES))
    assert routing.indices.tolist() == [[0, 1], [0, 1], [0, 2], [1, 0]]
    # Expert 1 serves the first choice of token 3 before the second choices of tokens 0 and 1.
    assert routing.position.tolist() == [[0, 1], [1, 2], [2, 0], [0, 3]]
    assert routing.keep.tolist() == [[True, True], [True, False], [False, True], [True, False]]
    assert routing.capacity == 2
    expected = torch.tensor([[6 / 9, 3 / 9], [5 / 9, 4 / 9], [7 / 9, 2 / 9], [7 / 9, 2 / 9]], dtype=torch.float64)
    assert torch.allclose(routing.weights, expected, atol=1e-8)  # before drops, not renormalised after them
    # f of first choices = (3/4, 1/4, 0); P = (0.5, 0.375, 0.125).
    assert float(routing.lb_loss) == pytest.approx(3 * (0.75 * 0.5 + 0.25 * 0.375))
    assert float(routing.z_loss) == pytest.approx(0.0, abs=1e-12)
    stats = routing.stats
    assert stats["tokens_per_expert"].tolist() == [4, 3, 1]
    assert stats["kept_per_expert"].tolist() == [2, 2, 1]
    assert [int(n) for n in stats["dispatch"]] == [0, 3, 1]
    assert float(stats["dropped_fraction"]) == 3 / 8
    assert [float(r) for r in stats["over_capacity"]] == [1 / 4, 2 / 4]
    assert float(stats["max_load"]) == 1.5
    entropy = -(0.5 * math.log(0.5) + 0.375 * math.log(0.375) + 0.125 * math.log(0.125)) / math.log(3)
    assert float(stats["load_entropy"]) == pytest.approx(entropy, abs=1e-12)
    assert int(stats["dead_experts"]) == 0
    rms = math.sqrt(sum(math.log(p) ** 2 for row in PROBABILITIES for p in row) / 12)
    assert float(stats["router_logit_rms"]) == pytest.approx(rms, abs=1e-12)


def test_topk_balances_all_choices_and_dropless_all_tokens() -> None:
    logits = log(PROBABILITIES)
    # f = (4, 3, 1)/4 over both choices, divided by k = 2.
    expected = 3 * (4 / 8 * 0.5 + 3 / 8 * 0.375 + 1 / 8 * 0.125)
    assert float(route(MoEConfig(4, 4, 3, router="topk"), logits).lb_loss) == pytest.approx(expected)
    free = route(MoEConfig(4, 4, 3, router="topk", dropless=True), logits, groups=2)
    assert float(free.lb_loss) == pytest.approx(expected)
    assert free.keep.all()
    # With groups the loss is the mean over groups: P = (0.55, 0.35, 0.1), then (0.45, 0.4, 0.15).
    first = 3 * (1 / 2 * 0.55 + 1 / 2 * 0.35)
    second = 3 * (1 / 2 * 0.45 + 1 / 4 * 0.4 + 1 / 4 * 0.15)
    grouped = route(MoEConfig(4, 4, 3, router="topk"), logits, groups=2)
    assert float(grouped.lb_loss) == pytest.approx((first + second) / 2)


def test_sequence_balance_by_hand() -> None:
    config = MoEConfig(4, 4, 3, router="topk", dropless=True, sequence_weight=1.0)
    routing = route(config, log(PROBABILITIES), sequences=2)
    first = 3 * (1 / 2 * 0.55 + 1 / 2 * 0.35)
    second = 3 * (1 / 2 * 0.45 + 1 / 4 * 0.4 + 1 / 4 * 0.15)
    assert float(routing.sequence_loss) == pytest.approx((first + second) / 2)


def test_top1_keeps_its_probability_as_weight() -> None:
    routing = route(MoEConfig(4, 4, 3, router="top1", capacity_factor=1.0), log(PROBABILITIES))
    assert routing.indices.tolist() == [[0], [0], [0], [1]]
    assert torch.allclose(routing.weights[:, 0], torch.tensor([0.6, 0.5, 0.7, 0.7], dtype=torch.float64))
    assert routing.keep[:, 0].tolist() == [True, False, False, True]


def test_groups_queue_apart() -> None:
    logits = torch.zeros(6, 2)
    routing = route(MoEConfig(4, 4, 2, 1, router="topk", capacity_factor=1.0), logits, groups=2)
    assert routing.position[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert routing.keep[:, 0].tolist() == [True, False, False, True, False, False]  # int(3·1/2) = 1 a group


def test_underflow_does_not_choose_an_expert_twice_and_a_zero_weight_holds_its_slot() -> None:
    logits = torch.tensor([[0.0, -1e4, -1e4], [0.0, -1e4, -1e4], [-1e4, 0.0, -1e4]])
    routing = route(MoEConfig(4, 4, 3, capacity_factor=1.0), logits)
    assert routing.indices.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert routing.weights[0].tolist() == [1.0, 0.0]
    # Room 1: second choices with weight 0 queue, hold places and are dropped like others.
    assert routing.position.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert routing.keep.tolist() == [[True, False], [False, False], [True, False]]


def test_uniform_routing_has_balance_one_and_known_z_loss() -> None:
    for router in ("top1", "top2", "topk", "topk_bias"):
        for dropless in (False, True):
            # Every expert is chosen equally often, P is uniform.
            experts = 6
            config = MoEConfig(4, 4, experts, router=router, dropless=dropless)
            logits = torch.zeros(12, experts, dtype=torch.float64)
            base = torch.arange(12)[:, None]
            indices = (base + torch.arange(config.top_k)) % experts
            losses = aux_losses(config, logits, logits.softmax(-1), indices, groups=2, sequences=1)
            assert float(losses.load_balance) == pytest.approx(1, abs=1e-6)
            assert float(losses.z) == pytest.approx(math.log(experts) ** 2)


def test_collapse_has_balance_e() -> None:
    logits = torch.tensor([[50.0, 0, 0, 0]], dtype=torch.float64).expand(8, 4)
    assert float(route(MoEConfig(4, 4, 4, router="top1"), logits).lb_loss) == pytest.approx(4, abs=1e-6)


@given(st.integers(0, 10_000))
def test_balance_of_top1_is_at_least_one_where_shares_are_the_probabilities(seed: int) -> None:
    scores = torch.randn(20, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 60
    assert float(route(MoEConfig(4, 4, 5, router="top1"), scores).lb_loss) >= 1 - 1e-3


def test_balance_gradient_passes_through_the_probabilities_only() -> None:
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    routing = route(MoEConfig(4, 4, 4), logits)
    (grad,) = torch.autograd.grad(routing.lb_loss, logits)
    share = torch.bincount(routing.indices[:, 0], minlength=4) / 10
    (want,) = torch.autograd.grad(4 * (share * logits.softmax(-1).mean(0)).sum(), logits)
    assert torch.allclose(grad, want, atol=1e-12)
    assert grad.abs().max() > 0


def test_sigmoid_scores_balance_on_their_shares() -> None:
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    routing = route(MoEConfig(4, 4, 4, router="topk", score="sigmoid", dropless=True), logits)
    assert torch.allclose(routing.probs.sum(-1), torch.ones(10, dtype=torch.float64))
    assert torch.allclose(routing.weights.sum(-1), torch.ones(10, dtype=torch.float64))
    raw = route(MoEConfig(4, 4, 4, router="topk", score="sigmoid", normalize=False, route_scale=2.5), logits)
    assert torch.allclose(raw.weights, 2.5 * logits.sigmoid().gather(1, raw.indices))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_ties_go_to_the_lowest_index(k: int) -> None:
    assert top_choices(torch.zeros(3, 8), k).tolist() == [list(range(k))] * 3
    values = torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0, 0.0, 1.0, 2.0]])
    assert top_choices(values, k).tolist() == [[1, 2, 4, 7, 0, 3, 6, 5][:k]]


def test_logit_cap() -> None:
    x, w = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.randn(3, 4)
    assert torch.allclose(router_logits(x, w, 2.0), 2 * torch.tanh(x @ w / 2))
    assert torch.equal(router_logits(x, w), x @ w)
    assert router_logits(x.bfloat16(), w.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "tokens", "capacity"),
    [
        ({"capacity_factor": "auto"}, 64, 16),  # top2: 2.0
        ({"capacity_factor": "auto", "router": "topk", "top_k": 3}, 64, 24),
        ({"capacity_factor": 1.9}, 64, 15),  # int(15.2)
        ({"capacity_factor": 1.9, "capacity_rounding": "ceil"}, 64, 16),
        ({"capacity_factor": 1.1, "num_experts": 10}, 100, 11),  # 110.00000000000001 in floats
        ({"capacity_factor": 1.1, "num_experts": 10, "capacity_rounding": "ceil"}, 100, 11),
        ({"capacity_factor": 0.01}, 64, 1),
        ({"capacity_factor": 1.0, "expert_capacity": 20}, 64, 20),  # a floor
        ({"capacity_factor": 4.0, "expert_capacity": 20}, 64, 32),  # and no ceiling
        ({"capacity_factor": None, "expert_capacity": 5}, 64, 5),
        ({"capacity_factor": 1.25, "capacity_convention": "per_choice"}, 64, 20),  # ceil(2·64·1.25/8)
        ({"capacity_factor": 1.0, "capacity_convention": "per_choice"}, 66, 17),
        ({"capacity_factor": "auto", "capacity_convention": "per_choice"}, 64, 16),
        ({"capacity_factor": 2.0, "capacity_multiple": 4}, 36, 12),  # int(9) to a multiple of 4
        ({"capacity_factor": 2.0, "capacity_multiple": 4}, 2, 2),  # never more than there are tokens
        ({"capacity_factor": 0.5, "eval_capacity_factor": 2.0}, 64, 4),
        ({"router": "expert_choice", "capacity_factor": "auto"}, 60, 15),
    ],
)
def test_capacity_conventions(options: dict[str, Any], tokens: int, capacity: int) -> None:
    assert layer_capacity(MoEConfig(**{"dim": 4, "hidden": 4, **options}), tokens, training=True) == capacity


@given(
    st.integers(0, 300),
    st.integers(1, 20),
    st.integers(1, 400),
    st.sampled_from(["ceil", "floor"]),
    st.integers(1, 5),
)
def test_expert_capacity_is_exact(tokens: int, experts: int, hundredths: int, rounding: Any, multiple: int) -> None:
    factor = hundredths / 100
    got = expert_capacity(tokens, factor, experts, rounding=rounding, multiple=multiple)
    exact = Fraction(hundredths, 100) * tokens / experts
    room = max(1, math.ceil(exact) if rounding == "ceil" else math.floor(exact))
    assert got == min(tokens, math.ceil(Fraction(room, multiple)) * multiple)


def test_capacity_by_group() -> None:
    config = MoEConfig(4, 4, 3, capacity_factor=1.3)
    counts = torch.tensor([0, 1, 7, 10])
    expected = [layer_capacity(config, n, True) for n in counts.tolist()]
    assert group_capacities(config, counts, 10, True).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 1.0, 4), "tokens: got -1"),
        ((8, 0.0, 4), "capacity_factor: got 0.0"),
        ((8, 1.0, 0), "num_experts: got 0"),
    ],
)
def test_bad_capacity(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expert_capacity(*arguments)
    with pytest.raises(ValueError, match="rounding"):
        expert_capacity(8, 1.0, 4, rounding="nearest")
    with pytest.raises(ValueError, match="multiple"):
        expert_capacity(8, 1.0, 4, multiple=0)


@given(
    st.integers(0, 12),
    st.integers(1, 5),
    st.sampled_from([None, 1, 2, 5]),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.integers(0, 999),
)
def test_dispatch_plan_is_a_queue(
    tokens: int, experts: int, capacity: int | None, groups: int, masked: bool, seed: int
) -> None:
    tokens *= groups
    generator = torch.Generator().manual_seed(seed)
    k = min(2, experts)
    indices = torch.rand(tokens, experts, generator=generator).argsort(-1)[:, :k]
    queued = torch.rand(tokens, 1, generator=generator).expand(-1, k) < 0.7 if masked else None
    plan = dispatch_plan(indices, experts, capacity, groups=groups, queued=queued)
    rows: list[list[tuple[int, int]]] = [[] for _ in range(experts)]
    for group in range(groups):
        span = range(group * tokens // groups, (group + 1) * tokens // groups)
        for e in range(experts):
            line = [
                (t, j)
                for j in range(k)
                for t in span
                if int(indices[t, j]) == e and (queued is None or bool(queued[t, j]))
            ]
            for place, (t, j) in enumerate(line):
                assert int(plan.position[t, j]) == place
                assert bool(plan.keep[t, j]) == (capacity is None or place < capacity)
            rows[e] += line[:capacity]
    if queued is not None:
        assert not plan.keep[~queued].any()
        assert (plan.position[~queued] == -1).all()
    kept = [t * k + j for line in rows for t, j in line]
    assert plan.offsets.tolist() == [sum(map(len, rows[:e])) for e in range(experts + 1)]
    assert plan.order[: len(kept)].tolist() == kept
    assert sorted(plan.order.tolist()) == list(range(tokens * k))
    assert torch.equal(plan.tokens, plan.order // k)
    for row, choice in enumerate(kept):
        assert int(plan.inverse[choice // k, choice % k]) == row
    assert (plan.inverse[~plan.keep] == -1).all()


def test_long_queues_count_in_integers() -> None:
    # Cumulative positions in half precision stop counting at 256.
    layer = MoE(MoEConfig(8, 8, 2, 1, router="topk", dropless=True)).bfloat16()
    with torch.no_grad():
        layer.gate_weight.zero_()
    routing = layer.route(torch.ones(1, 1000, 8, dtype=torch.bfloat16))
    assert isinstance(routing, TokenRouting)
    assert routing.position[:, 0].tolist() == list(range(1000))


@pytest.mark.parametrize(
    ("indices", "options", "message"),
    [
        ([[-1, 0]], {}, "indices: got -1..0, need 0..3"),
        ([[0, 4]], {}, "indices: got 0..4, need 0..3"),
        ([0, 1], {}, "indices: got shape (2,)"),
        ([[0], [1], [2]], {"groups": 2}, "groups: got 2, need a divisor of the 3 tokens"),
        ([[0], [1]], {"groups": 0}, "groups: got 0"),
        ([[0], [1]], {"capacity": -2}, "capacity: got -2"),
    ],
)
def test_dispatch_plan_refuses(indices: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        dispatch_plan(torch.tensor(indices), 4, **options)
    assert message in str(error.value)


def test_total_capacity_is_the_truncated_float() -> None:
    config = MoEConfig(8, 8, 3, capacity_factor=0.7)
    assert layer_capacity(config, 90, True) == int(90 * 0.7 / 3) == 20  # exact decimals would give 21
