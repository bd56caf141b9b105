"""Small whole numbers in as few bytes as hold them.

The order, which files rely on: every row begins a byte of its own; its numbers follow each other from the lowest bit of
its first byte up. At 4 bits the first number is the low half of byte 0; a number of 3 or 6 bits may lie across two bytes.
Bits left over in a row's last byte are 0.
"""

# Shape legend: ... any leading axes, N numbers, B bytes

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTHS = (1, 2, 3, 4, 6, 8)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that a row of `count` numbers takes."""
    return -(-count * bits // 8)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack the last axis.

    Args:
        numbers: (..., N), whole, 0..2^bits - 1.
        bits: of each, one of 1, 2, 3, 4, 6, 8.
    Returns:
        (..., ceil(N · bits / 8)) uint8.
    Raises:
        ValueError: another width, a number out of range.
    """
    _check(bits)
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < 1 << bits:
        raise ValueError(f"numbers: got {int(numbers.min())}..{int(numbers.max())}, need 0..{(1 << bits) - 1}")
    count = numbers.shape[-1]
    in_word, word_bytes = _word(bits)
    words = F.pad(numbers.int(), (0, -count % in_word)).unflatten(-1, (-1, in_word))
    words = (words << bits * _steps(in_word, words)).sum(-1, dtype=torch.int32)
    out = (words.unsqueeze(-1) >> 8 * _steps(word_bytes, words)) & 255
    return out.flatten(-2)[..., : packed_bytes(count, bits)].to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The numbers of `pack`.

    Args:
        packed: (..., ceil(N · bits / 8)) uint8.
        bits: of each number.
        count: N.
    Returns:
        (..., N) int32.
    Raises:
        ValueError: another width, a number of bytes that does not fit.
    """
    _check(bits)
    if packed.dtype != torch.uint8 or packed.shape[-1] != packed_bytes(count, bits):
        raise ValueError(
            f"packed: got {packed.dtype} {tuple(packed.shape)}, need uint8 (..., {packed_bytes(count, bits)})"
        )
    in_word, word_bytes = _word(bits)
    words = packed
    if word_bytes > 1:
        words = F.pad(packed, (0, -packed.shape[-1] % word_bytes)).unflatten(-1, (-1, word_bytes)).int()
        words = (words << 8 * _steps(word_bytes, words)).sum(-1, dtype=torch.int32)
    numbers = (words.unsqueeze(-1) >> bits * _steps(in_word, words)) & ((1 << bits) - 1)
    return numbers.flatten(-2)[..., :count].int()


def _check(bits: int) -> None:
    if bits not in WIDTHS:
        raise ValueError(f"bits: got {bits}, need one of {', '.join(map(str, WIDTHS))}")


def _word(bits: int) -> tuple[int, int]:
    """Numbers in the shortest run of whole bytes, and those bytes."""
    word = math.lcm(bits, 8)
    return word // bits, word // 8


def _steps(count: int, like: Tensor) -> Tensor:
    """0, 1, … of the type of `like`."""
    return torch.arange(count, dtype=like.dtype, device=like.device)
