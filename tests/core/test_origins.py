"""Where data files come from: addresses, npm packages (by a stand-in for npm), files that come with tenfold."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest

from tenfold.core import origins
from tenfold.core.errors import UserError
from tenfold.core.origins import SHIPPED, Origin, Package, Shipped, content_sha256

ARCHIVE = b"an archive"
PACKAGE = Package("some-package", "1.2.3", hashlib.sha256(ARCHIVE).hexdigest(), len(ARCHIVE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


def install_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script in npm's place; it is called as `npm pack SPEC … --pack-destination FOLDER`."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/calls"\nfor folder; do :; done\n{script}\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")


def test_a_package_comes_through_npm_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path, monkeypatch, f'printf "{ARCHIVE.decode()}" >"$folder/some-package-1.2.3.tgz"')
    for _ in range(2):
        assert PACKAGE.bring(folder) == folder / "some-package-1.2.3.tgz"
    assert (folder / "some-package-1.2.3.tgz").read_bytes() == ARCHIVE
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call == f"pack some-package@1.2.3 --ignore-scripts --loglevel=error --pack-destination {folder}"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'npm error code E404' >&2; echo 'npm error more' >&2; exit 1",
            r"some-package@1.2.3 failed \(code E404\)",
        ),
        ("echo 'npm ERR! code ENOSPC' >&2; exit 1", r"npm pack some-package@1.2.3 failed \(code ENOSPC\)"),
        ("exit 7", r"npm pack some-package@1.2.3 failed \(exit code 7\)"),
        ("exit 0", r"npm pack some-package@1.2.3 failed \(exit code 0\)"),
        ('echo other >"$folder/some-package-1.2.3.tgz"', r"wrong content: npm's some-package@1.2.3 has SHA-256"),
    ],
)
def test_what_npm_cannot_bring_is_one_line_and_no_file(
    script: str, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path, monkeypatch, script)
    with pytest.raises(UserError, match=message) as caught:
        PACKAGE.bring(folder)
    assert "\n" not in str(caught.value)
    assert not list(folder.iterdir())


def test_npm_that_is_absent_or_hangs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(origins, "PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"npm pack some-package@1.2.3 took more than 0.1 s"):
        PACKAGE.bring(folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm not found: it brings some-package@1.2.3; install it"):
        PACKAGE.bring(folder)


def test_where_people_read_about_it() -> None:
    assert Origin("https://raw.example/owner/repository/abc/a/b.txt", "", 0).home == "github.com/owner/repository"
    assert PACKAGE.home == "npm some-package 1.2.3"
    assert Shipped("a/b.txt").home == "comes with tenfold"


def test_files_that_come_with_tenfold_are_named_in_their_notice(folder: Path) -> None:
    notice = (SHIPPED / "README.md").read_text(encoding="utf-8")
    shipped = [file for file in SHIPPED.rglob("*") if file.is_file() and file.name != "README.md"]
    assert shipped
    for file in shipped:
        assert file.name in notice and file.parent.name in notice
        assert Shipped(file.relative_to(SHIPPED).as_posix()).bring(folder) == file


def test_the_content_counts_not_how_it_is_packed() -> None:
    plain = hashlib.sha256(b"abc").hexdigest()
    assert content_sha256("a.txt", b"abc") == plain
    assert (
        content_sha256("a.txt.gz", gzip.compress(b"abc", 1))
        == content_sha256("a.txt.gz", gzip.compress(b"abc", 9))
        == plain
    )
    packed, stored, other, renamed = (io.BytesIO() for _ in range(4))
    np.savez_compressed(packed, a=np.arange(3), b=np.ones(2))
    np.savez(stored, b=np.ones(2), a=np.arange(3))
    np.savez(other, a=np.arange(3), b=np.zeros(2))
    np.savez(renamed, a=np.arange(3), c=np.ones(2))
    digests = [content_sha256("x.npz", archive.getvalue()) for archive in (packed, stored, other, renamed)]
    assert digests[0] == digests[1] and len(set(digests)) == 3
