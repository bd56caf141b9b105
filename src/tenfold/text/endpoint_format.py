"""Requests and replies as OpenAI-compatible endpoints write them; whatever a server sends is checked before it counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from tenfold.text.endpoint_errors import BodyFault, Fault, server_message, shown
from tenfold.text.messages import Message, Reply, Sampling, ToolCall, Usage, estimated_usage

Api = Literal["chat", "completions"]

_MOST_TOKENS = 1 << 40  # more than any call has: such a count is broken
_PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


def request_body(model: str, messages: Sequence[Message], sampling: Sampling, n: int, api: Api) -> dict[str, Any]:
    """The JSON of a request, its length bound under "max_tokens".

    Args:
        model: its name at the endpoint.
        messages: for "completions" their texts follow each other without any mark: whoever needs a template renders
            it into one message.
        sampling: `choices` become a JSON schema with one field, "answer".
        n: replies wanted.
        api: "chat" or "completions".
    Raises:
        ValueError: no messages, a picture of an unknown kind, or what "completions" cannot carry.
    """
    if not messages:
        raise ValueError("messages: got none, need at least one")
    body: dict[str, Any] = {"model": model}
    if api == "chat":
        body["messages"] = [_message(message) for message in messages]
    else:
        if sampling.tools or any(message.images or message.tool_calls for message in messages):
            raise ValueError("messages: got pictures or tools, which api='completions' cannot carry; need api='chat'")
        body["prompt"] = "".join(message.content for message in messages)
    body |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    optional = {
        "n": n if n > 1 else None,
        "top_k": sampling.top_k,
        "min_tokens": sampling.min_tokens or None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "logprobs": (True if api == "chat" else 1) if sampling.logprobs else None,
        "response_format": _choice_format(sampling.choices) if sampling.choices else sampling.response_format,
        "presence_penalty": sampling.presence_penalty or None,
        "frequency_penalty": sampling.frequency_penalty or None,
        "logit_bias": sampling.logit_bias,
        "tools": list(sampling.tools) or None,
        "tool_choice": sampling.tool_choice,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def parse_replies(content: bytes, content_type: str, messages: Sequence[Message], n: int) -> list[Reply]:
    """The replies in a body with status 200, at most n.

    Args:
        content, content_type: a JSON object, or server-sent events that add up to one.
        messages: the request, for the estimate where the server counts no tokens.
        n: replies wanted; what goes beyond is dropped.
    Raises:
        Fault: anything but complete replies.
    """
    streamed = content_type.partition(";")[0].strip().lower() == "text/event-stream"
    try:
        body = _assemble(content) if streamed else _object(content)
        if not body.get("choices"):
            raise BodyFault("the body has no choices")
        drawn = [_reply(choice) for choice in body["choices"][:n]]
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        # A number or a list, say, where the format has an object.
        raise BodyFault(f"the body has another form than a reply: {shown(error)}") from None
    usages = _usages(body.get("usage"), messages, [reply.text for reply in drawn])
    return [replace(reply, usage=usage) for reply, usage in zip(drawn, usages, strict=True)]


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """Which of the choices a reply names, as our schema's JSON or in plain text; None where it names none."""
    try:
        answer = json.loads(text)["answer"]
    except (ValueError, TypeError, KeyError, RecursionError):
        answer = text
    answer = answer.strip() if isinstance(answer, str) else answer
    return next((choice for choice in choices if choice.strip() == answer), None)


def _message(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        parts = [{"type": "image_url", "image_url": {"url": _picture(image)}} for image in message.images]
        row["content"] = [{"type": "text", "text": message.content}, *parts]
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _picture(image: str | bytes) -> str:
    if isinstance(image, str):
        return image
    kind = next((kind for magic, kind in _PICTURES.items() if image.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"images: got bytes that start with {image[:4]!r}, need PNG, JPEG, GIF or WebP")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _choice_format(choices: Sequence[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(choices)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}


def _object(content: bytes) -> dict[str, Any]:
    """The JSON object that a body or an event is."""
    if content.startswith(b"\xef\xbb\xbf"):
        raise BodyFault("the body starts with a byte order mark")
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        start = content[:60].decode("utf-8", "replace")
        raise BodyFault(f"the body is no JSON: {shown(start)}") from None
    if not isinstance(value, dict):
        raise BodyFault(f"the body is a JSON {type(value).__name__}, not an object")
    if value.get("error"):
        raise Fault(f"status 200 with an error: {shown(server_message(value['error']))}")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _reply(choice: Any) -> Reply:
    """One choice, of either API; its usage is filled in later."""
    message = choice.get("message") or {"content": choice.get("text")}
    reason = choice.get("finish_reason")
    if not isinstance(reason, str):
        raise Fault("a choice has no finish_reason: it was cut short")
    calls = _tool_calls(message.get("tool_calls"))
    text = message.get("content")
    if text is None:
        text = message.get("refusal") or ("" if calls else None)
    if not isinstance(text, str):
        raise Fault(f"content: got {type(text).__name__} (finish_reason {shown(reason)}), need text")
    return Reply(_unicode(text), _unicode(reason), Usage(0, 0), calls, logprobs=_logprobs(choice.get("logprobs")))


def _tool_calls(rows: Any) -> tuple[ToolCall, ...]:
    calls = []
    for index, row in enumerate(rows or ()):
        name, arguments = row["function"].get("name"), row["function"].get("arguments")
        if not name or not isinstance(name, str) or not isinstance(arguments, str):
            raise Fault("tool_calls: a call has no name or no arguments")
        calls.append(ToolCall(*map(_unicode, (str(row.get("id") or f"call_{index}"), name, arguments))))
    return tuple(calls)


def _unicode(text: str) -> str:
    """Text that can be stored: JSON can spell half a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _logprobs(told: Any) -> tuple[float, ...] | None:
    """Log probabilities as either API tells them; None where a server tells none, or something else."""
    if not isinstance(told, dict):
        return None
    values = told.get("token_logprobs")
    if isinstance(rows := told.get("content"), list):
        values = [row.get("logprob") if isinstance(row, dict) else None for row in rows]
    if not isinstance(values, list) or not all(isinstance(value, float | int) for value in values):
        return None
    return tuple(float(value) for value in values)


def _usages(told: Any, messages: Sequence[Message], texts: Sequence[str]) -> list[Usage]:
    """One usage a reply, adding up to what the server counted."""
    if isinstance(told, dict):
        prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
        if (
            isinstance(prompt, int)
            and isinstance(completion, int)
            and min(prompt, completion) >= 0
            and max(prompt, completion) <= _MOST_TOKENS
        ):
            ends = [completion * i // len(texts) for i in range(len(texts) + 1)]
            shares = [end - start for start, end in pairwise(ends)]
            return [Usage(0 if i else prompt, share, len(texts) > 1) for i, share in enumerate(shares)]
    usages = [estimated_usage(messages, text) for text in texts]
    return [Usage(0 if i else usage.prompt, usage.completion, True) for i, usage in enumerate(usages)]


@dataclass
class _Partial:
    """One choice of a stream, as far as its chunks have come."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        delta = chunk.get("delta") or {"content": chunk.get("text")}
        text = next((delta[name] for name in ("content", "refusal") if delta.get(name) is not None), "")
        calls = delta.get("tool_calls") or ()
        if (text or calls) and self.finish_reason is not None:
            raise Fault("chunks of the stream came twice")
        self.text.append(text)
        for call in calls:  # in fragments: the name comes once, the arguments piece by piece
            whole = self.calls.setdefault(call.get("index", 0), {"function": {"name": "", "arguments": ""}})
            whole["id"] = whole.get("id") or call.get("id")
            for name in ("name", "arguments"):
                whole["function"][name] += call["function"].get(name) or ""
        told = chunk.get("logprobs") or {}
        self.logprobs += told.get("content") or [{"logprob": value} for value in told.get("token_logprobs") or ()]
        self.finish_reason = chunk.get("finish_reason") or self.finish_reason

    def whole(self) -> dict[str, Any]:
        """The choice as a body without a stream has it."""
        if self.finish_reason is None:
            raise Fault("the stream ended before its final marker")
        calls = [self.calls[index] for index in sorted(self.calls)]
        message = {"content": "".join(self.text), "tool_calls": calls}
        return {
            "message": message,
            "finish_reason": self.finish_reason,
            "logprobs": {"content": self.logprobs} if self.logprobs else None,
        }


def _assemble(content: bytes) -> dict[str, Any]:
    """The body that a stream of server-sent events adds up to.

    A choice is whole once its finish_reason came. Text after that is a chunk sent twice; a chunk repeated earlier
    cannot be told from a word said twice.
    """
    partial: dict[int, _Partial] = {}
    usage = None
    for line in content.split(b"\n"):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            event = _object(data)
            usage = event.get("usage") or usage
            for chunk in event.get("choices") or ():
                partial.setdefault(chunk.get("index", 0), _Partial()).add(chunk)
    return {"choices": [partial[index].whole() for index in sorted(partial)], "usage": usage}
