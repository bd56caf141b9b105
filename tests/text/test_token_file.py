"""Token files come back as they were written, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.text.corpus import TokenWindows
from tenfold.text.token_file import read_tokens, write_tokens


@pytest.mark.parametrize(("vocab_size", "width"), [(1, 2), (65_536, 2), (65_537, 4), (1 << 32, 4)])
def test_round_trip(vocab_size: int, width: int, tmp_path: Path) -> None:
    top = vocab_size - 1
    documents = [[0, top], np.array([top, 0, 0]), torch.tensor([top]), []]
    assert write_tokens(tmp_path / "x.bin", documents, vocab_size) == 6
    ids = read_tokens(tmp_path / "x.bin", vocab_size=vocab_size)
    assert ids.tolist() == [0, top, top, 0, 0, top]
    assert (tmp_path / "x.bin").stat().st_size == 6 * width == ids.nbytes
    assert isinstance(ids, np.memmap) and not ids.flags.writeable
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.json"]


def test_the_file_by_hand(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 258]], 300)
    assert (tmp_path / "x.bin").read_bytes() == b"\x01\x00\x02\x01"
    assert json.loads((tmp_path / "x.json").read_text()) == {"dtype": "uint16", "count": 2, "vocab_size": 300}


def test_a_file_of_nanogpt(tmp_path: Path) -> None:
    np.array([5, 50_256, 7], dtype=np.uint16).tofile(tmp_path / "train.bin")
    assert read_tokens(tmp_path / "train.bin", dtype="uint16", vocab_size=50_257).tolist() == [5, 50_256, 7]
    with pytest.raises(UserError, match=r"holds token 50256, need 0\.\.49999; take its tokenizer"):
        read_tokens(tmp_path / "train.bin", dtype="uint16", vocab_size=50_000)
    with pytest.raises(UserError, match=r"has no header train\.json; say its dtype"):
        read_tokens(tmp_path / "train.bin")
    with pytest.raises(UserError, match="has 6 bytes, need a multiple of 4"):
        read_tokens(tmp_path / "train.bin", dtype="uint32")


def test_windows(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [range(10), range(10, 25)], 100)
    batches = iter(TokenWindows(read_tokens(tmp_path / "x.bin"), seq_len=4, batch_size=3, seed=1))
    seen = torch.cat([next(batches)["ids"] for _ in range(2)])
    assert sorted(seen.flatten().tolist()) == list(range(24))


def test_an_interrupted_writer_leaves_the_old_file(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 2, 3]], 10)

    def documents() -> Iterator[list[int]]:
        yield [4] * 100_000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "x.bin", documents(), 10)
    assert read_tokens(tmp_path / "x.bin", vocab_size=10).tolist() == [1, 2, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_crash_before_the_header_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 2, 3]], 10)

    def crash(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("tenfold.text.token_file.write_atomic", crash)
    with pytest.raises(OSError, match="disk gone"):
        write_tokens(tmp_path / "x.bin", [[4, 5, 6]], 20)
    with pytest.raises(UserError, match="has no header"):
        read_tokens(tmp_path / "x.bin", vocab_size=20)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 10], r"documents\[1\]: got token 10, need 0..9 \(vocab_size\)"),
        ([-1], r"documents\[1\]: got token -1"),
        ([1.0], r"documents\[1\]: got float64 of shape \(1,\), need integers"),
        ([[1, 2]], r"documents\[1\]: got int64 of shape \(1, 2\)"),
        ([True], r"documents\[1\]: got bool"),
    ],
)
def test_faulty_documents(document: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_tokens(tmp_path / "x.bin", [[1], document], 10)
    assert not list(tmp_path.iterdir())


def test_faulty_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to write to .*x\.bin"):
        write_tokens(tmp_path / "x.bin", [[], []], 10)
    with pytest.raises(ValueError, match=r"path: got .*x\.txt, need a name that ends in \.bin"):
        write_tokens(tmp_path / "x.txt", [[1]], 10)
    with pytest.raises(ValueError, match="vocab_size: got 0"):
        write_tokens(tmp_path / "x.bin", [[1]], 0)
    with pytest.raises(UserError, match=r"tokens not found: .*none\.bin"):
        read_tokens(tmp_path / "none.bin")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "x.json does not parse"),
        ("[" * 100_000, "x.json does not parse"),
        ("[]", "dtype: got None, need uint16 or uint32"),
        ('{"dtype": "float32", "count": 3, "vocab_size": 9}', "dtype: got 'float32'"),
        ('{"dtype": ["uint16"], "count": 3, "vocab_size": 9}', r"dtype: got \['uint16'\]"),
        ('{"dtype": "uint16", "count": -3, "vocab_size": 9}', "count: got -3, need a number above 0"),
        ('{"dtype": "uint16", "count": true, "vocab_size": 9}', "count: got True"),
        ('{"dtype": "uint16", "count": 3}', "vocab_size: got None"),
        ('{"dtype": "uint16", "count": 4, "vocab_size": 9}', r"has 6 bytes, need 8 \(4 x uint16\)"),
        ('{"dtype": "uint32", "count": 3, "vocab_size": 9}', r"has 6 bytes, need 12 \(3 x uint32\)"),
        ('{"dtype": "uint16", "count": 3, "vocab_size": 8}', "is of a vocabulary of 8, need 9; take its tokenizer"),
    ],
)
def test_faulty_headers(header: str, message: str, tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 2, 3]], 9)
    (tmp_path / "x.json").write_text(header)
    with pytest.raises(UserError, match=message) as caught:
        read_tokens(tmp_path / "x.bin", vocab_size=9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 5, 7])
def test_torn_files(size: int, tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 2, 3]], 9)
    (tmp_path / "x.bin").write_bytes(b"\0" * size)
    with pytest.raises(UserError, match=f"has {size} bytes, need 6"):
        read_tokens(tmp_path / "x.bin")


def test_a_dtype_that_the_header_denies(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [[1, 2, 3]], 9)
    with pytest.raises(UserError, match="holds uint16, not uint32; leave dtype out"):
        read_tokens(tmp_path / "x.bin", dtype="uint32")
