"""A number for every block of a matrix: in 16 bits, or in few bits against a step of its line."""

# Shape legend: R lines, B blocks of a line

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.compress.bit_packing import pack, packed_bytes, unpack

BLOCK_WIDTHS = (4, 6, 8, 16)


class BlockNumbers(nn.Module):
    """Scales or offsets of the blocks of a matrix.

    With fewer than 16 bits a number is a whole multiple of its line's step, which has 16 bits: the largest magnitude of the
    line is the largest multiple.

    Args:
        rows, blocks: R, B.
        bits: of a number: 16, or 4, 6, 8.
        signed: whether numbers below 0 occur; whole multiples then run from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
    Source: the idea of scales that have scales: Dettmers et al. 2023, arXiv 2305.14314 (double quantization).
    """

    kept: Tensor  # (R, B)
    packed: Tensor  # (R, bytes)
    line_steps: Tensor  # (R, 1)

    def __init__(self, rows: int, blocks: int, bits: int = 16, *, signed: bool = False) -> None:
        super().__init__()
        if bits not in BLOCK_WIDTHS:
            raise ValueError(f"block_bits: got {bits}, need one of {', '.join(map(str, BLOCK_WIDTHS))}")
        self.blocks, self.bits = blocks, bits
        self.most = (1 << bits - signed) - 1
        self.zero = self.most if signed else 0
        if bits == 16:
            self.register_buffer("kept", torch.zeros(rows, blocks))
        else:
            self.register_buffer("packed", torch.zeros(rows, packed_bytes(blocks, bits), dtype=torch.uint8))
            self.register_buffer("line_steps", torch.zeros(rows, 1))

    def take(self, numbers: Tensor) -> None:
        """Hold the nearest to numbers (R, B), finite, none below 0 where they are not signed."""
        if self.bits == 16:
            self.kept = numbers.half().to(numbers)
            return
        steps = (numbers.abs().amax(1, keepdim=True) / self.most).half().to(numbers)
        codes = (numbers / steps.where(steps > 0, 1)).round().clamp(-self.zero, self.most)
        self.line_steps, self.packed = steps, pack(codes.int() + self.zero, self.bits)

    def values(self) -> Tensor:
        """The numbers, (R, B)."""
        if self.bits == 16:
            return self.kept
        codes = unpack(self.packed, self.bits, self.blocks) - self.zero
        return codes.to(self.line_steps.dtype) * self.line_steps


def stored_block_bits(rows: int, blocks: int, bits: int) -> int:
    """Bits in a file of `BlockNumbers`."""
    return 16 * rows * blocks if bits == 16 else rows * (8 * packed_bytes(blocks, bits) + 16)


def blocks_of(length: int, block: int) -> int:
    """Blocks of a line of numbers; 0 numbers a block: one."""
    return -(-length // block) if block else 1
