"""A trace played again: the same model's words and tools' results, through today's checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tenfold.text.messages import SAMPLING, Message, Reply, Sampling, ToolCall, Usage
from tenfold.tools.agent import DecisionAgent, Policy
from tenfold.tools.retrieval import Found
from tenfold.tools.tool import Tool, ToolRegistry
from tenfold.tools.trace import Candidates, Event, ToolResult, Trace


def replay(
    trace: Trace, registry: ToolRegistry, *, policy: Policy | None = None, max_steps: int | None = None
) -> Trace:
    """Run the episode again without a model and without a tool.

    Args:
        trace: of an earlier episode.
        registry: the tools as they are now; calls are checked against their schemas.
        policy: of the agent; None: one under which every recorded call is approved.
        max_steps: of the agent; None: as many as the trace has.
    Returns:
        the new trace; `same_events` tells whether anything differs.
    """
    policy = policy or Policy(approve=lambda call, tool: True)
    agent = DecisionAgent(_Recorded(trace), registry, _Found(trace, registry), k=max(1, len(registry)), max_steps=max_steps or max(1, trace.steps), policy=policy, executor=_Results(trace))  # fmt: skip
    return agent.run(trace.query)


def same_events(one: Trace, other: Trace) -> bool:
    """Whether two episodes went alike, but for the time that calls took."""
    return [_timeless(event) for event in one.events] == [_timeless(event) for event in other.events]


def _timeless(event: Event) -> Event:
    return replace(event, seconds=0.0) if isinstance(event, ToolResult) else event


class _Recorded:
    def __init__(self, trace: Trace) -> None:
        self.name = trace.model
        self._said = iter(trace.said)

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        said = next(self._said)
        calls = tuple(ToolCall(*call) for call in said.tool_calls)
        return [Reply(said.text, "tool_calls" if calls else "stop", Usage(0, 0), calls, logprobs=None if said.logprob is None else (said.logprob,))]  # fmt: skip


class _Found:
    def __init__(self, trace: Trace, registry: ToolRegistry) -> None:
        self._found = iter(trace.of(Candidates))
        self._registry = registry

    def search(self, query: str, k: int) -> Found:
        found = next(self._found)
        return [(self._registry.get(name), score) for name, score in zip(found.names, found.scores, strict=True)]


class _Results:
    def __init__(self, trace: Trace) -> None:
        self._results = {result.id: result for result in trace.of(ToolResult)}

    async def run(self, tool: Tool, arguments: Mapping[str, Any], id: str = "") -> ToolResult:
        return self._results.get(id) or ToolResult(id, tool.name, "not in the trace", True, "exception")
