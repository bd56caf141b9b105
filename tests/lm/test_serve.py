"""The server as clients meet it: the official one, and hostile ones; after each it still serves."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest
import torch
import uvicorn

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.serve import ServerLimits, create_app, serve
from tenfold.lm.serve_answers import EventStream, Job
from tenfold.lm.serve_format import ChatBody
from tenfold.text.chat import EndpointChatModel, Message, Sampling, complete_all
from tenfold.text.tokenizer import train_tokenizer

KEY = "sk-secret"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "What is 1 + 1?"}
LIMITS = ServerLimits(body_bytes=50_000, body_seconds=4.0, write_seconds=3.0)


@pytest.fixture(scope="module")
def chat() -> LocalChatModel:
    tokenizer = train_tokenizer(["what is the sum of one and two? yes or no, I do not know"] * 20, 320)
    cfg = DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=4096)
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    return LocalChatModel(model, tokenizer, "tiny", max_batch_tokens=1 << 16, compiled="off")


@pytest.fixture(scope="module")
def url(chat: LocalChatModel) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app({"tiny": chat, "tiny:other": chat}, api_key=KEY, limits=LIMITS)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _serves_afterwards(url: str, chat: LocalChatModel) -> Iterator[None]:
    """Whatever a test did: soon nothing runs any more, and the next request is answered."""
    yield
    for _ in range(1000):
        if chat.engine.load() == (0, 0):
            break
        time.sleep(0.01)
    assert chat.engine.load() == (0, 0)
    answer = post(url, {"messages": [USER], "max_tokens": 2})
    assert answer.status_code == 200


def post(
    url: str, body: object, path: str = "/v1/chat/completions", key: str = KEY, **options: object
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return httpx2.post(url + path, content=content, headers=headers, timeout=30, **options)  # type: ignore[arg-type]


def test_chat_streamed_and_whole_say_the_same(client: openai.OpenAI) -> None:
    options: dict = {"model": "tiny", "messages": [USER], "max_tokens": 40, "seed": 5, "temperature": 0.8}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_json_schemas_and_the_choices_of_our_own_client(url: str, client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form: dict = {"type": "json_schema", "json_schema": {"name": "digit", "schema": schema}}
    said = client.chat.completions.create(model="tiny", messages=[USER], response_format=form)  # type: ignore[list-item]
    assert 0 <= json.loads(said.choices[0].message.content or "")["n"] <= 9
    asking = EndpointChatModel("tiny", f"{url}/v1", KEY)
    question, sampling = [Message("user", "Which?")], Sampling(choices=("left", "right"), temperature=3.0)
    replies = complete_all(asking, [question], sampling, n=8)[0]
    assert {reply.text for reply in replies} <= {"left", "right"}


def test_several_answers_with_probabilities(client: openai.OpenAI) -> None:
    options: dict = {"model": "tiny", "messages": [USER], "max_tokens": 6, "n": 3, "seed": 1}
    answer = client.chat.completions.create(**options, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 2
            assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    streamed = list(client.chat.completions.create(**options, logprobs=True, stream=True))
    reported = [c.choices[0].logprobs for c in streamed if c.choices[0].logprobs]
    assert len(reported) == sum(len(choice.logprobs.content or ()) for choice in answer.choices if choice.logprobs)


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="what is", max_tokens=12, seed=2, logprobs=1)
    chunks = client.completions.create(model="tiny", prompt="what is", max_tokens=12, seed=2, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.choices[0].logprobs is not None
    assert len(whole.choices[0].logprobs.token_logprobs or ()) == (whole.usage.completion_tokens if whole.usage else 0)
    chunks = client.completions.create(model="tiny", prompt="what is", max_tokens=12, seed=2, stream=True, logprobs=1)
    reported = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    offsets = [offset for each in reported for offset in each.text_offset or ()]
    assert offsets == whole.choices[0].logprobs.text_offset
    assert len(set(offsets)) > 1
    ids = client.completions.create(model="tiny", prompt=[300, 301], max_tokens=3)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 2
    mark = whole.choices[0].text[3:5]
    cut = client.completions.create(model="tiny", prompt="what is", max_tokens=12, seed=2, stop=[mark])
    assert cut.choices[0].text == whole.choices[0].text.split(mark)[0]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:other"]
    assert client.models.retrieve("tiny:other").id == "tiny:other"
    with pytest.raises(openai.NotFoundError, match="does not exist; known: tiny, tiny:other"):
        client.models.retrieve("gpt")


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_call_is_read(client: openai.OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has no training, so its answer is made up for it."""
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    form = LocalChatModel._form

    def spelt(self: LocalChatModel, sampling: object) -> object:
        ids = [*self.tokenizer.encode(call), min(self._ends)]
        return (lambda new: [ids[len(new)]]) if sampling.tools else form(self, sampling)  # type: ignore[attr-defined, arg-type]

    monkeypatch.setattr(LocalChatModel, "_form", spelt)
    options: dict = {"model": "tiny", "messages": [USER], "tools": [TOOL], "max_tokens": 300}
    if stream:
        chunks = list(client.chat.completions.create(**options, stream=True))
        found = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
        assert not any(c.choices[0].delta.content for c in chunks)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        function = found[0][0].function
    else:
        answer = client.chat.completions.create(**options)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
        assert answer.choices[0].message.tool_calls is not None
        function = answer.choices[0].message.tool_calls[0].function  # type: ignore[union-attr]
    assert function is not None
    assert (function.name, json.loads(function.arguments or "")) == ("add", {"a": 1})


def test_sixty_four_streams_at_once(url: str) -> None:
    async def everyone() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60)

        async def one(index: int) -> str:
            stream = await client.chat.completions.create(
                model="tiny", messages=[USER], max_tokens=30, seed=index % 8, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*(one(index) for index in range(64)))

    said = asyncio.run(everyone())
    assert len(said) == 64
    # Float32: rounding differs with the batch, so not every one of the eight equal ones must agree.
    agree = sum(said[i] == said[i % 8] for i in range(64))
    assert agree >= 60
    assert len(set(said[:8])) > 1


def test_a_client_that_hangs_up_frees_its_place(url: str, chat: LocalChatModel) -> None:
    body = {"messages": [USER], "max_tokens": 3900, "min_tokens": 3900, "stream": True}
    with httpx2.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}
    ) as response:
        lines = response.iter_lines()
        for _ in range(5):
            next(lines)
        assert chat.engine.load()[0] == 1
    # The fixture waits until nothing runs; 3900 tokens would take longer.


def test_a_client_that_hangs_up_before_a_whole_answer(url: str) -> None:
    body = {"messages": [USER], "max_tokens": 3900, "min_tokens": 3900}
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=0.3)


def test_a_client_that_never_reads_frees_its_place(chat: LocalChatModel) -> None:
    """Its connection takes no byte: sending never ends."""

    async def deaf() -> None:
        body = ChatBody.read({"messages": [USER], "max_tokens": 3900, "min_tokens": 3900, "stream": True}, 1)
        job = Job(chat, "tiny", body, chat.prompt(body.messages))
        job.start()

        async def receive() -> dict:
            await asyncio.sleep(3600)
            return {}

        async def send(message: object) -> None:
            await asyncio.sleep(3600)

        response = EventStream(job, write_seconds=0.1)
        await asyncio.wait_for(response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send), 5)

    asyncio.run(deaf())
    # The fixture waits until nothing runs; 3900 tokens would take longer.


def test_a_body_that_trickles_in_is_given_up(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\n{{".encode()
        )
        slow.settimeout(10)
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]


def test_a_body_that_is_too_large(url: str) -> None:
    assert post(url, b" " * 50_001).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    answer = httpx2.post(
        f"{url}/v1/chat/completions", content=pieces(), headers={"Authorization": f"Bearer {KEY}"}, timeout=30
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", "é"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models"])
def test_a_wrong_key(url: str, key: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
    answer = httpx2.request("GET" if "models" in path else "POST", url + path, headers=headers, content=b"{}")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in answer.text


BAD_CHATS: list[tuple[object, int, str]] = [
    (b"{", 400, "not valid JSON"),
    (b"\xff\xfe", 400, "not valid JSON"),
    (b"[" * 20_000, 400, "not valid JSON"),
    ([1], 400, "must be a JSON object"),
    ({}, 400, "messages: need a list"),
    ({"messages": []}, 400, "messages: need a list with at least one"),
    ({"messages": "hello"}, 400, "messages: need a list"),
    ({"messages": [1]}, 400, r"messages[0]: got int"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role: got 'wizard'"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content: got NoneType"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "only parts of type text"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "no Unicode text"),
    ({"messages": [USER], "model": "nobody"}, 404, "'nobody' does not exist; known: tiny"),
    ({"messages": [USER], "model": "tiny:nobody"}, 404, "does not exist"),
    ({"messages": [USER], "model": 3}, 400, "model: got int"),
    ({"messages": [USER], "max_tokens": 0}, 400, "max_tokens: got 0"),
    ({"messages": [USER], "max_tokens": -1}, 400, "max_tokens: got -1"),
    ({"messages": [USER], "max_tokens": 1.5}, 400, "max_tokens: got float"),
    ({"messages": [USER], "temperature": -1}, 400, "temperature: got -1"),
    ({"messages": [USER], "temperature": True}, 400, "temperature: got bool"),
    ({"messages": [USER], "top_p": 2}, 400, "top_p: got 2"),
    ({"messages": [USER], "n": 0}, 400, "n: got 0"),
    ({"messages": [USER], "n": 99}, 400, "n: got 99, need int in 1..16"),
    ({"messages": [USER], "stop": [""]}, 400, "stop: need"),
    ({"messages": [USER], "stop": ["a"] * 17}, 400, "stop: need"),
    ({"messages": [USER], "seed": 2**70}, 400, "seed: got"),
    ({"messages": [USER], "stream": "yes"}, 400, "stream: got str"),
    ({"messages": [USER], "tools": [{}]}, 400, "tools[0]: need"),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": "add"}, 400, "tool_choice: need"),
    ({"messages": [USER], "logprobs": True, "top_logprobs": 50}, 400, "top_logprobs: got 50"),
    ({"messages": [USER], "response_format": "json"}, 400, "response_format: got str"),
    ({"messages": [USER], "response_format": {"type": "xml"}}, 400, "response_format: got type 'xml'"),
    ({"messages": [USER], "response_format": {"type": "json_schema"}}, 400, "response_format: json_schema needs"),
    (
        {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}},
        400,
        "no answer",
    ),
    ({"messages": [USER], "tools": [{"function": {"name": "f", "description": "\ud83d"}}]}, 400, "is no Unicode text"),
    ({"messages": [USER], "tool_choice": "required"}, 400, "tool_choice: got it without tools"),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": "\ud83d"}, 400, "tool_choice: need"),
    ({"messages": [USER], "top_logprobs": 2}, 400, "top_logprobs: need logprobs"),
    ({"messages": [USER], "stop": {}}, 400, "stop: need"),
    ({"messages": [USER], "presence_penalty": 3}, 400, "presence_penalty: got 3"),
    ({"messages": [USER], "logit_bias": {"a": 1}}, 400, "logit_bias: need an object of token ids"),
    ({"messages": [USER], "logit_bias": {"1": 101}}, 400, "logit_bias: need at most 1024"),
    ({"messages": [USER], "logit_bias": {"999999": 1}}, 400, "logit_bias: tiny has tokens 0.."),
    ({"messages": [{"role": "user", "content": "no " * 4100}]}, 400, "the model reads at most 4096"),
]


@pytest.mark.parametrize(("body", "status", "message"), BAD_CHATS, ids=[str(i) for i in range(len(BAD_CHATS))])
def test_bad_requests_get_one_clear_error(url: str, body: object, status: int, message: str) -> None:
    for stream in (False, True):
        sent = {**body, "stream": stream} if isinstance(body, dict) and "stream" not in body else body
        answer = post(url, sent)
        error = answer.json()["error"]
        assert answer.status_code == status, answer.text
        assert message in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        field, colon, _ = message.partition(":")
        assert error["param"] == field or not (colon and status == 400)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": 3}, "prompt: got int"),
        ({"prompt": ["a", "b"]}, "prompt: need one text"),
        ({"prompt": [10**9]}, "ids: got token 1000000000"),
        ({"prompt": "x", "echo": True}, "echo, suffix"),
        ({"prompt": "x", "logprobs": 99}, "logprobs: got 99"),
    ],
)
def test_bad_completions(url: str, body: dict, message: str) -> None:
    answer = post(url, body, "/v1/completions")
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_unknown_paths_and_methods_answer_in_the_same_form(url: str) -> None:
    assert "error" in httpx2.get(f"{url}/v2/nothing").json()
    answer = httpx2.get(f"{url}/v1/chat/completions")
    assert answer.status_code == 405
    assert "error" in answer.json()
    assert httpx2.get(f"{url}/health").json()["status"] == "ok"


def test_too_many_requests_are_turned_away(monkeypatch: pytest.MonkeyPatch, url: str, chat: LocalChatModel) -> None:
    monkeypatch.setattr(chat.engine, "_max_waiting", 0)
    answer = post(url, {"messages": [USER], "max_tokens": 2})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"


def test_a_port_in_use_and_an_open_address_are_refused(chat: LocalChatModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} at 127.0.0.1: .* choose another with --port"):
            serve(chat, port=port)
    with pytest.raises(UserError, match=r"0\.0\.0\.0 is open to other machines; set an API key"):
        serve(chat, host="0.0.0.0", port=0)
