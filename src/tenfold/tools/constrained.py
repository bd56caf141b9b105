"""JSON of a schema out of any local model, token by token, with a choice of engines and an end in time."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.lm.structured import JsonForms
from tenfold.text.tokenizer import Tokenizer
from tenfold.tools.schemas import Issue, issues

Backend = Literal["llguidance", "xgrammar", "outlines_core"]
Ids = NDArray[np.int64]
_MOST_MINIMAL = 4096  # tokens of the shortest answer
_CLOSERS = ("}", "]", '"', ",", ":", "0", "{", "[", " ")  # what ends an answer soonest, in this order


class _Guide(Protocol):
    """The state of one answer."""

    def allowed(self) -> Ids: ...
    def advance(self, token: int) -> None: ...


class ConstrainedDecoder:
    """Keeps answers to a JSON Schema; a logits processor for one sequence, or a loop of its own.

    Spacing is fixed, since free spacing lets a weak model write blanks for ever. What an engine cannot hold to is named in
    one warning and left to `issues`, which should be asked after decoding anyway.

    Args:
        schema: of the answer.
        tokenizer: of the model.
        backend: the engine; llguidance comes with tenfold[tools], the others with tenfold[decoders].
    Raises:
        UserError: the engine is not installed, or no answer can meet the schema.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: Tokenizer, backend: Backend = "llguidance") -> None:
        if backend not in _ENGINES:
            raise ValueError(f"backend: got {backend!r}, need {', '.join(_ENGINES)}")
        end = tokenizer.end_id if tokenizer.end_id is not None else tokenizer.eos_id
        if end is None:
            raise UserError("tokenizer: it has no end-of-text token, which closes an answer")
        self.schema, self.tokenizer, self.backend, self.end = dict(schema), tokenizer, backend, end
        self._start = _ENGINES[backend](self._held(), tokenizer, end)
        self._rank = _closing_ranks(tokenizer, end)
        self._begins, long, special = _digit_tokens(tokenizer)
        self._first, torn = _first_bytes(tokenizer)
        self._bad = long | special | torn
        self._bad[end] = False
        self._quotes = np.array([_token_bytes(tokenizer, id) == b'"' for id in range(tokenizer.vocab_size)])
        self._reserve = 2 * self._shortest() + 8
        self._seen: int | None = None
        self._guide = self._start()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """As a logits processor of transformers: (1, T) ids and (1, V) scores; forbidden tokens get -inf.

        The first call is taken as the end of the prompt; `reset` begins a new answer.
        """
        if input_ids.shape[0] != 1:
            raise ValueError(f"input_ids: got {input_ids.shape[0]} sequences, need 1; make one decoder each")
        if self._seen is None:
            self._seen = input_ids.shape[1]
        for token in input_ids[0, self._seen :].tolist():
            self._guide.advance(token)
        self._seen = input_ids.shape[1]
        masked = torch.full_like(scores, float("-inf"))
        index = torch.as_tensor(self._guide.allowed(), device=scores.device)
        masked[0, index] = scores[0, index]
        return masked

    def reset(self) -> None:
        """Forget the answer so far."""
        self._seen, self._guide = None, self._start()

    def decode(
        self,
        logits: Callable[[list[int]], Tensor],
        max_tokens: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator,
    ) -> str:
        """An answer of at most `max_tokens` tokens. When as many are left as the shortest answer needs twice, the tokens
        that close it soonest are taken.

        Args:
            logits: of the next token (V,), from the tokens of the answer so far.
            max_tokens: at least what the shortest answer needs.
            temperature: 0 is greedy.
            generator: where tokens are drawn from.
        Raises:
            UserError: max_tokens is too small for any answer.
        """
        guide, made = self._start(), list[int]()
        tail = b""
        while len(made) < max_tokens:
            allowed = self._finite(guide.allowed(), tail)
            if max_tokens - len(made) <= self._reserve:
                token = self._closing(allowed)
            else:
                token = _drawn(logits(made)[torch.as_tensor(allowed)], allowed, temperature, generator)
            if token == self.end:
                return self.tokenizer.decode(made)
            guide.advance(token)
            made.append(token)
            tail = (tail + _token_bytes(self.tokenizer, token))[-8:]
        raise UserError(f"max_tokens: got {max_tokens}, need more for an answer to this schema")

    def issues(self, text: str) -> list[Issue]:
        """What an answer breaks: to be asked after decoding, since engines differ in what they hold to."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return [Issue("parse", "", str(error)[:200])]
        return issues(self.schema, value)

    def _held(self) -> dict[str, Any]:
        """The schema without the keywords that the engine does not know."""
        left = [name for name in _UNHELD[self.backend] if f'"{name}"' in json.dumps(self.schema)]
        if self.backend != "llguidance" and _free_required(self.schema):
            left = [*left, "required (names without a schema)"]
        if left:
            warnings.warn(f"{self.backend} does not hold to {', '.join(left)}: checked after decoding", stacklevel=3)
        return dict(_without(self.schema, left))

    def _finite(self, allowed: Ids, tail: bytes) -> Ids:
        """Without a third digit of an exponent, since the grammar allows 1e999, which no float holds; without control
        tokens, which are no text; and without bytes that are no UTF-8, such as half a surrogate pair, which xgrammar allows.
        """
        rest = allowed[~self._bad[allowed]]
        if _EXPONENT.search(tail):
            rest = rest[~self._begins[rest]]
        if tail[-1:] in _NEXT:
            low, high = _NEXT[tail[-1:]]
            rest = rest[(self._first[rest] >= low) & (self._first[rest] <= high)]
        return rest if rest.size else allowed

    def _closing(self, allowed: Ids) -> int:
        within_text = len(allowed) > len(self._rank) // 2  # where nearly anything goes, a quote ends it
        rank = self._rank[allowed] - (1000 * self._quotes[allowed] if within_text else 0)
        return int(allowed[np.argmin(rank)])

    def _shortest(self) -> int:
        """Tokens of the answer that closing from the start makes."""
        guide = self._start()
        for count in range(_MOST_MINIMAL):
            token = self._closing(guide.allowed())
            if token == self.end:
                return count + 1
            guide.advance(token)
        raise UserError(f"schema: its shortest answer has more than {_MOST_MINIMAL} tokens")


def _drawn(logits: Tensor, allowed: Ids, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(allowed[int(logits.argmax())])
    return int(allowed[int(torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator))])


@lru_cache(maxsize=4)
def _digit_tokens(tokenizer: Tokenizer) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Of every token, whether it begins with a digit, holds an exponent that is too long by itself, is a control token."""
    controls = {id for id, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    spelt = [_token_bytes(tokenizer, id) for id in range(tokenizer.vocab_size)]
    special = np.array([id in controls for id in range(len(spelt))])
    return np.array([part[:1].isdigit() for part in spelt]), np.array([bool(_LONG.search(part)) for part in spelt]), special  # fmt: skip


# What may follow these bytes in UTF-8: other second bytes would be overlong, half a surrogate pair, or beyond Unicode.
_NEXT = {b"\xe0": (0xA0, 0xBF), b"\xed": (0x80, 0x9F), b"\xf0": (0x90, 0xBF), b"\xf4": (0x80, 0x8F)}
_TORN = re.compile(rb"\xe0[\x80-\x9f]|\xed[\xa0-\xbf]|\xf0[\x80-\x8f]|\xf4[\x90-\xbf]|[\xf5-\xff]")


@lru_cache(maxsize=4)
def _first_bytes(tokenizer: Tokenizer) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of every token its first byte (-1: none), and whether its bytes are no UTF-8 in themselves."""
    spelt = [_token_bytes(tokenizer, id) for id in range(tokenizer.vocab_size)]
    return np.array([part[0] if part else -1 for part in spelt]), np.array([bool(_TORN.search(part)) for part in spelt])


def _free_required(node: Any) -> bool:
    """Whether an object must have names that its properties say nothing of."""
    if isinstance(node, Mapping):
        names = node.get("required")
        if isinstance(names, list) and not set(map(str, names)) <= set(node.get("properties") or ()):
            return True
        return any(map(_free_required, node.values()))
    return isinstance(node, list) and any(map(_free_required, node))


@lru_cache(maxsize=4)
def _closing_ranks(tokenizer: Tokenizer, end: int) -> NDArray[np.float64]:
    """For every token, how soon it ends an answer: the end, closing brackets, a quote, then shorter before longer."""
    rank = np.full(tokenizer.vocab_size, 1e6)
    for id in range(tokenizer.vocab_size):
        try:
            text = tokenizer.token_bytes(id).decode("utf-8", "replace")
        except ValueError:
            continue
        rank[id] = 100 + len(text)
        if text and all(character in _CLOSERS for character in text):
            # First what closes, and of that the most at once.
            rank[id] = 10 * _CLOSERS.index(text[0]) - min(len(text), 4)
    rank[end] = -100
    return rank


_EXPONENT = re.compile(rb"[0-9][eE][+-]?[0-9]{2}$")
_LONG = re.compile(rb"[eE][+-]?[0-9]{3}")
_UNHELD: dict[str, tuple[str, ...]] = {
    "llguidance": ("uniqueItems", "contains", "minContains", "maxContains", "minProperties", "maxProperties", "propertyNames", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems"),
    "xgrammar": ("uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "propertyNames", "multipleOf"),
    "outlines_core": ("uniqueItems", "contains", "minContains", "maxContains", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "propertyNames", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minProperties", "maxProperties"),
}  # fmt: skip


def _without(node: Any, names: Sequence[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: {name: _without(part, names) for name, part in value.items()} if key == "properties" else _without(value, names) for key, value in node.items() if key not in names}  # fmt: skip
    return [_without(each, names) for each in node] if isinstance(node, list) else node


# The engines.


@lru_cache(maxsize=4)
def _forms(tokenizer: Tokenizer, end: int) -> JsonForms:
    """Reading a vocabulary takes longer than compiling a schema."""
    return JsonForms(tokenizer, end)


def _llguidance(schema: dict[str, Any], tokenizer: Tokenizer, end: int) -> Callable[[], _Guide]:
    forms = _forms(tokenizer, end)
    response_format = {"type": "json_schema", "json_schema": {"schema": schema}}
    forms.of_format(response_format)  # compiled now, so that what cannot be met is refused now

    class Guide:
        def __init__(self) -> None:
            form = forms.of_format(response_format)
            assert form is not None
            self._form, self._made = form, list[int]()

        def allowed(self) -> Ids:
            return np.asarray(self._form(self._made), dtype=np.int64)

        def advance(self, token: int) -> None:
            self._made.append(token)

    return Guide


@lru_cache(maxsize=4)
def _xgrammar_compiler(tokenizer: Tokenizer, end: int) -> Any:
    xgrammar = _engine("xgrammar")
    vocabulary = [_token_bytes(tokenizer, id) for id in range(tokenizer.vocab_size)]
    info = xgrammar.TokenizerInfo(vocabulary, xgrammar.VocabType.RAW, vocab_size=tokenizer.vocab_size, stop_token_ids=[end])  # fmt: skip
    return xgrammar.GrammarCompiler(info)


def _xgrammar(schema: dict[str, Any], tokenizer: Tokenizer, end: int) -> Callable[[], _Guide]:
    xgrammar = _engine("xgrammar")
    try:
        compiled = _xgrammar_compiler(tokenizer, end).compile_json_schema(json.dumps(schema), any_whitespace=False, separators=(", ", ": "))  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise UserError(f"schema: {' '.join(str(error).split())[:300]}") from None
    bitmask = xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)

    class Guide:
        def __init__(self) -> None:
            self._matcher = xgrammar.GrammarMatcher(compiled)

        def allowed(self) -> Ids:
            if self._matcher.is_terminated():
                return np.array([end])
            self._matcher.fill_next_token_bitmask(bitmask)
            bits = np.unpackbits(bitmask.numpy().view(np.uint8)[0], bitorder="little")[: tokenizer.vocab_size]
            return bits.nonzero()[0]

        def advance(self, token: int) -> None:
            self._matcher.accept_token(token)

    return Guide


def _typed(node: Any) -> Any:
    """outlines-core wants a type everywhere: a value of any type becomes a text."""
    if isinstance(node, list):
        return [_typed(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    schema = {key: {name: _typed(part) for name, part in value.items()} if key == "properties" else _typed(value) for key, value in node.items()}  # fmt: skip
    known = ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties")
    return schema if any(key in schema for key in known) else {**schema, "type": "string"}


@lru_cache(maxsize=4)
def _outlines_vocabulary(tokenizer: Tokenizer, end: int) -> Any:
    tokens: dict[bytes, list[int]] = {}
    special = {id for id, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    for id in range(tokenizer.vocab_size):
        if id != end and id not in special and (spelt := _token_bytes(tokenizer, id)):
            tokens.setdefault(spelt, []).append(id)
    return _engine("outlines_core").Vocabulary(end, tokens)


def _outlines_core(schema: dict[str, Any], tokenizer: Tokenizer, end: int) -> Callable[[], _Guide]:
    core = _engine("outlines_core")
    try:
        from outlines_core.json_schema import build_regex_from_schema

        regex = build_regex_from_schema(json.dumps(_typed(schema)), "")
        regex = re.sub(r"\[ \]\?", "", regex)
        index = core.Index(regex, _outlines_vocabulary(tokenizer, end))
    except (ValueError, TypeError) as error:
        raise UserError(f"schema: {' '.join(str(error).split())[:300]}") from None

    class Guide:
        def __init__(self) -> None:
            self._guide = core.Guide(index)

        def allowed(self) -> Ids:
            return np.sort(np.asarray(self._guide.get_tokens(), dtype=np.int64))

        def advance(self, token: int) -> None:
            self._guide.advance(token, return_tokens=False)

    return Guide


_ENGINES: dict[str, Callable[[dict[str, Any], Tokenizer, int], Callable[[], _Guide]]] = {
    "llguidance": _llguidance,
    "xgrammar": _xgrammar,
    "outlines_core": _outlines_core,
}


def _engine(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"backend {name} is not installed: pip install 'tenfold[decoders]'") from None


def _token_bytes(tokenizer: Tokenizer, id: int) -> bytes:
    try:
        return tokenizer.token_bytes(id)
    except ValueError:
        return b""
