"""Training a model of SmolLM2's shape: our step beside transformers' Qwen3 and a plain loop, in fp32 and bf16.

    python benchmarks/training_lm.py --threads 2 --out training_lm.json

The plain loop is what one writes by hand: modules of a few lines, torch's own cross-entropy, norm and clip.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from rows import Row, milliseconds, parser, row, write
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.fit import TrainState, train_step
from tenfold.core.flops import measure_peak
from tenfold.core.optim import adamw
from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss

SHAPE = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536, rope_base=1e5, qk_norm=True, max_len=2048)
ROWS, SEQUENCE = 4, 256
BARS = {"fp32": 1.05, "bf16": 1.15}
Precision = Literal["fp32", "bf16"]


class PlainBlock(nn.Module):
    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.norm1, self.norm2 = nn.RMSNorm(cfg.dim, cfg.norm_eps), nn.RMSNorm(cfg.dim, cfg.norm_eps)
        self.norm_q, self.norm_k = nn.RMSNorm(cfg.head_dim, cfg.norm_eps), nn.RMSNorm(cfg.head_dim, cfg.norm_eps)
        self.q = nn.Linear(cfg.dim, cfg.n_heads * cfg.head_dim, bias=False)
        self.k, self.v = (nn.Linear(cfg.dim, cfg.n_kv_heads * cfg.head_dim, bias=False) for _ in range(2))
        self.o = nn.Linear(cfg.n_heads * cfg.head_dim, cfg.dim, bias=False)
        self.gate, self.up = (nn.Linear(cfg.dim, cfg.ffn_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(cfg.ffn_dim, cfg.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (p(h).unflatten(-1, (-1, self.cfg.head_dim)) for p in (self.q, self.k, self.v))
        q, k, v = self.norm_q(q).transpose(1, 2), self.norm_k(k).transpose(1, 2), v.transpose(1, 2)

        def turn(y: Tensor) -> Tensor:
            a, b = y.chunk(2, -1)
            return y * cos + torch.cat([-b, a], -1) * sin

        y = F.scaled_dot_product_attention(turn(q), turn(k), v.to(q.dtype), is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class PlainModel(nn.Module):
    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(cfg.vocab_size, cfg.dim)
        self.blocks = nn.ModuleList(PlainBlock(cfg) for _ in range(cfg.n_layers))
        self.norm = nn.RMSNorm(cfg.dim, cfg.norm_eps)
        angle = torch.outer(torch.arange(SEQUENCE), cfg.rope_base ** -(torch.arange(0, cfg.head_dim, 2) / cfg.head_dim))
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1))
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.embed.weight)


def plain_step(ids: Tensor, targets: Tensor, precision: Precision) -> Callable[[], object]:
    """Forward, backward, clip and AdamW as in a short training script."""
    model = PlainModel(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def transformers_step(model: Decoder, batch: dict[str, Tensor], precision: Precision) -> Callable[[], object]:
    """The same weights in transformers' Qwen3, whose own loss is the mean cross-entropy; our loop around it."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        twin = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    state = TrainState(twin, adamw(twin, 1e-4))

    def loss(module: nn.Module, given: dict[str, Tensor]) -> tuple[Tensor, dict[str, object]]:
        logits = module(input_ids=given["ids"], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), given["targets"].flatten()), {
            "weight": given["targets"].numel()
        }

    return lambda: train_step(state, loss, [batch], precision=precision)


def rows_of(precision: Precision, repeats: int) -> list[Row]:
    """Our step, theirs and the plain one, in turn."""
    ids = torch.randint(0, SHAPE.vocab_size, (ROWS, SEQUENCE + 1), generator=torch.Generator().manual_seed(1))
    batch = {"ids": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    model = Decoder(replace(SHAPE), torch.Generator().manual_seed(0))
    state = TrainState(model, adamw(model, 1e-4))
    steps = {
        "transformers": transformers_step(model, batch, precision),
        "plain": plain_step(batch["ids"], batch["targets"], precision),
        "ours": lambda: train_step(state, lm_loss(z_loss=0.0), [batch], precision=precision),
    }
    timings = interleaved(steps, repeats, warmup=1)
    tokens = ROWS * SEQUENCE
    speed = {name: tokens / timing.median for name, timing in timings.items()}
    rows = []
    for peer, bar in (("transformers", BARS[precision]), ("plain", 1 / 1.1)):
        note = f"{speed['ours']:.0f} against {speed[peer]:.0f} tokens/s, {milliseconds(timings['ours'])} a step"
        name = {"transformers": "transformers' Qwen3", "plain": "plain loop"}[peer]
        rows.append(row(f"{precision}: {name} / ours", ratio(timings, peer, "ours"), note, bar))
    peak = measure_peak(dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    share = 3 * model.flops_per_token(SEQUENCE) * tokens / timings["ours"].median / peak
    note = f"peak {peak / 1e9:.0f} GFLOP/s, 1024 x 1024 products in this run"
    return [*rows, row(f"{precision}: share of the peak", share, note)]


def main() -> None:
    arguments = parser("training steps of SmolLM2's shape", repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [each for precision in BARS for each in rows_of(precision, arguments.repeats)]  # type: ignore[arg-type]
    what = f"135 million parameters, {ROWS} x {SEQUENCE} tokens; forward, backward, clip, AdamW."
    write(arguments.out, "Training step of SmolLM2's shape", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
