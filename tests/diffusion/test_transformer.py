"""Laws of the transformer. Shapes: B images, S image tokens, L text tokens, D width."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tenfold.diffusion
from tenfold.diffusion.config import ROUTERS, ECDiTConfig
from tenfold.diffusion.embed import patchify
from tenfold.diffusion.pixart import upcycle_model
from tenfold.diffusion.transformer import Block, ECDiT
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import ExpertRouting, MoE, Routing, TokenRouting, collect_aux, moe_layers
from tenfold.nn.norm import rms_norm

DOUBLE = torch.float64
SMALL = ECDiTConfig(
    image_size=8, patch_size=2, dim=16, num_layers=4, num_heads=4, num_kv_heads=2, text_dim=12, num_experts=4
)


def make(config: ECDiTConfig = SMALL, seed: int = 0, dtype: torch.dtype = DOUBLE) -> ECDiT:
    """A model all of whose weights are random, the ones that start at 0 too."""
    model = ECDiT(config, generator=torch.Generator().manual_seed(seed)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(batch: int = 3, height: int = 8, width: int = 8, dtype: torch.dtype = DOUBLE) -> dict[str, Tensor]:
    return {
        "x": draw(batch, 3, height, width, dtype=dtype),
        "t": torch.linspace(0, 1, batch, dtype=dtype),
        "text": draw(batch, 5, 12, seed=2, dtype=dtype),
        "text_mask": torch.arange(5) < torch.arange(1, batch + 1)[:, None],
    }


def routed(model: ECDiT, **given: Any) -> tuple[Tensor, list[Routing]]:
    y, routings = model(**given, return_routing=True)
    return y, routings


def one(given: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in given.items()}


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_learns(router: Any) -> None:
    config = replace(SMALL, router=router, shared_expert=True)
    model = make(config)
    y, routings = routed(model, **inputs())
    assert y.shape == (3, 3, 8, 8)
    assert len(routings) == len(config.sparse_layers)
    loss = y.square().mean() + collect_aux(model)[0]
    loss.backward()
    frozen = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert frozen == ([f"blocks.{i}.ffn.gate_weight" for i in (1, 3)] if router == "random" else [])


def test_only_token_choice_has_an_auxiliary_loss() -> None:
    for router in ("ec", "race", "tc"):
        model = make(replace(SMALL, router=router, aux_coef=0.5))  # type: ignore[arg-type]
        model(**inputs())
        assert (float(collect_aux(model)[0].detach()) > 0) == (router == "tc")


def test_a_new_model_answers_zero() -> None:
    given = inputs(dtype=torch.float32)
    for adaln in ("single", "block"):
        model = ECDiT(replace(SMALL, adaln=adaln))  # type: ignore[arg-type]
        assert not model(**given).any()
        nn.init.ones_(model.final_proj.weight)
        assert model(**given).any()
    # Under "block" every gate is closed, and so is the way from the text.
    block = model.get_submodule("blocks.1")
    x, time, text = (draw(3, *shape, dtype=torch.float32) for shape in ((16, 16), (16,), (5, 16)))
    assert torch.equal(block(x, time, text, None), x)


def test_initial_weights() -> None:
    config = ECDiTConfig(dim=64, num_layers=2)
    model = ECDiT(config, generator=torch.Generator().manual_seed(0))
    experts = model.get_submodule("blocks.1.ffn")
    dense = model.get_submodule("blocks.0.ffn")
    assert isinstance(experts, MoE) and isinstance(dense, FeedForward)
    bound = (6 / (64 + 256)) ** 0.5
    for stack in (dense.up_proj.weight, dense.down_proj.weight, experts.w0, experts.w2):
        assert 0.98 * bound < float(stack.detach().abs().max()) <= bound
        assert float(stack.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.03)
    assert not torch.equal(experts.w0[0], experts.w0[1])
    for tensor, std in (
        (experts.gate_weight, 0.02),
        (model.final_table, 1 / 8),
        (model.get_parameter("time_mlp.2.weight"), 0.02),
    ):
        assert float(tensor.detach().std()) == pytest.approx(std, rel=0.15)
    assert all(not p.any() for name, p in model.named_parameters() if name.split(".")[-1] in ("bias", "b0", "b2"))


def test_the_generator_decides_the_weights() -> None:
    state = torch.get_rng_state()
    a, b, other = (ECDiT(SMALL, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.patch_proj.weight, other.patch_proj.weight)


def test_a_block_is_its_formula() -> None:
    config = replace(SMALL, router="dense", qk_norm=True)
    block = make(config).get_submodule("blocks.0")
    assert isinstance(block, Block) and isinstance(block.ffn, FeedForward) and block.table is not None
    x, time, text = draw(2, 6, 16), draw(2, 6, 16, seed=3), draw(2, 5, 16, seed=4)
    mask = torch.tensor([[True] * 5, [True, False, True, False, False]])

    def attend(layer: Any, of: Tensor, over: Tensor, seen: Tensor) -> Tensor:
        heads = []
        for head in range(4):
            mine, shared = slice(4 * head, 4 * head + 4), slice(4 * (head // 2), 4 * (head // 2) + 4)
            q = rms_norm(layer.q_proj(of)[..., mine], layer.q_norm.weight, 1e-6)
            k = rms_norm(layer.k_proj(over)[..., shared], layer.k_norm.weight, 1e-6)
            scores = (q @ k.mT / 2).masked_fill(~seen[:, None], float("-inf"))
            heads.append(scores.softmax(-1) @ layer.v_proj(over)[..., shared])
        return layer.o_proj(torch.cat(heads, -1))

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    six = block.table + time
    b1, g1, a1, b2, g2, a2 = (six[:, i, None] for i in range(6))
    every = torch.ones(2, 6, dtype=torch.bool)
    modulated = (1 + g1) * norm(x) + b1
    want = x + a1 * attend(block.attn, modulated, modulated, every)
    want = want + attend(block.cross_attn, want, text, mask)
    ffn = block.ffn
    want = want + a2 * ffn.down_proj(F.gelu(ffn.up_proj((1 + g2) * norm(want) + b2), approximate="tanh"))
    assert torch.allclose(block(x, time, text, mask[:, None, None]), want, atol=1e-12)


def test_modulation_of_each_block() -> None:
    model = make(replace(SMALL, adaln="block"))
    assert model.modulation is None
    block = model.get_submodule("blocks.1")
    assert isinstance(block, Block) and block.modulation is not None
    x, time, text = draw(2, 16, 16), draw(2, 16, seed=3), draw(2, 5, 16, seed=4)
    single = make().get_submodule("blocks.1")
    assert isinstance(single, Block) and single.table is not None
    single.load_state_dict({n: t for n, t in block.state_dict().items() if "modulation" not in n}, strict=False)
    nn.init.zeros_(single.table)
    assert torch.equal(block(x, time, text, None), single(x, block.modulation(time).view(2, 6, 16), text, None))


def test_full_capacity_with_equal_experts_is_the_dense_model() -> None:
    dense = make(replace(SMALL, router="dense"))
    given = inputs()
    for options in ({"capacity_factor": 4.0}, {"router": "tc"}, {"router": "race", "top_k": 4}):
        sparse = upcycle_model(dense, {"num_experts": 4, **options})
        assert torch.allclose(sparse(**given), dense(**given), atol=1e-12)


def test_images_do_not_see_each_other() -> None:
    given = inputs()
    for router in ("ec", "race", "tc"):
        model = make(replace(SMALL, router=router))  # type: ignore[arg-type]
        together = model(**given)
        for row in range(3):
            assert torch.allclose(together[row], model(**one(given, row))[0], atol=1e-12)


def test_groups_span_images_in_training_and_in_evaluation_apart() -> None:
    given = inputs(4)
    grouped = make(replace(SMALL, group_size=64, eval_group_size=32))
    alone = make(replace(SMALL, group_size=16))
    y, routings = routed(grouped, **given)
    assert all(isinstance(r, ExpertRouting) and r.index.shape == (1, 4, 32) for r in routings)
    assert not torch.allclose(y, alone(**given), atol=1e-3)
    _, routings = routed(grouped.eval(), **given)
    assert all(isinstance(r, ExpertRouting) and r.index.shape == (2, 4, 16) for r in routings)
    assert torch.equal(grouped.train()(**given), y)
    assert torch.allclose(alone(**given), make()(**given), atol=1e-12)
    with pytest.raises(ValueError, match="group_size: got 64, need a divisor of the 48 tokens"):
        grouped(**inputs(3))
    # Without a size of its own, evaluation groups as training does.
    assert torch.equal(make(replace(SMALL, group_size=64)).eval()(**given), y)


def test_queues_of_token_choice_drop_within_an_image() -> None:
    model = make(replace(SMALL, router="tc", token_capacity=1.0, group_size=16))
    given = inputs()
    y, routings = routed(model, **given)
    assert any(isinstance(r, TokenRouting) and not r.keep.all() for r in routings)
    assert torch.allclose(y[1], model(**one(given, 1))[0], atol=1e-12)


def test_text_has_no_order_and_padding_no_content() -> None:
    model, given = make(), inputs()
    y = model(**given)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = {**given, "text": given["text"][:, order], "text_mask": given["text_mask"][:, order]}
    assert torch.allclose(model(**shuffled), y, atol=1e-12)
    other = torch.where(given["text_mask"][..., None], given["text"], 99.0)
    assert torch.allclose(model(**{**given, "text": other}), y, atol=1e-12)
    assert torch.allclose(model(given["x"][:1], given["t"][:1], given["text"][:1, :1])[0], y[0], atol=1e-12)
    renamed = {**given, "encoder_hidden_states": given["text"]}
    del renamed["text"]
    assert torch.equal(model(**renamed), y)


def test_kept_tokens() -> None:
    model, given = make(), inputs()
    full = patchify(model(**given), 2)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    rows = torch.arange(3)[:, None]
    # Attention and experts know no order but the positions, which go with the tokens.
    assert torch.allclose(model(**given, keep=order), full[rows, order], atol=1e-12)
    y, routings = routed(model, **given, keep=order[:, :8])
    assert y.shape == (3, 8, 12)
    assert all(isinstance(r, ExpertRouting) and r.affinity.shape == (3, 8, 4) for r in routings)
    # Nothing of the dropped tokens is left: another picture there changes nothing.
    mine = torch.zeros(3, 16, dtype=torch.bool).index_put((rows, order[:, :8]), torch.tensor(True))
    pixels = mine.view(3, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(model(**{**given, "x": given["x"].where(pixels, torch.tensor(7.0))}, keep=order[:, :8]), y)


def test_flow_times_are_thousandths_of_steps() -> None:
    flow, steps = make(), make(replace(SMALL, objective="ddpm"))
    given = inputs()
    assert torch.equal(flow(**given), steps(**{**given, "t": 1000 * given["t"]}))
    assert not torch.allclose(flow(**given)[0], flow(**{**given, "t": given["t"] + 0.1 * (given["t"] < 0.9)})[0])


@pytest.mark.parametrize("router_input", ["modulated", "unmodulated"])
def test_routers_read_before_or_after_the_modulation(router_input: Any) -> None:
    model = make(replace(SMALL, router_input=router_input))
    seen: list[tuple[Tensor, Tensor | None]] = []
    layer = next(layer for _, layer in moe_layers(model))
    layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs["router_input"])), with_kwargs=True
    )
    _, routings = routed(model, **inputs())
    x, read = seen[0]
    assert (read is None) == (router_input == "modulated")
    if read is not None:
        assert torch.allclose(read.mean(-1), torch.zeros(3, 16, dtype=DOUBLE), atol=1e-12)
        assert not torch.allclose(x, read)
    logits = (x if read is None else read).reshape(-1, 16) @ layer.gate_weight
    assert torch.allclose(routings[0].logits, logits, atol=1e-12)


def test_learned_variance_and_other_sizes() -> None:
    model = make(replace(SMALL, out_channels=6))
    assert model(**inputs(2, 12, 4)).shape == (2, 6, 12, 4)
    _, routings = routed(model, **inputs(2, 12, 4))
    assert all(isinstance(r, ExpertRouting) and r.experts_per_token.shape == (2, 12) for r in routings)


def test_cross_attention_maps() -> None:
    model, given = make(replace(SMALL, num_heads=1, num_kv_heads=1)), inputs()
    block = model.get_submodule("blocks.2")
    assert isinstance(block, Block)
    calls: list[tuple[Any, Tensor]] = []
    block.cross_attn.register_forward_hook(lambda _, args, output: calls.append((args, output)))
    maps = model.cross_attention_maps(**given)
    assert maps.shape == (4, 3, 16, 5)
    assert torch.allclose(maps.sum(-1), torch.ones(4, 3, 16, dtype=DOUBLE))
    assert not maps.masked_select(~given["text_mask"][None, :, None]).any()
    # With one head the maps are the whole of the attention.
    (_, text, _), output = calls[0]
    layer = block.cross_attn
    assert torch.allclose(layer.o_proj(maps[2] @ layer.v_proj(text)), output, atol=1e-12)
    grouped = make().cross_attention_maps(**given)
    assert torch.allclose(grouped.sum(-1), torch.ones(4, 3, 16, dtype=DOUBLE))


def test_compiles_without_graph_breaks() -> None:
    model = make(replace(SMALL, num_layers=2), dtype=torch.float32)
    given = inputs(dtype=torch.float32)
    want = model(**given)
    want.square().mean().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch._dynamo.reset()
    # aot_eager traces forward and backward through the fake kernels, and needs no compiler on the machine.
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(**given)
    got.square().mean().backward()
    assert torch.allclose(got, want, atol=1e-5)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is not None and grad is not None
        assert torch.allclose(parameter.grad, grad, atol=1e-5)


def test_half_precision() -> None:
    model, given = make(replace(SMALL, num_layers=2), dtype=torch.float32), inputs(dtype=torch.float32)
    want = model(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(**given)
    assert (got.float() - want).norm() < 0.05 * want.norm()
    low = {name: t.bfloat16() if t.is_floating_point() else t for name, t in given.items()}
    got = copy.deepcopy(model).bfloat16()(**low)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.1 * want.norm()


BAD_INPUTS = [
    ({"x": torch.zeros(3, 4, 8, 8)}, r"x: got shape \(3, 4, 8, 8\), need \(batch, 3, height, width\)"),
    ({"x": torch.zeros(3, 8, 8)}, r"x: got shape \(3, 8, 8\)"),
    ({"x": torch.zeros(3, 3, 8, 7)}, "image: got width 7, need a multiple of patch_size = 2"),
    ({"t": torch.zeros(2)}, r"t: got shape \(2,\), need \(3,\), one time an image"),
    ({"t": torch.tensor([0.0, 1.5, 0.5])}, r"t: got a time outside \[0, 1\], objective 'flow'"),
    ({"t": torch.tensor([0.0, float("nan"), 0.5])}, "t: got a time outside"),
    ({"text": torch.zeros(3, 5, 11)}, r"text: got shape \(3, 5, 11\), need \(3, tokens, 12\)"),
    ({"text": torch.zeros(2, 5, 12)}, r"text: got shape \(2, 5, 12\)"),
    ({"text": torch.zeros(3, 0, 12)}, r"text: got shape \(3, 0, 12\)"),
    ({"text": None}, "text, encoder_hidden_states: need exactly one"),
    ({"text_mask": torch.arange(5) < torch.tensor([[2], [0], [5]])}, "text_mask: got a row without True"),
    ({"text_mask": torch.ones(3, 4, dtype=torch.bool)}, r"text_mask: got torch.bool \(3, 4\), need bool \(3, 5\)"),
    ({"text_mask": torch.ones(3, 5)}, r"text_mask: got torch.float32"),
    ({"keep": torch.zeros(2, 4, dtype=torch.long)}, r"keep: got torch.int64 \(2, 4\), need int64 \(3, tokens kept\)"),
    ({"keep": torch.zeros(3, 4)}, r"keep: got torch.float32"),
    ({"keep": torch.full((3, 4), 16)}, r"keep: got a token outside 0\.\.15"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_INPUTS)
def test_bad_inputs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(dtype=torch.float32)(**{**inputs(dtype=torch.float32), **changes})


def test_steps_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"t: got a time outside \[0, 1000\], objective 'ddpm'"):
        make(replace(SMALL, objective="ddpm"))(**{**inputs(), "t": torch.tensor([0.0, 5.0, 1001.0], dtype=DOUBLE)})


def test_public_names_load_when_used() -> None:
    for name in tenfold.diffusion.__all__:
        assert getattr(tenfold.diffusion, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'UNet'"):
        _ = tenfold.diffusion.UNet
