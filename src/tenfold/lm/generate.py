"""Key-value cache and sampling from a decoder."""

# Shape legend: B batch, S new tokens, K stored tokens, V vocabulary, L layers, G key-value heads, d head width

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.nn.linear import draw_seed
from tenfold.nn.moe import dropless

if TYPE_CHECKING:
    from tenfold.lm.decoder import Decoder, DecoderConfig


class KVCache:
    """Keys and values of the tokens so far, in memory reserved once; every row has its own length.

    Rows of unequal prompts stand left-aligned: row b holds its token t in slot t, and what stands at or beyond
    its length is never attended to and later overwritten. So each row sees what it would see alone.

    Args:
        cfg: the decoder's shape.
        batch: rows.
        max_len: tokens a row can hold.
        dtype: of keys and values.
        device: where they live; None takes torch's default.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        batch: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        if not 1 <= max_len <= cfg.max_len:
            raise ValueError(f"max_len: got {max_len}, need 1..{cfg.max_len} (the model's max_len)")
        if batch < 1:
            raise ValueError(f"batch: got {batch}, need at least 1")
        self.max_len = max_len
        shape = batch, cfg.n_kv_heads, max_len, cfg.head_dim
        self._layers = [
            _LayerSlots(self, *(torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"))
            for _ in range(cfg.n_layers)
        ]
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=self._layers[0].k.device)
        # The longest row and whether all are equal stand as Python values: asking the tensor would wait for the device.
        self.longest, self.uniform = 0, True

    def layer(self, index: int) -> _LayerSlots:
        """What layer `index` appends to."""
        return self._layers[index]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more in every row; the decoder calls it once per forward."""
        self.lengths += tokens
        self.longest += tokens

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Shorten the rows, say to the true lengths of a padded batch of prompts."""
        if len(lengths) != len(self.lengths) or min(lengths) < 0 or max(lengths) > self.longest:
            raise ValueError(f"lengths: got {list(lengths)}, need {len(self.lengths)} values in 0..{self.longest}")
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=self.lengths.device)
        self.longest, self.uniform = max(lengths), min(lengths) == max(lengths)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, in this order."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.lengths.device)
        for layer in self._layers:
            layer.k, layer.v = layer.k[index], layer.v[index]
        self.lengths = self.lengths[index]
        self.set_lengths(self.lengths.tolist())


@dataclass(eq=False)
class _LayerSlots:
    cache: KVCache
    k: Tensor  # (B, G, max_len, d)
    v: Tensor

    def append(self, k_BGSd: Tensor, v_BGSd: Tensor) -> tuple[Tensor, Tensor]:
        cache, start, new = self.cache, self.cache.longest, k_BGSd.shape[2]
        if start + new > cache.max_len:
            raise ValueError(f"cache: got {start + new} tokens, it holds at most {cache.max_len}")
        if cache.uniform:
            self.k.narrow(2, start, new).copy_(k_BGSd)
            self.v.narrow(2, start, new).copy_(v_BGSd)
        else:
            rows = torch.arange(len(cache.lengths), device=self.k.device).unsqueeze(1)
            slots = cache.lengths.unsqueeze(1) + torch.arange(new, device=self.k.device)
            self.k[rows, :, slots] = k_BGSd.transpose(1, 2)
            self.v[rows, :, slots] = v_BGSd.transpose(1, 2)
        return self.k.narrow(2, 0, start + new), self.v.narrow(2, 0, start + new)


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


def filter_logits(logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits to sample from: divided by the temperature, -inf outside the top_k and the nucleus of mass top_p.

    Of equal logits the lowest indices are kept. The nucleus is the smallest set of most likely tokens whose mass reaches top_p; it always holds the first.
    Source: Holtzman et al. 2020, arXiv 1904.09751 (nucleus).
    """
    logits_BV = logits_BV / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        # What a stable sort would choose, at a fortieth of its time for 50 000 tokens.
        least = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        above, equal = logits_BV > least, logits_BV == least
        room = top_k - above.sum(-1, keepdim=True)
        logits_BV = logits_BV.masked_fill(~(above | (equal & (equal.cumsum(-1) <= room))), float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, index = logits_BV.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(-1)
        outside = mass.cumsum(-1) - mass >= top_p
        ordered = ordered.masked_fill(outside, float("-inf"))
        logits_BV = torch.empty_like(logits_BV).scatter_(-1, index, ordered)
    return logits_BV


@torch.inference_mode()
def generate(
    model: Decoder,
    ids: Tensor | Sequence[Sequence[int]],
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
    Returns:
        the new tokens.
    Raises:
        ValueError: an option out of range, an empty prompt, prompt and answer beyond the model's max_len.
    """
    prompts = _prompts(ids, mask)
    _check_options(max_new_tokens, temperature, top_k, top_p)
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
        sampler = _Sampler(len(prompts), temperature, top_k, top_p, seed)
        # Without expert capacity: with it a row's tokens would depend on the other rows.
        with dropless(model):
            return _decode(model, prompts, max_new_tokens, sampler, frozenset(stop), until, logprobs)
    finally:
        model.train(was_training)


def _decode(
    model: Decoder,
    prompts: list[list[int]],
    max_new_tokens: int,
    sampler: _Sampler,
    stop: frozenset[int],
    until: Callable[[list[int]], bool] | None,
    logprobs: bool,
) -> Generation:
    weight = model.embed_tokens.weight
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    padded = torch.tensor([prompt + [prompt[-1]] * (longest - len(prompt)) for prompt in prompts], device=weight.device)
    # The last new token is never fed back, so its slot is not needed.
    cache = KVCache(model.cfg, len(prompts), longest + max_new_tokens - 1, weight.dtype, weight.device)
    real = torch.arange(longest, device=weight.device) < torch.tensor(lengths, device=weight.device).unsqueeze(1)
    hidden = model.hidden(padded, cache=cache, mask=None if real.all() else real)
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

    def __init__(
        self, batch: int, temperature: float, top_k: int | None, top_p: float | None, seed: int | None
    ) -> None:
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        if seed is None:
            seed = draw_seed() if temperature else 0
        # A large odd stride keeps the streams of neighbouring seeds apart.
        self.generators = [
            torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * row) % 2**63) for row in range(batch)
        ]

    def choose(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
        """One token a row, (B,) int64; `rows` says which streams the rows of the batch draw from."""
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        # On the CPU: some accelerators have no float64, and a seed then draws the same tokens everywhere.
        probs_BV = filter_logits(logits_BV, self.temperature, self.top_k, self.top_p).cpu().double().softmax(-1)
        point = torch.stack([torch.rand((), generator=self.generators[row], dtype=torch.float64) for row in rows])
        mass_BV = probs_BV.cumsum(-1)
        # Inverse transform: the first token whose cumulated mass exceeds the point; a token of mass 0 is never that.
        point = point.unsqueeze(1) * mass_BV[:, -1:]
        chosen = torch.searchsorted(mass_BV, point, right=True).squeeze(1)
        return chosen.clamp_(max=logits_BV.shape[-1] - 1).to(logits_BV.device)


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


def _check_options(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, need at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, need 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: got {top_k}, need at least 1 (or None)")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: got {top_p}, need 0 < top_p <= 1 (or None)")
