"""Laws of expert choice and of the race. Shapes: B sequences, S tokens, E experts, C capacity, M width."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import ExpertChoiceMoE, ExpertRouting, MoE, MoEConfig, expert_capacity, expert_choice, upcycle

DOUBLE = torch.float64


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def make(experts: int = 4, factor: float = 2.0, seed: int = 0, **options: object) -> MoE:
    layer = ExpertChoiceMoE(6, 10, experts, factor, generator=torch.Generator().manual_seed(seed), **options).double()
    with torch.no_grad():
        layer.gate_weight.copy_(draw(6, experts, seed=seed))
        for bias in (layer.b0, layer.b1, layer.b2):
            if bias is not None:
                bias.copy_(draw(*bias.shape, seed=seed + 1))
    return layer


def routed(layer: MoE, x: Tensor, **options: Tensor) -> tuple[Tensor, ExpertRouting]:
    y, routing = layer(x, return_routing=True, **options)
    assert isinstance(routing, ExpertRouting)
    return y, routing


def algorithm_1(layer: MoE, x: Tensor, capacity: int) -> Tensor:
    """One-hot einsums: affinity over experts, best tokens of each, weighted sum."""
    affinity = (x @ layer.gate_weight).softmax(-1)
    ranked = torch.sort(affinity.transpose(1, 2), dim=-1, descending=True, stable=True)
    gate, index = ranked.values[..., :capacity], ranked.indices[..., :capacity]
    permutation = torch.nn.functional.one_hot(index, x.shape[1]).double()
    inputs = torch.einsum("becs,bsm->becm", permutation, x)
    assert layer.b0 is not None
    assert layer.b2 is not None
    hidden = torch.einsum("becm,emh->bech", inputs, layer.w0) + layer.b0[None, :, None]
    hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
    outputs = torch.einsum("bech,ehm->becm", hidden, layer.w2) + layer.b2[None, :, None]
    return torch.einsum("becs,bec,becm->bsm", permutation, gate, outputs)


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 100), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_expert_takes_its_capacity_of_distinct_tokens(
    batch: int, tokens: int, experts: int, percent: int, seed: int
) -> None:
    factor = max(experts * percent / 100, 0.01)
    layer = make(experts, factor, seed)
    y, routing = routed(layer, draw(batch, tokens, 6, seed=seed))
    capacity = expert_capacity(tokens, factor, experts)
    assert routing.index.shape == routing.gate.shape == (batch, experts, capacity)
    assert all(len(set(row)) == capacity for row in routing.index.flatten(0, 1).tolist())
    assert int(routing.load.sum()) == batch * experts * capacity
    assert routing.load.tolist() == [batch * capacity] * experts
    assert routing.experts_per_token.shape == (batch, tokens)
    assert torch.equal(routing.experts_per_token.sum(-1), torch.full((batch,), experts * capacity))
    assert not y[routing.experts_per_token == 0].any()  # exactly 0
    assert torch.allclose(routing.affinity.sum(-1), torch.ones(batch, tokens, dtype=DOUBLE))
    assert torch.allclose(y, algorithm_1(layer, draw(batch, tokens, 6, seed=seed), capacity), atol=1e-12)


def test_permuting_tokens_permutes_the_output() -> None:
    layer, x = make(), draw(2, 11, 6)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-12)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    layer, x = make(), draw(3, 8, 6)
    assert torch.allclose(layer(x)[1], layer(x[1:2])[0], atol=1e-12)
    # Unless a group spans sequences: then they compete.
    shared = make(group_size=24)
    assert not torch.allclose(shared(x), layer(x), atol=1e-3)
    routing = routed(shared, x)[1]
    assert routing.index.shape == (1, 4, 12)
    assert routing.affinity.shape == (3, 8, 4)
    assert routing.experts_per_token.shape == (3, 8)


def test_groups_shorter_than_a_sequence() -> None:
    x = draw(2, 8, 6)
    assert torch.allclose(make(group_size=4)(x), make()(x.reshape(4, 4, 6)).view(2, 8, 6), atol=1e-12)
    outer = MoE(
        MoEConfig(6, 10, 4, router="expert_choice", outer=2, groups=2), generator=torch.Generator().manual_seed(0)
    )
    single = MoE(MoEConfig(6, 10, 4, router="expert_choice", group_size=4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(outer(x.float()), single(x.float()))


def test_full_capacity_is_the_dense_mixture() -> None:
    layer, x = make(4, 4.0), draw(2, 7, 6)
    y, routing = routed(layer, x)
    assert (routing.experts_per_token == 4).all()
    affinity = (x @ layer.gate_weight).softmax(-1)
    assert layer.b0 is not None
    assert layer.b2 is not None
    hidden = torch.nn.functional.gelu(torch.einsum("bsm,emh->bseh", x, layer.w0) + layer.b0, approximate="tanh")
    every = torch.einsum("bseh,ehm->bsem", hidden, layer.w2) + layer.b2
    assert torch.allclose(y, (affinity[..., None] * every).sum(2), atol=1e-12)


def test_equal_experts() -> None:
    dense = FeedForward(6, 10, activation="gelu_tanh", bias=True).double()
    config = {"activation": "gelu_tanh", "bias": True, "router": "expert_choice"}
    x = draw(2, 7, 6)
    full = upcycle(dense, MoEConfig(6, 10, 4, capacity_factor=4.0, **config))  # type: ignore[arg-type]
    assert torch.allclose(full(x), dense(x), atol=1e-12)
    one = upcycle(dense, MoEConfig(6, 10, 1, capacity_factor=1.0, **config))  # type: ignore[arg-type]
    assert torch.allclose(one(x), dense(x), atol=1e-12)
    scaled = upcycle(
        dense,
        MoEConfig(6, 10, 4, capacity_factor=4.0, renormalize=True, route_scale=1.7, **config),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        scaled.gate_weight.normal_(generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scaled(x), 1.7 * dense(x), atol=1e-12)


def test_renormalized_gates_sum_to_the_scale_over_the_experts_that_took_a_token() -> None:
    routing = routed(make(renormalize=True, route_scale=2.0), draw(2, 9, 6))[1]
    total = torch.zeros(2, 9, dtype=DOUBLE).scatter_add(1, routing.index.flatten(1), routing.gate.detach().flatten(1))
    assert torch.allclose(total[routing.experts_per_token > 0], torch.tensor(2.0, dtype=DOUBLE))


@pytest.mark.parametrize("backend", ["auto", "grouped", "padded", "loop", "einsum"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_gradients(backend: str, renormalize: bool) -> None:
    layer = make(3, 1.5, activation="swiglu", backend=backend, renormalize=renormalize, score="sigmoid")
    parameters = list(layer.parameters())
    x = draw(2, 3, 6).requires_grad_()

    def call(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip([n for n, _ in layer.named_parameters()], values, strict=True))
        out: Tensor = torch.func.functional_call(layer, named, (x,))
        return out

    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)
    layer(x).sum().backward()
    assert layer.gate_weight.grad is not None
    assert layer.gate_weight.grad.abs().max() > 0


def test_ties_go_to_the_earlier_token() -> None:
    index, gate = expert_choice(torch.full((2, 9, 3), 0.25), 4)
    assert index.tolist() == [[[0, 1, 2, 3]] * 3] * 2
    assert (gate == 0.25).all()
    scores = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.1, 0.5])[None, :, None]
    assert expert_choice(scores, 5)[0].tolist() == [[[3, 1, 2, 5, 0]]]


def test_half_precision_input_is_ranked_in_single() -> None:
    layer = make().bfloat16()
    x = draw(2, 40, 6).bfloat16()
    routing = routed(layer, x)[1]
    logits = x.float() @ layer.gate_weight.float()
    want, _ = expert_choice(logits.softmax(-1), 20)
    assert torch.equal(routing.index, want)
    assert routing.affinity.dtype == torch.float32


def test_padding_is_never_taken() -> None:
    layer, x = make(4, 2.0), draw(3, 10, 6)
    mask = torch.arange(10) < torch.tensor([[10], [3], [0]])
    y, routing = routed(layer, x, mask=mask)
    assert not routing.experts_per_token[~mask].any()
    assert routing.keep.sum((1, 2)).tolist() == [4 * 5, 4 * 2, 0]  # ceil(10·2/4), ceil(3·2/4), nothing
    assert not routing.gate[~routing.keep].any()
    assert torch.allclose(y[1, :3], layer(x[1:2, :3])[0], atol=1e-12)
    assert not y[2].any()


def test_race_takes_the_best_pairs() -> None:
    layer = MoE(MoEConfig(6, 10, 4, 2, router="race"), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        layer.gate_weight.copy_(draw(6, 4))
    x = draw(2, 9, 6)
    y, routing = routed(layer, x)
    logits = (x @ layer.gate_weight).detach()
    for b in range(2):
        best = sorted(itertools.product(range(9), range(4)), key=lambda pair: -float(logits[b][pair]))[:18]
        got = [
            (int(routing.index[b, e, c]), e)
            for e in range(4)
            for c in range(routing.index.shape[2])
            if routing.keep[b, e, c]
        ]
        assert sorted(got) == sorted(best)
        taken = torch.zeros(9, dtype=torch.long)
        for token, _ in best:
            taken[token] += 1
        assert torch.equal(routing.experts_per_token[b], taken)
    assert int(routing.load.sum()) == 36
    assert not y[routing.experts_per_token == 0].any()
    assert layer.aux_loss == 0


def test_random_router_is_frozen_expert_choice() -> None:
    frozen = MoE(MoEConfig(6, 10, 4, router="random"), generator=torch.Generator().manual_seed(0)).double()
    learnt = MoE(MoEConfig(6, 10, 4, router="expert_choice"), generator=torch.Generator().manual_seed(0)).double()
    x = draw(2, 8, 6)
    assert torch.equal(frozen(x), learnt(x))
    frozen(x).sum().backward()
    assert not frozen.gate_weight.requires_grad
    assert frozen.gate_weight.grad is None
    assert frozen.w0.grad is not None


def test_no_table_of_experts_by_capacity_by_tokens() -> None:
    layer, sizes = make(4, 2.0), []
    x = draw(2, 64, 6)

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    # Rows of the experts' hidden layer are the largest thing; B·E·C·S would be 16384.
    assert max(sizes) <= 2 * 4 * 32 * 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 4, "capacity_factor": 0.0}, "capacity_factor: got 0.0"),
        ({"num_experts": 4, "capacity_factor": 5.0}, "capacity_factor: got 5.0, need at most 4"),
        ({"num_experts": 0}, "num_experts: got 0"),
    ],
)
def test_bad_settings(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertChoiceMoE(6, 10, **arguments)  # type: ignore[arg-type]


def test_bad_capacity_and_group() -> None:
    with pytest.raises(ValueError, match=r"capacity: got 6, need 1..5"):
        expert_choice(torch.zeros(1, 5, 2), 6)
    with pytest.raises(ValueError, match="group_size: got 5, need a divisor of the 16 tokens"):
        make(group_size=5)(draw(2, 8, 6))


def test_gumbel_noise_is_for_training() -> None:
    layer = MoE(MoEConfig(8, 12, 4, router="expert_choice", gumbel=True))
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    one, two = layer.route(x), layer.route(x)
    assert isinstance(one, ExpertRouting) and isinstance(two, ExpertRouting)
    assert not torch.equal(one.affinity, two.affinity)
    layer.eval()
    one, two = layer.route(x), layer.route(x)
    assert isinstance(one, ExpertRouting) and isinstance(two, ExpertRouting)
    assert torch.equal(one.affinity, two.affinity)
    with pytest.raises(ValueError, match=r"scores: got shape \(6, 4\)"):
        expert_choice(torch.rand(6, 4), 2)
