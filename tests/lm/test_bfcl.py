"""BFCL "simple": types, accepted values, missing and unknown arguments, prompts, faults in the data."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.lm.bfcl import Item, Verdict, check, evaluate, judge, load, prompt, tools
from tenfold.lm.bfcl_calls import Call
from tenfold.text.messages import Message, Reply, ToolCall, Usage


def schema(**properties: Any) -> dict[str, Any]:
    """A function with one required argument for each name that does not end in "_"."""
    required = [name for name in properties if not name.endswith("_")]
    return {
        "name": "geo.f",
        "description": "does it",
        "parameters": {"type": "dict", "properties": properties, "required": required},
    }


LIST = {"type": "array", "items": {"type": "string"}}
# the argument's schema, its accepted values, what passes, what does not
CASES: list[tuple[dict[str, Any], list[Any], list[Any], list[Any]]] = [
    ({"type": "integer"}, [5], [5], [5.0, "5", True, 6, None, [5]]),
    ({"type": "integer"}, ["n"], ["n"], [5, "N"]),  # a variable: its name, to the letter
    ({"type": "float"}, [5.0, 7], [5.0, 5, 7], ["5", 5.1, True]),
    ({"type": "float"}, [5], [5, 5.0], [6, 10**400]),  # JSON wrote 5.0 as 5
    ({"type": "boolean"}, [True], [True], [1, "True", False]),
    (
        {"type": "string"},
        ["New York, NY", "It's"],
        ["New York, NY", "new york ny", "NEW-YORK_NY.", "new/york*^ny", 'it"s', "its'"[:2] + "'s"],
        ["New York", "New\nYork NY", 5, ["New York, NY"], None, ""],
    ),
    ({"type": "string"}, ["a", ""], ["A", "", "-"], ["b"]),  # an optional one may be empty
    ({"type": "string"}, [""], ["", "-"], ["a"]),
    ({"type": "any"}, ["a"], ["A"], [1]),
    (LIST, [["A b", "c"], ["d"]], [["a-B", "C"], ["D"]], [["c", "A b"], ["A b"], [1], ("A b", "c"), "A b", []]),
    (LIST, [["a"], ""], [["a"], []], [["b"], [1]]),
    ({"type": "array", "items": {"type": "integer"}}, [[1, 2]], [[1, 2]], [[1.0, 2.0], [1, "2"], [2, 1]]),
    ({"type": "array", "items": {"type": "float"}}, [[1, 2]], [[1, 2], [1.0, 2.0]], [["1", 2]]),
    ({"type": "array", "items": {"type": "float"}}, [[1.5, 2.0]], [[1.5, 2.0]], [[1.5, 2]]),  # no int inside a list
    ({"type": "array", "items": {"type": "float"}}, [[1.5, 2.0], ""], [[1.5, 2], []], [[1.5, 3]]),
    ({"type": "array", "items": {"type": "array"}}, [[[1], [2]]], [[[1], [2]]], [[1, 2]]),
    ({"type": "tuple", "items": {"type": "float"}}, [[1.0, 2.0]], [(1.0, 2.0), [1.0, 2.0]], [(2.0, 1.0), "1"]),
    (
        {"type": "dict"},
        [{"a": ["X y"], "b": [1, ""]}],
        [{"a": "x Y", "b": 1}, {"a": "x-y"}],
        [{"b": 1}, {"a": "x y", "c": 1}, {"a": "z"}, {}, [{"a": "x y"}], "a"],
    ),
    ({"type": "dict"}, [{"a": [1]}, ""], [{"a": 1}], [{}, ""]),
    (
        {"type": "array", "items": {"type": "dict"}},
        [[{"a": ["x"]}, {"a": ["y"]}]],
        [[{"a": "X"}, {"a": "y"}]],
        [[{"a": "y"}, {"a": "x"}], [{"a": "x"}], [], [{"a": "x"}, "y"]],
    ),
]


@pytest.mark.parametrize(("kind", "accepted", "passing", "failing"), CASES)
def test_types_and_values(kind: dict[str, Any], accepted: list[Any], passing: list[Any], failing: list[Any]) -> None:
    function = schema(x=kind)
    for value in passing:
        assert check(Call("geo.f", {"x": value}), function, {"x": accepted}) == Verdict(True), value
    for value in failing:
        verdict = check(Call("geo.f", {"x": value}), function, {"x": accepted})
        assert not verdict.ok and verdict.reason.startswith("x: got "), value


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("geo.f", {"a": 1}, ""),
        ("geo_f", {"a": 1}, ""),
        ("geo.f", {"a": 1, "b_": 2}, ""),
        ("f", {"a": 1}, "function: got 'f', need 'geo.f'"),
        ("geo.f", {}, "a: missing, and required"),
        ("geo.f", {"a": 1, "z": 2}, "'z': no such argument"),
        ("geo.f", {"a": 1, "d_": 2}, "'d_': no such argument"),  # in the schema, but no answer has it
        ("geo.f", {"a": 2}, r"a: got 2, need one of [1]"),
        ("geo.f", {"a": "1"}, "a: got '1' (str), need integer"),
    ],
)
def test_names_of_functions_and_arguments(name: str, arguments: dict[str, Any], reason: str) -> None:
    function, answers = schema(a=INTEGER, b_=INTEGER, d_=INTEGER), {"a": [1], "b_": [2, ""]}
    assert check(Call(name, arguments), function, answers) == Verdict(not reason, reason)


def test_an_argument_the_answers_insist_on() -> None:
    verdict = check(Call("geo.f", {"a": 1}), schema(a=INTEGER, b_=INTEGER), {"a": [1], "b_": [2]})
    assert verdict == Verdict(False, "b_: missing, and the answers have it")


def test_an_unknown_type_is_a_fault_of_the_data() -> None:
    with pytest.raises(ValueError, match="type: got 'number', need one of string"):
        check(Call("geo.f", {"a": 1}), schema(a={"type": "number"}), {"a": [1]})


ITEM = Item("1", (Message("user", "How far?"),), schema(a=INTEGER, type={"type": "string"}), {"a": [1], "type": ["km"]})


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('geo.f(a=1, type="KM")', ""),
        ('{"name": "geo_f", "arguments": {"a": 1, "type": "km"}}', ""),
        (Reply("", "tool_calls", Usage(1, 1), (ToolCall("1", "geo_f", '{"a": 1, "type": "km"}'),)), ""),
        ("geo.f(a=1, type='km'), geo.f(a=1, type='km')", "calls: got 2, need 1"),
        ("[]", "calls: got 0, need 1"),
        ("It is far.", "reply: got no function call"),
    ],
)
def test_a_reply_must_be_one_call(reply: str | Reply, reason: str) -> None:
    verdict = judge(ITEM, reply)
    assert verdict.ok == (not reason) and verdict.reason.startswith(reason)


def test_reasons_stay_short() -> None:
    assert len(judge(ITEM, f"geo.f(a=1, type='{'x' * 15_000}')").reason) < 200


def test_accuracy_and_its_interval() -> None:
    scores = evaluate([ITEM] * 4, ["geo.f(a=1, type='km')"] * 3 + ["no"])
    assert scores["accuracy"].value == 0.75 and scores["accuracy"].low < 0.75 < scores["accuracy"].high
    assert [verdict.ok for verdict in scores["verdicts"]] == [True, True, True, False]
    with pytest.raises(ValueError, match="replies: got 1 for 2 items"):
        evaluate([ITEM] * 2, ["no"])


def test_the_function_as_a_tool() -> None:
    nested = {"type": "array", "items": {"type": "dict", "properties": {"type": {"type": "float"}}}}
    item = Item("1", ITEM.messages, schema(a={"type": "any"}, b=nested, c={"type": "tuple", "items": INTEGER}), {})
    before = copy.deepcopy(item.function)
    assert tools(item) == (
        {
            "type": "function",
            "function": {
                "name": "geo_f",
                "description": "does it",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "a": {"type": "string"},
                        "b": {"type": "array", "items": {"type": "object", "properties": {"type": {"type": "number"}}}},
                        "c": {"type": "array", "items": {"type": "integer"}},
                    },
                    "required": ["a", "b", "c"],
                },
            },
        },
    )
    assert item.function == before


def test_the_function_in_the_prompt() -> None:
    system, user = prompt(ITEM)
    assert system.role == "system" and json.dumps(ITEM.function) in system.content and user == ITEM.messages[0]
    own = Item("1", (Message("system", "Be brief."), *ITEM.messages), ITEM.function, ITEM.answers)
    first, *rest = prompt(own)
    assert first.content == f"Be brief.\n\n{system.content}" and rest == [user]


def first_accepted(value: Any) -> Any:
    """An argument made of accepted values: the first of each, inside dictionaries too."""
    if isinstance(value, dict):
        return {name: first_accepted(next(v for v in values if v != "")) for name, values in value.items()}
    return [first_accepted(item) for item in value] if isinstance(value, list) else value


def written(item: Item, arguments: dict[str, Any]) -> str:
    return f"{item.function['name']}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def called(item: Item, arguments: dict[str, Any]) -> Reply:
    call = ToolCall("1", tools(item)[0]["function"]["name"], json.dumps(arguments))
    return Reply("", "tool_calls", Usage(1, 1), (call,))


def test_the_400_questions_accept_their_own_answers(data_dir: Path) -> None:
    folder = data_dir / "02-afm"
    items = load(folder / "bfcl_simple_python.jsonl", folder / "bfcl_simple_python_answers.jsonl")
    assert len(items) == 400
    whole, least = [], []  # all arguments, and only those that may not be left out
    for item in items:
        given = {name: [v for v in values if v != ""] for name, values in item.answers.items()}
        arguments = {name: first_accepted(values[0]) for name, values in given.items() if values}
        needed = item.function["parameters"]["required"]
        whole.append(arguments)
        least.append({n: v for n, v in arguments.items() if n in needed or "" not in item.answers[n]})
    for arguments in (whole, least):
        for form in (written, called):
            replies = [form(item, given) for item, given in zip(items, arguments, strict=True)]
            assert evaluate(items, replies)["accuracy"].value == 1
    wrong = [written(item, given).replace("=", "=not_", 1) for item, given in zip(items, whole, strict=True)]
    assert evaluate(items, wrong)["accuracy"].value < 0.02


QUESTION = {"id": "q", "question": [[{"role": "user", "content": "x"}]], "function": [schema(a=INTEGER)]}
ANSWER = {"id": "q", "ground_truth": [{"geo.f": {"a": [1]}}]}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"question": []}, {}),
        ({"question": [[], []]}, {}),
        ({"question": [[{"role": "user"}]]}, {}),
        ({"function": []}, {}),
        ({"function": [schema(a=INTEGER)] * 2}, {}),
        ({"function": [{"name": "geo.f", "parameters": {}}]}, {}),
        ({"function": ["geo.f"]}, {}),
        ({}, {"id": "other"}),
        ({}, {"ground_truth": [{"f": {"a": [1]}}]}),
        ({}, {"ground_truth": [{"geo.f": {"a": 1}}]}),
        ({}, {"ground_truth": []}),
        ({}, {"ground_truth": None}),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, question: dict[str, Any], answer: dict[str, Any]) -> None:
    questions, answers = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text(json.dumps(QUESTION | question))
    answers.write_text(json.dumps(ANSWER | answer))
    with pytest.raises(UserError, match=r"q.jsonl:1: need id, question, function and one ground_truth"):
        load(questions, answers)


def test_files_good_empty_and_absent(tmp_path: Path) -> None:
    questions, answers = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    questions.write_text(json.dumps(QUESTION))
    with pytest.raises(UserError, match=r"data not found: .*a.jsonl"):
        load(questions, answers)
    answers.write_text(json.dumps(ANSWER))
    assert load(questions, answers) == [Item("q", (Message("user", "x"),), schema(a=INTEGER), {"a": [1]})]
    questions.write_text("")
    with pytest.raises(UserError, match="got no rows"):
        load(questions, answers)
