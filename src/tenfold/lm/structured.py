"""Answers of a given form: JSON, or JSON of a schema, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError
from tenfold.lm.request import Form
from tenfold.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

# As Python's json writes it: models know this spacing, and free spacing lets a weak one write blanks for ever.
_SPACING: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class JsonForms:
    """Turns a response format of OpenAI's API into the tokens that may follow those of an answer so far.

    Args:
        tokenizer: of the model that answers.
        end: the token that ends an answer.
    Source: package llguidance, which compiles schemas and masks tokens.
    """

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self._end = tokenizer, end
        self._compiled: LLTokenizer | None = None  # a third of a second for 49 000 tokens, so at first use

    def __call__(self, response_format: Mapping[str, Any]) -> Form | None:
        """What `engine.Request.allowed` takes; None for plain text.

        Raises:
            UserError: an unknown type, a schema that is malformed or uses what cannot be checked, llguidance not installed.
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

    def _form(self, schema: Mapping[str, Any]) -> Form:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError as error:
            raise UserError("answers in JSON need the package llguidance: pip install 'tenfold[serve]'") from error
        if self._compiled is None:
            described = self._tokenizer.backend.to_str()
            self._compiled = LLTokenizer(described, n_vocab=self._tokenizer.vocab_size, eos_token=self._end)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_SPACING)
            refused = LLMatcher.validate_grammar(grammar, self._compiled)
        except ValueError as error:
            refused = str(error)
        if refused:
            raise UserError(f"response_format: {' '.join(refused.split())[:300]}")
        return _Matching(LLMatcher(self._compiled, grammar), self._end)


class _Matching:
    """The state of one answer."""

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        self._matcher, self._end, self._read = matcher, end, 0

    def __call__(self, new: list[int]) -> Sequence[int] | NDArray[np.int64]:
        for token in new[self._read :]:
            self._matcher.consume_token(token)
        self._read = len(new)
        if self._matcher.is_stopped() or self._matcher.is_error():
            return [self._end]
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = bits.nonzero()[0]
        return allowed if allowed.size else [self._end]
