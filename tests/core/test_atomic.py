from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tenfold.core.atomic import append_line, replacing, write_atomic
from tenfold.core.errors import is_disk_full

KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from tenfold.core.atomic import write_atomic
os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), "new")
"""


def test_a_process_killed_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_atomic(file, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_RENAME, str(file)])
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert all(other.name.startswith(".") for other in tmp_path.iterdir() if other != file)


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "x"
    write_atomic(file, b"old")

    def fail_half_way() -> None:
        with replacing(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "absent" / "x", b"new")
    assert caught.value.filename == str(tmp_path / "absent" / "x")
    assert ".tmp" not in str(caught.value)


def test_the_data_are_on_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("replace"), replace(old, new))[1])
    write_atomic(tmp_path / "x", "é")
    assert calls[:2] == ["fsync", "replace"]
    assert (tmp_path / "x").read_bytes() == "é".encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b"c\n"), (b"a\nb\n", b"a\nb\nc\n"), (b"a\n{torn", b"a\nc\n"), (b"{torn", b"c\n")],
)
def test_append_line_cuts_a_torn_line(tmp_path: Path, before: bytes, after: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(before)
    append_line(file, "c")
    assert file.read_bytes() == after


def test_a_line_that_is_written_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    append_line(tmp_path / "log", "a line")
    assert (tmp_path / "log").read_text() == "a line\n"


def test_a_disk_that_fills_up_within_a_line_raises_and_the_next_line_replaces_the_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    append_line(file, "a")
    write, room = os.write, [4]

    def full(descriptor: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            append_line(file, "too long")
    assert file.read_text() == "a\ntoo "
    append_line(file, "b")
    assert file.read_text() == "a\nb\n"


def test_two_threads_may_replace_one_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    both_wrote = threading.Barrier(2)
    faults: list[BaseException] = []

    def replace(content: str) -> None:
        try:
            with replacing(file) as temporary:
                temporary.write_text(content)
                both_wrote.wait(timeout=10)
        except OSError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=replace, args=(content,)) for content in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert file.read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EFBIG, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("I/O error: Permission denied (os error 13)"), False),
    ],
)
def test_what_counts_as_a_full_disk(error: BaseException, full: bool) -> None:
    assert is_disk_full(error) is full
