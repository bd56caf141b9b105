"""A cap on calls, tokens, money and time that a run cannot pass, however many of its calls are under way."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, Protocol, runtime_checkable

from tenfold.core.errors import UserError
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling, Usage, prompt_bound


class BudgetExceededError(UserError):
    """The next call could pass a cap; nothing was sent."""


@runtime_checkable
class Budgeted(Protocol):
    """A model that knows better than its caller which of its calls cost something."""

    def with_budget(self, budget: Budget) -> ChatModel:
        """The same model, its costs charged to `budget`."""
        ...


@dataclass(frozen=True)
class Spent:
    """What a budget has paid for.

    `calls` were answered, `billed_calls` were sent and perhaps paid: a call asked again counts anew. `estimated` of
    them were charged without the model's own count. `cancelled` calls were given up under way and are not charged.
    """

    calls: int = 0
    billed_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    estimated: int = 0
    cancelled: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class _Cost(NamedTuple):
    calls: int
    tokens: int
    usd: Fraction | int  # without prices it stays a plain 0

    def plus(self, other: _Cost) -> _Cost:
        return _Cost(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def minus(self, other: _Cost) -> _Cost:
        return _Cost(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)


_NOTHING = _Cost(0, 0, 0)


@dataclass(eq=False)
class Charge:
    """One call under way: the most it can cost, until it is settled.

    A call that is neither settled nor void when it ends got lost on the way: it may have been billed and keeps its
    whole reservation.
    """

    model: str
    usage: Usage
    answered: bool = False
    is_void: bool = False

    def settle(self, replies: Sequence[Reply]) -> None:
        """The call was answered; replies from a store cost nothing."""
        usages = [reply.usage for reply in replies if not reply.cached]
        self.answered, self.is_void = bool(usages), not usages
        prompt, completion = (sum(getattr(usage, part) for usage in usages) for part in ("prompt", "completion"))
        self.usage = Usage(prompt, completion, any(usage.estimated for usage in usages))

    def void(self) -> None:
        """The call was turned away and costs nothing."""
        self.is_void = True


@dataclass
class Budget:
    """Caps, what was spent of them, and the calls under way.

    Each call reserves the most it can cost before it is sent: all bytes of its prompt as tokens and `max_tokens` for
    each reply. It waits while calls under way may leave room, and is refused when they cannot. Only a call that counts
    more than it reserved (pictures, a server that ignores `max_tokens`) can pass a cap, by its excess.

    Args:
        max_calls: calls sent, those asked again included, those turned away with a status 4xx not.
        max_tokens: prompt and completion together.
        max_usd: needs `prices` of every model in use.
        max_seconds: from the first call on; calls under way are then cancelled.
        prices: model to US dollars per million tokens, (prompt, completion).
        clock: seconds.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_usd: float | None = None
    max_seconds: float | None = None
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_tokens", "max_usd", "max_seconds"):
            cap = getattr(self, name)
            if cap is not None and not (math.isfinite(cap) and cap >= 0):
                raise ValueError(f"{name}: got {cap}, need a finite number >= 0, or None for no cap")
        for model, pair in self.prices.items():
            if len(pair) != 2 or not all(math.isfinite(price) and price >= 0 for price in pair):
                raise ValueError(f"prices: got {pair} for {model}, need two finite numbers >= 0")
        # Money in exact fractions: a cap is met to the last digit, and what is given back leaves nothing behind.
        self._prices = {
            model: tuple(Fraction(str(price)) / 10**6 for price in pair) for model, pair in self.prices.items()
        }
        self._lock = threading.Lock()
        self._queue: deque[tuple[_Cost, Future[None]]] = deque()
        self._under_way = _NOTHING
        self._paid = _NOTHING
        self._spent = Spent()
        self._start: float | None = None

    @property
    def spent(self) -> Spent:
        """What is paid for so far; calls under way are not in it."""
        return self._spent

    def wrap(self, model: ChatModel) -> ChatModel:
        """The model with its calls charged here. A cache under it is free; an endpoint pays for each try.

        Raises:
            UserError: `max_usd` is set and the model has no price.
        """
        if self.max_usd is not None and model.name not in self.prices:
            raise UserError(f"budget: no price for {model.name}, which max_usd needs; give prices={{model: (in, out)}}")
        return model.with_budget(self) if isinstance(model, Budgeted) else _Charged(model, self)

    @asynccontextmanager
    async def reserve(
        self, model: str, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1
    ) -> AsyncIterator[Charge]:
        """Set aside the most a call can cost; charge what it did cost when the block ends.

        Cancelling the block gives the whole reservation back.

        Raises:
            BudgetExceededError: the call could pass a cap, or time ran out under way.
        """
        charge = Charge(model, Usage(prompt_bound(messages, sampling), n * sampling.max_tokens, estimated=True))
        reserved = self._cost(charge)
        await self._enter(charge, reserved)
        cancelled = False
        try:
            async with asyncio.timeout(self._seconds_left()) as limit:
                yield charge
        except asyncio.CancelledError:
            cancelled = True
            raise
        except TimeoutError:
            cancelled = limit.expired()
            if cancelled:
                raise BudgetExceededError(f"budget: max_seconds={self.max_seconds} ran out under way") from None
            raise
        finally:
            self._leave(charge, reserved, cancelled)

    async def _enter(self, charge: Charge, reserved: _Cost) -> None:
        """Wait until there is room for a call, in the order of asking."""
        turn: Future[None] = Future()
        with self._lock:
            if self._start is None:
                self._start = self.clock()
            self._queue.append((reserved, turn))
            self._admit()
        if turn.done():
            return turn.result()
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            if not turn.cancel() and turn.exception() is None:  # admitted just before
                self._leave(charge, reserved, cancelled=True)
            raise

    def _admit(self) -> None:
        """Let in, or turn away, those at the head of the queue."""
        while self._queue:
            reserved, turn = self._queue[0]
            refusal = self._passed(self._paid.plus(reserved))
            if refusal is None and self._passed(self._paid.plus(self._under_way).plus(reserved)) is not None:
                return  # calls under way may yet leave room
            self._queue.popleft()
            if not turn.set_running_or_notify_cancel():
                continue
            if refusal is None:
                self._under_way = self._under_way.plus(reserved)
                turn.set_result(None)
            else:
                turn.set_exception(
                    BudgetExceededError(f"budget: the next call could pass {refusal}; raise it to go on")
                )

    def _leave(self, charge: Charge, reserved: _Cost, cancelled: bool) -> None:
        """Book what a call cost and let others in."""
        with self._lock:
            self._under_way = self._under_way.minus(reserved)
            paid = not (cancelled or charge.is_void)
            if paid:
                self._paid = self._paid.plus(self._cost(charge))
            spent = self._spent
            self._spent = Spent(
                spent.calls + charge.answered,
                self._paid.calls,
                spent.prompt_tokens + paid * charge.usage.prompt,
                spent.completion_tokens + paid * charge.usage.completion,
                float(self._paid.usd),
                spent.estimated + (paid and charge.usage.estimated),
                spent.cancelled + cancelled,
            )
            self._admit()

    def _passed(self, cost: _Cost) -> str | None:
        """The cap that lies below a cost, as text."""
        if self.max_calls is not None and cost.calls > self.max_calls:
            return f"max_calls={self.max_calls}"
        if self.max_tokens is not None and cost.tokens > self.max_tokens:
            return f"max_tokens={self.max_tokens}"
        if self.max_usd is not None and cost.usd > Fraction(str(self.max_usd)):
            return f"max_usd={self.max_usd}"
        if (left := self._seconds_left()) is not None and left <= 0:
            return f"max_seconds={self.max_seconds}"
        return None

    def _cost(self, charge: Charge) -> _Cost:
        usage = charge.usage
        per_prompt, per_completion = self._prices.get(charge.model, (0, 0))
        return _Cost(1, usage.prompt + usage.completion, usage.prompt * per_prompt + usage.completion * per_completion)

    def _seconds_left(self) -> float | None:
        if self.max_seconds is None or self._start is None:
            return None
        return self.max_seconds - (self.clock() - self._start)


class _Charged:
    """A model that knows nothing of budgets, its calls charged from outside."""

    def __init__(self, model: ChatModel, budget: Budget) -> None:
        self.name = model.name
        self._model = model
        self._budget = budget

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        async with self._budget.reserve(self.name, messages, sampling, n) as charge:
            replies = await self._model.complete(messages, sampling, n)
            charge.settle(replies)
            return replies
