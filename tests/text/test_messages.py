"""The nouns check themselves, and a prompt never counts more tokens than its bound."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.text.messages import (
    IMAGE_TOKENS,
    ChatModel,
    Message,
    Reply,
    Sampling,
    ToolCall,
    Usage,
    estimated_usage,
    prompt_bound,
)
from tenfold.text.tokenizer import train_tokenizer


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"role": "robot"}, "role: got 'robot', need system, user, assistant, tool"),
        ({"content": None}, "content: got NoneType, need text"),
        ({"content": ["a"]}, "content: got list, need text"),
        ({"content": "ab\ud800"}, "content: character 2 is no Unicode text"),
        ({"images": ("a.png",)}, "images: need a tuple"),
        ({"images": "http://a/b.png"}, "images: need a tuple"),
        ({"images": (5,)}, "images: need a tuple"),
    ],
)
def test_messages_check_themselves(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Message(**{"role": "user", "content": "hi", **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": -0.1}, "temperature: got -0.1"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"top_p": 0}, "top_p: got 0"),
        ({"top_p": 1.1}, "top_p: got 1.1"),
        ({"top_k": 0}, "top_k: got 0"),
        ({"max_tokens": 0}, "min_tokens, max_tokens: got 0, 0"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens, max_tokens: got 4, 3"),
        ({"min_tokens": -1}, "min_tokens, max_tokens: got -1"),
        ({"stop": "\n"}, "stop: got str, need a tuple"),
        ({"stop": ("",)}, "stop: got"),
        ({"choices": "yes"}, "choices: got str, need a tuple"),
        ({"choices": ()}, "choices: got"),
        ({"choices": ("a", "a")}, "choices: got"),
        ({"choices": ("a", "")}, "choices: got"),
        ({"choices": ("a",), "response_format": {}}, "choices: got tools or response_format too"),
        ({"choices": ("a",), "tools": ({},)}, "choices: got tools or response_format too"),
        ({"tools": {"name": "f"}}, "tools: got dict, need a tuple"),
        ({"tools": ({"f": {1, 2}},)}, "tools: need what JSON can write"),
        ({"response_format": {"x": float("nan")}}, "response_format: need what JSON can write"),
        ({"tool_choice": "auto"}, "tool_choice: got 'auto' without tools"),
    ],
)
def test_samplings_check_themselves(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling(**fields)


def test_equal_samplings_are_equal_however_written() -> None:
    assert Sampling(temperature=1, top_p=1, stop=["a"]) == Sampling(stop=("a",))  # type: ignore[arg-type]
    schema = {"type": "object"}
    one = Sampling(tools=[MappingProxyType({"parameters": schema})])  # type: ignore[arg-type]
    assert one == Sampling(tools=({"parameters": {"type": "object"}},))
    schema["type"] = "changed later"
    assert one == Sampling(tools=({"parameters": {"type": "object"}},))
    assert repr(Sampling(temperature=0)) == repr(Sampling(temperature=0.0))


TOKENIZER = train_tokenizer(["the cat sat on the mat\n"] * 10, 280)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=4))
def test_no_prompt_has_more_tokens_than_its_bound(texts: list[str]) -> None:
    messages = [Message("user", text) for text in texts]
    tokens = sum(len(TOKENIZER.encode(text)) for text in texts)
    assert tokens <= prompt_bound(messages, Sampling()) - 16 * len(texts)


def test_everything_sent_counts_towards_the_bound() -> None:
    bare = prompt_bound([Message("user", "hi")], Sampling())
    assert prompt_bound([Message("user", "hi", images=(b"\x89PNG",))], Sampling()) == bare + IMAGE_TOKENS
    assert prompt_bound([Message("user", "hi!")], Sampling()) == bare + 1
    called = Message("assistant", "hi", tool_calls=(ToolCall("1", "add", '{"a": 1}'),))
    assert prompt_bound([called], Sampling()) == bare + 11
    tool = MappingProxyType({"name": "add"})
    assert prompt_bound([Message("user", "hi")], Sampling(tools=(tool,))) == bare + len(', {"name": "add"}')


def test_estimates_by_hand() -> None:
    assert estimated_usage([Message("user", "12345678"), Message("user", "é")], "12345") == Usage(3, 2, estimated=True)
    assert estimated_usage([Message("user", "")], "") == Usage(0, 0, estimated=True)


def test_the_protocol_is_met_by_its_two_parts() -> None:
    class Parrot:
        name = "parrot"

        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> list[Reply]:
            return []

    assert isinstance(Parrot(), ChatModel)
    assert not isinstance("parrot", ChatModel)
