"""Caps hold whatever the order and however many calls are under way; what is charged is what was spent."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.text.budget import Budget, BudgetExceededError, Spent
from tenfold.text.chat import CachedChatModel, complete_all
from tenfold.text.messages import SAMPLING, Message, Reply, Sampling, Usage, prompt_bound

HELLO = [Message("user", "hello")]
SHORT = Sampling(max_tokens=10)
MOST = prompt_bound(HELLO, SHORT) + 10  # what one call reserves
WORDS = [[Message("user", f"word {i:03}")] for i in range(60)]


class Counting:
    """Answers after a random while with a random number of tokens, never more than was asked for."""

    name = "counting"

    def __init__(self, seed: int = 0, budget: Budget | None = None) -> None:
        self.random, self.budget = random.Random(seed), budget
        self.calls = self.tokens = 0
        self.lock = threading.Lock()

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        with self.lock:
            self.calls += 1
            seconds = self.random.random() / 500
            usages = [
                Usage(
                    self.random.randint(1, prompt_bound(messages, sampling)) if i == 0 else 0,
                    self.random.randint(0, sampling.max_tokens),
                )
                for i in range(n)
            ]
            self.tokens += sum(usage.prompt + usage.completion for usage in usages)
        await asyncio.sleep(seconds)
        return [Reply("ok", "stop", usage) for usage in usages]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "caps", [{"max_calls": 17}, {"max_tokens": 900}, {"max_usd": 0.0009}, {"max_calls": 20, "max_tokens": 1000}]
)
def test_no_cap_is_ever_passed(caps: dict[str, Any], seed: int) -> None:
    budget = Budget(**caps, prices={"counting": (1.0, 3.0)})
    model = Counting(seed)
    charged = budget.wrap(model)
    answered, refused = 0, set()

    async def ask(words: Sequence[Message]) -> None:
        nonlocal answered
        try:
            await charged.complete(words, SHORT, n=2)
            answered += 1
        except BudgetExceededError as error:
            refused.add(str(error))

    async def all_at_once() -> None:
        await asyncio.gather(*map(ask, WORDS))

    asyncio.run(all_at_once())
    spent = budget.spent
    assert model.calls <= caps.get("max_calls", 60)
    assert model.tokens <= caps.get("max_tokens", 1 << 30)
    assert spent.usd <= caps.get("max_usd", 1e9)
    assert (spent.calls, spent.billed_calls, spent.tokens) == (answered, model.calls, model.tokens)
    assert all(said.startswith("budget: the next call could pass max_") for said in refused)
    assert 10 < answered < 60  # neither refused at once nor never
    assert spent.usd == pytest.approx((spent.prompt_tokens + 3 * spent.completion_tokens) / 1e6, abs=1e-12)


def test_a_cap_holds_over_threads() -> None:
    budget, model = Budget(max_calls=30), Counting()
    charged = budget.wrap(model)

    def work() -> None:
        for words in WORDS[:20]:
            try:
                complete_all(charged, [words])
            except BudgetExceededError:
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert model.calls == budget.spent.calls == 30


def test_a_call_waits_for_room_that_others_may_leave() -> None:
    """Room for one reservation at a time, yet for many calls of the size they turn out to have."""
    budget = Budget(max_tokens=MOST + 50)
    small = ScriptedUsage(Usage(3, 2))
    replies = complete_all(budget.wrap(small), [HELLO] * 11, SHORT)
    assert len(replies) == 11
    assert small.most == 2  # two fit, with all that is left
    assert budget.spent.tokens == 55


class ScriptedUsage:
    """Every call counts the same; notes how many ran at a time."""

    name = "m"

    def __init__(self, usage: Usage, cached: bool = False) -> None:
        self.reply = Reply("ok", "stop", usage, cached=cached)
        self.running = self.most = 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return [self.reply] * n


def test_spent_by_hand() -> None:
    budget = Budget(prices={"m": (0.15, 0.6)})
    complete_all(budget.wrap(ScriptedUsage(Usage(1000, 200))), [HELLO] * 3)
    complete_all(budget.wrap(ScriptedUsage(Usage(10, 20, estimated=True))), [HELLO])
    assert budget.spent == Spent(4, 4, 3010, 620, 0.0008235, 1, 0)
    assert budget.spent.tokens == 3630


def test_money_is_exact() -> None:
    """A hundred calls of 0.0001 $ fit into 0.01 $: sums of floats would not."""
    budget = Budget(max_usd=0.01, prices={"m": (1.0, 0.0)})
    text = "x" * (100 - prompt_bound([Message("user", "")], SHORT))
    charged = budget.wrap(ScriptedUsage(Usage(100, 0)))
    complete_all(charged, [[Message("user", text)]] * 100, SHORT)
    assert budget.spent.usd == 0.01
    with pytest.raises(BudgetExceededError, match=r"max_usd=0\.01"):
        complete_all(charged, [[Message("user", text)]], SHORT)


def test_an_unknown_price_is_refused_at_the_start() -> None:
    budget = Budget(max_usd=1, prices={"other": (1, 1)})
    with pytest.raises(UserError, match=r"no price for m, which max_usd needs"):
        budget.wrap(ScriptedUsage(Usage(1, 1)))
    Budget(max_tokens=1000).wrap(ScriptedUsage(Usage(1, 1)))


def test_stored_replies_are_free(tmp_path: Any) -> None:
    model = Counting()
    cached = CachedChatModel(model, tmp_path / "replies.db")
    budget = Budget(max_calls=5)
    complete_all(budget.wrap(cached), WORDS[:5])
    complete_all(budget.wrap(cached), WORDS[:5])
    assert (budget.spent.calls, model.calls) == (5, 5)
    with pytest.raises(BudgetExceededError):
        complete_all(budget.wrap(cached), WORDS[:6])
    outside = Budget(max_calls=0)
    outer = outside.wrap(ScriptedUsage(Usage(5, 5), cached=True))
    with pytest.raises(BudgetExceededError, match="max_calls=0"):
        complete_all(outer, [HELLO])
    free = Budget()
    complete_all(free.wrap(ScriptedUsage(Usage(5, 5), cached=True)), [HELLO])
    assert free.spent == Spent()


def test_a_cancelled_call_gives_its_reservation_back() -> None:
    async def run() -> None:
        budget = Budget(max_calls=1)

        async def ask(seconds: float) -> None:
            async with budget.reserve("m", HELLO) as charge:
                await asyncio.sleep(seconds)
                charge.settle([Reply("ok", "stop", Usage(1, 1))])

        first, waiting = asyncio.create_task(ask(60)), asyncio.create_task(ask(60))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(ask(0))
        await asyncio.sleep(0.01)
        waiting.cancel()  # still in the queue
        first.cancel()  # under way
        await second
        assert budget.spent == Spent(1, 1, 1, 1, cancelled=1)

    asyncio.run(run())


def test_a_place_won_at_the_moment_of_cancelling_is_given_back() -> None:
    async def run() -> None:
        budget = Budget(max_calls=1)
        hold = budget.reserve("m", HELLO)
        await hold.__aenter__()
        waiting = asyncio.create_task(budget.reserve("m", HELLO).__aenter__())
        await asyncio.sleep(0.01)
        await hold.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)  # lets the other in
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with budget.reserve("m", HELLO) as charge:
            charge.settle([Reply("ok", "stop", Usage(1, 1))])
        assert budget.spent.cancelled == 2

    asyncio.run(run())


def test_a_lost_call_stays_charged_and_a_void_one_does_not() -> None:
    budget = Budget()

    async def fail(n: int, turned_away: bool) -> None:
        async with budget.reserve("m", HELLO, SHORT, n) as charge:
            if turned_away:
                charge.void()
            raise RuntimeError("no answer")

    for n, turned_away in ((3, False), (1, True)):
        with pytest.raises(RuntimeError, match="no answer"):
            asyncio.run(fail(n, turned_away))
    assert budget.spent == Spent(0, 1, MOST - 10, 30, estimated=1)


def test_time() -> None:
    now = 100.0
    budget = Budget(max_seconds=5, clock=lambda: now)
    charged = budget.wrap(ScriptedUsage(Usage(1, 1)))
    now = 1000.0  # starts with the first call
    complete_all(charged, [HELLO])
    now = 1004.9
    complete_all(charged, [HELLO])
    now = 1005.0
    with pytest.raises(BudgetExceededError, match="could pass max_seconds=5"):
        complete_all(charged, [HELLO])


def test_time_ends_calls_under_way() -> None:
    class Hanging(ScriptedUsage):
        async def complete(self, *_: Any) -> list[Reply]:
            await asyncio.sleep(60)
            return []

    budget = Budget(max_seconds=0.05)
    with pytest.raises(BudgetExceededError, match=r"max_seconds=0\.05 ran out under way"):
        complete_all(budget.wrap(Hanging(Usage(1, 1))), [HELLO])
    assert budget.spent == Spent(cancelled=1)


def test_a_timeout_of_the_model_is_not_the_budgets() -> None:
    class TimesOut(ScriptedUsage):
        async def complete(self, *_: Any) -> list[Reply]:
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        complete_all(Budget(max_seconds=60).wrap(TimesOut(Usage(1, 1))), [HELLO])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_calls": -1}, "max_calls: got -1"),
        ({"max_usd": float("nan")}, "max_usd: got nan"),
        ({"max_seconds": float("inf")}, "max_seconds: got inf"),
        ({"prices": {"m": (1.0,)}}, "prices: got"),
        ({"prices": {"m": (1.0, -2.0)}}, "prices: got"),
    ],
)
def test_wrong_settings(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget(**options)
