"""The nouns of a conversation with a language model: what is said, how a reply is drawn, what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

ROLES = ("system", "user", "assistant", "tool")

IMAGE_TOKENS = 2048  # what a budget sets aside for one picture; providers count between 85 and some thousands
MESSAGE_TOKENS = 16  # for the role and the marks that a chat template writes around one message


@dataclass(frozen=True)
class ToolCall:
    """A model's wish to call a tool. `arguments` is the JSON text as the model wrote it: untrusted, perhaps broken."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Args:
        role: system, user, assistant or tool.
        content: the text; empty where an assistant only called tools.
        images: encoded pictures (PNG, JPEG, GIF or WebP bytes) or their addresses (http, https or data URLs).
        tool_calls: the calls an assistant's turn made.
        tool_call_id: the call that a tool's turn answers.
    """

    role: str
    content: str
    images: tuple[str | bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role: got {self.role!r}, need {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise ValueError(f"content: got {type(self.content).__name__}, need text")
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError as error:  # half of a surrogate pair can be neither sent nor stored
            raise ValueError(f"content: character {error.start} is no Unicode text, need valid text") from None
        if not isinstance(self.images, tuple) or not all(map(_is_image, self.images)):
            raise ValueError("images: need a tuple of bytes or of http, https or data:image/ addresses")


def _is_image(image: object) -> bool:
    starts = ("http://", "https://", "data:image/")
    return isinstance(image, bytes) or (isinstance(image, str) and image.startswith(starts))


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn.

    Args:
        temperature: 0 is greedy.
        top_p: probability mass to draw from, in (0, 1].
        top_k: number of tokens to draw from; None is all.
        max_tokens, min_tokens: bounds of the reply's length.
        stop: strings that end a reply; they are not part of it.
        seed: of the draw; None leaves it to the model.
        logprobs: also return each token's log probability.
        response_format: as OpenAI writes it, such as `{"type": "json_schema", "json_schema": …}`.
        tools: tools the model may call, as OpenAI writes them.
        tool_choice: "auto", "none", "required" or one tool as OpenAI writes it.
        choices: the reply is one of these strings.
        presence_penalty, frequency_penalty: taken off the logit of a token that the reply holds already, once and for
            each time; in -2..2.
        logit_bias: added to the logits of tokens, by their ids; each in -100..100.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int = 256
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    response_format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature: got {self.temperature}, need a finite number >= 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: got {self.top_p}, need a share in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: got {self.top_k}, need at least 1, or None for all tokens")
        if not 0 <= self.min_tokens <= self.max_tokens or self.max_tokens < 1:
            raise ValueError(
                f"min_tokens, max_tokens: got {self.min_tokens}, {self.max_tokens}, need 0 <= min <= max and max >= 1"
            )
        for name in ("stop", "tools", "choices"):
            if isinstance(getattr(self, name), str | Mapping):
                raise ValueError(f"{name}: got {type(getattr(self, name)).__name__}, need a tuple")
        if not all(isinstance(mark, str) and mark for mark in self.stop):
            raise ValueError(f"stop: got {self.stop!r}, need strings that are not empty")
        if self.choices is not None:
            if not self.choices or len(set(self.choices)) < len(self.choices) or "" in self.choices:
                raise ValueError(f"choices: got {self.choices!r}, need different strings that are not empty")
            if self.tools or self.response_format is not None:
                raise ValueError("choices: got tools or response_format too, need one kind of restriction")
        if self.tool_choice is not None and not self.tools:
            raise ValueError(f"tool_choice: got {self.tool_choice!r} without tools, need tools")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name}: got {getattr(self, name)}, need -2..2")
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        # Equal settings must compare equal and have one cache key however they were written.
        for name, kind in (
            ("temperature", float),
            ("top_p", float),
            ("stop", tuple),
            ("tools", tuple),
            ("presence_penalty", float),
            ("frequency_penalty", float),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in ("response_format", "tools", "tool_choice"):
            object.__setattr__(self, name, _json_copy(name, getattr(self, name)))


def _biases(given: Any) -> dict[str, float]:
    """Token ids as JSON spells them, in order."""
    try:
        biases = {
            str(int(token)): float(value) for token, value in sorted(given.items(), key=lambda item: int(item[0]))
        }
    except (AttributeError, TypeError, ValueError):
        raise ValueError("logit_bias: need an object of token ids and numbers") from None
    if len(biases) > 1024 or not all(-100 <= value <= 100 for value in biases.values()):
        raise ValueError("logit_bias: need at most 1024 tokens, each with a number in -100..100")
    return biases


def _json_copy(name: str, value: Any) -> Any:
    """A copy in JSON's own types, which nobody else can change; a tuple stays one."""
    if not value:
        return value
    try:
        plain = json.loads(json.dumps(value, default=dict, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{name}: need what JSON can write") from None
    return tuple(plain) if isinstance(value, tuple) else plain


SAMPLING = Sampling()


@dataclass(frozen=True)
class Usage:
    """Tokens of one call. `estimated` where the model did not say.

    Summed over the n replies of one call it is what the call cost: the first reply carries the prompt, and where the
    model counts only all replies together the others carry equal shares.
    """

    prompt: int
    completion: int
    estimated: bool = False


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Args:
        text: the reply; empty where it only calls tools.
        finish_reason: stop, length (cut at max_tokens), tool_calls, content_filter, or the endpoint's own word.
        usage: its tokens.
        tool_calls: calls of tools, as the model wrote them.
        token_ids: the reply's tokens, where the model tells.
        logprobs: natural log probability of each token, where asked for and told.
        cached: taken from a store: nothing was computed or paid now.
        seconds: from request to reply, waiting and further tries included.
    """

    text: str
    finish_reason: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    cached: bool = False
    seconds: float = 0.0


@runtime_checkable
class ChatModel(Protocol):
    """Whatever answers conversations; safe to call from many tasks, threads and event loops at once."""

    name: str

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies to the conversation, independent draws in a fixed order."""
        ...


def estimated_tokens(text: str) -> int:
    """A rough count where no tokenizer is known: four bytes of UTF-8 a token."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def estimated_usage(messages: Sequence[Message], text: str) -> Usage:
    """Estimated tokens of a request and its reply."""
    prompt = sum(estimated_tokens(message.content) + IMAGE_TOKENS * len(message.images) for message in messages)
    return Usage(prompt, estimated_tokens(text), estimated=True)


def prompt_bound(messages: Sequence[Message], sampling: Sampling) -> int:
    """The most tokens that a prompt can count: no tokenizer makes more tokens of a text than it has bytes.

    Pictures count `IMAGE_TOKENS` each, which is a guess.
    """
    total = len(json.dumps([sampling.response_format, *sampling.tools]).encode())
    for message in messages:
        called = sum(len(call.name.encode()) + len(call.arguments.encode()) for call in message.tool_calls)
        images = IMAGE_TOKENS * len(message.images)
        total += len(message.content.encode("utf-8")) + called + images + MESSAGE_TOKENS
    return total
