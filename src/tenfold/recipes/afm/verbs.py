"""What a user does apart from the whole chain: clean text, train a tokenizer, prune or distil a model of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tenfold.compress.distill import distill_kl_loss, distill_top1_loss
from tenfold.compress.prune import FFNPruner, PruneMethod
from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.fit import Loss, TrainState, fit
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import lm_loss
from tenfold.lm.optim import OptimizerConfig
from tenfold.recipes.afm.chain import Z_LOSS, save_model
from tenfold.recipes.afm.corpus import encoded, step_row
from tenfold.recipes.afm.opening import open_dense, open_model
from tenfold.recipes.afm.printing import print_rows
from tenfold.text.corpus import TokenWindows, load_texts, tokenize
from tenfold.text.decontaminate import default_benchmarks
from tenfold.text.pipeline import DEFAULT, PrepareConfig, prepare, write_jsonl
from tenfold.text.token_file import write_tokens
from tenfold.text.tokenizer import Tokenizer, train_tokenizer


def tokenizer(files: tuple[Path, ...], /, out: Path = Path("tokenizer"), vocabulary: int = 8192) -> None:
    """Train a tokenizer on text files and save it: byte-pair, single digits, byte fallback, a chat template.

    Args:
        files: UTF-8 .txt, .jsonl or .jsonl.gz.
        out: folder for tokenizer.json and tokenizer_config.json, as transformers reads them.
        vocabulary: ids at most; little text gives fewer.
    """
    documents = load_texts(_given(files))
    _folder(out)
    try:
        trained = train_tokenizer((document.text for document in documents), vocabulary)
    except ValueError as error:
        raise UserError(str(error)) from None
    trained.save(out)
    characters = sum(len(document.text) for document in documents)
    count = sum(len(ids) for ids in trained.encode_batch([document.text for document in documents]))
    print(f"{out}: {trained.vocab_size} tokens, {characters / count:.2f} characters a token on these files")


def data(
    files: tuple[Path, ...],
    /,
    out: Path = Path("clean"),
    tokenizer: Path | None = None,
    html: Literal["auto", "always", "never"] = "auto",
    pii: Literal["mask", "drop", "keep"] = "mask",
    dedup: bool = True,
    quality: bool = True,
    decontaminate: bool = True,
) -> None:
    """Clean text files: HTML, personal data, near-copies, quality, benchmarks; JSON lines, token ids and counts.

    Args:
        files: UTF-8 .txt, .jsonl or .jsonl.gz.
        out: folder for text.jsonl, report.json and, with a tokenizer, tokens.bin with its header.
        tokenizer: folder of the tokenizer to encode with; none: no token ids.
        html: which documents are web pages: those that look like it, all, or none.
        pii: mask personal data, drop documents that hold any, or keep them.
        dedup: drop near-copies.
        quality: drop what does not read like prose.
        decontaminate: drop what holds part of GSM8K's test part or of IFEval (both are asked for).
    """
    documents = load_texts(_given(files))
    encoder = None if tokenizer is None else Tokenizer.load(tokenizer)
    if encoder is not None and encoder.eos_id is None:
        raise UserError(f"{tokenizer}: it has no end-of-text token, which closes each document")
    limits = DEFAULT.quality if quality else None
    config = PrepareConfig(html=html, pii=pii, dedup=dedup, quality=limits, decontaminate=decontaminate)
    try:
        benchmarks = default_benchmarks() if decontaminate else {}
    except UserError as error:
        raise UserError(f"{error}, or leave that step out with --no-decontaminate") from None
    records, report = prepare(documents, config, benchmarks=benchmarks)
    if not records:
        dropped = ", ".join(
            f"{step['step']} {step['documents_in'] - step['documents_out']}" for step in report.to_dict()["steps"]
        )
        raise UserError(f"files: no document is left (dropped: {dropped}); leave a step out, or give more text")
    _folder(out)
    write_jsonl(out / "text.jsonl", records)
    write_atomic(out / "report.json", json.dumps(report.to_dict(), ensure_ascii=False, indent=1))
    print_rows(f"{len(records)} of {len(documents)} documents kept", [step_row(s) for s in report.to_dict()["steps"]])
    print(out / "text.jsonl")
    if encoder is not None:
        count = write_tokens(out / "tokens.bin", encoded(records, encoder), encoder.vocab_size)
        print(f"{out / 'tokens.bin'}: {count} tokens")


def prune(
    model: str,
    /,
    text: tuple[Path, ...] = (),
    out: Path = Path("pruned"),
    keep: int = 0,
    method: PruneMethod = "soft_top_k",
    steps: int = 300,
    length: int = 128,
    rows: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
    runs_dir: Path | None = None,
) -> None:
    """Learn which inner units of a model's feed-forward layers matter on your text, and cut the others out.

    Args:
        model: as for `chat`.
        text: UTF-8 .txt, .jsonl or .jsonl.gz files to train on.
        out: folder for the smaller model.
        keep: inner units that stay in each layer; 0 keeps half.
        method: learnt masks, weight norms, or chance.
        steps: optimizer steps; weights are trained beside the mask.
        length: tokens a row.
        rows: rows a step.
        lr: peak learning rate at width 768; wider models take less.
        seed: of the order of the text.
        runs_dir: where the run folder with its log goes.
    """
    with _result_folder(out):
        decoder, encoder = open_dense(model, "prune")
        try:
            pruner = FFNPruner(decoder, keep or decoder.cfg.ffn_dim // 2, method, generator=_generator(seed))
        except ValueError as error:
            raise UserError(f"{model}: {error}") from None
        pruner.to(device_type())
        plan = _Plan(text, steps, length, rows, lr, seed, runs_dir)
        _train("prune", pruner, decoder, pruner.score_groups(), lm_loss(z_loss=Z_LOSS), encoder, plan)
        save_model(pruner.finalize(), encoder, out)
    print(f"{out}: {decoder.cfg.ffn_dim} inner units a layer, {decoder.num_params(embedding=True):,} parameters")


def distill(
    student: str,
    teacher: str,
    /,
    text: tuple[Path, ...] = (),
    out: Path = Path("distilled"),
    targets: Literal["top1", "kl"] = "top1",
    teacher_weight: float = 0.9,
    steps: int = 300,
    length: int = 128,
    rows: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
    runs_dir: Path | None = None,
) -> None:
    """Train a student on your text with a teacher's next tokens beside the true ones.

    Args:
        student: as for `chat`.
        teacher: another one, with the same vocabulary.
        text: UTF-8 .txt, .jsonl or .jsonl.gz files to train on.
        out: folder for the trained student.
        targets: the teacher's likeliest token, or its whole distribution.
        teacher_weight: share of the teacher's targets, 0 to 1.
        steps: optimizer steps.
        length: tokens a row.
        rows: rows a step.
        lr: peak learning rate at width 768; wider models take less.
        seed: of the order of the text.
        runs_dir: where the run folder with its log goes.
    """
    with _result_folder(out):
        decoder, encoder = open_dense(student, "distill")
        taught_by, its_encoder = open_model(teacher)
        if encoder.backend.get_vocab(with_added_tokens=True) != its_encoder.backend.get_vocab(with_added_tokens=True):
            raise UserError(f"{teacher}: another vocabulary than {student}; distillation needs one tokenizer for both")
        if taught_by.cfg.max_len < length:
            raise UserError(f"--length: got {length}, {teacher} takes at most {taught_by.cfg.max_len} tokens")
        taught_by.to(device_type())
        try:
            make = distill_top1_loss if targets == "top1" else distill_kl_loss
            loss = make(taught_by, teacher_weight, z_loss=Z_LOSS)
        except ValueError as error:
            raise UserError(str(error)) from None
        _train("distill", decoder, decoder, [], loss, encoder, _Plan(text, steps, length, rows, lr, seed, runs_dir))
        save_model(decoder, encoder, out)
    print(out)


def _folder(out: Path) -> None:
    """Make the folder, before there is work to lose."""
    if str(out) in ("", "."):
        raise UserError("--out: name a folder for the result")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be made a folder ({error.strerror}); name another") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"--out: {out} cannot be written; name another")


@contextmanager
def _result_folder(out: Path) -> Iterator[None]:
    """A folder of its own for a model: no other is written over, and none is left empty by an error."""
    _folder(out)
    if any(out.iterdir()):
        raise UserError(f"--out: {out} holds files already; name a new folder")
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something was written
            out.rmdir()
        raise


def _given(files: tuple[Path, ...]) -> tuple[Path, ...]:
    if not files:
        raise UserError("text: name at least one file")
    return files


@dataclass(frozen=True)
class _Plan:
    """How a verb trains; fields as in its options."""

    text: tuple[Path, ...]
    steps: int
    length: int
    rows: int
    lr: float
    seed: int
    runs_dir: Path | None


def _train(
    verb: str,
    module: nn.Module,
    decoder: Decoder,
    extra: list[dict[str, Any]],
    loss: Loss,
    encoder: Tokenizer,
    plan: _Plan,
) -> None:
    """Train in place on the text, in a run folder that keeps the log."""
    if not 1 <= plan.length <= decoder.cfg.max_len:
        raise UserError(f"--length: got {plan.length}, need 1..{decoder.cfg.max_len} (the model's longest row)")
    if min(plan.steps, plan.rows) < 1:
        raise UserError(f"--steps, --rows: got {plan.steps}, {plan.rows}, need at least 1")
    if not 0 < plan.lr <= 1:
        raise UserError(f"--lr: got {plan.lr}, need more than 0, at most 1")
    _check_seed(plan.seed)
    stream = TokenWindows(tokenize(load_texts(_given(plan.text)), encoder), plan.length, plan.rows, plan.seed)
    settings = OptimizerConfig(lr=plan.lr, warmup=plan.steps // 10)
    decoder.to(device_type())
    state = TrainState(module, settings.build(decoder, extra), settings.schedule(plan.steps), stream, seed=plan.seed)
    run = Run.create("afm", verb, plan, plan.runs_dir)

    def after_step(state: TrainState) -> None:
        if isinstance(state.model, FFNPruner):
            state.model.anneal(state.step / plan.steps)

    fit(state, loss, steps=plan.steps, run=run, after_step=after_step)
    run.close()


def _generator(seed: int) -> torch.Generator:
    _check_seed(seed)
    return torch.Generator().manual_seed(seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed: got {seed}, need 0 or more, below 2 to the 63rd")


VERBS = {"tokenizer": tokenizer, "data": data, "prune": prune, "distill": distill}
