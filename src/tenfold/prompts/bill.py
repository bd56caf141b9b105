"""What the processes of a run spent on its models: a line before every call and one behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold.core.atomic import append_line
from tenfold.core.report import read_metrics
from tenfold.text.budget import Budget
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling, prompt_bound

BILL = "bill.jsonl"


class BilledChatModel:
    """A model that notes what it sends and what that cost, so that a run that goes on knows what is spent of its money."""

    def __init__(self, model: ChatModel, guard: Budget, file: Path, process: str) -> None:
        self.name = model.name
        self.identity: str = getattr(model, "identity", model.name)
        self._model, self._guard = guard.wrap(model), guard
        self._file, self._process = file, process

    def with_budget(self, budget: Budget) -> ChatModel:
        """Itself: its calls are charged already."""
        return self

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        price = self._guard.prices.get(self.name, (0.0, 0.0))
        most = (prompt_bound(messages, sampling) * price[0] + n * sampling.max_tokens * price[1]) / 1e6
        self._write(sent=1, most=most)
        try:
            return await self._model.complete(messages, sampling, n)
        finally:  # a call that failed or was cancelled is charged in `spent`, as far as it may have cost anything
            self._write(sent=-1, most=-most)

    def _write(self, sent: int, most: float) -> None:
        spent = self._guard.spent
        row = {
            "process": self._process,
            "model": self.name,
            "sent": sent,
            "most": most,
            "usd": spent.usd,
            "billed_calls": spent.billed_calls,
        }
        append_line(self._file, json.dumps(row))


def billed(folder: Path) -> dict[str, Any]:
    """What all processes of a run spent: calls sent, further tries included, and dollars; calls lost in a kill count as the most they can cost."""
    rows = read_metrics(folder / BILL)
    by = {row["process"]: row for row in rows}
    lost = sum(row["sent"] for row in rows)
    usd = sum(row["usd"] for row in by.values()) + max(0.0, sum(row["most"] for row in rows) if lost else 0.0)
    return {
        "calls": sum(row["billed_calls"] for row in by.values()) + lost,
        "lost": lost,
        "usd": usd,
        "processes": len(by),
    }


def left_of(budget: Budget, folder: Path | None) -> Budget:
    """The budget less the money that earlier processes of the run spent."""
    if folder is None or budget.max_usd is None or not (folder / BILL).exists():
        return budget
    left = max(0.0, budget.max_usd - billed(folder)["usd"])
    return Budget(budget.max_calls, budget.max_tokens, left, budget.max_seconds, budget.prices, budget.clock)
