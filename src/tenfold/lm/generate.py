"""Sampling a batch of continuations from a decoder."""

# Shape legend: B batch, S tokens of a prompt, D model, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.lm.kv_cache import KVCache
from tenfold.lm.sampling import SamplingRule, draw
from tenfold.nn.linear import draw_seed
from tenfold.nn.moe import dropless

if TYPE_CHECKING:
    from tenfold.lm.decoder import Decoder

__all__ = ["Generation", "KVCache", "generate"]


@dataclass(frozen=True)
class Generation:
    """What `generate` made.

    Attributes:
        ids: the new tokens of each row; a stop token that ended the row is the last of them.
        logprobs: ln p of each new token under the model at temperature 1 without top_k or top_p; None unless asked for.
        finished: per row, True where a stop token or `until` ended it, False where max_new_tokens did.
    """

    ids: list[list[int]]
    logprobs: list[list[float]] | None
    finished: list[bool]


@torch.inference_mode()
def generate(
    model: Decoder,
    ids: Tensor | Sequence[Sequence[int]] | None = None,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[int] = (),
    until: Callable[[list[int]], bool] | None = None,
    seed: int | None = None,
    logprobs: bool = False,
    mask: Tensor | None = None,
    embeds: Sequence[Tensor] | None = None,
) -> Generation:
    """Continue every prompt.

    Args:
        model: the decoder; it runs in eval mode.
        ids: prompts, as lists of token ids of any lengths >= 1, or int64 (B, S), or one prompt (S,).
        max_new_tokens: the most tokens to add to a row.
        temperature: 0 takes the most likely token (greedy).
        top_k: sample among that many most likely tokens; None for all.
        top_p: sample from the nucleus of that mass; None for all.
        stop: token ids that end a row.
        until: of the new tokens of a row; True ends the row, say since its text holds a stop string.
        seed: of the sampling; each row draws from its own stream (seed, row), so its tokens do not depend on the
            other rows. None draws one number from torch's random state, unless temperature is 0.
        logprobs: also return ln p of each new token.
        mask: bool (B, S), False at padding on either side of the prompts in a tensor `ids`.
        embeds: the prompts' input vectors (S, D) in place of `ids`, such as those of pictures among words.
    Returns:
        the new tokens.
    Raises:
        ValueError: an option out of range, an empty prompt, prompt and answer beyond the model's max_len.
    """
    if (ids is None) == (embeds is None):
        raise ValueError("ids, embeds: need exactly one of them")
    prompts = _embedded(model, _prompts(ids, mask)) if ids is not None else _checked(embeds)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, need at least 1")
    sampler = _Sampler(len(prompts), SamplingRule(temperature, top_k, top_p), seed)
    lengths = [len(prompt) for prompt in prompts]
    total = max(lengths) + max_new_tokens
    if total > model.cfg.max_len:
        raise ValueError(
            f"prompt + max_new_tokens: got {max(lengths)} + {max_new_tokens} = {total} tokens, "
            f"the model takes at most max_len = {model.cfg.max_len}"
        )
    was_training = model.training
    model.eval()
    try:
        # Without expert capacity: with it a row's tokens would depend on the other rows.
        with dropless(model):
            return _decode(model, prompts, max_new_tokens, sampler, frozenset(stop), until, logprobs)
    finally:
        model.train(was_training)


def _decode(
    model: Decoder,
    prompts: list[Tensor],
    max_new_tokens: int,
    sampler: _Sampler,
    stop: frozenset[int],
    until: Callable[[list[int]], bool] | None,
    logprobs: bool,
) -> Generation:
    weight = model.embed_tokens.weight
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    padded = torch.stack([torch.cat([prompt, prompt[-1:].expand(longest - len(prompt), -1)]) for prompt in prompts])
    # The last new token is never fed back, so its slot is not needed.
    cache = KVCache(model.cfg, len(prompts), longest + max_new_tokens - 1, weight.dtype, weight.device)
    real = torch.arange(longest, device=weight.device) < torch.tensor(lengths, device=weight.device).unsqueeze(1)
    hidden = model.hidden(embeds=padded, cache=cache, mask=None if real.all() else real)
    cache.set_lengths(lengths)
    hidden_BD = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]

    rows = list(range(len(prompts)))  # rows still running; finished ones leave the batch
    out: list[list[int]] = [[] for _ in prompts]
    logs: list[list[float]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    for step in range(max_new_tokens):
        logits_BV = model.head(hidden_BD).float() if weight.dtype != torch.float64 else model.head(hidden_BD)
        chosen = sampler.choose(logits_BV, rows)
        tokens = chosen.tolist()
        if logprobs:
            values = logits_BV.log_softmax(-1).gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
            for row, value in zip(rows, values, strict=True):
                logs[row].append(value)
        for row, token in zip(rows, tokens, strict=True):
            out[row].append(token)
            finished[row] = token in stop or (until is not None and until(out[row]))
        going = [i for i, row in enumerate(rows) if not finished[row]]
        if not going or step == max_new_tokens - 1:
            break
        if len(going) < len(rows):
            cache.keep_rows(going)
            rows, chosen = [rows[i] for i in going], chosen[torch.tensor(going, device=chosen.device)]
        hidden_BD = model.hidden(chosen.unsqueeze(1), cache=cache)[:, -1]
    return Generation(out, logs if logprobs else None, finished)


class _Sampler:
    """Greedy choice, or one draw a row from the row's own generator."""

    def __init__(self, batch: int, rule: SamplingRule, seed: int | None) -> None:
        self.rule = rule
        if seed is None:
            seed = draw_seed() if rule.temperature else 0
        # A large odd stride keeps the streams of neighbouring seeds apart.
        self.generators = [
            torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * row) % 2**63) for row in range(batch)
        ]

    def choose(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
        """One token a row, (B,) int64; `rows` says which streams the rows of the batch draw from."""
        points = [torch.rand((), generator=self.generators[row], dtype=torch.float64) for row in rows]
        return draw(logits_BV, self.rule, torch.stack(points))


def _embedded(model: Decoder, prompts: list[list[int]]) -> list[Tensor]:
    """The input vectors of token ids."""
    from tenfold.lm.decoder import check_ids

    rows = torch.tensor([id for prompt in prompts for id in prompt], device=model.embed_tokens.weight.device)
    check_ids(rows, model.cfg.vocab_size)
    return list(model.embed_tokens(rows).split([len(prompt) for prompt in prompts]))


def _checked(embeds: Sequence[Tensor] | None) -> list[Tensor]:
    if not embeds or any(prompt.ndim != 2 or not len(prompt) for prompt in embeds):
        raise ValueError("embeds: got an empty prompt, need (tokens, width) of each, at least one token")
    return list(embeds)


def _prompts(ids: Tensor | Sequence[Sequence[int]], mask: Tensor | None) -> list[list[int]]:
    if isinstance(ids, Tensor):
        ids = ids.unsqueeze(0) if ids.ndim == 1 else ids
        if mask is not None and mask.shape != ids.shape:
            raise ValueError(f"mask: got shape {tuple(mask.shape)}, need that of ids, {tuple(ids.shape)}")
        if mask is None:
            prompts = ids.tolist()
        else:
            prompts = [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
    elif mask is not None:
        raise ValueError("mask: got one with ids as lists, need ids as a padded tensor")
    else:
        prompts = [list(prompt) for prompt in ids]
    if not prompts or not all(prompts):
        raise ValueError("ids: got an empty prompt, need at least one token in each")
    return prompts
