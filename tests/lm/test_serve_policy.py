"""The server's policy: what it refuses comes with its text and OpenAI's finish reason, streamed or whole; off, nothing changes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import openai
import pytest
import torch
import uvicorn

from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.serve import create_app
from tenfold.lm.serve_policy import Exchange, Policy
from tenfold.text.chat import EndpointChatModel, Message, Sampling, complete_all
from tenfold.text.tokenizer import train_tokenizer

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 12, "seed": 3}


@pytest.fixture(scope="module")
def chat() -> Iterator[LocalChatModel]:
    tokenizer = train_tokenizer(["say something of one and two, do not say no"] * 20, 320)
    cfg = DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=512)
    with LocalChatModel(Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer, "tiny", compiled="off") as model:
        yield model


class Owner:
    """A policy that a test changes while the server runs."""

    def __init__(self) -> None:
        self.seen: list[Exchange] = []
        self.rule: Callable[[Exchange], object] = lambda exchange: None

    def __call__(self, exchange: Exchange) -> str | None:
        self.seen.append(exchange)
        return self.rule(exchange)  # type: ignore[return-value]


@contextmanager
def served(chat: LocalChatModel, policy: Policy | None) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app({"tiny": chat}, policy=policy)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def owner() -> Owner:
    return Owner()


@pytest.fixture(scope="module")
def url(chat: LocalChatModel, owner: Owner) -> Iterator[str]:
    with served(chat, owner) as url:
        yield url


@pytest.fixture
def client(url: str, owner: Owner) -> Iterator[openai.OpenAI]:
    owner.seen.clear()
    owner.rule = lambda exchange: None
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def said(client: openai.OpenAI, stream: bool, **more: object) -> tuple[str, str]:
    """(text, finish reason) of one answer."""
    options: dict = {**ASKED, **more}
    if not stream:
        choice = client.chat.completions.create(**options).choices[0]
        return choice.message.content or "", choice.finish_reason
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**options, stream=True)]
    return "".join(each.delta.content or "" for each in chunks), str(chunks[-1].finish_reason)


@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_that_passes_all_changes_nothing(
    chat: LocalChatModel, client: openai.OpenAI, owner: Owner, stream: bool
) -> None:
    with served(chat, None) as bare, openai.OpenAI(base_url=bare, api_key="none", max_retries=0) as other:
        assert said(client, stream) == said(other, stream)
    before, after = owner.seen
    assert before == Exchange("tiny", (Message("user", "Say something."),))
    assert after.answer and after.messages == before.messages


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_request_never_reaches_the_model(
    chat: LocalChatModel, client: openai.OpenAI, owner: Owner, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.rule = lambda exchange: "I refuse." if exchange.answer is None else None
    monkeypatch.setattr(chat, "submit", lambda *_, **__: pytest.fail("the model was asked"))
    assert said(client, stream) == ("I refuse.", "content_filter")
    assert len(owner.seen) == 1  # its own text is not judged again
    if not stream:
        usage = client.chat.completions.create(**{**ASKED, "n": 2}).usage  # type: ignore[call-overload]
        assert usage.completion_tokens == 0 and usage.prompt_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_of_a_refused_answer_nothing_is_handed_out(client: openai.OpenAI, owner: Owner, stream: bool) -> None:
    plain, _ = said(client, stream)
    assert len(plain) > 3
    owner.rule = lambda exchange: None if exchange.answer is None else "Withheld."
    assert said(client, stream, logprobs=True) == ("Withheld.", "content_filter")
    assert owner.seen[-1].answer == plain


def test_each_of_several_answers_is_judged_alone(client: openai.OpenAI, owner: Owner) -> None:
    options: dict = {**ASKED, "n": 4, "temperature": 2.0}
    plain = [choice.message.content for choice in client.chat.completions.create(**options).choices]
    owner.rule = lambda exchange: "No." if exchange.answer == plain[2] else None
    choices = client.chat.completions.create(**options).choices
    assert [choice.message.content for choice in choices] == [*plain[:2], "No.", plain[3]]
    assert [choice.finish_reason == "content_filter" for choice in choices] == [False, False, True, False]


def test_completions_are_judged_too(client: openai.OpenAI, owner: Owner) -> None:
    owner.rule = lambda exchange: "No." if "two" in exchange.messages[0].content else None
    choice = client.completions.create(model="tiny", prompt="one and two", max_tokens=4).choices[0]
    assert (choice.text, choice.finish_reason) == ("No.", "content_filter")
    ids = [1, 2]
    client.completions.create(model="tiny", prompt=ids, max_tokens=4)
    assert owner.seen[-2].messages[0].content is not None and owner.seen[-1].answer is not None


@pytest.mark.parametrize("part", ["request", "answer"])
def test_a_policy_that_fails_lets_nothing_pass(url: str, client: openai.OpenAI, owner: Owner, part: str) -> None:
    def broken(exchange: Exchange) -> object:
        if (exchange.answer is None) == (part == "request"):
            raise ValueError("a secret of the owner")
        return None

    owner.rule = broken
    with pytest.raises(openai.InternalServerError, match="the policy failed: ValueError") as caught:
        said(client, stream=False)
    assert "secret" not in str(caught.value)
    owner.rule = lambda exchange: 7 if (exchange.answer is None) == (part == "request") else None
    with pytest.raises(openai.InternalServerError, match="the policy gave no text"):
        said(client, stream=False)
    if part == "answer":
        response = httpx2.post(f"{url}/chat/completions", json={**ASKED, "stream": True}, timeout=30)
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        assert "error" in events[-1]
        assert not any(c["delta"].get("content") for event in events[:-1] for c in event["choices"])


def test_a_slow_policy_stops_nobody_else(client: openai.OpenAI, owner: Owner) -> None:
    entered, free = threading.Event(), threading.Event()

    def slow(exchange: Exchange) -> None:
        if exchange.messages[0].content == "slow" and exchange.answer is None:
            entered.set()
            assert free.wait(20)

    owner.rule = slow
    waiting = threading.Thread(
        target=said, args=(client, False), kwargs={"messages": [{"role": "user", "content": "slow"}]}
    )
    waiting.start()
    assert entered.wait(20)
    begun = time.perf_counter()
    said(client, stream=False)
    assert time.perf_counter() - begun < 15 and waiting.is_alive()
    free.set()
    waiting.join(20)


def test_our_own_client_reads_the_finish_reason(url: str, client: openai.OpenAI, owner: Owner) -> None:
    owner.rule = lambda exchange: "I refuse."
    model = EndpointChatModel("tiny", url, "none")
    ((reply,),) = complete_all(model, [[Message("user", "Say it.")]], Sampling(max_tokens=4))
    assert (reply.text, reply.finish_reason) == ("I refuse.", "content_filter")
