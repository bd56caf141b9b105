"""The models of an experiment: the ranker, a decoder from scratch, a pretrained one with adapters; trained, kept, opened."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from tenfold.align.sft import sft_batches, sft_loss
from tenfold.core import checkpoint
from tenfold.core.atomic import write_atomic
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.fit import Every, Loss, TrainState, fit, forward_seed
from tenfold.core.mesh import device_type
from tenfold.core.optim import Schedule, adamw
from tenfold.core.run import Run
from tenfold.core.stream import ArrayStream, Batcher, Stream
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.pretrained import find
from tenfold.nn import lora
from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.world import World, encoder
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.tools.decider import ChatDecider
from tenfold.tools.metrics import Prediction
from tenfold.tools.ranker import DecisionRanker, Likeness, Ranker, SearchHead, ranking_loss, targets
from tenfold.tools.render import render
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.sft import to_sft

CARD = "decider.json"
VOCABULARY = 512  # tokens of the small decoder
TARGETS = ("q_proj", "v_proj")  # of the adapters, as the released code


class Decider(Protocol):
    """Whatever decides on samples."""

    def decide(self, samples: Sequence[DecisionSample]) -> list[Prediction]:
        """One prediction each."""
        ...


@dataclass(frozen=True)
class Task:
    """One training.

    Args:
        label: its name within the run.
        seed: of weights and order.
        samples: to learn from.
        calibration: of tools that are not among them.
        folder: where the model is kept.
    """

    config: Config
    run: Run
    label: str
    seed: int
    samples: Sequence[DecisionSample]
    calibration: Sequence[DecisionSample]
    folder: Path


def fitted_likeness(config: Config, world: World) -> Likeness:
    """Features, fitted to the tools and queries of training alone."""
    embed = config.ranking.embed
    tools = [Candidate.of(entry.tool) for entry in world.train]
    queries = [query for entry in world.train for query, _ in entry.examples]
    return Likeness(None if embed is None else encoder(embed)).fit(tools, [*queries, *world.general])


def train_ranker(task: Task, likeness: Likeness) -> tuple[Ranker, float]:
    """Learn to choose; then calibrate the refusal on tools that were held out.

    Returns:
        the ranker, and the seconds of its steps.
    """
    settings = task.config.ranking
    asked = [sample for sample in task.samples if sample.branch != "no_search"]
    general = [sample.query for sample in task.samples if sample.branch == "no_search"]
    head = SearchHead.fit(likeness, [sample.query for sample in asked], general) if general else SearchHead(np.zeros(len(likeness.words.vocabulary_)), 50.0)  # fmt: skip
    features, right = torch.as_tensor(likeness.of(asked), dtype=torch.float32), torch.as_tensor(targets(asked))
    generator = torch.Generator().manual_seed(forward_seed(task.seed, 0, 0, 0))
    model = DecisionRanker(likeness.features, settings.hidden, generator=generator)
    stream = Batcher(ArrayStream(range(len(asked)), seed=task.seed), settings.batch, collate=lambda rows: {"features": features[list(rows)], "target": right[list(rows)]})  # fmt: skip
    state = _fit(task, model, stream, ranking_loss, settings.steps, settings.lr)
    ranker = Ranker(likeness, head, model.eval())
    if any(sample.branch == "no_call" for sample in task.samples):  # one that never saw a refusal has none to calibrate
        ranker.calibrate([sample for sample in task.calibration if sample.branch != "no_search"])
    if likeness.embed is None:
        ranker.save(task.folder)
        _keep_card(task.folder, {"kind": "ranker"})
    return ranker, state.seconds


def new_language_model(config: Config, samples: Sequence[DecisionSample], seed: int) -> tuple[Decoder, Tokenizer]:
    """The pretrained model, or a small decoder and a tokenizer of the samples' own words."""
    settings = config.tuning
    if config.learner == "lora":
        place = find(settings.base)
        return Decoder.from_pretrained(place, dtype=torch.float32), Tokenizer.load(place)
    tokenizer = train_tokenizer(spelling(samples), VOCABULARY)
    cfg = DecoderConfig(tokenizer.vocab_size, settings.dim, settings.layers, settings.heads, settings.heads, settings.dim // settings.heads, settings.ffn, max_len=settings.max_length)  # fmt: skip
    return Decoder(cfg, torch.Generator().manual_seed(forward_seed(seed, 0, 0, 0))), tokenizer


def spelling(samples: Sequence[DecisionSample]) -> list[str]:
    """Texts that a small tokenizer is trained on: every line once, and what many samples share as often as they do.

    A tool's line stands in dozens of samples. Counted so often, its made-up name becomes one token, an unseen tool's name
    falls into others, and a model learns names by heart where it should learn to copy them.
    """
    counts = Counter(line for sample in samples for line in {line for message in render(sample) for line in message.content.split("\n")})  # fmt: skip
    return [line for line in sorted(counts) for _ in range(counts[line] if counts[line] > len(samples) / 10 else 1)]


def train_language_model(task: Task) -> tuple[float, float]:
    """Fine-tune, and keep the model.

    Returns:
        seconds of the steps, learned tokens of a sample.
    """
    config, settings = task.config, task.config.tuning
    model, tokenizer = new_language_model(config, task.samples, task.seed)
    chosen = task.samples[: settings.samples] if settings.samples else task.samples
    rows = to_sft(chosen, tokenizer, settings.mask_environment, max_length=settings.max_length)
    if config.learner == "lora":
        generator = torch.Generator().manual_seed(forward_seed(task.seed, 0, 1, 0))
        lora.add_lora(model, settings.lora_rank, alpha=settings.lora_alpha, targets=TARGETS, generator=generator)
    stream = sft_batches(rows, max(len(row.ids) for row in rows), settings.batch, seed=task.seed, packed=False)
    state = _fit(task, model, stream, sft_loss, settings.steps, settings.lr)
    task.folder.mkdir(parents=True, exist_ok=True)
    if config.learner == "lora":
        lora.save(model, task.folder)
        _keep_card(task.folder, {"kind": "lora", "base": settings.base})
    else:
        model.save_pretrained(task.folder)
        tokenizer.save(task.folder)
        _keep_card(task.folder, {"kind": "decoder"})
    return state.seconds, sum(row.targets for row in rows) / len(rows)


def _fit(task: Task, model: nn.Module, stream: Stream, loss: Loss, steps: int, lr: float) -> TrainState:
    config = task.config
    state = TrainState(model.to(device_type()), adamw(model, lr, weight_decay=0.0), Schedule(0.04 * steps, steps, final_fraction=0.0), stream, seed=task.seed)  # fmt: skip
    checkpoint.resume(task.run, state, name=task.label)
    every = Every(log=config.log_every, save=config.save_every)
    fit(
        state, loss, steps=steps, run=task.run, name=task.label, precision=config.precision, every=every, progress=False
    )
    return state


def _keep_card(folder: Path, card: dict[str, Any]) -> None:
    write_atomic(folder / CARD, json.dumps(card) + "\n")


@contextmanager
def chat_model(folder: str | Path, name: str | None = None) -> Iterator[LocalChatModel]:
    """A language model of a run, or a pretrained one, that can chat; closed afterwards.

    Args:
        folder: of `train_language_model`, or what `lm.pretrained.find` finds.
    Raises:
        UserError: none there, or a ranker, which cannot chat.
    """
    path = Path(folder)
    card = read_object(path / CARD, kind=str) if (path / CARD).is_file() else {"kind": "pretrained"}
    if card["kind"] == "ranker":
        raise UserError(f"{folder}: a ranker decides but cannot write calls or answers; take a language model")
    place = find(card["base"] if card["kind"] == "lora" else folder)
    model = Decoder.from_pretrained(place, dtype=torch.float32)
    if card["kind"] == "lora":
        lora.load(model, path)
        model = lora.merge(model)
    with LocalChatModel(model.to(device_type()), Tokenizer.load(place), name or path.name, compiled="off", max_waiting=1 << 14) as chat:  # fmt: skip
        yield chat


@contextmanager
def decider(folder: str | Path, demonstrations: Sequence[DecisionSample] = ()) -> Iterator[Decider]:
    """What decides on samples: a ranker's folder, or a language model's."""
    path = Path(folder)
    if (path / CARD).is_file() and read_object(path / CARD, kind=str)["kind"] == "ranker":
        yield Ranker.load(path)
        return
    with chat_model(folder) as chat:
        yield ChatDecider(chat, demonstrations)


def demonstrations(samples: Sequence[DecisionSample], count: int) -> list[DecisionSample]:
    """Solved samples to show, short ones, the branches in turn."""
    order = {branch: sorted((s for s in samples if s.branch == branch), key=lambda s: len(str(s.candidates)) + len(s.query)) for branch in ("call", "no_call", "no_search")}  # fmt: skip
    found = []
    for index in range(count):
        branch = order[("call", "no_call", "no_search")[index % 3]]
        if index // 3 < len(branch):
            found.append(branch[index // 3])
    return found


def timed(decider: Decider, samples: Sequence[DecisionSample], *, arguments: bool = False) -> tuple[list[Prediction], float]:  # fmt: skip
    """Predictions, and seconds a sample; `arguments` lets a language model write its calls too."""
    begun = time.perf_counter()
    if arguments and isinstance(decider, ChatDecider):
        found = decider.decide(samples, arguments=True)
    else:
        found = decider.decide(samples)
    return found, (time.perf_counter() - begun) / max(1, len(samples))
