"""Keys and values of the tokens so far, in memory reserved once."""

# Shape legend: B batch, S new tokens, K stored tokens, G key-value heads, d head width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tenfold.lm.decoder import DecoderConfig


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
        shape = batch, cfg.n_kv_heads, max_len, cfg.head_dim
        memory = [
            (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for _ in range(cfg.n_layers)
        ]
        self._hold(memory, [0] * batch)

    @classmethod
    def over(cls, memory: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> KVCache:
        """A cache over memory that someone else owns: keys and values (B, G, K, d) of each layer, tokens of each row."""
        cache = cls.__new__(cls)
        cache._hold(memory, lengths)
        return cache

    def _hold(self, memory: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> None:
        self._layers = [_LayerSlots(self, k, v) for k, v in memory]
        first = self._layers[0].k
        self.max_len = first.shape[2]
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device=first.device)
        # The longest row and whether all are equal stand as Python values: asking the tensor would wait for the device.
        self.longest, self.uniform = max(lengths), min(lengths) == max(lengths)

    @property
    def masked(self) -> bool:
        """Whether attention needs a mask, since rows end at different tokens."""
        return not self.uniform

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
