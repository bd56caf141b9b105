"""Settings of a comparison of prompt optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tenfold.core.config import need, need_distinct, need_seeds
from tenfold.prompts.word_model import WORD_MODEL, WordModel

Method = Literal[
    "given", "few-shot-cot", "random", "ape", "iterative-ape", "apo", "apo-sum", "pe2", "opro", "abo", "abo-ablation"
]
SIM = "sim"
LOCAL = "local"  # a small model of the word world, trained here
SCRIPT = "script"  # a scripted writer of prompts for the word world
WORDS = "words/rule"
GENERATED = ("sim/", "words/")  # tasks that are made anew for every seed


def writer_of(target: str, optimizer: str) -> str:
    """Who writes prompts, by the names of `Models`."""
    if optimizer != "target":
        return optimizer
    return SCRIPT if target == LOCAL else target


@dataclass(frozen=True)
class Models:
    """Who solves the task and who writes prompts.

    Args:
        target: "sim" (the simulator), "local" (a small language model of the word world, trained here), "serve:NAME" (a model of `tenfold models list` or a folder, served by `tenfold afm serve`
            for the time of the run), URL#MODEL of an endpoint, or MODEL at OPENAI_BASE_URL.
        optimizer: the same; "script" is a program that writes prompts for the word world; "target" is the same model, with the
            local one the script, since it can only answer.
        beta: of the simulated optimizer: the share of reflections in which it blames its prior cause.
        concurrency: requests under way at an endpoint.
        timeout: seconds of one try at an endpoint.
        whole_replies: a reply of the optimizer without the tags that were asked for counts whole; for small models.
        local: how the local model is made.
    """

    target: str = SIM
    optimizer: str = "target"
    beta: float = 0.7
    concurrency: int = 16
    timeout: float = 60.0
    whole_replies: bool = False
    local: WordModel = WORD_MODEL

    def __post_init__(self) -> None:
        need("beta", self.beta, 0, 1)
        need("concurrency", self.concurrency, 1)
        need("timeout", self.timeout, 0, above=True)
        if not self.target or not self.optimizer:
            raise ValueError("target, optimizer: got an empty name, need sim, local, serve:NAME, URL#MODEL or MODEL")
        if self.optimizer == LOCAL or self.target == SCRIPT:
            raise ValueError("target, optimizer: the local model can only answer, the script only write prompts")

    @property
    def writer(self) -> str:
        """Who writes prompts."""
        return writer_of(self.target, self.optimizer)


@dataclass(frozen=True)
class Data:
    """What is solved.

    Args:
        tasks: "sim/object_counting", "sim/navigate", "words/rule" (generated), "bbh/NAME" of BIG-Bench Hard, or a table of your own.
        train, val, test: the first so many examples of each split; none: all.
        max_tokens: of a target's reply.
    """

    tasks: tuple[str, ...] = ("sim/object_counting", "sim/navigate")
    train: int | None = None
    val: int | None = None
    test: int | None = None
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: got {self.tasks}, need one or more, all different")
        for name in ("train", "val", "test", "max_tokens"):
            need(name, getattr(self, name), 1)


@dataclass(frozen=True)
class Search:
    """How every method searches; all stop at the same number of calls.

    Args:
        calls: requests to the target in a run, the look at test included.
        tokens: of both models in a run, prompts and replies; a batch that could pass it ends the search. None: no cap.
        proposals: prompts that a step makes, about.
        minibatch: training examples that a prompt is tried on.
        keep: prompts of the beam.
        start: the prompt that all begin with.
        optimizer_tokens: of one reply of the optimizer.
        optimizer_temperature: of its sampling; none: each method's own.
        abo_rounds: T of ABO.
        verify: training examples that ABO measures following on.
        max_prompt_chars: longer prompts are dropped.
    """

    calls: int = 1500
    tokens: int | None = None
    proposals: int = 8
    minibatch: int = 32
    keep: int = 2
    start: str = "Answer the question."
    optimizer_tokens: int = 1024
    optimizer_temperature: float | None = None
    abo_rounds: int = 2
    verify: int = 16
    max_prompt_chars: int = 6000

    def __post_init__(self) -> None:
        for name in ("calls", "tokens", "proposals", "minibatch", "keep", "optimizer_tokens", "max_prompt_chars"):
            need(name, getattr(self, name), 1)
        need("abo_rounds", self.abo_rounds, 0)
        need("optimizer_temperature", self.optimizer_temperature, 0, 100)

    @property
    def writing(self) -> dict[str, Any]:
        """How the optimizer's replies are drawn, as options of a method or a probe."""
        heat = self.optimizer_temperature
        return {"optimizer_tokens": self.optimizer_tokens, **({} if heat is None else {"optimizer_temperature": heat})}
        need("verify", self.verify, 0)


@dataclass(frozen=True)
class Probes:
    """Experiments on the optimizer beside the searches; their calls are on top.

    Args:
        reflections: on real errors, and as many on controls; 0: none.
        betas: with the simulator, priors at which reflections are probed.
        paraphrases: of the starting prompt, to see how far other words alone move val; 0: none.
        bandit: trials of each selector on a simulated bandit of 40 arms; 0: none.
    """

    reflections: int = 400
    betas: tuple[float, ...] = (0.0, 0.3, 0.7, 1.0)
    paraphrases: int = 8
    bandit: int = 0

    def __post_init__(self) -> None:
        for name in ("reflections", "bandit"):
            need(name, getattr(self, name), 0)
        need("betas", self.betas, 0, 1)
        if self.paraphrases == 1:
            raise ValueError("paraphrases: got 1, need 0 or at least 2")
        need("paraphrases", self.paraphrases, 0)


@dataclass(frozen=True)
class Config:
    """Prompt optimizers at equal calls, and diagnoses of why they work or do not.

    Args:
        methods: "given" is the starting prompt alone; "abo-ablation" has no demonstration.
        seeds: of tasks that are generated, of models that are simulated, and of all draws.
        workers: searches side by side, each in a process; 1 where an endpoint or a local model is asked.
    """

    models: Models = Models()
    data: Data = Data()
    search: Search = Search()
    probes: Probes = Probes()
    methods: tuple[Method, ...] = ("given", "ape", "apo", "opro", "abo", "abo-ablation")
    seeds: tuple[int, ...] = (0,)
    workers: int = 1

    def __post_init__(self) -> None:
        need_distinct("methods", self.methods)
        need_seeds(self.seeds)
        if unknown := set(self.methods) - set(get_args(Method)):
            raise ValueError(f"methods: got {', '.join(sorted(unknown))}, need some of {', '.join(get_args(Method))}")
        if "given" not in self.methods:
            raise ValueError("methods: need 'given' among them, which the others are held against")
        need("workers", self.workers, 1)
        if self.simulated and not all(
            task.rpartition("/")[2] in ("object_counting", "navigate") for task in self.data.tasks
        ):
            raise ValueError(
                "data.tasks: the simulator knows object_counting and navigate only; name a real model for others"
            )
        if (self.models.target == LOCAL or self.models.writer == SCRIPT) and set(self.data.tasks) != {WORDS}:
            raise ValueError(f"data.tasks: local and script know {WORDS} only; name real models for others")
        if self.workers > 1 and not self.simulated:
            raise ValueError(
                f"workers: got {self.workers}, need 1 with a real model: it answers many requests at once by itself"
            )

    @property
    def simulated(self) -> bool:
        """Whether the target is the simulator."""
        return self.models.target == SIM

    @property
    def scripted(self) -> bool:
        """Whether prompts are written by a script."""
        return self.models.writer == SCRIPT
