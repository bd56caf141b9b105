"""Expert choice against the layer of Nucleus-Image in diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoELayer
from torch import Tensor, nn

from tenfold.nn.moe import ExpertChoiceMoE, MoE

DIM, HIDDEN, EXPERTS = 16, 24, 6


def pair(score: str, factor: float, scale: float) -> tuple[NucleusMoELayer, MoE]:
    """Their layer with random weights, and ours with the same."""
    theirs = NucleusMoELayer(DIM, HIDDEN, EXPERTS, factor, use_sigmoid=score == "sigmoid", route_scale=scale)
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    ours = ExpertChoiceMoE(
        DIM,
        HIDDEN,
        EXPERTS,
        factor,
        activation="swiglu",
        bias=False,
        score=score,
        renormalize=True,
        route_scale=scale,
        shared_expert=True,
    )
    assert ours.w1 is not None and ours.shared is not None and ours.shared.gate_proj is not None
    with torch.no_grad():
        # Their router reads the time beside the token; a time of 0 leaves the second half of its matrix.
        ours.gate_weight.copy_(theirs.gate.weight[:, DIM:].T)
        gate, up = theirs.experts.gate_up_proj.chunk(2, dim=-1)
        ours.w0.copy_(gate)
        ours.w1.copy_(up)
        ours.w2.copy_(theirs.experts.down_proj)
        up, gate = theirs.shared_expert.net[0].proj.weight.chunk(2)
        ours.shared.gate_proj.weight.copy_(gate)
        ours.shared.up_proj.weight.copy_(up)
        ours.shared.down_proj.weight.copy_(theirs.shared_expert.net[2].weight)
    return theirs, ours


def draw(seed: int) -> Tensor:
    return torch.randn(3, 20, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("factor", "scale"), [(2.0, 1.0), (1.0, 2.5), (6.0, 0.7)])
def test_outputs_and_gradients(score: str, factor: float, scale: float) -> None:
    theirs, ours = pair(score, factor, scale)
    states, seen = [], []
    for layer in (theirs, ours):
        x, router_input = draw(1).requires_grad_(), draw(2).requires_grad_()
        y = layer(x, router_input, torch.zeros(3, DIM)) if layer is theirs else layer(x, router_input)
        (y * draw(3)).sum().backward()
        states.append(y.detach())
        seen.append((x.grad, router_input.grad))
    assert states[0].abs().max() > 0.5
    assert (states[0] - states[1]).abs().max() <= 1e-5
    for want, got in zip(*seen, strict=True):
        assert want is not None and got is not None
        assert (want - got).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))
