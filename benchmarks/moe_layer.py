"""Mixture-of-experts layer against its peers: forward and backward, fp32, interleaved, ratios of one run.

    python benchmarks/moe_layer.py --threads 1 --out moe_layer.json

Every row is a ratio of medians' pairs with the bar it should meet; times are printed for orientation only.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.core.timing import interleaved, ratio
from tenfold.nn.moe import MoE, MoEConfig, collect_aux

DIM, HIDDEN, TOP_K, TOKENS = 256, 512, 2, 2048
CLOCK = time.perf_counter


@dataclass(frozen=True)
class Row:
    """One measured ratio and its bar; `at_most` says on which side of the bar it should lie."""

    name: str
    ratio: float
    bar: float
    at_most: bool
    numerator: float
    denominator: float
    unit: str = "ms"

    @property
    def met(self) -> bool:
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    @property
    def bar_text(self) -> str:
        return "-" if math.isinf(self.bar) else f"{'<=' if self.at_most else '>='} {self.bar:.2f}"


class DenseSwiGLU(nn.Module):
    """The dense feed-forward layer with as many active parameters: hidden width k·H."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(dim, hidden, bias=False),
            nn.Linear(dim, hidden, bias=False),
            nn.Linear(hidden, dim, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class NaiveLoop(nn.Module):
    """What one writes first: a Python loop that indexes the expert weights."""

    def __init__(self, moe: MoE) -> None:
        super().__init__()
        self.gate_weight, self.w0, self.w1, self.w2 = (
            nn.Parameter(p.detach().clone()) for p in (moe.gate_weight, moe.w0, moe.w1, moe.w2)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights, indices = (flat @ self.gate_weight).softmax(-1).topk(TOP_K, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(flat)
        for e in range(self.w0.shape[0]):
            token, rank = (indices == e).nonzero(as_tuple=True)
            mine = flat[token]
            hidden = F.silu(mine @ self.w0[e]) * (mine @ self.w1[e])
            y = y.index_add(0, token, hidden @ self.w2[e] * weights[token, rank, None])
        return y.view(x.shape)


class OneHot(nn.Module):
    """GShard's form: dispatch and combine as [S, E, C] one-hot tensors in groups of 256 tokens."""

    def __init__(self, moe: MoE, group: int) -> None:
        super().__init__()
        self.group, self.capacity = group, max(1, group * TOP_K // moe.config.num_experts)
        self.gate_weight, self.w0, self.w1, self.w2 = (
            nn.Parameter(p.detach().clone()) for p in (moe.gate_weight, moe.w0, moe.w1, moe.w2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x_GSM = x.reshape(-1, self.group, x.shape[-1])
        probs = (x_GSM @ self.gate_weight).softmax(-1)
        weights, indices = probs.topk(TOP_K, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        chosen = F.one_hot(indices.transpose(1, 2), probs.shape[-1])
        position = (chosen.flatten(1, 2).cumsum(1).view_as(chosen) - 1) * chosen
        keep = chosen * (position < self.capacity)
        slot = F.one_hot(position.clamp_max(self.capacity - 1), self.capacity) * keep[..., None]
        combine = torch.einsum("gks,gksec->gsec", weights.transpose(1, 2), slot.to(x.dtype))
        x_EGCM = torch.einsum("gsec,gsm->egcm", (combine > 0).to(x.dtype), x_GSM)
        hidden = F.silu(torch.einsum("egcm,emh->egch", x_EGCM, self.w0)) * torch.einsum(
            "egcm,emh->egch", x_EGCM, self.w1
        )
        y_EGCM = torch.einsum("egch,ehm->egcm", hidden, self.w2)
        return torch.einsum("gsec,egcm->gsm", combine, y_EGCM).reshape(x.shape)


def transformers_block(experts: int, implementation: str) -> nn.Module:
    """Mixtral's sparse block of transformers, random weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=DIM, intermediate_size=HIDDEN, num_local_experts=experts, num_experts_per_tok=TOP_K
    )
    config._experts_implementation = implementation
    block: nn.Module = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0, 0.02 if parameter.dim() == 2 else DIM**-0.5)
    return block


def training_call(module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """One forward and backward with fresh gradients; a mixture's auxiliary loss takes part."""
    x = x.detach().clone().requires_grad_()

    def call() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y = module(x)
        if isinstance(module, MoE) and module.aux_loss.requires_grad:
            torch.autograd.backward([y, module.aux_loss], [grad, None])
        else:
            y.backward(grad)

    return call


def compare(functions: dict[str, Callable[[], None]], repeats: int) -> Callable[[str, str, str, float, bool], Row]:
    """Time all functions in turn; the result makes rows from pairs of them."""
    timings = interleaved(functions, repeats, clock=CLOCK)

    def row(name: str, top: str, bottom: str, bar: float, at_most: bool) -> Row:
        value = ratio(timings, top, bottom)
        return Row(name, value, bar, at_most, 1e3 * timings[top].median, 1e3 * timings[bottom].median)

    return row


def peer_rows(experts: int, repeats: int) -> list[Row]:
    """Default backend against dense, naive loop, one-hot einsum and transformers."""
    torch.manual_seed(0)
    x, grad = torch.randn(1, TOKENS, DIM), torch.randn(1, TOKENS, DIM)
    # A router that spreads like a trained one: logits of unit scale.
    moe = MoE(MoEConfig(DIM, HIDDEN, experts, TOP_K))
    free = MoE(MoEConfig(DIM, HIDDEN, experts, TOP_K, router="topk", dropless=True))
    for layer in (moe, free):
        nn.init.normal_(layer.gate_weight, std=DIM**-0.5)
    calls = {
        "dense": training_call(DenseSwiGLU(DIM, TOP_K * HIDDEN), x, grad),
        "moe": training_call(moe, x, grad),
        "dropless": training_call(free, x, grad),
        "naive": training_call(NaiveLoop(moe), x, grad),
        "onehot": training_call(OneHot(moe, 256), x, grad),
    }
    # Its "batched_mm" copies the weights of every token (gigabytes here) and is never the best.
    hf = [f"transformers {name}" for name in ("eager", "grouped_mm")]
    for name in hf:
        calls[name] = training_call(transformers_block(experts, name.split()[1]), x, grad)
    row = compare(calls, repeats)
    best = min(hf, key=lambda name: row(name, name, "dense", 1, True).numerator)
    dense_bar = {8: 1.12, 64: 1.75}[experts]
    rows = [
        row(f"E={experts} default / dense", "moe", "dense", dense_bar, True),
        row(f"E={experts} dropless / dense", "dropless", "dense", 1.5 if experts == 8 else math.inf, True),
        row(f"E={experts} one-hot / default", "onehot", "moe", {8: 1.15, 64: 1.25}[experts], False),
        row(f"E={experts} naive loop / default", "naive", "moe", 4.0 if experts == 64 else 1.0, False),
        row(f"E={experts} default / {best}", "moe", best, 1.05, True),
        row(f"E={experts} dropless / {best}", "dropless", best, 1.05, True),
    ]
    return rows


def auto_rows(repeats: int) -> list[Row]:
    """The automatic choice against the best of the fixed backends, over sizes, with and without capacity."""
    rows = []
    for experts in (8, 64):
        for tokens in (256, 4096):
            for drop in (False, True):
                torch.manual_seed(1)
                x, grad = torch.randn(1, tokens, DIM), torch.randn(1, tokens, DIM)
                calls = {}
                for backend in ("auto", "padded", "grouped", "loop"):
                    layer = MoE(
                        MoEConfig(DIM, HIDDEN, experts, TOP_K, router="topk", dropless=not drop, backend=backend)
                    )
                    nn.init.normal_(layer.gate_weight, std=DIM**-0.5, generator=torch.Generator().manual_seed(2))
                    calls[backend] = training_call(layer, x, grad)
                row = compare(calls, repeats)
                best = min(("padded", "grouped", "loop"), key=lambda b: row(b, b, "auto", 1, True).numerator)
                kind = "capacity" if drop else "dropless"
                rows.append(row(f"E={experts} T={tokens} {kind} auto / {best}", "auto", best, 1.10, True))
    return rows


def expert_choice_rows(repeats: int) -> list[Row]:
    """Expert choice, 16 experts, factor 2: the gather form against one-hot tensors and a loop over experts."""
    rows = []
    for batch, tokens, dim, hidden, bar in ((2, 1024, 128, 512, 2.0), (8, 256, 256, 1024, 1.05)):
        torch.manual_seed(0)
        x, grad = torch.randn(batch, tokens, dim), torch.randn(batch, tokens, dim)
        calls = {}
        for backend in ("auto", "loop"):
            options = {"router": "expert_choice", "activation": "gelu_tanh", "bias": True}
            layer = MoE(MoEConfig(dim, hidden, 16, capacity_rounding="ceil", backend=backend, **options))  # type: ignore[arg-type]
            calls[backend] = training_call(layer, x, grad)
        calls["onehot"] = training_call(OneHotExpertChoice(layer), x, grad)
        row = compare(calls, repeats)
        shape = f"B={batch} S={tokens} d={dim}"
        rows.append(row(f"expert choice {shape} one-hot / ours", "onehot", "auto", bar, False))
        rows.append(row(f"expert choice {shape} ours / loop", "auto", "loop", 1.0, True))
    return rows


class OneHotExpertChoice(nn.Module):
    """Expert choice as Zhou et al. write it: a one-hot [B, E, C, S] permutation and einsums."""

    def __init__(self, moe: MoE) -> None:
        super().__init__()
        self.moe = moe

    def forward(self, x: Tensor) -> Tensor:
        m = self.moe
        assert m.b0 is not None
        assert m.b2 is not None
        scores = (x @ m.gate_weight).softmax(-1).transpose(1, 2)
        gate, index = scores.topk(x.shape[1] * 2 // scores.shape[1], -1)
        permutation = F.one_hot(index, x.shape[1]).to(x.dtype)
        x_BECM = torch.einsum("becs,bsm->becm", permutation, x)
        hidden = F.gelu(torch.einsum("becm,emh->bech", x_BECM, m.w0) + m.b0[None, :, None], approximate="tanh")
        y = torch.einsum("bech,ehm->becm", hidden, m.w2) + m.b2[None, :, None]
        return torch.einsum("becs,bec,becm->bsm", permutation, gate, y)


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters apart: the extra memory of a layer."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = module(x.requires_grad_())
        del kept
    return sum(seen.values())


def memory_rows(repeats: int) -> list[Row]:
    """Dispatch memory beyond the experts' own activations, one group of 2048 tokens, 64 experts."""
    torch.manual_seed(0)
    x = torch.randn(1, TOKENS, DIM)
    moe = MoE(MoEConfig(DIM, HIDDEN, 64, TOP_K))
    ours, onehot = saved_bytes(moe, x), saved_bytes(OneHot(moe, TOKENS), x)
    return [Row("E=64 S=2048 memory ours / one-hot", ours / onehot, 1 / 3, True, ours / 1e6, onehot / 1e6, "MB")]


def statistics_rows(repeats: int) -> list[Row]:
    """A small layer that reads its statistics every step against one that does not."""
    torch.manual_seed(0)
    x, grad = torch.randn(1, TOKENS, 64), torch.randn(1, TOKENS, 64)
    moe = MoE(MoEConfig(64, 176, 8, TOP_K))
    plain = training_call(moe, x, grad)

    def read() -> None:
        plain()
        collect_aux(moe)

    row = compare({"with": read, "without": plain}, 4 * repeats)
    return [row("M=64 T=2048 with statistics / without", "with", "without", 1.05, True)]


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "peers8": partial(peer_rows, 8),
    "peers64": partial(peer_rows, 64),
    "auto": auto_rows,
    "expert_choice": expert_choice_rows,
    "statistics": statistics_rows,
    "memory": memory_rows,
}


def figures(rows: list[Row], threads: int) -> dict[str, object]:
    """The rows as `benchmarks/run.py` reads them."""
    section = {
        "title": f"Mixture-of-experts layer, {threads} thread{'s' if threads > 1 else ''}",
        "what": f"Forward and backward, fp32; {TOKENS} tokens, M {DIM}, H {HIDDEN}, k {TOP_K} if a line says no other.",
        "machine": f"{platform.machine()}, {threads} threads, torch {torch.__version__}",
        "rows": [
            {
                "name": r.name,
                "ratio": r.ratio,
                "bar": None if math.isinf(r.bar) else r.bar_text,
                "met": None if math.isinf(r.bar) else r.met,
                "note": f"{r.numerator:.1f} against {r.denominator:.1f} {r.unit}",
            }
            for r in rows
        ],
    }
    return {"sections": [section]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="compute threads")
    parser.add_argument("--repeats", type=int, default=11, help="interleaved repeats of every call")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), help="parts to run; default all")
    parser.add_argument("--cpu-clock", action="store_true", help="processor time: steadier, with one thread only")
    parser.add_argument("--out", type=Path, default=None, help="write the rows as JSON to this file")
    arguments = parser.parse_args()
    if arguments.cpu_clock and arguments.threads != 1:
        parser.error("--cpu-clock adds up the time of all threads: use --threads 1")
    torch.set_num_threads(arguments.threads)
    if arguments.cpu_clock:
        global CLOCK
        CLOCK = time.process_time
    rows: list[Row] = []
    print(f"threads {arguments.threads}, torch {torch.__version__}, T {TOKENS}, M {DIM}, H {HIDDEN}, k {TOP_K}")
    print(f"{'what':52} {'ratio':>7} {'bar':>9}  {'met':3} {'above':>9} {'below':>9}")
    for name in arguments.only or PARTS:
        for r in PARTS[name](arguments.repeats):
            met = "-" if math.isinf(r.bar) else "yes" if r.met else "NO"
            times = f"{r.numerator:9.2f} {r.denominator:9.2f} {r.unit}"
            print(f"{r.name:52} {r.ratio:7.3f} {r.bar_text:>9}  {met:3} {times}", flush=True)
            rows.append(r)
    if arguments.out is not None:
        temporary = arguments.out.with_suffix(".part")
        temporary.write_text(json.dumps(figures(rows, arguments.threads), indent=1) + "\n")
        temporary.replace(arguments.out)


if __name__ == "__main__":
    main()
