"""ABO: optimize what the target does, not how it is asked: explicit steps and a demonstration that it is to follow them.

An error is first traced to its step. Where the step was not carried out, its content is not to blame: the form is made more
explicit. Only where it was carried out and went wrong is the step itself put better or split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tenfold.core.config import need
from tenfold.prompts import roles
from tenfold.prompts.candidates import Candidate, Proposal, State
from tenfold.prompts.examples import Example
from tenfold.prompts.optimizer import PromptOptimizer, Settings
from tenfold.prompts.plan import Tally
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.session import Ask
from tenfold.prompts.task import Task

MOST_STEPS = 12
FORM = 'Carry out every step, in this order, in exactly the form of the example: a line "Step N:" for each, then the answer.'
STRICT = "Follow every step strictly, in this order, and leave none out. End with the answer."


@dataclass(frozen=True)
class ABOSettings(Settings):
    """Of ABO.

    Args:
        rounds: T; the paper reports two.
        keep: prompts that a round starts from.
        minibatch: training examples that a prompt is tried on.
        diagnosed: errors traced to their step, at most.
        failing_steps: of the steps that fail most, so many are worked on.
        proposals: for each failing step.
        verify: fresh training examples that a proposal's following rate is measured on; 0: not measured.
        following: the rate that it must reach.
        retries: further demonstrations where it does not.
        first: behaviours worked out at the start.
        demonstration: False: only an order to follow the steps (the paper's ablation).
        diagnose: False: a step is picked at random and always put anew.
    """

    rounds: int = 2
    keep: int = 1
    minibatch: int = 32
    diagnosed: int = 8
    failing_steps: int = 3
    proposals: int = 2
    verify: int = 16
    following: float = 0.9
    retries: int = 2
    first: int = 1
    demonstration: bool = True
    diagnose: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("minibatch", "diagnosed", "failing_steps", "proposals", "first"):
            need(name, getattr(self, name), 1)
        need("verify", self.verify, 0)
        need("retries", self.retries, 0)
        need("following", self.following, 0, 1)


@dataclass(frozen=True)
class Behaviour:
    """Steps, and a worked run of each of them on one training example ("" where there is none)."""

    steps: tuple[str, ...]
    demo: str = ""
    example: str = ""

    @classmethod
    def of(cls, candidate: Candidate) -> Behaviour | None:
        """What a candidate keeps of it; None for prompts that are no behaviour."""
        kept = candidate.extra.get("behaviour")
        return None if kept is None else cls(tuple(kept["steps"]), kept["demo"], kept["example"])


def behaviour_prompt(task: Task, behaviour: Behaviour) -> str:
    """The prompt of a behaviour: task, numbered steps, the order to follow them in the shown form, the example."""
    listed = "\n".join(f"{number}. {step}" for number, step in enumerate(behaviour.steps, 1))
    head = f"{task.description}\nSteps:\n{listed}".strip()
    if not behaviour.demo:
        return f"{head}\n{STRICT}"
    question = next(example.input for example in task.train if example.id == behaviour.example)
    return f"{head}\n{FORM}\n\nExample\nQ: {question}\nA:\n{behaviour.demo}\n\nNow the question."


def steps_shown(text: str, count: int) -> list[bool]:
    """Which of the steps 1 … count a transcript carries out: a line that begins with "Step N", of the last run through them."""
    heads = [int(number) for number in re.findall(r"(?im)^[\s*#>-]*step\s+(\d{1,2})\b", text)]
    return [number in heads for number in range(1, count + 1)]


def demonstration_faults(demo: str, steps: Sequence[str], target: str) -> list[str]:
    """What a demonstration lacks: lines of steps, or the right answer at its end."""
    missing = [f"step {i}" for i, shown in enumerate(steps_shown(demo, len(steps)), 1) if not shown]
    tail = demo.strip().splitlines()[-1] if demo.strip() else ""
    return missing + ([] if target.casefold() in tail.casefold() else ["answer"])


class ABO(PromptOptimizer):
    """Automatic behaviour optimization.

    Source: Ma et al. 2024, arXiv 2402.02101: the idea and the names of its steps; the algorithm is ours.
    """

    method = "abo"
    settings_type = ABOSettings
    settings: ABOSettings

    async def _begin(self, state: State, prompts: Sequence[str]) -> State:
        state = await super()._begin(state, prompts)
        # Step 0 of the paper: a behaviour before any error is seen.
        firsts = [await self._first(i) for i in range(self.settings.first)]
        fresh = self._admitted(state, firsts)
        if fresh:
            state.beam = await self._select([*(state.candidates[id] for id in state.beam), *fresh])
            self._mark(state)
        return state

    async def _first(self, number: int) -> Proposal:
        """A behaviour from the task's description and a few examples."""
        task = self._session.task
        draw = self.draw("first", number)
        demos = draw.sample(task.train, min(3, len(task.train)))
        (reply,) = await self._session.ask(
            [Ask("decompose", roles.decompose(task.description, demos), self.key("decompose", number))]
        )
        steps = tuple(step for step in parse_tags(reply or "", "step") if step)[:MOST_STEPS]
        if not steps:
            return Proposal("", "decompose", dropped="no_tags")
        return await self._complete(steps, demos[0], "decompose", ("first", number))

    async def _complete(
        self,
        steps: tuple[str, ...],
        example: Example,
        op: str,
        key: tuple[object, ...],
        *,
        parent: int | None = None,
        reflection: str | None = None,
        explicit: int | None = None,
    ) -> Proposal:
        """A proposal for steps: with a demonstration that shows them all, and that the target follows."""
        size = self.settings
        if not size.demonstration:
            return self._proposal(Behaviour(steps), op, parent, reflection)
        best: tuple[float, Proposal] | None = None
        for attempt in range(size.retries + 1):
            ask = Ask(
                "demonstrate", roles.demonstrate(steps, example, explicit), self.key("demonstrate", *key, attempt)
            )
            (reply,) = await self._session.ask([ask])
            demos = parse_tags(reply or "", "demonstration")
            if not demos or demonstration_faults(demos[0], steps, example.target):
                continue
            proposal = self._proposal(Behaviour(steps, demos[0], example.id), op, parent, reflection)
            rate = await self._verified(proposal, key)
            if best is None or rate > best[0]:
                best = (rate, proposal)
            if rate >= size.following:
                break
        if best is None:
            return Proposal("", op, parent, reflection, dropped="no_tags")
        self._session.journal.record("verified", op=op, following=best[0], step_texts=list(steps))
        return best[1] if best[0] >= size.following else replace(best[1], dropped="not_followed")

    def _proposal(self, behaviour: Behaviour, op: str, parent: int | None, reflection: str | None) -> Proposal:
        text = behaviour_prompt(self._session.task, behaviour)
        shown = (behaviour.example,) if behaviour.example else ()
        extra = {"behaviour": {"steps": list(behaviour.steps), "demo": behaviour.demo, "example": behaviour.example}}
        return Proposal(text, op, parent, reflection, extra, shown)

    async def _verified(self, proposal: Proposal, key: tuple[object, ...]) -> float:
        """The following rate on fresh training examples."""
        if not self.settings.verify or len(proposal.text) > self.settings.max_prompt_chars:
            return 1.0
        train = self._session.task.train
        fresh = [example for example in train if example.id not in proposal.shown] or list(train)
        some = self.draw("verify", *key).sample(fresh, min(self.settings.verify, len(fresh)))
        found = await self._session.outcomes([(proposal.text, example) for example in some], "train")
        count = len(proposal.extra["behaviour"]["steps"])
        flags = [shown for outcome in found for shown in steps_shown(outcome.text, count)]
        return sum(flags) / max(1, len(flags))

    async def propose(self, state: State) -> list[Proposal]:
        found: list[Proposal] = []
        for id in state.beam:
            parent = state.candidates[id]
            behaviour = Behaviour.of(parent)
            if behaviour is None:  # a given prompt is still the best: try another behaviour
                found.append(await self._first(1000 * state.step + id))
            else:
                found += await self._improve(state, parent, behaviour)
        return found

    async def _improve(self, state: State, parent: Candidate, behaviour: Behaviour) -> list[Proposal]:
        size, train = self.settings, self._session.task.train
        batch = self.draw("batch", state.step, parent.id).sample(train, min(size.minibatch, len(train)))
        errors = await self.mistakes(parent, batch)
        if not errors:
            self._session.journal.record("no_errors", step=state.step, candidate=parent.id)
            return []
        traced = await self._traced(state, parent, behaviour, errors[: size.diagnosed])
        found: list[Proposal] = []
        for step, _ in Counter(step for step, *_ in traced).most_common(size.failing_steps):
            own = [entry for entry in traced if entry[0] == step]
            for number in range(size.proposals):
                found.append(await self._repaired(state, parent, behaviour, step, own, number))
        return found

    async def _traced(
        self, state: State, parent: Candidate, behaviour: Behaviour, errors: Sequence[Mistake]
    ) -> list[tuple[int, bool, str, Mistake]]:
        """Of each error the first failing step, whether it was carried out, and the cause.

        Whether a step was carried out is read off the transcript, where the form shows it; the optimizer is asked only where
        every step is there.
        """
        count = len(behaviour.steps)
        if not self.settings.diagnose:
            draw = self.draw("undiagnosed", state.step, parent.id)
            return [(draw.randint(1, count), True, "", error) for error in errors]
        missing = [steps_shown(error.reply, count) if behaviour.demo else [True] * count for error in errors]
        asked = [error for error, shown in zip(errors, missing, strict=True) if all(shown)]
        asks = [
            Ask("diagnose", roles.diagnose(behaviour.steps, error), self.key("diagnose", state.step, parent.id, i))
            for i, error in enumerate(asked)
        ]
        replies = iter(await self._session.ask(asks))
        traced = []
        for error, shown in zip(errors, missing, strict=True):
            step, followed, cause = (
                (shown.index(False) + 1, False, "") if not all(shown) else _read_diagnosis(next(replies), count)
            )
            traced.append((step, followed, cause, error))
            text = cause or _said(behaviour, step, followed)
            self._session.journal.record(
                "reflection",
                step=state.step,
                candidate=parent.id,
                text=text,
                examples=[error.example.id],
                failing_step=step,
                followed=followed,
            )
        return traced

    async def _repaired(
        self,
        state: State,
        parent: Candidate,
        behaviour: Behaviour,
        step: int,
        own: Sequence[tuple[int, bool, str, Mistake]],
        number: int,
    ) -> Proposal:
        """The form made more explicit where a step was left out, the step put anew where it went wrong."""
        key = (state.step, parent.id, step, number)
        train = {example.id: example for example in self._session.task.train}
        draw = self.draw("demo", *key)
        example = train.get(behaviour.example) or draw.choice(self._session.task.train)
        if number:  # a second proposal shows the work on another example
            example = draw.choice(self._session.task.train)
        followed = sum(was for _, was, *_ in own) * 2 > len(own)
        causes = list(dict.fromkeys(cause for *_, cause, _ in own if cause))
        reflection = "; ".join(causes) or _said(behaviour, step, followed)
        if not followed and self.settings.demonstration:
            return await self._complete(
                behaviour.steps, example, "form", key, parent=parent.id, reflection=reflection, explicit=step
            )
        ask = Ask(
            "refine-step",
            roles.refine_step(behaviour.steps, step, causes, [entry[3] for entry in own[:2]]),
            self.key("refine", *key),
        )
        (reply,) = await self._session.ask([ask])
        finer = tuple(part for part in parse_tags(reply or "", "step") if part)[:3]
        if not finer:
            return Proposal("", "refine", parent.id, reflection, dropped="cut_short" if reply is None else "no_tags")
        steps = (*behaviour.steps[: step - 1], *finer, *behaviour.steps[step:])[:MOST_STEPS]
        return await self._complete(steps, example, "refine", key, parent=parent.id, reflection=reflection)

    def tally(self, task: Task, tally: Tally) -> None:
        size = self.settings
        tally.prompt_chars = 2400 if size.demonstration else 600
        verified = min(size.verify, len(task.train)) if size.demonstration else 0
        demos = 1 + size.retries if size.demonstration else 0
        if tally.step == 0:
            made, asks = size.first, size.first
        else:
            made = tally.beam * size.failing_steps * size.proposals
            asks = tally.beam * size.diagnosed * size.diagnose + made
            tally.target += tally.beam * min(size.minibatch, len(task.train))
        tally.target += made * demos * verified
        tally.asks += asks + made * demos
        tally.new += made


def _said(behaviour: Behaviour, step: int, followed: bool) -> str:
    return f"step {step} was {'carried out wrongly' if followed else 'left out'}: {behaviour.steps[step - 1]}"


def _read_diagnosis(reply: str | None, count: int) -> tuple[int, bool, str]:
    """(step, followed, cause) of a reply; what cannot be read is the last step, carried out."""
    text = reply or ""
    number = re.search(r"\d+", " ".join(parse_tags(text, "step")[:1]))
    step = min(max(int(number[0][:3]), 1), count) if number else count
    followed = not (parse_tags(text, "followed") or ["yes"])[0].strip().lower().startswith("n")
    return step, followed, (parse_tags(text, "cause") or [""])[0]
