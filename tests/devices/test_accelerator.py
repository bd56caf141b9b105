"""What an accelerator computes equals what the CPU computes: layers, models, samplers, walks and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tenfold.clinical.events import EventSpec
from tenfold.clinical.forecast_model import ForecastModel, weighted_forecast_loss
from tenfold.clinical.hypergradient import hypergradient
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.compress.soft_top_k import soft_top_k
from tenfold.core import checkpoint
from tenfold.core.adastar import AdaStar
from tenfold.core.fit import TrainState, train_step
from tenfold.core.mesh import device_type
from tenfold.core.optim import adamw
from tenfold.diffusion.allocation import allocation_map
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.flow import rectified_flow_loss
from tenfold.diffusion.sampling import sample
from tenfold.diffusion.transformer import ECDiT
from tenfold.graph.beam import beam_search
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy
from tenfold.graph.rollout import rollout
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.generate import generate
from tenfold.lm.loss import lm_loss
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.nn.moe import MoE, MoEConfig

DEVICE = device_type()
pytestmark = pytest.mark.skipif(DEVICE == "cpu", reason="no accelerator on this machine")

CFG = DecoderConfig(vocab_size=64, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.to(DEVICE) if isinstance(leaf, Tensor) else leaf, tree)


def agree(
    make: Callable[[], nn.Module], run: Callable[[nn.Module, Any], Tensor], inputs: Any, atol: float = 2e-5
) -> None:
    """Output and gradients of a model built twice from one seed, on the CPU and on the accelerator."""
    results = []
    for place in ("cpu", DEVICE):
        model = make().to(place)
        out = run(model, inputs if place == "cpu" else moved(inputs))
        out.square().sum().backward()
        results.append(
            (out.detach().cpu(), {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None})
        )
    (out, grads), (other, other_grads) = results
    torch.testing.assert_close(other, out, atol=atol, rtol=1e-4)
    assert grads.keys() == other_grads.keys() and grads
    # Measured against the largest of all: some gradients, those of the keys' biases, are 0 but for rounding.
    scale = max(float(grad.abs().max()) for grad in grads.values())
    for name, grad in grads.items():
        error = float((other_grads[name] - grad).abs().max()) / scale
        assert error < 20 * atol, f"{name}: {error}"


@pytest.mark.parametrize("backend", ["auto", "grouped", "padded", "loop", "einsum"])
@pytest.mark.parametrize("router", ["top1", "top2", "topk", "topk_bias", "expert_choice", "race", "random"])
def test_experts(router: str, backend: str) -> None:
    cfg = MoEConfig(32, 48, 4, router=router, backend=backend)
    x = torch.randn(3, 16, 32, generator=seeded(1))
    agree(lambda: MoE(cfg, generator=seeded()), lambda model, x: model(x), x)


@pytest.mark.parametrize("widths", [(32, 48), (33, 47)])
def test_dropless_experts_of_any_width(widths: tuple[int, int]) -> None:
    cfg = MoEConfig(*widths, 8, 2, router="topk", dropless=True, bias=True, activation="gelu", backend="grouped")
    x = torch.randn(2, 9, widths[0], generator=seeded(1))
    agree(lambda: MoE(cfg, generator=seeded()), lambda model, x: model(x), x)


@pytest.mark.parametrize("deterministic", [False, True])
def test_experts_in_bfloat16_are_near_and_repeat(deterministic: bool) -> None:
    cfg = MoEConfig(64, 128, 8, 2, router="topk", dropless=True, deterministic=deterministic)
    layer, x = MoE(cfg, generator=seeded()).to(DEVICE), torch.randn(4, 32, 64, generator=seeded(1)).to(DEVICE)
    exact = layer(x).detach()
    with torch.autocast(DEVICE, torch.bfloat16):
        one, two = layer(x), layer(x)
    assert float((one.detach() - exact).abs().max()) < 0.05 * float(exact.abs().max())
    one.float().square().sum().backward()
    rounded = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in layer.named_parameters()
    }
    layer.zero_grad()
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        error = (rounded[name] - parameter.grad).norm() / parameter.grad.norm()
        assert float(error) < 0.05, name
    assert not deterministic or torch.equal(one, two)


@pytest.mark.parametrize(
    "config",
    [CFG, replace(CFG, qk_norm_position="post_rope", rope_layout="interleaved"), replace(CFG, moe=MoEConfig(32, 32, 4, router="topk", dropless=True))],
    ids=["dense", "official", "experts"],
)  # fmt: skip
def test_decoder(config: DecoderConfig) -> None:
    ids = torch.randint(0, 64, (2, 20), generator=seeded(1))
    agree(lambda: Decoder(config, seeded()), lambda model, ids: model(ids), ids, atol=1e-4)


def test_generation_and_engine() -> None:
    model = Decoder(CFG, seeded())
    model.embed_tokens.weight.data *= 4
    prompts = [[3, 5, 7], [11, 2, 9, 4, 1], [60]]
    wanted = generate(model, prompts, max_new_tokens=12, temperature=0).ids
    model.to(DEVICE)
    assert generate(model, prompts, max_new_tokens=12, temperature=0).ids == wanted
    drawn = generate(model, prompts, max_new_tokens=12, seed=1, top_k=8, top_p=0.9, logprobs=True)
    assert drawn.ids == generate(model, prompts, max_new_tokens=12, seed=1, top_k=8, top_p=0.9).ids
    assert drawn.logprobs is not None and all(value <= 0 for row in drawn.logprobs for value in row)
    with Engine(model, max_batch=2) as engine:
        streams = [engine.submit(Request(prompt, 12, SamplingRule(temperature=0))) for prompt in prompts]
        assert [[token.id for token in stream] for stream in streams] == wanted


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adastar"])
def test_training_step_and_a_resume_bit_for_bit(precision: Any, optimizer: str, tmp_path: Path) -> None:
    ids = torch.randint(0, 64, (4, 17), generator=seeded(1)).to(DEVICE)
    batch = {"ids": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}

    def state() -> TrainState:
        model = Decoder(replace(CFG, dropout=0.1), seeded()).to(DEVICE)
        return TrainState(model, adamw(model, 1e-3) if optimizer == "adamw" else AdaStar(model.parameters(), 1e-2))

    def steps(state: TrainState, count: int) -> list[float]:
        return [train_step(state, lm_loss(), [batch], precision=precision)["loss"] for _ in range(count)]

    whole = steps(first := state(), 6)
    half = state()
    assert steps(half, 3) == whole[:3]
    where = checkpoint.save(SimpleNamespace(path=tmp_path), half)
    resumed = state()
    checkpoint.restore(resumed, where)
    assert steps(resumed, 3) == whole[3:]
    for one, other in zip(first.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


TINY = ECDiTConfig(
    image_size=8, in_channels=4, patch_size=2, dim=32, num_layers=2, num_heads=2, text_dim=16, num_experts=4
)


def awake(config: ECDiTConfig) -> ECDiT:
    """A model whose zero-initialised outputs are drawn, so that all of it matters."""
    model = ECDiT(config, generator=seeded())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return model


@pytest.mark.parametrize("router", ["ec", "tc", "race", "random", "dense", "dense-wide"])
def test_diffusion_transformer(router: Any) -> None:
    inputs = {
        "x": torch.randn(3, 4, 8, 8, generator=seeded(1)), "t": torch.rand(3, generator=seeded(2)),
        "text": torch.randn(3, 5, 16, generator=seeded(3)), "text_mask": torch.arange(5) < torch.tensor([[5], [2], [1]]),
    }  # fmt: skip
    agree(lambda: awake(replace(TINY, router=router)), lambda model, inputs: model(**inputs), inputs, atol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp2m"])
def test_sampling(solver: str) -> None:
    text, null, noise = torch.randn(2, 5, 16, generator=seeded(3)), torch.randn(5, 16, generator=seeded(4)), torch.randn(2, 4, 8, 8, generator=seeded(5))  # fmt: skip
    model = awake(TINY)
    options: dict[str, Any] = {"shape": (4, 8, 8), "steps": 4, "guidance_scale": 2.0, "solver": solver}
    wanted = sample(model, text, null, noise=noise, **options)
    model.to(DEVICE)
    text, null = moved((text, null))
    torch.testing.assert_close(
        sample(model, text, null, noise=noise.to(DEVICE), **options).cpu(), wanted, atol=1e-3, rtol=1e-3
    )
    drawn = [sample(model, text, null, generator=seeded(9), **options) for _ in range(2)]
    torch.testing.assert_close(drawn[0], drawn[1])
    maps = allocation_map(model, drawn[0], torch.full((2,), 0.5, device=DEVICE), text)
    assert maps.shape == (1, 2, 4, 4) and int(maps.sum()) == 2 * 2 * 16


def test_flow_loss_draws_for_the_device() -> None:
    model = awake(TINY).to(DEVICE)
    batch = moved({"image": torch.randn(4, 4, 8, 8), "text": torch.randn(4, 5, 16), "null_text": torch.randn(5, 16)})
    loss, _ = rectified_flow_loss(
        model, batch, text_dropout=0.5, mask_ratio=0.5, generator=torch.Generator(DEVICE).manual_seed(0)
    )
    loss.backward()
    assert torch.isfinite(loss)


EVENTS = (EventSpec("a", 1.0, 5), EventSpec("b", 2.0, 3, weight=0.5))


@pytest.mark.parametrize("infer_model", ["basic", "l", "r", "lr", "st"])
def test_state_space_model(infer_model: Any) -> None:
    draw = seeded(1)
    batch = {
        "x": torch.randn(6, 7, 4, generator=draw), "mask": torch.rand(6, 7, 4, generator=draw) < 0.6,
        "u": torch.rand(6, 7, 2, generator=draw).round(), "length": torch.tensor([7, 5, 0, 7, 1, 3]),
        "static": torch.randn(6, 3, generator=draw), "slot": torch.tensor([[1, 1], [2, 3], [5, 2], [4, 1], [3, 3], [2, 2]]),
        "observed": torch.rand(6, 2, generator=draw) < 0.5, "at_risk": torch.rand(6, 2, generator=draw) < 0.8,
        "tail": torch.zeros(6, 2, dtype=torch.int64),
    }  # fmt: skip

    def make() -> DeepStateSpace:
        return DeepStateSpace(4, 2, EVENTS, generator=seeded(), z_dim=3, n_static=3, infer_model=infer_model).eval()

    one, other = make(), make().to(DEVICE)
    for name, curve in one.survival(batch).items():
        torch.testing.assert_close(other.survival(moved(batch))[name].cpu(), curve, atol=1e-4, rtol=1e-3)
    other.train()
    loss, _ = dssm_loss(other, moved(batch), generator=torch.Generator(DEVICE).manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in other.parameters() if p.grad is not None)


@pytest.mark.parametrize("mode", ["unrolled", "first_order", "finite_diff", "implicit", "hessian_fixed"])
def test_hypergradient(mode: Any) -> None:
    def gradient(place: str) -> Tensor:
        draw = seeded()
        net = ForecastModel(4, 3, 3, generator=draw).to(place)
        x, mask, y = torch.randn(6, 5, 4, generator=draw), torch.rand(6, 5, 4, generator=draw) < 0.7, torch.randn(6, 3, 4, generator=draw)  # fmt: skip
        x, mask, y = (tensor.to(place) for tensor in (x, mask, y))
        params = {"net": {name: parameter.detach() for name, parameter in net.named_parameters()}}

        def forecast(params: dict[str, dict[str, Tensor]]) -> Tensor:
            return torch.func.functional_call(net, params["net"], (x, mask))[0]

        def aux(params: Any, kappa: Tensor) -> Tensor:
            return weighted_forecast_loss(forecast(params), y, torch.ones_like(y), kappa.softmax(0))

        def val(params: Any) -> Tensor:
            return (forecast(params)[..., 0] - y[..., 0]).square().mean()

        kappa = torch.randn(4, generator=seeded(3)).to(place)
        return hypergradient(mode, aux_loss=aux, val_loss=val, params=params, kappa=kappa, steps=2, lr=0.05).cpu()

    wanted = gradient("cpu")
    torch.testing.assert_close(gradient(DEVICE), wanted, atol=1e-4 * float(wanted.abs().max()) + 1e-7, rtol=2e-2)


@pytest.mark.parametrize("policy", [MinervaPolicy, MultiHopPolicy])
def test_walks_and_beams(policy: Any) -> None:
    triples = torch.randint(0, 30, (200, 3), generator=seeded())
    triples[:, 1] %= 3
    torch.manual_seed(0)
    net = policy(KnowledgeGraph.from_triples(triples), dim=8)
    found = []
    for place in ("cpu", DEVICE):
        kg = KnowledgeGraph.from_triples(triples).to(place)
        own = policy(kg, dim=8)
        own.load_state_dict(net.state_dict())
        own.to(place)
        env = WalkEnv(kg, 3, known=kg.answers("train"))
        s, r, t = triples[:10].to(place).T
        walks = rollout(own, env, env.reset(s, r, t, rollouts=4), generator=torch.Generator(place).manual_seed(0))
        assert torch.isfinite(walks.log_probs).all()
        walks.log_probs.sum().backward()
        found.append(beam_search(own, env, s, r, 8))
    torch.testing.assert_close(found[1].scores.cpu(), found[0].scores, atol=1e-4, rtol=1e-3)


def test_soft_top_k() -> None:
    scores = torch.randn(3, 40, generator=seeded())
    for place in ("cpu", DEVICE):
        mask = soft_top_k(scores.to(place), 12, 0.05)
        assert torch.allclose(mask.sum(-1).cpu(), torch.full((3,), 12.0), atol=1e-4)
