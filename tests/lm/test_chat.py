"""The local chat model: replies of a batch equal those alone, forms are kept, errors are one line."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.chat import ChatModel, Message, Sampling, complete_all
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

TOOL = {"type": "function", "function": {"name": "add", "description": "sum", "parameters": {"type": "object"}}}
USER = Message("user", "What is 1 + 1?")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["what is the sum of one and two? yes or no, I do not know"] * 20, 320)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Iterator[LocalChatModel]:
    cfg = DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=512)
    with LocalChatModel(Decoder(cfg, torch.Generator().manual_seed(0)).double(), tokenizer, max_batch=8) as chat:
        yield chat


def say(model: ChatModel, *messages: Message, n: int = 1, **sampling: object) -> list:
    return complete_all(model, [messages], Sampling(**{"max_tokens": 12, "seed": 0, **sampling}), n)[0]  # type: ignore[arg-type]


def test_replies_do_not_depend_on_the_batch(model: LocalChatModel) -> None:
    conversations = [[Message("user", "yes " * i + "no")] for i in range(1, 20)]
    sampling = Sampling(max_tokens=12, seed=3)
    together = [reply[0].text for reply in complete_all(model, conversations, sampling)]
    assert [complete_all(model, [each], sampling)[0][0].text for each in conversations] == together
    assert len(set(together)) > 1
    others = complete_all(model, conversations, dataclasses.replace(sampling, seed=4))
    assert [reply[0].text for reply in others] != together


def test_a_reply_tells_its_tokens_and_what_it_cost(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    first, second = say(model, USER, n=2, logprobs=True)
    assert first.text != second.text
    assert first.finish_reason == "length"
    assert first.usage.prompt == len(model.prompt([USER]))
    assert (first.usage.completion, second.usage.prompt) == (12, 0)
    assert len(first.token_ids) == len(first.logprobs) == 12
    ends = {tokenizer.end_id, tokenizer.eos_id}
    assert tokenizer.decode([id for id in first.token_ids if id not in ends], skip_special_tokens=True) == first.text


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(model: LocalChatModel) -> None:
    whole = say(model, USER, max_tokens=30)[0]
    mark = whole.text[5:7]
    cut = say(model, USER, max_tokens=30, stop=(mark,))[0]
    assert cut.text == whole.text[: whole.text.index(mark)]
    assert cut.finish_reason == "stop"
    assert cut.usage.completion < 30


def test_choices_are_the_only_answers(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    choices = ("yes", "no", "I do not know", "not")
    replies = [say(model, USER, choices=choices, seed=seed, temperature=3.0)[0] for seed in range(12)]
    said = {reply.text for reply in replies}
    assert said <= set(choices)
    assert len(said) > 1
    # The end of a turn is what a model was trained to say there; the end of the text would cost it twenty nats.
    assert tokenizer.end_id != tokenizer.eos_id
    assert all(reply.token_ids is not None and reply.token_ids[-1] == tokenizer.end_id for reply in replies)


def test_a_biased_token_wins_and_penalties_keep_it_from_coming_again(model: LocalChatModel) -> None:
    always = say(model, USER, logit_bias={"70": 100.0})[0].token_ids
    assert set(always) == {70}
    greedy = {"temperature": 0, "max_tokens": 60, "min_tokens": 60}
    penalised = say(model, USER, frequency_penalty=2.0, presence_penalty=2.0, **greedy)[0].token_ids
    plain = say(model, USER, **greedy)[0].token_ids
    assert len(set(penalised)) > len(set(plain))


def test_warming_up_changes_no_answer(model: LocalChatModel) -> None:
    before = say(model, USER)[0].text
    model.warm_up()
    assert say(model, USER)[0].text == before


def test_tools_go_into_the_prompt_and_a_forced_call_is_begun(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    plain = tokenizer.decode(model.prompt([USER]))
    assert '"add"' not in plain
    assert '"add"' in tokenizer.decode(model.prompt([USER], Sampling(tools=(TOOL,))))
    assert '"add"' not in tokenizer.decode(model.prompt([USER], Sampling(tools=(TOOL,), tool_choice="none")))
    named = {"type": "function", "function": {"name": "add"}}
    forced = say(model, USER, tools=(TOOL,), tool_choice=named, max_tokens=60)[0]
    assert forced.text.startswith('<tool_call>{"name": "add", "arguments": {')


def test_a_call_in_the_reply_is_read(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    """The choices' trie makes a model without training say it."""
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    made = say(model, USER, choices=(call,), max_tokens=200)[0]
    assert made.text == call
    conversation = [USER, Message("assistant", "", tool_calls=()), Message("tool", "2", tool_call_id="x")]
    assert "2" in tokenizer.decode(model.prompt(conversation))
    assert json.loads(call.removeprefix("<tool_call>").removesuffix("</tool_call>"))["name"] == "add"


def test_bad_requests(model: LocalChatModel) -> None:
    with pytest.raises(UserError, match="messages: got none"):
        say(model)
    with pytest.raises(UserError, match="reads text only"):
        say(model, Message("user", "look", images=(b"x",)))
    with pytest.raises(ContextLengthError, match="the model reads at most 512 with its answer"):
        say(model, Message("user", "no " * 600))
    with pytest.raises(UserError, match="response_format: got type 'xml'"):
        say(model, USER, response_format={"type": "xml"})
    with pytest.raises(ValueError, match="n: got 0"):
        say(model, USER, n=0)


def test_an_answer_is_cut_where_the_model_ends(model: LocalChatModel) -> None:
    room = 512 - len(model.prompt([USER]))
    reply = say(model, USER, temperature=0, max_tokens=10_000, min_tokens=10_000)[0]
    assert reply.finish_reason == "length"
    assert reply.usage.completion == room


def test_a_cancelled_task_frees_the_engine(model: LocalChatModel) -> None:
    async def hasty() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.complete([USER], Sampling(max_tokens=400, min_tokens=400)), 0.05)
        for _ in range(500):
            if model.engine.load() == (0, 0):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("still running")

    asyncio.run(hasty())


def test_tokenizer_of_another_model(model: LocalChatModel, tokenizer: Tokenizer) -> None:
    small = Decoder(DecoderConfig(100, 24, 1, 4, 2, 6, 32), torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="do not belong together"):
        LocalChatModel(small, tokenizer)


def test_closing_tells_who_waits(tokenizer: Tokenizer) -> None:
    cfg = DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=512)
    chat = LocalChatModel(Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer)

    async def ask() -> None:
        task = asyncio.create_task(chat.complete([USER], Sampling(max_tokens=450, min_tokens=450)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(chat.close)
        with pytest.raises(UserError, match="closed"):
            await task

    asyncio.run(ask())
