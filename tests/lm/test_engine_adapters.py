"""Requests with different adapters share a batch, and each gets what its own adapter gives alone."""

from __future__ import annotations

import asyncio

import pytest
import torch

from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.generate import generate
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.nn.lora import add_lora, lora_parameters
from tenfold.nn.lora_layer import activate, remove, working
from tenfold.text.chat import Sampling
from tenfold.text.messages import Message
from tenfold.text.tokenizer import train_tokenizer

CFG = DecoderConfig(vocab_size=50, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=32, max_len=160)
GREEDY = SamplingRule(temperature=0)
NAMES = (None, "sum", "tone")


def taught(model: Decoder, name: str, seed: int) -> None:
    """An adapter that changes what the model says."""
    generator = torch.Generator().manual_seed(seed)
    add_lora(model, 2, name=name, dtype=model.embed_tokens.weight.dtype, generator=generator)
    with torch.no_grad():
        for weight in lora_parameters(model, name):
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def model(request: pytest.FixtureRequest) -> Decoder:
    model = Decoder(CFG, torch.Generator().manual_seed(0)).to(request.param)
    model.embed_tokens.weight.data *= 4
    taught(model, "sum", 1)
    taught(model, "tone", 2)
    return activate(model, None)


def prompt(length: int) -> list[int]:
    return torch.randint(0, 50, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def alone(model: Decoder, ids: list[int], adapter: str | None, count: int = 9) -> list[int]:
    activate(model, adapter)
    said = generate(model, [ids], max_new_tokens=count, temperature=0).ids[0]
    activate(model, None)
    return said


def test_mixed_requests_get_what_each_gets_alone(model: Decoder) -> None:
    requests = [(prompt(length), NAMES[i % 3]) for i, length in enumerate((30, 30, 30, 7, 90, 3, 25, 12, 41))]
    wanted = [alone(model, ids, adapter) for ids, adapter in requests]
    assert wanted[0] != wanted[1] != wanted[2] != wanted[0]  # the adapters do something
    with Engine(model, max_batch=4, prefill_chunk=8) as engine:
        for _ in range(2):  # the second time from kept prefixes
            streams = [engine.submit(Request(ids, 9, GREEDY, adapter=adapter)) for ids, adapter in requests]
            assert [[token.id for token in stream] for stream in streams] == wanted


def test_a_switch_between_steps_reaches_later_requests_alone(model: Decoder) -> None:
    ids = prompt(20)
    plain, changed = alone(model, ids, None), alone(model, ids, "sum")
    with Engine(model, max_batch=2) as engine:
        stream = iter(engine.submit(Request(ids, 9, GREEDY)))
        said = [next(stream).id for _ in range(3)]
        activate(model, "sum")
        said += [token.id for token in stream]
        assert said == plain
        assert [token.id for token in engine.submit(Request(ids, 9, GREEDY))] == changed


def test_a_switch_within_a_batch_is_refused(model: Decoder) -> None:
    with working(model, ["sum", None]), pytest.raises(ValueError, match="a batch is running"):
        activate(model, "tone")


def test_unknown_adapters_are_named(model: Decoder) -> None:
    with Engine(model) as engine, pytest.raises(ValueError, match="adapter: got 'poem', need one of sum, tone"):
        engine.submit(Request(prompt(3), 2, adapter="poem"))
    with Engine(Decoder(CFG)) as engine, pytest.raises(ValueError, match="adapter: got 'sum', need one of none"):
        engine.submit(Request(prompt(3), 2, adapter="sum"))


def test_what_was_kept_is_forgotten_when_an_adapter_learns(model: Decoder) -> None:
    ids = prompt(40)
    with Engine(model) as engine:
        list(engine.submit(Request(ids, 2, GREEDY, adapter="sum")))
        with torch.no_grad():
            for weight in lora_parameters(model, "sum"):
                weight.mul_(-1.5)
        engine.forget()
        assert [token.id for token in engine.submit(Request(ids, 9, GREEDY, adapter="sum"))] == alone(model, ids, "sum")


def test_a_chat_model_with_an_adapter_shares_the_engine() -> None:
    tokenizer = train_tokenizer(["what is the colour of the sky", "the sky is blue"] * 4, 320)
    model = Decoder(
        DecoderConfig(tokenizer.vocab_size, 24, 2, 4, 2, 6, 32, max_len=160), torch.Generator().manual_seed(0)
    )
    taught(model, "sum", 1)
    activate(model, None)
    with LocalChatModel(model, tokenizer, "tiny") as chat:
        other = chat.with_adapter("sum")
        assert other.name == "tiny:sum" and other.engine is chat.engine

        def says(chat: LocalChatModel) -> tuple[int, ...] | None:
            asked = chat.complete([Message("user", "what is the sky")], Sampling(temperature=0, max_tokens=8))
            return asyncio.run(asked)[0].token_ids

        first, second = says(chat), says(other)
        assert first != second
        assert says(chat) == first and says(other) == second


def test_an_adapter_stays_until_its_requests_are_over(model: Decoder) -> None:
    ids = prompt(30)
    wanted = {name: alone(model, ids, name) for name in ("sum", None)}
    with Engine(model, prefill_chunk=8) as engine:
        streams = {name: engine.submit(Request(ids, 9, GREEDY, adapter=name)) for name in ("sum", None)}
        for _ in range(6):
            engine.step()
        with pytest.raises(ValueError, match="1 running requests began with 'sum'"):
            remove(model, "sum")
        assert {name: [token.id for token in stream] for name, stream in streams.items()} == wanted
        late = engine.submit(Request(ids, 9, GREEDY, adapter="tone"))
        remove(model, "tone")
        with pytest.raises(ValueError, match="got 'tone', need one of sum"):
            list(late)  # taken away while it waited: its own request fails, nobody else's
        remove(model, "sum")
        taught(model, "sum", 9)  # another adapter of the same name takes nothing over
        activate(model, None)
        other = [token.id for token in engine.submit(Request(ids, 9, GREEDY, adapter="sum"))]
        activate(model, "sum")
        assert other == generate(model, [ids], max_new_tokens=9, temperature=0).ids[0] != wanted["sum"]
