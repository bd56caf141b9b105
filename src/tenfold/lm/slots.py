"""Memory for the keys and values of many sequences that come and go."""

# Shape legend: N slots, G key-value heads, K stored tokens, d head width

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.lm.kv_cache import KVCache
from tenfold.lm.packed_cache import PackedCache

if TYPE_CHECKING:
    from tenfold.lm.decoder import DecoderConfig

SHORTEST = 64  # tokens of a slot at least


class Slots:
    """N slots of K tokens each; both numbers change with the need, their product stays within a budget.

    A slot remembers which tokens its keys and values belong to, also after its sequence ended: a later sequence that
    begins alike takes them over. The running sequences have the first slots. On an accelerator these are one block of
    memory, so that a batch is attended to at once, without a gather. On a CPU, where a sequence by itself takes about as
    long as its part of a batch, slots change places by name alone.

    Args:
        cfg: the decoder's shape.
        max_slots: sequences at a time.
        max_tokens: N · K at most.
        dtype: of keys and values.
        device: where they live.
        block: whether the first slots are one block of memory.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        max_slots: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        block: bool,
    ) -> None:
        for name, value in (("max_slots", max_slots), ("max_tokens", max_tokens)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, need at least 1")
        self.cfg, self.dtype, self.device = cfg, dtype, device
        self.max_slots, self.max_tokens, self.block = max_slots, max_tokens, block
        self.tokens: list[list[int]] = []
        self.adapters: list[str | None] = []  # that the keys and values were made with
        self._left: list[int] = []  # when the slot's sequence ended, by a count of ends
        self._ends = 0
        self._memory: list[Tensor] = []  # one a layer, (2, N, G, K, d): keys, values
        self._where: list[int] = []  # of each slot its place in memory
        self.length = 0

    def fits(self, slots: int, length: int) -> bool:
        """Whether `slots` sequences of up to `length` tokens fit into the budget together."""
        return slots <= self.max_slots and slots * self._rounded(length) <= self.max_tokens

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` sequences of up to `length` tokens; the first `slots` slots keep what they hold.

        Within the budget as many again stay for sequences that have ended.

        Raises:
            ValueError: they do not fit.
        """
        if not self.fits(slots, length):
            raise ValueError(f"slots: got {slots} of {length} tokens, need at most {self.max_tokens} tokens in all")
        new_length = max(self.length, self._rounded(length))
        if not self.fits(slots, new_length):
            new_length = self._rounded(length)
        most = min(self.max_slots, self.max_tokens // new_length)
        if min(2 * slots, most) <= len(self.tokens) and length <= self.length:
            return
        count = max(slots, min(max(3 * slots, len(self.tokens)), most))
        kept = min(len(self.tokens), count)
        filled = min(max((len(tokens) for tokens in self.tokens[:kept]), default=0), new_length)
        shape = 2, count, self.cfg.n_kv_heads, new_length, self.cfg.head_dim
        for layer in range(self.cfg.n_layers):  # one layer at a time: old and new memory never stand side by side whole
            fresh = torch.zeros(shape, dtype=self.dtype, device=self.device)
            if self._memory and layer < len(self._memory):
                for slot, place in enumerate(self._where[:kept]):
                    fresh[:, slot, :, :filled] = self._memory[layer][:, place, :, :filled]
                self._memory[layer] = fresh
            else:
                self._memory.append(fresh)
        self._where = list(range(count))
        self.tokens = [tokens[:new_length] for tokens in self.tokens[:kept]] + [[] for _ in range(count - kept)]
        self.adapters = self.adapters[:kept] + [None] * (count - kept)
        self._left = self._left[:kept] + [0] * (count - kept)
        self.length = new_length

    def _rounded(self, length: int) -> int:
        """Slots grow by doubling up to 512 tokens, then by 512, so that memory is moved seldom and little is idle."""
        step = max(SHORTEST, min(512, 1 << (length - 1).bit_length()))
        return min(-(-length // step) * step, max(length, min(self.cfg.max_len, self.max_tokens)))

    def batch(self, first: int, lengths: Sequence[int], new: Sequence[int]) -> KVCache | PackedCache:
        """A cache over as many slots from `first` on.

        Args:
            lengths: tokens that each holds.
            new: tokens of each that the next batch brings: as many of all, unless the cache is a packed one.
        Returns:
            a packed one for several slots that are no block of memory.
        """
        if not self.block and len(lengths) > 1:
            return PackedCache(self._memory, self._where[first : first + len(lengths)], lengths, new)
        place = self._where[first]
        return KVCache.over([(k, v) for k, v in (m[:, place : place + len(lengths)] for m in self._memory)], lengths)

    def swap(self, a: int, b: int) -> None:
        """Exchange two slots."""
        if a == b:
            return
        if self.block:
            used = max(len(self.tokens[a]), len(self.tokens[b]))
            for memory in self._memory:
                held = memory[:, a, :, :used].clone()
                memory[:, a, :, :used] = memory[:, b, :, :used]
                memory[:, b, :, :used] = held
        else:
            self._where[a], self._where[b] = self._where[b], self._where[a]
        self.tokens[a], self.tokens[b] = self.tokens[b], self.tokens[a]
        self.adapters[a], self.adapters[b] = self.adapters[b], self.adapters[a]
        self._left[a], self._left[b] = self._left[b], self._left[a]

    def leave(self, slot: int) -> None:
        """Note that the sequence of a slot has just ended."""
        self._ends += 1
        self._left[slot] = self._ends

    def begin(self, place: int, ids: Sequence[int], adapter: str | None, least: int) -> int:
        """Start a sequence in slot `place`, behind which none is in use, with what is known of it.

        Returns:
            tokens of `ids` that another slot held; 0 where they would be fewer than `least`.
        """
        source, known = self.longest_prefix(ids, adapter)
        known = known if known >= least else 0
        ended = known > 0 and source >= place
        if ended:
            self.swap(source, place)
            source = place
        # One that branches off leaves the whole behind, unless less would be kept so than what makes room for it holds.
        if not ended or len(self.tokens[place]) - known > len(self.tokens[self._spare(place)]):
            moved = self.clear(place)
            source = moved if ended else source
        if known:
            self.copy(source, place, known)
        self.tokens[place], self.adapters[place] = list(ids[:known]), adapter
        return known

    def clear(self, place: int) -> int:
        """Empty a slot behind which none is in use; what it holds goes to the one of those that is needed least.

        What ended a moment ago, such as a player's turn in a game, is soon gone on with.

        Returns:
            the slot whose memory holds it now: in a block `place` itself still does.
        """
        spare = self._spare(place)
        if spare != place and self.block:
            self.copy(place, spare, len(self.tokens[place]))
            self.adapters[spare], self._left[spare] = self.adapters[place], self._left[place]
        else:
            self.swap(place, spare)
        self.tokens[place] = []
        return place if self.block else spare

    def _spare(self, place: int) -> int:
        """Of the slots from `place` on an empty one, or the one whose sequence ended longest ago."""
        return min(range(place, len(self.tokens)), key=lambda slot: (bool(self.tokens[slot]), self._left[slot]))

    def copy(self, source: int, target: int, count: int) -> None:
        """Give slot `target` the first `count` tokens of slot `source`."""
        if source != target:
            here, there = self._where[source], self._where[target]
            for memory in self._memory:
                memory[:, there, :, :count] = memory[:, here, :, :count]
        self.tokens[target] = self.tokens[source][:count]

    def longest_prefix(self, ids: Sequence[int], adapter: str | None = None) -> tuple[int, int]:
        """(slot, tokens) of the slot of this adapter that shares most first tokens with `ids`, at most all but the last."""
        wanted, slot, most = list(ids[:-1]), 0, 0
        for index, (tokens, owner) in enumerate(zip(self.tokens, self.adapters, strict=True)):
            # Most slots are told apart from the best one so far by the token behind what that one shares.
            if owner == adapter and most < min(len(tokens), len(wanted)) and tokens[most] == wanted[most]:
                found = shared(tokens, wanted)
                if found > most:
                    slot, most = index, found
        return slot, most


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two lists begin with together; by halves, since lists compare faster than a loop over them."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
