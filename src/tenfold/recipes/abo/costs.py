"""What a comparison or a diagnosis asks at most, before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.core.errors import UserError
from tenfold.prompts.plan import price_calls
from tenfold.prompts.task import Task
from tenfold.prompts.task_files import few_shot_cot
from tenfold.recipes.abo.config import LOCAL, SCRIPT, SIM, Config
from tenfold.recipes.abo.searches import make_search, open_task
from tenfold.text.budget import Budget
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling

PARAPHRASES = 3  # rounds in which a probe asks for them
REPEATED = 20  # val examples that a prompt is asked again on
Price = tuple[float, float]


@dataclass(frozen=True)
class Cost:
    """Calls at most, an estimate of tokens and dollars for as many.

    Args:
        target, optimizer: calls.
        tokens: four bytes a token, replies at their longest.
        usd: None where a price is missing.
        unpriced: names of the models without one.
    """

    target: int = 0
    optimizer: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    unpriced: tuple[str, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        unpriced = tuple(dict.fromkeys((*self.unpriced, *other.unpriced)))
        return Cost(self.target + other.target, self.optimizer + other.optimizer, self.tokens + other.tokens, usd, unpriced)  # fmt: skip

    def check(self, verb: str, calls: int | None, usd: float | None, advice: str) -> None:
        """Refuse what does not keep to the caps.

        Raises:
            UserError: naming the option.
        """
        asked = self.target + self.optimizer
        if calls is not None and asked > calls:
            raise UserError(f"{verb}: it may take {asked} calls, --budget-calls is {calls}; {advice}")
        if usd is not None and self.usd is None:
            how = (
                "give --target-price IN OUT, --optimizer-price IN OUT"
                if verb == "compare"
                else "the run was given none"
            )
            raise UserError(f"{verb}: --budget-usd needs a price of {' and '.join(self.unpriced)}; {how}")
        if usd is not None and self.usd is not None and self.usd > usd:
            raise UserError(f"{verb}: it may cost {money(self.usd)}, --budget-usd is {usd:g}; {advice}")


def money(usd: float) -> str:
    """Dollars at three significant digits."""
    return f"{usd:.3g} US dollars" if usd < 1000 else f"{usd:,.0f} US dollars"


class _Named:
    """A model of which only the name is needed."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        raise ValueError(f"{self.name}: stands for a model that is not asked")


def of_comparison(config: Config, target_price: Price | None, optimizer_price: Price | None) -> Cost:
    """All searches and probes of a comparison.

    Args:
        config: the comparison.
        target_price: US dollars per million tokens, prompt and reply; None: unknown.
        optimizer_price: None: the target's where both are one model.
    """
    writer = config.models.writer
    target: ChatModel = _Named(config.models.target)
    optimizer: ChatModel = target if writer == config.models.target else _Named(writer)
    prices = {name: (0.0, 0.0) for name in (target.name, optimizer.name) if name in (SIM, LOCAL, SCRIPT)}
    if optimizer_price is not None:
        prices[optimizer.name] = optimizer_price
    if target_price is not None:
        prices[target.name] = target_price
    budget, size, total = Budget(prices=prices), config.search, Cost()
    for name in config.data.tasks:
        task, start = open_task(name, config, config.seeds[0]), [size.start]
        for method in config.methods:
            if method == "few-shot-cot" and not name.startswith("bbh/"):
                continue
            begin = [few_shot_cot(name)] if method == "few-shot-cot" else start
            plan = make_search(method, target, optimizer, size, task, seed=0, run_dir=None, budget=budget).plan(task, begin)  # fmt: skip
            total += Cost(plan.target_calls, plan.optimizer_calls, plan.tokens, plan.usd, plan.unpriced)
        probes = config.probes
        priors = len(probes.betas) if config.simulated else 1
        reflected = of_reflections(task, probes.reflections)
        calls = (priors * reflected[0], priors * reflected[1])
        for more in (calls, of_paraphrases(task, probes.paraphrases)):
            tokens, usd, unpriced = price_calls(
                make_search("given", target, optimizer, size, task, seed=0, run_dir=None, budget=budget),
                task,
                start,
                *more,
            )
            total += Cost(more[0], more[1], tokens, usd, unpriced)
    whole = Cost()
    for _ in config.seeds:
        whole += total
    return whole


def of_reflections(task: Task, n: int) -> tuple[int, int]:
    """Calls to the target and to the optimizer of `probe_reflections`."""
    return (len(task.train), 2 * n) if n else (0, 0)


def of_paraphrases(task: Task, m: int) -> tuple[int, int]:
    """Calls to the target and to the optimizer of `probe_paraphrases`."""
    return (m * len(task.val), PARAPHRASES * 2 * (m - 1)) if m else (0, 0)


def of_repeats(task: Task, repeats: int) -> tuple[int, int]:
    """Calls to the target of `probe_repeats`."""
    return repeats * min(REPEATED, len(task.val)), 0
