"""Files that are either the old one or the new one, whole, also after a crash or a power cut"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`.

    An error inside the block removes the temporary file and leaves `path` as it was. A killed process may leave
    the temporary file behind; its name starts with a dot and nobody reads it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`: temporary file, fsync, rename."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def append_line(path: Path, line: str) -> None:
    """Append one line in one write; a torn line that a crash left at the end is cut off first.

    Writers in several processes must hold a common lock, else one could take another's line for a torn one.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and _read_at(descriptor, size - 1, 1) != b"\n":
            os.ftruncate(descriptor, _read_at(descriptor, 0, size).rfind(b"\n") + 1)
        os.write(descriptor, (line + "\n").encode("utf-8"))
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, start: int, size: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows cannot open folders and needs no such step."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
