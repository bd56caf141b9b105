"""Packed files that anybody may have made, .gz and .npz: what they unpack to has a bound, damage is one line."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError

# What a file may unpack to: so many bytes in any case, or so many times its own size. Text is packed to a tenth or so, arrays
# of zeros and ones to a hundredth; bombs to a thousandth.
TEXT_ALLOWED, TEXT_TIMES = 16 << 20, 50
ARRAYS_ALLOWED, ARRAYS_TIMES = 64 << 20, 200
LONGEST_LINE = 64 << 20  # characters
_PIECE = 1 << 20
_DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)


def unpacked(path: Path, most: int | None = None) -> bytes:
    """The content of a file, unpacked where its name ends in .gz.

    Args:
        path: the file.
        most: bytes that it may unpack to; None: 16 MiB, or 50 times its own size where that is more.
    Raises:
        UserError: damaged, or a bomb.
        OSError: it cannot be read.
    """
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    content = bytearray()
    with _damage_named(path), _Bounded(path, most) as file:
        while piece := file.read(_PIECE):
            content += piece
    return bytes(content)


def lines(path: Path, *, encoding: str = "utf-8", longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of a text file, unpacked where its name ends in .gz, with their ends as line feeds.

    Args:
        path: the file.
        encoding: such as "utf-8-sig", which drops a byte order mark.
        longest: characters of a line.
    Raises:
        UserError: damaged, a bomb, not UTF-8, or a line that is longer.
        OSError: it cannot be read.
    """
    with opened(path) as raw, io.TextIOWrapper(raw, encoding=encoding) as text:
        number = 0
        try:
            while line := text.readline(longest + 1):
                number += 1
                if len(line) > longest:
                    raise UserError(f"{path}:{number}: the line is longer than {longest} characters; is this a text?")
                yield line
        except UnicodeDecodeError as error:
            # The file is read ahead: lines between the last one given and the fault were not given yet.
            ahead = error.object[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            number += 1 + ahead.count(b"\n")
            raise UserError(f"{path} is not UTF-8 at line {number} ({error.reason}); convert it first") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file to be read once, unpacked where its name ends in .gz.

    Raises:
        UserError: within the block: damaged, or a bomb.
        OSError: it cannot be read.
    """
    with _damage_named(path), _Bounded(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        yield file  # type: ignore[misc]  # a gzip file has all of a file's methods


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz; sizes and headers are checked before anything is unpacked, and no pickle is read.

    Args:
        path: the file.
        names: of the arrays wanted; None: all.
    Raises:
        UserError: absent, damaged, no .npz, an array missing, Python objects inside, or a bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = list(members if names is None else names)
            if missing := [name for name in wanted if name not in members]:
                raise UserError(f"{path}: got no array {missing[0]!r:.80}; the file is another one, or damaged")
            bound = max(ARRAYS_ALLOWED, ARRAYS_TIMES * path.stat().st_size)
            if sum(members[name].file_size for name in wanted) > bound:
                raise UserError(f"{path} unpacks to more than {bound} bytes, far more than its own size; is it whole?")
            return {name: _read_array(archive, members[name]) for name in wanted}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"file not found: {path}") from None
    # A damaged header is read as Python, where damage shows in any way; a zip may also ask for a password.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: no whole .npz of arrays ({reason[:200]}); fetch it again") from error


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("Python objects are not read")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size > info.file_size:
            raise ValueError(f"an array of shape {shape} in {info.file_size} bytes")
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError("an array is cut off, or goes on behind its end")
    array = np.frombuffer(bytearray(content), dtype=dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


class _Bounded(gzip.GzipFile):
    """A gzip file that ends with an error where it unpacks to more than it may."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        super().__init__(path, "rb")
        self._path = path
        self._most = max(TEXT_ALLOWED, TEXT_TIMES * path.stat().st_size) if most is None else most
        self._count = 0

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._counted(super().read1(size))

    def _counted(self, piece: bytes) -> bytes:
        self._count += len(piece)
        if self._count > self._most:
            raise UserError(f"{self._path} unpacks to more than {self._most} bytes; split it, or is it a bomb?")
        return piece


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
