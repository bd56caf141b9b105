"""Methods that reflect on errors before they edit: APO (ProTeGi), its summarising variant, and one after PE2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.core.config import need
from tenfold.prompts import roles
from tenfold.prompts.candidates import Candidate, Proposal, State
from tenfold.prompts.optimizer import PromptOptimizer, Settings
from tenfold.prompts.plan import Tally
from tenfold.prompts.resampling import paraphrases
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.session import Ask
from tenfold.prompts.task import Task


@dataclass(frozen=True)
class APOSettings(Settings):
    """Of APO, with the published code's numbers.

    Args:
        minibatch: training examples that a prompt of the beam is tried on.
        n_gradients: reflections of a prompt, each on a draw of its errors.
        errors_per_gradient: errors in one reflection.
        gradients_per_error: reasons of one reflection.
        steps_per_gradient: edits by one reason.
        mc_samples_per_step: paraphrases of each edit, and of the parent.
        max_expansion_factor: candidates of one parent; more are cut at random.
        reject_on_errors: first try twice as many on up to 16 of the parent's errors and keep the best.
    """

    minibatch: int = 64
    n_gradients: int = 4
    errors_per_gradient: int = 4
    gradients_per_error: int = 1
    steps_per_gradient: int = 1
    mc_samples_per_step: int = 2
    max_expansion_factor: int = 8
    reject_on_errors: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "minibatch",
            "n_gradients",
            "errors_per_gradient",
            "gradients_per_error",
            "steps_per_gradient",
            "max_expansion_factor",
        ):
            need(name, getattr(self, name), 1)
        need("mc_samples_per_step", self.mc_samples_per_step, 0)


REJECTED_ON = 16  # errors of the parent that candidates are first tried on


class APO(PromptOptimizer):
    """Automatic prompt optimization by textual gradients (ProTeGi): reflect on errors, edit by each reason, paraphrase.

    Source: Pryzant et al. 2023, arXiv 2305.03495, and its code.
    """

    method = "apo"
    settings_type = APOSettings
    settings: APOSettings

    async def propose(self, state: State) -> list[Proposal]:
        found: list[Proposal] = []
        for id in state.beam:
            found += await self._expand(state, state.candidates[id])
        return found

    async def _expand(self, state: State, parent: Candidate) -> list[Proposal]:
        """The candidates that come of one prompt."""
        size, train = self.settings, self._session.task.train
        batch = self.draw("batch", state.step, parent.id).sample(train, min(size.minibatch, len(train)))
        errors = await self.mistakes(parent, batch)
        edits: list[Proposal] = []
        if errors:
            reasons = await self._reasons(state, parent, errors)
            edits = await self._edits(state, parent, reasons)
        else:  # nothing to reflect on: an empty list of errors is never sent
            self._session.journal.record("no_errors", step=state.step, candidate=parent.id)
        usable = [edit for edit in edits if edit.dropped is None]
        varied = await self._varied(state, parent, [edit.text for edit in usable])
        cut = self.draw("cut", state.step, parent.id)
        every = [*edits, *varied]
        if size.reject_on_errors and errors:
            return await self._best_on_errors(
                every, errors, cut.sample(every, min(len(every), 2 * size.max_expansion_factor))
            )
        return cut.sample(every, min(len(every), size.max_expansion_factor))

    async def _reasons(
        self, state: State, parent: Candidate, errors: Sequence[Mistake]
    ) -> list[tuple[str, list[Mistake]]]:
        """Reasons with the errors that each was given for."""
        size = self.settings
        drawn = [
            self.draw("errors", state.step, parent.id, i).sample(
                list(errors), min(size.errors_per_gradient, len(errors))
            )
            for i in range(size.n_gradients)
        ]
        asks = [
            Ask(
                "reflect",
                roles.reflect(parent.text, some, size.gradients_per_error),
                self.key("reflect", state.step, parent.id, i),
                roles.reflect(parent.text, some[: max(1, len(some) // 2)], size.gradients_per_error),
            )
            for i, some in enumerate(drawn)
        ]
        replies = await self._session.ask(asks)
        reasons = []
        for some, reply in zip(drawn, replies, strict=True):
            for reason in parse_tags(reply or "", "reason")[: size.gradients_per_error]:
                reasons.append((reason, some))
                ids = [mistake.example.id for mistake in some]
                self._session.journal.record(
                    "reflection", step=state.step, candidate=parent.id, text=reason, examples=ids
                )
        return reasons

    async def _edits(
        self, state: State, parent: Candidate, reasons: Sequence[tuple[str, list[Mistake]]]
    ) -> list[Proposal]:
        each = self.settings.steps_per_gradient
        asks = [
            Ask("edit", roles.edit(parent.text, some, reason, each), self.key("edit", state.step, parent.id, i))
            for i, (reason, some) in enumerate(reasons)
        ]
        replies = await self._session.ask(asks)
        return [
            proposal
            for (reason, _), reply in zip(reasons, replies, strict=True)
            for proposal in self.read(reply, "prompt", "edit", parent.id, reason)[:each]
        ]

    async def _varied(self, state: State, parent: Candidate, edits: Sequence[str]) -> list[Proposal]:
        """Paraphrases of the parent and of its edits."""
        each = self.settings.mc_samples_per_step
        if not each:
            return []
        texts = [text for text in [parent.text, *edits] if text.strip()]
        wanted = [(text, i) for text in texts for i in range(each)]
        asks = [
            Ask("paraphrase", roles.paraphrase(text), self.key("paraphrase", state.step, parent.id, n))
            for n, (text, _) in enumerate(wanted)
        ]
        replies = await self._session.ask(asks)
        return [p for reply in replies for p in self.read(reply, "prompt", "paraphrase", parent.id)[:1]]

    async def _best_on_errors(
        self, every: Sequence[Proposal], errors: Sequence[Mistake], some: Sequence[Proposal]
    ) -> list[Proposal]:
        """The proposals that mend most of the parent's errors, behind those that are no candidates anyhow."""
        tried = [p for p in some if p.dropped is None and p.text.strip() and "\0" not in p.text]
        examples = [mistake.example for mistake in errors[:REJECTED_ON]]
        found = await self._session.outcomes([(p.text, e) for p in tried for e in examples], "train")
        n = len(examples)
        mended = [sum(o.value == 1 for o in found[i * n : (i + 1) * n]) for i in range(len(tried))]
        order = sorted(range(len(tried)), key=lambda i: (-mended[i], i))[: self.settings.max_expansion_factor]
        return [*(p for p in every if p.dropped is not None), *(tried[i] for i in order)]

    def tally(self, task: Task, tally: Tally) -> None:
        size = self.settings
        if tally.step == 0:
            return
        edits = self._edits_each()
        every = edits + size.mc_samples_per_step * (edits + 1)
        tally.target += tally.beam * min(size.minibatch, len(task.train))
        if size.reject_on_errors:
            tally.target += tally.beam * min(every, 2 * size.max_expansion_factor) * REJECTED_ON
        tally.asks += tally.beam * (self._asks_each() + size.mc_samples_per_step * (edits + 1))
        tally.new += tally.beam * min(every, size.max_expansion_factor)

    def _edits_each(self) -> int:
        return self.settings.n_gradients * self.settings.gradients_per_error * self.settings.steps_per_gradient

    def _asks_each(self) -> int:
        return self.settings.n_gradients * (1 + self.settings.gradients_per_error)


class APOSum(APO):
    """APO whose reasons are summarised to one before the edits.

    Source: named in Ma et al. 2024, arXiv 2402.02101; what is summarised, and that one reason then gives all edits, is our reading.
    """

    method = "apo-sum"

    async def _edits(
        self, state: State, parent: Candidate, reasons: Sequence[tuple[str, list[Mistake]]]
    ) -> list[Proposal]:
        if not reasons:
            return []
        ask = Ask(
            "summarise",
            roles.summarise([reason for reason, _ in reasons]),
            self.key("summarise", state.step, parent.id),
        )
        (reply,) = await self._session.ask([ask])
        whole = (parse_tags(reply or "", "reason") or [reasons[0][0]])[0]
        ids = sorted({mistake.example.id for _, some in reasons for mistake in some})
        self._session.journal.record(
            "reflection", step=state.step, candidate=parent.id, text=whole, examples=ids, summary=True
        )
        wanted = self._edits_each()
        (reply,) = await self._session.ask(
            [
                Ask(
                    "edit",
                    roles.edit(parent.text, reasons[0][1], whole, wanted),
                    self.key("edit", state.step, parent.id),
                )
            ]
        )
        return self.read(reply, "prompt", "edit", parent.id, whole)[:wanted]

    def _asks_each(self) -> int:
        return self.settings.n_gradients + 2


@dataclass(frozen=True)
class PE2Settings(Settings):
    """Of the method after PE2.

    Args:
        minibatch: training examples that a prompt is tried on.
        failing: of its errors, so many are looked at.
        proposals: of each kept prompt.
        max_prompt_chars: its cap on length.
        history: show the earlier prompts that led to this one.
    """

    rounds: int = 3
    minibatch: int = 64
    failing: int = 2
    proposals: int = 4
    max_prompt_chars: int = 2000
    history: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("minibatch", "failing", "proposals"):
            need(name, getattr(self, name), 1)


class PE2(PromptOptimizer):
    """After PE2: the optimizer knows how prompt and input are joined and reasons about each example by a form.

    The beam is of all prompts met so far, so a step may go back to any earlier one.

    Source: Ye et al. 2023, arXiv 2311.05661; re-made from its description, not from its code.
    """

    method = "pe2"
    settings_type = PE2Settings
    settings: PE2Settings

    async def propose(self, state: State) -> list[Proposal]:
        found: list[Proposal] = []
        train = self._session.task.train
        for id in state.beam:
            parent = state.candidates[id]
            batch = self.draw("batch", state.step, id).sample(train, min(self.settings.minibatch, len(train)))
            errors = await self.mistakes(parent, batch)
            if not errors:
                self._session.journal.record("no_errors", step=state.step, candidate=id)
                found += await paraphrases(self, state, [id], self.settings.proposals)
                continue
            found += await self._proposals(state, parent, errors)
        return found

    async def _proposals(self, state: State, parent: Candidate, errors: Sequence[Mistake]) -> list[Proposal]:
        size, session = self.settings, self._session
        drawn = [
            self.draw("errors", state.step, parent.id, i).sample(list(errors), min(size.failing, len(errors)))
            for i in range(size.proposals)
        ]
        past = _path(state, parent) if size.history else []
        asks = [
            Ask(
                "inspect",
                roles.inspect_examples(parent.text, some, session.task.placement, past),
                self.key("inspect", state.step, parent.id, i),
                roles.inspect_examples(parent.text, some[:1], session.task.placement),
            )
            for i, some in enumerate(drawn)
        ]
        reasons = [(parse_tags(reply or "", "reason") or [""])[0] for reply in await session.ask(asks)]
        for reason, some in zip(reasons, drawn, strict=True):
            if reason:
                ids = [mistake.example.id for mistake in some]
                session.journal.record("reflection", step=state.step, candidate=parent.id, text=reason, examples=ids)
        edits = [
            Ask("edit", roles.edit(parent.text, some, reason), self.key("edit", state.step, parent.id, i))
            for i, (reason, some) in enumerate(zip(reasons, drawn, strict=True))
            if reason
        ]
        replies = await session.ask(edits)
        kept = [reason for reason in reasons if reason]
        return [
            p
            for reason, reply in zip(kept, replies, strict=True)
            for p in self.read(reply, "prompt", "edit", parent.id, reason)[:1]
        ]

    def tally(self, task: Task, tally: Tally) -> None:
        if tally.step:
            tally.target += tally.beam * min(self.settings.minibatch, len(task.train))
            tally.asks += 2 * tally.beam * self.settings.proposals
            tally.new += tally.beam * self.settings.proposals


def _path(state: State, candidate: Candidate) -> list[str]:
    """The prompts that led to this one, oldest first."""
    texts: list[str] = []
    while candidate.parent is not None:
        candidate = state.candidates[candidate.parent]
        texts.insert(0, candidate.text)
    return [text for text in texts if text.strip()]
