"""What reads the words of models, the answers of servers, the bodies of requests, and words of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from parsers import Parser, text

from tenfold.align.chat_samples import read_messages
from tenfold.clinical.cohort_words import parse_events, parse_rules
from tenfold.clinical.task_weighting import read_weights_csv
from tenfold.core.errors import UserError
from tenfold.games.referee import judge
from tenfold.lm.bfcl_calls import parse_calls
from tenfold.lm.serve_format import ApiError, ChatBody, CompletionBody, parse_body
from tenfold.prompts.answers import extract, letter_of, number_in
from tenfold.prompts.roles import parse_tags
from tenfold.recipes.deep_ssm.verbs import parse_plan
from tenfold.recipes.mm1.config import Mix
from tenfold.text.endpoint_errors import Fault
from tenfold.text.endpoint_format import parse_replies
from tenfold.text.html import clean_html
from tenfold.text.messages import Message
from tenfold.text.tool_calls import parse_tool_calls
from tenfold.tools.arguments import parse_arguments
from tenfold.tools.calls import parse_call
from tenfold.tools.render import parse, read_trace
from tenfold.tools.signatures import parse_signature
from tenfold.tools.sources import of_json
from tenfold.tools.tool import ToolRegistry
from tenfold.tools.trace import Trace

ASKED = (Message("user", "How far?"),)
TOOL = ToolRegistry.from_signature("f(a: int, b: str = 'x', c: bool = False, d: float = 0.0)").get("f")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": ["string", "null"], "enum": ["c", "f", None]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bern"}'}}]},
    {"role": "tool", "tool_call_id": "1", "content": "7"},
    {"role": "user", "content": "Thanks"},
]  # fmt: skip
CHAT = {
    "model": "m", "messages": MESSAGES, "temperature": 0.5, "top_p": 0.9, "max_tokens": 5, "n": 2, "stop": ["x"], "seed": 3,
    "stream": False, "logprobs": True, "top_logprobs": 2, "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto", "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
}  # fmt: skip
CHOICE = {
    "index": 0, "finish_reason": "stop",
    "message": {"content": "ab", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    "logprobs": {"content": [{"token": "ab", "logprob": -0.5, "top_logprobs": []}]},
}  # fmt: skip
ANSWER = {"choices": [CHOICE], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
DELTA = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "ab"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": ANSWER["usage"]}
OPENAPI = {
    "openapi": "3.0.3", "servers": [{"url": "http://127.0.0.1:1"}],
    "paths": {"/pets/{id}": {
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
        "get": {"operationId": "getPet", "parameters": [{"$ref": "#/components/parameters/tags"}]},
        "post": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}},
    }},
    "components": {
        "parameters": {"tags": {"name": "tags", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}},
        "schemas": {"Pet": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "friend": {"$ref": "#/components/schemas/Pet"}}}},
    },
}  # fmt: skip
MCP = {"tools": [{"name": "c", "description": "Units.", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True}}]}
ROW = "{'api_name': 'c', 'description': 'does c', 'api_function': 'c(a: int)'}"
TRACE = f"#Begin# Need to search. #SearchAPI# ['c']\n{ROW} #CallAPI# c(a=2) #APIResponse# {{'ok': 1}} #End# Two."
GAME = [{"role": "attacker", "content": "It grows."}, {"role": "defender", "content": "I know the word! It is apple"}]


def loaded(read: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Reads what JSON gives, where the caller has parsed it."""

    def parsed(words: str) -> Any:
        try:
            data = json.loads(words)
        except (ValueError, RecursionError):
            return None
        return read(data)

    return parsed


def body(read: Callable[[Any], Any]) -> Callable[[str], Any]:
    """What a server reads, and what the client is told where it does not."""

    def parsed(words: str) -> Any:
        try:
            return read(parse_body(words.encode("utf-8", "surrogateescape")))
        except ApiError as error:
            raise UserError(error.body()["message"]) from None

    return parsed


def replies(words: str, kind: str) -> Any:
    return parse_replies(words.encode("utf-8", "surrogateescape"), kind, ASKED, 2)


def typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """What is typed at the command line, which shows errors of any length in one line."""

    def read(words: str) -> Any:
        try:
            return parse(words)
        except ValueError as error:
            raise UserError(str(error)) from None

    return read


def referee(words: str) -> Any:
    from tenfold.games.game import as_turn

    turns = (as_turn(GAME[0]), as_turn({"role": "defender", "content": words}))
    return [judge(turns, "apple", 5, rules) for rules in ("official", "strict")]


PARSERS: list[Parser] = [
    text("words of a call", "get_weather(city='Bern', days=[1, 2], unit=None, deep={'a': (1, 2)})", parse_call),
    text("words of a call, free", "get_weather(city=Bern, key=MY_KEY)", lambda w: parse_call(w, ("x",), literal=False)),
    text("words of arguments", '<think>x</think>```json\n{"a": 1, "b": "y", "d": 1e3}\n```', lambda w: parse_arguments(w, TOOL)),
    text("words of arguments, mended", '{"a": "1", b: "y", "d": 1e3,}', lambda w: parse_arguments(w, TOOL, repair=True, coerced=True)),
    text("words with tool calls", 'Well.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', parse_tool_calls),
    text("words of BFCL's calls", "[f(a=1), g.h(b=[1, 2], c={'x': -1.5})]", parse_calls),
    text("words of a trace", TRACE, lambda w: read_trace("q", w)),
    text("words of an official record", json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": TRACE}]}), loaded(lambda d: parse(d, "deer-markers"))),
    text("words of a signature", "f(a: str, n: int = 3, *, k: list[dict[str, float]] | None = None) -> dict", parse_signature),
    text("words of a signature, mended", "f(a: str = 'x', n: int, ...) -> dict", lambda w: parse_signature(w, mend=True)),
    text("words of an answer", "So 3 + 4 = 7. The answer is \\boxed{7}. <answer>1,234.50</answer>", lambda w: extract(w, number_in)),
    text("words of a choice", "I take (B), since a red hat is worn. Answer: (B)", lambda w: extract(w, letter_of({"A": "a hat", "B": "a red hat"}))),
    text("words with tags", "Sure: <prompt>Think first.</prompt> or <PROMPT>Count.</PROMPT>", lambda w: parse_tags(w, "prompt")),
    text("words of a defender", "I know the word! It is apples.", referee),
    text("a page", "<html><head><title>t</title></head><body><p>" + "One word after another. " * 9 + "</p><!-- x --><script>1</script></body></html>", lambda w: clean_html(w.encode("utf-8", "surrogateescape"))),
    text("messages", json.dumps(MESSAGES), loaded(read_messages)),
    text("a request for chat", json.dumps(CHAT), body(lambda d: ChatBody.read(d, 8))),
    text("a request for a completion", json.dumps({"model": "m", "prompt": [[1, 2]], "logprobs": 1, "stop": "x"}), body(lambda d: CompletionBody.read(d, 8))),
    text("an endpoint's answer", json.dumps(ANSWER), lambda w: replies(w, "application/json"), Fault),
    text("an endpoint's stream", "".join(f"data: {json.dumps(row)}\n\n" for row in (DELTA, LAST)) + "data: [DONE]\n\n", lambda w: replies(w, "text/event-stream"), Fault),
    text("tools of OpenAI", json.dumps([{"type": "function", "function": FUNCTION}]), loaded(lambda d: of_json(d, "tools"))),
    text("tools of Anthropic", json.dumps([{"name": "w", "description": "", "input_schema": SCHEMA}]), loaded(lambda d: of_json(d, "tools"))),
    text("tools of MCP", json.dumps(MCP), loaded(lambda d: of_json(d, "tools"))),
    text("tools of OpenAPI", json.dumps(OPENAPI), loaded(lambda d: of_json(d, "tools"))),
    text("tools of signatures", json.dumps(["f(a: int) -> str", "g(b: str = 'x')"]), loaded(lambda d: of_json(d, "tools"))),
    text("a trace", json.dumps({"query": "q", "model": "m", "events": [{"event": "Answer", "text": "a"}], "said": [{"text": "a", "tool_calls": [["1", "f", "{}"]]}]}), loaded(Trace.from_json)),
    text("weights of tasks", "task,weight,round\na,0.5,0\nb,0.5,0\na,0.25,1\nb,0.75,1\n", read_weights_csv),
    text("events of the command line", "death=30x24 kidney", typed(lambda w: parse_events(w.split()))),
    text("rules of the command line", "HR=mean drug=any", typed(lambda w: parse_rules(w.split()))),
    text("a plan of the command line", "drug=0.5,1", typed(lambda w: parse_plan(w.split(" "), ["drug"], 3))),
    text("a mix of the command line", "45/45/10", typed(Mix.parse)),
]  # fmt: skip
