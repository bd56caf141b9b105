"""When to ask a busy endpoint again."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Retry:
    """Exponential back-off with full jitter: before try k + 1 a uniform share of `min(cap, base 2^k)` seconds passes.

    A server's own Retry-After is the least that passes, up to `patience`.

    Args:
        tries: of one request, at least 1.
        base, cap, patience: seconds.
        sleep, uniform, clock: how to wait, a draw from [0, 1), and the time of day in seconds since 1970.
    """

    tries: int = 6
    base: float = 0.5
    cap: float = 30.0
    patience: float = 120.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    uniform: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries: got {self.tries}, need at least 1")
        if min(self.base, self.cap, self.patience) < 0:
            raise ValueError(f"base, cap, patience: got {self.base}, {self.cap}, {self.patience}, need seconds >= 0")

    def delay(self, failures: int, retry_after: str | None = None) -> float:
        """Seconds to wait after the given number of failures (at least 1); `retry_after` is the server's header."""
        jitter = self.uniform() * min(self.cap, self.base * 2.0 ** min(failures - 1, 99))
        return max(jitter, min(self.patience, self._asked(retry_after)))

    def _asked(self, header: str | None) -> float:
        """Seconds that a Retry-After header asks for, as a number or a date; 0 where it is neither."""
        if header is None:
            return 0.0
        try:
            seconds = float(header)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(header).timestamp() - self.clock()
            except (ValueError, OverflowError):
                return 0.0
        return 0.0 if math.isnan(seconds) else seconds


RETRY = Retry()
