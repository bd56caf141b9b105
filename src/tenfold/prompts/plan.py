"""What a run will ask and cost, before anything is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenfold.prompts.selectors import BruteForce
from tenfold.prompts.task import Task
from tenfold.text.budget import Budget
from tenfold.text.messages import estimated_tokens

if TYPE_CHECKING:
    from tenfold.prompts.optimizer import PromptOptimizer

PROMPT_GUESS, ASK_GUESS = (
    600,
    3000,
)  # characters of a prompt and of a request to the optimizer, where nothing is known yet


@dataclass
class Tally:
    """Counts of a step as it goes: methods add to them, every proposal taken for a candidate.

    Args:
        step: from 1.
        beam: prompts that the step starts from.
        new: candidates that it makes.
        target: requests to the target beside selection.
        asks: requests to the optimizer.
        prompt_chars: a guess at a candidate's length.
        on_val: whether the frame selects on val after the step.
    """

    step: int
    beam: int
    new: int = 0
    target: int = 0
    asks: int = 0
    prompt_chars: int = PROMPT_GUESS
    on_val: bool = True


@dataclass(frozen=True)
class Plan:
    """The most that a run takes: exact where every proposal is a candidate and the selector is brute force.

    Args:
        steps: that fit the caps; `asked_steps` were wanted.
        proposals: candidates made in them.
        target_calls, optimizer_calls: requests, the look at test included.
        tokens: an estimate: four bytes a token, replies at their longest.
        usd: of the estimate; None where a price is missing.
        refusal: why it cannot start within its budget; None where it can.
    """

    method: str
    steps: int
    asked_steps: int
    proposals: int
    target_calls: int
    optimizer_calls: int
    test_calls: int
    tokens: int
    usd: float | None
    refusal: str | None

    @property
    def calls(self) -> int:
        return self.target_calls + self.optimizer_calls

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "calls": self.calls}


def make_plan(search: PromptOptimizer, task: Task, prompts: Sequence[str]) -> Plan:
    """Count through the steps of a run."""
    settings, budget = search.settings, search.budget or Budget()
    aside = search.test_calls(task) + search.final_calls(task)
    first = Tally(0, 0, new=len(prompts))
    search.tally(task, first)
    target, asks, chars = _selected(search, task, first), first.asks, first.prompt_chars
    scored = len(prompts) * len(task.val) + aside
    beam, steps, proposals = min(settings.keep, len(prompts)), 0, 0
    for step in range(1, settings.rounds + 1):
        tally = Tally(step, beam)
        search.tally(task, tally)
        more = _selected(search, task, tally)
        if settings.max_target_calls is not None and target + more + aside > settings.max_target_calls:
            break
        steps, proposals, chars = step, proposals + tally.new, tally.prompt_chars
        target, asks = target + more, asks + tally.asks
        beam = min(settings.keep, beam + tally.new)
    target += aside
    tokens = _tokens(search, task, prompts, chars)
    each = {"target": target, "optimizer": asks}
    total = sum(each[side] * sum(tokens[side]) for side in each)
    usd = _usd(search, budget, each, tokens)
    return Plan(
        search.method,
        steps,
        settings.rounds,
        proposals,
        target,
        asks,
        search.test_calls(task),
        total,
        usd,
        _refusal(budget, target + asks, total, usd, scored, settings.max_target_calls),
    )


def _selected(search: PromptOptimizer, task: Task, tally: Tally) -> int:
    """Requests of a step to the target."""
    arms = tally.beam + tally.new
    if not tally.on_val or not arms or not tally.new:
        return tally.target
    most = len(task.val)
    if isinstance(search.selector, BruteForce):
        return tally.target + tally.new * min(most, search.selector.budget // arms)
    return tally.target + min(search.selector.budget, arms * most)


def _tokens(search: PromptOptimizer, task: Task, prompts: Sequence[str], chars: int) -> dict[str, tuple[int, int]]:
    """Tokens of one request by side, (prompt, completion)."""
    questions = [estimated_tokens(example.input) for example in task.val]
    longest = max([chars, *map(len, prompts)])
    target = (sum(questions) // len(questions) + longest // 4 + 8, task.max_tokens)
    return {"target": target, "optimizer": ((ASK_GUESS + longest) // 4, search.settings.optimizer_tokens)}


def _usd(
    search: PromptOptimizer, budget: Budget, calls: dict[str, int], tokens: dict[str, tuple[int, int]]
) -> float | None:
    total = 0.0
    for side, model in (("target", search.target), ("optimizer", search.optimizer)):
        price = budget.prices.get(model.name)
        if price is None:
            return None
        total += calls[side] * (tokens[side][0] * price[0] + tokens[side][1] * price[1]) / 1e6
    return total


def _refusal(budget: Budget, calls: int, tokens: int, usd: float | None, scored: int, most: int | None) -> str | None:
    """The first cap that the plan does not keep to."""
    if budget.max_calls is not None and calls > budget.max_calls:
        return f"it may take {calls} calls, max_calls is {budget.max_calls}"
    if budget.max_tokens is not None and tokens > budget.max_tokens:
        return f"it may take {tokens} tokens, max_tokens is {budget.max_tokens}"
    if budget.max_usd is not None:
        if usd is None:
            return "max_usd needs the prices of both models (--target-price IN OUT, dollars per million tokens)"
        if usd > budget.max_usd and not math.isclose(usd, budget.max_usd):
            return f"it may cost {usd:.4g} dollars, max_usd is {budget.max_usd:g}"
    if most is not None and scored > most:
        return f"scoring the given prompts and the look at test may take {scored} calls, max_target_calls is {most}"
    return None
