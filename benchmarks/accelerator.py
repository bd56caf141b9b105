"""Layers and models of the papers' sizes on one accelerator, in bfloat16, beside their peers and the card's own peak.

    python benchmarks/accelerator.py --out accelerator.json

Weights are random: their values do not change the time.
"""

from __future__ import annotations

import argparse
import gc
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rows import Row, parser, row, write_section
from torch import Tensor, nn

from tenfold.core.flops import measure_peak
from tenfold.core.mesh import device_type
from tenfold.core.timing import Timing, interleaved, ratio
from tenfold.diffusion.config import paper_config
from tenfold.diffusion.reports import flop_report
from tenfold.diffusion.transformer import ECDiT
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import MoE, MoEConfig

TYPE = torch.bfloat16
WORDS = 77
ON_DEVICE = DecoderConfig(49152, 3072, 26, 24, 8, 128, 8064, max_len=4096)


def placed(make: Callable[[], nn.Module]) -> Any:
    """A module made without memory, then given random weights in bfloat16 on the accelerator."""
    with torch.device("meta"):
        module = make()
    module = module.to(TYPE).to_empty(device=device_type())
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
            else:
                tensor.zero_()
    return module


def emptied() -> None:
    gc.collect()
    torch.accelerator.memory.empty_cache()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device=device_type(), dtype=TYPE)


def backward_of(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    grad = torch.randn_like(x)

    def call() -> None:
        layer.zero_grad(set_to_none=True)
        y = layer(x.detach().requires_grad_())
        (y[0] if isinstance(y, tuple) else y).backward(grad)

    return call


def times(timings: Mapping[str, Timing], *names: str) -> str:
    return " against ".join(f"{1e3 * timings[name].median:.2f} ms" for name in names)


def expert_choice_rows(repeats: int, peak: float) -> list[Row]:
    """EC-DiT's sparse layer at two of the paper's widths: 32 images of 256 tokens, forward and backward."""
    rows = []
    for name in ("xl", "xxl"):
        size = paper_config(name)
        shape = replace(size.moe_config(), backend="auto")
        x = normal(32, 256, size.dim)
        layers: dict[str, nn.Module] = {
            backend: placed(partial(MoE, replace(shape, backend=backend)))
            for backend in ("auto", "einsum", "loop", "grouped", "padded")
        }
        layers["dense"] = placed(partial(FeedForward, size.dim, 8 * size.dim, activation="gelu_tanh", bias=True))
        timings = interleaved({key: backward_of(layer, x) for key, layer in layers.items()}, repeats, warmup=3)
        work = 3 * 2 * 2 * x[..., 0].numel() * 2 * size.dim * 4 * size.dim  # two experts a token, three passes
        share = work / timings["auto"].median / peak
        title = f"expert choice, {name}, d={size.dim}, 32 experts"
        rows += [
            row(f"{title}: one-hot / ours", ratio(timings, "einsum", "auto"), times(timings, "einsum", "auto"), 1.05),
            row(f"{title}: loop over experts / ours", ratio(timings, "loop", "auto"), times(timings, "loop", "auto"), 1.0),
            row(f"{title}: ours / dense of the same operations", ratio(timings, "auto", "dense"), times(timings, "auto", "dense")),
            row(f"{title}: share of the card's peak", share, f"{share * peak / 1e12:.0f} TFLOP/s; grouped {times(timings, 'grouped')}, padded {times(timings, 'padded')}"),
        ]  # fmt: skip
        del layers, timings
        emptied()
    return rows


def token_choice_rows(repeats: int, peak: float) -> list[Row]:
    """A layer of Mixtral's shape, 8192 tokens, beside transformers' own block."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    width, hidden, experts = 4096, 14336, 8
    x = normal(2, 4096, width)
    theirs = MixtralConfig(
        hidden_size=width, intermediate_size=hidden, num_local_experts=experts, num_experts_per_tok=2
    )
    theirs._experts_implementation = "grouped_mm"
    layers = {
        "ours": placed(lambda: MoE(MoEConfig(width, hidden, experts, 2, router="topk", dropless=True))),
        "theirs": placed(lambda: MixtralSparseMoeBlock(theirs)),
    }
    timings = interleaved({key: backward_of(layer, x) for key, layer in layers.items()}, repeats, warmup=3)
    share = 3 * 2 * 3 * x[..., 0].numel() * 2 * width * hidden / timings["ours"].median / peak
    title = "token choice, Mixtral's shape, 8192 tokens"
    return [
        row(f"{title}: transformers / ours", ratio(timings, "theirs", "ours"), times(timings, "theirs", "ours"), 1.0),
        row(f"{title}: share of the card's peak", share, f"{share * peak / 1e12:.0f} TFLOP/s"),
    ]


def model_rows(repeats: int) -> list[Row]:
    """A forward pass of EC-DiT's whole models at 16 images of 256 pixels, experts over dense."""
    rows = []
    for name in ("xl", "xxl"):
        config = paper_config(name)
        x, t = normal(16, 4, 32, 32), torch.rand(16, device=device_type())
        text = normal(16, WORDS, config.text_dim)
        models = {
            router: placed(partial(ECDiT, replace(config, router=router))).eval() for router in ("ec", "dense", "tc")
        }

        def forward(model: nn.Module, x: Tensor = x, t: Tensor = t, text: Tensor = text) -> Callable[[], None]:
            def call() -> None:
                with torch.no_grad():
                    model(x, t, text)

            return call

        timings = interleaved({router: forward(model) for router, model in models.items()}, repeats, warmup=3)
        theory = flop_report(config, text_tokens=WORDS).ratio
        size = sum(parameter.numel() for parameter in models["ec"].parameters())
        measured = ratio(timings, "ec", "dense")
        note = f"{times(timings, 'ec', 'dense')}; {theory:.3f} by operations, 1.20 to 1.28 measured by the paper"
        rows += [
            row(f"EC-DiT {name}, {size / 1e9:.1f}e9 parameters, forward: ec / dense", measured, note),
            row(f"EC-DiT {name}: token choice / expert choice", ratio(timings, "tc", "ec"), times(timings, "tc", "ec")),
        ]
        del models, timings
        emptied()
    return rows


def decoder_rows(repeats: int, peak: float) -> list[Row]:
    """AFM-on-device's shape: a forward and backward pass of 4096 tokens, and greedy tokens, beside transformers."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    c = ON_DEVICE
    theirs_config = Qwen3Config(
        vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
        max_position_embeddings=c.max_len, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    device = device_type()
    with torch.device(device):
        model = Decoder(c, torch.Generator(device).manual_seed(0)).to(TYPE)
        peer = Qwen3ForCausalLM(theirs_config).to(TYPE)
    ids = torch.randint(0, c.vocab_size, (1, 4096), device=device)

    def train(model: nn.Module) -> Callable[[], None]:
        def call() -> None:
            model.zero_grad(set_to_none=True)
            out = model(ids)
            logits = out if isinstance(out, Tensor) else out.logits
            nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).backward()

        return call

    timings = interleaved({"ours": train(model), "theirs": train(peer)}, repeats, warmup=2)
    count = sum(parameter.numel() for parameter in model.parameters())
    share = 6 * count * 4096 / timings["ours"].median / peak
    title = "AFM-on-device, 2.7e9 parameters"
    rows = [
        row(f"{title}, forward and backward of 4096 tokens: transformers / ours", ratio(timings, "theirs", "ours"), times(timings, "theirs", "ours"), 1.0),
        row(f"{title}, the same: share of the card's peak", share, f"{4096 / timings['ours'].median:.0f} tokens a second, attention not counted"),
    ]  # fmt: skip
    model.zero_grad(set_to_none=True)
    peer.zero_grad(set_to_none=True)
    emptied()
    rows += _generation_rows(model.eval(), peer.eval(), title)
    return rows


def _generation_rows(model: Decoder, peer: Any, title: str) -> list[Row]:
    peer.generation_config.eos_token_id, peer.generation_config.pad_token_id = None, 0
    rows = []
    for batch, new in ((1, 32), (64, 32)):
        prompts = torch.randint(10, 2000, (batch, 8), generator=torch.Generator().manual_seed(batch))
        ids = prompts.to(device_type())
        engine = Engine(model, max_batch=batch)

        def ours(engine: Engine = engine, prompts: Tensor = prompts, new: int = new) -> None:
            streams = [engine.submit(Request(prompt, new, SamplingRule(temperature=0))) for prompt in prompts.tolist()]
            for stream in streams:
                for _ in stream:
                    pass

        def theirs(ids: Tensor = ids, new: int = new) -> None:
            peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)

        timings = interleaved({"ours": ours, "theirs": theirs}, 3, warmup=1)
        rate = batch * new / timings["ours"].median
        note = f"{rate:.0f} against {batch * new / timings['theirs'].median:.0f} tokens a second"
        rows.append(
            row(f"{title}, greedy, batch {batch}: transformers / ours", ratio(timings, "theirs", "ours"), note, 1.0)
        )
        engine.close()
    return rows


def main() -> None:
    arguments: argparse.Namespace = parser("papers' sizes on an accelerator", repeats=9).parse_args()
    if device_type() == "cpu":
        raise SystemExit("no accelerator on this machine")
    repeats = arguments.repeats
    peak = measure_peak(device_type(), TYPE, size=8192)
    rows = [row("peak of a bf16 matrix product, TFLOP/s", peak / 1e12, "8192 x 8192 x 8192")]
    for part in (
        lambda: expert_choice_rows(repeats, peak),
        lambda: token_choice_rows(repeats, peak),
        lambda: model_rows(repeats),
        lambda: decoder_rows(repeats, peak),
    ):
        rows += part()
        emptied()
    what = "Layers and whole models of the papers' sizes, bfloat16, random weights."
    card = torch.cuda.get_device_name() if device_type() == "cuda" else device_type()
    write_section(
        arguments.out, "One accelerator", what, f"{card}, {platform.machine()}, torch {torch.__version__}", rows
    )


if __name__ == "__main__":
    main()
