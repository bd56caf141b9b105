"""An agent that decides first: search or not, one of the candidates or none, then a checked call, then the answer."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenfold.text.messages import ChatModel, Message, Reply, Sampling, ToolCall
from tenfold.tools import render
from tenfold.tools.arguments import ToolArgumentError, parse_arguments, preview
from tenfold.tools.choice import NoChoiceError, choose
from tenfold.tools.executor import Executor, LocalExecutor
from tenfold.tools.retrieval import BM25, Retriever
from tenfold.tools.samples import Candidate
from tenfold.tools.tool import Tool, ToolRegistry, UnknownToolError
from tenfold.tools.trace import (
    Answer,
    Call,
    Candidates,
    Decision,
    Error,
    Event,
    Said,
    ToolResult,
    Trace,
    secrets_of,
    without_secrets,
)

Approve = Callable[[Call, Tool], bool | Awaitable[bool]]
MOST_CALLS = 16  # of one reply
RESULT = 16_000  # characters of a result that the model is shown


@dataclass(frozen=True)
class Policy:
    """What an agent may do.

    Args:
        approve: asked before every call of a tool with side effects that is not allowed; None: such calls are refused.
        allow: names of tools with side effects that need no asking.
        max_repeats: times that one failing call may come in a row before the episode ends.
        repair: mend broken JSON of arguments, once.
        coerced: turn "3" into 3 and the like where the schema asks for it and nothing is lost.
        rounds: searches in one episode.
        max_tokens: of arguments and of the answer.
        secrets: texts that must not enter a trace, beside the values of environment variables named as secrets.
    """

    approve: Approve | None = None
    allow: frozenset[str] = frozenset()
    max_repeats: int = 2
    repair: bool = True
    coerced: bool = False
    rounds: int = 1
    max_tokens: int = 512
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_repeats", "rounds", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")


class RepeatedCallError(Exception):
    """The same failing call again and again."""


class StepLimitError(Exception):
    """As many replies as an episode may have, and no answer."""


class EpisodeInterrupted(KeyboardInterrupt):
    """Ctrl-C within an episode.

    Args:
        trace: what was done until then.
    """

    def __init__(self, trace: Trace) -> None:
        super().__init__("the episode was interrupted")
        self.trace = trace


class DecisionAgent:
    """Answers queries with the tools of a registry; no call that was not checked is ever carried out.

    Args:
        speaker: the model.
        registry: the tools.
        retriever: finds candidates; None: by words over the registry.
        k: candidates, at most as many as there are tools.
        max_steps: replies of the model in one episode.
        policy: what it may do.
        executor: carries calls out; None: in this process.
        constrained: decisions are decoded as one of their choices.
    Raises:
        ValueError: a number out of range, or a tool named "none", which is a decision.
    Source: Gui et al. 2024, the decision tree of section 3.
    """

    def __init__(
        self,
        speaker: ChatModel,
        registry: ToolRegistry,
        retriever: Retriever | None = None,
        *,
        k: int = 5,
        max_steps: int = 8,
        policy: Policy | None = None,
        executor: Executor | None = None,
        constrained: bool = True,
    ) -> None:
        if k < 1 or max_steps < 1:
            raise ValueError(f"k, max_steps: got {k}, {max_steps}, need at least 1")
        if render.NONE in registry:
            raise ValueError(f"registry: a tool is named {render.NONE!r}, which says that none fits; rename it")
        self.speaker, self.registry, self.k, self.max_steps = speaker, registry, k, max_steps
        self.retriever = retriever or BM25(list(registry))
        self.policy, self.executor = policy or Policy(), executor or LocalExecutor()
        self.constrained = constrained

    def run(self, query: str) -> Trace:
        """Answer one query, from plain code.

        Raises:
            EpisodeInterrupted: Ctrl-C; it has the trace so far.
        """
        from tenfold.text.chat import run_sync

        episode, begun = _Episode(self, query), time.perf_counter()
        try:
            return run_sync(self._played(episode, begun))
        except KeyboardInterrupt:
            stop = Error("Interrupted", "the user ended the episode", final=True)
            raise EpisodeInterrupted(self._trace(episode, begun, stop)) from None

    async def arun(self, query: str) -> Trace:
        """Answer one query; whatever goes wrong stands in the trace as a typed event, and nothing is raised."""
        return await self._played(_Episode(self, query), time.perf_counter())

    async def _played(self, episode: _Episode, begun: float) -> Trace:
        try:
            await episode.play()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - models, endpoints and retrievers fail in every way
            episode.events.append(Error(type(error).__name__, " ".join(str(error).split())[:500], final=True))
        return self._trace(episode, begun)

    def _trace(self, episode: _Episode, begun: float, *last: Event) -> Trace:
        trace = Trace(episode.query, self.speaker.name, (*episode.events, *last), tuple(episode.said), episode.prompt, episode.completion, time.perf_counter() - begun)  # fmt: skip
        hidden: Trace = without_secrets(trace, (*secrets_of(), *self.policy.secrets))
        return hidden


@dataclass
class _Episode:
    """One query on its way."""

    agent: DecisionAgent
    query: str
    events: list[Event] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    prompt: int = 0
    completion: int = 0
    failing: tuple[str, int] = ("", 0)

    async def play(self) -> None:
        policy = self.agent.policy
        self.messages = render.opening(self.query)
        for _ in range(policy.rounds):
            decision = await self.decide("search", (render.SEARCH, render.ANSWER))
            self.messages.append(Message("assistant", decision))
            if decision == render.ANSWER or not await self.round():
                break
        await self.answer()

    async def round(self) -> bool:
        """One search and what follows; whether a call succeeded."""
        found = self.agent.retriever.search(self.query, min(self.agent.k, len(self.agent.registry))) if len(self.agent.registry) else []  # fmt: skip
        tools = {tool.name: tool for tool, _ in found}
        self.events.append(Candidates(tuple(tools), tuple(float(score) for _, score in found)))
        self.messages.append(render.offer([Candidate.of(tool) for tool in tools.values()]))
        while True:
            if not tools:
                choice = render.NONE
                self.events.append(Decision("call", choice, (choice,)))
            else:
                choice = await self.decide("call", (*tools, render.NONE))
            self.messages.append(Message("assistant", choice))
            if choice == render.NONE:
                return False
            results = await self.call(tools[choice], tools)
            if results and not all(result.is_error for result in results):
                return True
            self.messages.append(Message("user", render.CHOOSE))

    async def decide(self, stage: Any, choices: Sequence[str]) -> str:
        left = self.agent.max_steps - len(self.said)
        self.check_steps()
        try:
            chosen = await choose(self.agent.speaker, self.messages, choices, constrained=self.agent.constrained, tries=min(3, left))  # fmt: skip
        except NoChoiceError:
            self.said += [Said("")] * min(3, left)
            raise
        for reply in chosen.replies:
            self.hear(reply)
        logprobs = None if chosen.logprob is None else {chosen.text: chosen.logprob}
        self.events.append(Decision(stage, chosen.text, tuple(choices), logprobs))
        return chosen.text

    async def call(self, tool: Tool, tools: dict[str, Tool]) -> list[ToolResult]:
        """Arguments of the chosen tool, until they fit; then the calls of that reply, side by side."""
        self.messages.append(render.ask_arguments(Candidate.of(tool)))
        while True:
            reply = await self.ask_call(tool)
            if reply.finish_reason == "length":
                self.fail("IncompleteGeneration", "the reply was cut at its most tokens", tool.name, reply.text)
                continue
            written = self.written(reply, tool)
            try:
                calls = [self.checked(each, tool, tools, index) for index, each in enumerate(written[:MOST_CALLS])]
            except (ToolArgumentError, UnknownToolError) as error:
                self.fail(type(error).__name__, str(error), tool.name, "\n".join(f"{each.name} {each.arguments}" for each in written))  # fmt: skip
                continue
            return await self.carry_out(calls)

    async def ask_call(self, tool: Tool) -> Reply:
        self.check_steps()
        (described,) = ToolRegistry([tool]).to_openai(strict=False)
        named = {"type": "function", "function": {"name": described["function"]["name"]}}
        sampling = Sampling(temperature=0.0, max_tokens=self.agent.policy.max_tokens, tools=(described,), tool_choice=named)  # fmt: skip
        (reply,) = await self.agent.speaker.complete([*self.messages], sampling)
        self.hear(reply)
        return reply

    def written(self, reply: Reply, tool: Tool) -> Sequence[ToolCall]:
        """The calls of a reply; a text is the arguments of the chosen tool."""
        return reply.tool_calls or (ToolCall("", self.agent.registry.alias(tool.name), reply.text),)

    def checked(self, written: ToolCall, tool: Tool, tools: dict[str, Tool], index: int) -> Call:
        name = self.agent.registry.original(written.name)
        if name not in tools:
            raise UnknownToolError(written.name, list(tools))
        policy = self.agent.policy
        arguments = parse_arguments(written.arguments, tools[name], repair=policy.repair, coerced=policy.coerced)
        return Call(written.id or f"call_{len(self.said)}_{index}", name, arguments.values, arguments.repaired)

    async def carry_out(self, calls: Sequence[Call]) -> list[ToolResult]:
        """Run checked calls side by side; results stand in the order of the calls."""
        if len({call.id for call in calls}) < len(calls):
            calls = [dataclasses.replace(call, id=f"{call.id}_{index}") for index, call in enumerate(calls)]
        self.events += calls
        results = await asyncio.gather(*(self.run_one(call) for call in calls))
        self.events += results
        wishes = tuple(ToolCall(call.id, self.agent.registry.alias(call.name), json.dumps(call.arguments)) for call in calls)  # fmt: skip
        self.messages.append(Message("assistant", "", tool_calls=wishes))
        for result in results:
            text = render.escape(result.content[:RESULT])
            self.messages.append(Message("tool", f"error: {text}" if result.is_error else text, tool_call_id=result.id))
        for call, result in zip(calls, results, strict=True):
            if result.is_error:
                self.count_failure(f"{call.name} {json.dumps(call.arguments, sort_keys=True)}")
        return list(results)

    async def run_one(self, call: Call) -> ToolResult:
        tool = self.agent.registry.get(call.name)
        policy = self.agent.policy
        if tool.side_effects and tool.name not in policy.allow:
            answer = policy.approve(call, tool) if policy.approve is not None else False
            allowed = await answer if inspect.isawaitable(answer) else answer
            if allowed is not True:
                said = "not approved" if policy.approve is not None else "it has side effects and nobody may approve it"
                return ToolResult(call.id, call.name, f"refused: {said}", True, "refused")
        return await self.agent.executor.run(tool, call.arguments, call.id)

    async def answer(self) -> None:
        self.check_steps()
        if self.messages[-1].role == "assistant":
            self.messages.append(Message("user", render.ANSWER_NOW))
        (reply,) = await self.agent.speaker.complete([*self.messages], Sampling(temperature=0.0, max_tokens=self.agent.policy.max_tokens))  # fmt: skip
        self.hear(reply)
        self.events.append(Answer(reply.text))

    def fail(self, type: str, message: str, name: str, text: str) -> None:
        """Note a wrong call and tell the model, with a short copy of what it wrote: strict servers refuse the whole."""
        self.events.append(Error(type, message))
        self.messages += [Message("assistant", preview(text) or "(nothing)"), Message("user", f"error: {preview(message)} Write the call again.")]  # fmt: skip
        self.count_failure(f"{name} {text}")

    def count_failure(self, key: str) -> None:
        count = self.failing[1] + 1 if self.failing[0] == key else 1
        self.failing = (key, count)
        if count >= self.agent.policy.max_repeats:
            raise RepeatedCallError(f"the same failing call {count} times in a row: {preview(key)[:120]}")

    def check_steps(self) -> None:
        if len(self.said) >= self.agent.max_steps:
            raise StepLimitError(f"{self.agent.max_steps} replies (max_steps) and no answer")

    def hear(self, reply: Reply) -> None:
        calls = tuple((call.id, call.name, preview(call.arguments) if len(call.arguments) > 64_000 else call.arguments) for call in reply.tool_calls)  # fmt: skip
        self.said.append(Said(reply.text, calls, sum(reply.logprobs) if reply.logprobs else None))
        self.prompt += reply.usage.prompt
        self.completion += reply.usage.completion
