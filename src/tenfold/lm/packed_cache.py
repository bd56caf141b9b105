"""New tokens of many sequences, side by side in one batch, whose keys and values lie in separate places."""

# Shape legend: T new tokens of all sequences, N places, H query heads, G key-value heads, K stored tokens, d head width

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tenfold.nn.attention import SequenceCache


class PackedCache:
    """What a decoder needs of a `KVCache`, for a batch of T rows of one token each.

    Rows of one sequence follow each other, so nothing is filled up: linear layers meet the tokens of all sequences at
    once, attention takes each sequence by itself, over as many keys as it has.

    Args:
        memory: of each layer (2, N, G, K, d), keys and values.
        places: of each sequence, below N.
        lengths: tokens that each holds already.
        new: tokens of each in the batch, at least 1.
    """

    uniform = masked = False

    def __init__(
        self, memory: Sequence[Tensor], places: Sequence[int], lengths: Sequence[int], new: Sequence[int]
    ) -> None:
        self._memory = memory
        self.places, self.new = list(places), list(new)
        self.ends = [length + count for length, count in zip(lengths, new, strict=True)]
        device = memory[0].device
        self.max_len = memory[0].shape[3]
        if max(self.ends) > self.max_len:
            raise ValueError(f"cache: got {max(self.ends)} tokens, it holds at most {self.max_len}")
        counts = torch.tensor(self.new)
        self.place_T = torch.tensor(self.places).repeat_interleave(counts).to(device)
        positions = [torch.arange(end - count, end) for end, count in zip(self.ends, self.new, strict=True)]
        self.lengths = torch.cat(positions).to(device)  # of each row: the tokens of its sequence before it
        self.longest = max(self.ends) - 1

    def layer(self, index: int) -> _PackedLayer:
        """What layer `index` attends to."""
        return _PackedLayer(self, self._memory[index])

    def advance(self, tokens: int) -> None:
        """Count `tokens` more in every row, where every row is a sequence of its own; the decoder calls it once per forward."""
        self.lengths += tokens
        self.ends = [end + tokens for end in self.ends]
        self.longest += tokens


class _PackedLayer(SequenceCache):
    def __init__(self, cache: PackedCache, memory: Tensor) -> None:
        self._cache, self._memory = cache, memory

    def attend(
        self, attend: Callable[[Tensor, Tensor, Tensor, None], Tensor], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        cache, (keys, values) = self._cache, self._memory
        keys[cache.place_T, :, cache.lengths] = k.squeeze(2)
        values[cache.place_T, :, cache.lengths] = v.squeeze(2)
        pieces = q.transpose(0, 2).split(cache.new, 2)  # (1, H, new, d)
        parts = [
            attend(piece, keys[place : place + 1, :, :end], values[place : place + 1, :, :end], None)
            for piece, place, end in zip(pieces, cache.places, cache.ends, strict=True)
        ]
        return torch.cat(parts, 1).transpose(0, 1)
