"""Perplexity of running text under windows that slide: every token is predicted once, with as much context as asked for.

Source: the windows of the Transformers guide "Perplexity of fixed-length models"; bits a byte as in Gao et al. 2020,
"The Pile", section 3.1, which makes models with different tokenizers comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from tenfold.lm.loglikelihood import ROLLING_WINDOW, TextEncoder, TokenPair, model_max_len, score_tokens


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts texts.

    Args:
        nats: minus the log-probability of all tokens.
        tokens: how many they are.
        bytes: of the texts in UTF-8.
        window: the most tokens of input.
        stride: tokens from the start of a window to the start of the next.
    """

    nats: float
    tokens: int
    bytes: int
    window: int
    stride: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp of nats_per_token; inf where that is too large to hold."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.nats / self.bytes / math.log(2)


def perplexity(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    window: int | None = None,
    stride: int | None = None,
    *,
    batch_tokens: int = 4096,
    precision: Literal["fp32", "bf16"] = "fp32",
    prefix_id: int | None = None,
    dropless: bool = True,
) -> Perplexity:
    """Perplexity of texts, each scored on its own after the prefix token.

    Args:
        model: maps ids (B, S) to logits (B, S, V), or to an object with `.logits`.
        tokenizer: ours, Hugging Face's, a `tokenizers.Tokenizer`, or anything with `encode(text)` and `decode(ids)`,
            such as a table of characters.
        texts: documents; empty ones count nothing.
        window: the most tokens of input; None takes the model's own limit, or 2048 if it states none.
        stride: tokens that each further window adds; a token then sees more than window - stride tokens before it,
            unless it stands near the start of its text. None takes the window: fastest, with the least context.
        batch_tokens: tokens, padding included, of one batch; has no effect on the result.
        precision: "bf16" runs the forward pass under autocast; log-probabilities are taken in float32 or better.
        prefix_id: token before the first; None takes the tokenizer's bos, else eos. A tokenizer that has neither,
            such as one of characters, needs it: a line break is a good choice.
        dropless: mixture-of-experts layers run without capacity.
    Raises:
        ValueError: no token at all, a window or stride out of range, logits that are not a number.
    """
    limit = model_max_len(model)
    window = (limit or ROLLING_WINDOW) if window is None else window
    stride = window if stride is None else stride
    if window < 1 or (limit is not None and window > limit):
        raise ValueError(f"window: got {window}, need at least 1, at most the model's {limit or 'own'} tokens")
    if not 1 <= stride <= window:
        raise ValueError(f"stride: got {stride}, need 1..{window} (the window)")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: got {precision!r}, need 'fp32' or 'bf16'")
    encoder = TextEncoder(tokenizer, prefix_id)
    encoded = [encoder.encode(text, special_tokens=False) for text in texts]
    pairs = [pair for ids in encoded for pair in windows([encoder.prefix_id, *ids], window, stride)]
    if not pairs:
        raise ValueError("texts: got no token, need some text")
    device = next((weight.device.type for weight in model.parameters()), "cpu")
    with torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext():
        scores = score_tokens(model, pairs, batch_tokens, max_len=window, dropless=dropless)
    return Perplexity(
        nats=-math.fsum(score for score, _ in scores),
        tokens=sum(len(ids) for ids in encoded),
        bytes=sum(len(text.encode("utf-8")) for text in texts),
        window=window,
        stride=stride,
    )


def windows(ids: Sequence[int], window: int, stride: int) -> Iterator[TokenPair]:
    """Cut a text, its prefix token first, into (context, targets): all tokens but the prefix are a target once.

    The first window predicts `window` tokens, each further one the next `stride` (the last perhaps fewer), from the
    last `window` tokens before its last target.
    """
    start = 1
    while start < len(ids):
        end = min(start + (window if start == 1 else stride), len(ids))
        yield TokenPair(tuple(ids[max(0, end - 1 - window) : start]), tuple(ids[start:end]))
        start = end
