"""Users' pictures and captions: folders, metadata.jsonl, shards; what does not pair is named."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import UserError
from tenfold.vision import image_text
from tenfold.vision.image_text import ImageText, open_image_text

COLOURS = {"a": (255, 0, 0), "b/c": (0, 255, 0), "d": (0, 0, 255)}
CAPTIONS = {"a": "a red field", "b/c": "ein grünes Feld", "d": "a blue field"}


def picture(colour: tuple[int, ...], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", (12, 8), colour).save(buffer, kind)
    return buffer.getvalue()


def files(folder: Path) -> Path:
    """Three pictures with captions beside them."""
    (folder / "b").mkdir(parents=True)
    for name, kind, suffix in (("a", "PNG", "png"), ("b/c", "PNG", "PNG"), ("d", "PNG", "png")):
        (folder / f"{name}.{suffix}").write_bytes(picture(COLOURS[name], kind))
        (folder / f"{name}.txt").write_text(f"{CAPTIONS[name]}\n", encoding="utf-8")
    return folder


def metadata(folder: Path) -> Path:
    files(folder)
    names = {"a": "a.png", "b/c": "b/c.PNG", "d": "./d.png"}
    for text in folder.rglob("*.txt"):
        text.unlink()
    rows = [{"file_name": names[name], "text": CAPTIONS[name], "more": 1} for name in COLOURS]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def shard(path: Path, names: tuple[str, ...] = tuple(COLOURS), *, caption: str = "txt") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            text = CAPTIONS[name] if caption == "txt" else json.dumps({caption: CAPTIONS[name], "id": 3})
            ending = "txt" if caption == "txt" else "json"
            add(tar, f"{name}.png", picture(COLOURS[name]))
            add(tar, f"{name}.{ending}", text.encode())
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def shards(folder: Path) -> Path:
    shard(folder / "1.tar", ("d",))
    shard(folder / "0.tar", ("a", "b/c"), caption="text")
    return folder


@pytest.mark.parametrize(
    "make",
    [
        files,
        metadata,
        shards,
        lambda folder: shard(folder / "x.tar"),
        lambda folder: shard(folder / "x.tar", caption="caption"),
    ],
    ids=["files", "metadata", "shards", "one shard", "json captions"],
)
def test_every_form_gives_the_same(make: Callable[[Path], Path], tmp_path: Path) -> None:
    pairs = open_image_text(make(tmp_path / "mine"), side=4)
    assert len(pairs) == 3
    assert pairs.captions == list(CAPTIONS.values())
    for (image, caption, name), key in zip(pairs, COLOURS, strict=True):
        assert image.dtype == np.uint8 and image.shape == (4, 4, 3)
        assert (image == COLOURS[key]).all()
        assert caption == CAPTIONS[key]
        assert name.rpartition(".png")[0] in ("", key) or name.lower() == f"{key}.png"
    assert isinstance(pairs[-1], ImageText) and pairs[-1].caption == CAPTIONS["d"]
    with pytest.raises(IndexError):
        pairs[3]


def test_parts_and_copies_of_a_set(tmp_path: Path) -> None:
    pairs = open_image_text(shard(tmp_path / "x.tar"), side=4)
    assert pairs[1:].names == ["b/c", "d"]
    copied = pickle.loads(pickle.dumps(pairs))  # as a worker process gets it
    assert np.array_equal(copied[2].image, pairs[2].image)


def test_kinds_of_pictures_and_alpha(tmp_path: Path) -> None:
    for name, kind in (("a.jpg", "JPEG"), ("b.webp", "WEBP"), ("c.JPEG", "JPEG")):
        (tmp_path / name).write_bytes(picture((10, 20, 30), kind))
        (tmp_path / name).with_suffix(".txt").write_text("dark")
    (tmp_path / "d.png").write_bytes(picture((10, 20, 30, 0)))
    (tmp_path / "d.txt").write_text("\ufeffclear", encoding="utf-8")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.md").write_text("neither")
    pairs = open_image_text(tmp_path, side=8)
    assert pairs.names == ["a", "b", "c", "d"]
    for pair in pairs[:3]:
        assert np.abs(pair.image.astype(int) - [10, 20, 30]).max() <= 4
    assert (pairs[3].image == 255).all() and pairs[3].caption == "clear"


def test_a_picture_may_have_several_lines_of_metadata(tmp_path: Path) -> None:
    folder = metadata(tmp_path / "mine")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "a.png", "text": "again"}\n')
    assert open_image_text(folder, 4)[3].caption == "again"


def break_files(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        files(folder)
        for name in names:
            (folder / name).unlink()
        return folder

    return make


def rewritten(row: dict[str, object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        metadata(folder)
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return folder

    return make


def packed(**members: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        with tarfile.open(folder / "x.tar", "w") as tar:
            for name, content in members.items():
                add(tar, name.replace("_", "."), content)
        return folder / "x.tar"

    return make


def written(**contents: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        for name, content in contents.items():
            (folder / name.replace("_", ".")).write_bytes(content)
        return folder

    return make


RED = picture((255, 0, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (break_files("a.txt"), "mine: 1 picture without a caption, first 'a'; give each"),
        (break_files("a.txt", "b/c.txt"), "mine: 2 pictures without a caption, first 'a'; give each"),
        (break_files("b/c.PNG", "d.png"), "mine: 2 captions without a picture, first 'b/c'; give each"),
        (
            break_files("a.txt", "d.png"),
            "1 picture without a caption, first 'a'; 1 caption without a picture, first 'd'",
        ),
        (written(a_png=RED, a_jpg=RED, a_txt=b"x"), "mine: two pictures are called 'a'"),
        (written(a_png=RED, a_txt=b"\xff"), r"a.txt: the caption is not UTF-8 \(byte 0\)"),
        (written(), "mine: got no pictures, need NAME.png"),
        (lambda folder: folder, "data not found: .*mine; need a folder of pictures or a WebDataset .tar"),
        (lambda folder: folder / "x.tar", "data not found: .*x.tar"),
        (rewritten({"file_name": "e.png", "text": "x"}), "mine: 1 caption without a picture, first 'e.png'"),
        (rewritten({"file_name": "../e.png", "text": "x"}), "mine: 1 caption without a picture, first '../e.png'"),
        (rewritten({"file_name": "/etc/passwd", "text": "x"}), "jsonl:4: file_name: got '/etc/passwd', need a .png"),
        (rewritten({"file_name": "a.png"}), 'metadata.jsonl:4: "text" is missing'),
        (rewritten({"file_name": "a.png", "text": None}), "metadata.jsonl:4: text: got None, need str"),
        (packed(a_png=RED, a_webp=RED, a_txt=b"x"), "x.tar: two pictures are called 'a'"),
        (packed(a_png=RED), "x.tar: 1 picture without a caption, first 'a'"),
        (packed(a_txt=b"x", b_png=RED, b_txt=b"x"), "x.tar: 1 caption without a picture, first 'a'"),
        (packed(a_png=RED, a_json=b"{"), "x.tar: 'a': its .json is not JSON"),
        (packed(a_png=RED, a_json=b"[" * 100_000), "x.tar: 'a': its .json is not JSON"),
        (packed(a_png=RED, a_json=b'{"caption": 3}'), "x.tar: 'a': its .json has no text under"),
        (packed(a_png=RED, a_json=b"[]"), "x.tar: 'a': its .json has no text under"),
        (packed(a_png=RED, a_txt=b"\xe4"), "x.tar: 'a': the caption is not UTF-8"),
        (packed(), "x.tar: got no pictures"),
    ],
)
def test_what_does_not_pair_is_named(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_image_text(make(tmp_path / "mine"), side=4)
    assert "\n" not in str(caught.value)


def test_metadata_must_name_every_picture(tmp_path: Path) -> None:
    folder = metadata(tmp_path / "mine")
    (folder / "z.png").write_bytes(RED)
    with pytest.raises(UserError, match=r"mine: 1 picture without a caption, first 'z.png'"):
        open_image_text(folder, 4)


def test_a_damaged_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED[:40])
    (tmp_path / "a.txt").write_text("half a picture")
    pairs = open_image_text(tmp_path, 4)
    with pytest.raises(UserError, match=r"a\.png: cannot be read as PNG, JPEG or WebP"):
        pairs[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a.png: cannot be read"):
        pairs[0]


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "a.txt").write_text("red")
    with pytest.raises(ValueError, match=r"side: got 0, need at least 1"):
        open_image_text(tmp_path, 0)
    monkeypatch.setattr(image_text, "MAX_CAPTION", 2)
    with pytest.raises(UserError, match=r"a.txt: the caption has 3 bytes, at most 2 are read"):
        open_image_text(tmp_path, 4)
    monkeypatch.setattr(image_text, "MAX_BYTES", 10)
    with pytest.raises(UserError, match=rf"a.png has {len(RED)} bytes, at most 10 are read"):
        open_image_text(tmp_path, 4)
