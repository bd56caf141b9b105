"""Calls and signatures in Python: read without evaluating, written back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.tools.calls import Call, CallError, parse_call, render_call
from tenfold.tools.signatures import SignatureError, parse_signature, write_signature

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=4))
def test_a_call_that_is_written_is_read_back(arguments: dict[str, Any]) -> None:
    call = Call("geo.find", arguments)
    assert parse_call(render_call(call)) == call


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("f(a=1, b='x')", {"a": 1, "b": "x"}),
        ("f(a=true, b=null, c=(1, -2.5))", {"a": True, "b": None, "c": [1, -2.5]}),
        ("f('x', 3)", {"p": "x", "q": 3}),
        ("  f(a={'k': [1]}) ", {"a": {"k": [1]}}),
    ],
)
def test_calls(text: str, arguments: dict[str, Any]) -> None:
    assert parse_call(text, ["p", "q"]) == Call("f", arguments)


@pytest.mark.parametrize(
    "text",
    [
        "f(a='it's')",
        "f(a=1",
        "f",
        "f(a=__import__('os').system('true'))",
        "f(a=1, a=2)",
        "f(1)",
        "f(*[1])",
        "f(**x)",
        "f(a=KEY)",
        "f(a=b'x')",
        "f(a=1+1j)",
        "f(a=" + "[" * 3000 + "]" * 3000 + ")",
        "f()(a=1)",
        "f(a='" + "x" * 30_000 + "')",
    ],
)
def test_what_is_no_call(text: str) -> None:
    with pytest.raises(CallError) as refused:
        parse_call(text)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_other_values_as_their_source_text() -> None:
    assert parse_call("f(a=KEY, b=[1, now()])", literal=False) == Call("f", {"a": "KEY", "b": "[1, now()]"})


def test_a_signature_as_a_closed_schema() -> None:
    read = parse_signature("f(a: str, n: int = 3, x: Optional[float] = None, t: list[str] = [], u=NOW) -> dict")
    assert read.name == "f" and read.returns == {"type": "object"}
    assert read.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "n": {"type": "integer", "default": 3},
            "x": {"type": ["number", "null"], "default": None},
            "t": {"type": "array", "items": {"type": "string"}, "default": []},
            "u": {},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    written = write_signature("f", read.parameters, read.returns)
    assert parse_signature(written).parameters["properties"]["x"] == {"type": ["number", "null"], "default": None}
    json.dumps(read.parameters)


@pytest.mark.parametrize(
    ("text", "mended", "required"),
    [
        ("f(a: str, n: int = 3, b: str)", "order of the parameters", ["a", "b"]),
        ("f(a: str, ...)", "open parameter list", ["a"]),
        ("f(a: str, optional b: int)", "open parameter list", ["a", "b"]),
        ("f(a: str = '(,', b: int, ...)", "open parameter list, order of the parameters", ["b"]),
    ],
)
def test_signatures_that_python_cannot_read_are_mended_on_request(text: str, mended: str, required: list[str]) -> None:
    with pytest.raises(SignatureError):
        parse_signature(text)
    read = parse_signature(text, mend=True)
    assert (read.mended, read.parameters["required"]) == (mended, required)


@pytest.mark.parametrize("text", ["", "f", "f(", "f(a): pass\ndef g()", "f(*a)", "f(a): import os; x("])
def test_what_is_no_signature(text: str) -> None:
    with pytest.raises(SignatureError):
        parse_signature(text, mend=True)
