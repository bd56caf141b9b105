"""One training of the experiment: build, train, keep the averaged model, measure it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core import checkpoint
from tenfold.core.atomic import write_atomic
from tenfold.core.fit import Every, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type, is_main, shard
from tenfold.core.run import Run
from tenfold.diffusion.reports import flop_report
from tenfold.nn.moe_parallel import gather_state
from tenfold.recipes.ec_dit import measures
from tenfold.recipes.ec_dit.config import Config
from tenfold.recipes.ec_dit.evaluation import draw_asked, emoji_retrieval, held_out_loss, shapes_rates, text_gain
from tenfold.recipes.ec_dit.folder import save_model
from tenfold.recipes.ec_dit.network import (
    NoisyBatches,
    TextToImage,
    build,
    build_optimizer,
    build_schedule,
    make_loss,
    parallelize,
)
from tenfold.recipes.ec_dit.pictures import Corpus, open_corpus

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        model: a name of `Config.models`.
        seed: of weights, order and noise.
        lr: peak rate.
        steps: optimizer steps.
        trial: it only tries out a rate; nothing is drawn.
    """

    model: str
    seed: int
    lr: float
    steps: int
    trial: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.model}-lr{self.lr:g}-seed{self.seed}" if self.trial else f"{self.model}-seed{self.seed}"


def step_cost(config: Config, model: str) -> float:
    """Operations of one training step, in 1e9: what the progress bar counts."""
    variant = config.variant(model)
    return 3 * flop_report(variant, variant.image_size).total * config.training.rows / 1e9


def train_one(config: Config, run_path: str, job: Job) -> Row:
    """Do one training, or what a killed process left of it, save its averaged model and measure it.

    Returns:
        its row: what it is, its size, its losses and what its pictures show; read back where it was finished before.
    """
    run = Run.open(run_path)
    cost = step_cost(config, job.model)
    if run.done(job.name):
        advance(job.steps * cost)
        row: Row = run.load_stage(job.name, ("model", "seed", "loss"))
        return row
    corpus = open_corpus(run.path / "corpus")
    mesh = data_mesh()
    state = new_state(config, job, corpus, mesh)
    checkpoint.resume(run, state, name=job.name)
    advance(state.step * cost)

    def validate(model: nn.Module) -> Mapping[str, float]:
        return {"held_out_loss": held_out_loss(model, corpus, config.training.rows)}

    training = config.training
    fit(
        state,
        make_loss(corpus, config.model.objective, training.mask_ratio),
        steps=job.steps,
        run=run,
        name=job.name,
        clip_norm=training.clip_norm,
        precision=training.precision,
        ema=training.ema,
        mesh=mesh,
        every=Every(training.log_every, max(1, job.steps // training.curve_points), training.save_every),
        evaluate=validate,
        after_step=lambda _: advance(cost),
        progress=False,  # the bar over all models is enough
    )
    row = measure(config, run, job, state, corpus)
    run.save_stage(job.name, row)
    run.close()
    return row


def new_state(config: Config, job: Job, corpus: Corpus, mesh: DeviceMesh | None) -> TrainState:
    """Everything at step 0."""
    model = build(config.variant(job.model), corpus, job.seed)
    model.to(device_type())
    if mesh is not None:
        shard(model, mesh, parallelize)
    batches = NoisyBatches(corpus.train, config.training, config.model.objective, job.seed, *batch_coordinate(mesh))
    return TrainState(
        model,
        build_optimizer(model, config.training, job.lr),
        build_schedule(config.training, job.steps),
        batches,
        seed=job.seed,
    )


def averaged_model(config: Config, job: Job, state: TrainState, corpus: Corpus) -> TextToImage:
    """The model with its averaged weights, whole and in eval mode, on every rank."""
    assert state.ema is not None
    with state.ema.applied():
        weights = gather_state(state.model)
    model = build(config.variant(job.model), corpus, job.seed)
    model.load_state_dict(weights)
    return model.to(device_type()).eval()


def measure(config: Config, run: Run, job: Job, state: TrainState, corpus: Corpus) -> Row:
    """The row of a trained model; its folder and pictures are written beside."""
    model = averaged_model(config, job, state, corpus)
    row: Row = {
        "name": job.name,
        "model": job.model,
        "seed": job.seed,
        "lr": job.lr,
        "steps": job.steps,
        "trial": job.trial,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_gflop": step_cost(config, job.model),
        "seconds": state.seconds,
        "loss": held_out_loss(model, corpus, config.training.rows),
    }
    if not math.isfinite(row["loss"]):
        raise ValueError(f"{job.name}: the held-out loss is {row['loss']}")
    row["text_gain"] = text_gain(model, corpus, config.training.rows, row["loss"])
    if job.trial:
        return row
    if is_main():
        save_model(model, corpus, config, model_folder(run.path, job.model, job.seed))
        row |= show(config, run, job.name, job.seed, model, corpus)
    return row


def model_folder(run_path: Path, model: str, seed: int) -> Path:
    """Where a training leaves its model."""
    return run_path / "models" / f"{model}-seed{seed}"


def show(config: Config, run: Run, name: str, seed: int, model: TextToImage, corpus: Corpus) -> Row:
    """Draw what is asked for, keep the pictures, judge them, and take the measures of the routing.

    Returns:
        fields of the row: "tasks" and "overall" (shapes), "sweep" {scale: overall}, "frechet", "retrieval" (emoji),
        "heat", "words", "complexity" (shapes) where the model has what they look at.
    """
    pictures = draw_asked(config, model, corpus, seed)
    _keep(run.path / "samples" / f"{name}.npy", pictures)
    row: Row = {}
    if config.data.source == "shapes":
        row |= shapes_rates(pictures, corpus.asked)
        row["sweep"] = {f"{scale:g}": row["overall"] if scale == config.sampling.guidance_scale else _overall(config, model, corpus, seed, scale)
                        for scale in config.sampling.guidance_sweep}  # fmt: skip
        if judges_distance(config):
            row["frechet"] = measures.distance_to_held_out(
                run.path / "corpus", corpus, pictures.reshape(-1, *pictures.shape[2:])
            )
    elif config.data.source == "emoji":
        row["retrieval"] = emoji_retrieval(pictures, corpus, seed)
    if config.measure:
        row |= measures.take(config, run, name, seed, model, corpus)
    return row


def _overall(config: Config, model: TextToImage, corpus: Corpus, seed: int, scale: float) -> float:
    """The mean of the tasks' rates at another guidance."""
    pictures = draw_asked(config, model, corpus, seed, guidance_scale=scale)
    return float(shapes_rates(pictures, corpus.asked)["overall"])


def _keep(path: Path, pictures: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, pictures, allow_pickle=False)
    write_atomic(path, buffer.getvalue())


def judges_distance(config: Config) -> bool:
    """Whether pictures of rivals are compared by Fréchet distance."""
    return config.measure and config.data.source == "shapes" and bool(config.rivals)
