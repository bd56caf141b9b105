"""Emoji: what is read, captioned, held out and refused."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import UserError
from tenfold.vision.emoji import Drawing, EmojiSet, nearest_hits, read_emoji, read_emoji_shard
from tenfold.vision.shapes_world import PALETTE

ROWS = [
    {"i": 0, "emoji": "😀", "code": "1f600", "name": "grinning face", "group": "g", "subgroup": "s", "heldout": None},
    {"i": 1, "emoji": "🐈", "code": "1f408", "name": "cat", "group": "g", "subgroup": "s", "heldout": "google"},
    {"i": 2, "emoji": "🏠", "code": "1f3e0", "name": "house", "group": "g", "subgroup": "s", "heldout": "twitter"},
]
ARRAYS = {
    vendor: np.random.default_rng(seed).integers(0, 256, (3, 4, 4, 4)).astype(np.uint8)
    for seed, vendor in enumerate(("google", "twitter"))
}


def write(folder: Path, rows: list[dict[str, Any]] = ROWS, **arrays: Any) -> tuple[Path, Path]:
    np.savez_compressed(folder / "e.npz", **(arrays or ARRAYS))
    (folder / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "e.npz", folder / "e.jsonl"


@pytest.fixture
def emoji(tmp_path: Path) -> EmojiSet:
    return read_emoji(*write(tmp_path))


def test_rows_and_pictures(emoji: EmojiSet) -> None:
    assert (len(emoji), emoji.side) == (3, 4)
    assert [row.name for row in emoji.rows] == ["grinning face", "cat", "house"]
    assert [row.heldout for row in emoji.rows] == [None, "noto", "twemoji"]
    assert np.array_equal(emoji.pictures["noto"], ARRAYS["google"])
    assert np.array_equal(emoji.pictures["twemoji"], ARRAYS["twitter"])


def test_what_is_held_out_is_never_trained_on(emoji: EmojiSet) -> None:
    assert emoji.drawings("heldout") == [Drawing(1, "noto"), Drawing(2, "twemoji")]
    train = emoji.drawings("train")
    assert train == [Drawing(0, "noto"), Drawing(0, "twemoji"), Drawing(1, "twemoji"), Drawing(2, "noto")]
    assert sorted([*train, *emoji.drawings("heldout")]) == sorted(emoji.drawings())
    with pytest.raises(ValueError, match=r"part: got 'test', need one of all, train, heldout"):
        emoji.drawings("test")  # type: ignore[arg-type]


def test_captions(emoji: EmojiSet) -> None:
    assert emoji.caption(Drawing(1, "noto")) == "noto emoji of cat"
    assert emoji.caption(Drawing(1, "twemoji"), "red") == "twemoji emoji of cat on red"
    assert emoji.caption(Drawing(0, "noto"), template="A photo of {name}") == "A photo of grinning face"


def test_backgrounds_by_hand(tmp_path: Path) -> None:
    clear = np.zeros((3, 4, 4, 4), dtype=np.uint8)
    emoji = read_emoji(*write(tmp_path, google=clear, twitter=np.full_like(clear, 255)))
    assert (emoji.image(Drawing(0, "noto")) == 255).all()
    assert (emoji.image(Drawing(0, "noto"), "cyan") == PALETTE["cyan"]).all()
    assert (emoji.image(Drawing(0, "twemoji"), "cyan") == 255).all()
    with pytest.raises(ValueError, match=r"colour: got 'pink', need one of red, green"):
        emoji.image(Drawing(0, "noto"), "pink")


def test_gathered_pictures_are_the_single_ones(emoji: EmojiSet) -> None:
    drawings = emoji.drawings("train")
    images, captions = emoji.gather(drawings, (None, "blue"))
    assert images.shape == (8, 4, 4, 3) and images.dtype == np.uint8
    expected = [(drawing, colour) for colour in (None, "blue") for drawing in drawings]
    for image, caption, (drawing, colour) in zip(images, captions, expected, strict=True):
        assert np.array_equal(image, emoji.image(drawing, colour))
        assert caption == emoji.caption(drawing, colour)


def change(number: int, **values: Any) -> list[dict[str, Any]]:
    return [row | values if i == number else row for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "e.jsonl: got no lines, need at least one"),
        (change(1, i=2), "e.jsonl:2: i: got 2, need 1"),
        (change(2, heldout="noto"), "e.jsonl:3: heldout: got 'noto', need google, twitter or null"),
        (change(0, name=None), "e.jsonl:1: name: got None, need str"),
        ([{"i": 0}], 'e.jsonl:1: "emoji" is missing'),
        (ROWS[:2], r"e.npz: google: got uint8 \(3, 4, 4, 4\), need uint8 \(2, S, S, 4\)"),
    ],
)
def test_bad_names_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_emoji(*write(tmp_path, rows))


GOOGLE = ARRAYS["google"]


@pytest.mark.parametrize(
    ("twitter", "message"),
    [
        (GOOGLE.astype(np.float32), r"e.npz: twitter: got float32 \(3, 4, 4, 4\), need uint8"),
        (GOOGLE[..., :3], r"twitter: got uint8 \(3, 4, 4, 3\)"),
        (GOOGLE[:, :3], r"twitter: got uint8 \(3, 3, 4, 4\)"),
        (GOOGLE[:2], r"twitter: got uint8 \(2, 4, 4, 4\)"),
        (np.asfortranarray(GOOGLE), "twitter: got uint8"),
        (np.zeros((3, 2, 2, 4), dtype=np.uint8), "e.npz: the styles have drawings of different sizes"),
        (np.array(GOOGLE.tolist(), dtype=object), "twitter: got object"),
    ],
)
def test_other_arrays_are_refused(twitter: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_emoji(*write(tmp_path, google=GOOGLE, twitter=twitter))


def test_an_array_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"e.npz: damaged or no .npz of emoji .*twitter.npy"):
        read_emoji(*write(tmp_path, google=GOOGLE))
    (tmp_path / "e.npz").unlink()
    with pytest.raises(UserError, match=r"e.npz not found; need the arrays google, twitter"):
        read_emoji(tmp_path / "e.npz", tmp_path / "e.jsonl")


def test_a_small_file_that_claims_much_is_refused_unread(tmp_path: Path) -> None:
    _, names = write(tmp_path)
    with zipfile.ZipFile(tmp_path / "e.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for vendor in ARRAYS:
            header = io.BytesIO()
            form = {"descr": "|u1", "fortran_order": False, "shape": (3, 50_000, 50_000, 4)}
            np.lib.format.write_array_header_1_0(header, form)
            archive.writestr(f"{vendor}.npy", header.getvalue())
    with pytest.raises(UserError, match=r"got uint8 \(3, 50000, 50000, 4\), need uint8 \(3, S, S, 4\) with S to 512"):
        read_emoji(tmp_path / "e.npz", names)


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npy(GOOGLE)[:-1],
        npy(GOOGLE) + b"\0",
        npy(GOOGLE, (2, 0)),
        npy(GOOGLE)[:8] + b"\xff\xff" + b" " * 65535,
        npy(GOOGLE).replace(b"False", b"F(lse"),
        npy(GOOGLE).replace(b"'descr'", b"'desrc'"),
        b"\x80\x04N.",
        b"",
    ],
    ids=["cut off", "goes on", "another version", "long header", "header", "key", "pickle", "empty"],
)
def test_a_damaged_array_with_a_right_sum(content: bytes, tmp_path: Path) -> None:
    _, names = write(tmp_path)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("google.npy", npy(GOOGLE))
        archive.writestr("twitter.npy", content)
    with pytest.raises(UserError, match=r"e.npz: damaged or no .npz of emoji") as caught:
        read_emoji(tmp_path / "e.npz", names)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_said_in_one_line(tmp_path: Path) -> None:
    pictures, names = write(tmp_path)
    whole = pictures.read_bytes()
    rng = np.random.default_rng(0)
    refused = sound = 0
    for trial in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole))] if trial % 3 == 0 else whole)
        if trial % 3:
            damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        pictures.write_bytes(damaged)
        try:
            emoji = read_emoji(pictures, names)
        except UserError as fault:
            refused += str(fault).startswith(str(pictures)) and "\n" not in str(fault)
        else:  # a date or the like was hit, not the content
            assert np.array_equal(emoji.pictures["noto"], GOOGLE)
            sound += 1
    assert refused + sound == 300 and refused > 200


def test_prepared_emoji(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(data_dir))
    emoji = read_emoji()
    assert (len(emoji), emoji.side) == (1906, 32)
    heldout = emoji.drawings("heldout")
    assert (len(heldout), len(emoji.drawings("train"))) == (184, 3628)
    assert [style for _, style in heldout].count("twemoji") == 95
    assert len({row.name for row in emoji.rows}) == len(emoji)
    assert emoji.caption(Drawing(0, "twemoji")) == "twemoji emoji of grinning face"
    corners = emoji.image(Drawing(0, "noto"))[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()  # a round face
    assert emoji.image(Drawing(0, "noto"))[16, 16].tolist() != [255, 255, 255]


def webp(rgba: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


CAT = {
    "hexcode": "1F408",
    "char": "🐈",
    "group": "animals",
    "subgroup": "mammal",
    "name": {"en": "Cat", "de": "Katze"},
    "keywords": ["cat", "pet"],
}


def write_shard(path: Path, *samples: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for kind, content in sample.items():
                member = tarfile.TarInfo(f"{number}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def sample(row: dict[str, Any] = CAT, **changes: bytes | None) -> dict[str, bytes]:
    members = {
        "google.webp": webp(ARRAYS["google"][0]),
        "twitter.webp": webp(ARRAYS["twitter"][0]),
        "json": json.dumps(row).encode(),
    }
    named = {name.replace("_", "."): content for name, content in changes.items()}
    return {name: content for name, content in (members | named).items() if content is not None}


def test_a_shard_has_names_in_other_languages(tmp_path: Path) -> None:
    emoji = read_emoji_shard(write_shard(tmp_path / "x.tar", sample()))
    (cat,) = emoji.rows
    assert (cat.char, cat.code, cat.name, cat.group, cat.subgroup) == ("🐈", "1f408", "cat", "animals", "mammal")
    assert (cat.names["de"], cat.keywords, cat.heldout) == ("Katze", ("cat", "pet"), None)
    assert np.array_equal(emoji.pictures["noto"][0], ARRAYS["google"][0])
    assert emoji.caption(Drawing(0, "twemoji"), template="A photo of {name}") == "A photo of cat"


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "x.tar: got no emoji"),
        ([sample(twitter_webp=None)], "x.tar: '0': got no .twitter.webp; every emoji needs .json, .google.webp"),
        ([sample(json=b"{")], "x.tar: '0': .json: not JSON"),
        ([sample(json=b"[" * 100_000)], "x.tar: '0': .json: not JSON"),
        ([sample(json=b"\xff")], "x.tar: '0': .json: not JSON"),
        ([sample(json=b"[]")], "x.tar: '0': .json: got list, need a JSON object"),
        ([sample({})], "x.tar: '0': .json: \"name\" is missing"),
        ([sample(CAT | {"name": {"de": "Katze"}})], "x.tar: '0': .json: name: got no English one"),
        ([sample(google_webp=b"no picture")], "x.tar: '0': .google.webp: cannot be read"),
        (
            [sample(), sample(google_webp=webp(GOOGLE[0, :2, :2].copy()))],
            r"'1': .google.webp: got \(2, 2\) pixels, need 4 x 4",
        ),
        ([sample(google_webp=webp(GOOGLE[0, :2].copy()))], r"'0': .google.webp: got \(2, 4\) pixels, need 2 x 2"),
    ],
)
def test_bad_shards_are_refused(samples: list[dict[str, bytes]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_emoji_shard(write_shard(tmp_path / "x.tar", *samples))
    assert "\n" not in str(caught.value)


def test_prepared_shard(data_dir: Path) -> None:
    emoji = read_emoji_shard(data_dir / "08-mm1" / "emoji-val.tar")
    assert (len(emoji), emoji.side) == (152, 48)
    assert all(len(row.names) == 12 for row in emoji.rows)


def test_nearest_by_hand(tmp_path: Path) -> None:
    levels = np.array([0, 100, 200], dtype=np.uint8)
    grey = np.full((3, 1, 1, 4), 255, dtype=np.uint8)
    grey[..., :3] = levels[:, None, None, None]
    emoji = read_emoji(*write(tmp_path, google=grey, twitter=grey))
    drawings = [Drawing(0, "noto"), Drawing(1, "noto"), Drawing(1, "twemoji"), Drawing(2, "twemoji")]
    samples = np.array([30, 149, 151, 150], dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    hits = nearest_hits(emoji, samples, drawings, np.random.default_rng(0), candidates=3)
    assert hits.tolist() == [True, True, False, False]  # 150 is as near to 100 as to 200


def test_nearest_of_noise_is_chance(data_dir: Path) -> None:
    folder = data_dir / "01-ec-dit"
    emoji = read_emoji(folder / "emoji32.npz", folder / "emoji.jsonl")
    drawings = emoji.drawings()[::4]
    samples, _ = emoji.gather(drawings[::-1])  # of other emoji
    hits = nearest_hits(emoji, samples, drawings, np.random.default_rng(0))
    assert 0.02 < hits.mean() < 0.09  # 1 in 20, 953 samples
    own, _ = emoji.gather(drawings)
    assert nearest_hits(emoji, own, drawings, np.random.default_rng(0)).mean() > 0.99


@pytest.mark.parametrize(
    ("shape", "candidates", "message"),
    [
        ((1, 4, 4, 3), 4, "candidates: got 4, need 2 to 3"),
        ((1, 4, 4, 3), 1, "candidates: got 1, need 2 to 3"),
        ((1, 8, 8, 3), 3, r"samples: got \(1, 8, 8, 3\), need \(1, 4, 4, 3\)"),
        ((2, 4, 4, 3), 3, r"samples: got \(2, 4, 4, 3\), need \(1, 4, 4, 3\)"),
    ],
)
def test_nearest_refuses(emoji: EmojiSet, shape: tuple[int, ...], candidates: int, message: str) -> None:
    samples = np.zeros(shape, dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        nearest_hits(emoji, samples, [Drawing(0, "noto")], np.random.default_rng(0), candidates)
