"""What a user asks a search for, on the command line: one set of options for `optimize` and `plan`, kept in the run for `resume`, `diagnose` and `check`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tenfold.core.atomic import write_atomic
from tenfold.core.config import did_you_mean, from_json, need, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.scorers import ExactMatch, MultipleChoice, NumberMatch, RegexMatch, Scorer
from tenfold.prompts.selectors import UCB, BruteForce, Selector, SuccessiveHalving, SuccessiveRejects
from tenfold.prompts.sim_worlds import WORLDS, sim_task
from tenfold.prompts.task import Placement, Task, check_prompt, subset
from tenfold.prompts.task_files import load_bbh, load_table
from tenfold.prompts.word_world import word_task
from tenfold.recipes.abo.config import LOCAL, SCRIPT, WORDS, Models, Search
from tenfold.recipes.abo.models import opened
from tenfold.recipes.abo.searches import METHODS, make_search, options
from tenfold.text.budget import Budget
from tenfold.text.messages import ChatModel

FILE = "asked.json"
Flat = tyro.conf.arg(name="")  # fields become options without a prefix


@dataclass(frozen=True)
class Asked:
    """A search.

    Args:
        task: bbh/NAME of BIG-Bench Hard, or sim/object_counting, sim/navigate, words/rule; none: --data.
        data: a table of your own, .csv, .tsv or .jsonl, with columns input and target, perhaps id and split.
        input_column, target_column: their names in your table.
        scorer: auto (by the targets), exact, choice, number, or regex:PATTERN whose last match is the answer.
        placement: where the prompt stands: before_q, after_q, system, answer_start.
        description: what is asked, in a sentence; abo begins with it.
        method: abo, apo, apo-sum, opro, ape, iterative-ape, pe2, random or given.
        target_model: solves the task: sim, local (with words/rule), serve:NAME, URL#MODEL, or MODEL at --base-url.
        optimizer_model: writes prompts; "target": the same model, with local a script.
        base_url: of endpoints that are named by their model alone; none: OPENAI_BASE_URL. The key is OPENAI_API_KEY.
        start: prompts to begin with; "@FILE" reads one.
        selector: how candidates are chosen on val: brute, ucb, halving, rejects.
        calls: requests to the target, the look at test included.
        proposals: prompts that a step makes, about.
        likelihood: of ape and iterative-ape: training examples on whose targets' likelihood proposals are ranked before the best
            are tried; needs a target that tells log-probabilities (a local one does). 0: all are tried.
        keep: prompts of the beam.
        minibatch: training examples that a prompt is tried on.
        train, val, test: the first so many examples of each split; none: all.
        max_tokens: of a reply of the target.
        optimizer_tokens: of a reply of the optimizer.
        optimizer_temperature: of its sampling; none: the method's own.
        whole_replies: use the optimizer's whole reply as the prompt where it leaves out the tags that were asked for; for
            small models.
        seed: of all draws.
        concurrency: requests under way.
        timeout: seconds of one try.
        budget_calls: requests to both models.
        budget_tokens: of both models.
        budget_usd: US dollars; needs prices.
        budget_seconds: from the first request on.
        target_price: US dollars per million tokens of the target, prompt and reply.
        optimizer_price: of the optimizer; none: the target's where it is the same model.
    """

    task: str | None = None
    data: Path | None = None
    input_column: str = "input"
    target_column: str = "target"
    scorer: str = "auto"
    placement: Placement = "before_q"
    description: str = "Answer the question."
    method: str = "abo"
    target_model: str | None = None
    optimizer_model: str = "target"
    base_url: str | None = None
    start: tuple[str, ...] = ("Let's think step by step.",)
    selector: Literal["brute", "ucb", "halving", "rejects"] = "brute"
    calls: int = 1000
    proposals: int = 8
    likelihood: int = 0
    keep: int = 2
    minibatch: int = 32
    train: int | None = None
    val: int | None = None
    test: int | None = None
    max_tokens: int = 256
    optimizer_tokens: int = 1024
    optimizer_temperature: float | None = None
    whole_replies: bool = False
    seed: int = 0
    concurrency: int = 16
    timeout: float = 60.0
    budget_calls: int | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    budget_seconds: float | None = None
    target_price: tuple[float, float] | None = None
    optimizer_price: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in (
            "calls",
            "proposals",
            "keep",
            "minibatch",
            "train",
            "val",
            "test",
            "max_tokens",
            "optimizer_tokens",
            "concurrency",
        ):
            need(name, getattr(self, name), 1)
        need("seed", self.seed, 0, 2**31 - 1)
        need("likelihood", self.likelihood, 0)
        need("optimizer_temperature", self.optimizer_temperature, 0, 100)
        need("timeout", self.timeout, 0, above=True)
        if self.method not in METHODS or self.method == "few-shot-cot":
            known = [name for name in METHODS if name != "few-shot-cot"]
            raise ValueError(
                f"method: got {self.method!r}{did_you_mean(self.method, known)}, need one of {', '.join(known)}"
            )
        if self.likelihood and self.method not in ("ape", "iterative-ape"):
            raise ValueError(f"likelihood: got {self.likelihood} with method {self.method}, need ape or iterative-ape")
        if not self.start:
            raise ValueError("start: got none, need at least one prompt")


Asks = Annotated[Asked, Flat]


def task_of(asked: Asked) -> Task:
    """The task.

    Raises:
        UserError: none or two named, absent, or a table that cannot be read.
    """
    if (asked.task is None) == (asked.data is None):
        raise UserError("--task, --data: need one of them, such as --task bbh/navigate or --data my.csv")
    if asked.data is not None:
        columns = {"input": asked.input_column, "target": asked.target_column}
        task = load_table(asked.data, columns, scorer=_scorer(asked.scorer), placement=asked.placement, description=asked.description, max_tokens=asked.max_tokens, seed=0)  # fmt: skip
    else:
        assert asked.task is not None
        kind, _, name = asked.task.partition("/")
        if kind == "sim" and name in WORLDS:
            task = sim_task(name, asked.seed)
        elif asked.task == WORDS:
            task = word_task(asked.seed, max_tokens=asked.max_tokens)
        elif kind == "bbh" and name:
            options: dict[str, Any] = {} if (scorer := _scorer(asked.scorer)) is None else {"scorer": scorer}
            task = load_bbh(name, placement=asked.placement, max_tokens=asked.max_tokens, **options)
        else:
            raise UserError(
                f"--task: got {asked.task!r}, need bbh/NAME, {', '.join(f'sim/{world}' for world in WORLDS)}, {WORDS}"
            )
    return subset(task, asked.train, asked.val, asked.test)


def _scorer(name: str) -> Scorer | None:
    kinds: dict[str, Scorer] = {"exact": ExactMatch(), "choice": MultipleChoice(), "number": NumberMatch()}
    if name == "auto":
        return None
    if name.startswith("regex:"):
        return RegexMatch(name.removeprefix("regex:"))
    if name not in kinds:
        raise UserError(
            f"--scorer: got {name!r}{did_you_mean(name, list(kinds))}, need auto, exact, choice, number or regex:PATTERN"
        )
    return kinds[name]


def prompts_of(asked: Asked) -> list[str]:
    """The prompts to begin with."""
    prompts = [_read(prompt[1:]) if prompt.startswith("@") else prompt for prompt in asked.start]
    for prompt in prompts:
        check_prompt(prompt)
    return prompts


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"--start: {path} is not UTF-8 (byte {error.start})") from None


@contextmanager
def models_of(asked: Asked) -> Iterator[tuple[ChatModel, ChatModel]]:
    """Target and optimizer.

    Raises:
        UserError: no target named, or a model that cannot be reached.
    """
    if asked.target_model is None:
        raise UserError(
            "--target-model: need one: MODEL (at OPENAI_BASE_URL or --base-url), URL#MODEL, serve:NAME, sim, or local"
        )
    both = (asked.target_model, asked.optimizer_model)
    Models(*both)  # refuses a local model that is to write prompts
    if (LOCAL in both or SCRIPT in both) and asked.task != WORDS:
        raise UserError(f"--target-model, --optimizer-model: local and script know --task {WORDS} only")
    with opened(
        *both,
        seed=asked.seed,
        base_url=asked.base_url,
        concurrency=asked.concurrency,
        timeout=asked.timeout,
        whole_replies=asked.whole_replies,
    ) as models:
        yield models


def budget_of(asked: Asked, models: tuple[ChatModel, ChatModel]) -> Budget:
    """The caps with the prices of both models."""
    prices: dict[str, tuple[float, float]] = {}
    if asked.optimizer_price is not None:
        prices[models[1].name] = asked.optimizer_price
    if asked.target_price is not None:
        prices[models[0].name] = asked.target_price
    free = [model.name for model in models if getattr(model, "simulator", False)]
    return Budget(
        asked.budget_calls,
        asked.budget_tokens,
        asked.budget_usd,
        asked.budget_seconds,
        {**dict.fromkeys(free, (0.0, 0.0)), **prices},
    )


def size_of(asked: Asked) -> Search:
    """How much is tried and how prompts are written."""
    return Search(
        calls=asked.calls,
        proposals=asked.proposals,
        minibatch=asked.minibatch,
        keep=asked.keep,
        optimizer_tokens=asked.optimizer_tokens,
        optimizer_temperature=asked.optimizer_temperature,
    )


def search_of(
    asked: Asked, models: tuple[ChatModel, ChatModel], task: Task, run_dir: Path | None, prompts: Sequence[str] = ("",)
) -> PromptOptimizer:
    """The optimizer, for a search that begins with these prompts."""
    size = size_of(asked)
    selectors: dict[str, type[Selector]] = {
        "brute": BruteForce,
        "ucb": UCB,
        "halving": SuccessiveHalving,
        "rejects": SuccessiveRejects,
    }
    more: dict[str, Any] = {"likelihood": asked.likelihood} if asked.likelihood else {}
    if asked.method == "ape" and not asked.likelihood:  # both looks at test, and all prompts on val, must fit
        room = (asked.calls - 2 * len(task.test)) // len(task.val) - len(set(prompts))
        if 1 <= room < (wanted := options("ape", size, task)["n_init"]):
            more["n_init"] = min(room, wanted)
    return make_search(
        asked.method,
        *models,
        size,
        task,
        seed=asked.seed,
        run_dir=run_dir,
        budget=budget_of(asked, models),
        selector=selectors[asked.selector](),
        test_baseline=True,
        **more,
    )


def keep_asked(asked: Asked, folder: Path) -> None:
    """Write what was asked into its run folder; the key is no part of it."""
    write_atomic(folder / FILE, json.dumps(to_json(asked), indent=1, ensure_ascii=False) + "\n")


def read_asked(folder: Path) -> Asked:
    """What a run folder was asked for.

    Raises:
        UserError: no run of `optimize`.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: no run of tenfold abo optimize (no {FILE} in it)")
    return from_json(Asked, read_object(folder / FILE), where=str(folder / FILE))
