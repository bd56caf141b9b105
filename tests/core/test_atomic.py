from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tenfold.core.atomic import append_line, replacing, write_atomic

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
