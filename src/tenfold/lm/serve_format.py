"""The wire format of OpenAI's API: request bodies checked field by field, and errors; answers: `serve_wire`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenfold.text.messages import Message, Sampling, ToolCall

DEFAULT_TOKENS = 1024  # of an answer whose request names no bound
MOST_STOPS = 16
MOST_TOP_LOGPROBS = 20


class ApiError(Exception):
    """An error in the form that OpenAI's clients read.

    Args:
        status: of the HTTP answer.
        message: what was wrong.
        param: the field; None takes the one that a message of a 400 begins with, as in "top_p: got 2, need …".
        kind, code: OpenAI's words for it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        if param is None and status == 400 and (named := re.match(r"([a-z_]+)(\[\d+\]|\.[a-z_]+)*(?=: )", message)):
            param = named[0]
        self.status, self.message, self.param, self.kind, self.code = status, message, param, kind, code

    def body(self) -> dict[str, str | None]:
        """The content of "error"."""
        message = self.message[:1000].encode("utf-8", "replace").decode()  # it may quote half of a surrogate pair
        return {"message": message, "type": self.kind, "param": self.param, "code": self.code}


def parse_body(content: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError 400."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ApiError(400, f"The body is not valid JSON: {reason}") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, f"The body must be a JSON object, got {type(parsed).__name__}.")
    return parsed


@dataclass(frozen=True)
class _Body:
    model: str | None
    sampling: Sampling
    n: int
    stream: bool
    include_usage: bool
    top_logprobs: int | None

    @property
    def wants_logprobs(self) -> bool:
        return self.top_logprobs is not None


@dataclass(frozen=True)
class ChatBody(_Body):
    """A body of /v1/chat/completions."""

    messages: tuple[Message, ...]

    @classmethod
    def read(cls, body: Mapping[str, Any], most: int) -> ChatBody:
        """Check a body; `most` answers at a time. Raises ApiError 400 naming the field."""
        top: int | None = None
        if _get(body, "logprobs", bool, False):
            top = _number(body, "top_logprobs", int, 0, 0, MOST_TOP_LOGPROBS)
        elif body.get("top_logprobs") is not None:
            raise ApiError(400, "top_logprobs: need logprobs: true with it", "top_logprobs")
        tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(_list(body, "tools", 128)))
        choice = body.get("tool_choice")
        if not tools and choice not in (None, "auto", "none"):
            raise ApiError(400, "tool_choice: got it without tools, need tools", "tool_choice")
        choice = choice if tools else None
        names = [tool["function"]["name"] for tool in tools]
        if choice not in (None, "auto", "none", "required"):
            named = choice.get("function") if isinstance(choice, dict) else None
            if not isinstance(named, dict) or named.get("name") not in names:
                raise ApiError(
                    400, f"tool_choice: need auto, none, required or one of {', '.join(names)}", "tool_choice"
                )
        return cls(
            messages=_messages(body),
            **_shared(
                body,
                most,
                top,
                tools=tools,
                tool_choice=choice,
                response_format=_get(body, "response_format", dict, None),
            ),
        )


@dataclass(frozen=True)
class CompletionBody(_Body):
    """A body of /v1/completions: one prompt, as text or token ids."""

    prompt: str
    ids: tuple[int, ...] | None

    @classmethod
    def read(cls, body: Mapping[str, Any], most: int) -> CompletionBody:
        """Check a body; `most` answers at a time. Raises ApiError 400 naming the field."""
        prompt = body.get("prompt", "")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        ids = None
        if isinstance(prompt, list):
            if not all(isinstance(id, int) and not isinstance(id, bool) for id in prompt):
                raise ApiError(400, "prompt: need one text, or one list of token ids", "prompt")
            ids, prompt = tuple(int(id) for id in prompt), ""
        elif not isinstance(prompt, str):
            raise ApiError(400, f"prompt: got {type(prompt).__name__}, need a string", "prompt")
        top = None
        if body.get("logprobs") is not None:
            top = _number(body, "logprobs", int, 0, 0, MOST_TOP_LOGPROBS)
        if body.get("echo") or body.get("suffix"):
            raise ApiError(400, "echo, suffix: not supported here", "echo" if body.get("echo") else "suffix")
        return cls(prompt=_text(prompt, "prompt"), ids=ids, **_shared(body, most, top))


def _shared(body: Mapping[str, Any], most: int, top_logprobs: int | None, **more: Any) -> dict[str, Any]:
    """The fields that both kinds of request have."""
    stop = body.get("stop")
    stop = () if stop is None or stop == "" else stop
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, list | tuple) or len(stop) > MOST_STOPS or not all(isinstance(s, str) and s for s in stop):
        raise ApiError(400, f"stop: need at most {MOST_STOPS} strings that are not empty", "stop")
    length = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise ApiError(400, "stream_options: need an object", "stream_options")
    try:
        sampling = Sampling(
            temperature=_number(body, "temperature", float, 1.0, 0, 100),
            top_p=_number(body, "top_p", float, 1.0, 0, 1) or 1e-9,
            top_k=_number(body, "top_k", int, None, 1, 1 << 20),
            max_tokens=_number(body, length, int, DEFAULT_TOKENS, 1, 1 << 20),
            min_tokens=_number(body, "min_tokens", int, 0, 0, 1 << 20),
            stop=tuple(stop),
            seed=_number(body, "seed", int, None, -(2**63), 2**63 - 1),
            logprobs=top_logprobs is not None,
            presence_penalty=_number(body, "presence_penalty", float, 0.0, -2, 2),
            frequency_penalty=_number(body, "frequency_penalty", float, 0.0, -2, 2),
            logit_bias=_get(body, "logit_bias", dict, None),
            **more,
        )
    except ValueError as error:
        raise ApiError(400, str(error)) from None
    return {
        "model": _get(body, "model", str, None),
        "sampling": sampling,
        "n": _number(body, "n", int, 1, 1, most),
        "stream": _get(body, "stream", bool, False),
        "include_usage": bool((options or {}).get("include_usage")),
        "top_logprobs": top_logprobs,
    }


def _messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    rows = body.get("messages")
    if not isinstance(rows, list) or not rows:
        raise ApiError(400, "messages: need a list with at least one message", "messages")
    return tuple(_message(row, f"messages[{i}]") for i, row in enumerate(rows))


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise ApiError(400, f"{where}: got {type(row).__name__}, need an object", where)
    said = str(row.get("role"))
    role = {"developer": "system", "function": "tool"}.get(said, said)
    content = row.get("content")
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ApiError(400, f"{where}.content: only parts of type text are read", f"{where}.content")
            parts.append(part["text"])
        content = "".join(parts)
    calls = _list(row, "tool_calls", 128)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise ApiError(400, f"{where}.content: got {type(content).__name__}, need a string", f"{where}.content")
    try:
        return Message(
            role=role,
            content=_text(content, f"{where}.content"),
            tool_calls=tuple(_call(call, f"{where}.tool_calls") for call in calls),
            tool_call_id=_get(row, "tool_call_id", str, None),
        )
    except ValueError as error:
        raise ApiError(400, f"{where}.{error}", f"{where}.role") from None


def _text(text: str, where: str) -> str:
    """JSON can spell half of a surrogate pair, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ApiError(400, f"{where}: character {error.start} is no Unicode text", where) from None
    return text


def _call(call: Any, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where}: need objects with a function that has a name", where)
    arguments = _text(str(function.get("arguments", "{}")), where)
    return ToolCall(_text(str(call.get("id", "")), where), _text(function["name"], where), arguments)


def _tool(tool: Any, where: str) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where}: need an object with a function that has a name", where)
    _text(json.dumps(tool, ensure_ascii=False), where)
    return dict(tool)


def _list(body: Mapping[str, Any], name: str, most: int) -> list[Any]:
    value = body.get(name) or []
    if not isinstance(value, list) or len(value) > most:
        raise ApiError(400, f"{name}: need a list of at most {most}", name)
    return value


def _get(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise ApiError(400, f"{name}: got {type(value).__name__}, need {kind.__name__}", name)
    return value


def _number(body: Mapping[str, Any], name: str, kind: type, default: Any, low: float, high: float) -> Any:
    value = body.get(name)
    if value is None:
        return default
    right = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        shown = repr(value)[:50] if right else type(value).__name__
        raise ApiError(400, f"{name}: got {shown}, need {kind.__name__} in {low:g}..{high:g}", name)
    return kind(value)
