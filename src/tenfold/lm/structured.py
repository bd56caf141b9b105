"""Answers of a given form: JSON, or JSON of a schema, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError
from tenfold.lm.request import Form
from tenfold.text.tokenizer import Tokenizer
from tenfold.text.tool_calls import CLOSE, OPEN

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

# As Python's json writes it: models know this spacing, and free spacing lets a weak one write blanks for ever.
_SPACING: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class JsonForms:
    """Turns a response format of OpenAI's API, or the tools of a request, into the tokens that may follow those so far.

    Args:
        tokenizer: of the model that answers.
        end: the token that ends an answer.
    Source: package llguidance, which compiles schemas and masks tokens.
    """

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end
        self._vocabulary: LLTokenizer | None = None  # a third of a second for 49 000 tokens, so at first use
        self._compiled = lru_cache(maxsize=32)(self._compile)  # a large schema takes a second

    def of_format(self, response_format: Mapping[str, Any]) -> Form | None:
        """What `request.Request.allowed` takes; None for plain text.

        Raises:
            UserError: an unknown type, a schema that is malformed, cannot be met or uses what cannot be checked; llguidance
                not installed.
        """
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return self._form({"type": "object"})
        if kind == "json_schema":
            described = response_format.get("json_schema")
            schema = described.get("schema") if isinstance(described, Mapping) else None
            if not isinstance(schema, Mapping):
                raise UserError("response_format: json_schema needs an object with a schema")
            return self._form(schema)
        raise UserError(f"response_format: got type {str(kind)[:50]!r}, need text, json_object or json_schema")

    def of_tools(self, tools: Sequence[Mapping[str, Any]], name: str | None) -> Form:
        """A call of one of the tools, or of the named one, with arguments after its schema where that can be checked.

        Raises:
            UserError: llguidance not installed.
        """
        functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
        try:
            return self._form({"anyOf": [_call(f["name"], f.get("parameters")) for f in functions]}, OPEN, CLOSE)
        except UserError:
            return self._form({"anyOf": [_call(f["name"], None) for f in functions]}, OPEN, CLOSE)

    def _form(self, schema: Mapping[str, Any], before: str = "", after: str = "") -> Form:
        return _Matching(self._compiled(json.dumps(schema), before, after).deep_copy(), self._end)

    def _compile(self, schema: str, before: str, after: str) -> LLMatcher:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError as error:
            raise UserError(
                "answers of a given form need the package llguidance: pip install 'tenfold[serve]'"
            ) from error
        if self._vocabulary is None:
            described = self._tokenizer.backend.to_str()
            self._vocabulary = LLTokenizer(described, n_vocab=self._tokenizer.vocab_size, eos_token=self._end)
        try:
            if before or after:
                spaced = json.dumps({**json.loads(schema), "x-guidance": _SPACING})
                lark = f"start: {json.dumps(before)} form {json.dumps(after)}\nform: %json {spaced}"
                grammar = LLMatcher.grammar_from_lark(lark)
            else:
                grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_SPACING)
            refused = LLMatcher.validate_grammar(grammar, self._vocabulary)
        except ValueError as error:
            refused = str(error)
        if refused:
            raise UserError(f"response_format: {_line(refused)}")
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0)
        first = _allowed(matcher.deep_copy())
        if not first.size or self._end in first:  # JSON is never empty
            raise UserError("response_format: no answer can meet the schema, it has no end")
        return matcher


class _Matching:
    """The state of one answer."""

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        self._matcher, self._end, self._read = matcher, end, 0

    def __call__(self, new: list[int]) -> Sequence[int] | NDArray[np.int64]:
        """The tokens that may follow. Raises UserError where none can: the schema asks for what has no end."""
        for token in new[self._read :]:
            self._matcher.consume_token(token)
        self._read = len(new)
        if self._matcher.is_stopped() and self._matcher.is_accepting():
            return [self._end]
        allowed = _allowed(self._matcher)
        if allowed.size:
            return allowed
        raise UserError(f"response_format: the schema cannot be met; {_line(self._matcher.get_error())}")


def _allowed(matcher: LLMatcher) -> NDArray[np.int64]:
    """The tokens that may come next; none after an error."""
    if matcher.is_error() or matcher.is_stopped():
        return np.empty(0, np.int64)
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return bits.nonzero()[0]


def _call(name: str, parameters: Any) -> dict[str, Any]:
    arguments = parameters if isinstance(parameters, Mapping) and parameters else {"type": "object"}
    properties = {"name": {"const": name}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _line(text: str | None) -> str:
    """One line of a message, without the parser's own state behind it."""
    return " ".join((text or "it asks for what has no end").partition("<state>")[0].split())[:300]
