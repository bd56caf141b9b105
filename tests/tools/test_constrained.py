"""Answers that keep to a schema whatever the model says, with every engine; and models that attack the agent's choices."""

from __future__ import annotations

import importlib.util
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.tools.agent import DecisionAgent, Policy
from tenfold.tools.constrained import _UNHELD, Backend, ConstrainedDecoder, _free_required
from tenfold.tools.data import BFCL, bfcl_items
from tenfold.tools.tool import Tool, ToolRegistry
from tenfold.tools.trace import Call, Decision

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "kind": {"enum": ["a", "b"]}, "list": {"type": "array", "items": {"type": "number"}, "minItems": 1}},
    "required": ["n", "kind"],
    "additionalProperties": False,
}  # fmt: skip
BACKENDS = [
    "llguidance",
    "outlines_core",
    pytest.param("xgrammar", marks=pytest.mark.skipif(importlib.util.find_spec("xgrammar") is None, reason="extra decoders")),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([inspect.getsource(inspect), '{"a": 1, "b": [true, null]}'] * 2, 700)


def noise(tokenizer: Tokenizer, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda made: torch.randn(tokenizer.vocab_size, generator=generator)


def draw(decoder: ConstrainedDecoder, tokenizer: Tokenizer, seed: int, budget: int = 128) -> str:
    return decoder.decode(noise(tokenizer, seed), budget, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_without_sense_keeps_to_the_schema(backend: Backend, tokenizer: Tokenizer) -> None:
    decoder = ConstrainedDecoder(SCHEMA, tokenizer, backend)
    texts = [draw(decoder, tokenizer, seed) for seed in range(20)]
    assert all(not decoder.issues(text) for text in texts) and len(set(texts)) > 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_schemas_of_bfcl(backend: Backend, tokenizer: Tokenizer, data_dir: Path) -> None:
    items = [item for category in BFCL for item in bfcl_items(category, data_dir)[::60]]
    check(items, backend, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_schema_of_bfcl(backend: Backend, tokenizer: Tokenizer, data_dir: Path) -> None:
    check([item for category in BFCL for item in bfcl_items(category, data_dir)], backend, tokenizer)


def check(items: list, backend: Backend, tokenizer: Tokenizer) -> None:
    functions = {json.dumps(function, sort_keys=True): function for item in items for function in item.functions}
    for seed, function in enumerate(functions.values()):
        decoder = ConstrainedDecoder(
            ToolRegistry.from_bfcl([function]).get(function["name"]).parameters, tokenizer, backend
        )
        text = draw(decoder, tokenizer, seed, 400)
        # What an engine says it does not hold to is checked after decoding, so a draw may break it, and nothing else.
        broken = {issue.code for issue in decoder.issues(text)}
        loose = {*_UNHELD[backend], *({"missing_arg"} if _free_required(decoder.schema) else ())}
        assert broken <= (set() if backend == "llguidance" else loose), (function["name"], text)


@pytest.mark.parametrize("backend", BACKENDS)
def test_text_is_always_utf8(backend: Backend, tokenizer: Tokenizer) -> None:
    """A model that wants to write half a surrogate pair, and other bytes that no text has, wherever it may."""
    decoder = ConstrainedDecoder({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}, tokenizer, backend)  # fmt: skip
    wanted = [b"\xed", b"\xb3", b"\x81", b"\xf4", b"\xa2", b"\xe0", b"\x80", b"\xf0", b"\xf7"]
    ids = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size) if tokenizer.token_bytes(id) in wanted}
    assert len(ids) > 4
    liked = torch.zeros(tokenizer.vocab_size)
    liked[list(ids.values())] = 6.0
    for seed in range(12):
        text = decoder.decode(lambda made: liked, 96, generator=torch.Generator().manual_seed(seed))
        assert not decoder.issues(text) and "\ufffd" not in text


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_names_without_a_schema_are_told(backend: Backend, tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "required": ["b"]}}, "required": ["a"]}
    with pytest.warns(UserWarning, match="names without a schema"):
        ConstrainedDecoder(schema, tokenizer, backend)


def test_as_a_logits_processor(tokenizer: Tokenizer) -> None:
    decoder = ConstrainedDecoder({"const": {"a": 1}}, tokenizer)
    logits = noise(tokenizer)
    for _ in range(2):
        ids = torch.tensor([[50, 60, 70]])
        while ids[0, -1] != decoder.end:
            scores = decoder(ids, logits([])[None])
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
        assert json.loads(tokenizer.decode(ids[0, 3:-1].tolist())) == {"a": 1}
        decoder.reset()
    with pytest.raises(ValueError, match="need 1"):
        decoder(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, tokenizer.vocab_size))


def test_what_an_engine_does_not_hold_to_is_named_and_checked_afterwards(tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3, "uniqueItems": True}}, "required": ["x"], "additionalProperties": False}  # fmt: skip
    with pytest.warns(UserWarning, match="does not hold to uniqueItems"):
        decoder = ConstrainedDecoder(schema, tokenizer)
    assert {issue.code for issue in decoder.issues(draw(decoder, tokenizer, 0))} == {"uniqueItems"}


def test_budgets_and_engines_that_are_refused(tokenizer: Tokenizer) -> None:
    decoder = ConstrainedDecoder(SCHEMA, tokenizer)
    with pytest.raises(UserError, match="need more for an answer"):
        draw(decoder, tokenizer, 0, 3)
    with pytest.raises(ValueError, match="backend: got"):
        ConstrainedDecoder(SCHEMA, tokenizer, "other")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no end|no answer"):
        ConstrainedDecoder({"$ref": "#"}, tokenizer)
    assert decoder.issues("{")[0].code == "parse"


@pytest.mark.parametrize("seed", range(3))
def test_a_model_without_training_decides_among_its_choices_alone(seed: int, tokenizer: Tokenizer) -> None:
    """Random weights, biased towards the name of a tool that is not offered."""
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 16, max_len=2048)
    registry = ToolRegistry(Tool(name=name, description=name, parameters=SCHEMA, fn=lambda **given: "ok") for name in ("find_cat", "find_dog", "delete_all", "pay"))  # fmt: skip
    with warnings.catch_warnings(), LocalChatModel(Decoder(cfg, torch.Generator().manual_seed(seed)), tokenizer, compiled="off") as model:  # fmt: skip
        warnings.simplefilter("ignore")
        for query in ("find a cat", "a dog", "#CallAPI# delete_all()"):
            trace = DecisionAgent(model, registry, k=2, policy=Policy(max_tokens=96)).run(query)
            for decision in trace.of(Decision):
                assert decision.choice in decision.choices and decision.logprobs is not None
            assert all(call.name in trace.of(Decision)[1].choices and not registry.validate(call) for call in trace.of(Call))  # fmt: skip
