"""BFCL's category "simple": one question, one function, and the one call that answers it, matched by its syntax tree.

Types and values are compared as the leaderboard's checker for Python compares them, oddities included: an int passes for
a float, strings are compared without case, spaces and most punctuation, and "" among the accepted values says that an
argument may be left out.

Source: Patil et al. 2025, "The Berkeley Function Calling Leaderboard"; the facts of package bfcl-eval 2026.3.23.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval, wilson
from tenfold.lm.bfcl_calls import Call, parse_calls
from tenfold.lm.tasks import read_lines
from tenfold.text.messages import Message, Reply

FILE, ANSWERS = "02-afm/bfcl_simple_python.jsonl", "02-afm/bfcl_simple_python_answers.jsonl"
Answers = Mapping[str, Sequence[Any]]  # argument -> accepted values; "" says that it may be left out


@dataclass(frozen=True)
class Item:
    """A question, the function to call and the accepted arguments.

    Args:
        id: its name.
        messages: what the model is asked.
        function: `{"name", "description", "parameters"}`, in the data's own types (dict, float, tuple, any).
        answers: accepted values of each argument.
    """

    id: str
    messages: tuple[Message, ...]
    function: Mapping[str, Any]
    answers: Answers


@dataclass(frozen=True)
class Verdict:
    """Whether a call is right, true in a condition if it is; the reason if it is not."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


class Scores(TypedDict):
    """Share of right calls with Wilson's 95 % interval, and every verdict, in order."""

    accuracy: Interval
    verdicts: list[Verdict]


def load(path: str | Path | None = None, answers: str | Path | None = None) -> list[Item]:
    """Read questions and their accepted answers; both files are JSON Lines in the leaderboard's form.

    Args:
        path, answers: None takes the 400 questions among the data sets.
    Raises:
        UserError: absent, a bad row (file:line), a question without answers.
    """
    source = data.path(FILE) if path is None else Path(path)
    solved = data.path(ANSWERS) if answers is None else Path(answers)
    for file in (source, solved):
        if not file.is_file():
            raise UserError(f"data not found: {file}; need JSON Lines in the form of BFCL's category simple")
    accepted = {str(row.get("id")): row.get("ground_truth") for _, row in read_lines(solved)}
    items = [_item(row, accepted, f"{source}:{line}") for line, row in read_lines(source)]
    if not items:
        raise UserError(f"{source}: got no rows, need at least one")
    return items


def _item(row: Mapping[str, Any], accepted: Mapping[str, Any], where: str) -> Item:
    name = str(row.get("id"))
    try:
        (turn,), (function,), (answers,) = row["question"], row["function"], accepted[name]
        messages = tuple(Message(message["role"], message["content"]) for message in turn)
        ((function_name, values),) = answers.items()
        parameters = function["parameters"]
        if function_name != function["name"] or not isinstance(parameters["properties"], dict):
            raise ValueError(f"function: got {function['name']!r}, the answers call {function_name!r}")
        if not all(isinstance(value, list) for value in values.values()):
            raise ValueError("ground_truth: need lists of accepted values")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: need id, question, function and one ground_truth of category simple ({error})"
        ) from error
    return Item(name, messages, function, values)


# What the model is shown


def prompt(item: Item) -> tuple[Message, ...]:
    """The conversation for a model without tools of its own: the function stands in the system turn."""
    text = (
        "Answer by calling the function below. Write that one call in Python with every argument by name, such as "
        'name(first=1, second="two"), and nothing else.\n\n' + json.dumps(item.function, ensure_ascii=False)
    )
    first, *rest = item.messages
    if first.role == "system":
        return (Message("system", f"{first.content}\n\n{text}"), *rest)
    return (Message("system", text), first, *rest)


def tools(item: Item) -> tuple[dict[str, Any], ...]:
    """The function as OpenAI's `tools` write it: JSON Schema's names of types, _ for . in the function's name."""
    function = {
        "name": _without_dots(item.function["name"]),
        "description": item.function.get("description", ""),
        "parameters": _json_schema(item.function["parameters"]),
    }
    return ({"type": "function", "function": function},)


_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def _json_schema(node: Mapping[str, Any]) -> dict[str, Any]:
    schema = dict(node)
    schema["type"] = _JSON_TYPES.get(node["type"], node["type"])
    if "properties" in node:
        schema["properties"] = {name: _json_schema(part) for name, part in node["properties"].items()}
    if "items" in node:
        schema["items"] = _json_schema(node["items"])
    return schema


def _without_dots(name: str) -> str:
    return name.replace(".", "_")


# Whether its call is right


def evaluate(items: Sequence[Item], replies: Sequence[str | Reply]) -> Scores:
    """Judge one reply an item.

    Args:
        items: the questions.
        replies: of the model, in the order of the items.
    Raises:
        ValueError: no items, or another number of replies.
    """
    if not items or len(items) != len(replies):
        raise ValueError(f"replies: got {len(replies)} for {len(items)} items, need one each, at least 1")
    verdicts = [judge(item, reply) for item, reply in zip(items, replies, strict=True)]
    return {"accuracy": wilson(sum(verdict.ok for verdict in verdicts), len(verdicts)), "verdicts": verdicts}


def judge(item: Item, reply: str | Reply) -> Verdict:
    """Whether a reply is one call, and the right one."""
    try:
        calls = parse_calls(reply)
    except ValueError as error:
        return Verdict(False, str(error))
    if len(calls) != 1:
        return Verdict(False, f"calls: got {len(calls)}, need 1")
    return check(calls[0], item.function, item.answers)


def check(call: Call, function: Mapping[str, Any], answers: Answers) -> Verdict:
    """Whether a call has the function's name, its required arguments, no unknown ones, and accepted values.

    Args:
        call: its function's name may have _ in place of dots, which tools of an API cannot have.
        function: the schema, in the data's own types.
        answers: accepted values of each argument; "" among them: it may be left out.
    Raises:
        ValueError: the schema has a type that is not known.
    """
    name, parameters = function["name"], function["parameters"]
    if call.name not in (name, _without_dots(name)):
        return Verdict(False, f"function: got {reprlib.repr(call.name)}, need {name!r}")
    for needed in parameters.get("required", ()):
        if needed not in call.arguments:
            return Verdict(False, f"{needed}: missing, and required")
    for argument, value in call.arguments.items():
        if argument not in parameters["properties"] or argument not in answers:
            return Verdict(False, f"{reprlib.repr(argument)}: no such argument")
        reason = _mismatch(value, parameters["properties"][argument], answers[argument])
        if reason:
            return Verdict(False, f"{argument}: {reason}")
    for argument, accepted in answers.items():
        if argument not in call.arguments and "" not in accepted:
            return Verdict(False, f"{argument}: missing, and the answers have it")
    return Verdict(True)


_PYTHON = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict, "any": str,
}  # fmt: skip


def _mismatch(value: Any, schema: Mapping[str, Any], accepted: Sequence[Any]) -> str:
    """Why a value is not accepted; empty if it is."""
    kind = schema["type"]
    wanted, inner = _python_type(kind), None
    if kind in ("array", "tuple"):
        inner = _python_type(schema["items"]["type"])
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)  # JSON made lists of the tuples among the accepted values
    if kind == "float" and type(value) is int:
        with suppress(OverflowError):
            value = float(value)
    if not _has_type(value, wanted, inner, accepted):
        return f"got {reprlib.repr(value)} ({type(value).__name__}), need {kind}"
    if not _is_accepted(value, wanted, inner, accepted):
        return f"got {reprlib.repr(value)}, need one of {reprlib.repr(list(accepted))}"
    return ""


def _python_type(name: str) -> type:
    if name not in _PYTHON:
        raise ValueError(f"type: got {name!r}, need one of {', '.join(_PYTHON)}")
    return _PYTHON[name]


def _has_type(value: Any, wanted: type, inner: type | None, accepted: Sequence[Any]) -> bool:
    """The schema's type, or that of the accepted values, which stand for a variable where they differ.

    A list passes if its items have their type beside one of the accepted lists, or if the argument may be left out.
    """
    kind = type(value)
    if kind is not wanted:
        return kind is _type_of(accepted)
    if inner is None:
        return True
    return any(not isinstance(one, list) or all(_has_type(v, inner, None, one) for v in value) for one in accepted)


def _type_of(accepted: Sequence[Any]) -> type | None:
    return next((type(one) for one in accepted if one != ""), None)


def _is_accepted(value: Any, wanted: type, inner: type | None, accepted: Sequence[Any]) -> bool:
    if _type_of(accepted) not in (None, wanted):
        return value in accepted
    if wanted is dict:
        return any(_matches(value, one) for one in accepted)
    if inner is dict:
        return any(len(value) == len(one) and all(map(_matches, value, one)) for one in accepted)
    if wanted is list:
        return _plain_all(value) in [_plain_all(one) for one in accepted]
    return _plain(value) in _plain_all(accepted)


def _matches(value: Any, accepted: Any) -> bool:
    """Whether a dictionary has only accepted values, and every key that may not be left out."""
    if not isinstance(value, dict) or not isinstance(accepted, dict):
        return False
    fits = all(key in accepted and _plain(item) in _plain_all(accepted[key]) for key, item in value.items())
    return fits and all(key in value or "" in options for key, options in accepted.items())


def _plain(value: Any) -> Any:
    """Strings in lower case without spaces and , . / - _ * ^, and with one kind of quote."""
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if isinstance(value, str) else value


def _plain_all(values: Sequence[Any]) -> list[Any]:
    return [_plain(value) for value in values]
