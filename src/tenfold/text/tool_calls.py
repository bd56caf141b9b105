"""Tools for models that know them from their prompt alone: schemas into the system turn, calls out of the reply.

The form is the one that many open models are tuned on: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tenfold.text.messages import Message, Sampling, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MOST_CALLS = 64
LONGEST = 1 << 16  # characters of a reply that are looked at for calls


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with the tools' schemas in its system turn, which is added where there is none.

    Args:
        tools: as OpenAI writes them, `{"type": "function", "function": {"name", "description", "parameters"}}`.
    """
    schemas = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = (
        "You may call these functions, given as JSON schemas:\n"
        f"<tools>\n{schemas}\n</tools>\n"
        "To call one, answer with nothing but its name and its arguments as JSON:\n"
        f'{OPEN}{{"name": "function name", "arguments": {{"argument": "value"}}}}{CLOSE}'
    )
    first = messages[0] if messages else None
    if first is not None and first.role == "system":
        return [replace(first, content=f"{first.content}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]


def template_input(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: str | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages as a chat template reads them, and its variables; what it does not know stands in the text.

    Returns:
        the rows, one more than messages where the tools need a system turn of their own; {"tools": ...} or {}.
    """
    variables: dict[str, Any] = {}
    if tools and "tools" in (template or ""):
        variables["tools"] = list(tools)
    elif tools:
        messages = with_tools(messages, tools)
    return [_row(message, "tool_calls" in (template or "")) for message in messages], variables


def _row(message: Message, knows_calls: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    calls = [{"name": call.name, "arguments": _object(call.arguments)} for call in message.tool_calls]
    if calls and knows_calls:
        pairs = zip(message.tool_calls, calls, strict=True)
        row["tool_calls"] = [{"id": call.id, "type": "function", "function": said} for call, said in pairs]
    else:
        row["content"] += "".join(f"{OPEN}{json.dumps(call, ensure_ascii=False)}{CLOSE}" for call in calls)
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def tool_names(sampling: Sampling) -> frozenset[str]:
    """The tools that a reply may call: none where the request has none, forbids them, or wants a form of its own."""
    plain = sampling.response_format is None or sampling.response_format.get("type") == "text"
    named = (tool.get("function", tool) for tool in sampling.tools)
    return frozenset(str(function.get("name")) for function in named if plain and sampling.tool_choice != "none")


def calls_in(text: str, names: Collection[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """`parse_tool_calls`, where all calls are of tools with these names; else the reply is text."""
    rest, calls = parse_tool_calls(text) if names else (text, ())
    return (rest, calls) if all(call.name in names for call in calls) else (text, ())


def sure_text(text: str, first: bool) -> int:
    """How many characters of a reply so far are surely no call; `first`: nothing of it was handed out before."""
    begun = text.lstrip()
    if first and begun[:1] in ("", "{", "["):
        return 0
    at = text.find(OPEN[0])
    while at >= 0 and not (text.startswith(OPEN, at) or OPEN.startswith(text[at:])):
        at = text.find(OPEN[0], at + 1)
    return len(text) if at < 0 else at


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """The text around the calls, and the calls; a reply without a whole call is text alone.

    Also read: a list of calls in one pair of marks, a last pair that was not closed, and a reply that is one call and
    nothing else. The text is untrusted: what is no call stays text, and nothing in it is carried out.
    """
    if len(text) > LONGEST:
        return text, ()
    if OPEN not in text:
        calls = _calls(text.strip(), bare=True)
        return ("", calls) if calls else (text, ())
    before, *blocks = text.split(OPEN)
    around = [before]
    found: list[ToolCall] = []
    for block in blocks:
        inside, _, after = block.partition(CLOSE)
        calls = _calls(inside.strip())
        found += calls
        around.append(after if calls else OPEN + block)
    return "".join(around).strip() if found else text, tuple(found[:MOST_CALLS])


def _calls(text: str, bare: bool = False) -> tuple[ToolCall, ...]:
    """`bare`: nothing but its form tells that it is a call, so it must have arguments."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    entries = parsed if isinstance(parsed, list) else [parsed]
    calls = []
    for entry in entries:
        entry = entry.get("function", entry) if isinstance(entry, dict) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            return ()
        arguments = entry.get("arguments", entry.get("parameters", None if bare else {}))
        if not isinstance(arguments, dict) or _broken(entry["name"]):
            return ()
        written = json.dumps(arguments, ensure_ascii=False)
        written = json.dumps(arguments) if _broken(written) else written
        calls.append(ToolCall(f"call_{secrets.token_hex(12)}", entry["name"], written))
    return tuple(calls)


def _broken(text: str) -> bool:
    """Whether it holds half of a surrogate pair: JSON can spell it, UTF-8 cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)
