"""The baseline that every method must beat: prompts of random words at the same number of calls."""

from __future__ import annotations

from dataclasses import dataclass

from tenfold.core.config import need
from tenfold.prompts.candidates import Proposal, State
from tenfold.prompts.optimizer import PromptOptimizer, Settings
from tenfold.prompts.plan import Tally
from tenfold.prompts.task import Task


@dataclass(frozen=True)
class RandomSearchSettings(Settings):
    """Of random search.

    Args:
        words: that prompts are made of.
        length: words of a prompt.
        proposals: of a step.
    """

    rounds: int = 1000
    words: tuple[str, ...] = (
        "think",
        "answer",
        "carefully",
        "first",
        "then",
        "step",
        "number",
        "question",
        "check",
        "only",
    )
    length: int = 6
    proposals: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        need("length", self.length, 1)
        need("proposals", self.proposals, 1)
        if not self.words:
            raise ValueError("words: got none, need at least one")


class RandomSearch(PromptOptimizer):
    """Random words; the optimizer is never asked."""

    method = "random"
    settings_type = RandomSearchSettings
    settings: RandomSearchSettings

    async def propose(self, state: State) -> list[Proposal]:
        size, draw = self.settings, self.draw("words", state.step)
        return [Proposal(" ".join(draw.choices(size.words, k=size.length)), "random") for _ in range(size.proposals)]

    def tally(self, task: Task, tally: Tally) -> None:
        if tally.step:
            tally.new = self.settings.proposals
