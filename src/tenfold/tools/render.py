"""Samples as text and back: as messages of a chat, or with the markers of ToolDEER's files.

The chat, in OpenAI's form:

| who | says |
|---|---|
| system, user | rules; the query |
| assistant | search, or answer |
| user | the candidates, a line each (or: answer now) |
| assistant | the name of one of them, or none |
| user | the parameters of that tool (or: answer without a tool) |
| assistant | a call of it |
| tool | its response |
| assistant | the answer |
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from tenfold.core.errors import UserError
from tenfold.text.messages import Message, ToolCall
from tenfold.tools.calls import Call, CallError, parse_call, render_call
from tenfold.tools.samples import Branch, Candidate, DecisionSample

Format = Literal["chat", "deer-markers"]
Messages = list[Message]
Conversation = dict[str, Any]  # {"conversations": [{"from", "value"}, ...]}

SEARCH, ANSWER, NONE = "search", "answer", "none"
RULES = (
    "You answer users and may use tools. First decide: say search to look for tools, or answer if your own knowledge is "
    "enough. When tools are shown, say the name of the one that fits the request, or none."
)
FOUND = "Tools found:"
CHOOSE = "Say the name of the tool that fits, or none."
ANSWER_NOW = "Answer the user now."
CALL_ID = "call_1"

# The markers of the official files.
BEGIN, SEARCH_API, CALL_API, NO_CALL_API, API_RESPONSE, END = ("#Begin#", "#SearchAPI#", "#CallAPI#", "#NoCallAPI#", "#APIResponse#", "#End#")  # fmt: skip
MARKERS = (BEGIN, SEARCH_API, CALL_API, NO_CALL_API, API_RESPONSE, END)
DONT_NEED, NEED = "Don't need", "Need to"
_THOUGHT = {"no_search": f"{DONT_NEED} to search for an API.", "call": f"{NEED} search for an API.", "no_call": f"{NEED} search for an API."}  # fmt: skip
_NO_CALL = "No suitable API was found."
_LIVE = re.compile(r"#(\\*)(Begin|SearchAPI|CallAPI|NoCallAPI|APIResponse|End)#")
_DEAD = re.compile(r"#\\(\\*)(Begin|SearchAPI|CallAPI|NoCallAPI|APIResponse|End)#")


class ParseError(UserError):
    """Text that is no transcript; one line."""


class IncompleteGeneration(ParseError):
    """A transcript that stops before its end, as a cut generation does."""


@overload
def render(sample: DecisionSample, format: Literal["chat"] = "chat") -> Messages: ...
@overload
def render(sample: DecisionSample, format: Literal["deer-markers"]) -> Conversation: ...
def render(sample: DecisionSample, format: Format = "chat") -> Messages | Conversation:
    """A sample as a transcript; `parse` reads it back, but for the source, which is no part of it.

    Args:
        sample: of any branch.
        format: "chat" for messages, "deer-markers" for one record of an official file.
    """
    if format == "chat":
        return _chat(sample)
    if format == "deer-markers":
        return {
            "conversations": [{"from": "human", "value": sample.query}, {"from": "gpt", "value": write_trace(sample)}]
        }
    raise ValueError(f"format: got {format!r}, need chat or deer-markers")


def parse(text: Any, format: Format = "chat") -> DecisionSample:
    """Read what `render` wrote, or a record of an official file.

    Args:
        text: messages, or a record `{"conversations": [...]}`.
    Raises:
        ParseError: another shape.
        IncompleteGeneration: it stops too early.
    """
    if format == "chat":
        return _from_chat(text)
    if format == "deer-markers":
        try:
            query, trace = (each["value"] for each in text["conversations"])
        except (KeyError, TypeError, ValueError):
            raise ParseError("record: need conversations of two turns with a value each") from None
        if not isinstance(query, str) or not isinstance(trace, str):
            raise ParseError("record: value: need texts")
        return read_trace(query, trace)
    raise ValueError(f"format: got {format!r}, need chat or deer-markers")


# The chat.


def opening(query: str) -> Messages:
    """What a model sees when it decides whether to search."""
    return [Message("system", RULES), Message("user", query)]


def offer(candidates: Sequence[Candidate]) -> Message:
    """What it sees of the candidates: a line of JSON each, which no text of theirs can leave."""
    lines = [json.dumps([each.name, each.description, each.signature], ensure_ascii=False) for each in candidates]
    return Message("user", "\n".join([FOUND, *lines, CHOOSE]))


def ask_arguments(candidate: Candidate) -> Message:
    """What it sees once it has chosen a tool."""
    return Message("user", f"Call {json.dumps(candidate.name, ensure_ascii=False)}.")


def _chat(sample: DecisionSample) -> Messages:
    messages = opening(sample.query)
    if sample.branch == "no_search":
        messages.append(Message("assistant", ANSWER))
        return messages + _answered(sample)
    messages += [Message("assistant", SEARCH), offer(sample.candidates)]
    if sample.branch == "no_call":
        messages.append(Message("assistant", NONE))
        return messages + _answered(sample)
    assert sample.call is not None
    chosen = next(each for each in sample.candidates if each.name == sample.target)
    arguments = json.dumps(dict(sample.call.arguments), ensure_ascii=False)
    called = Message("assistant", "", tool_calls=(ToolCall(CALL_ID, sample.call.name, arguments),))
    messages += [Message("assistant", chosen.name), ask_arguments(chosen), called]
    if sample.response is not None:
        messages.append(Message("tool", sample.response, tool_call_id=CALL_ID))
    if sample.answer is not None:
        messages.append(Message("assistant", sample.answer))
    return messages


def _answered(sample: DecisionSample) -> Messages:
    return [] if sample.answer is None else [Message("user", ANSWER_NOW), Message("assistant", sample.answer)]


def _from_chat(messages: Sequence[Message]) -> DecisionSample:
    if len(messages) < 3 or [each.role for each in messages[:3]] != ["system", "user", "assistant"]:
        raise IncompleteGeneration("messages: need system, user and the assistant's decision")
    query, decision = messages[1].content, messages[2].content
    if decision == ANSWER:
        return DecisionSample(query, "no_search", answer=_last_answer(messages, 3))
    if decision != SEARCH:
        raise ParseError(f"messages: the decision is {decision[:40]!r}, need {SEARCH} or {ANSWER}")
    if len(messages) < 5:
        raise IncompleteGeneration("messages: it stops after the search")
    candidates = _offered(messages[3].content)
    chosen = messages[4].content
    if chosen == NONE:
        return DecisionSample(query, "no_call", candidates, answer=_last_answer(messages, 5))
    if len(messages) < 7 or not messages[6].tool_calls:
        raise IncompleteGeneration("messages: it stops before the call")
    (call,) = messages[6].tool_calls
    rest = messages[7:]
    response = rest[0].content if rest and rest[0].role == "tool" else None
    answer = rest[-1].content if rest and rest[-1].role == "assistant" else None
    try:
        return DecisionSample(query, "call", candidates, chosen, Call(call.name, json.loads(call.arguments)), response, answer)  # fmt: skip
    except ValueError as error:
        raise ParseError(f"messages: {error}") from None


def _last_answer(messages: Sequence[Message], at: int) -> str | None:
    return messages[at + 1].content if len(messages) > at + 1 else None


def _offered(text: str) -> tuple[Candidate, ...]:
    first, *lines, last = text.split("\n")
    try:
        if first != FOUND or last != CHOOSE:
            raise ValueError
        return tuple(Candidate(*json.loads(line)) for line in lines)
    except (ValueError, TypeError):
        raise ParseError("messages: need the candidates, one a line") from None


# The markers.


def escape(text: str) -> str:
    """Text whose markers are none: a backslash goes behind their first #."""
    return _LIVE.sub(r"#\\\1\2#", text)


def unescape(text: str) -> str:
    """Undo `escape`; other text stays as it is."""
    return _DEAD.sub(r"#\1\2#", text)


def write_trace(sample: DecisionSample) -> str:
    """The assistant's turn with markers. An answer, which the official files lack, follows the end marker."""
    parts = [BEGIN, _THOUGHT[sample.branch]]
    if sample.branch != "no_search":
        rows = [{"api_name": each.name, "description": each.description, "api_function": each.signature} for each in sample.candidates]  # fmt: skip
        parts += [SEARCH_API, "\n".join(escape(repr(row)) for row in [list(sample.names), *rows]) + "\n"]
    if sample.branch == "no_call":
        parts += [NO_CALL_API, _NO_CALL]
    if sample.call is not None:
        parts += [CALL_API, escape(render_call(sample.call))]
        if sample.response is not None:
            parts += [API_RESPONSE, escape(sample.response)]
    parts.append(END)
    if sample.answer is not None:
        parts.append(escape(sample.answer))
    return " ".join(parts)


def read_trace(query: str, trace: str) -> DecisionSample:
    """A turn with markers, ours or an official one.

    Raises:
        IncompleteGeneration: no end marker.
        ParseError: markers in another order, candidates or a call that Python's literals do not spell.
    """
    cut = re.split(f"({'|'.join(map(re.escape, MARKERS))})", trace)
    parts = {marker: _inside(text) for marker, text in zip(cut[1::2], cut[2::2], strict=True)}
    if END not in parts:
        raise IncompleteGeneration("trace: no #End# marker, the generation was cut")
    thought = parts.get(BEGIN, "").strip()
    end = cut[-1]  # behind the end marker stands nothing, or one blank and the answer
    answer = unescape(end[1:]) if end[:1] == " " else None
    branch = _branch(parts, thought)
    if branch == "no_search":
        return DecisionSample(query, branch, answer=answer)
    candidates = _read_candidates(parts[SEARCH_API])
    if branch == "no_call":
        return DecisionSample(query, branch, candidates, answer=answer)
    response = unescape(parts[API_RESPONSE]) if API_RESPONSE in parts else None
    try:
        call = _read_call(unescape(parts[CALL_API]).strip(), candidates)
        if call.name not in (each.name for each in candidates):
            candidates = tuple(_renamed(each, call.name) for each in candidates)
        return DecisionSample(query, "call", candidates, call.name, call, response, answer)
    except (CallError, ValueError) as error:
        raise ParseError(f"trace: {error}") from None


def _read_call(text: str, candidates: Sequence[Candidate]) -> Call:
    """A call whose name may be any text, as long as a candidate has it."""
    names = [each.name for each in candidates if text.startswith(f"{each.name}(")]
    if not names:
        return parse_call(text)
    name = max(names, key=len)
    return Call(name, parse_call("f" + text.removeprefix(name)).arguments)


def _renamed(candidate: Candidate, name: str) -> Candidate:
    """Official lists have the catalogue's names, calls the signature's."""
    return replace(candidate, name=name) if candidate.signature.startswith(f"{name}(") else candidate


def _branch(parts: Mapping[str, str], thought: str) -> Branch:
    if SEARCH_API not in parts:
        if not thought.startswith(DONT_NEED):
            raise ParseError(f"trace: got {thought[:40]!r} and no {SEARCH_API}, need {DONT_NEED!r} or a search")
        return "no_search"
    if CALL_API in parts:
        return "call"
    if NO_CALL_API in parts:
        return "no_call"
    raise IncompleteGeneration(f"trace: neither {CALL_API} nor {NO_CALL_API} after {SEARCH_API}")


def _inside(text: str) -> str:
    """Text between two markers, without the one blank on either side."""
    return text[1 if text.startswith(" ") else 0 : -1 if text.endswith(" ") and len(text) > 1 else None]


def _read_candidates(text: str) -> tuple[Candidate, ...]:
    """Names in a list, then a dict a line; official files may put several on one line."""
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        rows = [ast.literal_eval(unescape(line.strip())) for line in lines]
        described = [row for row in rows if isinstance(row, dict)]
        return tuple(Candidate(row["api_name"], row["description"], row["api_function"]) for row in described)
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise ParseError(f"trace: candidates: {' '.join(str(error).split())[:120]}") from None
