"""Responses: the tokens that were drawn, ends and cuts, and both kinds of models."""

from __future__ import annotations

import pytest
import torch

from tenfold.align.chat_samples import prompt_ids
from tenfold.align.logprobs import logprobs_of
from tenfold.align.rollout import respond
from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.nn.lora import add_lora, disabled, lora_parameters
from tenfold.text.chat import Message, Reply, Sampling, ScriptedChatModel, Usage
from tenfold.text.tokenizer import Tokenizer

PROMPTS = [(Message("user", "one and two?"),), (Message("user", "yes or no"),), (Message("user", "yes or no"),)]
SHORT = Sampling(max_tokens=12, seed=3)


def test_draws_depend_on_seed_prompt_and_number_alone(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    model = decoder().train()
    said = respond(model, tokenizer, PROMPTS, 4, SHORT)
    assert model.training
    assert [len(group) for group in said] == [4, 4, 4]
    assert len({response.sample.ids for group in said for response in group}) == 12
    assert respond(model, tokenizer, PROMPTS, 4, SHORT, max_batch=3) == said
    assert respond(model, tokenizer, PROMPTS[:1], 2, SHORT) == [said[0][:2]]
    assert respond(model, tokenizer, PROMPTS, 4, Sampling(max_tokens=12, seed=4)) != said


def test_a_sample_is_the_prompt_and_what_was_drawn(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    for prompt, group in zip(PROMPTS, respond(decoder(), tokenizer, PROMPTS, 8, SHORT), strict=True):
        asked = prompt_ids(tokenizer, prompt)
        for response in group:
            ids = response.sample.ids
            assert list(ids[: len(asked)]) == asked
            assert response.sample.learned == (False,) * len(asked) + (True,) * (len(ids) - len(asked))
            new = ids[len(asked) :]
            ends = {tokenizer.end_id, tokenizer.eos_id}
            assert response.finished == (new[-1] in ends) == (len(new) < 12 or new[-1] in ends)
            assert response.text == tokenizer.decode([id for id in new if id not in ends])


def test_a_greedy_response_is_the_likeliest_there_is(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, sampling = decoder(), Sampling(temperature=0.0, max_tokens=6)
    (greedy, again), *_ = respond(model, tokenizer, PROMPTS, 2, sampling)
    assert greedy == again
    ids = torch.tensor([greedy.sample.ids])
    best = model(ids)[0].argmax(-1)
    learned = torch.tensor(greedy.sample.learned[1:])
    assert torch.equal(best[:-1][learned], ids[0, 1:][learned])


def test_the_weights_of_the_moment_are_sampled(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, sampling = decoder().float(), Sampling(temperature=0.0, max_tokens=6)
    before = respond(model, tokenizer, PROMPTS, 1, sampling)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert respond(model, tokenizer, PROMPTS, 1, sampling) != before
    value = model(torch.tensor([[1, 2]])).sum()
    value.backward()  # sampling left nothing behind that training could not use


def test_a_cut_response_has_no_end(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    said = respond(decoder(), tokenizer, PROMPTS, 3, Sampling(max_tokens=2, min_tokens=2, seed=0))
    cut = [response for group in said for response in group if not response.finished]
    assert cut
    for response in cut:
        new = response.sample.ids[-2:]
        assert sum(response.sample.learned) == 2
        assert not {tokenizer.end_id, tokenizer.eos_id} & set(new)
        assert response.text == tokenizer.decode(new)


def test_a_long_prompt_shortens_the_response_and_a_longer_one_is_refused(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    size = len(prompt_ids(tokenizer, PROMPTS[0]))
    ((response,),) = respond(decoder(max_len=size + 1), tokenizer, PROMPTS[:1], 1, SHORT)
    assert len(response.sample.ids) == size + 1
    with pytest.raises(UserError, match=rf"prompt: got {size} tokens, the model reads {size}"):
        respond(decoder(max_len=size), tokenizer, PROMPTS[:1], 1, SHORT)


def test_a_chat_model_gives_the_tokens_it_drew(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    model = decoder()
    with LocalChatModel(model, tokenizer) as chat:
        said = respond(chat, tokenizer, PROMPTS[:2], 2, SHORT)
    for prompt, group in zip(PROMPTS, said, strict=False):
        for response in group:
            assert list(response.sample.ids[: -sum(response.sample.learned)]) == prompt_ids(tokenizer, prompt)
            assert response.finished == (response.sample.ids[-1] in (tokenizer.end_id, tokenizer.eos_id))
    assert all(value < 0 for value in logprobs_of(model, [response.sample for group in said for response in group]))


def test_a_chat_model_without_tokens_gives_text(tokenizer: Tokenizer) -> None:
    replies = ["three", Reply("the answer", "length", Usage(1, 1))]
    (group,) = respond(ScriptedChatModel(replies), tokenizer, PROMPTS[:1], 2)
    asked = prompt_ids(tokenizer, PROMPTS[0])
    assert [list(response.sample.ids[len(asked) :]) for response in group] == [
        [*tokenizer.encode("three"), tokenizer.end_id],
        tokenizer.encode("the answer"),
    ]
    assert [(response.text, response.finished) for response in group] == [("three", True), ("the answer", False)]


def test_what_a_decoder_does_not_take(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="k: got 0"):
        respond(decoder(), tokenizer, PROMPTS, 0)
    with pytest.raises(ValueError, match="sampling: got stop, choices, need a chat model"):
        respond(decoder(), tokenizer, PROMPTS, 1, Sampling(stop=("x",), choices=("a",)))
    with pytest.raises(UserError, match=rf"tokenizer: it has {tokenizer.vocab_size} ids, the model 100"):
        respond(decoder(vocab_size=100), tokenizer, PROMPTS, 1)
    assert respond(decoder(), tokenizer, [], 2) == []


def test_a_policy_with_adapters_is_sampled_with_them(decoder, tokenizer: Tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, sampling = decoder(), Sampling(temperature=0.0, max_tokens=6)
    before = respond(model, tokenizer, PROMPTS, 1, sampling)
    add_lora(model, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert respond(model, tokenizer, PROMPTS, 1, sampling) == before
    with torch.no_grad():
        for weight in lora_parameters(model):
            weight.add_(0.2)
    assert respond(model, tokenizer, PROMPTS, 1, sampling) != before
    with disabled(model):
        assert respond(model, tokenizer, PROMPTS, 1, sampling) == before
