"""One search of the comparison: a task, a method, a seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.prompts.behaviour import ABO
from tenfold.prompts.history import OPRO
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.random_search import RandomSearch
from tenfold.prompts.reflection import APO, PE2, APOSum
from tenfold.prompts.resampling import APE, IterativeAPE
from tenfold.prompts.result import Result
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.task import Task, subset
from tenfold.prompts.task_files import few_shot_cot, load_bbh, load_table
from tenfold.prompts.word_world import PHRASES, word_task
from tenfold.recipes.abo.config import WORDS, Config, Method, Search
from tenfold.text.budget import Budget
from tenfold.text.messages import ChatModel

METHODS: dict[str, type[PromptOptimizer]] = {
    "given": PromptOptimizer,
    "few-shot-cot": PromptOptimizer,
    "random": RandomSearch,
    "ape": APE,
    "iterative-ape": IterativeAPE,
    "apo": APO,
    "apo-sum": APOSum,
    "pe2": PE2,
    "opro": OPRO,
    "abo": ABO,
    "abo-ablation": ABO,
}
ENDLESS = 1000  # rounds of methods that go on until the calls are used up
Row = dict[str, Any]


def open_task(name: str, config: Config, seed: int) -> Task:
    """A task by its name; generated ones follow from the seed."""
    sizes = config.data
    if name.startswith("sim/"):
        task = sim_task(name.removeprefix("sim/"), seed)
    elif name == WORDS:
        task = word_task(seed, max_tokens=sizes.max_tokens)
    elif name.startswith("bbh/"):
        task = load_bbh(name, max_tokens=sizes.max_tokens)
    elif Path(name).suffix in (".csv", ".tsv", ".jsonl"):
        task = load_table(name, max_tokens=sizes.max_tokens)
    else:
        raise UserError(
            f"data.tasks: got {name!r}, need sim/object_counting, sim/navigate, words/rule, bbh/NAME or a table (.csv, .tsv, .jsonl)"
        )
    return subset(task, sizes.train, sizes.val, sizes.test)


def options(method: str, size: Search, task: Task) -> dict[str, Any]:
    """The options of a method, so that all make about as many prompts a step and end at the same number of calls."""
    shared = {"keep": size.keep, "max_target_calls": size.calls, **size.writing, "test_baseline": False, "max_prompt_chars": size.max_prompt_chars}  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "given": {"rounds": 0},
        "few-shot-cot": {"rounds": 0},
        "random": {"rounds": ENDLESS, "proposals": size.proposals},
        "ape": {"rounds": 1, "n_init": max(1, min(50, (size.calls - len(task.test)) // len(task.val) - 1))},
        "iterative-ape": {"rounds": ENDLESS, "n_init": size.proposals, "per_parent": max(1, size.proposals // size.keep)},
        "opro": {"rounds": ENDLESS, "per_step": size.proposals, "train": size.minibatch, "max_prompt_chars": min(500, size.max_prompt_chars)},
        "pe2": {"rounds": ENDLESS, "minibatch": size.minibatch, "proposals": max(1, size.proposals // size.keep), "max_prompt_chars": min(2000, size.max_prompt_chars)},
        "abo": {"rounds": size.abo_rounds, "keep": 1, "minibatch": size.minibatch, "verify": size.verify},
    }  # fmt: skip
    if task.name == WORDS:  # whole sentences, those that the scripted writer knows
        own["random"] |= {"words": PHRASES, "length": 3}
    gradients = max(1, min(4, size.proposals // 2))
    own["apo"] = own["apo-sum"] = {"rounds": ENDLESS, "minibatch": size.minibatch, "n_gradients": gradients, "mc_samples_per_step": 1 if size.proposals < 8 else 2, "max_expansion_factor": max(1, size.proposals // size.keep)}  # fmt: skip
    own["abo-ablation"] = {**own["abo"], "demonstration": False}
    return {**shared, **own[method]}


def make_search(
    method: str,
    target: ChatModel,
    optimizer: ChatModel,
    size: Search,
    task: Task,
    *,
    seed: int,
    run_dir: Path | None,
    budget: Budget | None = None,
    **more: Any,
) -> PromptOptimizer:
    """An optimizer by its name."""
    return METHODS[method](
        target, optimizer, budget=budget, seed=seed, run_dir=run_dir, **{**options(method, size, task), **more}
    )


def run_search(
    config: Config, method: Method, name: str, seed: int, folder: Path, models: tuple[ChatModel, ChatModel]
) -> Row:
    """Run or go on with a search; a row of what came of it."""
    task = open_task(name, config, seed)
    budget = None if config.search.tokens is None else Budget(max_tokens=config.search.tokens)
    search = make_search(method, *models, config.search, task, seed=seed, run_dir=folder, budget=budget)
    start = few_shot_cot(name) if method == "few-shot-cot" else config.search.start
    result = search.optimize(task, [start])
    return to_row(search, result, folder)


def to_row(search: PromptOptimizer, result: Result, folder: Path) -> Row:
    """What the comparison keeps of a search."""
    session = search.session
    assert session is not None
    known = session.known(result.best, "test")
    scores = {id: None if math.isnan(outcome.value) else outcome.value for id, outcome in known.items()}
    return {
        "val": result.best.scores["val"]["mean"],
        "test": result.test["best"]["mean"],
        "format_errors": result.test["best"]["format_errors"],
        "scores": scores,
        "prompt": result.best.text,
        "prompt_tokens": result.test["prompt_tokens"]["best"],
        "op": result.best.op,
        "candidates": sum(c.dropped is None for c in result.candidates),
        "dropped": result.diagnostics["dropped"],
        "curve": list(result.curve),
        "target_calls": result.cost["target"]["calls"],
        "target_tokens": result.cost["target"]["prompt_tokens"] + result.cost["target"]["completion_tokens"],
        "optimizer_calls": result.cost["optimizer"]["calls"],
        "ended": result.ended,
        "diagnostics": result.diagnostics,
        "folder": folder.name,
    }
