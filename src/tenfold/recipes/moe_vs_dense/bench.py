"""The layer and the training step on this machine: ratios taken in one process, in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from tenfold.core.config import need
from tenfold.core.fit import train_step
from tenfold.core.flops import measure_peak
from tenfold.core.mesh import device_type
from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import lm_loss
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import MoE, MoEConfig
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Config, Data
from tenfold.recipes.moe_vs_dense.text import load_text
from tenfold.recipes.moe_vs_dense.training import build_state


def bench(
    tokens: int = 2048,
    dim: int = 256,
    hidden: int = 512,
    experts: tuple[int, ...] = (8, 64),
    top_k: int = 2,
    repeats: int = 15,
    threads: int = 0,
) -> None:
    """Time the MoE layer's backends beside a dense layer of the same active parameters, and the training step.

    Args:
        tokens: tokens of one call.
        dim: model width.
        hidden: hidden width of an expert.
        experts: numbers of experts, one table each.
        top_k: experts a token goes to.
        repeats: timed calls of each.
        threads: 0 leaves torch's number.
    """
    if not experts:
        raise ValueError("experts: got none, need one or more")
    for name, value in (
        ("tokens", tokens),
        ("dim", dim),
        ("hidden", hidden),
        ("experts", experts),
        ("repeats", repeats),
    ):
        need(name, value, 1, 1 << 24)
    need("top_k", top_k, 1, min(experts))
    need("threads", threads, 0, 4096)
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    for count in experts:
        console.print(layer_table(tokens, dim, hidden, count, top_k, repeats))
    console.print(step_table(repeats))


def layer_table(tokens: int, dim: int, hidden: int, experts: int, top_k: int, repeats: int) -> Table:
    """Forward and backward of each backend, over that of a dense SwiGLU layer of width top_k x hidden."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, tokens, dim, generator=generator).to(device_type()).requires_grad_()
    layers: dict[str, nn.Module] = {"dense": FeedForward(dim, top_k * hidden, generator=generator)}
    for backend in ("auto", "grouped", "padded", "loop"):
        cfg = MoEConfig(
            dim=dim, hidden=hidden, num_experts=experts, top_k=top_k, router="topk", dropless=True, backend=backend
        )
        layers[backend] = MoE(cfg)
    for layer in layers.values():
        layer.to(device_type())
    timings = interleaved({name: _forward_backward(layer, x) for name, layer in layers.items()}, repeats)
    table = Table(
        title=f"{experts} experts, top-{top_k}, {tokens} tokens, {dim} x {hidden}, {torch.get_num_threads()} threads"
    )
    table.add_column("backend")
    table.add_column("ms", justify="right")
    table.add_column("/ dense", justify="right")
    for name, timing in timings.items():
        table.add_row(name, f"{1e3 * timing.median:.2f}", f"{ratio(timings, name, 'dense'):.2f}")
    return table


def _forward_backward(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).square().mean().backward()

    return run


def step_table(repeats: int) -> Table:
    """A training step of every family at width 64: seconds over dense, and its share of this machine's matrix-product peak."""
    config = Config(widths=(64,), data=Data(source="stdlib"))
    text = load_text(config.data)
    loss = lm_loss(z_loss=0.0)
    steps: dict[str, Callable[[], object]] = {}
    flops: dict[str, float] = {}
    for family in config.families:
        state = build_state(config, family, 64, 0, 1_000_000, text)
        assert state.stream is not None and isinstance(state.model, Decoder)
        batch = {name: value.to(device_type()) for name, value in next(iter(state.stream)).items()}
        steps[family] = partial(train_step, state, loss, [batch])
        flops[family] = 3 * state.model.flops_per_token(config.data.sequence) * config.data.step_tokens
    timings = interleaved(steps, repeats)
    peak = measure_peak(device_type())
    table = Table(
        title=f"training step at width 64; peak {peak / 1e9:.0f} GFLOP/s in fp32, {torch.get_num_threads()} threads"
    )
    for column in ("family", "ms", "/ dense", "share of peak"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for name, timing in timings.items():
        share = flops[name] / timing.median / peak
        table.add_row(
            FAMILIES[name].label, f"{1e3 * timing.median:.1f}", f"{ratio(timings, name, 'dense'):.2f}", f"{share:.1%}"
        )
    return table
