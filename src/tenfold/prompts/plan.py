"""What a run will ask and cost, before anything is asked."""

from __future__ import annotations

import math
import random
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
        least: requests to the target of a step with one candidate, where the frame does not select after it.
    """

    step: int
    beam: int
    new: int = 0
    target: int = 0
    asks: int = 0
    prompt_chars: int = PROMPT_GUESS
    on_val: bool = True
    least: int = 0


@dataclass(frozen=True)
class Plan:
    """The most that a run takes. `target_calls` and `optimizer_calls` are bounds, as long as the target can read its prompts.

    Under a cap on the target's calls more steps may run than `steps`, since a proposal that is no candidate costs the target
    nothing, and the step that the cap cuts has asked the optimizer already: both are in the bounds.

    Args:
        steps: whole ones that fit the caps where every proposal is a candidate; `asked_steps` were wanted.
        proposals: candidates made in them and before the first.
        target_calls, optimizer_calls: requests at most, the look at test included.
        tokens: an estimate: four bytes a token, replies at their longest, requests to the optimizer as is usual.
        usd: of the estimate; None where a price is missing.
        refusal: why it cannot start within its budget; None where it can.
        usual_target, usual_optimizer: requests of these whole steps alone.
        unpriced: names of the models without a price, where `usd` is None.
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
    usual_target: int = 0
    usual_optimizer: int = 0
    unpriced: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        return self.target_calls + self.optimizer_calls

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "calls": self.calls}


def make_plan(search: PromptOptimizer, task: Task, prompts: Sequence[str]) -> Plan:
    """Count through the steps of a run: those that fit whole, and all that may be begun."""
    settings, budget = search.settings, search.budget or Budget()
    cap = settings.max_target_calls
    aside = search.test_calls(task) + search.final_calls(task)
    first = Tally(0, 0, new=len(prompts))
    search.tally(task, first)
    start = _selected(search, task, first)
    target, asks, chars = start, first.asks, first.prompt_chars
    most = _Most(search, task, prompts, first)
    cut = 0
    beam, steps, proposals, room = min(settings.keep, first.new), 0, first.new - len(prompts), True
    needed = start + aside  # calls of the first step that makes candidates
    for step in range(1, settings.rounds + 1):
        tally = Tally(step, beam)
        search.tally(task, tally)
        more = _selected(search, task, tally)
        if step == 1 and first.new == len(prompts):
            needed += more
        fits = room and (cap is None or target + more + aside <= cap)
        if room and not fits:  # the step that the cap cuts has asked the optimizer already
            cut = tally.asks
        room = fits
        if room:
            steps, proposals, chars = step, proposals + tally.new, tally.prompt_chars
            target, asks = target + more, asks + tally.asks
        most.add(tally)
        if not room and step >= most.steps(aside):
            break
        beam = min(settings.keep, beam + tally.new)
    target_most = most.target(aside)
    # Tokens and money by what is usual: steps without any candidate are in the bound on calls, and rare.
    each = {"target": target_most, "optimizer": min(most.asks, asks + cut)}
    tokens = _tokens(search, task, prompts, max(chars, most.prompt_chars))
    total = sum(each[side] * sum(tokens[side]) for side in each)
    usd, unpriced = _usd(search, budget, each, tokens)
    refusal = _refusal(budget, target_most + most.asks, total, usd, unpriced, len(prompts) * len(task.val) + aside, cap)
    if refusal is None and cap is not None and needed > cap and settings.rounds:
        refusal = f"no step fits: max_target_calls is {cap}, need at least {needed}"
    return Plan(
        search.method,
        steps,
        settings.rounds,
        proposals,
        target_most,
        most.asks,
        search.test_calls(task),
        total,
        usd,
        refusal,
        min(target + aside, target_most),  # some selectors may try parents again, which `target` counts anew
        asks,
        unpriced,
    )


class _Most:
    """Bounds on the requests of all steps that may be begun, whatever becomes of the proposals.

    A candidate is asked each val example once, and a selection spends its budget at most. Under a cap a step without a
    candidate costs the target nothing, but so many in a row end the search.
    """

    def __init__(self, search: PromptOptimizer, task: Task, prompts: Sequence[str], first: Tally) -> None:
        from tenfold.prompts.optimizer import STALLS  # which imports this file

        self._search, self._val, self._stalls = search, len(task.val), STALLS
        self._given = len({prompt.strip() for prompt in prompts})  # as they are asked
        self._candidates, self._pulled, self._beside = 0, self._spent(len(prompts)), 0
        self._least: int | None = None
        self._seen: set[int] = set()
        self.asks, self.prompt_chars = 0, 0
        self.add(first)

    def add(self, tally: Tally) -> None:
        """Count a step in."""
        self.asks += tally.asks
        self._beside += tally.target
        self.prompt_chars = max(self.prompt_chars, tally.prompt_chars)
        if tally.on_val:
            self._candidates += tally.new
            self._pulled += self._spent(tally.beam + tally.new) if tally.new else 0
        if tally.step and tally.new and tally.new not in self._seen:
            self._seen.add(tally.new)
            keep = self._search.settings.keep
            least = min(self._fewest(n, keep) for n in range(1, tally.new + 1)) if tally.on_val else tally.least
            self._least = least if self._least is None else min(self._least, least)

    def target(self, aside: int) -> int:
        """Requests to the target."""
        on_val = min(self._candidates * self._val, self._pulled + self._search.settings.keep * self._val)
        whole, cap = on_val + self._beside + aside, self._search.settings.max_target_calls
        return whole if cap is None else min(whole, cap)

    def steps(self, aside: int) -> float:
        """Steps that may be begun under the cap."""
        cap = self._search.settings.max_target_calls
        if cap is None or not self._least:
            return math.inf
        scored = max(0, cap - aside - self._fewest(self._given, 0))
        return self._stalls * (scored // self._least + 1)

    def _spent(self, arms: int) -> int:
        return min(self._search.selector.budget, arms * self._val)

    def _fewest(self, new: int, old: int) -> int:
        """Requests on val that `new` candidates beside `old` ones cost at least: those of the selector's first pull."""
        selector, keep, arms = self._search.selector, self._search.settings.keep, new + old
        if not new or selector.budget < arms:
            return 0
        pull = next(selector.pulls(arms, self._val, keep, random.Random(0)), None)
        return 0 if pull is None else max(0, len(pull.arms) - old) * len(pull.examples)


def _selected(search: PromptOptimizer, task: Task, tally: Tally) -> int:
    """Requests of a whole step to the target where every proposal is a candidate."""
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


def price_calls(
    search: PromptOptimizer, task: Task, prompts: Sequence[str], target: int, optimizer: int
) -> tuple[int, float | None, tuple[str, ...]]:
    """Tokens and dollars of so many calls, estimated as a plan's, and the models without a price."""
    each, tokens = {"target": target, "optimizer": optimizer}, _tokens(search, task, prompts, PROMPT_GUESS)
    usd, unpriced = _usd(search, search.budget or Budget(), each, tokens)
    return sum(each[side] * sum(tokens[side]) for side in each), usd, unpriced


def _usd(
    search: PromptOptimizer, budget: Budget, calls: dict[str, int], tokens: dict[str, tuple[int, int]]
) -> tuple[float | None, tuple[str, ...]]:
    """Dollars, and the models that are asked and have no price."""
    total, unpriced = 0.0, []
    for side, model in (("target", search.target), ("optimizer", search.optimizer)):
        price = budget.prices.get(model.name)
        if price is None:
            unpriced.append(model.name)
            continue
        total += calls[side] * (tokens[side][0] * price[0] + tokens[side][1] * price[1]) / 1e6
    return (None if unpriced else total), tuple(dict.fromkeys(unpriced))


def _refusal(
    budget: Budget,
    calls: int,
    tokens: int,
    usd: float | None,
    unpriced: Sequence[str],
    scored: int,
    most: int | None,
) -> str | None:
    """The first cap that the plan does not keep to."""
    if budget.max_calls is not None and calls > budget.max_calls:
        return f"it may take {calls} calls, max_calls is {budget.max_calls}"
    if budget.max_tokens is not None and tokens > budget.max_tokens:
        return f"it may take {tokens} tokens, max_tokens is {budget.max_tokens}"
    if budget.max_usd is not None:
        if usd is None:
            return f"max_usd needs a price of {' and '.join(unpriced)}"
        if usd > budget.max_usd and not math.isclose(usd, budget.max_usd):
            return f"it may cost {usd:.4g} dollars, max_usd is {budget.max_usd:g}"
    if most is not None and scored > most:
        return f"scoring the given prompts and the look at test may take {scored} calls, max_target_calls is {most}"
    return None
