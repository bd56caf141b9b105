"""Calls written in Python, `f(a=1, b='x')`: read without evaluating anything, and written back."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import suppress
from keyword import iskeyword
from typing import Any

from tenfold.lm.bfcl_calls import Call

__all__ = ["LONGEST", "Call", "CallError", "parse_call", "render_call"]

LONGEST = 20_000  # characters of a call; what is longer is none
_NAMES = {"true": True, "false": False, "null": None}  # JSON's words, which models write among Python's


class CallError(ValueError):
    """Text that is no call; the message says why in one line."""


class NotLiteralError(CallError):
    """A call with a value that is no literal."""


def parse_call(text: str, order: Sequence[str] = (), *, literal: bool = True) -> Call:
    """A call with arguments of JSON's types; tuples and sets become lists, keys text.

    Args:
        text: `name(argument=value, ...)`; values are Python's literals, or true, false, null.
        order: names of the parameters, for arguments without a name.
        literal: refuse other values; False takes their source text, as in `key=MY_KEY`.
    Raises:
        CallError: no call, a value that is no literal, an argument twice, or more arguments than `order` has.
    Source: the calls of ToolDEER's data.
    """
    if len(text) > LONGEST:
        raise CallError(f"call: got {len(text)} characters, need at most {LONGEST}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CallError(f"call: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(node, ast.Call):
        raise CallError(f"call: got {type(node).__name__}, need name(argument=value)")
    try:
        return Call(_dotted(node.func), _arguments(node, order, literal))
    except RecursionError:
        raise CallError("call: nested too deeply") from None


def render_call(call: Call) -> str:
    """The call in Python; `parse_call` reads it back. Arguments whose names are none of Python's stand in `**{...}`."""
    # Python reads other letters than ASCII in a normal form, which may be another text.
    plain = {
        name: value
        for name, value in call.arguments.items()
        if name.isascii() and name.isidentifier() and not iskeyword(name)
    }
    parts = [f"{name}={value!r}" for name, value in plain.items()]
    if others := {name: value for name, value in call.arguments.items() if name not in plain}:
        parts.append(f"**{others!r}")
    return f"{call.name}({', '.join(parts)})"


def _arguments(node: ast.Call, order: Sequence[str], literal: bool) -> dict[str, Any]:
    if len(node.args) > len(order):
        raise CallError(f"call: got {len(node.args)} arguments without a name, need at most {len(order)}")
    pairs: list[tuple[str | None, ast.expr]] = list(zip(order, node.args, strict=False))
    for keyword in node.keywords:
        pairs += _unpacked(keyword.value) if keyword.arg is None else [(keyword.arg, keyword.value)]
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name is None or isinstance(value, ast.Starred):
            raise CallError("call: * and ** are no arguments, but for ** of a literal")
        if name in found:
            raise CallError(f"call: argument {name} twice")
        try:
            found[name] = _value(value)
        except NotLiteralError:
            if literal:
                raise
            found[name] = ast.unparse(value)
    return found


def _unpacked(node: ast.expr) -> list[tuple[str | None, ast.expr]]:
    """The pairs of `**{'name': value}`."""
    if not isinstance(node, ast.Dict):
        return [(None, node)]
    return [(_value(key), value) if isinstance(key, ast.Constant) else (None, value) for key, value in zip(node.keys, node.values, strict=True)]  # fmt: skip


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise CallError(f"call: {type(node).__name__} is no name")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {str(_value(key)): _value(item) for key, item in pairs if key is not None}
    with suppress(ValueError, TypeError, SyntaxError, MemoryError):
        value = ast.literal_eval(node)
        if value is None or isinstance(value, str | bool | int | float):
            return value
    raise NotLiteralError(f"call: {ast.unparse(node)[:60]!r} is no literal of JSON's types")
