"""Shards: members by sample, and tars that are damaged or would do harm."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import UserError
from tenfold.vision import webdataset
from tenfold.vision.webdataset import read_shard


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_by_sample_and_kind(form: int, tmp_path: Path) -> None:
    deep = "/".join(["folder"] * 20) + "/9.txt"  # too long for one header of the older forms
    members = {"./a/1.google.webp": b"one", "a/1.JSON": b"", "b.txt": b"x" * 513, ".hidden.txt": b"", deep: b"9"}
    shard = read_shard(write_tar(tmp_path / "x.tar", members, form))
    assert {name: list(kinds) for name, kinds in shard.items()} == {
        "a/1": ["google.webp", "json"],
        "b": ["txt"],
        deep.removesuffix(".txt"): ["txt"],
    }
    assert shard["a/1"]["google.webp"].read() == b"one"
    assert shard["b"]["txt"].read() == b"x" * 513
    assert shard["a/1"]["json"].read() == b""


def test_folders_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert read_shard(tmp_path / "x.tar") == {}


@pytest.mark.parametrize("cut", [1, 100, 512, 600, 1024, 1536, 2047])
def test_a_cut_off_tar_is_refused(cut: int, tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.txt": b"a" * 700, "b.txt": b"b"}).read_bytes()
    assert whole[2560:3072] == bytes(512)  # two members of 1536 and 1024 bytes, then the end mark
    (tmp_path / "x.tar").write_bytes(whole[: 2560 - 2048 + cut])
    with pytest.raises(UserError, match=r"x.tar: (not a whole uncompressed tar|the tar is cut off)"):
        read_shard(tmp_path / "x.tar")


def test_a_tar_cut_off_between_members_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.txt": b"a", "b.txt": b"b"}).read_bytes()
    for end in (1024, 2048):
        (tmp_path / "x.tar").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"x.tar: the tar is cut off, its end mark is missing"):
            read_shard(tmp_path / "x.tar")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data not found: .*none.tar"):
        read_shard(tmp_path / "none.tar")
    for name, content in (("empty.tar", b""), ("text.tar", b"text" * 999)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a whole uncompressed tar"):
            read_shard(tmp_path / name)
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"packed.tar: not a whole uncompressed tar"):
        read_shard(tmp_path / "packed.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"x.tar: 'a.txt' is no plain file"):
        read_shard(tmp_path / "x.tar")


def test_names_and_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.txt": b"1", "b.txt": b"22"})
    monkeypatch.setattr(webdataset, "MAX_BYTES", 1)
    with pytest.raises(UserError, match=r"x.tar: 'b.txt' has 2 bytes, at most 1 are read"):
        read_shard(tar)
    write_tar(tmp_path / "y.tar", {"a.txt": b"", "./a.TXT": b""})
    with pytest.raises(UserError, match=r"y.tar: './a.TXT' is there twice|y.tar: 'a.TXT' is there twice"):
        read_shard(tmp_path / "y.tar")


def test_a_span_notices_a_changed_file(tmp_path: Path) -> None:
    span = read_shard(write_tar(tmp_path / "x.tar", {"a.txt": b"abc"}))["a"]["txt"]
    (tmp_path / "x.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"x.tar: has become shorter while it was in use"):
        span.read()
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match=r"x.tar: cannot be read \(No such file"):
        span.read()


def with_header(whole: bytes, start: int, place: slice, value: bytes) -> bytes:
    """A tar with a field of the header at `start` replaced and its sum made right."""
    header = bytearray(whole[start : start + 512])
    header[place] = value
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return whole[:start] + bytes(header) + whole[start + 512 :]


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000001000\0", b"nonsense...\0"]
)
@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"V"])
def test_crafted_sizes_end_in_a_line(size: bytes, kind: bytes, tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"a.txt": b"a", "b.txt": b"b" * 600, "c.txt": b"c"}).read_bytes()
    for start in (0, 1024):
        crafted = with_header(with_header(whole, start, slice(124, 136), size), start, slice(156, 157), kind)
        (tmp_path / "x.tar").write_bytes(crafted)
        with pytest.raises(UserError, match=r"x.tar: ") as caught:
            read_shard(tmp_path / "x.tar")
        assert "\n" not in str(caught.value)


def test_a_tar_that_points_back_into_itself_ends(tmp_path: Path) -> None:
    """A member of negative size leads the reader back to the first header, again and again."""
    whole = write_tar(tmp_path / "x.tar", {".a.txt": b"a", ".b.txt": b"b", ".c.txt": b"c"}).read_bytes()
    back = (-1536).to_bytes(12, "big", signed=True)
    (tmp_path / "x.tar").write_bytes(with_header(whole, 1024, slice(124, 136), back))
    with pytest.raises(UserError, match=r"x.tar: not a whole uncompressed tar"):
        read_shard(tmp_path / "x.tar")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    """Three bytes on disk that claim to be a thousand."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        content = b"1\n0\n3\n".ljust(512, b"\0") + b"abc"
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "a.txt",
            "GNU.sparse.realsize": "1000",
        }
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match=r"x.tar: 'a.txt' is no plain file"):
        read_shard(tmp_path / "x.tar")


def test_damage_anywhere_is_a_line_or_a_shard(tmp_path: Path) -> None:
    forms = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    wholes = [
        write_tar(tmp_path / "x.tar", {"é" * 80 + ".txt": b"a", "b.txt": b"b"}, form).read_bytes() for form in forms
    ]
    rng = np.random.default_rng(0)
    lines = []
    for trial in range(400):
        whole = wholes[trial % 2]
        start = 512 * int(rng.integers(6))
        place = int(rng.integers(100, 160))  # mode to kind: what the reader goes by
        (tmp_path / "x.tar").write_bytes(with_header(whole, start, slice(place, place + 1), bytes([rng.integers(256)])))
        try:
            read_shard(tmp_path / "x.tar")
        except UserError as fault:
            lines.append(str(fault))
    assert len(lines) > 30 and not any("\n" in line for line in lines)
