"""Log-likelihood: gold values by hand, laws of batching, truncation, rolling windows, faults."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loglikelihood import (
    TextEncoder,
    TokenPair,
    encode_pairs,
    loglikelihood,
    loglikelihood_rolling,
    model_max_len,
    rolling_pairs,
    score_tokens,
    scoring_mode,
)
from tenfold.nn.moe import MoE, MoEConfig

LETTERS = "\0\1 abcdefgh.,ß"  # bos, eos, then text


class Letters:
    """A token a character; id 0 is bos, 1 is eos."""

    bos_id, eos_id = 0, 1
    vocab_size = len(LETTERS)

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids)


class Bigram(nn.Module):
    """The next token depends on the current one alone: log-probabilities come from a table."""

    def __init__(self, table_VV: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table_VV.log())
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, ids_BS: Tensor) -> Tensor:
        self.shapes.append(tuple(ids_BS.shape))
        return self.table[ids_BS]


def bigram(seed: int = 0) -> Bigram:
    table = torch.rand(len(LETTERS), len(LETTERS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Bigram(table / table.sum(1, keepdim=True))


def by_hand(model: Bigram, text: str, start: int) -> float:
    """Sum of log p over text[start:], each given the character before it."""
    ids = Letters().encode(text)
    return sum(model.table[a, b].item() for a, b in zip(ids[start - 1 : -1], ids[start:], strict=True))


def decoder(dtype: torch.dtype = torch.float32, **changes: object) -> Decoder:
    cfg = DecoderConfig(
        vocab_size=len(LETTERS), dim=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=32, max_len=64
    )
    return Decoder(dataclasses.replace(cfg, **changes), torch.Generator().manual_seed(0)).to(dtype)  # type: ignore[arg-type]


PAIRS = [
    ("ab", " cd"), ("abcdefgh. abc", " a"), ("abcdefgh. abc", " b"), ("", " hello".replace("l", "f").replace("o", "c")),
    ("a b c ", "d"), ("fade", ", bad."), ("c", "a"),
]  # fmt: skip


def test_sum_of_log_probabilities_by_hand() -> None:
    model = bigram()
    (ab, one, *_), expected = loglikelihood(model, Letters(), PAIRS), by_hand(model, "ab cd", 2)
    assert ab[0] == pytest.approx(expected, rel=1e-12)
    assert one[0] == pytest.approx(by_hand(model, "abcdefgh. abc a", 13), rel=1e-12)


def test_a_probability_worked_out_on_paper() -> None:
    table = torch.full((len(LETTERS), len(LETTERS)), 1e-3, dtype=torch.float64)
    a, b, c = (LETTERS.index(x) for x in "abc")
    table[a, b], table[b, c] = 0.5, 0.25
    table = table / table.sum(1, keepdim=True)
    others = (len(LETTERS) - 1) * 1e-3
    ((logp, greedy),) = loglikelihood(Bigram(table), Letters(), [("a", "bc")])
    assert logp == pytest.approx(math.log(0.5 / (0.5 + others) * 0.25 / (0.25 + others)), rel=1e-12)
    assert greedy


def test_greedy_needs_every_token_to_be_the_most_likely() -> None:
    table = torch.full((len(LETTERS), len(LETTERS)), 0.01, dtype=torch.float64)
    a, b, c = (LETTERS.index(x) for x in "abc")
    table[a, b] = table[b, c] = table[c, a] = 0.9
    pairs = [("a", "bca"), ("a", "bcb"), ("a", "cab"), ("c", "a")]
    assert [greedy for _, greedy in loglikelihood(Bigram(table), Letters(), pairs)] == [True, False, False, True]


def test_spaces_that_end_the_context_belong_to_the_continuation() -> None:
    model = bigram()
    moved, plain = loglikelihood(model, Letters(), [("ab  ", "c"), ("ab", "  c")])
    assert moved == plain
    assert moved[0] == pytest.approx(by_hand(model, "ab  c", 2))


def test_an_empty_context_is_the_prefix_token() -> None:
    model = bigram()
    empty, blank, own = (
        loglikelihood(model, Letters(), [pair])[0][0] for pair in (("", "ab"), ("  ", "ab"), ("\0", "ab"))
    )
    assert empty == own == pytest.approx(by_hand(model, "\0ab", 1))
    assert blank == pytest.approx(by_hand(model, "\0  ab", 1))  # the spaces are scored
    (eos,) = loglikelihood(model, Letters(), [("", "ab")], prefix_id=1)
    assert eos[0] == pytest.approx(by_hand(model, "\1ab", 1))


def test_a_continuation_that_opens_with_the_prefix_token_brings_its_own_context() -> None:
    (pair,) = encode_pairs(TextEncoder(Letters()), [("", "\0ab")])
    assert pair == TokenPair((0,), (3, 4))


class Merging(Letters):
    """Letters, but "ab" is one token (id 2 stands in for it): merges may cross from context to continuation."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("ab", " "))


def test_context_and_continuation_are_tokenised_together() -> None:
    # Alone the context "ca" has two tokens; with "b" its last letter merges: c, ab. The split at 2 would leave
    # nothing, so the last token is scored.
    whole, ordinary = encode_pairs(TextEncoder(Merging()), [("ca", "b"), ("cab", "d")])
    assert whole == TokenPair((5,), (2,))
    assert ordinary == TokenPair((5, 2), (6,))


@pytest.mark.parametrize("batch_tokens", [1, 7, 16, 40, 10_000])
def test_batch_size_has_no_effect(batch_tokens: int) -> None:
    model, alone = decoder(torch.float64), []
    for pair in PAIRS:
        alone += loglikelihood(model, Letters(), [pair])
    together = loglikelihood(model, Letters(), PAIRS, batch_tokens)
    for a, b in zip(alone, together, strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-12)
        assert a[1] == b[1]


@given(st.permutations(range(len(PAIRS))))
def test_order_has_no_effect(order: list[int]) -> None:
    model = bigram()
    straight = loglikelihood(model, Letters(), PAIRS, 32)
    assert loglikelihood(model, Letters(), [PAIRS[i] for i in order], 32) == [straight[i] for i in order]


def test_batches_respect_their_size_and_equal_inputs_share_a_row() -> None:
    model = bigram()
    pairs = [("abcdefgh", c) for c in "abcdefgh"] + [("ab", "cd")] * 3
    loglikelihood(model, Letters(), pairs, batch_tokens=12)
    assert model.shapes == [(1, 8), (1, 3)]  # eight choices, one row; three repeats, one row
    model.shapes.clear()
    loglikelihood(model, Letters(), [("abc", "d" + c + "a") for c in "abcdefg"], batch_tokens=12)
    assert model.shapes == [(2, 5), (2, 5), (2, 5), (1, 5)]


def test_decoder_scores_equal_its_own_forward() -> None:
    model = decoder()
    ((logp, _),) = loglikelihood(model, Letters(), [("abc", "def")])
    ids = torch.tensor([Letters().encode("abcdef")])
    logits = model.eval()(ids).log_softmax(-1)
    assert logp == pytest.approx(sum(logits[0, i - 1, ids[0, i]].item() for i in (3, 4, 5)), abs=1e-5)


class Wrapped(nn.Module):
    """A decoder behind another class: the generic path, as Hugging Face's models answer."""

    def __init__(self, inner: Decoder) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(ids))


def test_the_path_for_our_decoder_equals_the_general_one() -> None:
    model = decoder(torch.float64)
    general = loglikelihood(Wrapped(model), Letters(), PAIRS)
    for a, b in zip(general, loglikelihood(model, Letters(), PAIRS), strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-12)
        assert a[1] == b[1]


def test_low_precision_logits_are_summed_in_float32() -> None:
    model = bigram()
    model.table.data = model.table.data.bfloat16()
    ((logp, _),) = loglikelihood(model, Letters(), [("a", "bcd")])
    row = [model.table[LETTERS.index(c)].float().log_softmax(-1) for c in "abc"]
    assert logp == pytest.approx(sum(r[LETTERS.index(c)].item() for r, c in zip(row, "bcd", strict=True)), abs=1e-6)


def test_long_pairs_lose_tokens_on_the_left_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = decoder(torch.float64)
    context = "abcdefgh" * 5
    with caplog.at_level(logging.WARNING):
        cut, kept = loglikelihood(model, Letters(), [(context, "cab"), ("a", "b")], max_len=10)
    assert "1 of 2 pairs exceed the model's 10 tokens" in caplog.text
    # 11 tokens stay: 8 of the context, 3 of the continuation.
    (expected,) = loglikelihood(model, Letters(), [(context[-8:], "cab")], max_len=10)
    assert cut[0] == pytest.approx(expected[0], abs=1e-12)
    assert kept[0] == pytest.approx(loglikelihood(model, Letters(), [("a", "b")])[0][0], abs=1e-12)


def test_exactly_one_token_more_than_the_model_still_fits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loglikelihood(bigram(), Letters(), [("abcdefgh", "ab")], max_len=9)  # the last token is never an input
    assert caplog.text == ""


def test_a_continuation_longer_than_the_model_keeps_its_end() -> None:
    model = bigram()
    ((logp, _),) = loglikelihood(model, Letters(), [("abc", "defgh")], max_len=3)
    assert logp == pytest.approx(by_hand(model, "efgh", 1))


def test_the_models_own_length_is_the_limit() -> None:
    assert model_max_len(decoder()) == 64
    assert model_max_len(bigram()) is None
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(max_position_embeddings=77)  # type: ignore[assignment]
    assert model_max_len(model) == 77
    loglikelihood(decoder(), Letters(), [("abcdefgh" * 20, "ab")])  # 162 tokens into 64: no error


# Running text


def test_rolling_windows_by_hand() -> None:
    # Tokens 0..9 after the prefix, window 4: inputs P012, 3456, 5678 (the last one full, scoring only its end).
    pairs = rolling_pairs([10, 11, 12, 13, 14, 15, 16, 17, 18, 19], prefix_id=9, window=4)
    assert pairs == [
        TokenPair((9,), (10, 11, 12, 13)),
        TokenPair((13,), (14, 15, 16, 17)),
        TokenPair((15, 16, 17), (18, 19)),
    ]


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 20))
def test_rolling_predicts_every_token_once_within_the_window(tokens: list[int], window: int) -> None:
    pairs = rolling_pairs(tokens, 100, window)
    assert [t for pair in pairs for t in pair.continuation] == tokens
    sequence = [100, *tokens]
    position = 0
    for pair in pairs:
        whole = list(pair.context + pair.continuation)
        assert len(whole) - 1 <= window
        position += len(pair.continuation)
        assert whole == sequence[position + 1 - len(whole) : position + 1]
        assert pair.context
    if len(tokens) >= window:
        assert all(len(pair.context) + len(pair.continuation) == window + 1 for pair in pairs)


def test_rolling_equals_one_pass_where_the_text_fits() -> None:
    model, text = bigram(), "abc def. fade, bad"
    assert loglikelihood_rolling(model, Letters(), [text, "", "ab"]) == pytest.approx(
        [by_hand(model, "\0" + text, 1), 0.0, by_hand(model, "\0ab", 1)]
    )
    # A bigram model sees one token back: windows change nothing.
    assert loglikelihood_rolling(model, Letters(), [text], max_len=3) == pytest.approx([by_hand(model, "\0" + text, 1)])


# Tokenizers of other houses


def word_tokenizer() -> tokenizers.Tokenizer:
    vocabulary = {word: i for i, word in enumerate(["<s>", "a", "b", "c"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def test_special_tokens_open_a_context_but_not_an_empty_one() -> None:
    encoder = TextEncoder(word_tokenizer(), prefix_id=0)
    given_context, empty = encode_pairs(encoder, [("a b", " c"), ("", " c")])
    assert given_context == TokenPair((0, 1, 2), (3,))
    assert empty == TokenPair((0,), (3,))  # one <s>, not two
    # Another prefix: had the tokenizer put its own <s> before the continuation, it would be scored.
    assert encode_pairs(TextEncoder(word_tokenizer(), prefix_id=2), [("", " c")]) == [TokenPair((2,), (3,))]


def test_prefix_prefers_bos_and_falls_back_to_eos() -> None:
    names = SimpleNamespace(encode=lambda text: [5], decode=str, bos_token_id=None, eos_token_id=7)
    assert TextEncoder(names).prefix_id == 7
    names.bos_token_id = 3
    assert TextEncoder(names).prefix_id == 3
    assert TextEncoder(names).eos_id == 7
    assert TextEncoder(names, prefix_id=9).prefix_id == 9
    with pytest.raises(ValueError, match="tokenizer: got neither a bos nor an eos token"):
        _ = TextEncoder(word_tokenizer()).prefix_id


# Mixtures of experts


def sparse_decoder(capacity_factor: float = 0.25) -> Decoder:
    moe = MoEConfig(dim=16, hidden=16, num_experts=4, router="topk", top_k=2, capacity_factor=capacity_factor)
    return decoder(torch.float64, moe=moe)


def test_sparse_models_score_without_capacity() -> None:
    model = sparse_decoder()
    alone = [loglikelihood(model, Letters(), [pair])[0][0] for pair in PAIRS]
    together = [logp for logp, _ in loglikelihood(model, Letters(), PAIRS)]
    assert together == pytest.approx(alone, abs=1e-10)
    roomy = sparse_decoder(capacity_factor=1000.0)  # nothing is ever dropped
    assert together == pytest.approx([logp for logp, _ in loglikelihood(roomy, Letters(), PAIRS)], abs=1e-10)
    # Told otherwise, tokens are dropped and the scores move.
    tight = [logp for logp, _ in loglikelihood(model, Letters(), PAIRS, dropless=False)]
    assert max(abs(a - b) for a, b in zip(tight, together, strict=True)) > 1e-3


def test_padding_takes_no_capacity() -> None:
    # One long row and one short row: with capacity, the short row's padding is masked, so the token that stands
    # there is of no consequence to the long row.
    model, pairs = sparse_decoder(0.5), [TokenPair((3, 4, 5, 6, 7, 8, 9, 10), (3,)), TokenPair((3,), (4,))]
    masks = []
    original = model.forward

    def hidden(ids: Tensor, **extra: Tensor) -> Tensor:
        masks.append(extra["mask"].tolist())
        return Decoder.hidden(model, ids, **extra)

    model.hidden = hidden  # type: ignore[method-assign]
    score_tokens(model, pairs, dropless=False)
    assert masks == [[[True] * 8, [True] + [False] * 7]]
    assert model.forward == original


def test_scoring_leaves_the_model_as_it_was() -> None:
    model = sparse_decoder()
    layers = [m for m in model.modules() if isinstance(m, MoE)]
    before = [m.config for m in layers]
    model.train()
    model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    with scoring_mode(model):
        assert all(m.config.dropless for m in layers)
        assert not any(m.training for m in model.modules())
    assert [m.config for m in layers] == before
    assert [m.training for m in model.modules()] == modes
    model(torch.tensor([[3, 4, 5]]))
    last = [m.last for m in layers]
    loglikelihood(model, Letters(), PAIRS)
    assert all(m.last is kept for m, kept in zip(layers, last, strict=True))
    with pytest.raises(RuntimeError, match="inside"), scoring_mode(model):
        raise RuntimeError("inside")
    assert [m.config for m in layers] == before
    with scoring_mode(model, without_capacity=False):
        assert [m.config for m in layers] == before


class Caching(Bigram):
    """Builds a table on its first call and keeps it, as rotary positions are kept."""

    cached: Tensor | None = None

    def forward(self, ids_BS: Tensor) -> Tensor:
        if self.cached is None:
            self.cached = torch.ones_like(self.table)
        return (self.table * self.cached)[ids_BS]


@pytest.mark.parametrize("make", [decoder, lambda: Caching(bigram().table.detach().exp())])
def test_a_model_trains_on_after_it_was_scored(make: Callable[[], nn.Module]) -> None:
    model = make()  # never run before: whatever it caches, it caches while it is scored
    loglikelihood(model, Letters(), PAIRS)
    assert all(weight.grad is None for weight in model.parameters())
    model(torch.tensor([[3, 4, 5]])).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


# Faults


def test_faults() -> None:
    model, tokenizer = bigram(), Letters()
    with pytest.raises(ValueError, match="continuation: got an empty string"):
        loglikelihood(model, tokenizer, [("a", "")])
    with pytest.raises(ValueError, match="batch_tokens: got 0"):
        loglikelihood(model, tokenizer, [("a", "b")], 0)
    with pytest.raises(ValueError, match="window: got 0"):
        rolling_pairs([1], 0, 0)
    small = Bigram(torch.full((len(LETTERS), 4), 0.25))
    with pytest.raises(ValueError, match=r"tokenizer: got token \d+, the model knows 4 tokens"):
        loglikelihood(small, tokenizer, [("a", "h")])
    broken = bigram()
    broken.table.data[LETTERS.index("a")] = math.nan
    with pytest.raises(ValueError, match="logits that are not a number"):
        loglikelihood(broken, tokenizer, [("a", "b")])
    assert loglikelihood(model, tokenizer, []) == []
