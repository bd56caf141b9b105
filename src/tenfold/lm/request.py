"""A request to continue tokens: what is asked, what comes back, and what its wishes do to the logits."""

# Shape legend: B rows, V vocabulary

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.lm.sampling import SamplingRule

Finish = Literal["stop", "length", "cancelled"]
Form = Callable[[list[int]], Sequence[int] | NDArray[np.int64] | None]


@dataclass(frozen=True)
class Request:
    """What to continue and how.

    Args:
        ids: the prompt's token ids, at least one.
        max_new_tokens: the most tokens to add.
        rule: temperature, top_k, top_p.
        stop: token ids that end the answer (the last token handed out).
        min_new_tokens: before so many tokens no stop token is drawn.
        seed: of this request's random numbers; they depend on nothing else.
        top_logprobs: how many most likely tokens to report beside each chosen one; None reports no probabilities.
        allowed: of the tokens so far, the ids that may follow (None: any); for answers of a given form. An exception of it
            ends this request alone.
        until: called with every new token; True ends the answer behind it, say since its text holds a stop string.
        presence_penalty, frequency_penalty: taken off the logits of tokens that the answer holds, once and for each time.
        bias: added to the logits of these tokens.
        adapter: which of the model's adapters (`nn.lora`) works on this request; None: what works on the model when it begins.
    """

    ids: Sequence[int]
    max_new_tokens: int
    rule: SamplingRule = field(default_factory=SamplingRule)
    stop: frozenset[int] = frozenset()
    min_new_tokens: int = 0
    seed: int = 0
    top_logprobs: int | None = None
    allowed: Form | None = None
    until: Callable[[int], bool] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    adapter: str | None = None

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("ids: got an empty prompt, need at least one token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {self.max_new_tokens}, need at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(f"min_new_tokens: got {self.min_new_tokens}, need 0..{self.max_new_tokens}")
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise ValueError(f"top_logprobs: got {self.top_logprobs}, need 0 or more")

    @cached_property  # read for every row whenever another one asks for a slot
    def need(self) -> int:
        """Tokens that its slot must hold: the last new token is never fed back."""
        return len(self.ids) + self.max_new_tokens - 1


@dataclass(frozen=True)
class NewToken:
    """One token of an answer.

    Attributes:
        id: the token.
        logprob: ln p under the model at temperature 1, unfiltered; None unless asked for.
        top: the most likely tokens and their ln p, likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of an answer: why, and how many prompt tokens had not to be computed."""

    reason: Finish
    cached_tokens: int = 0


Event = NewToken | Finished | BaseException


def masked_logits(
    logits_BV: Tensor, asked: Sequence[tuple[Request, list[int], Sequence[int] | NDArray[np.int64] | None]]
) -> Tensor:
    """Logits with the requests' biases and penalties, and -inf where a form or a minimum length forbids a token.

    Args:
        logits_BV: of the next token; they stay as they are.
        asked: of every row its request, the tokens of its answer so far, and those that its form allows next.
    """
    added: list[tuple[int, int, float]] = []  # row, token, logit
    barred: list[tuple[int, int]] = []
    forms: list[tuple[int, Sequence[int] | NDArray[np.int64]]] = []
    for i, (request, new, allowed) in enumerate(asked):
        added += [(i, token, value) for token, value in _added(request, new).items()]
        if allowed is not None:
            forms.append((i, allowed))
        elif len(new) < request.min_new_tokens:
            barred += [(i, token) for token in request.stop]
    if not (added or barred or forms):
        return logits_BV
    # One assignment for all rows: each costs as much as several rows' numbers.
    masked, device = logits_BV.clone(), logits_BV.device
    if added:
        rows, tokens, values = zip(*added, strict=True)
        index = torch.tensor([rows, tokens], device=device)
        masked[index[0], index[1]] += torch.tensor(values, dtype=masked.dtype, device=device)
    if barred:
        index = torch.tensor(barred, device=device).T
        masked[index[0], index[1]] = float("-inf")
    for i, allowed in forms:
        kept = torch.as_tensor(allowed, device=device)
        only = torch.full_like(masked[i], float("-inf"))
        only[kept] = masked[i, kept]
        masked[i] = only
    return masked


def _added(request: Request, new: list[int]) -> dict[int, float]:
    """What is added to the logits of some tokens."""
    added = dict(request.bias)
    if request.presence_penalty or request.frequency_penalty:
        for token, count in Counter(new).items():
            penalty = request.presence_penalty + count * request.frequency_penalty
            added[token] = added.get(token, 0.0) - penalty
    return added


def reported(logits_BV: Tensor, requests: Sequence[Request], tokens: Sequence[int]) -> list[NewToken]:
    """The chosen tokens with the probabilities that their requests want."""
    asked = [i for i, request in enumerate(requests) if request.top_logprobs is not None]
    reports = [NewToken(token) for token in tokens]
    if asked:
        log_AV = logits_BV[asked].log_softmax(-1)
        for i, log_V in zip(asked, log_AV, strict=True):
            count = requests[i].top_logprobs or 0
            values, index = log_V.topk(count) if count else (log_V[:0], torch.empty(0, dtype=torch.int64))
            top = tuple(zip(index.tolist(), values.tolist(), strict=True))
            reports[i] = NewToken(tokens[i], float(log_V[tokens[i]]), top)
    return reports
