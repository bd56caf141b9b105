"""Function calls in a model's reply, read and never carried out: the tool calls of an API, JSON, or Python."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tenfold.text.messages import Reply, ToolCall
from tenfold.text.tool_calls import parse_tool_calls

LONGEST = 20_000  # characters of a reply or of a call's arguments; what is longer is no call

_FENCE = re.compile(r"^```(?:python|json|tool_code|tool_call)?\s")
# Without powers, whose values can be larger than memory.
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Call:
    """A function's name and its arguments by name."""

    name: str
    arguments: Mapping[str, Any]


def parse_calls(reply: str | Reply) -> list[Call]:
    """The calls in a reply, nothing of which is carried out.

    Read are the tool calls of a `Reply`; JSON in the forms of `tenfold.text.tool_calls`; and Python: `f(a=1)`,
    `[f(a=1)]`, calls separated by commas, each perhaps in a code fence. Arguments without a name are dropped.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(reply, Reply):
        if reply.tool_calls:
            return [_from_tool_call(call) for call in reply.tool_calls]
        reply = reply.text
    if len(reply) > LONGEST:
        raise ValueError(f"reply: got {len(reply)} characters, need at most {LONGEST}")
    text = _FENCE.sub("", reply.strip()).strip("` \n")
    _, calls = parse_tool_calls(text)
    return [_from_tool_call(call) for call in calls] if calls else _from_python(text)


def _from_tool_call(call: ToolCall) -> Call:
    if len(call.arguments) > LONGEST:
        raise ValueError(f"arguments: got {len(call.arguments)} characters, need at most {LONGEST}")
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments of {call.name!r}: got no JSON object")
    return Call(call.name, arguments)


def _from_python(text: str) -> list[Call]:
    try:
        tree = ast.parse(text, mode="eval").body
        return [_call(node) for node in (tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree])]
    # A deep tree overflows the parser's stack or ours, a long sum the largest float.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, ArithmeticError) as error:
        raise ValueError(f"reply: got no function call in Python or JSON ({error})") from error


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call):
        raise ValueError(f"{type(node).__name__} is no call")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** is no argument")
        arguments[keyword.arg] = _value(keyword.value)
    return Call(_dotted(node.func), arguments)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(f"{type(node).__name__} is no function's name")


def _value(node: ast.expr) -> Any:
    """A literal, arithmetic on numbers, or the text of a bare name or of a call without named arguments."""
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if key is not None}
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left), _value(node.right)
        if not all(isinstance(side, int | float) for side in (left, right)):
            raise ValueError("arithmetic on something else than numbers")
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call) and not node.keywords:
        return ast.unparse(node)
    return ast.literal_eval(node)
