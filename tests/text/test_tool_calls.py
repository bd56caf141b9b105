"""Tool calls out of untrusted replies: whole calls are read, everything else stays text."""

from __future__ import annotations

import json

import pytest

from tenfold.text.messages import Message
from tenfold.text.tool_calls import may_call, opening, parse_tool_calls, with_tools

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("text", "around", "calls"),
    [
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', "", [("add", {"a": 1})]),
        ('Sure. <tool_call>\n{"name": "add", "arguments": {}}\n</tool_call> Done.', "Sure.  Done.", [("add", {})]),
        ('<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call>', "", [("f", {}), ("g", {})]),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}', "", [("add", {"a": 1})]),
        ('{"name": "add", "parameters": {"a": "é"}}', "", [("add", {"a": "é"})]),
        (
            '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call>',
            "",
            [("f", {}), ("g", {})],
        ),
    ],
)
def test_calls_are_read(text: str, around: str, calls: list[tuple[str, dict]]) -> None:
    rest, found = parse_tool_calls(text)
    assert rest == around
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls
    assert len({call.id for call in found}) == len(found)


@pytest.mark.parametrize(
    "text",
    [
        "plain text",
        "",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "add", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '{"answer": 42}',
        "[1, 2]",
        "[" * 5000,
        '<tool_call>{"name": "add", "arguments": {}}</tool_call>' + "x" * (1 << 16),
    ],
)
def test_anything_else_stays_text(text: str) -> None:
    assert parse_tool_calls(text) == (text, ())


def test_calls_are_bounded() -> None:
    assert len(parse_tool_calls('<tool_call>{"name": "f"}</tool_call>' * 500)[1]) == 64


def test_schemas_go_into_the_system_turn() -> None:
    user = Message("user", "1 + 1?")
    (system, said) = with_tools([user], TOOLS)
    assert system.role == "system"
    assert '"name": "add"' in system.content
    assert said == user
    (system, said) = with_tools([Message("system", "Be brief."), user], TOOLS)
    assert system.content.startswith("Be brief.\n\n")


def test_a_forced_opening_can_be_completed() -> None:
    assert parse_tool_calls(opening("add") + '"a": 1}}</tool_call>')[1][0].name == "add"
    assert parse_tool_calls(opening(None) + 'add", "arguments": {}}</tool_call>')[1][0].name == "add"


@pytest.mark.parametrize(
    ("text", "may"), [("", True), ("  <tool", True), ("<tool_call>{", True), ("{", True), ("<b>", False), ("Hi", False)]
)
def test_a_call_shows_at_its_beginning(text: str, may: bool) -> None:
    assert may_call(text) is may
