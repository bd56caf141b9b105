"""Answers that keep to a schema whatever the model would say, and schemas that are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.structured import JsonForms
from tenfold.text.chat import Message, Sampling, complete_all
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

USER = Message("user", "Which?")
SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"enum": ["yes", "no", "na\u00efve"]},
        "sure": {"type": "boolean"},
        "digits": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
    },
    "required": ["answer", "sure", "digits"],
    "additionalProperties": False,
}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(['yes or no, {"answer": "yes", "sure": true, "digits": [1, 2]}'] * 20, 330)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Iterator[LocalChatModel]:
    cfg = DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=2048)
    with LocalChatModel(Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer, compiled="off") as chat:
        yield chat


def test_a_model_without_training_keeps_to_the_schema(model: LocalChatModel) -> None:
    replies = complete_all(
        model, [[USER]], Sampling(seed=0, temperature=3.0, response_format=schema_format(SCHEMA)), n=60
    )[0]
    answers = [json.loads(reply.text) for reply in replies]
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert {answer["answer"] for answer in answers} == {"yes", "no", "na\u00efve"}
    for answer in answers:
        assert list(answer) == list(SCHEMA["properties"])  # type: ignore[call-overload]
        assert isinstance(answer["sure"], bool)
        assert len(answer["digits"]) <= 3
        assert all(0 <= digit <= 9 for digit in answer["digits"])


def test_forms_beside_free_answers_in_one_batch(model: LocalChatModel) -> None:
    formats = [schema_format(SCHEMA), None, {"type": "text"}, schema_format({"const": 7})]
    texts = [complete_all(model, [[USER]], Sampling(seed=1, response_format=form), n=3)[0][0].text for form in formats]
    assert json.loads(texts[0])["answer"] in {"yes", "no", "na\u00efve"}
    assert texts[1] == texts[2]
    assert texts[3] == "7"


def test_any_object(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    """Every beginning of an answer can be gone on with; the closing brace may always be asked for."""
    form = JsonForms(tokenizer, 7).of_format({"type": "json_object"})
    assert form is not None
    (brace,) = tokenizer.encode("{")
    first = {tokenizer.decode([int(id)]) for id in form([])}
    assert first
    assert all(text.startswith("{") for text in first)
    assert tokenizer.encode("}")[0] in set(form([brace]))
    assert list(form([brace, *tokenizer.encode("}")])) == [7]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "got type 'None', need text, json_object or json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "json_schema needs an object with a schema"),
        (schema_format({"type": "strng"}), "response_format: "),
        (schema_format({"$ref": "#/nowhere"}), "response_format: "),
        (schema_format({"type": "string", "pattern": "("}), "response_format: "),
        (schema_format({"$ref": "#"}), "no answer can meet the schema"),
        (schema_format({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "no answer can meet the schema"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(tokenizer: Tokenizer, form: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="response_format: ") as refused:
        JsonForms(tokenizer, 7).of_format(form)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_schema_without_end_ends_its_own_request_alone(model: LocalChatModel) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with pytest.raises(UserError, match="the schema cannot be met"):
        complete_all(model, [[USER]], Sampling(response_format=schema_format(endless)))
    assert complete_all(model, [[USER]], Sampling(choices=("fine",)))[0][0].text == "fine"


def test_a_forced_call_is_a_call_of_a_tool_that_is_there(model: LocalChatModel) -> None:
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    parameters = {"type": "object", "properties": {"a": digit}, "required": ["a"], "additionalProperties": False}
    tools = ({"type": "function", "function": {"name": "add", "parameters": parameters}},)
    tools += ({"type": "function", "function": {"name": "halve", "parameters": parameters}},)
    named = {"type": "function", "function": {"name": "halve"}}
    for choice, names in (("required", {"add", "halve"}), (named, {"halve"})):
        sampling = Sampling(tools=tools, tool_choice=choice, max_tokens=80, temperature=2.0, seed=0)
        replies = complete_all(model, [[USER]], sampling, n=6)[0]
        assert {reply.finish_reason for reply in replies} == {"tool_calls"}
        calls = [reply.tool_calls[0] for reply in replies]
        assert {call.name for call in calls} <= names
        assert all(0 <= json.loads(call.arguments)["a"] <= 9 for call in calls)


def test_arguments_that_cannot_be_checked_are_any_object(tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "strng"}}}]
    assert JsonForms(tokenizer, 7).of_tools(tools, None)([]).size  # type: ignore[union-attr]
