"""Packed files: read as they were written; bombs, damage and Python objects are refused before they cost anything."""

from __future__ import annotations

import gzip
import io
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tenfold.core import packed
from tenfold.core.errors import UserError

GIB = 1 << 30


def grown(before: int) -> int:
    """Bytes by which the largest memory has grown."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def bomb(path: Path, size: int = GIB) -> Path:
    """Zeros, packed a thousandfold."""
    piece = gzip.compress(bytes(1 << 24), mtime=0)  # members of a gzip file may follow one another
    path.write_bytes(piece * (size >> 24))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.TXT.GZ"])
def test_text_comes_back(name: str, tmp_path: Path) -> None:
    content = "\ufeffé\r\ntwo\n\nlast"
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw, mtime=0) if name.lower().endswith("gz") else raw)
    assert packed.unpacked(tmp_path / name) == raw
    assert list(packed.lines(tmp_path / name, encoding="utf-8-sig")) == ["é\n", "two\n", "\n", "last"]


def test_bombs_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.txt.gz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"bomb\.txt\.gz unpacks to more than \d+ bytes"):
        packed.unpacked(path)
    with pytest.raises(UserError, match=r"longer than|unpacks to more"):
        list(packed.lines(path))
    with pytest.raises(UserError, match=r"bomb\.txt\.gz:1: the line is longer than 100 characters"):
        list(packed.lines(path, longest=100))
    assert grown(before) < GIB // 2


@pytest.mark.parametrize("before", [0, 1, 2, 3000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_line_that_is_no_text_is_named(before: int, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("vier Wörter in einer Zeile".encode().join([b""] + [end] * before) + b"na\xefve" + end + b"last")
    with pytest.raises(UserError, match=rf"latin\.txt is not UTF-8 at line {before + 1} \("):
        list(packed.lines(path))


def test_a_bound_of_the_callers_own(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1000)))
    assert packed.unpacked(tmp_path / "a.gz", 1000) == bytes(1000)
    with pytest.raises(UserError, match="unpacks to more than 999 bytes"):
        packed.unpacked(tmp_path / "a.gz", 999)


def test_text_that_repeats_itself_is_no_bomb(tmp_path: Path) -> None:
    raw = b"".join(b"row %d of a log that says the same all day\n" % i for i in range(20_000))
    (tmp_path / "log.gz").write_bytes(gzip.compress(raw, mtime=0))
    assert sum(1 for _ in packed.lines(tmp_path / "log.gz")) == 20_000


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no gzip",
        gzip.compress(b"abc" * 99, mtime=0)[:-9],
        gzip.compress(b"abc" * 99, mtime=0)[:12] + b"\xff" * 20,
    ],
)
def test_damaged_gzip_is_one_line(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(damage)
    if not damage:
        assert packed.unpacked(tmp_path / "a.gz") == b""
        return
    for read in (packed.unpacked, lambda path: list(packed.lines(path))):
        with pytest.raises(UserError, match=r"a\.gz is not (a whole gzip file|UTF-8)"):
            read(tmp_path / "a.gz")


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.ones((2, 3), np.uint8)),
        "c": np.array("x"),
        "d": np.zeros((0, 3)),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = packed.read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array) and found[name].flags.writeable
    assert packed.read_arrays(tmp_path / "a.npz", ["b"]).keys() == {"b"}
    with pytest.raises(UserError, match="got no array 'e'"):
        packed.read_arrays(tmp_path / "a.npz", ["e"])


def npz(path: Path, content: bytes, name: str = "a.npy") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header((10**12,)), "an array of shape"),  # which numpy would make room for
        (header((2**62, 4)), "an array of shape"),
        (header((3,)) + bytes(16), "an array of shape|cut off"),
        (header((1,)) + bytes(16), "cut off, or goes on"),
        (header((1,), "|O") + bytes(8), "Python objects"),
        (bytes(1 << 27), "unpacks to more than"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': [[[[[[[", "no whole"),
        (b"", "no whole"),
    ],
)
def test_arrays_that_are_none(content: bytes, said: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said):
        packed.read_arrays(npz(tmp_path / "a.npz", content))
    assert grown(before) < GIB


def test_a_zip_whose_sizes_lie(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", header((4,)) + bytes(1 << 22))
    content = path.read_bytes()
    small = (len(header((4,))) + 32).to_bytes(4, "little")
    path.write_bytes(content.replace((len(header((4,))) + (1 << 22)).to_bytes(4, "little"), small))
    with pytest.raises(UserError, match="no whole"):
        packed.read_arrays(path)


def test_absent_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"file not found: .*x\.npz"):
        packed.read_arrays(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"x\.npz: no whole \.npz"):
        packed.read_arrays(tmp_path / "x.npz")
