"""Calls read from replies: every form, nothing carried out, hostile text."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.lm.bfcl_calls import LONGEST, Call, parse_calls
from tenfold.text.messages import Reply, ToolCall, Usage

ONE = Call("f", {"a": 1})


@pytest.mark.parametrize(
    "text",
    [
        "f(a=1)",
        "[f(a=1)]",
        " f( a = 1 )\n",
        "`f(a=1)`",
        "```\n[f(a=1)]\n```",
        "```python\nf(a=1)\n```",
        "f(0, a=1)",
        '{"name": "f", "arguments": {"a": 1}}',
        '{"name": "f", "parameters": {"a": 1}}',
        '[{"name": "f", "arguments": {"a": 1}}]',
        '{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}',
        '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>',
        'Let me see. <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        '```json\n{"name": "f", "arguments": {"a": 1}}\n```',
    ],
)
def test_forms_of_one_call(text: str) -> None:
    assert parse_calls(text) == [ONE]


def test_several_calls_and_dotted_names() -> None:
    assert parse_calls("[f(a=1), a.b.g()]") == parse_calls("f(a=1), a.b.g()") == [ONE, Call("a.b.g", {})]
    assert parse_calls("[]") == []


def test_calls_of_an_api_come_first() -> None:
    calls = (ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "g", "{}"))
    assert parse_calls(Reply("h(b=2)", "tool_calls", Usage(1, 1), calls)) == [ONE, Call("g", {})]
    assert parse_calls(Reply("f(a=1)", "stop", Usage(1, 1))) == [ONE]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-5", -5),
        ("'x'", "x"),
        ("[1, (2, 'b'), {'c': None}]", [1, (2, "b"), {"c": None}]),
        ("True", True),
        ("2 * 3 + 1", 7),
        ("5 / 100", 0.05),
        ("7 // 2 % 2", 1),
        ("x", "x"),
        ("[x, true]", ["x", "true"]),
        ("date(2020, 1)", "date(2020, 1)"),
        ("b'x'", b"x"),
    ],
)
def test_values_in_python(text: str, value: Any) -> None:
    assert parse_calls(f"f(a={text})") == [Call("f", {"a": value})]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot do that.",
        "f",
        "1",
        "f(a=1",
        "f(a=1); g()",
        "x = f(a=1)",
        "import os",
        "f(**{'a': 1})",
        "f(a={**b})",
        "f(a=9**9**9)",
        "f(a='x' * 9)",
        "f(a=1/0)",
        "f(a=1e308 * 10 ** 2)",
        "f(a=lambda: 1)",
        "f(a=b[0])",
        "f(a=g(x=1))",
        "f(a=[i for i in b])",
        "f(a={[]: 1})",
        "f()()",
        "(lambda: 1)()",
        "__import__('os').system('true')",
        '{"name": "f"',
        '{"arguments": {"a": 1}}',
        "f(a=\0)",
        "f(a='\ud800')",
        "f(a=" + "9" * 5000 + ")",
        "f(a=" + "-" * 9000 + "1)",
        "f(a=" + "(" * 9000 + ")" * 9000 + ")",
        "f(a=" + "1+" * 9000 + "1)",
        "[" * 9000,
        '{"a":' * 4000,
        "f" + ".a" * 9000 + "()",
        "f(a=1)" + " " * LONGEST + ";",
    ],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="reply: got"):
        parse_calls(text)


@pytest.mark.parametrize("arguments", ["", "[1]", "{a: 1}", "[" * 5000, '"x"', " " * (LONGEST + 1)])
def test_broken_arguments_of_an_api_are_refused(arguments: str) -> None:
    with pytest.raises(ValueError, match="arguments"):
        parse_calls(Reply("", "tool_calls", Usage(1, 1), (ToolCall("1", "f", arguments),)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,8}_\Z"), VALUES))
def test_what_is_written_is_read_back(arguments: dict[str, Any]) -> None:
    python = f"f({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    assert parse_calls(python) == parse_calls(json.dumps({"name": "f", "arguments": arguments}))
    assert parse_calls(python) == [Call("f", arguments)]


@given(st.text(alphabet="f(a=1)[]{}\"':,*.- \n<>`", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert all(isinstance(call, Call) for call in parse_calls(text))
