"""Files that are either the old one or the new one, whole, also after a crash or a power cut; their names and sums."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`.

    An error inside the block removes the temporary file and leaves `path` as it was. A killed process may leave
    the temporary file behind; its name starts with a dot and nobody reads it. Threads and processes that replace one
    file at once each write their own; the last rename stands.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None  # the name that the caller knows
        raise
    sync(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`: temporary file, fsync, rename.

    Bytes of a file's name that are no text, which Python holds as halves of surrogate pairs, are spelt `\\udcff`, as JSON
    spells them, so that it reads them back.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_encoded(data) if isinstance(data, str) else data)


def append_line(path: Path, line: str) -> None:
    """Append one line; a torn line that a crash or a full disk left at the end is cut off first.

    Writers in several processes must hold a common lock, else one could take another's line for a torn one.

    Raises:
        OSError: not all of the line could be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and _read_at(descriptor, size - 1, 1) != b"\n":
            os.ftruncate(descriptor, _read_at(descriptor, 0, size).rfind(b"\n") + 1)
        rest = _encoded(line + "\n")
        while rest:  # a disk that fills up takes a part; only the next write says why
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; Windows cannot open folders and needs no such step."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_name(name: str) -> str:
    """A name that becomes a file or folder name, unchanged.

    Raises:
        ValueError: it could lead out of its folder, hide there or not exist on some system.
    """
    forbidden = any(char in '/\\:*?"<>|' or ord(char) < 32 for char in name)
    if not name or name.startswith(".") or len(name) > 120 or forbidden:
        raise ValueError(f'name: got {name!r}, need 1..120 characters, no leading dot and none of / \\ : * ? " < > |')
    return name


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _read_at(descriptor: int, start: int, size: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)
