"""What models write as arguments, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold.tools.arguments import PREVIEW, ToolArgumentError, parse_arguments
from tenfold.tools.tool import Tool, ToolRegistry

TOOL = ToolRegistry.from_signature("f(a: int, b: str = 'x', c: bool = False, d: float = 0.0)").get("f")
ANY = Tool(name="g", parameters={"type": "object"})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": 3}', {"a": 3}),
        ('{"a": 3.0}', {"a": 3}),
        ('{"a": 1e3}', {"a": 1000}),
        ('\ufeff {"a": 3}\n', {"a": 3}),
        ('```json\n{"a": 3}\n```', {"a": 3}),
        ('Sure, here it is: {"a": 3} as you asked.', {"a": 3}),
        ('<think>{"a": 9}</think>{"a": 3}', {"a": 3}),
        ('{"a": 3, "b": "{\\"a\\": 4}"}', {"a": 3, "b": '{"a": 4}'}),
    ],
)
def test_what_is_read(text: str, values: dict[str, Any]) -> None:
    read = parse_arguments(text, TOOL)
    assert read.values == values and not read.repaired
    assert type(read.values["a"]) is int


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON"),
        ("null", "must be an object, got null"),
        ("[1]", "must be an object, got list"),
        ("3", "must be an object, got number"),
        ('"x"', "must be an object, got string"),
        ('{"a": 3} {"a": 4}', "got 2 JSON objects"),
        ('{"a": 3, "a": 4}', "key 'a' twice"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 3, "d": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 3, "b": "\\ud800"}', "half of a surrogate pair"),
        ('{"a": 3, "b": ' + "[" * 70 + "]" * 70 + "}", "nested more than 64"),
        ('{"a": ' + "[" * 60_000, "no JSON|too deep|nested"),
        ("{'a': 3}", "no JSON"),
        ('{"a": 3,}', "no JSON"),
        ('{"a": 3', "no JSON"),
        ("x" * 100_000, "need at most 64000"),
        ('{"a": "3"}', "/a: '3' is not of type 'integer'"),
        ('{"a": 3.5}', "/a: 3.5 is not of type"),
        ('{"a": true}', "/a: True is not of type"),
        ("{}", "'a' is a required property"),
        ('{"a": 3, "z": 1}', "'z' was unexpected"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ToolArgumentError, match=reason) as refused:
        parse_arguments(text, TOOL)
    assert "\n" not in str(refused.value) and len(refused.value.preview) <= PREVIEW


@pytest.mark.parametrize("text", ["{'a': 3}", '{"a": 3,}', '{"a": 3', "here: {a: 3}"])
def test_broken_json_is_mended_once_where_asked_for_and_marked(text: str) -> None:
    read = parse_arguments(text, TOOL, repair=True)
    assert read.values == {"a": 3} and read.repaired


def test_what_is_mended_is_checked_as_well() -> None:
    with pytest.raises(ToolArgumentError, match="is not of type"):
        parse_arguments("{'a': 'x'}", TOOL, repair=True)
    with pytest.raises(ToolArgumentError):
        parse_arguments("no object at all", TOOL, repair=True)


def test_lossless_conversions_where_asked_for() -> None:
    assert parse_arguments('{"a": "3", "c": "true"}', TOOL, coerced=True).values == {"a": 3, "c": True}
    with pytest.raises(ToolArgumentError):
        parse_arguments('{"a": "3.5"}', TOOL, coerced=True)


def test_issues_and_a_printable_preview_go_back_to_the_model() -> None:
    with pytest.raises(ToolArgumentError) as refused:
        parse_arguments('{"a": "\x1b[31m' + "x" * 400 + '"}', ANY)
    assert "\x1b" not in refused.value.preview and refused.value.preview.endswith("…")
