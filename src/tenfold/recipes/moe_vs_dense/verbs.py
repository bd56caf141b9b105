"""What a user does with the experiment: plan a cluster run, time the layers here, score a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tenfold.core.config import need
from tenfold.lm.cost import MoEPlacement, explain_speedup
from tenfold.lm.decoder import Decoder
from tenfold.lm.gguf import read_gguf_tokenizer
from tenfold.lm.planner import plan as plan_step
from tenfold.lm.pretrained import find
from tenfold.lm.score import PaperTable, evaluate, paper_rows
from tenfold.recipes.moe_vs_dense.bench import bench
from tenfold.text.tokenizer import Tokenizer


def plan(
    shapes: tuple[str, ...] = ("6.4B", "12.6B", "29.6B"),
    experts: int = 256,
    every: tuple[int, ...] = (4, 2),
    top_k: int = 2,
    hardware: str = "tpu-v5p",
    devices: int = 256,
    batch_tokens: int = 8_388_608,
    overlap: float = 0.8,
    fully_sharded: bool = True,
) -> None:
    """Step time, memory and best mesh of dense models and their sparse versions, before paying for a cluster.

    Args:
        shapes: dense backbones by name: 1.6B, 6.4B, 12.6B, 29.6B.
        experts: experts of a sparse layer.
        every: how many layers there are to one sparse layer; one row each.
        top_k: experts a token goes to.
        hardware: name of the device: h100, h200, a100, tpu-v5p, tpu-v4, cpu.
        devices: how many; every data x expert x model split is tried.
        batch_tokens: tokens of one training step.
        overlap: share of the gradient reduction hidden behind the backward pass, 0 to 1.
        fully_sharded: parameters and optimizer state split over the data axis (FSDP), not replicated.
    """
    if not shapes:
        raise ValueError("shapes: got none, need one or more of 1.6B, 6.4B, 12.6B, 29.6B")
    for name, count in (("experts", experts), ("every", every), ("top_k", top_k), ("devices", devices)):
        need(name, count, 1, 1 << 20)
    need("batch_tokens", batch_tokens, 1)
    # A terminal has a width to keep to; a pipe or a file has none.
    show: Callable[..., None] = Console().print if sys.stdout.isatty() else print
    for shape in shapes:
        placements = [MoEPlacement(num_experts=experts, every=each, top_k=top_k) for each in every]
        show(
            plan_step(
                shape,
                placements,
                hardware,
                devices,
                batch_tokens=batch_tokens,
                overlap=overlap,
                fully_sharded=fully_sharded,
            )
        )
        show()
    show(str(explain_speedup()))


def eval_(
    checkpoint: str = "",
    /,
    tasks: tuple[str, ...] = (),
    shots: int = 0,
    limit: int | None = None,
    data: Path | None = None,
) -> None:
    """Score a checkpoint by likelihood: accuracy, length-normalised accuracy, perplexity, standard error.

    Args:
        checkpoint: folder with config.json, safetensors and tokenizer.json (a run's models/NAME, or any Llama, Qwen3 or
            Mixtral folder), the .gguf file of a Llama, or a name that `tenfold models list` shows.
        tasks: names of tasks, say arc_easy,blimp; none: the paper's thirteen with its shots.
        shots: demonstrations before each query.
        limit: first so many items of each task.
        data: folder of evaluation sets; default TENFOLD_DATA.
    """
    if not checkpoint:
        raise ValueError("checkpoint: got none, need a folder, a .gguf file, or a name of `tenfold models list`")
    need("shots", shots, 0)
    need("limit", limit if limit is not None else 1, 1)
    folder = find(checkpoint)
    model = Decoder.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = read_gguf_tokenizer(folder) if folder.suffix == ".gguf" else Tokenizer.load(folder)
    if not tasks:
        rows = []
        for row in paper_rows(model, tokenizer, limit, data):
            rows.append(row)
            Console(stderr=True).print(f"{row[0]}: {'n/a' if row[2] is None else 'scored'}")
        print(PaperTable(tuple(rows)))
        return
    table = Table(title=f"{folder.name}, {shots}-shot")
    for column in ("task", "acc", "acc_norm", "acc_bytes", "ppl", "stderr", "n", "truncated"):
        table.add_column(column, justify="left" if column == "task" else "right")
    names = [name for task in tasks for name in task.split(",") if name]
    for name, scores in evaluate(model, tokenizer, names, shots, limit, data).items():
        figures = (scores["acc"], scores["acc_norm"], scores["acc_bytes"], scores["ppl"], scores["stderr"])
        cells = ("-" if value is None else f"{value:.4f}" for value in figures)
        table.add_row(name, *cells, str(scores["n"]), str(scores["truncated"]))
    Console().print(table)


VERBS = {"plan": plan, "bench": bench, "eval": eval_}
