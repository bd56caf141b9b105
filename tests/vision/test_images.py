"""Pictures from bytes: every kind of PNG, JPEG and WebP, upright, on white, square; and what is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import UserError
from tenfold.vision.images import composite, decode, decode_square

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)
RGBA = RNG.integers(0, 256, (6, 9, 4)).astype(np.uint8)


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG with a right sum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, colour_type: int = 2, pixels: bytes = b"") -> bytes:
    """A PNG that claims a size and has the pixels given, none by default."""
    size = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("options", [{}, {"kind": "WEBP", "lossless": True}])
def test_lossless_pictures_are_kept(options: dict[str, Any]) -> None:
    image = decode(packed(Image.fromarray(RGB), **options), "x")
    assert image.dtype == np.uint8 and np.array_equal(image, RGB)
    exact = options | ({"exact": True} if options else {})  # else WebP changes colours that cannot be seen
    assert np.array_equal(decode(packed(Image.fromarray(RGBA), **exact), "x", mode="RGBA"), RGBA)


def test_what_can_be_seen_through_is_shown_on_white() -> None:
    assert np.array_equal(decode(packed(Image.fromarray(RGBA)), "x"), composite(RGBA))
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    assert (decode(packed(Image.fromarray(clear)), "x") == 255).all()


def test_composite_by_hand() -> None:
    rgba = np.array([[[100, 0, 255, 255], [100, 0, 255, 0], [100, 0, 255, 51]]], dtype=np.uint8)  # 51 is a fifth
    assert composite(rgba, (10, 20, 30)).tolist() == [[[100, 0, 255], [10, 20, 30], [28, 16, 75]]]
    both = composite(np.stack([rgba, rgba]), np.array([[[[0, 0, 0]]], [[[255, 255, 255]]]]))
    assert both[0, 0, 1].tolist() == [0, 0, 0] and both[1, 0, 1].tolist() == [255, 255, 255]


def test_composite_is_to_the_nearest_level() -> None:
    levels = np.arange(256, dtype=np.uint8)
    rgba = np.stack(np.broadcast_arrays(levels[:, None], levels[:, None], levels[:, None], levels[None, :]), axis=-1)
    exact = (rgba[..., :3] * (rgba[..., 3:] / 255) + 200 * (1 - rgba[..., 3:] / 255)).round()
    assert np.array_equal(composite(np.ascontiguousarray(rgba), 200), exact)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(RGB[..., 0]), np.repeat(RGB[..., :1], 3, axis=-1)),
        (Image.fromarray(RGB[..., 0].astype(np.uint16) << 8 | 0x42), np.repeat(RGB[..., :1], 3, axis=-1)),
        (Image.fromarray(RGB[..., 0] > 99), np.repeat((RGB[..., :1] > 99) * 255, 3, axis=-1)),
        (Image.fromarray(RGB).quantize(256), np.asarray(Image.fromarray(RGB).quantize(256).convert("RGB"))),
        (
            Image.fromarray(RGBA).convert("LA"),
            composite(np.asarray(Image.fromarray(RGBA).convert("LA").convert("RGBA"))),
        ),
    ],
    ids=["grey", "grey of 16 bits", "black and white", "palette", "grey with alpha"],
)
def test_kinds_of_png(image: Image.Image, expected: Any) -> None:
    assert np.array_equal(decode(packed(image), "x"), expected)
    assert np.array_equal(
        decode(packed(image), "x", mode="RGBA")[..., 3] < 255, np.asarray(image.convert("RGBA"))[..., 3] < 255
    )


def test_palette_with_a_clear_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    content = packed(image, transparency=0)
    assert decode(content, "x").tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_cmyk_and_lossy_pictures_are_near() -> None:
    smooth = np.stack(np.meshgrid(np.arange(0, 128, 4), np.arange(0, 128, 4)), -1)
    smooth = np.concatenate([smooth, smooth[..., :1]], -1).astype(np.uint8)
    for content in (
        packed(Image.fromarray(smooth), "JPEG", quality=95),
        packed(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95),
        packed(Image.fromarray(smooth), "WEBP", quality=95),
    ):
        assert np.abs(decode(content, "x").astype(int) - smooth).mean() < 3
        assert (decode(content, "x", mode="RGBA")[..., 3] == 255).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(turn: int) -> None:
    seen = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.swapaxes(0, 1),
        6: RGB[::-1].swapaxes(0, 1),
        7: RGB[::-1, ::-1].swapaxes(0, 1),
        8: RGB[:, ::-1].swapaxes(0, 1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    assert np.array_equal(decode(packed(Image.fromarray(RGB), exif=exif), "x"), seen)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_do_not_matter() -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"):
        assert np.array_equal(decode(packed(Image.fromarray(RGB), exif=exif), "x"), RGB)


def test_a_photograph_with_its_preview_is_one_picture() -> None:
    content = packed(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB[:3])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(content, "x").shape == RGB.shape


def test_of_moving_pictures_the_first_frame_is_taken() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    content = packed(frames[0], save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="film.png: moves; its first frame is taken"):
        assert np.array_equal(decode(content, "film.png"), RGB)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(packed(frames[0]), "x")


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (7, 8), (50, 50)])
def test_the_middle_square_is_kept(height: int, width: int) -> None:
    """A picture whose levels grow evenly from left to right and from top to bottom."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    image = decode_square(packed(Image.fromarray(ramp)), "x", 4)
    assert image.shape == (4, 4, 3)
    edge = min(height, width)
    centres = (np.arange(4) + 0.5) * edge / 4 - 0.5
    assert np.abs(image[1:3, 1:3, 0] - ((width - edge) / 2 + centres[1:3])[None]).max() <= 1
    assert np.abs(image[1:3, 1:3, 1] - ((height - edge) / 2 + centres[1:3])[:, None]).max() <= 1


def test_a_square_of_the_right_size_is_unchanged() -> None:
    assert np.array_equal(decode_square(packed(Image.fromarray(RGB[:, :6])), "x", 6), RGB[:, :6])
    with pytest.raises(ValueError, match="side: got 0, need at least 1"):
        decode_square(packed(Image.fromarray(RGB)), "x", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.png: cannot be read as PNG, JPEG or WebP"),
        (b"no picture", "a.png: cannot be read as PNG, JPEG or WebP"),
        (packed(Image.fromarray(RGB))[:-30], "a.png: cannot be read as PNG, JPEG or WebP"),
        (packed(Image.fromarray(RGB), "JPEG")[:-30], "a.png: cannot be read as PNG, JPEG or WebP .*truncated"),
        (packed(Image.fromarray(RGB), "GIF"), "a.png: cannot be read as PNG, JPEG or WebP"),
        (header(10, 10), "a.png: cannot be read as PNG, JPEG or WebP"),
        (header(11_000, 9_000), "a.png: cannot be read as PNG, JPEG or WebP"),
        (header(20_000, 7_000), "a.png: got 20000 x 7000 pixels, at most 134217728 are read"),
        (header(60_000, 60_000), "a.png: too many pixels"),
        (header(201, 1), "a.png: got 201 x 1 pixels, narrower than 1:200"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(content: bytes, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=message) as caught:
            decode(content, "a.png")
    assert "\n" not in str(caught.value)


def test_damage_anywhere_is_a_line_or_a_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wholes = [packed(Image.fromarray(RGBA), exif=exif), packed(Image.fromarray(RGB), "JPEG", exif=exif)]
    wholes.append(packed(Image.fromarray(RGBA), "WEBP", exif=exif))
    rng = np.random.default_rng(1)
    wholes.append(header(3, 1, 3, b"\0\1\2\3"))  # a palette picture without its palette
    for trial in range(800):
        damaged = bytearray(wholes[trial % 4])
        for place in rng.integers(0, len(damaged), rng.integers(0, 8)):
            damaged[place] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert decode(bytes(damaged), "x").dtype == np.uint8
            except UserError:
                continue
