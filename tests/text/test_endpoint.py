"""The endpoint client against a server that fails in every way we know."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.text.chat import (
    Budget,
    ChoiceError,
    ContextLengthError,
    EndpointChatModel,
    EndpointError,
    Message,
    RefusedError,
    Retry,
    Sampling,
    ToolCall,
    Usage,
    complete_all,
)

sys.path.append(str(Path(__file__).parent))
from fault_server import (
    FAULTS,
    STREAM_FAULTS,
    FaultServer,
    changed,
    completion,
    error,
    respond,
    said,
    without,
)

KEY = "sk-secret-0123456789abcdef"
SHORT = 0.7  # seconds, long enough for a loaded machine to send a request
HELLO = [Message("user", "hello")]


class Patience:
    """Waits that only note how long they would have been."""

    def __init__(self, tries: int = 6, now: float = 1000.0) -> None:
        self.waits: list[float] = []
        self.retry = Retry(tries, sleep=self._sleep, uniform=lambda: 1.0, clock=lambda: now)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def model(server: FaultServer, patience: Patience | None = None, **options: Any) -> EndpointChatModel:
    retry = (patience or Patience()).retry
    return EndpointChatModel("m", server.url, KEY, retry=retry, **{"timeout": 20, **options})


def texts(replies: Sequence[Sequence[Any]]) -> list[list[str]]:
    return [[reply.text for reply in row] for row in replies]


def test_a_request_and_its_reply() -> None:
    with FaultServer() as server:
        asked = model(server)
        sampling = Sampling(temperature=0, max_tokens=9, stop=("\n",), seed=4, top_k=5, min_tokens=2, logprobs=True)
        [[reply]] = complete_all(asked, [[Message("system", "be brief"), *HELLO]], sampling)
        (request,) = server.requests
    assert reply.text == said(request)
    assert (reply.finish_reason, reply.usage, reply.cached) == ("stop", Usage(7, 3), False)
    assert reply.seconds > 0
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert request == {
        "model": "m", "messages": messages, "temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "stop": ["\n"],
        "seed": 4, "top_k": 5, "min_tokens": 2, "logprobs": True,
    }  # fmt: skip
    assert f"authorization: bearer {KEY}".encode() in server.headers[0].lower()
    assert asked.budget.spent.calls == asked.budget.spent.billed_calls == 1
    assert asked.budget.spent.tokens == 10


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_asked_again_and_never_counts(fault: str) -> None:
    patience = Patience()
    with FaultServer([fault, fault]) as server:
        asked = model(server, patience, timeout=SHORT if fault == "timeout" else 20)
        [[reply]] = complete_all(asked, [HELLO])
        assert reply.text == said(server.requests[-1])
        assert len(server.requests) == 3
    waits = {"429 seconds": [7.0, 7.0], "429 date": [9.0, 9.0]}.get(fault, [0.5, 1.0])  # the date is 1009 s
    assert patience.waits == pytest.approx(waits)
    spent = asked.budget.spent
    assert spent.calls == 1
    assert spent.billed_calls == (1 if fault.startswith("429") else 3)


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_broken_stream_is_asked_again(fault: str) -> None:
    with FaultServer([fault]) as server:
        [[reply]] = complete_all(model(server, stream=True), [HELLO])
        assert reply.text == said(server.requests[0])
        assert reply.usage == Usage(7, 3)
        assert len(server.requests) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault_ends_after_all_tries(fault: str) -> None:
    patience = Patience(tries=3)
    with FaultServer([fault] * 3) as server, pytest.raises(EndpointError, match=r"no answer after 3 tries") as caught:
        complete_all(model(server, patience, timeout=SHORT if fault == "timeout" else 20), [HELLO])
    assert caught.value.tries == len(server.requests) == 3
    status = fault.split()[0]
    if status.isdigit():
        assert caught.value.status == int(status)
        assert status in str(caught.value)
    assert len(patience.waits) == 2
    assert_clean(caught.value)


@pytest.mark.parametrize("fault", ["no choices", "invalid JSON", "JSON list", "HTML with 200", "BOM"])
def test_a_body_of_another_form_asks_whether_the_address_is_right(fault: str) -> None:
    with FaultServer([fault] * 2) as server, pytest.raises(EndpointError) as caught:
        complete_all(model(server, Patience(tries=2)), [HELLO])
    assert "see whether the address is that of an OpenAI-compatible API" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind", "said_"),
    [
        (error(400, "temperature is too high"), RefusedError, "400: temperature is too high"),
        (error(401, f"Incorrect API key provided: {KEY}."), RefusedError, r"401: Incorrect API key provided: \*\*\*"),
        (error(403, "no access"), RefusedError, "403: no access; check what the key may use"),
        (error(404, "no such model"), RefusedError, "404: no such model; check the model's name"),
        (respond(422, {"detail": [{"loc": ["body"], "msg": "bad"}]}), RefusedError, r"422: .*'msg': 'bad'"),
        (error(429, "no credit", "insufficient_quota"), RefusedError, "429: no credit"),
        (error(400, "long", "context_length_exceeded"), ContextLengthError, "too long: long; shorten it"),
        (error(400, "This model's maximum context length is 8 tokens."), ContextLengthError, "too long: This model's"),
        (error(413, "prompt is too long"), ContextLengthError, "too long"),
        (respond(400, b""), RefusedError, r"400: \(no message\)"),
        (error(400, "a\x1b[31m\nb\u202ec" + "x" * 9999), RefusedError, r"400: a\\x1b\[31m\\nb\\u202ecx"),
        (respond(404, b"<html>" + KEY.encode() * 99), RefusedError, r"404: <html>\*\*\*"),
        (respond(302, b"", {"Location": "ftp://elsewhere/"}), EndpointError, "endpoint: m at http://127"),
    ],
)
def test_a_refusal_is_told_once_in_one_line(answer: bytes, kind: type[EndpointError], said_: str) -> None:
    with FaultServer([answer] * 9) as server, pytest.raises(kind, match=said_) as caught:
        complete_all(model(server, Patience(tries=1)), [HELLO])
    assert len(server.requests) == 1
    assert type(caught.value) is kind
    assert isinstance(caught.value, UserError)
    assert_clean(caught.value)


def assert_clean(failure: BaseException) -> None:
    """One short line, and no key however deep one looks."""
    assert len(str(failure)) < 500
    assert str(failure).isprintable()
    whole = "".join(traceback.format_exception(failure))
    assert KEY not in str(failure) + repr(failure) + whole


def test_the_key_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with FaultServer(["500"]) as server:
        asked = model(server)
        complete_all(asked, [HELLO])
    assert KEY not in repr(asked) + str(asked) + asked.identity + caplog.text


def test_a_server_that_repeats_the_key_everywhere() -> None:
    repeated = [respond(200, {"error": {"message": KEY}}), respond(200, KEY.encode()), error(500, KEY)]
    with FaultServer(answer=lambda r: changed(r, message={"content": f"your key is {KEY}"})) as server:
        [[reply]] = complete_all(model(server), [HELLO])
        assert reply.text == "your key is ***"
    for answer in repeated:
        with FaultServer([answer] * 2) as server, pytest.raises(EndpointError, match=r"\*\*\*") as caught:
            complete_all(model(server, Patience(tries=2)), [HELLO])
        assert_clean(caught.value)


@pytest.mark.parametrize("kind", ["plain", "stream", "error"])
def test_a_huge_body_is_not_read(kind: str) -> None:
    huge = b"x" * (4 << 20)
    answer = respond(
        500 if kind == "error" else 200, huge, {"Content-Type": "text/event-stream"} if kind == "stream" else {}
    )
    with FaultServer([answer]) as server, pytest.raises(EndpointError, match="longer than max_bytes=100000"):
        complete_all(model(server, max_bytes=100_000), [HELLO])
    assert len(server.requests) == 1


def test_a_cut_reply_is_kept_and_flagged() -> None:
    with FaultServer(answer=lambda r: changed(r, finish_reason="length")) as server:
        [[reply]] = complete_all(model(server), [HELLO])
    assert (reply.text[:5], reply.finish_reason) == ("word-", "length")


def test_missing_usage_is_estimated() -> None:
    with FaultServer(answer=lambda r: without(r, "usage")) as server:
        asked = model(server)
        [[reply]] = complete_all(asked, [[Message("user", "eight by")]])
    assert reply.usage == Usage(2, 4, estimated=True)  # 8 and 13 bytes
    assert asked.budget.spent.estimated == 1


def test_n_replies_in_one_request() -> None:
    with FaultServer() as server:
        [replies] = complete_all(model(server), [HELLO], Sampling(seed=3), n=4)
    assert [reply.text for reply in replies] == [said(server.requests[0], i) for i in range(4)]
    assert server.requests[0]["n"] == 4
    assert [reply.usage.prompt for reply in replies] == [7, 0, 0, 0]
    assert sum(reply.usage.completion for reply in replies) == 12


def test_a_server_that_knows_no_n_is_asked_for_the_rest() -> None:
    def single(request: dict[str, Any]) -> bytes:
        return respond(200, completion({**request, "n": 1}))

    with FaultServer() as whole, FaultServer(answer=single) as server:
        expected = complete_all(model(whole), [HELLO], Sampling(seed=3), n=4)
        asked = model(server)
        assert texts(complete_all(asked, [HELLO], Sampling(seed=3), n=4)) == texts(expected)
        assert sorted(request.get("seed") for request in server.requests) == [3, 4, 5, 6]
        assert asked.budget.spent.calls == 4
        assert len(complete_all(asked, [HELLO], n=3)[0]) == 3
        assert all("seed" not in request for request in server.requests[4:])


def test_completions_api() -> None:
    with FaultServer() as server:
        asked = model(server, api="completions")
        [[reply]] = complete_all(asked, [[Message("system", "Q: "), Message("user", "hello\nA:")]])
        assert server.requests[0]["prompt"] == "Q: hello\nA:"
        assert b"POST /v1/completions " in server.headers[0]
        assert reply.text == said(server.requests[0])
        with pytest.raises(ValueError, match="need api='chat'"):
            complete_all(asked, [[Message("user", "x", images=("data:image/png;base64,",))]])


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_tools_there_and_back() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    with FaultServer(answer=lambda r: changed(r, message=message, finish_reason="tool_calls")) as server:
        sampling = Sampling(tools=(TOOL,), tool_choice="required")
        [[reply]] = complete_all(model(server), [HELLO], sampling)
        assert reply.tool_calls == (ToolCall("c1", "add", '{"a": 1}'),)
        assert (reply.text, reply.finish_reason) == ("", "tool_calls")
        turns = [*HELLO, Message("assistant", "", tool_calls=reply.tool_calls), Message("tool", "3", tool_call_id="c1")]
        complete_all(model(server), [turns], sampling)
    assert server.requests[0]["tools"] == [TOOL]
    assert server.requests[0]["tool_choice"] == "required"
    assert server.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("text", ["yes", " yes\n", '{"answer": "yes"}', '{"answer": " yes"}'])
def test_choices_restrict_and_check(text: str) -> None:
    with FaultServer(answer=lambda r: changed(r, message={"content": text})) as server:
        [[reply]] = complete_all(model(server), [HELLO], Sampling(choices=("yes", "no")))
        assert reply.text == "yes"
        schema = server.requests[0]["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["answer"]["enum"] == ["yes", "no"]


@pytest.mark.parametrize("text", ["", "Yes", "yes, I think", '{"answer": 5}', '["yes"]', "{" * 50_000, "\x1b[31m"])
def test_a_reply_outside_the_choices_is_an_error(text: str) -> None:
    with FaultServer(answer=lambda r: changed(r, message={"content": text})) as server:
        with pytest.raises(ChoiceError, match="is none of the 2 choices") as caught:
            complete_all(model(server), [HELLO], Sampling(choices=("yes", "no")))
        assert len(server.requests) == 1
    assert caught.value.text == text
    assert_clean(caught.value)


def test_pictures_are_sent() -> None:
    picture = b"\x89PNG\r\n\x1a\n"
    with FaultServer() as server:
        complete_all(model(server), [[Message("user", "what?", images=(picture, "https://example.org/a.png"))]])
        content = server.requests[0]["messages"][0]["content"]
        assert content[0] == {"type": "text", "text": "what?"}
        assert [part["image_url"]["url"] for part in content[1:]] == [
            "data:image/png;base64,iVBORw0KGgo=",
            "https://example.org/a.png",
        ]
        with pytest.raises(ValueError, match=r"images: got bytes that start with b'BM12', need PNG"):
            complete_all(model(server), [[Message("user", "what?", images=(b"BM123",))]])


def test_extra_fields_are_added_or_taken_away() -> None:
    with FaultServer() as server:
        extra = {"max_tokens": None, "max_completion_tokens": 50}
        complete_all(model(server, extra=extra), [HELLO])
        assert "max_tokens" not in server.requests[0]
        assert server.requests[0]["max_completion_tokens"] == 50


# Not the server's doing: what a score of the replies could depend on.
WORDS = [[Message("user", f"word {i}")] for i in range(48)]


@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_replies_do_not_depend_on_concurrency_faults_or_order(concurrency: int) -> None:
    faults = [name for name in FAULTS if name not in ("timeout", "reset")]
    with FaultServer() as calm:
        expected = texts(complete_all(model(calm, concurrency=1), WORDS))
    with FaultServer(fault_of=lambda i: faults[i % len(faults)] if i % 7 == 3 else None, delay=0.002) as server:
        assert texts(complete_all(model(server, concurrency=concurrency), WORDS)) == expected
        assert server.most_under_way <= concurrency
        assert concurrency == 1 or server.most_under_way > 1


def test_one_model_serves_several_event_loops_within_its_bound() -> None:
    with FaultServer(delay=0.01) as server:
        asked = model(server, concurrency=3)
        results: dict[int, list[list[str]]] = {}

        def work(number: int) -> None:
            async def ask() -> list[Any]:
                return await asyncio.gather(*(asked.complete(words) for words in WORDS[:8]))

            results[number] = texts(asyncio.run(ask()))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_under_way == 3
        assert all(results[i] == results[0] for i in range(4))
        assert len(server.requests) == 32


def test_connections_are_kept_between_calls() -> None:
    with FaultServer() as server:
        asked = model(server)
        for words in WORDS[:5]:
            complete_all(asked, [words])
        assert server.connections == 1


def test_the_first_failure_stops_the_rest() -> None:
    def answer(request: dict[str, Any]) -> bytes | str:
        return error(400, "bad word") if "word 5" in json.dumps(request) else "hang"

    with FaultServer(answer=answer) as server:  # type: ignore[arg-type]
        asked = model(server, concurrency=8, timeout=30)
        with pytest.raises(RefusedError, match="bad word"):
            complete_all(asked, WORDS)
        assert asked.budget.spent.cancelled in (7, 8)  # the refused one's place may go to another before all end
        assert asked.budget.spent.billed_calls == 0
        assert len(server.requests) <= 9
        assert server.under_way <= 8


def test_a_budget_is_charged_for_every_try() -> None:
    with FaultServer(["500", "timeout", "429"]) as server:
        budget = Budget(max_calls=3)
        asked = budget.wrap(model(server, timeout=SHORT))
        complete_all(asked, [HELLO])
        assert (budget.spent.calls, budget.spent.billed_calls) == (
            1,
            3,
        )  # 429 was turned away, two may have been billed
        with pytest.raises(UserError, match="max_calls=3"):
            complete_all(asked, [HELLO])
        assert len(server.requests) == 4


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        complete_all(EndpointChatModel("m"), [HELLO])
        assert f"authorization: bearer {KEY}".encode() in server.headers[0].lower()
        monkeypatch.delenv("OPENAI_API_KEY")
        complete_all(EndpointChatModel("m"), [HELLO])  # a server of one's own needs no key
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(UserError, match="api_key: got none; set OPENAI_API_KEY"):
        EndpointChatModel("m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url: need http://"),
        ({"base_url": "ftp://host/v1"}, "base_url: need http://"),
        ({"base_url": "http://"}, "base_url: need http://"),
        ({"base_url": "http://host:99999/"}, "base_url: need http://"),
        ({"base_url": f"http://user:{KEY}@host/"}, "without user, password"),
        ({"base_url": f"http://host/?key={KEY}"}, "without user, password or query"),
        ({"api_key": KEY + "\n"}, "api_key: holds a line end"),
        ({"api_key": KEY + "é"}, "api_key: holds a line end or another"),
        ({"timeout": 0}, "timeout: got 0"),
        ({"concurrency": 0}, "places: got 0"),
        ({"api": "responses"}, "api: got 'responses'"),
    ],
)
def test_wrong_settings_are_told_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        EndpointChatModel("m", **{"base_url": "http://host/v1", "api_key": KEY, **options})
    assert KEY not in str(caught.value)


def test_wrong_requests_are_told_before_anything_is_sent() -> None:
    with FaultServer() as server:
        for messages, n, said_ in (([], 1, "messages: got none"), (HELLO, 0, "n: got 0")):
            with pytest.raises(ValueError, match=said_):
                complete_all(model(server), [messages], n=n)
        assert not server.requests


def test_nobody_listens() -> None:
    with FaultServer() as server:
        pass
    with pytest.raises(
        EndpointError, match=r"after 2 tries: connection failed: ConnectionRefusedError.*see whether the server runs"
    ):
        complete_all(model(server, Patience(tries=2)), [HELLO])


def test_a_client_closes_with_its_loop() -> None:
    with FaultServer() as server:
        asked = model(server)
        for _ in range(3):
            asyncio.run(asked.complete(HELLO))
        assert len(asked._connection._clients) <= 1
        assert server.connections == 3
        deadline = time.monotonic() + 5
        while server.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.open_connections == 0
