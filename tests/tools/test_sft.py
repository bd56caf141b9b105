"""Rows to fine-tune on: what is learned, and that the environment is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tenfold.align.samples import pad
from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.chat import Message, Reply, Sampling, ScriptedChatModel, ToolCall, Usage
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.tools.calls import Call
from tenfold.tools.decider import ChatDecider
from tenfold.tools.metrics import evaluate_decisions
from tenfold.tools.render import render
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.sft import sft_loss, to_sft

CANDIDATES = (Candidate("cat", "finds cats", "cat(n: int)"), Candidate("dog", "finds dogs", "dog(n: int)"))
CALL = DecisionSample("three cats", "call", CANDIDATES, "cat", Call("cat", {"n": 3}), "meow meow meow", "Three.")
NONE = DecisionSample("a sun", "no_call", CANDIDATES, "sun")
FREE = DecisionSample("hello", "no_search", answer="Hi.")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [message.content for sample in (CALL, NONE, FREE) for message in render(sample)]
    return train_tokenizer(texts * 20, 400)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 16, max_len=2048)
    return Decoder(cfg, torch.Generator().manual_seed(0))


def learned(tokenizer: Tokenizer, sample: DecisionSample, mask: bool) -> str:
    (row,) = to_sft([sample], tokenizer, mask)
    return tokenizer.decode(
        [id for id, flag in zip(row.ids, row.learned, strict=True) if flag], skip_special_tokens=True
    )


def test_what_is_learned(tokenizer: Tokenizer) -> None:
    call = '<tool_call>{"name": "cat", "arguments": {"n": 3}}</tool_call>'
    assert learned(tokenizer, CALL, True) == f"searchcat{call}Three."
    assert learned(tokenizer, NONE, True) == "searchnone"
    assert learned(tokenizer, FREE, True) == "answerHi."
    whole = learned(tokenizer, CALL, False)
    assert "finds dogs" in whole and "meow meow" in whole and "three cats" not in whole


def test_labels_of_the_environment_make_no_difference_where_it_is_masked(tokenizer: Tokenizer, model: Decoder) -> None:
    """The same tokens go in; a label swapped inside the candidates or the response changes the loss only unmasked."""
    (masked,), (whole,) = to_sft([CALL], tokenizer, True), to_sft([CALL], tokenizer, False)
    assert masked.ids == whole.ids
    environment = [i for i, (a, b) in enumerate(zip(masked.learned, whole.learned, strict=True)) if b and not a]
    assert len(environment) > 20
    losses = {}
    for name, row in (("masked", masked), ("whole", whole)):
        batch = pad([row])
        swapped = {key: value.clone() for key, value in batch.items()}
        for i in environment[::3]:
            if swapped["targets"][0, i - 1] != -100:
                swapped["targets"][0, i - 1] = (swapped["targets"][0, i - 1] + 1) % tokenizer.vocab_size
        losses[name] = [float(sft_loss(model, each)[0]) for each in (batch, swapped)]
    assert losses["masked"][0] == losses["masked"][1]
    assert losses["whole"][0] != losses["whole"][1]


def test_rows_that_are_too_long_are_refused_and_not_cut(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="need at most 20"):
        to_sft([CALL], tokenizer, max_length=20)


def test_a_chat_model_decides_on_samples(tokenizer: Tokenizer, model: Decoder) -> None:
    with LocalChatModel(model, tokenizer, compiled="off") as chat:
        for demonstrations in ((), (NONE, CALL)):
            guesses = ChatDecider(chat, demonstrations).decide([CALL, NONE, FREE])
            for sample, guess in zip((CALL, NONE, FREE), guesses, strict=True):
                assert guess.choice in (None, *sample.names) and 0 <= (guess.p_search or 0) <= 1
    assert replace(CALL, source="x") == CALL


@pytest.mark.parametrize(
    ("written", "right", "valid"),
    [('{"n": 3}', 1.0, 1.0), ('{"n": 4}', 0.0, 1.0), ('{"n": "three"}', 0.0, 0.0), ("three of them", 0.0, 0.0)],
)
def test_arguments_of_the_chosen_tool_are_scored(written: str, right: float, valid: float) -> None:
    def answer(messages: Sequence[Message], sampling: Sampling, index: int) -> str | Reply:
        if sampling.tools:
            assert sampling.tool_choice == {"type": "function", "function": {"name": "cat"}}
            assert "cat" in messages[-1].content
            return Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "cat", written),))
        return "search" if "search" in (sampling.choices or ()) else "cat"

    decider = ChatDecider(ScriptedChatModel(answer))
    figures = evaluate_decisions([CALL], decider.decide([CALL], arguments=True), bootstrap=0)
    assert (figures["P_Call"], figures["argument_accuracy"], figures["schema_valid"]) == (1.0, right, valid)
    assert evaluate_decisions([CALL, NONE, FREE], ChatDecider(ScriptedChatModel(["cat", "cat"]), decides=False).decide([CALL, NONE, FREE]), bootstrap=0)["P_DC"] == 0.5  # fmt: skip
    figures = evaluate_decisions([CALL], decider.decide([CALL]), bootstrap=0)
    assert math.isnan(figures["argument_accuracy"]) and figures["n"]["argument_accuracy"] == 0
