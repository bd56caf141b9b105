"""Whole training steps (forward, backward, clip, AdamW) in fp32: the share of this machine's matrix-product peak they reach,
what a mixture of experts adds, and the same model in transformers beside ours.

    python benchmarks/training_step.py --threads 1 --out training_step.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rows import Row, milliseconds, parser, row, write
from torch import Tensor, nn

from tenfold.core.fit import TrainState, train_step
from tenfold.core.flops import measure_peak
from tenfold.core.optim import adamw
from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.nn.moe import MoEConfig

VOCABULARY, LAYERS, SEQUENCE, ROWS = 4096, 4, 256, 8


def decoder(width: int, family: str) -> Decoder:
    """A decoder of one family; every second layer of a sparse one holds 8 experts, top-2."""
    hidden = -(-8 * width // 192) * 64
    moe = None
    if family != "dense":
        expert = hidden // 2 if family == "half-width experts" else hidden
        moe = MoEConfig(width, expert, 8, 2, router="topk", dropless=True, causal=True)
    heads = max(1, width // 64)
    cfg = DecoderConfig(VOCABULARY, width, LAYERS, heads, heads, width // heads, hidden, qk_norm=False, moe=moe)
    return Decoder(cfg, torch.Generator().manual_seed(0))


def step_of(model: nn.Module, batch: dict[str, Tensor], loss: Callable) -> Callable[[], object]:
    state = TrainState(model, adamw(model, 1e-3))
    return lambda: train_step(state, loss, [batch])


def transformers_twin(model: Decoder, folder: Path) -> nn.Module:
    """The same weights in transformers' Llama."""
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    twin: nn.Module = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return twin


def transformers_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, object]]:
    logits = model(input_ids=batch["ids"], use_cache=False).logits
    value = nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    return value, {"weight": batch["targets"].numel()}


def rows_of(width: int, repeats: int, scratch: Path) -> list[Row]:
    """Figures of one width."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (ROWS, SEQUENCE + 1), generator=generator)
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}
    models = {family: decoder(width, family) for family in ("dense", "half-width experts", "full-width experts")}
    twin = transformers_twin(models["dense"], scratch / f"llama-{width}")
    steps = {family: step_of(model, batch, lm_loss(z_loss=0.0)) for family, model in models.items()}
    steps["transformers"] = step_of(twin, batch, transformers_loss)
    timings = interleaved(steps, repeats)
    peak = measure_peak()
    rows = []
    for family, model in models.items():
        operations = 3 * model.flops_per_token(SEQUENCE) * ids[:, 1:].numel()
        share = operations / timings[family].median / peak
        note = (
            f"{milliseconds(timings[family])} a step; peak {peak / 1e9:.0f} GFLOP/s, 1024 x 1024 products in this run"
        )
        rows.append(row(f"width {width}, {family}: share of the peak", share, note))
    for family in list(models)[1:]:
        note = f"{milliseconds(timings[family])} against {milliseconds(timings['dense'])}"
        rows.append(row(f"width {width}, {family} / dense: step", ratio(timings, family, "dense"), note))
    note = f"{milliseconds(timings['transformers'])} against {milliseconds(timings['dense'])}"
    name = f"width {width}, transformers' Llama / ours: step"
    rows.append(row(name, ratio(timings, "transformers", "dense"), note, bar=1.0))
    return rows


def main() -> None:
    import tempfile

    options = parser("training steps beside the machine's peak and transformers", repeats=11)
    options.add_argument("--widths", type=int, nargs="+", default=[64, 256], help="model widths")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [each for w in arguments.widths for each in rows_of(w, arguments.repeats, Path(scratch))]
    what = (
        f"{LAYERS} layers, vocabulary {VOCABULARY}, {ROWS} x {SEQUENCE} tokens, fp32; forward, backward, clip, AdamW. "
        "Operations count active weights and causal attention, three times the forward pass."
    )
    write(arguments.out, "Training step of the decoder", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
