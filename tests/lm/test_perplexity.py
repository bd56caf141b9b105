"""Perplexity under sliding windows: every token once, known models, precision, faults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.perplexity import Perplexity, perplexity, windows

ALPHABET = "\nabcdefghé "
TEXTS = ["abc abc", "a", "hgfedcba é\nabc" * 5]


class Characters:
    """A token a character; no bos, no eos."""

    def encode(self, text: str) -> list[int]:
        return [ALPHABET.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(ALPHABET[i] for i in ids)


def decoder(dtype: torch.dtype = torch.float64) -> Decoder:
    cfg = DecoderConfig(
        vocab_size=len(ALPHABET), dim=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=24, max_len=16
    )
    return Decoder(cfg, torch.Generator().manual_seed(0)).to(dtype).eval()


class Uniform(nn.Module):
    """Knows nothing; counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0

    def forward(self, ids_BS: Tensor) -> Tensor:
        self.longest = max(self.longest, ids_BS.shape[1])
        return torch.zeros(*ids_BS.shape, len(ALPHABET), dtype=torch.float64)


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 12))
def test_every_token_is_a_target_once_with_the_context_promised(tokens: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    ids = list(range(tokens + 1))
    pairs = list(windows(ids, window, stride))
    assert [target for pair in pairs for target in pair.continuation] == ids[1:]
    for pair in pairs:
        whole = pair.context + pair.continuation
        assert whole == tuple(range(whole[0], whole[-1] + 1)) and len(whole) <= window + 1
        assert len(pair.context) > window - stride or whole[0] == 0


def test_a_model_that_knows_nothing() -> None:
    model = Uniform()
    found = perplexity(model, Characters(), TEXTS, window=8, stride=3, prefix_id=0)
    tokens, size = sum(map(len, TEXTS)), sum(len(text.encode()) for text in TEXTS)
    assert (found.tokens, found.bytes, model.longest) == (tokens, size, 8) and size > tokens
    assert found.nats_per_token == pytest.approx(math.log(len(ALPHABET)), rel=1e-12)
    assert found.perplexity == pytest.approx(len(ALPHABET), rel=1e-12)
    assert found.bits_per_byte == pytest.approx(tokens * math.log2(len(ALPHABET)) / size, rel=1e-12)


@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 5), (7, 7), (7, 1), (1, 1), (None, None)])
def test_windows_are_scored_as_a_plain_loop_does(window: int | None, stride: int | None) -> None:
    model, tokenizer = decoder(), Characters()
    nats, width = 0.0, window or 16
    for text in TEXTS:
        ids = [0, *tokenizer.encode(text)]
        for target in range(1, len(ids)):
            # The window that predicts this token: the first, or the one that the stride brings it into.
            steps = max(0, -(-(target - width) // (stride or width)))
            end = min(width + steps * (stride or width), len(ids) - 1)
            begin = max(0, end - width)
            logits = model(torch.tensor([ids[begin:target]]))[0, -1]
            nats -= float(logits.double().log_softmax(-1)[ids[target]].detach())
    found = perplexity(model, tokenizer, TEXTS, window, stride, prefix_id=0, batch_tokens=40)
    assert found.nats == pytest.approx(nats, rel=1e-12)
    assert (found.window, found.stride) == (width, stride or width)


def test_precisions_agree_roughly_and_leave_the_model_alone() -> None:
    exact = perplexity(decoder(), Characters(), TEXTS, prefix_id=0).nats
    model = decoder(torch.float32).train()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert perplexity(model, Characters(), TEXTS, prefix_id=0).nats == pytest.approx(exact, rel=1e-5)
    coarse = perplexity(model, Characters(), TEXTS, prefix_id=0, precision="bf16").nats
    assert coarse != pytest.approx(exact, rel=1e-6) and coarse == pytest.approx(exact, rel=2e-2)
    halved = perplexity(decoder(torch.bfloat16), Characters(), TEXTS, prefix_id=0).nats
    assert halved == pytest.approx(exact, rel=2e-2)
    assert model.training and all(torch.equal(weights[name], w) for name, w in model.state_dict().items())


def test_a_tokenizer_that_marks_the_start_of_texts_itself() -> None:
    class Marking(Characters):
        bos_token_id = 0

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [0] * add_special_tokens + super().encode(text)

    assert perplexity(decoder(), Marking(), TEXTS) == perplexity(decoder(), Characters(), TEXTS, prefix_id=0)


def test_empty_texts_count_nothing_and_large_losses_do_not_overflow() -> None:
    model = decoder()
    with_empty = perplexity(model, Characters(), ["", *TEXTS, ""], prefix_id=0)
    assert with_empty == perplexity(model, Characters(), TEXTS, prefix_id=0)
    assert Perplexity(nats=1e6, tokens=1, bytes=1, window=1, stride=1).perplexity == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 17}, "window: got 17, need at least 1, at most the model's 16"),
        ({"window": 0}, "window: got 0"),
        ({"stride": 17}, "stride: got 17, need 1..16"),
        ({"window": 4, "stride": 0}, "stride: got 0, need 1..4"),
        ({"precision": "fp16"}, "precision: got 'fp16'"),
        ({"prefix_id": None}, "tokenizer: got neither a bos nor an eos token, need prefix_id"),
        ({"texts": []}, "texts: got no token"),
        ({"texts": [""]}, "texts: got no token"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"texts": TEXTS, "prefix_id": 0, **options}
    with pytest.raises(ValueError, match=message):
        perplexity(decoder(), Characters(), **given)
