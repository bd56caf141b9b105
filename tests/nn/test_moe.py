"""Laws of the mixture-of-experts layer, and its mistakes' messages. Shapes: B, S, M, E, k as in the source."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import (
    MoE,
    MoEConfig,
    TokenChoiceMoE,
    TokenRouting,
    collect_aux,
    debug_routing,
    dropless,
    moe_reference,
    upcycle,
    update_biases,
)
from tenfold.nn.moe_config import EXPERT_ROUTERS, ROUTERS, TOKEN_ROUTERS

BACKENDS = ("grouped", "padded", "loop", "einsum", "auto")


def make(config: MoEConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> MoE:
    """A layer whose router has opinions and whose biases are not 0."""
    generator = torch.Generator().manual_seed(seed)
    layer = MoE(config, generator=generator)
    with torch.no_grad():
        layer.gate_weight.normal_(0, 1, generator=generator)
        for bias in (layer.b0, layer.b1, layer.b2):
            if bias is not None:
                bias.normal_(0, 0.5, generator=generator)
        if config.router == "topk_bias":
            layer.bias.normal_(0, 0.3, generator=generator)
    return layer.to(dtype)


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(layer: MoE, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and gradients of a loss that weighs every output element differently plus the auxiliary loss."""
    layer.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = layer(x, mask=mask)
    (weigh(y) + layer.aux_loss).backward()
    return y.detach(), {"x": x.grad, **{n: p.grad for n, p in layer.named_parameters() if p.grad is not None}}


def run_reference(layer: MoE, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Any, Any]:
    params = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in layer.named_parameters()}
    x = x.detach().clone().requires_grad_()
    y, losses, stats = moe_reference(x, {**params, **dict(layer.named_buffers())}, layer.config, mask=mask)
    (weigh(y) + losses["aux_loss"]).backward()
    grads = {"x": x.grad, **{n: p.grad for n, p in params.items() if p.grad is not None}}
    return y.detach(), grads, losses, stats


def weigh(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel()).cos().view(y.shape).to(y.dtype)).sum()


def assert_close(got: Tensor, want: Tensor, tolerance: float, what: str = "") -> None:
    """Largest error relative to the largest entry."""
    assert got.shape == want.shape, what
    if got.numel():
        error = (got.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-3)
        assert error <= tolerance, f"{what}: {error}"


def assert_same_stats(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    for name in want:
        mine, theirs = (torch.as_tensor(stats[name], dtype=torch.float64) for stats in (got, want))
        assert mine.shape == theirs.shape, name
        assert torch.allclose(mine, theirs, atol=1e-12, rtol=1e-6), name


@st.composite
def cases(draw_: Any) -> tuple[MoEConfig, int, int, bool, int]:
    """Settings with a batch of sequences: (config, B, S, masked, seed)."""
    experts = draw_(st.integers(1, 6))
    router = draw_(st.sampled_from([r for r in ROUTERS if r != "top2" or experts > 1]))
    picks = router in EXPERT_ROUTERS
    k = draw_(st.integers(1, experts)) if router not in ("top1", "top2") else 2
    outer, groups = draw_(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]))
    convention = draw_(st.sampled_from(["total", "per_choice"]))
    factor = draw_(st.sampled_from(["auto", 0.3, 1.0, 1.25, 2.0, 5.0]))
    config = MoEConfig(
        dim=4,
        hidden=8,
        num_experts=experts,
        top_k=k,
        router=router,
        capacity_factor=factor if factor == "auto" or not picks else min(float(factor), float(experts)),
        capacity_convention=convention,
        capacity_rounding=draw_(st.sampled_from(["floor", "ceil"])),
        capacity_multiple=draw_(st.sampled_from([1, 3])),
        expert_capacity=draw_(st.sampled_from([None, 2])),
        dropless=False if picks else draw_(st.booleans()),
        outer=outer,
        groups=groups,
        activation=draw_(st.sampled_from(["swiglu", "gelu_tanh", "relu"])),
        bias=draw_(st.booleans()),
        score=draw_(st.sampled_from(["softmax", "sigmoid"])),
        normalize=draw_(st.booleans()),
        renormalize=picks and draw_(st.booleans()),
        route_scale=draw_(st.sampled_from([1.0, 2.5])),
        logit_cap=draw_(st.sampled_from([0.0, 1.5])),
        z_weight=0.1,
        sequence_weight=0.0 if picks else draw_(st.sampled_from([0.0, 0.1])),
        shared_hidden=draw_(st.sampled_from([0, 4])),
    )
    return (
        config,
        2 * draw_(st.integers(1, 2)),
        2 * draw_(st.integers(1, 4)),
        draw_(st.booleans()),
        draw_(st.integers(0, 99)),
    )


def padding(batch: int, length: int, seed: int) -> Tensor:
    lengths = torch.randint(0, length + 1, (batch, 1), generator=torch.Generator().manual_seed(seed))
    return torch.arange(length) < lengths


@given(cases(), st.sampled_from(BACKENDS))
@settings(max_examples=150, deadline=None)
def test_every_backend_equals_the_reference(case: tuple[MoEConfig, int, int, bool, int], backend: str) -> None:
    config, batch, length, masked, seed = case
    layer = make(replace(config, backend=backend), seed)
    x = draw(batch, length, 4, seed=seed)
    mask = padding(batch, length, seed) if masked else None
    y, grads = run(layer, x, mask)
    want, want_grads, losses, stats = run_reference(layer, x, mask)
    assert_close(y, want, 1e-10, "y")
    assert layer.last is not None
    for name in ("lb_loss", "z_loss", "aux_loss"):
        assert_close(getattr(layer.last, name).detach(), losses[name].detach(), 1e-10, name)
    assert_same_stats(layer.last.stats, stats)
    for name, want_grad in want_grads.items():
        assert_close(grads[name], want_grad, 1e-10, name)
    assert grads.keys() == want_grads.keys()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("router", ["top2", "topk", "expert_choice"])
def test_single_and_half_precision(router: str, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    config = MoEConfig(8, 16, 4, router=router, capacity_factor=1.5, backend=backend)
    layer, x = make(config, dtype=dtype), draw(2, 12, 8, dtype=dtype)
    y, grads = run(layer, x)
    want, want_grads, _, stats = run_reference(layer, x)
    assert_close(y, want, tolerance, "y")
    assert layer.last is not None
    assert_same_stats(layer.last.stats, stats)
    for name in want_grads:
        assert_close(grads[name], want_grads[name], tolerance, name)


@pytest.mark.parametrize("backend", ["grouped", "padded"])
def test_odd_widths_and_empty_experts(backend: str) -> None:
    # Rows of 5 and 7 floats are no multiples of 16 bytes; 9 experts for 3 tokens leave some without work.
    layer = make(MoEConfig(5, 7, 9, router="topk", dropless=True, backend=backend), dtype=torch.float32)
    x = draw(1, 3, 5, dtype=torch.float32)
    y, grads = run(layer, x)
    want, want_grads, _, _ = run_reference(layer, x)
    assert_close(y, want, 1e-5)
    for name in want_grads:
        assert_close(grads[name], want_grads[name], 1e-5, name)


@pytest.mark.parametrize("router", TOKEN_ROUTERS)
def test_kept_masks_do_not_depend_on_the_backend(router: str) -> None:
    x = draw(2, 16, 8, dtype=torch.float32)
    masks = []
    for backend in BACKENDS:
        routing = make(
            MoEConfig(8, 4, 5, router=router, capacity_factor=1.0, backend=backend), dtype=torch.float32
        ).route(x)
        assert isinstance(routing, TokenRouting)
        masks.append(routing.keep)
    assert all(torch.equal(masks[0], mask) for mask in masks)
    assert not masks[0].all()


def test_one_expert_is_the_dense_layer() -> None:
    dense = FeedForward(6, 10)
    for router in ("top1", "topk"):
        layer = upcycle(dense, MoEConfig(6, 10, 1, 1, router=router))
        x = draw(2, 5, 6, dtype=torch.float32)
        assert_close(layer(x), dense(x), 1e-6)


@pytest.mark.parametrize("activation", ["swiglu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("bias", [False, True])
def test_equal_experts_without_drops_are_the_dense_layer(activation: Any, bias: bool) -> None:
    dense = FeedForward(6, 10, activation=activation, bias=bias)
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(3))
    layer = upcycle(dense, MoEConfig(6, 10, 4, router="topk", dropless=True, activation=activation, bias=bias))
    x = draw(2, 5, 6, dtype=torch.float32)
    assert_close(layer(x), dense(x), 1e-5)


def test_weights_sum_to_one_and_choices_add_up() -> None:
    for router in ("top2", "topk", "topk_bias"):
        layer = make(MoEConfig(8, 4, 5, router=router, capacity_factor=0.7))
        x = draw(3, 20, 8)
        layer(x)
        assert layer.last is not None
        routing, stats = layer.last.routing, layer.last.stats
        assert isinstance(routing, TokenRouting)
        assert_close(routing.weights.sum(-1), torch.ones(60, dtype=torch.float64), 1e-6)
        assert stats["kept_per_expert"].max() <= int(60 * 0.7 / 5)
        assert sum(stats["dispatch"]) == 60
        dropped = float(stats["dropped_fraction"]) * 120
        assert int(stats["kept_per_expert"].sum()) + round(dropped) == 120
        with dropless(layer):
            layer(x)
            assert layer.last.stats["dropped_fraction"] == 0
        assert not layer.config.dropless


def test_permuting_experts_changes_nothing() -> None:
    layer = make(MoEConfig(8, 12, 5, router="topk", capacity_factor=1.0, bias=True))
    other = copy.deepcopy(layer)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        other.gate_weight.copy_(layer.gate_weight[:, order])
        for name in ("w0", "w1", "w2", "b0", "b1", "b2"):
            getattr(other, name).copy_(getattr(layer, name)[order])
    x = draw(2, 9, 8)
    assert_close(other(x), layer(x), 1e-6)
    assert other.last is not None
    assert layer.last is not None
    assert_close(other.last.aux_loss, layer.last.aux_loss, 1e-6)


def test_permuting_tokens_commutes_without_drops() -> None:
    layer, x = make(MoEConfig(8, 12, 5, router="topk", dropless=True)), draw(1, 15, 8)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(5))
    assert_close(layer(x[:, order]), layer(x)[:, order], 1e-6)


def test_top2_is_topk_with_two_choices_but_for_its_balance_loss() -> None:
    x = draw(2, 30, 8)
    first, second = (make(MoEConfig(8, 4, 6, 2, router=r, capacity_factor=1.2)) for r in ("top2", "topk"))
    a, b = first.route(x), second.route(x)
    assert isinstance(a, TokenRouting)
    assert isinstance(b, TokenRouting)
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.keep, b.keep)
    assert_close(a.weights, b.weights, 1e-6)
    assert abs(float((a.lb_loss - b.lb_loss).detach())) > 1e-3


def test_mask_equals_absence() -> None:
    # NaN in padding, to see that it cannot leak.
    for router, options in (
        ("top2", {"capacity_factor": 0.8}),
        ("topk", {"dropless": True}),
        ("expert_choice", {}),
        ("race", {}),
    ):
        sequence = 0.0 if router in EXPERT_ROUTERS else 0.1
        layer = make(MoEConfig(8, 12, 4, router=router, z_weight=0.1, sequence_weight=sequence, **options))  # type: ignore[arg-type]
        x = draw(1, 10, 8)
        mask = (torch.arange(10) < 7)[None]
        y, grads = run(layer, x.masked_fill(~mask[..., None], float("nan")), mask)
        assert layer.last is not None
        aux, stats = layer.last.aux_loss.detach(), layer.last.stats
        want, want_grads = run(layer, x[:, :7])
        assert_close(y[:, :7], want, 1e-10, router)
        assert not y[:, 7:].any()
        assert_close(aux, layer.last.aux_loss.detach(), 1e-10)
        assert_same_stats(stats, layer.last.stats)
        for name in want_grads:
            if name != "x":
                assert_close(grads[name], want_grads[name], 1e-10, f"{router} {name}")
        assert not grads["x"][:, 7:].any()


@pytest.mark.parametrize("router", ROUTERS)
def test_no_tokens(router: str) -> None:
    layer = make(MoEConfig(8, 12, 4, router=router, z_weight=1.0))
    y, grads = run(layer, torch.zeros(2, 0, 8, dtype=torch.float64))
    assert y.shape == (2, 0, 8)
    assert layer.aux_loss == 0
    assert layer.last is not None
    assert_same_stats(
        {n: v for n, v in layer.last.stats.items() if n not in ("dispatch", "over_capacity")},
        {
            "tokens_per_expert": torch.zeros(4),
            "kept_per_expert": torch.zeros(4),
            "dropped_fraction": 0,
            "load_entropy": 1,
            "max_load": 1,
            "router_logit_rms": 0,
            "dead_experts": 4,
        },
    )
    assert all(torch.isfinite(g).all() for g in grads.values())
    assert {"w0", "w2"} <= grads.keys()
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    y, grads = run(layer, draw(2, 6, 8), nothing)
    assert not y.any()
    assert layer.aux_loss == 0
    assert all(torch.isfinite(g).all() for g in grads.values())


def test_noise_is_for_training_and_for_the_router_only() -> None:
    options: list[dict[str, Any]] = [{"jitter": 0.3}, {"gumbel": True}, {"second_policy": "random"}]
    for option in options:
        layer, x = make(MoEConfig(8, 12, 6, capacity_factor=6.0, **option)), draw(1, 40, 8)
        quiet = make(MoEConfig(8, 12, 6, capacity_factor=6.0))(x)
        before = x.clone()
        torch.manual_seed(0)
        first, routing = layer(x, return_routing=True)
        assert torch.equal(x, before)
        torch.manual_seed(0)
        assert torch.equal(layer(x), first)
        assert not torch.equal(layer(x), first)
        assert not torch.allclose(first, quiet)
        assert torch.equal(layer.eval()(x), quiet)
        if "jitter" in option:
            # The same experts with the same weights, fed the tokens as they are.
            experts = moe_reference(x, dict(layer.named_parameters()), quiet_router(layer.config))[0]
            assert experts.shape == first.shape
            same = (routing.indices == layer.route(x).indices).all(-1)
            assert same.any()


def quiet_router(config: MoEConfig) -> MoEConfig:
    return replace(config, jitter=0.0, gumbel=False, second_policy="all")


def test_random_second_choice_follows_its_weight() -> None:
    layer = make(MoEConfig(8, 4, 6, capacity_factor=6.0, second_policy="random"))
    torch.manual_seed(0)
    routing = layer.route(draw(1, 4000, 8))
    assert isinstance(routing, TokenRouting)
    assert routing.keep[:, 0].all()
    expected = (2 * routing.weights[:, 1]).clamp_max(1)
    assert abs(float((routing.keep[:, 1].double().mean() - expected.mean()).detach())) < 0.03
    assert not routing.keep[:, 1][routing.weights[:, 1] < 1e-4].any()


def test_router_stays_single_precision_under_autocast() -> None:
    layer, x = make(MoEConfig(8, 16, 4, capacity_factor=4.0), dtype=torch.float32), draw(1, 20, 8, dtype=torch.float32)
    quiet = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x, return_routing=True)
    assert routing.logits.dtype == routing.probs.dtype == torch.float32
    assert torch.equal(routing.logits, layer.route(x).logits)
    assert y.dtype == torch.bfloat16
    assert_close(y, quiet, 2e-2)
    assert make(layer.config).route(x.double()).logits.dtype == torch.float64


def test_shared_expert_with_gate() -> None:
    layer = make(MoEConfig(6, 8, 3, router="topk", dropless=True, shared_hidden=5, shared_gate=True))
    x = draw(2, 4, 6)
    want, want_grads, _, _ = run_reference(layer, x)
    y, grads = run(layer, x)
    assert_close(y, want, 1e-10)
    assert {"shared_gate", "shared.up_proj.weight"} <= grads.keys()
    for name in want_grads:
        assert_close(grads[name], want_grads[name], 1e-10, name)


def test_router_input_routes_and_experts_read_x() -> None:
    layer, x, other = make(MoEConfig(8, 12, 4, router="topk", dropless=True)), draw(1, 9, 8), draw(1, 9, 8, seed=9)
    routing = layer(x, router_input=other, return_routing=True)[1]
    assert torch.equal(routing.indices, layer.route(other).indices)
    with torch.no_grad():
        layer.gate_weight.zero_()  # now the choice is the same for every input
    assert_close(layer(x, router_input=other), layer(x), 1e-12)


class Model(nn.Module):
    def __init__(self, config: MoEConfig, again: bool) -> None:
        super().__init__()
        self.first, self.second, self.again = make(config, 1), make(config, 2), again

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = x + (checkpoint(layer, x, use_reentrant=False) if self.again else layer(x))
        return x


def test_collect_aux_under_checkpointing_counts_once() -> None:
    grads, losses = [], []
    for again in (False, True):
        model = Model(MoEConfig(8, 12, 4, router="topk_bias", z_weight=0.1, lb_weight=0.5), again)
        y = model(draw(1, 12, 8))
        loss, stats = collect_aux(model)
        assert set(stats) == {"first", "second"}
        (weigh(y) + loss).backward()
        assert model.first.last is None  # the recomputation leaves nothing behind
        assert int(model.first.choice_counts.sum()) == 24
        assert collect_aux(model)[0] == 0
        grads.append([p.grad for p in model.parameters()])
        losses.append(loss.detach())
        assert losses[0] > 0
    assert_close(losses[0], losses[1], 1e-12)
    for a, b in zip(*grads, strict=True):
        assert_close(b, a, 1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"router": "topk", "dropless": True}, {"router": "expert_choice", "activation": "gelu", "bias": True}],
)
def test_compile_without_graph_breaks(options: dict[str, Any]) -> None:
    layer, x = make(MoEConfig(8, 12, 4, **options), dtype=torch.float32), draw(2, 9, 8, dtype=torch.float32)
    want, want_grads = run(layer, x)
    assert layer.last is not None
    stats = layer.last.stats
    torch._dynamo.reset()
    # aot_eager traces forward and backward through the fake kernels, and needs no compiler on the machine.
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = compiled(x)
    (weigh(y) + layer.aux_loss).backward()
    assert_close(y.detach(), want, 1e-6)
    assert_same_stats(layer.last.stats, stats)
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, want_grads[name], 1e-5, name)


def test_copies_leave_the_graph_behind() -> None:
    layer = make(MoEConfig(8, 12, 4))
    layer(draw(1, 5, 8))
    other = copy.deepcopy(layer)
    assert other.last is None
    assert layer.last is not None
    assert torch.equal(other.w0, layer.w0)


def test_bias_router_balances_a_skewed_batch_and_weights_ignore_the_bias() -> None:
    layer = make(MoEConfig(8, 4, 8, 2, router="topk_bias", score="sigmoid", dropless=True))
    x = draw(1, 256, 8) + 1.0
    with torch.no_grad():
        layer.bias.zero_()
        layer.gate_weight.mul_(0.3).add_(0.03 * torch.arange(8))
    layer(x)
    assert layer.last is not None
    assert layer.last.stats["max_load"] > 2
    layer.update_bias()
    for _ in range(3000):
        with torch.no_grad():
            layer.choice_counts += layer.route(x).stats["tokens_per_expert"]  # type: ignore[union-attr]
        layer.update_bias()
        if layer.route(x).stats["max_load"] < 1.5:
            break
    assert layer.route(x).stats["max_load"] < 1.5
    assert layer.bias.abs().max() > 0.01
    routing = layer.route(x)
    assert isinstance(routing, TokenRouting)
    picked = routing.logits.sigmoid().gather(1, routing.indices)
    assert_close(routing.weights, picked / picked.sum(-1, keepdim=True), 1e-12)


def test_bias_moves_by_the_sign_of_the_gap() -> None:
    layer = make(MoEConfig(8, 4, 4, 1, router="topk_bias"))
    with torch.no_grad():
        layer.bias.zero_()
        layer.choice_counts.copy_(torch.tensor([9, 1, 5, 5]))
    layer.update_bias(rate=0.5)
    assert layer.bias.tolist() == [-0.5, 0.5, 0.0, 0.0]
    assert not layer.choice_counts.any()
    layer.eval()(draw(1, 5, 8))
    assert not layer.choice_counts.any()
    with pytest.raises(ValueError, match="update_bias"):
        make(MoEConfig(8, 4)).update_bias()


def test_evaluation_has_its_own_capacity() -> None:
    layer, x = make(MoEConfig(8, 4, 4, capacity_factor=0.5, eval_capacity_factor=4.0)), draw(1, 40, 8)
    layer(x)
    assert layer.last is not None
    assert layer.last.stats["dropped_fraction"] > 0
    layer.eval()(x)
    assert layer.last.stats["dropped_fraction"] == 0


def test_flat_tokens_are_one_sequence() -> None:
    for router in ROUTERS:
        layer, x = make(MoEConfig(8, 12, 4, router=router)), draw(1, 9, 8)
        assert_close(layer(x[0]), layer(x)[0], 1e-12)


def test_token_choice_of_the_diffusion_baseline() -> None:
    layer = TokenChoiceMoE(8, 16, 4, top_k=2, aux_coef=0.3).double()
    assert (layer.config.router, layer.config.activation, layer.config.bias, layer.config.dropless) == (
        "topk",
        "gelu_tanh",
        True,
        True,
    )
    layer(draw(2, 6, 8))
    assert layer.last is not None
    assert_close(layer.aux_loss, 0.3 * layer.last.lb_loss, 1e-12)
    assert not TokenChoiceMoE(8, 16, 4, capacity_factor=1.0).config.dropless


def test_double_backward_of_the_loop() -> None:
    layer = make(MoEConfig(3, 4, 3, router="topk", dropless=True, backend="loop"))
    x = draw(1, 4, 3).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: layer(v), (x,))


BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"num_experts": 4, "top_k": 5, "router": "topk"}, "top_k: got 5, need 1..4"),
    ({"num_experts": 1}, "top_k: got 2, need 1..1"),
    ({"top_k": 0, "router": "topk"}, "top_k: got 0"),
    ({"top_k": 3}, "top_k: got 3 with router 'top2'"),
    ({"num_experts": 0}, "num_experts: got 0"),
    ({"dim": 0}, "dim: got 0"),
    ({"router": "topp"}, "router: got 'topp', need one of top1"),
    ({"backend": "cuda"}, "backend: got 'cuda'"),
    ({"activation": "tanh"}, "activation: got 'tanh'"),
    ({"score": "exp"}, "score: got 'exp'"),
    ({"capacity_factor": None}, "capacity_factor: got None without expert_capacity"),
    ({"capacity_factor": 0.0}, "capacity_factor: got 0.0"),
    ({"eval_capacity_factor": -1.0}, "eval_capacity_factor: got -1.0"),
    ({"capacity_factor": "all"}, "capacity_factor: got 'all'"),
    ({"router": "expert_choice", "capacity_factor": 9.0}, "capacity_factor: got 9.0, need at most 8"),
    ({"router": "expert_choice", "causal": True}, "router: got 'expert_choice' with causal=True"),
    ({"router": "race", "causal": True}, "router: got 'race' with causal=True"),
    ({"router": "expert_choice", "dropless": True}, "dropless: got True"),
    ({"group_size": 4, "groups": 2}, "group_size: got 4"),
    ({"group_size": 0}, "group_size: got 0"),
    ({"jitter": 1.0}, "jitter: got 1.0"),
    ({"second_policy": "random", "router": "topk"}, "second_policy"),
    ({"shared_gate": True}, "shared_gate"),
    ({"deterministic": True, "backend": "loop"}, "deterministic"),
    ({"z_weight": -1.0}, "z_weight: got -1.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SETTINGS)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        MoEConfig(**{"dim": 8, "hidden": 16, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (2, 3, 7), "last dimension 7, need 8"),
        ({}, (8,), "need [batch, sequence, 8]"),
        ({"outer": 2, "groups": 4}, (2, 3, 8), "outer·groups: got 2·4, need a divisor of the 6 tokens"),
        ({"group_size": 4}, (2, 3, 8), "group_size: got 4, need a divisor of the 6 tokens"),
    ],
)
def test_bad_input(options: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError) as error:
        make(MoEConfig(8, 16, **options))(draw(*shape))
    assert message in str(error.value)


def test_bad_companions_of_x() -> None:
    layer, x = make(MoEConfig(8, 16)), draw(2, 3, 8)
    for arguments, message in (
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask"),
        ({"mask": torch.ones(2, 3)}, "mask"),
        ({"router_input": x[:1]}, "router_input"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(x, **arguments)
    with pytest.raises(ValueError, match=r"x: got torch.float32, need torch.float64"):
        layer(x.float())
    with pytest.raises(ValueError, match="aux_loss"):
        _ = make(MoEConfig(8, 16)).aux_loss


def test_non_finite_logits_name_the_layer() -> None:
    model = Model(MoEConfig(8, 12, 4), again=False)
    x = draw(1, 5, 8)
    x[0, 3] = float("inf")
    model(x)  # silent unless asked
    debug_routing(model)
    with pytest.raises(ValueError, match=r"first: router logits are not finite for 1 of 5 tokens"):
        model(x)
    debug_routing(model, enabled=False)
    model(x)


def test_checkpoint_of_another_layer() -> None:
    layer = make(MoEConfig(8, 12, 4))
    with pytest.raises(ValueError, match=r"gate_weight: the checkpoint has shape \(8, 6\), need \(8, 4\)"):
        layer.load_state_dict(make(MoEConfig(8, 12, 6)).state_dict())
    with pytest.raises(ValueError, match="from_mixtral"):
        layer.load_state_dict({"gate.weight": torch.zeros(4, 8)})
    layer.load_state_dict(make(MoEConfig(8, 12, 4), seed=7).state_dict())
    assert torch.equal(layer.w0, make(MoEConfig(8, 12, 4), seed=7).w0)


def test_generator_decides_the_weights() -> None:
    a, b, c = (MoE(MoEConfig(8, 12, 4, bias=True), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a.w0, b.w0)
    assert not torch.equal(a.w0, c.w0)
    c.reset_parameters(torch.Generator().manual_seed(1))
    assert torch.equal(a.gate_weight, c.gate_weight)
    # Fan-in of one expert: the expert dimension does not count.
    wide = MoE(MoEConfig(64, 32, 16))
    assert float(wide.w0.detach().std()) == pytest.approx(64**-0.5, rel=0.05)
    assert float(wide.w2.detach().std()) == pytest.approx(32**-0.5, rel=0.05)
    assert F.mse_loss(wide.w0[0], wide.w0[1]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "topk", "renormalize": True}, "renormalize: got True with router 'topk'"),
        ({"router": "expert_choice", "sequence_weight": 0.1}, "sequence_weight: got 0.1 with router"),
        ({"lb_weight": float("nan")}, "lb_weight: got nan"),
        ({"z_weight": float("inf")}, "z_weight: got inf"),
    ],
)
def test_switches_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        MoEConfig(8, 16, **options)
    assert message in str(error.value)


def test_outer_divides_the_sequences_of_a_call() -> None:
    with pytest.raises(ValueError, match="outer: got 2, need a divisor of the 3 sequences"):
        make(MoEConfig(8, 16, 4, outer=2))(draw(3, 4, 8))


def test_route_alone_checks_and_masks_as_forward_does() -> None:
    layer, x = make(MoEConfig(8, 16, 4)), draw(2, 3, 8)
    with pytest.raises(ValueError, match="last dimension 9"):
        layer.route(draw(2, 3, 9))
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[1, 2] = False
    x[1, 2] = float("nan")
    routing = layer.route(x, mask=mask)
    layer(x, mask=mask)
    assert layer.last is not None
    assert torch.equal(routing.lb_loss, layer.last.lb_loss) and torch.isfinite(routing.z_loss)


def test_what_a_forward_leaves_behind_unpacks() -> None:
    layer = make(MoEConfig(8, 16, 4))
    y = layer(draw(2, 3, 8))
    assert layer.last is not None
    kept, aux, balance, z, stats, routing = layer.last
    assert kept is y and routing is layer.last.routing and int(stats["tokens_per_expert"].sum()) == 12
    assert float(aux.detach()) == pytest.approx(0.01 * float(balance.detach())) and float(z.detach()) > 0


def test_selection_biases_of_a_model_move_and_keep_single_precision() -> None:
    model = nn.ModuleList([make(MoEConfig(8, 12, 4, router="topk_bias")), make(MoEConfig(8, 12, 4))])
    model = model.to(torch.bfloat16)
    layer = model[0]
    assert isinstance(layer, MoE) and layer.bias.dtype == torch.float32 and layer.w0.dtype == torch.bfloat16
    with torch.no_grad():
        layer.gate_weight.zero_()  # all scores tie: every token goes to experts 0 and 1, until their bias falls
        layer.bias.zero_()
    for each in model:
        each(draw(2, 5, 8).to(torch.bfloat16))
    update_biases(model, rate=1e-3)
    assert layer.bias.tolist() == pytest.approx([-1e-3, -1e-3, 1e-3, 1e-3])


def test_underflowing_sigmoid_scores_give_finite_losses() -> None:
    layer = make(MoEConfig(8, 12, 4, router="topk", score="sigmoid", dropless=True))
    with torch.no_grad():
        layer.gate_weight.fill_(-1e4)
    y = layer(draw(1, 3, 8).abs())
    assert layer.last is not None and torch.isfinite(layer.last.lb_loss) and torch.equal(y, torch.zeros_like(y))
