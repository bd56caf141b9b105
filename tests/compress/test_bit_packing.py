"""Packed numbers against a bit string written out, and their order by hand."""

from __future__ import annotations

import pytest
import torch

from tenfold.compress.bit_packing import WIDTHS, pack, packed_bytes, unpack


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 9, 31])
def test_round_trip_and_twin(bits: int, count: int) -> None:
    numbers = torch.randint(0, 1 << bits, (3, count), generator=torch.Generator().manual_seed(count))
    packed = pack(numbers, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (3, packed_bytes(count, bits))
    assert torch.equal(unpack(packed, bits, count), numbers.int())
    for row, bytes_ in zip(numbers.tolist(), packed.tolist(), strict=True):
        whole = sum(number << bits * i for i, number in enumerate(row))  # one large number, first the lowest bits
        assert bytes(bytes_) == whole.to_bytes(len(bytes_), "little")


def test_order_is_low_bits_first() -> None:
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([1, 2, 3, 0, 1]), 2).tolist() == [0b00111001, 0b01]
    assert pack(torch.tensor([0b101, 0b110, 0b011]), 3).tolist() == [0b11110101, 0b0]
    assert pack(torch.tensor([63, 1]), 6).tolist() == [0b01111111, 0]
    assert pack(torch.tensor([1, 0, 1]), 1).tolist() == [0b101]


def test_any_leading_axes() -> None:
    numbers = torch.randint(0, 8, (2, 3, 5))
    assert torch.equal(unpack(pack(numbers, 3), 3, 5), numbers.int())
    assert pack(numbers[0, 0], 3).shape == (2,)


def test_bad_input() -> None:
    for bits in (0, 5, 16):
        with pytest.raises(ValueError, match=f"bits: got {bits}"):
            pack(torch.tensor([0]), bits)
    for number in (-1, 4):
        with pytest.raises(ValueError, match=r"need 0\.\.3"):
            pack(torch.tensor([number]), 2)
    with pytest.raises(ValueError, match=r"need uint8 \(\.\.\., 2\)"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, 4)
    with pytest.raises(ValueError, match="need uint8"):
        unpack(torch.zeros(2), 4, 4)
