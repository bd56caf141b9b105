"""One training of the experiment: a cell with a seed, from its first step to its measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core import checkpoint
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type, is_main, shard
from tenfold.core.run import Run
from tenfold.core.stream import Mixture
from tenfold.nn.moe_parallel import gather_state
from tenfold.recipes.mm1.config import Config, Mix, Training, of_cell
from tenfold.recipes.mm1.contrastive import encoder_file
from tenfold.recipes.mm1.documents import batches, mixture
from tenfold.recipes.mm1.network import (
    EncodedOnce,
    build,
    build_optimizer,
    build_schedule,
    make_processor,
    parallelize,
)
from tenfold.text.tokenizer import Tokenizer
from tenfold.vision.document_tokens import special_ids
from tenfold.vision.instructions import Instructions
from tenfold.vision.multimodal import MultimodalLM, mm_loss
from tenfold.vision.multimodal_folder import save_model
from tenfold.vision.multimodal_packing import Collate

Row = dict[str, Any]
FIELDS = ("cell", "seed", "few_shot")


@dataclass(frozen=True)
class Job:
    """A cell with a seed."""

    cell: str
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.cell.replace('/', '-').replace('=', '-')}-seed{self.seed}"


def steps_of(config: Config, cell: str) -> int:
    """Training steps of a cell; what the progress bar counts."""
    changed, _ = of_cell(config, cell)
    return max(1, changed.pretrain.steps + changed.sft.training.steps)


def train_one(config: Config, run_path: str, job: Job) -> Row:
    """Pre-train, tune, save and measure one model, or what a killed process left of it.

    Returns:
        its row: what it is, its losses and its measures; read back where it was finished before.
    """
    run = Run.open(run_path)
    if run.done(job.name):
        advance(steps_of(config, job.cell))
        row: Row = run.load_stage(job.name, FIELDS)
        return row
    changed, mix = of_cell(config, job.cell)
    tokenizer = None if changed.language.base else Tokenizer.load(run.path / "tokenizer")
    start = changed.vision.start
    encoder = None if start == "random" else encoder_file(run.path, f"{start}-seed{job.seed}")
    mesh = data_mesh()
    threads = torch.get_num_threads()
    if changed.language.base is None and device_type() == "cpu":
        torch.set_num_threads(1)  # a small decoder's products: a second thread costs more than it brings
    try:
        row = _train_and_measure(changed, run, job, mix, mesh, tokenizer, encoder)
    finally:
        torch.set_num_threads(threads)
    run.save_stage(job.name, row)
    run.close()
    return row


def _train_and_measure(
    changed: Config,
    run: Run,
    job: Job,
    mix: Mix,
    mesh: DeviceMesh | None,
    tokenizer: Tokenizer | None,
    encoder: Path | None,
) -> Row:
    model = build(changed, tokenizer, job.seed, encoder).to(device_type())
    row: Row = {"cell": job.cell, "seed": job.seed, "seconds": 0.0, "loss": {}, "few_shot": {}, "tuned": {}}
    row["parameters"] = sum(weight.numel() for weight in model.parameters())
    row["active"] = model.lm.num_active_params()
    for stage in ("pretrain", "sft"):
        training = changed.pretrain if stage == "pretrain" else changed.sft.training
        if not training.steps:
            continue
        model, spent = learn(changed, run, job, stage, training, model, mix, mesh)
        row["seconds"] += spent
        row["loss"][stage] = _last_loss(run, f"{job.name}-{stage}")
        row |= _measured(changed, run, job, stage, model)
    if is_main():
        save_model(model.eval(), model_folder(run.path, job))
    return row


def _measured(config: Config, run: Run, job: Job, stage: str, model: MultimodalLM) -> Row:
    """What a model can do after a stage, by the main process; read back where it was measured before."""
    from tenfold.recipes.mm1 import evaluation

    name = f"{job.name}-{stage}-measures"
    if not run.done(name):
        model.eval()
        model.processor = make_processor(config.vision, config.connector.tokens, tiled=stage == "sft")
        measure = evaluation.after_pretraining if stage == "pretrain" else evaluation.after_tuning
        run.save_stage(name, measure(config, job.seed, model, run.path / "examples" / name) if is_main() else {})
    found: Row = run.load_stage(name)
    return found


def model_folder(run_path: Path, job: Job) -> Path:
    """Where a training leaves its model."""
    return run_path / "models" / job.name


def learn(
    config: Config,
    run: Run,
    job: Job,
    stage: str,
    training: Training,
    model: MultimodalLM,
    mix: Mix,
    mesh: DeviceMesh | None,
) -> tuple[MultimodalLM, float]:
    """One stage of a model: it goes in whole and comes out whole, and its seconds."""
    tokenizer, processor = model.tokenizer, make_processor(config.vision, config.connector.tokens, tiled=stage == "sft")
    vision, layer = model.vision, model.feature_layer
    assert vision is not None
    if mesh is not None:
        shard(model, mesh, parallelize)
    if stage == "pretrain":
        documents: Mixture | Sequence[Any] = mixture(config, mix, job.seed)
        label = f"mix {mix.captions:g}/{mix.interleaved:g}/{mix.text:g}" + (" control" if mix.control else "")
    else:
        sft = config.sft
        documents = Instructions(
            sft.tasks, job.seed, config.data.per_epoch, worked=sft.worked, demos=sft.demos, turns=sft.turns
        )
        label = f"tasks {','.join(sft.tasks)}"
    collate = Collate(special_ids(tokenizer), processor)
    if config.vision.frozen and mesh is None:
        collate = EncodedOnce(collate, vision, layer)
    rank, world = batch_coordinate(mesh)
    stream = batches(
        training, documents, tokenizer, processor, job.seed, label, collate=collate, rank=rank, world=world
    )
    state = TrainState(model, build_optimizer(model, training), build_schedule(training), stream, seed=job.seed)
    name = f"{job.name}-{stage}"
    checkpoint.resume(run, state, name=name)
    advance(state.step)
    fit(
        state,
        mm_loss,
        steps=training.steps,
        run=run,
        name=name,
        precision=config.precision,
        mesh=mesh,
        every=Every(config.log_every, save=config.save_every),
        after_step=lambda _: advance(1),
        progress=False,
    )
    return (model if mesh is None else whole(config, model, job)), state.seconds


def whole(config: Config, model: MultimodalLM, job: Job) -> MultimodalLM:
    """A sharded model as a plain one on every rank."""
    weights: Mapping[str, Tensor] = gather_state(model)
    plain = build(config, model.tokenizer, job.seed)
    plain.load_state_dict(weights)
    return plain.to(device_type())


def _last_loss(run: Run, name: str) -> float:
    """Mean cross-entropy of the last logged rows."""
    rows = [row["ce"] for row in run.rows(name) if "ce" in row][-5:]
    return sum(rows) / len(rows) if rows else math.nan
