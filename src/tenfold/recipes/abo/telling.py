"""What the verbs print of a plan and of a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tenfold.core.errors import printable
from tenfold.prompts.bill import billed
from tenfold.prompts.plan import Plan
from tenfold.prompts.report import val_against_test
from tenfold.prompts.result import Result
from tenfold.recipes.abo.asked import Asked
from tenfold.recipes.abo.config import LOCAL, SCRIPT, SIM, writer_of
from tenfold.recipes.abo.costs import money
from tenfold.recipes.abo.models import SERVE
from tenfold.recipes.abo.option_names import in_options
from tenfold.text.messages import ChatModel


def print_plan(made: Plan, models: tuple[ChatModel, ChatModel], asked: Asked) -> None:
    """Bounds, what usually fits, and why it will not start."""
    dollars = priced(made.usd, paid(made.unpriced, models, asked), models)
    print(f"plan: {made.method}, at most {made.target_calls} calls to the target ({made.test_calls} of them the one look at test) and {made.optimizer_calls} to the optimizer; about {made.tokens} tokens{dollars} (estimates)")  # fmt: skip
    print(f"      where every proposal is a new prompt: {made.steps} of {made.asked_steps} steps fit, {made.proposals} proposals, {made.usual_target} and {made.usual_optimizer} calls")  # fmt: skip
    if made.refusal is not None:
        print(f"      it will not start: {refusal_of(made, models)}")


def refusal_of(made: Plan, models: tuple[ChatModel, ChatModel]) -> str:
    """Why a search will not start, in options, and what helps."""
    assert made.refusal is not None
    if made.refusal.startswith("max_usd needs"):
        return f"--budget-usd needs {_missing(made.unpriced, models)}"
    return f"{in_options(made.refusal)}; give more, or lower --proposals, --minibatch or the splits (--val, --test)"


def paid(unpriced: Sequence[str], models: tuple[ChatModel, ChatModel], asked: Asked) -> list[str]:
    """Those of the models without a price that somebody may charge for: endpoints."""
    target = asked.target_model or ""
    sides = (target, writer_of(target, asked.optimizer_model))
    own = {model.name for model, side in zip(models, sides, strict=True) if side in (SIM, LOCAL, SCRIPT) or side.startswith(SERVE)}  # fmt: skip
    return [name for name in unpriced if name not in own]


def priced(usd: float | None, unpriced: Sequence[str], models: tuple[ChatModel, ChatModel] | None = None) -> str:
    """What a plan says of money: nothing where nothing is to be paid."""
    if usd is None:
        if not unpriced:
            return ""
        return f", no price of {' and '.join(unpriced)}" if models is None else f", in dollars with {_missing(unpriced, models)}"  # fmt: skip
    return f", {money(usd)}" if usd else ""


def _missing(unpriced: Sequence[str], models: tuple[ChatModel, ChatModel]) -> str:
    """The options that give the prices of these models."""
    sides = ((models[0].name, "--target-price IN OUT"), (models[1].name, "--optimizer-price IN OUT"))
    options = {name: option for name, option in reversed(sides) if name in unpriced}
    return " and ".join(f"{options[name]} (of {name})" for name in unpriced)


def print_result(result: Result, folder: Path) -> None:
    """The outcome of a search, what must be known before its figures, and what it cost."""
    test = result.test
    if result.about["simulator"]:
        print("simulator: a simulated model took part, these figures say nothing about language models")
    for line in result.warnings():
        print(f"warning: {line}")
    best = test["best"]
    if result.best.id == result.baseline.id:
        print(
            f"no prompt was found that is better than the given one: test {best['mean']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
        )
    else:
        base, curse = test["baseline"], val_against_test(test["optimism"])
        p = "" if test["p_value"] is None else f", McNemar p = {test['p_value']:.3g}"
        print(f"test: {best['mean']:.3f} [{best['low']:.3f}, {best['high']:.3f}] against {base['mean']:.3f} of the given prompt{p}{'' if curse is None else '. ' + curse}")  # fmt: skip
    spent = billed(folder)
    print(f"calls: {result.cost['target']['calls']} target, {result.cost['optimizer']['calls']} optimizer; sent {spent['calls']}{', ' + money(spent['usd']) if spent['usd'] else ''}; {result.ended}")  # fmt: skip
    print("prompt:\n" + printable(result.best.text or "(no words)", keep="\n", unseen=None))
    print(f"report: {folder / 'report.html'}")
