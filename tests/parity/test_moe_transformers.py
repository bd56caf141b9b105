"""The mixture against the sparse blocks of transformers: outputs, gradients, balance loss, weights in and out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from tenfold.nn.moe import TokenRouting, from_mixtral, to_mixtral

DIM, HIDDEN, EXPERTS = 16, 24, 6


def mixtral(k: int) -> nn.Module:
    config = MixtralConfig(hidden_size=DIM, intermediate_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=k)
    return drawn(MixtralSparseMoeBlock(config))


def qwen(k: int, normalize: bool) -> nn.Module:
    config = Qwen3MoeConfig(
        hidden_size=DIM,
        moe_intermediate_size=HIDDEN,
        num_experts=EXPERTS,
        num_experts_per_tok=k,
        norm_topk_prob=normalize,
    )
    return drawn(Qwen3MoeSparseMoeBlock(config))


def drawn(block: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return block


def tokens() -> Tensor:
    return torch.randn(2, 11, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("kind", ["mixtral", "qwen", "qwen raw"])
def test_outputs_and_gradients(kind: str, k: int) -> None:
    block = mixtral(k) if kind == "mixtral" else qwen(k, kind == "qwen")
    moe = from_mixtral(block.state_dict(), top_k=k, normalize=kind != "qwen raw")
    x = tokens().requires_grad_()
    z = tokens().requires_grad_()
    weight = torch.randn(2, 11, DIM, generator=torch.Generator().manual_seed(2))
    theirs, ours = block(x), moe(z)
    assert (ours - theirs).abs().max() <= 1e-5
    (theirs * weight).sum().backward()
    (ours * weight).sum().backward()
    grads = {name: parameter.grad for name, parameter in block.named_parameters()}
    gate_up = grads["experts.gate_up_proj"]
    assert gate_up is not None
    pairs: list[tuple[Any, Any]] = [
        (z.grad, x.grad),
        (moe.gate_weight.grad, grads["gate.weight"].T),  # type: ignore[union-attr]
        (moe.w0.grad, gate_up[:, :HIDDEN].mT),
        (moe.w1.grad, gate_up[:, HIDDEN:].mT),  # type: ignore[union-attr]
        (moe.w2.grad, grads["experts.down_proj"].mT),  # type: ignore[union-attr]
    ]
    for ours_grad, theirs_grad in pairs:
        assert (ours_grad - theirs_grad).abs().max() <= 1e-5 * max(1.0, float(theirs_grad.abs().max()))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_balance_loss_of_one_layer_is_theirs_over_k(k: int) -> None:
    moe = from_mixtral(mixtral(k).state_dict(), top_k=k)
    routing = moe.route(tokens())
    assert isinstance(routing, TokenRouting)
    theirs = load_balancing_loss_func((routing.logits,), EXPERTS, k)
    assert abs(float(theirs) - k * float(routing.lb_loss.detach())) <= 1e-5
    mask = torch.arange(11) < torch.tensor([[11], [6]])
    masked = moe.route(tokens(), mask=mask)
    assert isinstance(masked, TokenRouting)
    theirs = load_balancing_loss_func((masked.logits,), EXPERTS, k, mask.long())
    assert abs(float(theirs) - k * float(masked.lb_loss.detach())) <= 1e-5


@pytest.mark.parametrize("kind", ["mixtral", "qwen"])
def test_weights_go_back(kind: str) -> None:
    block = mixtral(2) if kind == "mixtral" else qwen(2, True)
    moe = from_mixtral(block.state_dict())
    other = (mixtral if kind == "mixtral" else lambda k: qwen(k, True))(2)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(to_mixtral(moe, "fused"))
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    for layout in ("mixtral", "qwen"):
        again = from_mixtral(to_mixtral(moe, layout))
        assert torch.equal(again(tokens()), moe(tokens()))
