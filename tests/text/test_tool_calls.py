"""Tool calls out of untrusted replies: whole calls are read, everything else stays text."""

from __future__ import annotations

import json

import pytest

from tenfold.text.messages import Message, Sampling, ToolCall
from tenfold.text.tool_calls import calls_in, parse_tool_calls, sure_text, template_input, tool_names, with_tools

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


def test_a_call_without_marks_must_have_arguments() -> None:
    assert parse_tool_calls('{"name": "Paris"}') == ('{"name": "Paris"}', ())


def test_half_a_surrogate_pair_stays_escaped() -> None:
    _, (call,) = parse_tool_calls('<tool_call>{"name": "f", "arguments": {"a": "\\ud83d é"}}</tool_call>')
    assert call.arguments.encode()  # what UTF-8 can spell
    assert json.loads(call.arguments) == {"a": "\ud83d é"}
    text = '<tool_call>{"name": "\\ud83d", "arguments": {}}</tool_call>'
    assert parse_tool_calls(text) == (text, ())


def test_only_tools_of_the_request_are_called() -> None:
    text = 'So: <tool_call>{"name": "add", "arguments": {}}</tool_call>'
    assert calls_in(text, {"add"})[1][0].name == "add"
    assert calls_in(text, {"sub"}) == (text, ())
    assert calls_in(text, ()) == (text, ())


def test_a_reply_of_its_own_form_calls_nothing() -> None:
    tools = tuple(TOOLS)
    assert tool_names(Sampling(tools=tools)) == {"add"}
    assert tool_names(Sampling(tools=tools, tool_choice="none")) == set()
    assert tool_names(Sampling(tools=tools, response_format={"type": "json_object"})) == set()
    assert tool_names(Sampling(tools=tools, response_format={"type": "text"})) == {"add"}


@pytest.mark.parametrize(
    ("text", "first", "sure"),
    [
        ("", True, 0),
        ("  <tool", True, 2),
        ("<tool_call>{", True, 0),
        ("{", True, 0),
        (" [1", True, 0),
        ("{", False, 1),
        ("<b>", True, 3),
        ("a < b", True, 5),
        ("Hi", True, 2),
        ("Hi <tool_ca", False, 3),
        ("Hi <tool_call>{} <b", False, 3),
        ("x < y <", False, 6),
    ],
)
def test_what_may_be_a_call_is_held_back(text: str, first: bool, sure: int) -> None:
    assert sure_text(text, first) == sure


def test_what_a_template_does_not_know_stands_in_the_text() -> None:
    call = ToolCall("7", "add", '{"a": 1}')
    told = [
        Message("user", "sum?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "1", tool_call_id="7"),
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    rows, variables = template_input(told, tools, "{{ tools }}{{ m.tool_calls }}")
    assert variables == {"tools": tools} and len(rows) == 3 and rows[1]["content"] == ""
    assert rows[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    rows, variables = template_input(told, tools, "{{ m.content }}")
    assert variables == {} and len(rows) == 4 and '"name": "add"' in rows[0]["content"]
    assert "tool_calls" not in rows[2] and parse_tool_calls(rows[2]["content"])[1][0].name == "add"
    assert rows[3] == {"role": "tool", "content": "1", "tool_call_id": "7"}
    assert template_input(told[:1], (), None) == ([{"role": "user", "content": "sum?"}], {})
