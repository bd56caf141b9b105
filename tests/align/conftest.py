"""A tokenizer, a tiny decoder in float64 and samples of random tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tenfold.align.samples import Sample
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    text = "what is the sum of one and two? the answer is three, yes or no, I do not know\n"
    return train_tokenizer([text] * 20, 330)


@pytest.fixture
def decoder(tokenizer: Tokenizer) -> Callable[..., Decoder]:
    """A decoder from a seed; keywords change its shape."""

    def make(seed: int = 0, **changes: object) -> Decoder:
        shape = {"vocab_size": tokenizer.vocab_size, "dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1}
        shape |= {"head_dim": 8, "ffn_dim": 24, "max_len": 96, **changes}
        return Decoder(DecoderConfig(**shape), torch.Generator().manual_seed(seed)).double()  # type: ignore[arg-type]

    return make


@pytest.fixture
def samples() -> Callable[..., list[Sample]]:
    """Prompts and responses of random tokens and lengths."""

    def make(count: int, seed: int = 0, vocabulary: int = 300) -> list[Sample]:
        generator = torch.Generator().manual_seed(seed)

        def some(low: int, high: int) -> list[int]:
            size = int(torch.randint(low, high, (), generator=generator))
            return torch.randint(vocabulary, (size,), generator=generator).tolist()

        return [Sample.of(some(1, 6), some(1, 9)) for _ in range(count)]

    return make
