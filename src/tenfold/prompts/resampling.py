"""Methods without feedback: instructions induced from demonstrations, and paraphrases of good ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tenfold.core.config import need
from tenfold.prompts import roles
from tenfold.prompts.candidates import Proposal, State, same_words
from tenfold.prompts.optimizer import PromptOptimizer, Settings
from tenfold.prompts.plan import Tally
from tenfold.prompts.session import Ask
from tenfold.prompts.task import Task


@dataclass(frozen=True)
class APESettings(Settings):
    """Of APE.

    Args:
        rounds: one, of induction.
        n_init: instructions induced.
        subsamples: sets of demonstrations that they are induced from.
        demos: demonstrations in each.
        likelihood: training examples on whose targets' likelihood the induced prompts are ranked; only the `keep` likeliest are
            then tried. 0: all are tried on val. Needs a target that tells log-probabilities.
        optimizer_temperature: as the published code's.
    """

    rounds: int = 1
    n_init: int = 50
    subsamples: int = 5
    demos: int = 5
    likelihood: int = 0
    optimizer_temperature: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_init", "subsamples", "demos"):
            need(name, getattr(self, name), 1)
        need("likelihood", self.likelihood, 0)


class APE(PromptOptimizer):
    """Automatic Prompt Engineer: induce instructions from demonstrations, keep the best.

    Source: Zhou et al. 2022, arXiv 2211.01910, and its code.
    """

    method = "ape"
    settings_type = APESettings
    settings: APESettings

    async def propose(self, state: State) -> list[Proposal]:
        train, size = self._session.task.train, self.settings
        sets = [self.draw("demos", i).sample(train, min(size.demos, len(train))) for i in range(size.subsamples)]
        asks = [Ask("induce", roles.induce(sets[i % len(sets)]), self.key("induce", i)) for i in range(size.n_init)]
        replies = await self._session.ask(asks)
        found = [proposal for reply in replies for proposal in self.read(reply, "prompt", "induce")[:1]]
        return await self._likeliest(state, found) if size.likelihood else found

    async def _likeliest(self, state: State, found: list[Proposal]) -> list[Proposal]:
        """The proposals, all but the likeliest dropped; the published code's other way to score."""
        train = self._session.task.train
        examples = self.draw("likelihood").sample(train, min(self.settings.likelihood, len(train)))
        given = {same_words(candidate.text) for candidate in state.candidates}
        texts = [p.text for p in found if p.dropped is None and p.text and "\0" not in p.text]
        ranked = [text for text in dict.fromkeys(texts) if same_words(text) not in given]
        flat = await self._session.likelihoods([(text, example) for text in ranked for example in examples])
        n = len(examples)
        means = {text: sum(flat[i * n : (i + 1) * n]) / n for i, text in enumerate(ranked)}
        self._session.journal.record("likelihoods", examples=[e.id for e in examples], means=[[text, round(mean, 3)] for text, mean in means.items()])  # fmt: skip
        best = sorted(ranked, key=lambda text: (-means[text], ranked.index(text)))[: self.settings.keep]
        return [replace(p, dropped="less_likely") if p.text in means and p.text not in best else p for p in found]

    def tally(self, task: Task, tally: Tally) -> None:
        if tally.step == 1:
            size = self.settings
            tally.new, tally.asks = size.n_init, size.n_init
            if size.likelihood:
                tally.new = min(size.keep, size.n_init)
                tally.target += size.n_init * min(size.likelihood, len(task.train))


@dataclass(frozen=True)
class IterativeAPESettings(APESettings):
    """Of iterative APE: after the first round, `per_parent` paraphrases of each kept prompt."""

    rounds: int = 6
    per_parent: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        need("per_parent", self.per_parent, 1)


class IterativeAPE(APE):
    """APE, then rounds of paraphrasing the best.

    Source: Zhou et al. 2022, section 3.
    """

    method = "iterative-ape"
    settings_type = IterativeAPESettings
    settings: IterativeAPESettings

    async def propose(self, state: State) -> list[Proposal]:
        if state.step == 1:
            return await super().propose(state)
        return await paraphrases(self, state, state.beam, self.settings.per_parent)

    def tally(self, task: Task, tally: Tally) -> None:
        super().tally(task, tally)
        if tally.step > 1:
            tally.new = tally.asks = tally.beam * self.settings.per_parent


async def paraphrases(search: PromptOptimizer, state: State, parents: list[int], each: int) -> list[Proposal]:
    """`each` variations of every parent that has words, of the same meaning."""
    session = search._session
    wanted = [(parent, i) for parent in parents if state.candidates[parent].text.strip() for i in range(each)]
    asks = [
        Ask("paraphrase", roles.paraphrase(state.candidates[p].text), search.key("paraphrase", state.step, p, i))
        for p, i in wanted
    ]
    replies = await session.ask(asks)
    return [
        proposal
        for (parent, _), reply in zip(wanted, replies, strict=True)
        for proposal in search.read(reply, "prompt", "paraphrase", parent)[:1]
    ]
