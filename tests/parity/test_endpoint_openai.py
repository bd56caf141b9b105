"""Our reading and writing of the wire format beside the official client's own types."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenfold.text.endpoint_format import parse_replies, request_body
from tenfold.text.messages import Message, Sampling, ToolCall

pytest.importorskip("openai", reason="needs openai: pip install 'tenfold[tools]'")

HELLO = [Message("user", "hello")]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0, top_p=0.5, max_tokens=7, stop=("a", "b"), seed=3, logprobs=True),
        Sampling(response_format=SCHEMA),
        Sampling(choices=("yes", "no")),
        Sampling(tools=(TOOL,), tool_choice="auto"),
    ],
)
def test_requests_are_what_the_client_describes(sampling: Sampling) -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from pydantic import TypeAdapter

    turns = [
        Message("system", "be brief"),
        Message("user", "what?", images=(b"\x89PNG", "https://example.org/a.png")),
        Message("assistant", "", tool_calls=(ToolCall("c1", "add", "{}"),)),
        Message("tool", "3", tool_call_id="c1"),
    ]
    body = request_body("m", turns, sampling, 2, "chat")
    assert set(body) <= set(CompletionCreateParamsNonStreaming.__annotations__) | {"model", "n"}
    checked: Any = TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(body)
    assert checked["temperature"] == sampling.temperature


def body(choices: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


def test_replies_are_read_as_the_client_reads_them() -> None:
    from openai.types.chat import ChatCompletion

    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    logprobs = {"content": [{"token": "a", "bytes": [97], "logprob": -0.25, "top_logprobs": []}], "refusal": None}
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "aé\u2028"}, "finish_reason": "stop", "logprobs": logprobs},
        {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": calls}, "finish_reason": "tool_calls"},
    ]  # fmt: skip
    theirs = ChatCompletion.model_validate(body(choices))
    ours = parse_replies(json.dumps(body(choices)).encode(), "application/json", HELLO, 2)
    for their, our in zip(theirs.choices, ours, strict=True):
        assert (their.message.content or "", their.finish_reason) == (our.text, our.finish_reason)
        named = [(c.id, c.function.name, c.function.arguments) for c in their.message.tool_calls or ()]  # type: ignore[union-attr]
        assert named == [(c.id, c.name, c.arguments) for c in our.tool_calls]
    assert ours[0].logprobs == tuple(token.logprob for token in theirs.choices[0].logprobs.content)  # type: ignore[union-attr]
    assert theirs.usage is not None
    assert sum(reply.usage.prompt for reply in ours) == theirs.usage.prompt_tokens
    assert sum(reply.usage.completion for reply in ours) == theirs.usage.completion_tokens


def test_streams_add_up_as_the_client_adds_them() -> None:
    from openai.lib.streaming.chat import ChatCompletionStreamState
    from openai.types.chat import ChatCompletionChunk

    def chunk(index: int, finish: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    def fragment(index: int, arguments: str, **first: Any) -> dict[str, Any]:
        name = {"name": first.pop("name")} if "name" in first else {}
        return {"index": index, "function": {"arguments": arguments, **name}, **first}

    chunks = [
        chunk(0, role="assistant", content=""),
        chunk(0, content="one "),
        chunk(1, role="assistant", content=None, tool_calls=[fragment(0, "", id="c1", type="function", name="add")]),
        chunk(0, content="two"),
        chunk(1, tool_calls=[fragment(0, '{"a"')]),
        chunk(1, tool_calls=[fragment(0, ": 1}")]),
        chunk(1, tool_calls=[fragment(1, "{}", id="c2", type="function", name="sub")]),
        chunk(1, "tool_calls"),
        chunk(0, "length"),
    ]
    state = ChatCompletionStreamState()
    for each in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(each))
    theirs = state.current_completion_snapshot
    content = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
    ours = parse_replies(content.encode(), "text/event-stream", HELLO, 2)
    for their, our in zip(theirs.choices, ours, strict=True):
        assert (their.message.content or "", their.finish_reason) == (our.text, our.finish_reason)
        named = [(c.id, c.function.name, c.function.arguments) for c in their.message.tool_calls or ()]
        assert named == [(c.id, c.name, c.arguments) for c in our.tool_calls]
