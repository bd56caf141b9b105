"""OPRO: the optimizer sees only instructions with their scores, and writes another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.core.config import need
from tenfold.prompts import roles
from tenfold.prompts.candidates import Candidate, Drop, Proposal, State, reason_to_drop
from tenfold.prompts.optimizer import STALLS, PromptOptimizer, Settings
from tenfold.prompts.plan import Tally
from tenfold.prompts.session import Ask
from tenfold.prompts.task import Task

PLACEHOLDER = "INS"  # stands for the instruction in the published meta-prompt
START = "Let's solve the problem."


@dataclass(frozen=True)
class OPROSettings(Settings):
    """Of OPRO, with the published code's numbers.

    Args:
        rounds: steps.
        per_step: new instructions of each.
        shown: instructions in the history at most, the best.
        threshold: instructions that score below are hidden; 0.3 for chat models, 0 else.
        exemplars: training examples in a request.
        eval_every: steps between looks at val.
        max_prompt_chars: longer instructions are dropped.
        no_digits: drop instructions with digits, as the code does on GSM8K.
        train: examples that instructions are scored on; None: all of the training split.
    """

    rounds: int = 200
    per_step: int = 8
    shown: int = 20
    threshold: float = 0.3
    exemplars: int = 3
    eval_every: int = 3
    max_prompt_chars: int = 500
    no_digits: bool = False
    train: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_step", "shown", "eval_every", "train"):
            need(name, getattr(self, name), 1)
        need("exemplars", self.exemplars, 0)
        need("threshold", self.threshold, 0, 1)


class OPRO(PromptOptimizer):
    """Optimization by prompting: a history of instructions with integer scores, ascending.

    Source: Yang et al. 2023, arXiv 2309.03409, and its code.
    """

    method = "opro"
    settings_type = OPROSettings
    settings: OPROSettings

    async def _begin(self, state: State, prompts: Sequence[str]) -> State:
        state = await super()._begin(state, prompts)
        await self._on_train(state, [c for c in state.candidates if c.dropped is None])
        return state

    async def step(self, state: State) -> State:
        """Write instructions, score them on train; every few steps look at val."""
        state.step += 1
        fresh = self._admitted(state, await self.propose(state))
        state.stalled = 0 if fresh else state.stalled + 1
        await self._on_train(state, fresh)
        last = state.step >= self.settings.rounds
        if last or state.step % self.settings.eval_every == 0:
            await self._on_val(state)
        self._mark(state)
        if state.stalled >= STALLS:
            state.ended = f"{STALLS} steps in a row brought no candidate"
        elif last:
            state.ended = "all rounds done"
        return state

    async def _on_train(self, state: State, candidates: Sequence[Candidate]) -> None:
        rows = self._session.task.train[: self.settings.train]
        await self._session.score(candidates, rows, "train")

    async def _on_val(self, state: State) -> None:
        """The best by train become the beam, in the order of val."""
        best = self._ranked(state)[: self.settings.keep]
        state.beam = await self._select(best)

    def _ranked(self, state: State) -> list[Candidate]:
        scored = [
            c for c in state.candidates if c.dropped is None and c.scores.get("train", {}).get("mean") is not None
        ]
        return sorted(scored, key=lambda c: (-c.scores["train"]["mean"], c.id))

    async def propose(self, state: State) -> list[Proposal]:
        size, task = self.settings, self._session.task
        shown = [c for c in self._ranked(state) if c.text.strip()]
        good = [c for c in shown if c.scores["train"]["mean"] >= size.threshold][: size.shown] or shown[:1]
        scored = [(c.text, round(100 * c.scores["train"]["mean"])) for c in reversed(good)]
        demos = self.draw("exemplars", state.step).sample(task.train, min(size.exemplars, len(task.train)))
        short = roles.history(scored[len(scored) // 2 :], demos[:1], task.placement)
        whole = roles.history(scored, demos, task.placement)
        asks = [Ask("history", whole, self.key("history", state.step, i), short) for i in range(size.per_step)]
        return [p for reply in await self._session.ask(asks) for p in self.read(reply, "prompt", "history")[:1]]

    def _drop(self, proposal: Proposal, seen: dict[str, int], parent: str | None) -> Drop | None:
        size, forbid = self.settings, (PLACEHOLDER,) if re.search(rf"\b{PLACEHOLDER}\b", proposal.text) else ()
        return reason_to_drop(
            proposal,
            seen,
            parent,
            self._session.task.train,
            size.max_prompt_chars,
            forbid=forbid,
            no_digits=size.no_digits,
        )

    def finalists(self, state: State) -> list[Candidate]:
        """The best by train, also of steps after the last look at val."""
        return self._ranked(state)[: self.settings.keep]

    def final_calls(self, task: Task) -> int:
        """The last look at val."""
        return self.settings.keep * len(task.val)

    def tally(self, task: Task, tally: Tally) -> None:
        rows = len(task.train[: self.settings.train])
        if tally.step == 0:
            tally.target += tally.new * rows
            return
        tally.on_val, tally.least = False, rows
        tally.new, tally.asks = self.settings.per_step, self.settings.per_step
        tally.target += tally.new * rows
        if tally.step % self.settings.eval_every == 0:
            tally.target += self.settings.keep * len(task.val)
