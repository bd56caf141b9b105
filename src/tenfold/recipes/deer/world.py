"""What an experiment is about: tools of training, tools set aside to calibrate on, tools never seen, and their samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from tenfold.core import data as core_data
from tenfold.core.errors import UserError
from tenfold.core.fit import forward_seed
from tenfold.recipes.deer.config import ArmName, Config
from tenfold.tools.data import FOLDER, bfcl_items, load
from tenfold.tools.sampler import Mode, ToolSampler
from tenfold.tools.samples import BuildReport, Candidate, DecisionSample, ToolExamples, build_samples
from tenfold.tools.toy_tools import toy_world
from tenfold.tools.words import embedder

Encode = Callable[[Sequence[str]], Any]
UNSEEN, SEEN, HARD = "unseen", "seen", "irrelevance"


@dataclass(frozen=True)
class World:
    """The data of a seed.

    Args:
        source: "deer" or "toy".
        train, held_out, unseen: tools with examples; disjoint.
        kept_back: examples of training tools that are not learned from.
        general, general_unseen: queries that need no tool.
        ready: evaluations that come with their candidates, by name.
    """

    source: str
    train: tuple[ToolExamples, ...]
    held_out: tuple[ToolExamples, ...]
    unseen: tuple[ToolExamples, ...]
    kept_back: tuple[ToolExamples, ...]
    general: tuple[str, ...]
    general_unseen: tuple[str, ...]
    ready: dict[str, tuple[DecisionSample, ...]]


def source_of(config: Config) -> str:
    """Which data an experiment takes here."""
    if config.data.source != "auto":
        return config.data.source
    if config.data.root is not None:
        return "deer"
    try:
        core_data.path(f"{FOLDER}/tools_train.jsonl")
    except UserError:
        return "toy"
    return "deer"


def open_world(config: Config, seed: int) -> World:
    """Read the data and set tools aside, the same for all arms of a seed.

    Raises:
        UserError: absent or damaged files, or too few tools.
    """
    source = source_of(config)
    ready: dict[str, tuple[DecisionSample, ...]] = {}
    if source == "toy":
        toy = toy_world(seed, train=config.data.tools, unseen=config.data.unseen)
        tools, unseen, general, other = toy.train, toy.unseen, toy.general, toy.general_unseen
    else:
        deer = load("deer", root=config.data.root)
        tools, unseen, general, other = deer.train, deer.unseen, deer.nosearch_train, deer.nosearch_dev
        ready = {"toolbench": deer.toolbench, "toolcorpus": deer.toolcorpus}
        hard = [item.query for item in bfcl_items("irrelevance", config.data.root)]
        ready[HARD] = tuple(DecisionSample(query, "no_search", source=HARD) for query in hard)
    if config.data.held_out + config.candidates.k >= len(tools):
        raise UserError(f"data.held_out: got {config.data.held_out} of {len(tools)} tools, need fewer")
    order = random.Random(f"held out {seed}").sample(list(tools), len(tools))
    held_out, rest = order[: config.data.held_out], order[config.data.held_out :]
    kept_back, train = [], []
    for entry in rest:  # the last tenth of the examples, at least one where there are several
        count = max(1, len(entry.examples) // 10) if len(entry.examples) > 1 else 0
        train.append(replace(entry, examples=entry.examples[: len(entry.examples) - count]))
        kept_back.append(replace(entry, examples=entry.examples[len(entry.examples) - count :]))
    return World(source, tuple(train), tuple(held_out), tuple(unseen), tuple(kept_back), tuple(general), tuple(other), ready)  # fmt: skip


@lru_cache(maxsize=2)
def encoder(name: str) -> Encode:
    """A sentence encoder that computes each text once in a process: arms and seeds share most of theirs."""
    encode = embedder(name)
    known: dict[str, Any] = {}

    def vectors(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode(new), strict=True))
        return np.stack([known[text] for text in texts])

    return vectors


def training_samples(config: Config, world: World, arm: ArmName, seed: int) -> tuple[list[DecisionSample], BuildReport, ToolSampler]:  # fmt: skip
    """What an arm learns from."""
    settings = config.candidates
    mode: Mode | Literal["mix"] = "random" if arm == "fixed" or arm == "call_only" else arm
    embed = settings.embed if settings.embed == "tfidf-svd" else encoder(settings.embed)
    sampler = ToolSampler(mode, settings.ratio, settings.k, settings.n_clusters, seed, embed=embed)
    report, samples = BuildReport(), []
    ratio = 1.0 if arm == "call_only" else settings.call_ratio
    general = () if arm == "call_only" else world.general
    for draw in range(settings.draws):  # the sampler goes on to other candidates by itself
        again = seed if draw == 0 else forward_seed(seed, draw, 2, 0)
        samples += build_samples(world.train, general, call_ratio=ratio, sampler=sampler, seed=again, report=report)
    return (_fixed(samples, world, settings.k, seed) if arm == "fixed" else samples), report, sampler


def _fixed(samples: Sequence[DecisionSample], world: World, k: int, seed: int) -> list[DecisionSample]:
    """Every tool has one set of others, which is all that its queries are ever shown, with it or without it."""
    tools = [Candidate.of(entry.tool) for entry in world.train]
    index = {tool.name: place for place, tool in enumerate(tools)}
    found = []
    for sample in samples:
        if sample.branch == "no_search" or sample.target is None:
            found.append(sample)
            continue
        draw = random.Random(f"fixed {seed} {sample.target}")
        own = index[sample.target]
        others = [tools[i] for i in draw.sample([i for i in range(len(tools)) if i != own], k)]
        if sample.branch == "call":
            others[draw.randrange(k)] = tools[own]
        found.append(replace(sample, candidates=tuple(others), source="fixed"))
    return found


def calibration_samples(config: Config, world: World, seed: int) -> list[DecisionSample]:
    """Samples of the tools that were set aside, drawn among themselves."""
    return drawn(config, world.held_out, (), seed)


def evaluations(config: Config, world: World, seed: int) -> dict[str, list[DecisionSample]]:
    """Samples of every evaluation: official-style on seen and unseen tools, and those that come ready."""
    sets = {
        UNSEEN: drawn(config, world.unseen, world.general_unseen, seed),
        SEEN: drawn(config, world.kept_back, (), seed),
        **{name: list(samples) for name, samples in world.ready.items()},
    }
    most = config.data.most
    return {name: _spread(samples, most, seed) if most else samples for name, samples in sets.items()}


def drawn(config: Config, tools: Sequence[ToolExamples], general: Sequence[str], seed: int) -> list[DecisionSample]:
    """As the official test: candidates at random, calls to refusals 60 : 40."""
    sampler = ToolSampler("random", k=config.candidates.k, seed=seed)
    return build_samples(tools, general, call_ratio=config.candidates.call_ratio, sampler=sampler, seed=seed)


def _spread(samples: Sequence[DecisionSample], most: int, seed: int) -> list[DecisionSample]:
    order = random.Random(f"evaluated {seed}").sample(range(len(samples)), min(most, len(samples)))
    return [samples[index] for index in sorted(order)]
