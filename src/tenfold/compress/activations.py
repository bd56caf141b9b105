"""Eight bits for what a model computes on the way: inputs of its matrices, keys and values."""

# Shape legend: ... any leading axes, F features, B batch, S new tokens, K stored tokens, G key-value heads, d head width

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.lm.decoder import DecoderConfig
from tenfold.lm.kv_cache import KVCache
from tenfold.nn.attention import LayerCache

LARGEST = 127  # of a signed byte, the same on both sides


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round to 255 equal steps, as many above as below 0; each row of the last axis has its own.

    Args:
        x: (..., F) finite floats.
    Returns:
        codes (..., F) int8; step (..., 1) of x's type: the largest magnitude / 127. x is about codes · step.
    """
    step = x.abs().amax(-1, keepdim=True) / LARGEST
    codes = (x / step.where(step > 0, 1)).round_().clamp_(-LARGEST, LARGEST)
    return codes.to(torch.int8), step


def round_activations(x: Tensor) -> Tensor:
    """x rounded to eight bits, each token with the step that its largest feature asks for; the gradient passes whole.

    Args:
        x: (..., F), a token's features in the last axis.
    Returns:
        (..., F).
    """
    codes, step = to_int8(x.detach())
    rounded = codes.to(x.dtype) * step
    return x + (rounded - x).detach() if x.requires_grad else rounded


class Int8KVCache(KVCache):
    """A `KVCache` that keeps keys and values in eight bits, with a step for every head of every token.

    Memory a feature: 1 byte, and 1 / d of the type's for the steps. Attention reads them in the model's type again.

    Args:
        cfg, batch, max_len, dtype, device: as in `KVCache`; dtype is that of the steps and of what attention reads.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        batch: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(cfg, batch, max_len, torch.int8, device)
        codes = [(layer.k, layer.v) for layer in self._layers]
        steps = [k.new_zeros((*k.shape[:3], 1), dtype=dtype) for k, _ in codes + codes]
        self._hold([*codes, *zip(steps[::2], steps[1::2], strict=True)], [0] * batch)

    def layer(self, index: int) -> _Int8Slots:  # type: ignore[override]
        """What layer `index` appends to."""
        return _Int8Slots(self._layers[index], self._layers[index + len(self._layers) // 2])


@dataclass(frozen=True)
class _Int8Slots:
    codes: LayerCache
    steps: LayerCache

    def append(self, k_BGSd: Tensor, v_BGSd: Tensor) -> tuple[Tensor, Tensor]:
        (k_codes, k_steps), (v_codes, v_steps) = to_int8(k_BGSd), to_int8(v_BGSd)
        k_codes, v_codes = self.codes.append(k_codes, v_codes)
        k_steps, v_steps = self.steps.append(k_steps, v_steps)
        return k_codes.to(k_steps.dtype) * k_steps, v_codes.to(v_steps.dtype) * v_steps
