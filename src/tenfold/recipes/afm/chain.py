"""The chain of one model, stage by stage, and the rivals that differ from a stage in one thing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tenfold.compress.distill import distill_kl_loss, distill_top1_loss
from tenfold.compress.prune import FFNPruner, PruneMethod
from tenfold.core import checkpoint
from tenfold.core.atomic import write_atomic
from tenfold.core.fit import Every, Loss, TrainState, fit
from tenfold.core.jobs import advance
from tenfold.core.mesh import batch_coordinate, data_mesh, device_type, is_main, shard
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import lm_loss, token_losses
from tenfold.lm.perplexity import perplexity
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe_parallel import gather_state, load_full_state
from tenfold.nn.rotary import rope_base_for_length
from tenfold.recipes.afm.config import Config, Stage, StageName
from tenfold.recipes.afm.corpus import Corpus, open_corpus
from tenfold.text.tokenizer import Tokenizer

Z_LOSS = 1e-6
DECILES = 10


@dataclass(frozen=True)
class Training:
    """One training of the chain, or a rival of one.

    Args:
        stage: whose schedule it follows.
        start: the training whose model it goes on with; None: random weights, which learn at core training's rate.
        teaching: what it learns beside the true tokens, "chain" being what the config says; the teacher is the model of
            core training.
        method: what ranks the units where it prunes.
        stretch: whether the rotary base grows with the rows.
    """

    stage: StageName
    start: str | None = None
    teaching: Literal["none", "chain", "top1", "kl"] = "none"
    method: PruneMethod = "soft_top_k"
    stretch: bool = True

    @property
    def needs(self) -> set[str]:
        """Trainings that must be over before this one starts."""
        return ({self.start} if self.start else set()) | ({"core"} if self.teaching != "none" else set())


CHAIN = {
    "core": Training("core"),
    "prune": Training("prune", start="core"),
    "distil": Training("distil", start="prune", teaching="chain"),
    "continued": Training("continued", start="distil"),
    "context": Training("context", start="continued"),
}
UNPRUNED = {
    "core": Training("core"),
    "continued": Training("continued", start="core"),
    "context": Training("context", start="continued"),
}
RIVALS = {
    "prune-magnitude": Training("prune", start="core", method="magnitude"),
    "prune-random": Training("prune", start="core", method="random"),
    "healed": Training("distil", start="prune"),
    "healed-magnitude": Training("distil", start="prune-magnitude"),
    "healed-random": Training("distil", start="prune-random"),
    "fresh": Training("distil"),
    "fresh-top1": Training("distil", teaching="top1"),
    "fresh-kl": Training("distil", teaching="kl"),
    "context-same-base": Training("context", start="continued", stretch=False),
}


def trainings(config: Config) -> dict[str, Training]:
    """All trainings of one seed by name, the chain first."""
    chain = CHAIN if config.model.wide_ffn else UNPRUNED
    return {**chain, **{name: RIVALS[name] for name in config.rivals}}


def waves(todo: Mapping[str, Training]) -> Iterator[list[str]]:
    """Names in turns: those of a turn need only earlier ones.

    Raises:
        ValueError: a training that needs one which is not there.
    """
    done: set[str] = set()
    while len(done) < len(todo):
        ready = [name for name, training in todo.items() if name not in done and training.needs <= done]
        if not ready:
            lacking = {name: sorted(training.needs - set(todo)) for name, training in todo.items()}
            missing = "; ".join(f"{name} needs {', '.join(names)}" for name, names in lacking.items() if names)
            raise ValueError(f"rivals: {missing}; ask for these too")
        yield ready
        done.update(ready)


def model_folder(config: Config, run_path: Path, name: str, seed: int) -> Path:
    """Where a training leaves its model; the first seed's has the plain name."""
    return run_path / "models" / (name if seed == config.seeds[0] else f"{name}-seed{seed}")


def step_cost(config: Config, name: str, vocabulary: int) -> float:
    """Operations of one step, in 1e9: what the progress bar counts."""
    training = trainings(config)[name]
    stage: Stage = getattr(config.stages, training.stage)
    wide = config.model.wide_ffn or config.model.ffn
    with torch.device("meta"):
        large, small = (
            Decoder(config.model.decoder(vocabulary, stage.length, ffn=ffn), torch.Generator())
            for ffn in (wide, config.model.ffn)
        )
    own = large if training.stage in ("core", "prune") else small
    flops = 3 * own.flops_per_token(stage.length)
    if training.teaching != "none":
        flops += large.flops_per_token(stage.length)
    return flops * stage.step_tokens / 1e9


def train_one(config: Config, run_path: str, name: str, seed: int) -> dict[str, Any]:
    """Do one training, or what a killed process left of it, save its model and measure it.

    Returns:
        its row: what it is, its size, its losses; read back where it was finished before.
    """
    run = Run.open(run_path)
    job = f"{name}-seed{seed}"
    training = trainings(config)[name]
    stage: Stage = getattr(config.stages, training.stage)
    corpus = open_corpus(run.path / "corpus")
    cost = step_cost(config, name, corpus.tokenizer.vocab_size)
    if run.done(job):
        advance(stage.steps * cost)
        row: dict[str, Any] = run.load_stage(job)
        return row
    mesh = data_mesh()
    state, loss = build(config, run.path, training, seed, corpus, mesh)
    checkpoint.resume(run, state, name=job)
    advance(state.step * cost)

    def after_step(state: TrainState) -> None:
        advance(cost)
        if isinstance(state.model, FFNPruner):
            state.model.anneal(state.step / stage.steps)

    fit(
        state,
        loss,
        steps=stage.steps,
        run=run,
        name=job,
        precision=config.precision,
        mesh=mesh,
        every=Every(log=max(1, stage.steps // 100), save=config.save_every),
        after_step=after_step,
        progress=False,  # the bar over all trainings is enough
    )
    row = finish(config, run, name, seed, state, corpus)
    run.save_stage(job, row)
    return row


def build(
    config: Config, run_path: Path, training: Training, seed: int, corpus: Corpus, mesh: DeviceMesh | None = None
) -> tuple[TrainState, Loss]:
    """Model, optimizer, schedule and stream of a training as it starts, and its loss; all follow from the seed."""
    stage: Stage = getattr(config.stages, training.stage)
    model = starting_model(config, run_path, training, seed, corpus.tokenizer.vocab_size).to(device_type())
    pruner = None
    if training.stage == "prune":
        chance = torch.Generator().manual_seed(seed)
        pruner = FFNPruner(model, config.model.ffn, training.method, generator=chance).to(device_type())
    module = model if pruner is None else pruner
    if mesh is not None:
        shard(module, mesh)
    rank, world = batch_coordinate(mesh)
    settings = stage.optimizer
    if training.start is None:
        settings = replace(config.stages.core.optimizer, warmup=settings.warmup)
    # Another order in every stage, the same for all rivals in it.
    order = 1000 * seed + 100 * list(CHAIN).index(training.stage)
    state = TrainState(
        model=module,
        optimizer=settings.build(model, () if pruner is None else pruner.score_groups()),
        schedule=settings.schedule(stage.steps),
        stream=corpus.batches(stage, order, rank=rank, world=world),
        seed=seed,
    )
    if training.teaching == "none":
        return state, lm_loss(z_loss=Z_LOSS)
    teacher = Decoder.from_pretrained(model_folder(config, run_path, "core", seed)).to(device_type())
    if mesh is not None:
        shard(teacher, mesh)
    weight = config.stages.teacher_weight
    targets = config.stages.targets if training.teaching == "chain" else training.teaching
    if targets == "top1":
        return state, distill_top1_loss(teacher, weight, z_loss=Z_LOSS)
    return state, distill_kl_loss(teacher, weight, z_loss=Z_LOSS)


def starting_model(config: Config, run_path: Path, training: Training, seed: int, vocabulary: int) -> Decoder:
    """Random weights, or the model of an earlier training made ready for this stage's rows.

    In the context stage the base of the rotary positions grows with the rows, from those of the stage before.
    """
    stage: Stage = getattr(config.stages, training.stage)
    if training.start is None:
        ffn = config.model.wide_ffn if training.stage == "core" else 0
        cfg = config.model.decoder(vocabulary, stage.length, ffn=ffn or None)
        return Decoder(cfg, torch.Generator().manual_seed(seed))
    folder = model_folder(config, run_path, training.start, seed)
    base = config.model.rope_base
    if training.stage == "context" and training.stretch:
        base = rope_base_for_length(base, config.stages.continued.length, stage.length)
    return Decoder.from_pretrained(folder, max_len=stage.length, rope_base=base)


def finish(config: Config, run: Run, name: str, seed: int, state: TrainState, corpus: Corpus) -> dict[str, Any]:
    """Cut what was pruned, save the model with its tokenizer, and measure it."""
    training = trainings(config)[name]
    stage: Stage = getattr(config.stages, training.stage)
    row: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "stage": training.stage,
        "steps": stage.steps,
        "tokens": stage.steps * stage.step_tokens,
        "seconds": state.seconds,
        "skipped": getattr(state.optimizer, "skipped", 0),
    }
    trained = whole(state.model)
    if isinstance(trained, FFNPruner):
        row |= what_was_kept(trained)
        model = trained.finalize()
    else:
        model = trained
    if is_main():
        save_model(model, corpus.tokenizer, model_folder(config, run.path, name, seed))
    if dist.is_initialized():
        dist.barrier()  # the next training reads it on every rank
    row |= {"ffn": model.cfg.ffn_dim, "rope_base": model.cfg.rope_base}
    row |= {"parameters": model.num_params(), "embedding": model.num_params(embedding=True) - model.num_params()}
    row |= measure(config, model, corpus)
    if training.stage == "context":
        # Beside it the model before this stage, which never saw rows of that length.
        assert training.start is not None
        start = model_folder(config, run.path, training.start, seed)
        before = Decoder.from_pretrained(start, max_len=stage.length).to(device_type())
        row["by_position"] = loss_by_position(model, corpus, stage.length, config.data.validation_rows)
        row["by_position_before"] = loss_by_position(before, corpus, stage.length, config.data.validation_rows)
    return row


def whole(module: nn.Module) -> Decoder | FFNPruner:
    """The trained module in one piece on every rank; one that is not sharded itself."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return cast("Decoder | FFNPruner", module)
    sharded = module.model if isinstance(module, FFNPruner) else cast(Decoder, module)
    model = Decoder(sharded.cfg, torch.Generator())
    load_full_state(model, gather_state(sharded))
    model.to(device_type())
    if not isinstance(module, FFNPruner):
        return model
    pruner = FFNPruner(model, module.keep, module.method, eps=module.eps, generator=torch.Generator())
    for own, theirs in zip(pruner.scores, module.scores, strict=True):
        own.data.copy_(cast(DTensor, theirs.detach()).full_tensor())
    for own, theirs in zip(pruner.buffers(), module.buffers(), strict=True):
        own.copy_(theirs)
    pruner.anneal(module.progress)
    return pruner


def save_model(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """A Hugging Face folder: weights, tokenizer, and the tokens at which generation ends."""
    model.save_pretrained(folder)
    tokenizer.save(folder)
    ends = [token for token in dict.fromkeys((tokenizer.eos_id, tokenizer.end_id)) if token is not None]
    named = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_id}
    given = {key: value for key, value in named.items() if value not in (None, [])}
    write_atomic(folder / "generation_config.json", json.dumps(given, indent=1))


def what_was_kept(pruner: FFNPruner) -> dict[str, Any]:
    """Of every layer: sizes of the mask from the largest on, and the share kept of each tenth of the units by norm."""
    mask_LF = pruner.mask().cpu()
    kept = []
    for block, mask_F in zip(pruner.model.layers, mask_LF, strict=True):
        mlp = cast(FeedForward, block.mlp)
        assert mlp.gate_proj is not None
        rows = [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T]
        order = torch.cat([part.detach().cpu() for part in rows], dim=1).norm(dim=1).argsort(descending=True)
        kept.append([float(part.mean()) for part in (mask_F[order] > 0).float().tensor_split(DECILES)])
    quantiles = torch.linspace(1, 0, 101)
    return {
        "kept_by_norm": kept,
        "mask_sizes": [mask_F.float().quantile(quantiles, interpolation="nearest").tolist() for mask_F in mask_LF],
    }


def measure(config: Config, model: Decoder, corpus: Corpus) -> dict[str, Any]:
    """Validation loss in nats a token and accuracy of the likeliest token, of each source and in core's mixture.

    With rows of core training's length, whatever the model's, so that all stages compare; on text of another kind, where
    there is some, in bits a byte.
    """
    length = config.stages.core.length
    losses: dict[str, float] = {}
    right: dict[str, float] = {}
    for name in corpus.train:
        rows = corpus.validation_rows(name, length, config.data.validation_rows)
        found = [token_scores(model, part) for part in rows.split(config.stages.core.rows)]
        losses[name] = float(torch.cat([ce for ce, _ in found]).mean())
        right[name] = float(torch.cat([hit for _, hit in found]).mean())
    shares = corpus.shares(config.stages.core.mix)
    row = {
        "loss": math.fsum(share * losses[name] for name, share in shares.items()),
        "accuracy": math.fsum(share * right[name] for name, share in shares.items()),
        **{f"loss_{name}": value for name, value in losses.items()},
    }
    if corpus.foreign is not None:
        row["bits_per_byte"] = perplexity(model, corpus.tokenizer, [corpus.foreign], window=length).bits_per_byte
    return row


@torch.no_grad()
def token_scores(model: Decoder, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats and whether the likeliest token was right, (B, T) each, of rows of T + 1 tokens."""
    rows = rows.to(next(model.parameters()).device)
    model.eval()
    logits_BTV, targets_BT = model(rows[:, :-1]), rows[:, 1:]
    ce, _ = token_losses(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return ce.view_as(targets_BT).double().cpu(), (logits_BTV.argmax(-1) == targets_BT).double().cpu()


def loss_by_position(model: Decoder, corpus: Corpus, length: int, most: int) -> list[float]:
    """Mean loss at every position of long rows of the first source, in nats."""
    rows = corpus.validation_rows(next(iter(corpus.train)), length, most)
    scores = [token_scores(model, part)[0] for part in rows.split(max(1, 4096 // length))]
    means: list[float] = torch.cat(scores).mean(0).tolist()
    return means
