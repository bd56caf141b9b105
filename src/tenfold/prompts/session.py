"""What a run asks its two models: everything once, within its means, in the journal."""

from __future__ import annotations

import inspect
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold.core.errors import UserError
from tenfold.prompts.bill import BILL, BilledChatModel, left_of
from tenfold.prompts.candidates import Candidate, summary
from tenfold.prompts.examples import Example
from tenfold.prompts.journal import Journal
from tenfold.prompts.scorers import Score, as_score
from tenfold.prompts.task import Split, Task
from tenfold.text.budget import Budget
from tenfold.text.chat_cache import CachedChatModel
from tenfold.text.concurrency import gather
from tenfold.text.endpoint_errors import ChoiceError, ContextLengthError
from tenfold.text.messages import ChatModel, Message, Reply, Sampling, prompt_bound
from tenfold.text.reply_store import request_key

CACHE = "cache.sqlite"
UNREAD = -1e6  # ln p of a target behind a prompt that the model cannot read
MOST_SCORER_ERRORS = 0.05  # share of examples from which a run stops
Side = Literal["target", "optimizer"]


class OutOfMeans(Exception):
    """The next batch of requests would pass a cap: the search ends with what it has."""


@dataclass(frozen=True)
class Outcome:
    """A reply to an example, scored. `value` is NaN where the scorer failed or the model could not read the prompt."""

    value: float
    text: str
    answer: str | None
    format_error: bool = False
    finish: str = "stop"
    error: str | None = None
    feedback: str = ""


@dataclass
class Count:
    """Requests of a run to one model, whether a store answered them or the model."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0

    def add(self, replies: Sequence[Reply]) -> None:
        self.calls += 1
        self.prompt_tokens += sum(reply.usage.prompt for reply in replies)
        self.completion_tokens += sum(reply.usage.completion for reply in replies)
        self.estimated += any(reply.usage.estimated for reply in replies)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Ask:
    """A request to the optimizer: the role that is played, what is said, and shorter words for a model that reads less."""

    role: str
    messages: tuple[Message, ...]
    seed: int
    shorter: tuple[Message, ...] | None = None


@dataclass
class Means:
    """Caps of a run's requests. What is set aside for the end is kept back from the search."""

    max_calls: float = math.inf
    max_target_calls: float = math.inf
    max_tokens: float = math.inf
    max_usd: float = math.inf
    aside_calls: float = 0
    aside_tokens: float = 0


class Session:
    """The two models of a run behind its memory, its store and its budget.

    Requests are counted whether they are answered now or were before, so that the same run stops at the same place however
    often it was interrupted. The money actually spent, further tries included, is capped by `budget` itself.

    Args:
        task: whose scorer is used.
        target, optimizer: the models.
        budget: caps; None: none.
        seed: of all draws.
        folder: of the run; None: nothing is kept.
        max_target_calls: cap on requests to the target alone.
        optimizer_tokens, optimizer_temperature: of the optimizer's replies.
        allow_peek: look at the test split more than once.
    Raises:
        UserError: `max_usd` without a price.
    """

    def __init__(
        self,
        task: Task,
        target: ChatModel,
        optimizer: ChatModel,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        folder: Path | None = None,
        max_target_calls: int | None = None,
        optimizer_tokens: int = 1024,
        optimizer_temperature: float = 1.0,
        allow_peek: bool = False,
    ) -> None:
        self.task, self.seed, self.folder = task, seed, folder
        self.journal = Journal(folder)
        self.budget = budget or Budget()
        self.optimizer_tokens, self.optimizer_temperature = optimizer_tokens, optimizer_temperature
        self.allow_peek, self.looks = allow_peek, 0
        self.counts: dict[Side, Count] = {"target": Count(), "optimizer": Count()}
        caps = (self.budget.max_calls, max_target_calls, self.budget.max_tokens, self.budget.max_usd)
        self.means = Means(*(math.inf if cap is None else cap for cap in caps))
        self._replies: dict[tuple[Side, bytes], Reply] = {}
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._sampling = Sampling(temperature=0.0, max_tokens=task.max_tokens)
        guard = left_of(self.budget, folder)
        self._process = secrets.token_hex(8)
        self._models: dict[Side, ChatModel] = {
            "target": self._kept(target, guard),
            "optimizer": self._kept(optimizer, guard),
        }
        self._names: dict[Side, str] = {"target": target.name, "optimizer": optimizer.name}
        self.guard, self._target = guard, target

    def _kept(self, model: ChatModel, guard: Budget) -> ChatModel:
        if self.folder is None:
            return guard.wrap(model)
        return guard.wrap(
            CachedChatModel(BilledChatModel(model, guard, self.folder / BILL, self._process), self.folder / CACHE)
        )

    # The target.

    async def outcomes(self, pairs: Sequence[tuple[str, Example]], what: str) -> list[Outcome]:
        """Replies of the target to (prompt, example) pairs, scored; a pair is asked once in a run.

        Raises:
            OutOfMeans: they would pass a cap; none was asked.
            UserError: the scorer failed on too many.
        """
        new = list(
            dict.fromkeys(
                (prompt, example.id) for prompt, example in pairs if (prompt, example.id) not in self._outcomes
            )
        )
        if new:
            examples = {example.id: example for _, example in pairs}
            asked = [(prompt, examples[id], self.task.render(prompt, examples[id])) for prompt, id in new]
            self._admit("target", [(messages, self._sampling) for *_, messages in asked])
            replies = await gather(self._target_reply(messages) for *_, messages in asked)
            slow = 0
            for (prompt, example, messages), reply in zip(asked, replies, strict=True):
                self._outcomes[prompt, example.id] = scored = await self._scored(example, reply)
                slow += (scored.error or "").startswith("scorer: TimeoutError")
                if slow > MOST_SCORER_ERRORS * len(pairs):  # the end is known; each more takes its time
                    raise UserError(f"scorer: gave up on {slow} replies ({scored.error}), then resume")
                if isinstance(reply, Reply):
                    self._count("target", messages, self._sampling, reply)
        found = [self._outcomes[prompt, example.id] for prompt, example in pairs]
        self._check_scorer(found)
        return found

    async def likelihoods(self, pairs: Sequence[tuple[str, Example]]) -> list[float]:
        """ln p of each example's target as the target model's whole reply to (prompt, example); a pair is asked once in a run.

        An endpoint is asked for the target in a JSON form, whose probability is then part of it.

        Raises:
            OutOfMeans: they would pass a cap; none was asked.
            UserError: a model that tells no log-probabilities.
        """
        how = [_forced(example.target) for _, example in pairs]
        asked = [(self.task.render(prompt, example), each) for (prompt, example), each in zip(pairs, how, strict=True)]
        self._admit("target", asked)
        replies = await gather(self._forced_reply(*request) for request in asked)
        found = []
        for (messages, sampling), reply in zip(asked, replies, strict=True):
            if reply is not None:
                self._count("target", messages, sampling, reply)
            found.append(UNREAD if reply is None else sum(reply.logprobs or ()))
        return found

    async def _forced_reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply | None:
        try:
            (reply,) = await self._models["target"].complete(messages, sampling)
        except ContextLengthError:
            return None
        except ChoiceError:
            reply = None
        if reply is None or not reply.logprobs:
            raise UserError(f"likelihood: {self._names['target']} tells no log-probabilities of a given answer; execute the prompts instead")  # fmt: skip
        return reply

    async def _target_reply(self, messages: Sequence[Message]) -> Reply | ContextLengthError:
        try:
            return (await self._models["target"].complete(messages, self._sampling))[0]
        except ContextLengthError as error:
            return error

    async def _scored(self, example: Example, reply: Reply | ContextLengthError) -> Outcome:
        if not isinstance(reply, Reply):
            return Outcome(math.nan, "", None, error="context_length")
        try:
            said: Any = self.task.scorer(example, reply.text)  # type: ignore[misc]
            score: Score = as_score(await said if inspect.isawaitable(said) else said, reply.text)
        except UserError:
            raise  # an endpoint of a judge that fails is no score
        except Exception as error:  # noqa: BLE001 - a metric of the user's may raise anything
            return Outcome(
                math.nan, reply.text, None, finish=reply.finish_reason, error=f"scorer: {type(error).__name__}: {error}"
            )
        return Outcome(
            float(score), reply.text, score.answer, score.format_error, reply.finish_reason, None, score.feedback
        )

    def _check_scorer(self, found: Sequence[Outcome]) -> None:
        failed = [outcome for outcome in found if outcome.error and outcome.error.startswith("scorer")]
        if failed and len(failed) > MOST_SCORER_ERRORS * len(found):
            raise UserError(
                f"scorer: failed on {len(failed)} of {len(found)} replies ({failed[0].error}); mend it, then resume"
            )

    async def score(
        self, candidates: Sequence[Candidate], examples: Sequence[Example], split: Split
    ) -> list[list[float]]:
        """Scores of candidates on examples of a split, [candidate, example], NaN where excluded; noted in the candidates."""
        flat = await self.outcomes([(c.text, e) for c in candidates for e in examples], split)
        rows = [flat[i * len(examples) : (i + 1) * len(examples)] for i in range(len(candidates))]
        for candidate, row in zip(candidates, rows, strict=True):
            if any(outcome.error == "context_length" for outcome in row):
                candidate.dropped = "context_length"
            self.note(candidate, split)
        return [[outcome.value for outcome in row] for row in rows]

    def note(self, candidate: Candidate, split: Split) -> None:
        """Write what is known of a candidate on a split into it."""
        known = self.known(candidate, split)
        values = [o.value for o in known.values() if not math.isnan(o.value)]
        errors = sum(o.error is not None for o in known.values())
        candidate.scores[split] = summary(values, sum(o.format_error for o in known.values()), errors)

    def known(self, candidate: Candidate, split: Split) -> dict[str, Outcome]:
        """Example id to outcome, of the examples of a split that a candidate was tried on."""
        pairs = ((example.id, self._outcomes.get((candidate.text, example.id))) for example in self.task.split(split))
        return {id: outcome for id, outcome in pairs if outcome is not None}

    def true_causes(self) -> Callable[[str, str], str] | None:
        """The true cause of an error by (prompt, example id), which only simulators know; None for real models."""
        cause: Callable[[str, Example], str] | None = getattr(self._target, "true_cause", None)
        if cause is None:
            return None
        rows = {example.id: example for example in self.task.train}
        return lambda prompt, id: cause(prompt, rows[id])

    async def look_at_test(self, candidates: Sequence[Candidate]) -> list[list[float]]:
        """Scores on the test split, which a run looks at once.

        Raises:
            UserError: a second look without `allow_peek`.
        """
        if self.looks and not self.allow_peek:
            raise UserError(
                "test: was looked at already; a second look needs allow_peek=True, which the report then says"
            )
        self.looks += 1
        self.means.aside_calls = self.means.aside_tokens = 0
        return await self.score(candidates, self.task.test, "test")

    # The optimizer.

    async def ask(self, asks: Sequence[Ask], *, temperature: float | None = None) -> list[str | None]:
        """Replies of the optimizer, None for one that was cut at its length or too long to be asked; all in the journal.

        Raises:
            OutOfMeans: they would pass a cap; none was asked.
        """
        heat = self.optimizer_temperature if temperature is None else temperature
        how = [Sampling(temperature=heat, max_tokens=self.optimizer_tokens, seed=ask.seed) for ask in asks]
        self._admit("optimizer", [(ask.messages, each) for ask, each in zip(asks, how, strict=True)])
        replies = await gather(self._optimizer_reply(ask, each) for ask, each in zip(asks, how, strict=True))
        said: list[str | None] = []
        for ask, each, (reply, messages) in zip(asks, how, replies, strict=True):
            if reply is not None:
                self._count("optimizer", messages, each, reply)
            usable = reply is not None and reply.finish_reason != "length"
            said.append(reply.text if usable and reply is not None else None)
            reason = None if usable else "context_length" if reply is None else "cut_short"
            text = None if reply is None else reply.text
            self.journal.record(
                "ask", role=ask.role, messages=[[m.role, m.content] for m in messages], reply=text, unusable=reason
            )
        return said

    async def _optimizer_reply(self, ask: Ask, sampling: Sampling) -> tuple[Reply | None, tuple[Message, ...]]:
        for messages in (ask.messages, ask.shorter):
            if messages is not None:
                try:
                    return (await self._models["optimizer"].complete(messages, sampling))[0], messages
                except ContextLengthError:
                    continue
        return None, ask.messages

    # Means.

    def _count(self, side: Side, messages: Sequence[Message], sampling: Sampling, reply: Reply) -> None:
        key = (side, request_key(side, messages, sampling))
        if key not in self._replies:
            self._replies[key] = reply
            self.counts[side].add([reply])

    def _admit(self, side: Side, requests: Sequence[tuple[Sequence[Message], Sampling]]) -> None:
        """Refuse a batch that could pass a cap. The most that it can cost counts, so the answer does not depend on its order."""
        fresh = {
            key: request for request in requests if (key := (side, request_key(side, *request))) not in self._replies
        }
        means, other = self.means, self.counts["optimizer" if side == "target" else "target"]
        own = self.counts[side]
        calls = own.calls + len(fresh) + means.aside_calls
        if calls + other.calls > means.max_calls or (side == "target" and calls > means.max_target_calls):
            raise OutOfMeans("calls")
        if math.isfinite(means.max_tokens) or math.isfinite(means.max_usd):
            prompt = sum(prompt_bound(*request) for request in fresh.values())
            completion = sum(sampling.max_tokens for _, sampling in fresh.values())
            if own.tokens + other.tokens + prompt + completion + means.aside_tokens > means.max_tokens:
                raise OutOfMeans("tokens")
            price = self.budget.prices.get(self._names[side], (0.0, 0.0))
            if self.usd + (prompt * price[0] + completion * price[1]) / 1e6 > means.max_usd:
                raise OutOfMeans("usd")

    @property
    def usd(self) -> float:
        """What the run's requests cost, each once."""
        total = 0.0
        for side, count in self.counts.items():
            price = self.budget.prices.get(self._names[side], (0.0, 0.0))
            total += (count.prompt_tokens * price[0] + count.completion_tokens * price[1]) / 1e6
        return total

    def cost(self) -> dict[str, Any]:
        """Requests and tokens by side, and dollars where prices are known; the same however often the run was interrupted."""
        sides: dict[str, Any] = {side: dict(vars(count)) for side, count in self.counts.items()}
        return {**sides, "usd": self.usd if self.budget.prices else None}


def _forced(target: str) -> Sampling:
    """How a model is asked for one text and nothing else; its log-probabilities are those of the free model."""
    return Sampling(temperature=0.0, max_tokens=len(target.encode()) + 16, choices=(target,), logprobs=True)
