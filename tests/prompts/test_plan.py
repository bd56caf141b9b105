"""The plan is a bound: no search asks more than it was said to ask, whatever its method, caps and seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.prompts.behaviour import ABO
from tenfold.prompts.history import OPRO
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.random_search import RandomSearch
from tenfold.prompts.reflection import APO, PE2, APOSum
from tenfold.prompts.resampling import APE, IterativeAPE
from tenfold.prompts.selectors import UCB, BruteForce, Selector, SuccessiveHalving, SuccessiveRejects
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.prompts.task import Task
from tenfold.text.budget import Budget

METHODS: dict[type[PromptOptimizer], dict[str, Any]] = {
    PromptOptimizer: {},
    RandomSearch: {"rounds": 1000, "proposals": 3},
    APE: {"n_init": 6},
    IterativeAPE: {"n_init": 4, "rounds": 1000, "per_parent": 2},
    APO: {"rounds": 1000, "minibatch": 6, "n_gradients": 2, "mc_samples_per_step": 1, "max_expansion_factor": 3},
    APOSum: {"rounds": 1000, "minibatch": 6, "n_gradients": 2, "mc_samples_per_step": 1, "reject_on_errors": True},
    PE2: {"rounds": 1000, "minibatch": 6, "proposals": 2},
    OPRO: {"rounds": 1000, "per_step": 3, "train": 6},
    ABO: {"rounds": 2, "minibatch": 6, "verify": 4, "first": 2},
}
SELECTORS: tuple[Selector, ...] = (
    BruteForce(),
    BruteForce(24),
    UCB(40, arms_per_round=3, examples_per_round=4),
    SuccessiveHalving(40),
    SuccessiveRejects(40),
)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.prompts.result.Result.report_html", lambda *_: None)


def tiny(seed: int) -> Task:
    return sim_task("navigate", seed, (8, 6, 5))


@pytest.mark.parametrize("kind", list(METHODS), ids=lambda kind: kind.method)
def test_no_search_asks_more_than_its_plan(kind: type[PromptOptimizer]) -> None:
    for number, cap in enumerate((31, 45, 90, 150, None)):
        for seed in (0, 1):
            options = dict(METHODS[kind], keep=1 + (number + seed) % 3, max_target_calls=cap)
            if cap is None:
                options["rounds"] = min(options.get("rounds", 1), 3)
            prompts = ["Answer.", "Think step by step."][: 1 + (number + seed) % 2]
            for selector in SELECTORS[(number + seed) % 2 :: 2]:
                made = kind(SimTarget(seed), SimOptimizer(0.5, seed), seed=seed, selector=selector, **options)
                plan, result = made.plan(tiny(seed), prompts), None
                if cap is None or cap >= len(prompts) * 6 + made.test_calls(tiny(seed)) + made.final_calls(tiny(seed)):
                    result = made.optimize(tiny(seed), prompts)
                    asked = {side: result.cost[side]["calls"] for side in ("target", "optimizer")}
                    where = (cap, seed, selector, options["keep"])
                    assert asked["target"] <= plan.target_calls, where
                    assert asked["optimizer"] <= plan.optimizer_calls, where
                    assert plan.usual_target <= plan.target_calls and plan.usual_optimizer <= plan.optimizer_calls
                    assert cap is None or plan.target_calls <= cap


def test_stalling_steps_are_in_the_bound() -> None:
    """A step whose proposals are no candidates costs the target nothing, so many more of them fit a cap."""

    class Stalling(SimOptimizer):
        count = 0

        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> Any:
            self.count += 1
            (reply,) = await super().complete(messages, sampling, n)
            return [reply if self.count % 9 == 0 else replace(reply, text="nothing")]

    for kind in (OPRO, IterativeAPE, PE2):
        made = kind(SimTarget(1), Stalling(0.5, 1), keep=1, max_target_calls=80, **METHODS[kind])
        plan, result = made.plan(tiny(1), ["Answer."]), made.optimize(tiny(1), ["Answer."])
        assert plan.usual_optimizer < plan.optimizer_calls >= result.cost["optimizer"]["calls"]


def test_a_plan_in_which_nothing_is_tried_is_refused_with_the_least_that_would_do() -> None:
    def made(calls: int) -> OPRO:
        return OPRO(SimTarget(1), SimOptimizer(0.5, 1), keep=1, max_target_calls=calls, **METHODS[OPRO])

    # One prompt on val and train, three more on train, the best on val again, both on test.
    refusal = made(30).plan(tiny(1), ["Answer."]).refusal
    assert refusal == "no step fits: max_target_calls is 30, need at least 46"
    plan = made(46).plan(tiny(1), ["Answer."])
    assert plan.refusal is None and plan.steps == 1
    assert len(made(46).optimize(tiny(1), ["Answer."]).candidates) > 1
    untried = made(30).optimize(tiny(1), ["Answer."])
    (line,) = untried.warnings()
    assert line.startswith("No new prompt was tried: the next step could pass the cap on calls")


def test_the_price_that_is_missing_is_named(tmp_path: Path) -> None:
    budget = Budget(max_usd=1, prices={"simulator: target": (1.0, 1.0)})
    plan = APE(SimTarget(1), SimOptimizer(0.5, 1), budget=budget).plan(tiny(1), ["Answer."])
    assert plan.usd is None and plan.unpriced == ("simulator: optimizer",)
    assert plan.refusal == "max_usd needs a price of simulator: optimizer"
