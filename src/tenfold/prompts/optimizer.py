"""The frame that all prompt optimizers share: propose, drop what is no candidate, score, select; only `propose` differs."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tenfold.core.atomic import write_atomic
from tenfold.core.config import did_you_mean, need, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.prompts.candidates import Candidate, Drop, Proposal, State, reason_to_drop, same_words
from tenfold.prompts.examples import Example
from tenfold.prompts.plan import Plan, Tally, make_plan
from tenfold.prompts.result import Result, make_result
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.selectors import BruteForce, Selector
from tenfold.prompts.session import OutOfMeans, Session
from tenfold.prompts.task import Task, check_prompt
from tenfold.text.budget import Budget, BudgetExceededError
from tenfold.text.chat import run_sync
from tenfold.text.messages import ChatModel

STALLS = 3  # steps in a row without a candidate after which a search ends
MOST_PROMPT = 6000  # characters


@dataclass(frozen=True)
class Settings:
    """What every method has.

    Args:
        rounds: steps of the search.
        keep: prompts that a step starts from (the beam).
        max_prompt_chars: longer proposals are dropped.
        max_target_calls: cap on requests to the target; the test split's are kept back.
        optimizer_tokens: the most of one reply of the optimizer.
        optimizer_temperature: of its sampling.
        test_baseline: also score the best prompt that was given on the test split, in the same look.
    """

    rounds: int = 6
    keep: int = 4
    max_prompt_chars: int = MOST_PROMPT
    max_target_calls: int | None = None
    optimizer_tokens: int = 1024
    optimizer_temperature: float = 1.0
    test_baseline: bool = True

    def __post_init__(self) -> None:
        for name in ("keep", "max_prompt_chars", "max_target_calls", "optimizer_tokens"):
            need(name, getattr(self, name), 1)
        need("rounds", self.rounds, 0)
        need("optimizer_temperature", self.optimizer_temperature, 0)


class PromptOptimizer:
    """A search for a better prompt.

    Args:
        target: the model that solves the task.
        optimizer: the model that writes prompts.
        budget: caps on calls, tokens, dollars and time; None: none. The search ends where its next batch could pass one.
        selector: how candidates are chosen on val; None: brute force.
        seed: of all draws.
        run_dir: where the run is kept; one that was begun goes on.
        allow_peek: the test split may be looked at more than once; the report says so.
        options: fields of the method's `Settings`.
    Raises:
        ValueError: an unknown option, or a wrong value of one.
    """

    method: ClassVar[str] = "given"
    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(
        self,
        target: ChatModel,
        optimizer: ChatModel,
        *,
        budget: Budget | None = None,
        selector: Selector | None = None,
        seed: int = 0,
        run_dir: str | Path | None = None,
        allow_peek: bool = False,
        **options: Any,
    ) -> None:
        known = [field.name for field in dataclasses.fields(self.settings_type)]
        for name in options:
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__}: unknown option {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
                )
        self.settings = self.settings_type(**options)
        self.target, self.optimizer, self.budget, self.seed = target, optimizer, budget, seed
        self.selector: Selector = BruteForce() if selector is None else selector
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.allow_peek = allow_peek
        self.session: Session | None = None

    # What a method is.

    async def propose(self, state: State) -> list[Proposal]:
        """New prompts from the state; methods override this. Without a method there are only the prompts that were given."""
        return []

    def tally(self, task: Task, tally: Tally) -> None:
        """Count what a step will ask where every proposal is a candidate; methods override this."""

    # The search.

    async def run(self, task: Task, init_prompts: Sequence[str] = ("",)) -> Result:
        """Search, choose on val, look at test once.

        Args:
            task: the task.
            init_prompts: prompts to begin with; "" is none.
        Raises:
            UserError: a run folder of another configuration, a refused budget, an endpoint that fails for good (the run
                can go on), a scorer that fails too often.
        """
        prompts = list(dict.fromkeys(init_prompts))
        if not prompts:
            raise ValueError("init_prompts: got none, need at least one; an empty text is a prompt")
        for prompt in prompts:
            check_prompt(prompt)
        session = self.session = self._open(task, prompts)
        self._set_aside(session, task)
        state = State()
        try:
            state = await self._begin(state, prompts)
            while state.ended is None:
                state = await self.step(state)
        except OutOfMeans as cap:
            if not any(candidate.scores.get("val") for candidate in state.candidates):
                raise BudgetExceededError(
                    f"budget: the cap on {cap} leaves no room to score the given prompts on val and test; raise it, or make the splits smaller"
                ) from None
            state.ended = f"the next step could pass the cap on {cap}"
        except BudgetExceededError as error:
            if "max_seconds" not in str(error):
                raise
            state.ended = "time ran out"
        return await self._finish(state)

    def optimize(self, task: Task, init_prompts: Sequence[str] = ("",)) -> Result:
        """`run` from plain code; works in a notebook too."""
        return run_sync(self.run(task, init_prompts))

    async def step(self, state: State) -> State:
        """One step: propose, drop, score, select. Returns the state, changed."""
        session = self._session
        state.step += 1
        proposals = await self.propose(state)
        fresh = self._admitted(state, proposals)
        if not fresh:
            state.stalled += 1
            session.journal.record("stalled", step=state.step, in_a_row=state.stalled)
        else:
            state.stalled = 0
            parents = [state.candidates[id] for id in state.beam]
            state.beam = await self._select([*parents, *fresh])
        self._mark(state)
        if state.stalled >= STALLS:
            state.ended = f"{STALLS} steps in a row brought no candidate"
        elif state.step >= self.settings.rounds:
            state.ended = "all rounds done"
        return state

    async def _begin(self, state: State, prompts: Sequence[str]) -> State:
        """The prompts that were given are candidates like all others."""
        for prompt in prompts:
            state.add(Proposal(prompt, "init"))
        state.notes["given"] = len(prompts)
        state.beam = await self._select(state.candidates)
        self._mark(state)
        if self.settings.rounds == 0:
            state.ended = "all rounds done"
        return state

    def _admitted(self, state: State, proposals: Sequence[Proposal]) -> list[Candidate]:
        """Proposals that are candidates; the others stay in the tree with the reason."""
        session = self._session
        seen = {same_words(c.text): c.id for c in state.candidates if c.dropped is None}
        fresh = []
        for proposal in proposals:
            parent = None if proposal.parent is None else state.candidates[proposal.parent].text
            dropped = proposal.dropped or self._drop(proposal, seen, parent)
            candidate = state.add(proposal, dropped)
            session.journal.record("candidate", **candidate.to_json())
            if dropped is None:
                seen[same_words(proposal.text)] = candidate.id
                fresh.append(candidate)
        return fresh

    def _drop(self, proposal: Proposal, seen: dict[str, int], parent: str | None) -> Drop | None:
        return reason_to_drop(proposal, seen, parent, self._session.task.train, self.settings.max_prompt_chars)

    async def _select(self, arms: Sequence[Candidate]) -> list[int]:
        """The best candidates on val by the selector, best first."""
        session, keep = self._session, self.settings.keep
        val = self._val()
        # Seeded by the arms: what is drawn does not depend on how often a process was killed.
        draw = random.Random(f"select {self.seed} {[arm.id for arm in arms]}")
        pulls = self.selector.pulls(len(arms), len(val), keep, draw)
        try:
            pull = next(pulls)
            while True:
                chosen, examples = [arms[i] for i in pull.arms], [val[i] for i in pull.examples]
                scores = await session.score(chosen, examples, "val")
                pull = pulls.send(np.array(scores))
        except StopIteration as end:
            order = [arms[i] for i in end.value.order if end.value.counts[i] and arms[i].dropped is None]
        beam = [candidate.id for candidate in order[:keep]]
        session.journal.record("selected", beam=beam, scores={str(c.id): c.scores.get("val") for c in arms})
        return beam

    def _val(self) -> list[Example]:
        """Val in an order of the seed, the same throughout the run."""
        rows = list(self._session.task.val)
        return random.Random(f"val {self.seed}").sample(rows, len(rows))

    def _mark(self, state: State) -> None:
        means = [c.scores["val"]["mean"] for id in state.beam if (c := state.candidates[id]).scores.get("val")]
        calls = self._session.counts
        row = {
            "step": state.step,
            "best_val": max(means, default=None),
            "target_calls": calls["target"].calls,
            "optimizer_calls": calls["optimizer"].calls,
            "tokens": calls["target"].tokens + calls["optimizer"].tokens,
        }
        state.curve.append(row)
        self._session.journal.record("step", **row, beam=state.beam, stalled=state.stalled)

    # Means for methods.

    @property
    def _session(self) -> Session:
        if self.session is None:
            raise ValueError("step: there is no run yet; call run(task, init_prompts)")
        return self.session

    def draw(self, *key: object) -> random.Random:
        """Random numbers of (seed, key) alone."""
        return random.Random(f"{self.method} {self.seed} {key}")

    def key(self, *key: object) -> int:
        """A seed for one request, below 2^31, which every endpoint takes."""
        return self.draw("request", *key).getrandbits(31)

    def read(
        self, reply: str | None, tag: str, op: str, parent: int | None = None, reflection: str | None = None
    ) -> list[Proposal]:
        """The prompts in a reply; one without any is a proposal too, dropped with its reason."""
        texts = [] if reply is None else parse_tags(reply, tag)
        if texts:
            return [Proposal(text, op, parent, reflection) for text in texts]
        return [Proposal("", op, parent, reflection, dropped="cut_short" if reply is None else "no_tags")]

    async def mistakes(self, candidate: Candidate, examples: Sequence[Example]) -> list[Mistake]:
        """Where a candidate misses the target among training examples."""
        session = self._session
        found = await session.outcomes([(candidate.text, example) for example in examples], "train")
        session.note(candidate, "train")
        return [
            Mistake(e, o.text, o.feedback)
            for e, o in zip(examples, found, strict=True)
            if o.value < 1 and o.error is None
        ]

    # Beginning and end.

    def plan(self, task: Task, init_prompts: Sequence[str] = ("",)) -> Plan:
        """Calls, tokens and dollars that a run takes at most, and how many proposals the caps leave room for. Asks nothing."""
        return make_plan(self, task, list(dict.fromkeys(init_prompts)))

    def _open(self, task: Task, prompts: Sequence[str]) -> Session:
        if self.run_dir is not None:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            _check_config(self.run_dir / "config.json", self.config(task, prompts))
        return Session(
            task,
            self.target,
            self.optimizer,
            budget=self.budget,
            seed=self.seed,
            folder=self.run_dir,
            max_target_calls=self.settings.max_target_calls,
            optimizer_tokens=self.settings.optimizer_tokens,
            optimizer_temperature=self.settings.optimizer_temperature,
            allow_peek=self.allow_peek,
        )

    def config(self, task: Task, prompts: Sequence[str]) -> dict[str, Any]:
        """What makes two runs the same. Caps on money and time may be raised for a run that goes on; others may not."""
        budget = self.budget or Budget()
        data: dict[str, Any] = to_json(
            {
                "method": self.method,
                "settings": self.settings,
                "selector": {"rule": type(self.selector).__name__, **vars(self.selector)},
                "seed": self.seed,
                "task": {"name": task.name, "fingerprint": task.fingerprint, "placement": task.placement},
                "target": getattr(self.target, "identity", self.target.name),
                "optimizer": getattr(self.optimizer, "identity", self.optimizer.name),
                "init_prompts": list(prompts),
                "max_calls": budget.max_calls,
                "max_tokens": budget.max_tokens,
            }
        )
        return data

    def _set_aside(self, session: Session, task: Task) -> None:
        """Keep back what the look at test will take."""
        session.means.aside_calls = self.test_calls(task) + self.final_calls(task)
        longest = max(len(example.input.encode()) for example in (*task.val, *task.test))
        session.means.aside_tokens = session.means.aside_calls * (
            longest + self.settings.max_prompt_chars + 64 + task.max_tokens
        )

    def test_calls(self, task: Task) -> int:
        """Requests of the look at test."""
        return (2 if self.settings.test_baseline else 1) * len(task.test)

    def finalists(self, state: State) -> list[Candidate]:
        """The candidates that the final choice is between."""
        return [c for id in state.beam if (c := state.candidates[id]).dropped is None]

    def final_calls(self, task: Task) -> int:
        """Requests on val that the final choice may need."""
        return 0

    async def _finish(self, state: State) -> Result:
        """Choose on val, look at test, write everything."""
        result = await make_result(self, state)
        if self.run_dir is not None:
            write_atomic(
                self.run_dir / "result.json", json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n"
            )
            result.report_html(self.run_dir / "report.html")
        return result


def _check_config(file: Path, config: dict[str, Any]) -> None:
    """Begin a run folder, or see that it is of the same run.

    Raises:
        UserError: naming the first field that differs.
    """
    if not file.exists():
        write_atomic(file, json.dumps(config, indent=1, ensure_ascii=False) + "\n")
        return
    kept = read_object(file)
    for name, (old, new) in _leaves(kept, config).items():
        if old != new:
            raise UserError(
                f"{file.parent}: a run of another configuration: {name} was {json.dumps(old)[:80]}, is {json.dumps(new)[:80]}; take another run_dir"
            )


def _leaves(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in dict.fromkeys((*old, *new)):
            found |= _leaves(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    return {prefix: (old, new)}
