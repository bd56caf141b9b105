"""Compression of a model of the user's, a table of the ways to do it, and task adapters on what came out."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from tenfold.align.sft import sft_batches, sft_loss
from tenfold.compress.adapters import AdapterBank
from tenfold.compress.palettize import PaletteConfig, bits_per_weight, palettize
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm import compressing, material, tuning
from tenfold.recipes.afm.align_verbs import (
    SHOWN,
    compare,
    held_out_tasks,
    loss_and_accuracy,
    show_learning,
)
from tenfold.recipes.afm.compressing import DENSE_BITS, ROWS, Text
from tenfold.recipes.afm.corpus import ENGLISH, windows
from tenfold.recipes.afm.opening import ADAPTERS, MODEL, RECOVERY, open_dense, open_model, recovery_of
from tenfold.recipes.afm.post_config import Compression, LoRA, Sampled, Toy
from tenfold.recipes.afm.printing import print_rows
from tenfold.recipes.afm.verb_run import ANEW, Flat, Goes, asked_of, working_in
from tenfold.text.corpus import load_texts, tokenize
from tenfold.text.tokenizer import Tokenizer

BOOK, OTHER = "book_alice.txt", "wikitext2_valid.txt"  # to learn from and to measure on, where the user gives no text
LEAST_HELD_OUT = 2000  # characters


@dataclass(frozen=True)
class CompressJob(Compression):
    """What `compress` is asked.

    Args:
        model: dense, as for `sft`.
        text: UTF-8 .txt, .jsonl or .jsonl.gz files to calibrate and recover on, whose last 5 % are measured on; none: a
            novel, measured on the start of WikiText-2's validation part (tenfold data get 02-afm).
        measured: most characters to measure on.
        compare: instead of compressing once, try the ways of the table in docs/systems/afm.md: bits, axes, scales,
            k-means against rounding, with and without the importance of inputs.
        kv_bits: 8 measures also what keys and values in eight bits cost while text is read.
        seed: of the adapter and the order of its text.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    text: tuple[Path, ...] = ()
    measured: int = 20_000
    compare: bool = False
    kv_bits: Literal[8, 16] = 16
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measured < LEAST_HELD_OUT:
            raise ValueError(f"measured: got {self.measured} characters, need at least {LEAST_HELD_OUT}")


def compress(job: Annotated[CompressJob, Flat] = CompressJob(), going: Goes = ANEW) -> None:
    """Palettize a model, to 2 to 8 bits a weight, and train an adapter that recovers what that cost."""
    job, run = asked_of("compress", job, going)
    model, tokenizer = open_dense(job.model, "compress")
    sample = text_of(job, tokenizer)
    length = min(job.recovery.length, model.cfg.max_len)
    sample.calibration(job.calibration, length)  # text that is too short is told before there is a run
    with working_in("compress", job, run, going, "afm compress: few bits a weight") as run:
        if job.compare:
            rows = compare_ways(job, run, model, tokenizer, sample, length)
            print_rows("bits a weight and perplexity", rows)
            return
        rows = compress_once(job, run, model, tokenizer, sample, length)
        print_rows(f"{job.model}, compressed", rows)
    print(f"{run.path / MODEL}")


def compress_once(
    job: CompressJob, run: Run, model: Decoder, tokenizer: Tokenizer, sample: Text, length: int
) -> list[dict[str, Any]]:
    """Palettes, recovery, and a line each on what the model is then."""

    def line(name: str, model: Decoder, bits: tuple[float, float]) -> dict[str, Any]:
        found = tuning.once(run, name, lambda: compressing.measured(model, tokenizer, sample.held_out, length))
        return {"model": name, "bits, projections": bits[0], "bits, all weights": bits[1], **found}

    rows = [line("dense", model, (DENSE_BITS, DENSE_BITS))]
    small = compressing.compressed(job, run, "palettes", run.path / MODEL, model, sample, length)
    tokenizer.save(run.path / MODEL)
    bits = bits_per_weight(small, embeddings=False), bits_per_weight(small)
    rows.append(line("palettized", small, bits))
    if job.recover:
        settings = replace(job.recovery, length=length)
        bank = compressing.recovered(settings, run, RECOVERY, small, sample, job.seed)
        bank.save(RECOVERY, run.path / MODEL / ADAPTERS / RECOVERY, dtype=torch.float16)
        rows.append(line("with the recovery adapter", small, bits))
        show_learning(run, f"{RECOVERY}-text", {"ce": "training loss of the adapter, nats"}, title="recovery")
    if job.kv_bits == 8:
        held_out = windows(np.asarray(tokenizer.encode(sample.held_out[0])), length, ROWS)
        lines = compressing.cache_rows(small, held_out.to(device_type()))
        run.table("keys and values", lines, note="Of held-out rows, read 64 tokens at a time.")
    dense, low = rows[0]["loss"], rows[1]["loss"]
    words = f"{bits[0]:.2f} bits a weight of the projections, {bits[1]:.2f} of all; the loss rose by {low - dense:.4f} nats a token"
    if job.recover and low > dense:
        words += f", of which the adapter recovers {(low - rows[2]['loss']) / (low - dense):.0%}"
    run.text("summary", f"{words}.")
    run.table("sizes and losses", rows, note="Loss in nats a token of held-out text.")
    return rows


def ways() -> dict[str, tuple[PaletteConfig, bool]]:
    """The table's ways: how, and whether inputs count."""
    base = PaletteConfig(bins=4096)
    # Tables of 256 values: steps that are equal are as good, and k-means takes minutes.
    found = {"8 bits, to nearest": (replace(base, bits=8, method="uniform"), False)}
    blocks: dict[str, dict[str, Any]] = {
        "no scales": {},
        "a scale a line": {"block": 0},
        "a scale for 64": {"block": 64},
        "scale and offset of 6 bits for 32": {"block": 32, "block_bits": 6, "offsets": True},
    }
    for axis, (words, block) in itertools.product((0, 1), blocks.items()):
        how = replace(base, axis=axis, **block)
        place = f"4 bits, groups of 16 {'columns' if axis else 'rows'}, {words}"
        found[f"{place}, to nearest"] = (replace(how, method="uniform"), False)
        found[f"{place}, k-means"] = (how, False)
        found[f"{place}, k-means by inputs"] = (how, True)
    return found


def compare_ways(
    job: CompressJob, run: Run, model: Decoder, tokenizer: Tokenizer, sample: Text, length: int
) -> list[dict[str, Any]]:
    """Every way's size and perplexity; the embedding stays as it is, so that only the projections differ."""
    model = model.to(device_type()).eval()
    rows = sample.calibration(job.calibration, length).to(device_type())
    importance = compressing.input_importance(model, rows)

    def one(how: PaletteConfig, inputs: bool) -> dict[str, float]:
        small = palettize(
            copy.deepcopy(model), replace(how, embedding_bits=16), importance=importance if inputs else None
        )
        found = compressing.measured(small, tokenizer, sample.held_out, length)
        return {"bits, projections": bits_per_weight(small, embeddings=False), **found}

    dense = tuning.once(run, "dense", lambda: compressing.measured(model, tokenizer, sample.held_out, length))
    lines: list[dict[str, Any]] = [{"way": "dense", "bits, projections": DENSE_BITS, **dense}]
    for name, (how, inputs) in ways().items():
        stage = name.replace(",", "").replace(" ", "-")
        lines.append({"way": name, **tuning.once(run, stage, partial(one, how, inputs))})
        print(
            f"{name}: {lines[-1]['bits, projections']:.3f} bits, perplexity {lines[-1]['perplexity']:.3f}", flush=True
        )
    lines = [{**line, "loss above dense": line["loss"] - dense["loss"]} for line in lines]
    best = min(lines[2:], key=lambda line: line["loss"])
    run.text("summary", f"Of the ways with 4 bits an index the best is: {best['way']}, perplexity {best['perplexity']:.3f} "
             f"at {best['bits, projections']:.3f} bits a weight of the projections (dense {dense['perplexity']:.3f}).")  # fmt: skip
    run.table("ways", lines, note="Loss in nats a token of held-out text. The embedding is not compressed.")
    return lines


@dataclass(frozen=True)
class AdapterJob(LoRA):
    """What `adapter` is asked.

    Args:
        model: the base, palettized or dense, as for `sft`; it stays as it is.
        data: conversations, as for `sft`.
        start: folder of the adapter to begin from; none: the recovery adapter of a run of `compress`, where there is one;
            "new": a new one.
        toy: the made-up instructions, orders and messages.
        answers: how long those are that are measured.
        seed: of order and split.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.TOY
    start: str | None = None
    toy: Toy = field(default_factory=Toy)
    answers: Sampled = field(default_factory=Sampled)
    seed: int = 0


def adapter(job: Annotated[AdapterJob, Flat] = AdapterJob(), going: Goes = ANEW) -> None:
    """Train a task adapter on a frozen model, from its recovery adapter where it has one; PEFT opens what comes out."""
    job, run = asked_of("adapter", job, going)
    model, tokenizer = open_model(job.model)
    if job.length > model.cfg.max_len:
        raise UserError(f"--length: got {job.length}, {job.model} reads at most {model.cfg.max_len} tokens")
    bank = AdapterBank(model.to(device_type()))
    start = recovery_of(job.model) if job.start is None else None if job.start == "new" else Path(job.start)
    if start is None:
        bank.add("task", job.rank, generator=torch.Generator().manual_seed(compressing.ADAPTER_SEED + job.seed))
    else:
        bank.load("task", start)
    learned, held_out = material.fine_tuning_rows(job.data, job.toy, tokenizer, job.length, job.seed)
    tasks = held_out_tasks(job.data, job.toy, job.seed)
    with working_in("adapter", job, run, going, "afm adapter: one task on a frozen model") as run:

        def measure() -> dict[str, float]:
            return loss_and_accuracy(model, tokenizer, held_out, tasks, job.toy, job.answers.max_tokens)

        bank.use("task")
        before = tuning.once(run, "before", measure)
        stream = sft_batches(learned, job.length, job.rows, seed=job.seed)
        tuning.tune_adapter(job, run, "adapter", model, "task", sft_loss, stream, job.seed)
        after = tuning.once(run, "after", measure)
        show_learning(run, "adapter", {"ce": "loss, nats a learned token"})
        compare(run, before, after, len(learned), "rows learned from")
        if tasks:
            run.table("answers", material.examples(model, tokenizer, tasks[:SHOWN], job.answers))
        bank.save("task", run.path / ADAPTERS / "task", dtype=torch.float16)
    folder = run.path / ADAPTERS / "task"
    print(
        f"{folder}: {bank.num_bytes('task') / 2e6:.2f} MB (serve it: tenfold afm serve {job.model} --adapters task={folder})"
    )


def text_of(job: CompressJob, tokenizer: Tokenizer) -> Text:
    """The user's text, or a novel.

    Raises:
        UserError: no text, or too little.
    """
    if job.text:
        whole = "\n\n".join(document.text for document in load_texts(job.text))
        cut = len(whole) - max(LEAST_HELD_OUT, round(material.HELD_OUT * len(whole)))
        if cut < LEAST_HELD_OUT:
            raise UserError(f"text: got {len(whole)} characters, need at least {2 * LEAST_HELD_OUT}")
        train, held_out = whole[:cut], whole[cut:]
        ids: NDArray[np.integer] = np.asarray(tokenizer.encode(train))
    else:
        folder = data_path(ENGLISH)
        ids = tokenize(load_texts([folder / BOOK]), tokenizer)
        held_out = load_texts([folder / OTHER])[0].text
    return Text(ids, [held_out[: job.measured]])


VERBS = {"compress": compress, "adapter": adapter}
