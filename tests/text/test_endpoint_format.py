"""Bodies in every shape: whole replies come out right, anything else is a fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.text.endpoint_errors import SHOWN, Fault, from_status, shown
from tenfold.text.endpoint_format import chosen, parse_replies, request_body
from tenfold.text.messages import Message, Reply, Sampling, ToolCall, Usage

HELLO = [Message("user", "hello")]
JSON, EVENTS = "application/json; charset=utf-8", "text/event-stream"


def parse(body: Any, n: int = 1, kind: str = JSON) -> list[Reply]:
    return parse_replies(json.dumps(body).encode(), kind, HELLO, n)


def parse_events(*events: Any, n: int = 1) -> list[Reply]:
    content = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return parse_replies(content.encode(), EVENTS, HELLO, n)


def test_a_chat_reply_with_everything() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}, {"token": "b", "logprob": -2}]}
    choice = {"message": {"content": "ab"}, "finish_reason": "length", "logprobs": logprobs}
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    assert parse({"choices": [choice], "usage": usage}) == [Reply("ab", "length", Usage(5, 2), logprobs=(-0.5, -2.0))]


def test_a_completions_reply() -> None:
    choice = {"text": "ab", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5, -1]}}
    assert parse({"choices": [choice]}) == [Reply("ab", "stop", Usage(2, 1, estimated=True), logprobs=(-0.5, -1.0))]


def test_what_is_not_told_is_none() -> None:
    for told in (None, {}, {"content": None}, {"content": [{"logprob": None}]}, {"token_logprobs": [None, -1]}, [1]):
        choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": told}
        assert parse({"choices": [choice]})[0].logprobs is None


def test_an_empty_reply_and_a_refusal_are_replies() -> None:
    assert parse({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]})[0].text == ""
    refused = {"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}
    assert parse({"choices": [refused]})[0].text == "I cannot"


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    call = {"function": {"name": "f", "arguments": "\ud800"}}
    choice = {"message": {"content": "a\ud800b\U0001f600", "tool_calls": [call]}, "finish_reason": "stop"}
    (reply,) = parse({"choices": [choice]})
    assert reply.text == "a?b\U0001f600"
    assert reply.tool_calls == (ToolCall("call_0", "f", "?"),)


@pytest.mark.parametrize(
    "told",
    [
        None,
        5,
        {},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": "5", "completion_tokens": 1},
        {"prompt_tokens": 1 << 50, "completion_tokens": 1},
    ],
)
def test_broken_counts_are_estimated(told: Any) -> None:
    choice = {"message": {"content": "ab"}, "finish_reason": "stop"}
    assert parse({"choices": [choice], "usage": told})[0].usage == Usage(2, 1, estimated=True)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 100), st.integers(0, 100))
def test_shares_add_up_to_what_was_counted(n: int, prompt: int, completion: int) -> None:
    choices = [{"message": {"content": "a"}, "finish_reason": "stop"}] * n
    usages = [
        r.usage
        for r in parse({"choices": choices, "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}, n)
    ]
    assert sum(usage.prompt for usage in usages) == prompt
    assert sum(usage.completion for usage in usages) == completion
    assert max(u.completion for u in usages) - min(u.completion for u in usages) <= 1
    assert all(usage.estimated == (n > 1) for usage in usages)


def test_more_choices_than_wanted_are_dropped() -> None:
    choices = [{"message": {"content": str(i)}, "finish_reason": "stop"} for i in range(5)]
    assert [reply.text for reply in parse({"choices": choices}, n=2)] == ["0", "1"]


def delta(index: int | None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    chunk: dict[str, Any] = {"delta": fields, "finish_reason": finish}
    return {"choices": [chunk if index is None else {**chunk, "index": index}]}


def call(index: int | None, id_: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    row = {"id": id_, "function": {"name": name, "arguments": arguments}}
    return row if index is None else {**row, "index": index}


def test_streams_of_several_choices_interleave() -> None:
    events = [
        delta(1, content="c"),
        delta(0, role="assistant", content="a"),
        delta(1, content="d"),
        delta(0, content="b"),
    ]
    events += [
        delta(0, "stop"),
        delta(1, "length"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    ]
    replies = parse_events(*events, n=2)
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("ab", "stop"), ("cd", "length")]
    assert [reply.usage for reply in replies] == [Usage(3, 2, True), Usage(0, 2, True)]


def test_tool_calls_come_in_fragments() -> None:
    events = [
        delta(0, tool_calls=[call(1, "b", "second", "")]),
        delta(0, tool_calls=[call(0, None, "first", '{"x"')]),  # an index without id
        delta(0, tool_calls=[call(1, None, None, "{}"), call(0, None, None, ": 1}")]),
        delta(0, "tool_calls"),
        delta(0, "tool_calls"),  # a repeated end without content does no harm
    ]
    (reply,) = parse_events(*events)
    assert reply.tool_calls == (ToolCall("call_0", "first", '{"x": 1}'), ToolCall("b", "second", "{}"))
    assert reply.text == ""


def test_a_stream_of_completions_with_log_probabilities() -> None:
    first = {"choices": [{"index": 0, "text": "a", "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "text": "b", "logprobs": {"token_logprobs": [-2.0]}, "finish_reason": "stop"}]}
    (reply,) = parse_events(first, last)
    assert (reply.text, reply.logprobs) == ("ab", (-1.0, -2.0))


def test_line_ends_comments_and_separators_in_streams() -> None:
    content = b': waiting\r\n\r\ndata:{"choices":[{"delta":{"content":"a\xe2\x80\xa8b"},"finish_reason":"stop"}]}\r\n\r\nevent: x\r\ndata: [DONE]\r\n\r\n'
    assert parse_replies(content, "text/event-stream; charset=utf-8", HELLO, 1)[0].text == "a\u2028b"


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "has no choices"),
        ([delta(0, content="a")], "ended before its final marker"),
        ([delta(0, "stop", content="a"), delta(1, content="b")], "ended before its final marker"),
        ([delta(0, "stop", content="a"), delta(0, content="a")], "came twice"),
        ([delta(0, "stop"), delta(0, "stop", tool_calls=[call(0, "a", "f", "")])], "came twice"),
        ([delta(0, content="a"), {"error": {"message": "down\n"}}], r"with an error: down\\n"),
        ([delta([], content="a")], "another form"),  # type: ignore[arg-type]
        ([delta(0, "stop", content={})], "another form|content"),
        ([delta(0, "stop", tool_calls=[5])], "another form"),
        ([delta(0, "stop", tool_calls=[call(0, None, None, "{}")])], "no name"),
        ([5], "a JSON int, not an object"),
    ],
)
def test_broken_streams(events: list[Any], said: str) -> None:
    with pytest.raises(Fault, match=said):
        parse_events(*events)


VALUE = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["message", "content", "text", "function", "name", "arguments", "delta", "tool_calls", "index", "logprobs", "finish_reason", "token_logprobs", "logprob"]), v, max_size=4), max_leaves=12)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({"choices": VALUE | st.lists(st.dictionaries(st.sampled_from(["message", "delta", "finish_reason", "index", "text", "logprobs"]), VALUE, max_size=5), max_size=3)}, optional={"usage": VALUE, "error": VALUE}), st.booleans())  # fmt: skip
def test_any_json_is_a_reply_or_a_fault(body: Any, streamed: bool) -> None:
    replies: list[Reply] = []
    fault = ""
    try:
        replies = parse_events(body, n=2) if streamed else parse(body, n=2)
    except Fault as error:
        fault = str(error)
    assert bool(fault) != bool(replies)
    assert fault.isprintable() and len(fault) < 500
    for reply in replies:
        words = [reply.text, reply.finish_reason, *(w for c in reply.tool_calls for w in vars(c).values())]
        assert all(isinstance(word, str) for word in words)
        "".join(words).encode("utf-8")
        assert reply.logprobs is None or all(isinstance(value, float) for value in reply.logprobs)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_fault(content: bytes, streamed: bool) -> None:
    with pytest.raises(Fault):
        parse_replies(content, EVENTS if streamed else JSON, HELLO, 1)


@pytest.mark.parametrize(
    ("text", "choice"),
    [("a b", "a b"), (" a b ", "a b"), ('{"answer": "c"}', "c"), ('"c"', None), ("c.", None), ("", None), ('{"answer": null}', None), ("{}", None), (" d", " d"), ("d", " d"), ("7", "7"), ('{"answer": 7}', None)],
)  # fmt: skip
def test_choices(text: str, choice: str | None) -> None:
    assert chosen(text, ("a b", "c", " d", "7")) == choice


def test_only_what_differs_from_silence_is_sent() -> None:
    body = request_body("m", HELLO, Sampling(), 1, "chat")
    assert set(body) == {"model", "messages", "temperature", "top_p", "max_tokens"}
    assert request_body("m", HELLO, Sampling(logprobs=True), 1, "completions")["logprobs"] == 1


@pytest.mark.parametrize(
    "kind", [(b"\x89PNG12", "png"), (b"\xff\xd8\xff12", "jpeg"), (b"GIF89a", "gif"), (b"RIFF12", "webp")]
)
def test_kinds_of_pictures(kind: tuple[bytes, str]) -> None:
    body = request_body("m", [Message("user", "", images=(kind[0],))], Sampling(), 1, "chat")
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith(f"data:image/{kind[1]};base64,")


@settings(deadline=None)
@given(st.text(), st.text(min_size=8, max_size=12))
def test_foreign_text_is_printable_short_and_without_the_secret(text: str, secret: str) -> None:
    line = shown(f"{text}{secret}{text}", secret)
    assert line.isprintable()
    assert len(line) <= SHOWN


def test_an_empty_error_body_has_words() -> None:
    assert "(no message)" in str(from_status(400, None, None, "here", None))
    assert "(no message)" in str(from_status(503, "", None, "here", None))
    assert str(from_status(400, {"error": "plain"}, None, "here", None)) == "here: 400: plain"
